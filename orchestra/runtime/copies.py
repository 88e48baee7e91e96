"""Ignored files that agents need: taken once from the user's checkout, and given to each new worktree (D15).

They are ignored, so they must never enter git's objects: staging skips them by name, whatever `.gitignore` says later.
Both sides are hostile: no link in a path is followed, neither in the checkout nor in the worktree.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.confined import READING, copy_path, paths_below
from orchestra.runtime.git import Worktree
from orchestra.runtime.notices import Notice, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Place, Repository

INCLUDE_FILE = ".worktreeinclude"
FILE_LIMIT = 100 << 20
TOTAL_LIMIT = 500 << 20
COUNT_LIMIT = 20_000
"""What is copied: bytes each, bytes in all, how many."""

_INCLUDE_LIMIT = 1 << 20
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.EISDIR, errno.EPERM})
_CHANGED = frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENOENT, errno.EACCES})


@dataclass(slots=True)
class _Taken:
    """What was copied so far."""

    names: list[bytes] = field(default_factory=list)
    size: int = 0
    left_out: list[str] = field(default_factory=list)

    def skip(self, name: bytes, reason: str) -> None:
        self.left_out.append(f"{os.fsdecode(name)} ({reason})")


async def take_copies(
    git: GitManager, repo: Repository, globs: Sequence[str], base: str, directory: Path
) -> list[Notice]:
    """Copy ignored files of the user's checkout into a session's directory, and say which.

    What is copied are files that git ignores and that `globs` or the file `.worktreeinclude` at the repository's top
    match, both as in `.gitignore`; `globs` come last, so they have the last word.

    Args:
        git: Starts git.
        repo: The user's repository.
        globs: What the pipeline asks for.
        base: The commit the session starts from; what it holds is there already.
        directory: Where the copies go; made where there are any.

    Raises:
        GitError: `copy-failed`.
    """
    if repo.top is None:
        return []
    include, notices = _read_include(repo, repo.top)
    if include is None and not globs:
        return [*notices, *await _env_hint(git, repo, repo.top)]
    with _failing_clearly(repo):
        patterns = _make_private(directory, include or b"")
    wanted = [f"--exclude-from={patterns}", *(f"--exclude={glob}" for glob in globs)]
    candidates = await _matching(git, repo, wanted)
    ignored = await _ignored(git, repo, candidates)
    taken = _Taken()
    names = await _not_in_commit(git, repo, base, [name for name in candidates if name in ignored], taken)
    with _failing_clearly(repo):
        await _in_thread(partial(_take_all, repo.top, directory, names, taken))
    notices += _said(repo, taken)
    for glob in globs:
        if not glob.startswith("!") and not ignored & set(await _matching(git, repo, [f"--exclude={glob}"])):
            text = f"{repo.name}: `copy: {glob}` matches no file that git ignores"
            notices.append(Notice(text, "copy-unmatched"))
    return notices


async def place_copies(repo: Repository, directory: Path, worktree: Worktree, tracked: frozenset[bytes]) -> None:
    """Put a session's copies into a new worktree, where the commit has nothing in their place.

    Args:
        repo: Whose copies.
        directory: Where the session keeps them.
        worktree: No agent has worked in it yet, so what lies there untracked is from a try that was cut off.
        tracked: The paths of its commit.
    """
    names = [name for name in paths_below(directory) if name not in tracked]
    with _failing_clearly(repo):
        # First the list: staging must know a copy before it is there.
        draft = _list_of(worktree).with_suffix(".draft")
        draft.write_bytes(b"".join(name + b"\0" for name in names))
        draft.replace(_list_of(worktree))
        await _in_thread(partial(_place_all, directory, worktree.path, names))


async def _in_thread(work: Callable[[Event], None]) -> None:
    """Run work beside the event loop; a cancelled one is asked to stop and waited for, so that nobody writes on."""
    stop = Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        raise


def _place_all(directory: Path, top: Path, names: list[bytes], stop: Event) -> None:
    for name in names:
        if stop.is_set():
            return
        try:
            copy_path(directory, top, name, directories=0o777, replace=True)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise


def copied_names(where: Place) -> frozenset[bytes]:
    """Return the paths of copies in a worktree: what no commit may hold."""
    if isinstance(where, Worktree):
        with contextlib.suppress(FileNotFoundError):
            return frozenset(filter(None, _list_of(where).read_bytes().split(b"\0")))
    return frozenset()


def _list_of(worktree: Worktree) -> Path:
    return worktree.git_dir / "orchestra.copied"


@contextlib.contextmanager
def _failing_clearly(repo: Repository) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(repo.top)
        message = f"ignored files of {repo.name!r} can't be copied: {error.strerror} ({place})"
        raise GitError(message, code="copy-failed", hint="mend that, or narrow `copy`") from error


def _read_include(repo: Repository, top: Path) -> tuple[bytes | None, list[Notice]]:
    path = top / INCLUDE_FILE
    try:
        descriptor = os.open(path, READING)
    except FileNotFoundError:
        return None, []
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
        return None, [_not_read(repo, reason)]
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None, [_not_read(repo, "it is no file")]
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        text = file.read(_INCLUDE_LIMIT + 1)
    return (text, []) if len(text) <= _INCLUDE_LIMIT else (None, [_not_read(repo, "it is larger than 1 MiB")])


def _not_read(repo: Repository, reason: str) -> Notice:
    return Notice(f"{repo.name}: {INCLUDE_FILE} is not read: {reason}", "include-unreadable")


async def _env_hint(git: GitManager, repo: Repository, top: Path) -> list[Notice]:
    if not (top / ".env").is_file() or not await _ignored(git, repo, [b".env"]):
        return []
    text = f"{repo.name}: git ignores .env, so agents don't have it; if they need it: `copy: [.env]` in the pipeline"
    return [Notice(text)]


async def _matching(git: GitManager, repo: Repository, patterns: list[str]) -> list[bytes]:
    """Return the untracked files that patterns match; git does not look into repositories that lie inside."""
    output = await git.run(
        repo, "ls-files", "-z", "--others", "--ignored", *patterns, "--", ":/", ":(top,exclude).orchestra"
    )
    return [name for name in output.stdout.split(b"\0") if name and not name.endswith(b"/")]


async def _ignored(git: GitManager, repo: Repository, names: list[bytes]) -> frozenset[bytes]:
    if not names:
        return frozenset()
    output = await git.run(repo, "check-ignore", "-z", "--stdin", input=b"\0".join(names) + b"\0", ok=(0, 1))
    return frozenset(output.stdout.split(b"\0")) - {b""}


async def _not_in_commit(
    git: GitManager, repo: Repository, base: str, names: list[bytes], taken: _Taken
) -> list[bytes]:
    """Leave out what stands in the commit, or would stand below or above one of its files."""
    if not names:
        return []
    listed_names = (await git.run(repo, "ls-tree", "-r", "-z", "--name-only", base)).stdout.split(b"\0")
    files = frozenset(listed_names)
    directories = {above for name in files for above in _above(name)}
    free = []
    for name in names:
        if name in directories or files & {name, *_above(name)}:
            taken.skip(name, "the commit has something there")
        else:
            free.append(name)
    return free


def _above(name: bytes) -> Iterator[bytes]:
    while b"/" in name:
        name = name.rpartition(b"/")[0]
        yield name


def _take_all(top: Path, directory: Path, names: list[bytes], taken: _Taken, stop: Event) -> None:
    for name in sorted(names):
        if stop.is_set():
            return
        reason = _too_much(top, name, taken)
        if reason is None:
            try:
                copy_path(top, directory, name, directories=0o700)
            except OSError as error:
                if error.errno not in _CHANGED:
                    raise
                reason = "unreadable"
        if reason:
            taken.skip(name, reason)
        else:
            taken.names.append(name)


def _too_much(top: Path, name: bytes, taken: _Taken) -> str | None:
    """Say why a file is not copied, or count it."""
    try:
        info = os.lstat(os.path.join(os.fsencode(top), name))  # noqa: PTH118 - bytes
    except OSError:
        return "unreadable"
    if not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
        return "special-file"
    if info.st_size > FILE_LIMIT:
        return "too-large"
    if taken.size + info.st_size > TOTAL_LIMIT:
        return "too-much"
    if len(taken.names) >= COUNT_LIMIT:
        return "too-many"
    taken.size += info.st_size
    return None


def _said(repo: Repository, taken: _Taken) -> list[Notice]:
    notices = []
    if taken.names:
        shown = listed([os.fsdecode(name) for name in taken.names])
        files = "1 ignored file is" if len(taken.names) == 1 else f"{len(taken.names)} ignored files are"
        notices.append(Notice(f"{repo.name}: {files} copied into its worktrees ({_size(taken.size)}): {shown}"))
    if taken.left_out:
        text = f"{repo.name}: not copied: {listed(taken.left_out)}"
        notices.append(Notice(text, "copies-left-out"))
    return notices


def _size(number: int) -> str:
    for unit in ("bytes", "KiB"):
        if number < 1024:  # noqa: PLR2004
            return f"{number} {unit}"
        number //= 1024
    return f"{number} MiB"


def _make_private(directory: Path, include: bytes) -> Path:
    """Make the directory of the copies, and a file of patterns beside it."""
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700)
    patterns = directory.parent / f"{directory.name}.include"
    patterns.touch(mode=0o600)
    patterns.write_bytes(include)
    return patterns
