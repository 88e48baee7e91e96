"""A process beside a driver that kills the driver's commands when it is gone, however it went.

Nobody can clean up after a `kill -9` but another process. So each driver that runs commands has a small shell beside
it, which reads a pipe. Each command enters itself there before it begins, thus none is ever unknown; and the pipe ends
when the driver does, since no other process keeps its end open.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import weakref
from contextvars import ContextVar
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK = "ORCHESTRA_COMMAND_OF"
"""The variable in the environment of every command of a session by which its daemons are found."""

_ENTER = 'printf "+%s\\n" "$$" >&0 || exit 125; exec </dev/null; exec /bin/sh -c "$1"'
"""Enters a command, as the process that it will be; its standard input is the pipe, so that no descriptor is left."""
_END = 5.0
"""Seconds that a driver waits for its watcher, which takes a few hundredths."""

current: ContextVar[CommandWatch | None] = ContextVar("current", default=None)
"""The watch of the session that this task works for. The runtime sets it; a call without one runs unwatched."""


class CommandWatch:
    """Starts a session's commands so that none outlives the process that drives the session.

    Args:
        session: The session's id, told to the commands as `ORCHESTRA_SESSION`.
        mark: What tells this session's commands from all others, also from those of a copy of its directory.
        locks: Descriptors that the watcher and the commands inherit: they are locked until the last of them has ended.
    """

    def __init__(self, session: str, mark: str, locks: Sequence[int] = ()) -> None:
        self.environment = {"ORCHESTRA_SESSION": session, MARK: mark}
        self.locks = tuple(locks)
        self._groups: set[int] = set()
        self._watcher: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        _open.add(self)

    def entry(self, command: str) -> tuple[Sequence[str], int]:
        """Return what to start for a shell command, and what its standard input must be."""
        if self._watcher is None or self._watcher.poll() is not None:  # also one that somebody has killed
            self._start()
        return ("/bin/sh", "-c", _ENTER, "sh", command), self._pipe

    def began(self, group: int) -> None:
        """Note that a command runs, for a watcher that has to be started anew; this one knows already."""
        self._groups.add(group)

    def ended(self, group: int) -> None:
        """Note that a command and its group are gone: their number may be another's soon."""
        self._groups.discard(group)
        with contextlib.suppress(OSError):
            os.write(self._pipe, b"-%d\n" % group)

    def close(self) -> None:
        """End the watcher, and with it what the commands have left behind."""
        self.forget()
        if self._watcher is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._watcher.wait(_END)
            self._watcher = None

    def forget(self) -> None:
        """Close the pipe: in a fork of the driver it would outlive the driver."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _start(self) -> None:
        self.forget()
        reading, self._pipe = os.pipe()
        try:
            self._watcher = subprocess.Popen(
                ("/bin/sh", "-c", _script(), "orchestra-watch", f"{MARK}={self.environment[MARK]}"),
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={
                    "PATH": os.environ.get("PATH", os.defpath)
                },  # without the mark of a session that this one was started in
                pass_fds=self.locks,
                start_new_session=True,  # what kills the driver's group must not kill it
            )
        finally:
            os.close(reading)
        for group in self._groups:
            os.write(self._pipe, b"+%d\n" % group)


def _script() -> str:
    return resources.files("orchestra.tools").joinpath("watch.sh").read_text(encoding="utf-8")


_open: weakref.WeakSet[CommandWatch] = weakref.WeakSet()


def _forget_all() -> None:
    for watch in list(_open):
        watch.forget()


# Not for programs that are started, for which the descriptor is closed; for forks without one, as of multiprocessing.
os.register_at_fork(after_in_child=_forget_all)
