"""What stands in the way of a result in a checkout: found before anything is written.

Git overwrites files that it ignores without a word, puts directories in the place of links, and writes into other
repositories that lie below (D14). A result is what agents wrote, so its paths are hostile input, too.
"""

from __future__ import annotations

import os
import posixpath
import stat
from typing import TYPE_CHECKING

from orchestra.errors import Problem
from orchestra.runtime.notices import listed
from orchestra.runtime.repository import OWN_DIRECTORY
from orchestra.runtime.restore import files_at
from orchestra.runtime.staging import lstat, top_of
from orchestra.runtime.tree_changes import LINK, SUBMODULE, put_entries
from orchestra.tools.confinement import is_git_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Repository
    from orchestra.runtime.tree_changes import Change, Entry

_SHOWN = 20


async def find_obstacles(
    git: GitManager, repo: Repository, index: Path, changes: Sequence[Change], *, session: str
) -> list[Problem]:
    """Return every reason why these changes can't be written to a checkout.

    Args:
        git: Starts git.
        repo: The user's repository.
        index: A private index that knows the files as they are.
        changes: What would be written.
        session: The session's id, for the hints.
    """
    branch = f"orchestra apply {session} --repo {repo.name} --branch NAME"
    found = [
        (
            "apply-unsafe-path",
            "the result changes paths that no session may write",
            [change.path for change in changes if _is_unsafe(change.path)],
            f"look at it: {branch}",
        ),
        (
            "apply-submodule",
            "the result moves submodules, which a checkout can't hold as an uncommitted change",
            [change.path for change in changes if SUBMODULE in _modes(change)],
            f"make a branch of it: {branch}",
        ),
        (
            "apply-in-the-way",
            "files that git ignores or does not know would be overwritten",
            await in_the_way(git, repo, index, changes),
            "move them away, or make a branch of the result: " + branch,
        ),
        (
            "apply-sparse",
            "the result deletes files outside of your sparse checkout, which it could not show",
            await _deleted_unseen(git, repo, index, changes),
            f"`git sparse-checkout add DIRECTORY`, or make a branch of it: {branch}",
        ),
        (
            "apply-case-clash",
            "files would differ in the case of their names alone, which this file system can't hold",
            await _case_clashes(git, repo, index, changes),
            f"make a branch of it: {branch}",
        ),
    ]
    return [
        Problem(code, f"the repo {repo.name!r}: {message}: {_named(paths)}", hint=hint)
        for code, message, paths, hint in found
        if paths
    ]


def _named(paths: Iterable[bytes]) -> str:
    return listed([repr(os.fsdecode(path)) for path in paths], _SHOWN)


def _modes(change: Change) -> set[str]:
    return {entry.mode for entry in (change.old, change.new) if entry}


def _is_unsafe(path: bytes) -> bool:
    """Tell whether a path could change a repository, a session, or a file elsewhere; git refuses most of them, too."""
    parts = os.fsdecode(path).split("/")
    return path.startswith(OWN_DIRECTORY) or any(part in {"", ".", ".."} or is_git_name(part) for part in parts)


async def in_the_way(git: GitManager, repo: Repository, index: Path, changes: Iterable[Change]) -> list[bytes]:
    """Return the files that are in no commit and would be gone, and other repositories that would be entered."""
    written = [change.path for change in changes if change.new and not _is_unsafe(change.path)]
    if not written:
        return []
    tracked = frozenset((await git.run(repo, "ls-files", "-z", index=index)).stdout.split(b"\0"))
    top = top_of(repo)
    found = {name for path in written for name in files_at(top, path, tracked)}
    found.update(inner for path in written for inner in _repositories_above(top, path))
    return sorted(found)


def _repositories_above(top: Path, path: bytes) -> list[bytes]:
    """Return the directories above a path that are repositories of their own."""
    parts = path.split(b"/")
    above = (b"/".join(parts[:length]) for length in range(1, len(parts)))
    return [one + b"/" for one in above if lstat(os.path.join(os.fsencode(top), one, b".git"))]  # noqa: PTH118 - bytes


async def _deleted_unseen(git: GitManager, repo: Repository, index: Path, changes: Sequence[Change]) -> list[bytes]:
    gone = {change.path for change in changes if change.new is None}
    if not gone:
        return []
    listing = (await git.run(repo, "ls-files", "-t", "-z", index=index)).stdout.split(b"\0")
    return sorted(gone.intersection(line[2:] for line in listing if line[:1] == b"S"))


async def _case_clashes(git: GitManager, repo: Repository, index: Path, changes: Sequence[Change]) -> list[bytes]:
    added = {change.path for change in changes if change.old is None}
    answer = await git.run(repo, "config", "--type=bool", "--get", "core.ignorecase", ok=(0, 1)) if added else None
    if answer is None or answer.text != "true":
        return []
    known = set((await git.run(repo, "ls-files", "-z", index=index)).stdout.split(b"\0"))
    known -= {change.path for change in changes if change.new is None}
    by_folded: dict[str, set[bytes]] = {}
    for path in known | added:
        by_folded.setdefault(os.fsdecode(path).casefold(), set()).add(path)
    return sorted(path for path in added if len(by_folded[os.fsdecode(path).casefold()]) > 1)


async def adopt_equal(git: GitManager, repo: Repository, index: Path, changes: Sequence[Change]) -> str | None:
    """Take ignored files into the private index that are just what the result has at their paths.

    So they are in nobody's way, and what was applied once is found to be there. No content is stored: it is there.

    Returns:
        The tree of the index then; None: there was none.
    """
    top = top_of(repo)
    equal: dict[bytes, Entry | None] = {}
    for change in changes:
        if change.new and change.old is None and not _is_unsafe(change.path):
            info = lstat(os.path.join(os.fsencode(top), change.path))  # noqa: PTH118 - bytes
            if info and files_at(top, change.path, frozenset()) == [change.path] and _mode(info) == change.new.mode:
                made = await git.run(repo, "hash-object", "--", os.fsdecode(change.path))
                if made.text == change.new.sha:
                    equal[change.path] = change.new
    if not equal:
        return None
    tree = await put_entries(git, repo, index, equal)
    # What was put in has no file's size and time yet, without which git would take it for changed.
    await git.run(repo, "update-index", "-q", "--refresh", index=index, ok=(0, 1))
    return tree


def _mode(info: os.stat_result) -> str | None:
    """Return git's mode of a plain file."""
    if not stat.S_ISREG(info.st_mode):
        return None
    return "100755" if info.st_mode & stat.S_IXUSR else "100644"


async def links_out(git: GitManager, repo: Repository, changes: Iterable[Change]) -> Mapping[str, str]:
    """Return the links that lead out of the checkout, each with its target; git writes them, and so do we."""
    found = {}
    for change in changes:
        if change.new and change.new.mode == LINK:
            target = os.fsdecode((await git.run(repo, "cat-file", "blob", change.new.sha)).stdout)
            path = os.fsdecode(change.path)
            resolved = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if target.startswith("/") or resolved.split("/")[0] == "..":
                found[path] = target
    return found
