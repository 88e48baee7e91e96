"""How a person's lines are read from the terminal: by an editor, or as they come where the terminal is dumb."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TextIO

from orchestra.cli.screen import is_dumb

if TYPE_CHECKING:
    from collections.abc import Callable


class Interrupted(Exception):  # noqa: N818 - no error
    """Ctrl-C was pressed."""


class Lines(Protocol):
    """Reads one turn of a person after another."""

    draft: str
    """What was being typed when the last reading was cancelled."""

    async def read(self, prompt: str, *, default: str, toolbar: Callable[[], str], state: Callable[[], str]) -> str:
        """Read a turn; cancelled, the prompt goes away.

        Args:
            prompt: What stands before it.
            default: What is typed already.
            toolbar: Says what stands below it.
            state: Says what else stands there, such as what others do; "" where nothing does.

        Raises:
            Interrupted: Ctrl-C.
            EOFError: Ctrl-D on an empty line, or the terminal is gone.
        """

    async def above(self, write: Callable[[], None]) -> None:
        """Run something that writes whole lines while the prompt is out of the way."""

    def refresh(self) -> None:
        """Ask for the toolbar again."""


def open_lines(keyboard: TextIO, display: TextIO) -> Lines:
    """Return what a terminal allows."""
    if is_dumb():
        return PlainLines(keyboard, display)
    from orchestra.cli.line_editor import LineEditor

    return LineEditor(keyboard, display)


class PlainLines:
    """Reads lines that the terminal itself lets one edit, and writes no escape sequence.

    Ctrl-C is the terminal's own signal there.
    """

    def __init__(self, keyboard: TextIO, display: TextIO) -> None:
        self.draft = ""
        self._descriptor = keyboard.fileno()
        self._display = display
        self._prompt = ""
        self._read = b""

    async def read(self, prompt: str, *, default: str, toolbar: Callable[[], str], state: Callable[[], str]) -> str:
        """See `Lines`; a line that is typed already is nothing that a dumb terminal can show."""
        del default, state
        self._prompt = prompt
        self._say(f"[{toolbar()}]\n{prompt}")
        try:
            return await self._line()
        except asyncio.CancelledError:
            self._say("\n")
            raise

    async def above(self, write: Callable[[], None]) -> None:
        """See `Lines`."""
        self._say("\n")
        write()
        self._say(self._prompt)

    def refresh(self) -> None:
        """See `Lines`; nothing can be drawn anew."""

    async def _line(self) -> str:
        loop = asyncio.get_running_loop()
        while b"\n" not in self._read:
            readable = asyncio.Event()
            loop.add_reader(self._descriptor, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(self._descriptor)
            try:
                more = os.read(self._descriptor, 65_536)
            except OSError:
                more = b""  # the terminal is gone
            if not more:
                raise EOFError
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode("utf-8", "replace")

    def _say(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone, which reading it tells
            self._display.write(text)
            self._display.flush()
