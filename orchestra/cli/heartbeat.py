"""The line that says that a session still goes on, where nothing has been said for a while."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from orchestra.cli.live.words import at_work, spending

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.cli.live.board import Board
    from orchestra.cli.screen import Screen

EVERY = 30.0
"""Seconds in which something is said, at the latest."""


class Heartbeat:
    """Says from time to time who is at work, unless other lines say something.

    Args:
        screen: Whose lines count.
        board: The session's state.
        say: Shows a line.
        every: Seconds of silence after which there is one.
    """

    def __init__(self, screen: Screen, board: Board, say: Callable[[str], None], *, every: float = EVERY) -> None:
        self._screen = screen
        self._board = board
        self._say = say
        self._every = every
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """Go on in the loop that runs now, if one does."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if loop is not self._loop:
            self._loop, self._timer = loop, None
        if self._timer is None:
            self._wait()

    def end(self) -> None:
        """Say nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _wait(self) -> None:
        # Not by what was written alone: where nothing can be written now, or ever, that stays as it is.
        silent = time.monotonic() - max(self._screen.written_at, self._looked_at)
        if self._loop is not None:
            self._timer = self._loop.call_later(max(self._every - silent, 0.0), self._beat)

    def _beat(self) -> None:
        self._looked_at = time.monotonic()
        is_silent = self._looked_at - self._screen.written_at >= self._every
        # While a person is asked here, or reads, they know what is waited for.
        if is_silent and not self._screen.is_taken and self._board.began is not None:
            self._say(f"still running: {at_work(self._board, time.time())}; {spending(self._board)}")
        self._wait()
