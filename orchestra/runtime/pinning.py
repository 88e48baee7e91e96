"""What a fork stands on: the commits that its checkpoints name, proven to be whole and kept by its own reference."""

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


async def keep_commits(
    git: GitManager, where: Place, ref: str, base: str, named: Collection[str], *, session: str
) -> None:
    """Keep commits from git's clean-up: those that are there, of all objects that a session's checkpoints name.

    They become the parents of one commit, or of a chain of commits, which a new reference holds.
    """
    asked = "".join(f"{sha}\n" for sha in sorted({base, *named})).encode()
    answers = (await git.run(where, "cat-file", "--batch-check", input=asked)).text.splitlines()
    commits = [parts[0] for answer in answers if (parts := answer.split())[1] == "commit"]
    tree, tip = await git.tree_of(where, base), None
    for start in range(0, len(commits), _PARENTS):
        parents = [*([tip] if tip else []), *commits[start : start + _PARENTS]]
        message = f"What the checkpoints of the session {session} name\n"
        tip = await git.commit_tree(where, tree, parents, message, author=None, date=datetime.now(UTC))
    failpoint("fork-commits-gathered")
    await git.update_refs(where, [RefUpdate(ref, tip, None)])
    failpoint("fork-commits-kept")
