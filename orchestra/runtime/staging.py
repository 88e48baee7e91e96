"""Files to a tree, through a private index: no index, HEAD, branch or stash of anybody is written."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.copies import copied_names
from orchestra.runtime.git import Worktree
from orchestra.runtime.git_errors import explain
from orchestra.runtime.repository import OWN_DIRECTORY, STATUS, DirtyState, count, read_status

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Place
    from orchestra.runtime.repository import Entry

FILE_LIMIT = 25 << 20
TOTAL_LIMIT = 250 << 20
COUNT_LIMIT = 20_000
"""What of the untracked files a snapshot takes: bytes each, bytes in all, how many (D6)."""

_RETRYABLE = frozenset({"git-failed", "corrupt-object", "git-locked"})


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that a snapshot does not hold."""

    path: str
    reason: str
    """`nested-repo`, `too-large`, `too-much`, `too-many`, `unreadable`, `special-file` or `copied`."""


@dataclass(frozen=True, slots=True)
class Staged:
    """The files as a tree."""

    tree: str
    skipped: tuple[Skipped, ...]
    dirty: DirtyState
    """How the files differ from HEAD and from what the index held before."""


async def stage(git: GitManager, where: Place, index: Path) -> Staged:
    """Bring a private index up to the files and write its tree.

    A file may change while this reads it, blobs that only a private index names may be pruned by the user's `gc`, and
    a git that was killed leaves the lock of the private index; so a failure is answered once with a fresh index.
    """
    try:
        return await _stage(git, where, index)
    except GitError as error:
        if error.code not in _RETRYABLE:
            raise
        await seed_index(git, where, index)
        return await _stage(git, where, index)


async def seed_index(git: GitManager, where: Place, index: Path) -> None:
    """Make a private index in which nothing is hidden from a snapshot, and nothing is that must be in none.

    Of a checkout it is a copy of the user's. Of a worktree it is made from the commit that Orchestra knows it by: the
    agent's own index may name whatever it has added.
    """
    git.index_trees.pop(index, None)
    commit = _known_commit(where)
    if commit is None:
        copy_index(where.git_dir / "index", index)
        await _show_hidden(git, where, index)
    else:
        # As one step: where the index lacks, the worktree is taken for half made, and its files for nobody's work.
        draft = index.with_name(index.name + ".draft")
        _remove_index(draft)
        await git.run(where, "read-tree", commit, index=draft)
        index_lock(index).unlink(missing_ok=True)
        draft.replace(index)
    await update_index(git, where, index, ("--force-remove",), sorted(copied_names(where)))


def _known_commit(where: Place) -> str | None:
    if isinstance(where, Worktree):
        with contextlib.suppress(OSError):
            return where.known_head.read_text(encoding="ascii", errors="replace").strip() or None
    return None


def _remove_index(index: Path) -> None:
    index_lock(index).unlink(missing_ok=True)
    index.unlink(missing_ok=True)


def copy_index(source: Path, target: Path) -> None:
    """Copy an index as one step, with its time: git tells by it which files may have changed unseen since."""
    index_lock(target).unlink(missing_ok=True)
    if not source.exists():
        _remove_index(target)
        return
    draft = target.with_name(target.name + ".draft")
    shutil.copy2(source, draft)
    draft.replace(target)


def index_lock(index: Path) -> Path:
    """Return the lock file that git uses for an index."""
    return index.with_name(index.name + ".lock")


async def _stage(git: GitManager, where: Place, index: Path) -> Staged:
    known = _known_tree(git, index)
    # The private index may be refreshed by the reading command, hence the lock that is otherwise off.
    output = await git.run(where, *STATUS, index=index, env={"GIT_OPTIONAL_LOCKS": "1"})
    if b"could not open directory" in output.stderr and b"Permission denied" not in output.stderr:
        # Git goes on without what it could not list, and the snapshot would lack files.
        raise explain(STATUS, output.returncode, output.stderr.decode(errors="replace"), top_of(where))
    entries = list(read_status(output.stdout))
    plan = _plan(where, entries)
    if known is None or plan.present or plan.gone:
        # Removals come first: a directory may have become a link, and git takes no path beyond a link.
        await update_index(git, where, index, ("--force-remove",), plan.gone)
        await update_index(git, where, index, ("--add", "--remove", "--replace"), plan.present)
        known = (await git.run(where, "write-tree", index=index)).text
    git.index_trees[index] = known, _look(index)
    return Staged(known, tuple(plan.skipped), count(entries))


def _known_tree(git: GitManager, index: Path) -> str | None:
    """Take what is known of an index; another process may have driven the session since, so its file must be the same.

    It is forgotten at once, and known again only when the snapshot has come to its end.
    """
    tree, look = git.index_trees.pop(index, (None, None))
    return tree if look == _look(index) else None


def _look(index: Path) -> tuple[int, int, int] | None:
    try:
        info = index.stat()
    except OSError:
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns


@dataclass(slots=True)
class _Plan:
    present: list[bytes] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    untracked_bytes: int = 0
    untracked_files: int = 0

    def skip(self, path: bytes, reason: str) -> None:
        self.skipped.append(Skipped(os.fsdecode(path), reason))


def _plan(where: Place, entries: list[Entry]) -> _Plan:
    """Decide for each path that differs from the index whether it is taken, removed or skipped."""
    top = os.fsencode(top_of(where))
    mine = isinstance(where, Worktree)
    copied = copied_names(where)
    plan = _Plan()
    for entry in entries:
        if entry.change == "?" and entry.path in copied:
            plan.skip(entry.path, "copied")  # an agent changed .gitignore
        elif entry.change == "?":
            if mine or not entry.path.startswith(OWN_DIRECTORY):
                _plan_untracked(plan, entry.path, os.path.join(top, entry.path))  # noqa: PTH118 - bytes
        elif entry.change != ".":
            _plan_tracked(plan, entry, os.path.join(top, entry.path))  # noqa: PTH118
    return plan


def _plan_tracked(plan: _Plan, entry: Entry, path: bytes) -> None:
    info = None if entry.change == "D" else lstat(path)
    if info is None:
        plan.gone.append(entry.path)
    elif stat.S_ISREG(info.st_mode) and not os.access(path, os.R_OK):
        plan.skip(entry.path, "unreadable")
    elif _is_special(info):
        plan.gone.append(entry.path)
        plan.skip(entry.path, "special-file")
    else:
        plan.present.append(entry.path)


def _plan_untracked(plan: _Plan, name: bytes, path: bytes) -> None:
    info = lstat(path)
    if name.endswith(b"/"):
        plan.skip(name, "nested-repo")
    elif info is None:
        return
    elif _is_special(info):
        plan.skip(name, "special-file")
    elif info.st_size > FILE_LIMIT:
        plan.skip(name, "too-large")
    elif plan.untracked_bytes + info.st_size > TOTAL_LIMIT:
        plan.skip(name, "too-much")
    elif plan.untracked_files >= COUNT_LIMIT:
        plan.skip(name, "too-many")
    elif stat.S_ISREG(info.st_mode) and not os.access(path, os.R_OK):
        plan.skip(name, "unreadable")
    else:
        plan.untracked_bytes += info.st_size
        plan.untracked_files += 1
        plan.present.append(name)


def lstat(path: bytes) -> os.stat_result | None:
    """Look at a path and not through a link; None: there is nothing that can be looked at."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def _is_special(info: os.stat_result) -> bool:
    return not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode) or stat.S_ISDIR(info.st_mode))


def top_of(where: Place) -> Path:
    """Return the directory of a place's files."""
    top = where.path if isinstance(where, Worktree) else where.top
    if top is None:
        raise GitError(f"the repository {where.git_dir} is bare: it has no files", code="bare-repository")
    return top


async def update_index(git: GitManager, where: Place, index: Path, how: tuple[str, ...], paths: list[bytes]) -> None:
    """Update the entries of paths in an index; not a process where there are none."""
    if paths:
        names = b"".join(path + b"\0" for path in paths)
        await git.run(where, "update-index", *how, "-z", "--stdin", input=names, index=index)


async def _show_hidden(git: GitManager, where: Place, index: Path) -> None:
    """Undo assume-unchanged, and skip-worktree of files that are there: both hide changes.

    Files outside a sparse checkout keep their mark, or they would look deleted.
    """
    output = await git.run(where, "ls-files", "-v", "-z", index=index)
    marked = [(line[:1], line[2:]) for line in output.stdout.split(b"\0") if line and line[:1] != b"H"]
    top = os.fsencode(top_of(where))
    assumed = [path for tag, path in marked if tag.islower()]
    skipped = [path for tag, path in marked if tag in b"sS" and lstat(os.path.join(top, path))]  # noqa: PTH118
    # One call takes only one of the two options (D5).
    await update_index(git, where, index, ("--no-assume-unchanged",), assumed)
    await update_index(git, where, index, ("--no-skip-worktree",), skipped)
