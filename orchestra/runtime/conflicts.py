"""A worktree with an open conflict: real stages in the agent's index, and what of it is not resolved yet.

The agent's index says which paths are resolved, as in any merge, so that plain git works for agents and people alike.
It is theirs: what lies there may be anything. The files themselves are known from snapshots, through Orchestra's own
index, which never holds an unmerged entry.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestra.errors import GitError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.staging import copy_index, lstat, update_index
from orchestra.runtime.worktree import CONFLICT_NOTE, content_of, point_head, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Worktree
    from orchestra.runtime.merges import Conflict, Stage

_SUBMODULE = "160000"
_FILES = frozenset({"100644", "100755"})
_MARKERS = "^(<{7,}|>{7,}|[|]{7,}) "
"""Line starts that only markers have; a lone `=======` underlines headings."""
_AT_ONCE = 250
"""Names or objects on one command line."""
_LARGEST_INDEX = 1 << 30
_LITERAL = {"GIT_LITERAL_PATHSPECS": "1"}


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A path that nobody has resolved."""

    path: str
    reason: Literal["unmerged", "markers", "given-up"]
    """`unmerged`: it was never staged or removed. `markers`: its file still holds them. `given-up`: somebody ended the
    merge, and with it what the other side has changed."""


async def open_conflict(
    git: GitManager,
    worktree: Worktree,
    *,
    ours: str,
    theirs: str,
    conflict: Conflict,
    unmerged: Collection[str] | None = None,
) -> None:
    """Make a worktree look as a stopped `git merge` leaves it; its files are there already, and in the private index.

    Doing it again changes nothing, also after a kill in the middle of it.

    Args:
        git: Starts git.
        worktree: Where the conflict is to be resolved.
        ours: The commit that HEAD shall be at.
        theirs: The commit that is merged.
        conflict: What the two conflict in.
        unmerged: The paths that are not resolved yet; None: all.
    """
    index = _index(worktree)
    open_paths = {stage.path for stage in conflict.stages} & set(
        conflict_paths(conflict) if unmerged is None else unmerged
    )
    point_head(worktree, ours)
    failpoint("conflict-head-set")
    copy_index(worktree.index, index)
    await _put_stages(git, worktree, index, [stage for stage in conflict.stages if stage.path in open_paths])
    failpoint("conflict-staged")
    names = "".join(f"#\t{path}\n" for path in conflict_paths(conflict) if "\n" not in path)
    rewrite(worktree.git_dir / "MERGE_MSG", f"Merge commit '{theirs}'\n\n# Conflicts:\n{names}")
    rewrite(worktree.git_dir / "AUTO_MERGE", f"{conflict.tree}\n")
    rewrite(worktree.git_dir / CONFLICT_NOTE, f"{theirs}\n")
    failpoint("conflict-described")
    rewrite(worktree.git_dir / "MERGE_HEAD", f"{theirs}\n")
    failpoint("conflict-opened")


def conflict_paths(conflict: Conflict) -> tuple[str, ...]:
    """Return the paths that are unmerged at first."""
    return tuple(one.path for one in conflict.paths)


async def _put_stages(git: GitManager, worktree: Worktree, index: Path, stages: Sequence[Stage]) -> None:
    if not stages:
        return
    nothing = "0" * len(stages[0].sha)
    gone = [f"0 {nothing}\t{path}\0" for path in dict.fromkeys(stage.path for stage in stages)]
    put = [f"{stage.mode} {stage.sha} {stage.number}\t{stage.path}\0" for stage in stages]
    lines = os.fsencode("".join(gone + put))
    await git.run(worktree, "update-index", "-z", "--index-info", input=lines, index=index)


async def unmerged_paths(git: GitManager, worktree: Worktree) -> tuple[str, ...]:
    """Return the paths that are unmerged in the agent's index, sorted.

    Raises:
        GitError: `conflict-index-broken`: the index is gone, or no index.
    """
    entries = await _unmerged(git, worktree)
    if entries is None:
        message = f"the index of the worktree {worktree.path} is gone or broken: git can't tell what is unmerged there"
        raise GitError(message, code="conflict-index-broken", hint=f"look: git -C '{worktree.path}' status")
    return tuple(sorted(entries))


async def mark_resolved(git: GitManager, worktree: Worktree, paths: Sequence[str]) -> None:
    """Stage paths of the worktree as they are now, present or gone; those that are not unmerged are left alone.

    A path that both sides moved away, and that is not there, is settled along with any other: there is nothing to
    decide about it. A submodule that is not checked out stays unmerged: its directory says nothing.
    """
    entries = await _unmerged(git, worktree) or {}
    wanted = [path for path in dict.fromkeys(paths) if path in entries]
    if not wanted:
        return
    present, gone = [], [path for path in entries if path not in wanted and _is_settled(worktree, path, entries)]
    for path in wanted:
        info = _look(worktree.path, path)
        if info is not None and (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
            present.append(path)
        elif info is None or not stat.S_ISDIR(info.st_mode) or _SUBMODULE not in entries[path].values():
            gone.append(path)
        elif lstat(os.fsencode(worktree.path / path / ".git")):
            present.append(path)
    index = _index(worktree)
    await update_index(git, worktree, index, ("--force-remove",), [os.fsencode(path) for path in gone])
    failpoint("conflict-paths-removed")
    await update_index(
        git, worktree, index, ("--add", "--remove", "--replace"), [os.fsencode(path) for path in present]
    )
    failpoint("conflict-paths-marked")


async def adopt_submodules(git: GitManager, worktree: Worktree, conflict: Conflict) -> None:
    """Take over which commits of conflicted submodules the agent's index names, for they are in no file.

    To be called before the snapshot that ends the resolution. A submodule that is checked out needs it not: its
    directory tells.
    """
    paths = [one.path for one in conflict.paths if one.kind == "submodule"]
    if not paths or not _is_index(_index(worktree)):
        return
    async with git.exclusive(worktree.index):
        mine, theirs = [await _submodules(git, worktree, index, paths) for index in (worktree.index, _index(worktree))]
        lines = []
        for path in paths:
            found = theirs.get(path)
            info = _look(worktree.path, path)
            if found != mine.get(path) and (info is None or stat.S_ISDIR(info.st_mode)) and found != "":
                width = len(conflict.tree)
                lines.append(f"{_SUBMODULE} {found}\t{path}\0" if found else f"0 {'0' * width}\t{path}\0")
        if lines:
            git.index_trees.pop(worktree.index, None)
            text = os.fsencode("".join(lines))
            await git.run(worktree, "update-index", "-z", "--index-info", input=text, index=worktree.index)
    failpoint("conflict-submodules-adopted")


async def _submodules(git: GitManager, worktree: Worktree, index: Path, paths: Sequence[str]) -> dict[str, str]:
    """Return the commits that an index names, by path; an empty one where it has something else there."""
    found: dict[str, str] = {}
    for some in _portions(paths):
        listed = await git.run(worktree, "ls-files", "-s", "-z", "--", *some, index=index, env=_LITERAL)
        for line in filter(None, os.fsdecode(listed.stdout).split("\0")):
            about, _, path = line.partition("\t")
            mode, sha, number = about.split(" ")
            found[path] = sha if mode == _SUBMODULE and number == "0" else ""
    return found


async def unresolved(git: GitManager, worktree: Worktree, conflict: Conflict, tree: str) -> tuple[Unresolved, ...]:
    """Return what of a conflict is not resolved, where the files are those of a tree; to be asked before HEAD is moved.

    All of it, where the agent's index is gone or broken, and where the merge was given up (`git merge --abort`,
    `git reset`): an index without unmerged entries says nothing then, and the other side's clean changes are gone, too.

    Args:
        git: Starts git.
        worktree: Where it is being resolved.
        conflict: What conflicted.
        tree: The files now.
    """
    paths = conflict_paths(conflict)
    if await is_given_up(git, worktree):
        return tuple(Unresolved(path, "given-up") for path in paths)
    entries = await _unmerged(git, worktree)
    if entries is None:
        return tuple(Unresolved(path, "unmerged") for path in paths)
    files = await _files(git, worktree, tree, paths)
    left = [path for path in entries if path in files or not _is_settled(worktree, path, entries)]
    marked = await _with_markers(
        git, worktree, conflict, {path: sha for path, sha in files.items() if path not in left}
    )
    found = [Unresolved(path, "unmerged") for path in left] + [Unresolved(path, "markers") for path in marked]
    if not files.keys() >= set(paths):  # it may have been moved, with all that is in it
        found += [Unresolved(path, "markers") for path in await _added_with_markers(git, worktree, conflict.tree, tree)]
    return tuple(sorted(found, key=lambda one: one.path))


async def is_given_up(git: GitManager, worktree: Worktree) -> bool:
    """Tell whether somebody ended the merge without a commit that holds the other side."""
    theirs = content_of(worktree.git_dir / CONFLICT_NOTE)
    if theirs is None or content_of(worktree.git_dir / "MERGE_HEAD") == theirs:
        return False
    head = await git.read_ref(worktree, "HEAD^{commit}")
    return head is None or not await git.holds(worktree, head, [theirs])


def give_up(worktree: Worktree) -> None:
    """Let a merge be one that somebody has ended, as it was before its files were put back."""
    (worktree.git_dir / "MERGE_HEAD").unlink(missing_ok=True)


def _is_settled(worktree: Worktree, path: str, entries: Mapping[str, Mapping[int, str]]) -> bool:
    """Tell whether both sides have moved a file away, and none is there: `git status` calls it deleted by both."""
    return set(entries[path]) == {1} and _look(worktree.path, path) is None


async def _with_markers(
    git: GitManager, worktree: Worktree, conflict: Conflict, files: Mapping[str, str]
) -> Iterator[str]:
    """Return the conflicted paths whose files have more marker lines than each of the sides had."""
    kinds = {one.path: one.kind for one in conflict.paths}
    before: dict[str, set[str]] = {}
    for stage in conflict.stages:
        # Of two renames git writes what it merged, with its markers, as the stages of the sides.
        counted = stage.number == 1 if kinds[stage.path] == "rename/rename" else stage.number != 1
        if counted and stage.mode in _FILES:
            before.setdefault(stage.path, set()).add(stage.sha)
    renamed = {sha for path, found in before.items() if kinds[path] == "rename/rename" for sha in found}
    asked = {path: sha for path, sha in files.items() if path in kinds}
    counts = await _count_markers(
        git, worktree, {*asked.values(), *renamed, *(sha for s in before.values() for sha in s)}
    )

    def most(path: str) -> int:
        sides = renamed if kinds[path] == "rename/rename" else before.get(path, set())
        return max((counts.get(sha, 0) for sha in sides), default=0)

    return (path for path, sha in asked.items() if counts.get(sha, 0) > most(path))


async def _added_with_markers(git: GitManager, worktree: Worktree, before: str, after: str) -> list[str]:
    """Return the files that are new since the conflict was laid out and hold markers."""
    args = ("diff-tree", "-r", "-z", "--no-renames", "--diff-filter=A", before, after)
    fields = os.fsdecode((await git.run(worktree, *args)).stdout).split("\0")
    about = {path: line.split(" ") for line, path in zip(fields[::2], fields[1::2], strict=False)}
    added = {path: parts[3] for path, parts in about.items() if parts[1] in _FILES}
    counts = await _count_markers(git, worktree, set(added.values()))
    return [path for path, sha in added.items() if counts.get(sha, 0)]


async def _count_markers(git: GitManager, worktree: Worktree, blobs: Collection[str]) -> dict[str, int]:
    """Count the marker lines of blobs; git reads them, so that a file of any size costs us no memory."""
    counts: dict[str, int] = {}
    for some in _portions(sorted(blobs)):
        args = ("grep", "-c", "-z", "-a", "-E", "--no-textconv", "--no-color", "-e", _MARKERS, *some)
        fields = (await git.run(worktree, *args, ok=(0, 1), index=worktree.index)).text.replace("\n", "\0").split("\0")
        counts |= {sha: int(count) for sha, count in zip(fields[::2], fields[1::2], strict=False)}
    return counts


async def _files(git: GitManager, worktree: Worktree, tree: str, paths: Sequence[str]) -> dict[str, str]:
    """Return those of the paths that are files in a tree, with their blobs."""
    found: dict[str, str] = {}
    for some in _portions(paths):
        output = await git.run(worktree, "ls-tree", "-z", "--full-tree", tree, "--", *some, env=_LITERAL)
        for line in filter(None, os.fsdecode(output.stdout).split("\0")):
            about, _, path = line.partition("\t")
            mode, _, sha = about.split(" ")
            if mode in _FILES:
                found[path] = sha
    return found


async def _unmerged(git: GitManager, worktree: Worktree) -> dict[str, dict[int, str]] | None:
    """Return the modes of unmerged entries by path and stage; None: the agent has no index that git can read."""
    index = _index(worktree)
    if not _is_index(index):
        return None
    try:
        output = await git.run(worktree, "ls-files", "-u", "-z", index=index)
    except GitError as error:
        if error.code == "git-failed":  # it reads nothing but the index
            return None
        raise
    entries: dict[str, dict[int, str]] = {}
    for line in filter(None, os.fsdecode(output.stdout).split("\0")):
        about, _, path = line.partition("\t")
        mode, _, number = about.split(" ")
        entries.setdefault(path, {})[int(number)] = mode
    # Git writes no such names, and takes none; someone else may have written the index.
    return None if any({"", ".", ".."} & set(path.split("/")) for path in entries) else entries


def _is_index(index: Path) -> bool:
    """Tell whether a file is a whole index.

    Git takes no file for an empty index, some that were cut short for whole ones, and waits for a pipe.
    """
    try:
        descriptor = os.open(index, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            info = os.fstat(descriptor)
            data = file.read() if stat.S_ISREG(info.st_mode) and info.st_size <= _LARGEST_INDEX else b""
    except OSError:
        return False
    return any(_ends_in_checksum(data, kind) for kind in (hashlib.sha1, hashlib.sha256))


def _ends_in_checksum(data: bytes, kind: Callable[[bytes], hashlib._Hash]) -> bool:
    """Tell whether an index ends in its checksum, or in none: with `index.skipHash` git writes zeros."""
    size = kind(b"").digest_size
    return len(data) > size and data[-size:] in {kind(data[:-size]).digest(), bytes(size)}


def _look(top: Path, path: str) -> os.stat_result | None:
    """Look at a path as git does, which goes through no link."""
    parts = path.split("/")
    for length in range(1, len(parts)):
        info = lstat(os.fsencode(top.joinpath(*parts[:length])))
        if info is None or not stat.S_ISDIR(info.st_mode):
            return None
    return lstat(os.fsencode(top / path))


def _portions(items: Sequence[str]) -> Iterator[Sequence[str]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


def _index(worktree: Worktree) -> Path:
    return worktree.git_dir / "index"
