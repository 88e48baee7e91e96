"""Making a session so that there is all of it or nothing: what fails is undone, what a kill left is swept by the next.

A session is there when its database is. Before that its directory holds a note of the repositories in which it may
have pinned a base, so that a later process finds them.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import secrets
import shutil
import sqlite3
import stat
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import GitError, OrchestraError, SessionBusyError, SessionError
from orchestra.runtime.driver_lock import DriverLock, try_flock
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import GitManager
from orchestra.runtime.machine import database_error, machine_error
from orchestra.runtime.snapshots import remove_scratch
from orchestra.runtime.store import STATE_DIRECTORY, SessionFiles, sessions_directory
from orchestra.runtime.workspace import unpin
from orchestra.runtime.worktree import ignore_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_LENGTH = 8

_NOTE = "making.json"
_EMPTY = frozenset({"lock", "children.lock", "inbox"})
_UNFINISHED = _EMPTY | {"pipeline", "copies", _NOTE, "session.db.new"}
"""All that a directory may hold to be taken for a session that was not finished; SQLite's companions beside it."""
_GONE = frozenset({"repo-path-missing", "not-a-repository"})
_PATIENCE = 5.0
"""Seconds for what one killed process left."""
_LOOK_AGAIN = 0.02


@asynccontextmanager
async def session_in_the_making(root: Path, repos: Iterable[Path]) -> AsyncIterator[tuple[SessionFiles, DriverLock]]:
    """Give a new session's directory and its lock; when the body fails, they are gone and so are its bases.

    After a body that ended well the session is there, and the caller holds the lock.

    Args:
        root: The project.
        repos: The repositories in which the body pins bases.

    Raises:
        SessionError: Sessions can't be kept there.
    """
    parent = _usable(root)
    async with _nobody_sweeps(parent):
        files = _new_directory(parent)
        lock = DriverLock(files)
        paths = [os.fspath(path) for path in repos]
        try:
            files.inbox.mkdir(mode=0o700)
            lock.acquire()
            (files.directory / _NOTE).write_text(json.dumps({"repos": paths}), encoding="utf-8")
            failpoint("session-directory-made")
            yield files, lock
            (files.directory / _NOTE).unlink()
        except BaseException as error:
            named = _named(error, files)  # before there is space again
            await _undo(files, lock)
            lock.release()
            if named is None:
                raise
            named.exit_code = 2  # nothing was started
            if named is error:
                raise
            raise named from error


@contextmanager
def nothing_started() -> Iterator[None]:
    """Have errors say by their exit code that nothing was started."""
    try:
        yield
    except OrchestraError as error:
        error.exit_code = 2
        raise


async def sweep(root: Path) -> None:
    """Remove what processes left behind that were killed while they made a session; whatever is in doubt stays."""
    parent = sessions_directory(root)
    if not parent.is_dir():
        return
    with _alone(parent) as alone:
        for directory in sorted(parent.iterdir()) if alone else ():
            if not is_unfinished(directory):
                continue
            lock = DriverLock(SessionFiles(directory))
            # Its git may still be at work, or another git hold a lock that it would be waited for; it can wait.
            with suppress(SessionBusyError, SessionError, OSError, TimeoutError):
                lock.acquire()
                try:
                    async with asyncio.timeout(_PATIENCE):
                        await _undo(SessionFiles(directory), lock)
                finally:
                    lock.release()


async def _undo(files: SessionFiles, lock: DriverLock) -> None:
    """Let the bases go, then the directory, which stays where that fails: nobody else would know of them."""
    paths: list[str] = []
    with suppress(OSError, ValueError, LookupError, TypeError):
        noted = json.loads((files.directory / _NOTE).read_text(encoding="utf-8"))["repos"]
        paths = [path for path in noted if isinstance(path, str) and path.startswith("/")]
    with suppress(RuntimeError):  # there was no lock yet, and nothing was pinned
        git = GitManager(lock_fds=[lock.fd], session=files.session_id)
        for path in paths:
            try:
                repo = await git.open("repo", Path(path), judge=False)
                await unpin(git, repo, files.session_id)
            except GitError as error:
                if error.code not in _GONE:
                    return
                continue
            remove_scratch(repo, files.session_id)
    shutil.rmtree(files.directory, ignore_errors=True)


def is_unfinished(directory: Path) -> bool:
    """Tell whether a directory holds nothing but what a session in the making has; then a sweep may remove it."""
    if directory.is_symlink() or not directory.is_dir() or len(directory.name) != ID_LENGTH:
        return False
    info = directory.stat()
    if stat.S_IMODE(info.st_mode) != 0o700 or info.st_uid != os.geteuid():  # noqa: PLR2004 - as it is made
        return False  # not made by us: a repository may hold such a directory
    names = {
        entry.name.removesuffix("-wal").removesuffix("-shm").removesuffix("-journal") for entry in directory.iterdir()
    }
    inbox = directory / "inbox"
    if _NOTE not in names and inbox.is_dir() and any(inbox.iterdir()):
        return False  # somebody has sent something: it was a session once; a fork in the making has copies of answers
    # Without the note nothing has been pinned: else it is a session whose database somebody has deleted.
    allowed = _UNFINISHED if _NOTE in names else _EMPTY
    return set(directory.name) <= set(ID_ALPHABET) and names <= allowed


def _new_directory(parent: Path) -> SessionFiles:
    """Make the directory of a new session; its name is the id, taken exclusively."""
    while True:
        session_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
        try:
            (parent / session_id).mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise _refused(parent, error) from error
        return SessionFiles(parent / session_id)


@asynccontextmanager
async def _nobody_sweeps(parent: Path) -> AsyncIterator[None]:
    """Keep others from sweeping: between the directory and its lock a session looks like one that was left."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while not try_flock(descriptor, fcntl.LOCK_SH):  # noqa: ASYNC110 - a lock of other processes
            await asyncio.sleep(_LOOK_AGAIN)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _alone(parent: Path) -> Iterator[bool]:
    """Tell whether nobody makes a session now, and keep it so."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield try_flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _usable(root: Path) -> Path:
    """Make the directory of the sessions; one that is a link may lead anywhere and is refused."""
    own, parent = root / STATE_DIRECTORY, sessions_directory(root)
    for directory in (own, parent):
        if directory.is_symlink():
            raise _unusable(directory, "it is a link, and sessions must not lie elsewhere", f"rm '{directory}'")
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            if directory == own:
                ignore_all(own)
        except FileExistsError:
            raise _unusable(directory, "it is a file", f"mv '{directory}' '{directory}.old'") from None
        except OSError as error:
            raise _refused(directory, error) from error
    try:
        _spare_from_clean(parent)
    except OSError as error:
        raise _refused(parent, error) from error
    return parent


def _spare_from_clean(directory: Path) -> None:
    """Have `git clean -fdx` pass a directory over, which it does with what looks like a repository of its own.

    Worktrees are spared for the same reason; a session without its database could not go on. See decision 10.
    """
    own = directory / ".git"
    for part in ("objects", "refs"):
        (own / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (own / "HEAD").exists():
        (own / "HEAD").write_text("ref: refs/heads/none\n", encoding="utf-8")


def _named(error: BaseException, files: SessionFiles) -> OrchestraError | None:
    """Return an error in the user's words; None where it is a bug."""
    if isinstance(error, OrchestraError):
        return error
    if isinstance(error, sqlite3.Error):
        return database_error(files.database, error)
    return machine_error(error, files.directory)


def _refused(directory: Path, error: OSError) -> SessionError:
    hint = "run it where you may write, or name a project: -C DIR"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"free some space on the file system of {directory.parent}"
    return _unusable(directory, error.strerror or str(error), hint)


def _unusable(directory: Path, reason: str, hint: str) -> SessionError:
    error = SessionError(
        f"sessions can't be kept in {directory}: {reason}", code="sessions-directory-unusable", hint=hint
    )
    error.exit_code = 2  # nothing was started
    return error
