"""The live view of a session in a terminal: a tree, drawn when something has changed and when its clocks tick."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from orchestra.cli.live.board import Board
from orchestra.cli.live.region import Region, wraps_again
from orchestra.cli.live.tree import Look, TreeView
from orchestra.cli.live.words import at_work, spending

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.cli.screen import Screen

_AT_MOST_EVERY = 0.1
"""Seconds between two drawings."""
_TICK = 1.0
"""Seconds between two drawings where nothing happens: clocks go on."""


class LiveView:
    """Draws a board at the lower end of a screen.

    Args:
        screen: Where.
        board: What.
        encoding: Of the terminal.
        clock: Tells the time, in seconds since the epoch.
    """

    def __init__(
        self, screen: Screen, board: Board, encoding: str = "utf-8", *, clock: Callable[[], float] = time.time
    ) -> None:
        self._screen = screen
        self._board = board
        self._clock = clock
        self._tree = TreeView(Look(encoding, has_styles=screen.has_styles))
        self._region = Region(screen.size, self._lines, wraps=wraps_again())
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drawn = 0.0
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """Show it from now on."""
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, lambda *_: self._on_suspend())
            self._before[signal.SIGCONT] = signal.signal(signal.SIGCONT, lambda *_: self._on_continue())
        self._screen.state = self._state
        self._screen.show_region(self._region)

    def end(self) -> None:
        """Take it away."""
        self._cancel()
        self._screen.hide_region()
        self._screen.state = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def changed(self) -> None:
        """Draw what has changed, as soon as that may be."""
        due = self._drawn + _AT_MOST_EVERY - time.monotonic()
        if not self._is_in_loop():
            if due <= 0:
                self._draw()
        elif self._timer is None or self._timer.when() > self._timer_now() + max(due, 0):
            self._draw_in(max(due, 0))

    def _is_in_loop(self) -> bool:
        """Tell whether a timer can be set, and set up what belongs to the loop that runs now."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if loop is not self._loop:
            self._loop, self._timer = loop, None
            with suppress(ValueError, RuntimeError, NotImplementedError):  # not the main thread
                loop.add_signal_handler(signal.SIGWINCH, self.changed)
        return True

    def _timer_now(self) -> float:
        return self._loop.time() if self._loop is not None else 0.0

    def _draw_in(self, seconds: float) -> None:
        self._cancel()
        if self._loop is not None and not self._loop.is_closed():
            self._timer = self._loop.call_later(seconds, self._draw)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _draw(self) -> None:
        self._timer = None
        self._screen.draw_region()
        self._drawn = time.monotonic()
        if self._is_in_loop():
            self._draw_in(_TICK)

    def _lines(self, width: int, height: int) -> list[str]:
        return self._tree.lines(self._board, self._clock(), width, height)

    def _state(self) -> str:
        return f"{at_work(self._board, self._clock())}; {spending(self._board)}"

    def _on_suspend(self) -> None:
        self._screen.from_signal(self._suspend)

    def _suspend(self) -> None:
        """Stop as the shell expects, with a terminal that it can use; returns when the process goes on."""
        self._screen.step_aside()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)

    def _on_continue(self) -> None:
        self._screen.from_signal(self._continue)

    def _continue(self) -> None:
        self._screen.step_back()
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self.changed)
