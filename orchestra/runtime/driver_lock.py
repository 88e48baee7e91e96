"""Who drives a session: one process at a time, told by locks that the kernel releases on its death.

Three locks, all of `flock`. The driver alone holds the session's directory and the file `lock` in it, so that whoever
finds them held knows that the driver lives. The directory can't be replaced by a careless `rm` or an editor, as a file
can; the file bears the driver's name, and is all there is where a file system locks no directories. `children.lock` is
inherited by what the driver starts: git, commands and their watcher. Where it outlives the driver, they do.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.errors import SessionBusyError, SessionError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.store import SessionFiles
    from orchestra.tools.watch import CommandWatch

_LOOK_AGAIN = 0.05
_BELIEVED = 0.3
"""Seconds after which a lock that is still held is taken for that of the living process named in it."""
_UNNAMED = 2.0
"""Seconds that a lock may be held without a living process's name: it is being written, or a reader looks."""


class DriverLock:
    """The locks of a session's driver, and the watch over the commands that it starts."""

    def __init__(self, files: SessionFiles) -> None:
        self._session = files.session_id
        self._files = files
        self._own: list[int] = []
        self._children: int | None = None
        self._watch: CommandWatch | None = None
        _known.add(self)

    @property
    def fd(self) -> int:
        """The open file that children inherit: its lock lives as long as the last of them."""
        if self._children is None:
            raise RuntimeError("the lock is not held")
        return self._children

    def acquire(self) -> None:
        """Take a new session's locks.

        Raises:
            SessionBusyError: Another process drives the session.
            SessionError: The lock files can't be written.
        """
        if not self._try_own():
            raise self._driven()
        if not self._try_children():
            self.release()
            raise self._left_behind()
        self._hold()

    async def acquire_after_orphans(self, seconds: float) -> None:
        """Take the locks when what a killed driver has left behind is gone: commands are killed, git is waited for.

        Raises:
            SessionBusyError: Another process drives the session, or orphans work on for longer than `seconds`.
            SessionError: The lock files can't be written.
        """
        import asyncio  # not for `status`, which only looks

        started = time.monotonic()
        while not self._try_own():
            # The name may be that of the driver before, whose number another process has now.
            patience = _BELIEVED if _is_alive(_holder(self._files.lock)) else _UNNAMED
            if time.monotonic() - started >= patience:
                raise self._driven()
            await asyncio.sleep(_LOOK_AGAIN)
        try:
            await self._outlive_orphans(time.monotonic() + seconds)
        except BaseException:
            self.release()
            raise
        self._hold()

    async def acquire_from_driver(self, seconds: float) -> None:
        """Take the locks when whoever drives the session, who was asked to stop, has let go.

        Raises:
            SessionBusyError: It has not within `seconds`.
            SessionError: The lock files can't be written.
        """
        import asyncio

        deadline = time.monotonic() + seconds
        while True:
            try:
                await self.acquire_after_orphans(seconds)
            except SessionBusyError:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(_LOOK_AGAIN)
            else:
                return

    async def _outlive_orphans(self, deadline: float) -> None:
        import asyncio

        from orchestra.runtime.orphans import kill_marked, mark_of

        mark = mark_of(self._files.directory)
        while True:
            # The lock first: a watcher that holds it still kills.
            free = self._try_children()
            if not kill_marked(mark) and free:
                return
            if time.monotonic() >= deadline:
                raise self._left_behind()
            await asyncio.sleep(_LOOK_AGAIN)

    def _try_own(self) -> bool:
        """Take what no child inherits; False when a living process, or for an instant a fork of it, has it."""
        for path, flags in ((self._files.lock, os.O_RDWR | os.O_CREAT), (self._files.directory, os.O_RDONLY)):
            fd = self._open(path, flags)
            self._own.append(fd)
            if not try_flock(fd, fcntl.LOCK_EX):
                self._let_go()
                return False
        name = f"pid {os.getpid()} on {os.uname().nodename}\n".encode()
        try:
            os.ftruncate(self._own[0], 0)
            os.pwrite(self._own[0], name, 0)
        except OSError as error:
            self._let_go()
            raise OSError(error.errno, error.strerror, str(self._files.lock)) from error
        return True

    def _try_children(self) -> bool:
        if self._children is None:
            self._children = self._open(self._files.children_lock, os.O_RDWR | os.O_CREAT)
        return try_flock(self._children, fcntl.LOCK_EX)

    def _open(self, path: Path, flags: int) -> int:
        try:
            return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self._let_go()
            if isinstance(error, FileNotFoundError):
                gone = SessionError(
                    f"the session {self._session} is not there any more: a cleanup has removed it",
                    code="session-removed",
                    hint="`orchestra status` shows the sessions that there are",
                )
                gone.exit_code = 2  # nothing was started
                raise gone from error
            raise SessionError(
                f"the session's lock {path} can't be opened: {error.strerror}",
                code="session-not-writable",
                hint="a session is driven by a user who may write into its directory",
            ) from error

    def _hold(self) -> None:
        from orchestra.runtime.orphans import mark_of
        from orchestra.tools.watch import MARK, CommandWatch, current

        mark = mark_of(self._files.directory)
        self._watch = CommandWatch(self._session, mark, [self.fd])
        current.set(self._watch)
        # Programs that Python tools start can't be watched; they inherit the mark, by which a resume finds them.
        os.environ[MARK] = mark

    def _driven(self) -> SessionBusyError:
        holder = _holder(self._files.lock)
        who, note = holder, ""
        if not _is_alive(holder):  # its lock file was taken away, or one that it has forked holds the lock
            who = _named(self._files.directory) or "unknown"
        elif not _is_here(holder):
            note = ", on another host: whether it still works can't be told from here"
        return SessionBusyError(
            f"the session {self._session} is driven by another process ({who}){note}",
            hint=f"wait for it, or look how far it is: `orchestra log {self._session} --events`",
        )

    def _left_behind(self) -> SessionBusyError:
        who = _named(self._files.children_lock)
        who = f": {who}" if who else ""
        return SessionBusyError(
            f"nobody drives the session {self._session}, but what its last driver started still runs{who}",
            hint="wait for it or end it, then resume again",
        )

    def release(self) -> None:
        """End the commands' watcher, and give the locks back."""
        if self._watch is not None:
            from orchestra.tools.watch import MARK, current

            if current.get() is self._watch:
                current.set(None)
            os.environ.pop(MARK, None)
            self._watch.close()
            self._watch = None
        if self._children is not None:
            # Unlocked, not only closed: git may have left a process that has the descriptor, too.
            fcntl.flock(self._children, fcntl.LOCK_UN)
            os.close(self._children)
            self._children = None
        if self._own:
            os.ftruncate(self._own[0], 0)
        self._let_go()

    def forget(self) -> None:
        """In a fork of the driver: be no driver, but keep others out like its other children."""
        for fd in self._own:
            os.close(fd)
        self._own, self._children, self._watch = [], None, None

    def _let_go(self) -> None:
        for fd in reversed(self._own):
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
        self._own = []


def _named(path: Path) -> str:
    from orchestra.runtime.processes import holders_of

    return ", ".join(f"pid {process}" for process in holders_of([path])[path] if process.pid != os.getpid())


_known: weakref.WeakSet[DriverLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_known):
        lock.forget()


# For forks that start no other program, as those of multiprocessing: the driver's locks must end with the driver.
os.register_at_fork(after_in_child=_forget_all)


@dataclass(frozen=True, slots=True)
class Held:
    """A session whose locks are held."""

    holder: str
    """The driver, as it wrote its name: `pid 12 on HOST`; empty for a moment."""
    alive: bool
    """Whether it drives the session now; else what it started still runs."""


def held(files: SessionFiles) -> Held | None:
    """Return who holds a session's locks; None: nobody."""
    if is_driven(files.lock):
        return Held(_holder(files.lock), alive=True)
    return Held(_holder(files.lock), alive=False) if _is_locked(files.children_lock) else None


def names_living(lock: Path) -> bool:
    """Tell whether a living process wrote its name into a lock, without touching the lock: it may just be taken."""
    return _is_alive(_holder(lock))


def is_driven(lock: Path) -> bool:
    """Tell whether a living driver holds a session's lock; what a killed one has started does not count."""
    return _is_locked(lock) or _is_locked(lock.parent)


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not try_flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def try_flock(fd: int, kind: int) -> bool:
    """Take a `flock` (`LOCK_SH` or `LOCK_EX`) if that can be done at once.

    Where the file system locks no directories, that of the file has to do.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise
    return True


def _holder(lock: Path) -> str:
    """Return who wrote its name into a lock; it may be empty for an instant."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
    finally:
        os.close(fd)


def _is_here(holder: str) -> bool:
    match = re.fullmatch(r"pid (\d+) on (.+)", holder)
    return match is not None and match[2] == os.uname().nodename


def _is_alive(holder: str) -> bool:
    """Tell whether the process that wrote its name into the lock lives; on another host that can't be known."""
    if not holder:
        return False  # a reader looked for a moment, or the driver has just ended
    if not _is_here(holder):
        return True
    try:
        os.kill(int(holder.split()[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
