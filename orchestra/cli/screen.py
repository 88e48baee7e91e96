"""What a person sees of a session: one writer to standard error, which knows whether a prompt is open there."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Above = Callable[[Callable[[], None]], Awaitable[None]]
    """Runs something while the prompt is out of the way, and draws the prompt again."""

_ROWS = 24
_LEAST_WIDTH = 20
"""Columns; what is narrower wraps by itself."""


class Screen:
    """Writes texts in their order: above an open prompt, and not at all while something else has the terminal.

    Args:
        stream: Where to; once nobody reads it any more, nothing is written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._above: Above | None = None
        self._lent = False
        self._waiting = ""
        """What can't be written yet."""
        self._last = "\n"
        """The end of what was written: tells whether a line is unfinished or a blank one stands there."""
        self._writer: asyncio.Task[None] | None = None
        self.is_terminal = _is_terminal(stream)
        self.has_styles = self.is_terminal and not is_dumb() and not os.environ.get("NO_COLOR")

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
        try:
            return os.get_terminal_size(self._stream.fileno()).lines or _ROWS if self._stream else _ROWS
        except (OSError, ValueError):
            return _ROWS

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

    @contextmanager
    def prompt(self, above: Above) -> Iterator[None]:
        """Have a prompt open as long as the body runs: what is written meanwhile, in whole lines, appears above it."""
        self._above = above
        try:
            yield
        finally:
            self._above = None
            self._last = ".\n"  # the prompt has ended its line itself
            self._catch_up()

    @contextmanager
    def lent(self) -> Iterator[TextIO | None]:
        """Lend the terminal to something else, such as a pager; what is written meanwhile waits. No prompt is open."""
        self._lent = True
        try:
            yield self._stream
        finally:
            self._lent = False
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
        if self._stream is None or not text:
            return
        self._last = (self._last + text)[-2:]
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None  # nobody reads any more; that is no reason to stop a session


def is_dumb() -> bool:
    """Tell whether the terminal understands no escape sequences."""
    return os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
