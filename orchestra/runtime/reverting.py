"""Putting a checkout back to what it was before files were written into it, whatever was written and changed since."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.git import OWN_LIMIT
from orchestra.runtime.obstacles import adopt_equal, in_the_way
from orchestra.runtime.restore import read_plain
from orchestra.runtime.staging import copy_index, seed_index, stage, top_of
from orchestra.runtime.tree_changes import LINK, SUBMODULE, changes_between, entries_of, put_entries

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Repository
    from orchestra.runtime.tree_changes import Change, Entry

_PATIENCE = 1800.0
"""Seconds that writing files may take."""
AS_MEANT = {"GIT_LFS_SKIP_SMUDGE": "0"}
"""The files are for a person here, who wants what LFS points at."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How the files of a checkout stand between two commits, where these differ."""

    tree: str
    """The files as they are."""
    new: tuple[Change, ...]
    """The paths that are those of the second commit, or half of it: git was writing them."""
    old: tuple[Change, ...]
    """The paths that are those of the first one."""
    foreign: tuple[str, ...]
    """The paths that are neither: somebody has changed them."""
    is_complete: bool
    """Whether all are those of the second commit."""


async def switch(git: GitManager, repo: Repository, index: Path, before: str, after: str) -> None:
    """Let git write into a checkout what differs between two trees, through a private index; the user's stays.

    Git refuses before it touches anything where a file is not what that index knows.

    Raises:
        GitError: `apply-raced`: a file was changed meanwhile, and nothing was written. Else it may be half written.
    """
    git.index_trees.pop(index, None)
    known = git.overrides.get(repo.common_dir, {})
    # With its rules git would leave out changes of files outside a sparse checkout; so they come into being.
    git.overrides[repo.common_dir] = {**known, "core.sparseCheckout": "false"}
    try:
        args = ("read-tree", "-m", "-u", before, after)
        await git.run(repo, *args, index=index, env=AS_MEANT, timeout=_PATIENCE)
    except GitError as error:
        if "not uptodate" not in error.stderr and "would be overwritten" not in error.stderr:
            raise
        raced = GitError(
            f"files in {repo.top} changed meanwhile",
            command=error.command,
            stderr=error.stderr,
            code="apply-raced",
            hint="end what writes there, then run the same command again",
        )
        raced.exit_code = 2  # nothing was done
        raise raced from error
    finally:
        git.overrides[repo.common_dir] = known


async def look(git: GitManager, repo: Repository, scratch: Path, before: str, after: str) -> Standing:
    """Compare a checkout with two commits, at the paths in which these differ.

    Args:
        git: Starts git.
        repo: The user's repository.
        scratch: A directory for a private index, which then knows the files as they are.
        before: The first commit.
        after: The second one.
    """
    index = scratch / "index"
    await seed_index(git, repo, index)
    tree = (await stage(git, repo, index)).tree
    changes = await changes_between(git, repo, before, after)
    # The result itself may have git ignore files that it adds.
    added = [change for change in await changes_between(git, repo, tree, after) if change.old is None]
    known = {change.path for change in changes}
    tree = await adopt_equal(git, repo, index, [change for change in added if change.path in known]) or tree
    found = await entries_of(git, repo, tree)
    old = [change for change in changes if found.get(change.path) == change.old]
    new = [change for change in changes if found.get(change.path) == change.new]
    rest = [change for change in changes if found.get(change.path) not in (change.old, change.new)]
    half = [change for change in rest if await _is_half_written(git, repo, change, found.get(change.path))]
    foreign = tuple(os.fsdecode(change.path) for change in rest if change not in half)
    return Standing(tree, (*new, *half), tuple(old), foreign, is_complete=len(new) == len(changes))


async def put_back(git: GitManager, repo: Repository, scratch: Path, before: str, after: str) -> list[str]:
    """Put the files back that a switch between two commits has written, or was writing.

    Args:
        git: Starts git.
        repo: The user's repository.
        scratch: A directory for private indexes.
        before: The commit to go back to.
        after: The commit that was being written.

    Returns:
        The paths that somebody has changed since; they are left alone.
    """
    standing = await look(git, repo, scratch, before, after)
    index, foreign = scratch / "index", list(standing.foreign)
    backwards: dict[bytes, Entry | None] = {change.path: change.old for change in standing.new}
    while True:
        draft = scratch / "draft"
        copy_index(index, draft)
        wanted = await put_entries(git, repo, draft, backwards)
        changes = await changes_between(git, repo, standing.tree, wanted)
        blocked = await in_the_way(git, repo, index, changes)
        stopped = [path for path in backwards if any(_clash(path, name.rstrip(b"/")) for name in blocked)]
        if not stopped:
            break
        foreign += [os.fsdecode(path) for path in stopped]
        backwards = {path: entry for path, entry in backwards.items() if path not in stopped}
    if standing.tree != wanted:
        await switch(git, repo, index, standing.tree, wanted)
    return sorted(foreign)


def _clash(path: bytes, other: bytes) -> bool:
    return path == other or path.startswith(other + b"/") or other.startswith(path + b"/")


async def _is_half_written(git: GitManager, repo: Repository, change: Change, found: Entry | None) -> bool:
    """Tell whether a file is what git leaves when it is killed: none, where it has removed the old one; or a part.

    It may have been writing the new one, or, when it was put back before, the old one.
    """
    if found is None:
        return True
    path = os.fsdecode(change.path)
    written = read_plain(top_of(repo) / path, OWN_LIMIT)
    if written is None:
        return False
    for entry in (change.old, change.new):
        if entry is not None and entry.mode not in (LINK, SUBMODULE):
            whole = await git.run(repo, "cat-file", "--filters", f"--path={path}", entry.sha, env=AS_MEANT)
            if whole.stdout.startswith(written):
                return True
    return False
