"""Ctrl-C, SIGTERM and a closed terminal: the first asks a session to stop in order, the second ends the process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from orchestra.cli.place import typed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType

    from orchestra.cli.screen import Screen

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_PRESS = 0.1
"""Seconds in which a second signal is the first one's echo: a wrapper passes on what the terminal sent to both."""
_PATIENCE = (4.2, 4.6)
"""Seconds after which the session is not waited for any longer, and neither is its result."""
_LOOK = "`orchestra status` shows what can be resumed"
_LAST = 4.9
"""Seconds after which the process ends, whatever it does."""

Result = TypeVar("Result")


class Stopped(BaseException):
    """A signal came before the session, or so late that nothing of it is known."""


class StopSignals:
    """What the signals of a process mean for the session that it drives."""

    def __init__(self) -> None:
        self.caught: int | None = None
        """The first signal."""
        self.session: str | None = None
        """The session that is driven, once it is known."""
        self.last_words: Callable[[], str] | None = None
        """What to write to standard output where the process must end before it could report."""
        self.screen: Screen | None = None
        """Where the session is shown."""
        self._at = 0.0
        self._ask: Callable[[], object] | None = None
        self._may_raise = False
        self._terminal = _terminal_state()

    @property
    def code(self) -> int:
        """The exit code of a process that a signal has stopped."""
        return 128 + (self.caught or signal.SIGINT)

    def run(self, prepare: Callable[[], Coroutine[object, object, Result]]) -> Result:
        """Run a session; the first signal cancels it.

        Args:
            prepare: Returns the session's work; a signal that comes meanwhile ends it at once.

        Raises:
            Stopped: It was cancelled before it was a session.
        """
        if self.caught is not None:
            raise Stopped
        self._may_raise = True
        work = prepare()
        self._may_raise = False
        runner = asyncio.Runner()
        try:
            return runner.run(self._cancellable(work))
        except asyncio.CancelledError:
            raise Stopped from None
        finally:
            self._ask = None
            if self.caught is None:  # else the process ends without waiting for what the loop still holds
                runner.close()

    async def _cancellable(self, work: Coroutine[object, object, Result]) -> Result:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)

        def ask() -> None:
            task.cancel()
            for seconds in _PATIENCE:
                loop.call_later(seconds, task.cancel)

        self._ask = lambda: loop.call_soon_threadsafe(ask)
        if self.caught is not None:  # just before
            ask()
        # Not awaited: what cancels this task must not be taken for what cancelled the work.
        await asyncio.wait([task])
        return task.result()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self.caught is not None:
            if time.monotonic() - self._at > _ONE_PRESS:
                session = self.session
                self._say("stopped at once; " + (f"go on with: {typed(f'resume {session}')}" if session else _LOOK))
                self.caught = number
                self._give_up(number, frame)
            return
        self.caught, self._at = number, time.monotonic()
        signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, _LAST)
        self._say("stopping at the next safe point; once more stops at once")
        if self._ask is not None:
            self._ask()
        elif self._may_raise:
            raise Stopped

    def _say(self, text: str) -> None:
        if self.screen is not None:
            self.screen.interject(text)
            return
        with suppress(OSError, ValueError):  # the terminal is gone
            # Not through the stream: a handler may run in the middle of its own write.
            os.write(sys.stderr.fileno(), f"{text}\n".encode())

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.last_words is not None:
            with suppress(OSError):
                os.write(1, self.last_words().encode())
        self._end(self.code)

    def leave(self, code: int) -> NoReturn:
        """End the process: nothing that hangs in it may hold up somebody who has asked it to stop."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        self._end(code)

    def _end(self, code: int) -> NoReturn:
        if self.screen is not None:
            self.screen.step_aside()
        with suppress(termios.error, OSError):
            # A prompt may be open, which reads key by key. From the background setting it would stop the process.
            if self._terminal is not None and os.tcgetpgrp(0) == os.getpgrp():
                termios.tcsetattr(0, termios.TCSANOW, self._terminal)
        os._exit(code)


def _terminal_state() -> list[Any] | None:
    with suppress(termios.error, OSError):
        return termios.tcgetattr(0)
    return None


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Take the signals that stop a session as long as the body runs; a SIGHUP that is ignored (nohup) stays so."""
    signals = StopSignals()
    before = {
        number: signal.signal(number, signals.handle)
        for number in _SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield signals
    finally:
        if signals.caught is None:
            for number, handler in before.items():
                signal.signal(number, handler)
