"""The safe points of a session that is to stop: calls that have begun may end, and none begins any more."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

GRACE = 3.0
"""Seconds that calls may still take when a session is asked to stop: a model's reply in flight is paid."""
_SETTLED = 0.05
"""Seconds that nothing may go on: the result of a call's sibling is on its way into the database."""

Result = TypeVar("Result")


class StopGate:
    """Before it every model call, tool call and turn of a session passes; closed for good when the session is to stop.

    Cutting a session off is always safe, as a kill is. The gate saves what is worth the wait: a model call in flight
    is paid, and its reply would be asked for again.
    """

    def __init__(self) -> None:
        self._shut = asyncio.Event()
        self._turns: set[TurnCalls] = set()
        self._outside = 0
        """Turns that wait to be opened."""
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Let nothing begin any more."""
        self._shut.set()

    @property
    def is_closed(self) -> bool:
        """Whether the session is to stop."""
        return self._shut.is_set()

    async def closed(self) -> None:
        """Return when the session is to stop."""
        await self._shut.wait()

    def in_flight(self) -> dict[str, int]:
        """Return how many calls of each kind are under way."""
        return dict(sum((turn.running for turn in self._turns), Counter[str]()))

    async def passed(self) -> None:
        """Wait here for ever once the gate is closed; whoever closed it then cancels."""
        if self.is_closed:
            self._outside += 1
            self.moved()
            await asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[TurnCalls]:
        """Count an open turn: as long as it makes no call and waits for none, it is about to end or to write."""
        calls = TurnCalls(self)
        self._turns.add(calls)
        try:
            yield calls
        finally:
            self._turns.discard(calls)
            self.moved()

    async def idle(self) -> None:
        """Return when everything waits at the gate."""
        while True:
            self._changed.clear()
            if self._is_idle():
                await asyncio.sleep(_SETTLED)
                if self._is_idle():
                    return
            else:
                await self._changed.wait()

    def _is_idle(self) -> bool:
        waits = bool(self._turns) or self._outside > 0  # else a step of the graph is being written
        return waits and all(turn.waiting and not turn.running.total() for turn in self._turns)

    def moved(self) -> None:
        """Have `idle` look again."""
        self._changed.set()


class TurnCalls:
    """The calls of one turn."""

    def __init__(self, gate: StopGate) -> None:
        self._gate = gate
        self.running: Counter[str] = Counter()
        self.waiting = 0

    @asynccontextmanager
    async def call(self, kind: str, *, after: float = 0.0) -> AsyncIterator[None]:
        """Hold a call, which begins only while the gate is open."""
        self.waiting += 1
        try:
            self._gate.moved()
            await asyncio.sleep(after)
            await self._gate.passed()
        finally:
            self.waiting -= 1
        self.running[kind] += 1
        try:
            yield
        finally:
            self.running[kind] -= 1
            self._gate.moved()

    @contextmanager
    def person(self) -> Iterator[None]:
        """Wait for a person while the body runs: nothing is under way meanwhile that could end by itself."""
        self.waiting += 1
        self._gate.moved()
        try:
            yield
        finally:
            self.waiting -= 1


class Countdown:
    """How long a session may go on; time in which a person is waited for does not count.

    Args:
        seconds: None: for ever.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._limit: asyncio.Timeout | None = None
        self._stops = 0
        self._left = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Count while the body runs.

        Raises:
            TimeoutError: The time is over.
        """
        async with asyncio.timeout(self._seconds) as limit:
            self._limit = limit
            try:
                yield
            finally:
                self._limit = None  # a limit that is left can't be moved, and a person may be waited for still

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Count nothing while the body runs."""
        limit, now = self._limit, asyncio.get_running_loop().time
        when = limit.when() if limit is not None and not limit.expired() else None
        if self._stops == 0 and limit is not None and when is not None:
            self._left = when - now()
            limit.reschedule(None)
        self._stops += 1
        try:
            yield
        finally:
            self._stops -= 1
            limit = self._limit
            if self._stops == 0 and limit is not None and self._seconds is not None and not limit.expired():
                limit.reschedule(now() + self._left)


async def finish(
    work: asyncio.Future[Any],
    gate: StopGate,
    *,
    countdown: Countdown,
    tell: Callable[[str, dict[str, Any]], None],
    called_off: Coroutine[Any, Any, None],
) -> None:
    """Wait until a graph has ended; where this task is cancelled, stop the graph at its next safe point.

    Cancelled once more it cuts the graph off at once, and a third time it does not wait for the clean-up.

    Args:
        work: The running graph; whoever awaits it then gets its result, or `CancelledError` where it was cut off.
        gate: Where its calls wait.
        countdown: How long it may take.
        tell: Logs an event.
        called_off: Returns when somebody wants the graph to stop, as a cancellation of this task does.

    Raises:
        TimeoutError: It took too long and was cut off.
    """
    stop = asyncio.ensure_future(called_off)
    try:
        async with countdown.running():
            await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        await cut(work)
        raise
    except asyncio.CancelledError:
        await _stop(work, gate, tell)
    else:
        if not work.done():
            await _stop(work, gate, tell)
    finally:
        stop.cancel()


async def _stop(work: asyncio.Future[Any], gate: StopGate, tell: Callable[[str, dict[str, Any]], None]) -> None:
    """Let calls in flight end, for a while, and then cut the graph off."""
    gate.close()
    tell("session_stopping", {"seconds": GRACE, "waits_for": gate.in_flight()})
    idle = asyncio.ensure_future(gate.idle())
    with suppress(asyncio.CancelledError):
        await asyncio.wait([work, idle], timeout=GRACE, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    await cut(work)
    forget_cancellation()


async def in_full(work: Coroutine[Any, Any, Result]) -> Result:
    """Do something short to its end, though this task is cancelled meanwhile; not when it is cancelled again."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await asyncio.wait([task])
        forget_cancellation()
    return task.result()


async def cut(*work: asyncio.Future[Any]) -> None:
    """Cancel what has not ended, and wait until it has cleaned up."""
    for one in work:
        one.cancel()
    if work:
        await asyncio.wait(work)


def forget_cancellation() -> None:
    """Note that the cancellations of this task are dealt with."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
