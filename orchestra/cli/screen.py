"""What a person sees of a session: one writer to standard error, which knows what stands there: a prompt, a region."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from orchestra.cli.keyboard import Echo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from orchestra.cli.live.region import Region

    Above = Callable[[Callable[[], None]], Awaitable[None]]
    """Runs something while the prompt is out of the way, and draws the prompt again."""

_COLUMNS, _ROWS = 80, 24
_LEAST_WIDTH = 20
"""Columns; what is narrower wraps by itself."""


class Screen:
    """Writes texts in their order: above an open prompt, and not at all while something else has the terminal.

    Args:
        stream: Where to; once nobody reads it any more, nothing is written. None: nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._above: Above | None = None
        self._lent = False
        self._waiting = ""
        """What can't be written yet."""
        self._last = "\n"
        """The end of what was written: tells whether a line is unfinished or a blank one stands there."""
        self._writer: asyncio.Task[None] | None = None
        self._region: Region | None = None
        self._echo = Echo()
        self._writes = False
        self._due: list[Callable[[], None]] = []
        """What a signal has to do that came while something was written."""
        self.written_at = time.monotonic()
        """When something was written last that stays."""
        self.state: Callable[[], str] | None = None
        """Returns one line that stands below an open prompt."""
        self.is_terminal = _is_terminal(stream)
        self.has_styles = self.is_terminal and not is_dumb() and not os.environ.get("NO_COLOR")

    @property
    def is_unicode(self) -> bool:
        """Whether all characters can be shown."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return str(encoding).lower().startswith("utf")

    @property
    def width(self) -> int | None:
        """The columns that a line may have now; None where there is no terminal to wrap lines for."""
        if not self.is_terminal or self._stream is None:
            return None
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            return None
        return max(columns - 1, _LEAST_WIDTH) if columns else 80  # a terminal that does not say has no columns

    @property
    def height(self) -> int:
        """The rows of the terminal."""
        return self.size()[1]

    def size(self) -> tuple[int, int]:
        """Return the columns and rows of the terminal, as it says."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno()) if self._stream else (0, 0)
        except (OSError, ValueError):
            columns, rows = 0, 0
        return columns or _COLUMNS, rows or _ROWS

    def bold(self, text: str) -> str:
        """Return a text that stands out where that is possible."""
        return f"\x1b[1m{text}\x1b[0m" if self.has_styles else text

    def write(self, text: str) -> None:
        """Write a text; all that comes from outside in it must have been escaped."""
        if not text or self._stream is None:
            return
        if not self._lent and self._above is None:
            self._put(text)
            return
        self._waiting += text
        if "\n" in text and not self._lent and (self._writer is None or self._writer.done()):
            self._writer = asyncio.ensure_future(self._write_above())

    def finish_line(self) -> None:
        """End a line that has begun."""
        if not self._end.endswith("\n"):
            self.write("\n")

    def blank_line(self) -> None:
        """Leave a line free, unless one is free already or nothing stands above it."""
        self.finish_line()
        if not self._end.endswith("\n\n") and self._end != "\n":
            self.write("\n")

    @property
    def is_taken(self) -> bool:
        """Whether a prompt is open, or something else has the terminal."""
        return self._above is not None or self._lent

    def show_region(self, region: Region) -> None:
        """Have a region below what is written, until `hide_region`; not while a prompt is open or something lent."""
        self.finish_line()
        self._region = region
        self._begin_region()

    def draw_region(self) -> None:
        """Draw again what has changed in the region."""
        if self._region is not None and self._region.is_on and self._echo.is_in_front():
            self._send(self._region.draw())

    def hide_region(self) -> None:
        """Take the region away for good."""
        self._end_region()
        self._region = None

    def from_signal(self, act: Callable[[], None]) -> None:
        """Do something from within the handler of a signal, which may come in the middle of a write: then after it."""
        if self._writes:
            self._due.append(act)
        else:
            act()

    def interject(self, text: str) -> None:
        """Say a line from within the handler of a signal."""
        self.from_signal(lambda: self._say_now(f"{self._aside()}{text}\n"))

    def step_aside(self) -> None:
        """Leave the terminal to others, such as the shell, from within the handler of a signal."""
        self._say_now(self._aside())
        self._echo.on()

    def step_back(self) -> None:
        """Have the terminal again: what others have written stays."""
        if self._region is not None and self._region.is_on:
            self._region.forget()
            self._echo.off()

    @contextmanager
    def prompt(self, above: Above) -> Iterator[None]:
        """Have a prompt open as long as the body runs: what is written meanwhile, in whole lines, appears above it."""
        self._end_region()
        self._above = above
        try:
            yield
        finally:
            self._above = None
            self._last = ".\n"  # the prompt has ended its line itself
            self._begin_region()
            self._catch_up()

    @contextmanager
    def lent(self) -> Iterator[TextIO | None]:
        """Lend the terminal to something else, such as a pager; what is written meanwhile waits. No prompt is open."""
        self._end_region()
        self._lent = True
        try:
            yield self._stream
        finally:
            self._lent = False
            self._begin_region()
            self._catch_up()

    @property
    def _end(self) -> str:
        return (self._last + self._waiting)[-2:]

    async def _write_above(self) -> None:
        while self._above is not None and "\n" in self._waiting:
            await self._above(self._put_lines)

    def _put_lines(self) -> None:
        lines, newline, rest = self._waiting.rpartition("\n")
        if newline:
            self._waiting = rest
            self._put(lines + newline)

    def _catch_up(self) -> None:
        text, self._waiting = self._waiting, ""
        self._put(text)

    def _put(self, text: str) -> None:
        if not text:
            return
        self._last = (self._last + text)[-2:]
        self.written_at = time.monotonic()
        self._send(text if self._region is None else self._region.above(text))

    def _begin_region(self) -> None:
        if self._region is not None and self._stream is not None:
            self._echo.off()
            self._send(self._region.begin())

    def _end_region(self) -> None:
        if self._region is not None and self._region.is_on:
            self._send(self._region.end())
            self._echo.on()

    def _send(self, text: str) -> None:
        """Write a text as it is."""
        if self._stream is None or not text:
            return
        self._writes = True
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None  # nobody reads any more; that is no reason to stop a session
        finally:
            self._writes = False
        while self._due:
            self._due.pop(0)()

    def _aside(self) -> str:
        return "" if self._region is None else self._region.aside()

    def _say_now(self, text: str) -> None:
        # Not through the stream: a handler may run in the middle of its own write.
        with suppress(OSError, ValueError):  # the terminal is gone
            if self._stream is not None:
                os.write(self._stream.fileno(), text.encode(self._stream.encoding or "utf-8", "backslashreplace"))


def is_dumb() -> bool:
    """Tell whether the terminal understands no escape sequences."""
    return os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
