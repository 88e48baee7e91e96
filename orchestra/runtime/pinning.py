"""What a fork stands on: the objects that its checkpoints name, proven to be whole and kept by its own reference."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import RefUpdate

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestra.runtime.git import GitManager, Place

_PARENTS = 200
"""Of one commit that keeps others."""
_MODES = {"blob": "100644", "tree": "040000"}


async def missing_from(git: GitManager, where: Place, commits: Collection[str]) -> str | None:
    """Look for what is not there of some commits and their files; None: they are whole.

    Objects that a partial clone has yet to fetch are not missing. Histories are not walked.
    """
    asked = "".join(f"{commit}\n" for commit in sorted(commits)).encode()
    args = ("rev-list", "--objects", "--no-walk", "--no-object-names", "--missing=allow-promisor", "--stdin")
    try:
        listed = (await git.run(where, *args, input=asked)).stdout
        sizes = await git.run(where, "cat-file", "--batch-check", input=listed)
    except GitError as error:
        if error.code not in {"git-failed", "corrupt-object"}:
            raise
        return error.stderr.strip().removeprefix("fatal: ") or error.message
    # A file of no bytes, as a power failure leaves it, is an object that is there and can't be read.
    return next((line for line in sizes.text.splitlines() if line.endswith(" missing")), None)


async def keep_objects(
    git: GitManager, where: Place, ref: str, base: str, named: Collection[str], *, session: str
) -> None:
    """Keep from git's clean-up what is there of all objects that a session's checkpoints name.

    The commits become the parents of one commit, or of a chain of commits, which a new reference holds. Other objects,
    such as what the index of a conflict names of a merged rename, are in the tree of one parent more.
    """
    asked = "".join(f"{sha}\n" for sha in sorted({base, *named})).encode()
    answers = (await git.run(where, "cat-file", "--batch-check", input=asked)).text.splitlines()
    kinds = {parts[0]: parts[1] for answer in answers if (parts := answer.split())}
    commits = [sha for sha, kind in kinds.items() if kind == "commit"]
    message = f"What the checkpoints of the session {session} name\n"
    entries = "".join(f"{_MODES[kind]} {kind} {sha}\t{sha}\n" for sha, kind in kinds.items() if kind in _MODES)
    if entries:
        loose = (await git.run(where, "mktree", input=entries.encode())).text
        commits.append(await git.commit_tree(where, loose, (), message, author=None, date=datetime.now(UTC)))
    tree, tip = await git.tree_of(where, base), None
    for start in range(0, len(commits), _PARENTS):
        parents = [*([tip] if tip else []), *commits[start : start + _PARENTS]]
        tip = await git.commit_tree(where, tree, parents, message, author=None, date=datetime.now(UTC))
    failpoint("fork-commits-gathered")
    await git.update_refs(where, [RefUpdate(ref, tip, None)])
    failpoint("fork-commits-kept")
