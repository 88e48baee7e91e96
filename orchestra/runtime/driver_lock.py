"""Who drives a session: one process at a time, told by a lock that the kernel releases on its death."""

from __future__ import annotations

import fcntl
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.errors import SessionBusyError, SessionError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.store import SessionFiles


_LOOK_AGAIN = 0.05


class DriverLock:
    """The lock of a session's driver: a `flock`, released by the kernel when the process and its git children end."""

    def __init__(self, files: SessionFiles) -> None:
        self._session = files.session_id
        self._path = files.lock
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The open file whose inheritance keeps the lock."""
        if self._fd is None:
            raise RuntimeError("the lock is not held")
        return self._fd

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            SessionBusyError: Another process drives the session.
            SessionError: The lock file can't be written.
        """
        holder = self._try()
        if holder is not None:
            raise self._busy(holder)

    async def acquire_after_orphans(self, seconds: float) -> None:
        """Take the lock, and wait a while for commands and git processes of a killed driver that still hold it.

        Raises:
            SessionBusyError: Another process drives the session, or the orphans work on.
            SessionError: The lock file can't be written.
        """
        import asyncio  # not for `status`, which only looks

        deadline = time.monotonic() + seconds
        while (holder := self._try()) is not None:
            if _is_alive(holder) or time.monotonic() >= deadline:
                raise self._busy(holder)
            await asyncio.sleep(_LOOK_AGAIN)

    def _try(self) -> str | None:
        """Take the lock, or return who wrote its name into it; it may be empty for a moment."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SessionError(
                f"the session's lock {self._path} can't be opened: {error.strerror}",
                code="session-not-writable",
                hint="a session is driven by a user who may write into its directory",
            ) from error
        if not try_flock(fd, fcntl.LOCK_EX):
            holder = _holder(fd)
            os.close(fd)
            return holder
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"pid {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        except OSError as error:
            os.close(fd)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._fd = fd
        _let_commands_hold(fd)
        return None

    def _busy(self, holder: str) -> SessionBusyError:
        if holder and not _is_alive(holder):
            return SessionBusyError(
                f"the last driver of the session {self._session} ({holder}) is gone, "
                "but commands that it started still run",
                hint="wait for them or end them, then resume again",
            )
        return SessionBusyError(
            f"the session {self._session} is driven by another process ({holder or 'unknown'})",
            hint=f"wait for it, or look how far it is: `orchestra log {self._session}`",
        )

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is not None:
            _let_commands_hold(self._fd, held=False)
            os.ftruncate(self._fd, 0)
            # Unlocked, not only closed: a daemon that an agent started may have the descriptor, too.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = None


def _let_commands_hold(fd: int, *, held: bool = True) -> None:
    """Have the agents' commands inherit the lock, as git does: one that outlives a killed driver may still write."""
    from orchestra.tools.process import inherited  # not for `status`, which only looks

    (inherited.add if held else inherited.discard)(fd)


@dataclass(frozen=True, slots=True)
class Held:
    """A session's lock that is held."""

    holder: str
    """Who wrote its name into it: `pid 12 on HOST`; empty for a moment."""
    alive: bool
    """Whether that process lives; else commands that it started still hold the lock."""


def held(lock: Path) -> Held | None:
    """Return who holds a session's lock; None: nobody."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if try_flock(fd, fcntl.LOCK_SH):
            return None
        holder = _holder(fd)
        return Held(holder, not holder or _is_alive(holder))
    finally:
        os.close(fd)


def is_driven(lock: Path) -> bool:
    """Tell whether a living driver holds a session's lock; children of a killed one may hold it for a while."""
    found = held(lock)
    return found is not None and found.alive


def names_living(lock: Path) -> bool:
    """Tell whether a living process wrote its name into a lock, without touching the lock: it may just be taken."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _is_alive(_holder(fd))
    finally:
        os.close(fd)


def try_flock(fd: int, kind: int) -> bool:
    """Take a `flock` (`LOCK_SH` or `LOCK_EX`) if that can be done at once."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(fd: int) -> str:
    return os.pread(fd, 200, 0).decode("utf-8", "replace").strip()


def _is_alive(holder: str) -> bool:
    """Tell whether the process that wrote its name into the lock lives; on another host that can't be known."""
    if not holder:
        return False  # a reader looked for a moment, or the driver has just ended
    match = re.fullmatch(r"pid (\d+) on (.+)", holder)
    if match is None or match[2] != os.uname().nodename:
        return True
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
