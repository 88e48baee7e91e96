"""Faults of the machine, in words: a full disk, a file system that can't be written, too many open files.

They are nobody's bug, no other try of a turn mends them, and a session that met one goes on when its cause is gone.
"""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestra.errors import OrchestraError, SessionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WORDS = {
    errno.ENOSPC: ("no-space", "free some space on the file system of {where}"),
    errno.EDQUOT: ("no-space", "free some space: the quota of {where} is used up"),
    errno.EROFS: ("read-only", "make the file system of {where} writable (look: `findmnt -T '{where}'`)"),
    errno.EACCES: ("permission-denied", "look at the owner and the mode of {where} and of the directories above it"),
    errno.EPERM: ("permission-denied", "look at the owner and the mode of {where} and of the directories above it"),
    errno.EMFILE: ("open-files", "raise the limit of open files (`ulimit -n 1024`)"),
    errno.ENFILE: ("open-files", "end other programs: the whole system has too many files open"),
    errno.EFBIG: ("file-size-limit", "raise the limit of a file's size (`ulimit -f unlimited`)"),
    errno.EIO: ("disk-failed", "look at the disk of {where}: the system's log (`dmesg`) says more"),
    errno.ENOMEM: ("no-memory", "free some memory"),
    errno.EAGAIN: ("no-memory", "end other programs, or raise the limit of processes (`ulimit -u`)"),
}

_GIT = frozenset(
    {
        *("corrupt-object", "dubious-ownership", "filter-failed", "git-locked", "git-missing", "git-permission"),
        *("git-timeout", "not-a-repository", "restore-raced", "worktree-gone"),
    }
)
CODES = frozenset({*(code for code, _ in _WORDS.values()), *_GIT, "database-failed", "database-unreadable"})
"""Errors that no other try of a turn mends."""

MIN_FREE = 64 << 10
"""Bytes; a file system with less is called full where a program does not say why it could not write."""


def machine_error(error: BaseException, place: Path | None = None) -> SessionError | None:
    """Return what an error of the system means for the user; None where it may be a bug.

    Args:
        error: What was raised.
        place: Where it happened, for errors that name no file.
    """
    if not isinstance(error, OSError) or error.errno not in _WORDS:
        return None
    # Of a copy the second name is the one that could not be written.
    named = next((name for name in (error.filename2, error.filename) if isinstance(name, str | bytes)), None)
    where = os.fsdecode(named) if named else f"{place}" if place else ""
    code, hint = _WORDS[error.errno]
    reason = error.strerror or os.strerror(error.errno)
    message = f"{where}: {reason}" if named else f"{reason}, below {where}" if where else reason
    return SessionError(message, code=code, hint=hint.format(where=where or "the file that it is about"))


def database_error(database: Path, error: sqlite3.Error) -> SessionError:
    """Say why a session's database can't be used."""
    reason = str(error)
    code, what = "database-failed", "end what holds it (another program)"
    if "full" in reason or (isinstance(error, sqlite3.OperationalError) and is_full(database.parent)):
        code, what = "no-space", f"free some space on the file system of {database.parent}"
        reason = f"no space left on device ({reason})"
    elif "I/O" in reason and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        code, what = "file-size-limit", _WORDS[errno.EFBIG][1]
    elif "readonly" in reason or "unable to open" in reason or "I/O" in reason:
        what = f"see that {database.parent} can be written, and that the disk is sound"
    return SessionError(f"the session's database {database} can't be used: {reason}", code=code, hint=what)


def resumable(error: OrchestraError, session: str) -> OrchestraError:
    """Say of an error that the session goes on when its cause is gone."""
    error.session_id = session
    error.hint = f"{error.hint}, then `orchestra resume {session}`" if error.hint else f"`orchestra resume {session}`"
    return error


def is_full(place: Path) -> bool:
    """Return whether next to nothing can be written any more where a path lies."""
    try:
        found = os.statvfs(place)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < MIN_FREE or (found.f_files > 0 and found.f_favail == 0)


def is_readonly(place: Path) -> bool:
    """Return whether a path lies on a file system that is mounted read-only."""
    try:
        return bool(os.statvfs(place).f_flag & os.ST_RDONLY)
    except OSError:
        return False


@contextmanager
def faults_named(directory: Path) -> Iterator[None]:
    """Turn the system's errors into errors with a code and a hint; what may be a bug passes as it is.

    Args:
        directory: That of the session which the body drives.
    """
    try:
        yield
    except OrchestraError as error:
        if error.code in CODES and error.session_id is None:
            resumable(error, directory.name)
        raise
    except OSError as error:
        named = machine_error(error, directory)
        if named is None:
            raise
        raise resumable(named, directory.name) from error
