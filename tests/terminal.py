"""A real pseudo-terminal with a person in front of it: keys go in, and pyte shows what stands on the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import pyte

from tests.preloaded import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

ENTER, ALT_ENTER, CTRL_C, CTRL_D, CTRL_J, UP, TAB = "\r", "\x1b\r", "\x03", "\x04", "\n", "\x1b[A", "\t"
PATIENCE = 30.0


def paste(text: str) -> str:
    """Return what a terminal sends that brackets what is pasted."""
    return f"\x1b[200~{text}\x1b[201~"


class Terminal:
    """Runs a command in a terminal of its own.

    Args:
        command: What to run.
        directory: Where.
        environment: Its whole environment; `TERM` is added unless given.
        columns: Of the screen.
        lines: Of the screen.
        stdout: A file for standard output, where it is redirected.
        fresh: Whether the command starts in a new interpreter (`preloaded.py`).
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        directory: Path,
        environment: Mapping[str, str],
        columns: int = 80,
        lines: int = 40,
        stdout: Path | None = None,
        fresh: bool = False,
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=5_000)
        self.written = b""
        """Everything that was written to the terminal."""
        self._stream = pyte.ByteStream(self.screen)
        self._master, end = pty.openpty()
        self._set_size(columns, lines)
        out = end if stdout is None else os.open(stdout, os.O_WRONLY | os.O_CREAT)
        environment = {"TERM": "xterm-256color", **environment}
        self._process = Command(
            command, cwd=directory, env=environment, stdin=end, stdout=out, stderr=end, terminal=True, fresh=fresh
        )
        for fd in {end, out}:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._master)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def display(self) -> str:
        """What stands on the screen now, without the blanks at the ends."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def whole(self) -> str:
        """What stands on the screen, and what has left it at its upper edge."""
        gone = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in gone) + "\n" + self.display

    def type(self, *keys: str) -> None:
        """Press keys."""
        for key in keys:
            os.write(self._master, key.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size, as a window manager does."""
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    def shows(self, *texts: str) -> str:
        """Wait until texts stand on the screen, and return all of it."""
        return self.until(lambda display: all(text in display for text in texts), f"{texts} to appear")

    def hides(self, text: str) -> str:
        """Wait until a text is gone from the screen."""
        return self.until(lambda display: text not in display, f"{text!r} to go away")

    def until(self, holds: Callable[[str], bool], what: str) -> str:
        """Wait until something holds of what is on the screen."""
        deadline = time.monotonic() + PATIENCE
        while not holds(self.display):
            more = self._read(deadline - time.monotonic())
            assert more, f"waited for {what}; on the screen is:\n{self.whole}"
        return self.display

    def exit_code(self) -> int:
        """Wait until the command ends, and return its code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        assert time.monotonic() < deadline, f"it does not end; on the screen is:\n{self.whole}"
        return self._process.wait(PATIENCE)

    def modes(self) -> list[object]:
        """Return how the terminal treats what is typed."""
        return termios.tcgetattr(self._master)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self, seconds: float) -> bool:
        """Show what comes next; False: nothing comes any more."""
        ready, _, _ = select.select([self._master], [], [], max(seconds, 0))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # the other end is closed
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)
