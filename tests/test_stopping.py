"""The gate of a session that is to stop, and how a graph is finished or cut off."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from orchestra.runtime.stopping import Countdown, StopGate, finish, in_full


def told() -> tuple[list[tuple[str, dict[str, Any]]], Any]:
    events: list[tuple[str, dict[str, Any]]] = []
    return events, lambda kind, payload: events.append((kind, payload))


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def cancelled_soon(
    work: asyncio.Future[Any], gate: StopGate, *, times: int = 1
) -> list[tuple[str, dict[str, Any]]]:
    """Finish some work in a task that is cancelled."""
    events, tell = told()
    task = asyncio.ensure_future(finish(work, gate, countdown=Countdown(None), tell=tell, called_off=never()))
    for _ in range(times):
        await asyncio.sleep(0.02)
        task.cancel()
    await task
    return events


async def test_a_call_in_flight_ends_and_the_next_one_never_begins() -> None:
    gate, made = StopGate(), []

    async def graph() -> None:
        async with gate.turn() as calls:
            for number in range(3):
                async with calls.call("model"):
                    await asyncio.sleep(0.1)
                    made.append(number)

    work = asyncio.ensure_future(graph())
    events = await cancelled_soon(work, gate)

    assert made == [0]
    assert work.cancelled()
    assert events == [("session_stopping", {"seconds": 3.0, "waits_for": {"model": 1}})]


async def test_a_turn_that_waits_for_another_ones_files_is_not_waited_for() -> None:
    gate, files = StopGate(), asyncio.Lock()

    async def turn() -> None:
        await gate.passed()
        async with files, gate.turn() as calls:
            while True:
                async with calls.call("tool"):
                    await asyncio.sleep(0.05)

    loop = asyncio.get_running_loop()
    began = loop.time()
    await cancelled_soon(asyncio.gather(turn(), turn()), gate)

    assert loop.time() - began < 1


async def test_a_pause_before_the_next_attempt_is_a_safe_point() -> None:
    gate = StopGate()

    async def graph() -> None:
        async with gate.turn() as calls, calls.call("model", after=60):
            raise AssertionError

    loop = asyncio.get_running_loop()
    began = loop.time()
    await cancelled_soon(asyncio.ensure_future(graph()), gate)

    assert loop.time() - began < 1


async def test_a_graph_that_ends_meanwhile_has_ended() -> None:
    gate = StopGate()

    async def graph() -> str:
        async with gate.turn() as calls, calls.call("model"):
            await asyncio.sleep(0.1)
        return "done"

    work = asyncio.ensure_future(graph())
    await cancelled_soon(work, gate)

    assert await work == "done"
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # a test runs in a task


async def test_asked_twice_it_cuts_off_and_a_third_time_it_does_not_wait() -> None:
    gate, ended = StopGate(), asyncio.Event()

    async def graph() -> None:
        async with gate.turn() as calls, calls.call("tool"):
            while not ended.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await ended.wait()

    work = asyncio.ensure_future(graph())
    with pytest.raises(asyncio.CancelledError):
        await cancelled_soon(work, gate, times=3)

    assert not work.done()
    ended.set()
    await work


async def test_a_time_limit_cuts_off_without_a_grace() -> None:
    events, tell = told()
    work = asyncio.ensure_future(asyncio.sleep(60))

    with pytest.raises(TimeoutError):
        await finish(work, StopGate(), countdown=Countdown(0.02), tell=tell, called_off=never())

    assert (work.cancelled(), events) == (True, [])


async def test_what_is_done_in_full_outlasts_one_cancellation() -> None:
    async def short() -> str:
        await asyncio.sleep(0.05)
        return "done"

    task = asyncio.ensure_future(in_full(short()))
    await asyncio.sleep(0.01)
    task.cancel()

    assert await task == "done"


async def test_whoever_calls_a_session_off_stops_it_as_a_signal_does() -> None:
    gate, work = StopGate(), asyncio.ensure_future(never())
    called_off = asyncio.Event()
    events, tell = told()
    async with gate.turn() as calls:
        with calls.person():
            asyncio.get_running_loop().call_later(0.02, called_off.set)

            async def called() -> None:
                await called_off.wait()

            await finish(work, gate, countdown=Countdown(None), tell=tell, called_off=called())

    assert work.cancelled()
    assert [kind for kind, _ in events] == ["session_stopping"]


async def test_time_in_which_a_person_is_waited_for_does_not_count() -> None:
    countdown, counted = Countdown(0.2), []

    async def session() -> None:
        async with countdown.running():
            with countdown.stopped():
                await asyncio.sleep(0.3)
                with countdown.stopped():
                    await asyncio.sleep(0.1)
            counted.append("the person has answered")
            await never()

    with pytest.raises(TimeoutError):
        await session()
    assert counted


async def test_a_person_may_be_waited_for_when_the_time_limit_is_left() -> None:
    countdown = Countdown(50)
    waits, asked = asyncio.Event(), asyncio.Event()

    async def ask() -> None:
        with countdown.stopped():
            asked.set()
            await waits.wait()

    async with countdown.running():
        question = asyncio.ensure_future(ask())
        await asked.wait()
    waits.set()
    await question
    await ask()  # and another one begins to ask
