"""The event log: one order, nothing lost, nothing secret, and what a session has spent."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest

from orchestra.runtime.observability import MAX_ITEMS, MAX_TEXT, Event, ObservabilityLogger
from orchestra.runtime.store import find_session, read_turns, schema
from tests.session_support import (
    agent,
    assert_done,
    chain,
    crash_pipeline,
    database,
    events,
    query,
    run_and_kill,
    says,
    writes,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import Workshop


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[aiosqlite.Connection]:
    async with aiosqlite.connect(tmp_path / "events.db") as connection:
        await connection.executescript(schema("session") + schema("events"))
        yield connection


async def rows(connection: aiosqlite.Connection) -> list[Any]:
    return [tuple(row) for row in await connection.execute_fetchall("SELECT seq, type, payload FROM events")]


async def test_events_get_their_number_at_once_and_are_written_by_themselves(
    connection: aiosqlite.Connection,
) -> None:
    heard: list[Event] = []
    log = ObservabilityLogger(connection, asyncio.Lock(), heard.append)
    await log.start()
    log.emit("one", {"a": 1}, node="critic", turn=2, attempt=1)
    log.emit("two")
    assert [(event.seq, event.type) for event in heard] == [(1, "one"), (2, "two")]
    async with asyncio.timeout(10):
        while len(await rows(connection)) < 2:  # each look is an answer of the database's thread
            continue
    await log.stop()

    assert await rows(connection) == [(1, "one", '{"a": 1}'), (2, "two", "{}")]


async def test_a_new_process_goes_on_numbering_and_counting(connection: aiosqlite.Connection) -> None:
    for expected in (1, 2, 3):
        log = ObservabilityLogger(connection, asyncio.Lock())
        await log.start()
        log.emit("model_ended", {"input_tokens": 5, "output_tokens": 2, "cost_usd": 0.5})
        await log.stop()
        assert log.usage.as_json() == {
            "input_tokens": 5 * expected,
            "output_tokens": 2 * expected,
            "model_calls": expected,
            "cost_usd": 0.5 * expected,
        }

    assert [row[0] for row in await rows(connection)] == [1, 2, 3]


async def test_a_cost_with_an_unknown_part_is_unknown(connection: aiosqlite.Connection) -> None:
    log = ObservabilityLogger(connection, asyncio.Lock())
    log.emit("model_ended", {"input_tokens": 5, "output_tokens": None, "cost_usd": 0.5})
    log.emit("model_ended", {"input_tokens": 5, "cost_usd": None})

    assert log.usage.as_json() == {"input_tokens": 10, "output_tokens": 0, "model_calls": 2, "cost_usd": None}


async def test_what_could_not_be_written_is_written_later(connection: aiosqlite.Connection, tmp_path: Path) -> None:
    log = ObservabilityLogger(connection, asyncio.Lock())
    log.emit("one")
    await connection.execute("PRAGMA busy_timeout = 0")
    async with aiosqlite.connect(tmp_path / "events.db") as foreign:
        await foreign.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await log.flush()
        await foreign.rollback()
    log.emit("two")
    await log.flush()

    assert [row[1] for row in await rows(connection)] == ["one", "two"]


async def test_a_write_that_is_cancelled_at_any_step_loses_and_doubles_nothing(
    connection: aiosqlite.Connection,
) -> None:
    log = ObservabilityLogger(connection, asyncio.Lock())
    cancelled = 0
    for number in range(60):
        log.emit("one")
        flush = asyncio.ensure_future(log.flush())
        for _ in range(number % 20):
            await connection.execute_fetchall("SELECT 1")  # an answer of the thread that also writes
            if number % 2:
                await asyncio.sleep(0)
        flush.cancel()
        await asyncio.wait([flush])
        cancelled += flush.cancelled()
    await log.flush()

    assert cancelled > 5
    assert [row[0] for row in await rows(connection)] == list(range(1, 61))


async def test_secrets_are_taken_out_of_every_text_of_a_payload(connection: aiosqlite.Connection) -> None:
    heard: list[Event] = []
    log = ObservabilityLogger(connection, asyncio.Lock(), heard.append, lambda text: text.replace(KEY, "***"))
    log.emit("odd", {"a": [{KEY: f"key {KEY}"}], "b": ValueError(KEY)})
    await log.flush()

    ((_, _, payload),) = await rows(connection)
    assert KEY not in payload
    assert heard[0].payload["a"] == [{"***": "key ***"}]


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


async def test_a_payload_is_cut_and_holds_only_what_the_database_takes(connection: aiosqlite.Connection) -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    log = ObservabilityLogger(connection, asyncio.Lock())
    payload: dict[Any, Any] = {
        "long": "x" * MAX_TEXT + "the end",
        "many": list(range(MAX_ITEMS + 3)),
        "keys": dict.fromkeys(range(MAX_ITEMS + 3), 1),
        "name": os.fsdecode(b"caf\xe9"),
        ("a", "tuple"): Odd(),
        "deep": deep,
        "bytes": b"\xff",
        "numbers": [1.5, float("nan"), float("-inf")],
    }
    log.emit("odd", payload)
    await log.flush()

    ((_, _, written),) = await rows(connection)
    found = json.loads(written)
    head, cut, tail = found["long"].partition("[… 7 characters cut …]")
    assert (len(head) + len(tail), bool(cut), tail[-8:]) == (MAX_TEXT, True, "xthe end")
    assert found["many"][-2:] == [MAX_ITEMS - 1, "… 3 more"]
    assert len(found["keys"]) == MAX_ITEMS + 1
    assert found["name"] == "caf\\udce9"
    assert found["numbers"] == [1.5, "nan", "-inf"], "JSON has no such numbers"
    assert found["('a', 'tuple')"] == "<odd>"
    assert "nested too deeply" in json.dumps(found["deep"])
    assert found["bytes"] == "b'\\xff'"


TALKS: dict[str, Any] = {
    "name": "talks",
    "agents": {"one": agent(tools=["write-file", "read-file"]), "two": agent()},
    "steps": {"check": {"tool": "repo:check"}},
    "workspace": {
        "repos": {"repo": {"path": "../app"}},
        "tools": {"repo": {"check": {"command": "exit 3"}}},
    },
    "graph": chain("one", "check", "two"),
}
TALK: dict[str, Any] = {
    "one": [
        [
            {**writes("a.txt", "1\n"), "usage": {"input_tokens": 10, "output_tokens": 2, "cost_usd": 0.25}},
            {"tools": [{"name": "read-file", "args": {"path": "none"}}], "usage": {"input_tokens": 20}, "delay": 0.05},
            says("one", usage={"input_tokens": 30, "output_tokens": 4, "cost_usd": 0.5}),
        ]
    ],
    "two": [[{"error": "overloaded", "times": 2}, says("two", usage={"input_tokens": 1, "output_tokens": 1})]],
}


async def test_the_turns_view_gives_what_each_turn_took(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(TALKS, script=TALK))

    assert result.record.status == "completed", result.record.error
    session = result.record.session_id
    turns = read_turns(find_session(workshop.repo.path, session))
    counted = ("agent", "turn", "attempts", "model_calls", "input_tokens", "tool_calls")
    assert [tuple(turn[key] for key in counted) for turn in turns] == [
        ("one", 1, 1, 3, 60, 2),
        ("check", 1, 1, 0, 0, 1),
        ("two", 1, 1, 1, 1, 0),
    ]
    assert turns[0]["cost_usd"] == 0.75
    assert turns[0]["duration_s"] >= 0.05
    assert all(turn["started_at"] < turn["ended_at"] for turn in turns)
    assert all(0 <= turn["tool_s"] <= turn["duration_s"] for turn in turns)
    usage = result.record.usage
    assert (usage["input_tokens"], usage["model_calls"]) == (61, 4)
    ended = events(workshop, session, "tool_ended")
    assert [(event["payload"]["tool"], event["payload"]["ok"]) for event in ended] == [
        ("repo:write-file", True),
        ("repo:read-file", False),
        ("repo:check", False),
    ]
    assert len(events(workshop, session, "model_failed")) == 2


async def test_a_failed_turn_has_its_duration(workshop: Workshop) -> None:
    pipeline = {**TALKS, "agents": {"one": agent(max_calls=1, tools=["read-file"])}, "graph": chain("one")}
    del pipeline["steps"]
    script = {"one": [[{"tools": [{"name": "read-file", "args": {"path": "x"}}], "delay": 0.02}, says("never")]]}

    result = await workshop.run(workshop.pipeline(pipeline, script=script))

    (turn,) = read_turns(find_session(workshop.repo.path, result.record.session_id))
    assert turn["attempts"] == 3
    assert turn["duration_s"] >= 0.06
    assert turn["ended_at"] is None


async def test_the_log_tells_a_session_from_start_to_end_in_one_order(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(TALKS, script=TALK))

    found = events(workshop, result.record.session_id)
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    assert [(one["seq"], one["type"]) for one in found] == [(event.seq, event.type) for event in workshop.events]
    told = [event["type"] for event in found if event["node"] == "one"]
    assert [kind for kind, _ in itertools.groupby(told)] == [
        *("turn_started", "prompt_given", "model_started", "model_ended", "tool_started", "tool_ended"),
        *("snapshot_taken", "model_started", "model_ended", "tool_started", "tool_ended"),
        *("model_started", "text_delta", "model_ended", "turn_committed", "output_given", "turn_ended"),
    ]
    assert [found[0]["type"], found[-1]["type"]] == ["session_started", "session_completed"]


def test_usage_is_never_reset_by_a_kill_and_a_resume(workshop: Workshop) -> None:
    path = crash_pipeline(workshop)
    killed = run_and_kill(workshop, path, "checkpoint-written:15")
    assert killed.session is not None
    (before,) = query(workshop, killed.session, "SELECT usage FROM sessions")
    result = asyncio.run(workshop.resume(killed.session))

    assert_done(workshop, result)
    assert result.record.usage["model_calls"] == 10
    assert 0 < json.loads(before[0])["model_calls"] < 10


def test_what_a_checkpoint_rests_on_is_in_the_log_before_it(workshop: Workshop) -> None:
    """Killed right after a checkpoint: the events of what it holds are there."""
    script = {"one": [[writes("a.txt", "1\n"), writes("b.txt", "1\n"), says("one")]]}
    pipeline = {"name": "one", "agents": {"one": agent(tools=["write-file"])}, "graph": chain("one")}
    killed = run_and_kill(workshop, workshop.pipeline(pipeline, script=script), "checkpoint-written:6")
    assert killed.session is not None

    kinds = [event["type"] for event in events(workshop, killed.session)]
    assert kinds.count("model_ended") == 1
    assert "tool_ended" in kinds
    assert "snapshot_taken" in kinds


KEY = "sk-canary-0123456789abcdef"
OTHER = "another-canary-9876543210"


async def test_no_secret_is_in_anything_that_a_session_writes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)
    monkeypatch.setenv("OTHER_SECRET", OTHER)
    tool = f"""
import orchestra
from orchestra.tools.registry import tool_registry

@tool_registry.register("leaky")
def leaky() -> str:
    "Fails."
    raise RuntimeError("401 for {KEY}")
"""
    pipeline = {
        "name": "leaks",
        "providers": {
            "default": "offline",
            "offline": {"type": "scripted", "script": "script.yaml", "api_key_env": "CANARY_KEY"},
        },
        "agents": {"one": agent(tools=["shell"])},
        "steps": {"odd": {"tool": "leaky"}},
        "graph": chain("one", "odd"),
    }
    script = {"one": [[{"tools": [{"name": "shell", "args": {"command": "env > env.txt; env"}}]}, says("done")]]}
    path = workshop.pipeline(pipeline, script=script, files={"tools/leaky.py": tool})

    result = await workshop.run(path)

    assert "leaky failed: RuntimeError: 401 for" in result.agent_outputs["odd"]["error"]
    told = json.dumps([event.payload for event in workshop.events]) + json.dumps(result.as_json())
    directory = find_session(workshop.repo.path, result.record.session_id).directory
    written = b"".join(path.read_bytes() for path in directory.glob("session.db*"))
    files = workshop.repo.git("show", f"{result.commits['repo']}:env.txt")
    for secret in (KEY, OTHER):
        assert secret not in told
        assert secret.encode() not in written
        assert secret not in files
    assert "PATH=" in files
    assert database(workshop, result.record.session_id).parent == directory


async def test_a_text_that_somebody_has_to_decide_on_is_not_cut(connection: aiosqlite.Connection) -> None:
    log = ObservabilityLogger(connection, asyncio.Lock())
    for kind in ("text_delta", "question_asked", "human_turn"):
        log.emit(kind, {"text": "x" * (MAX_TEXT + 7)})
    await log.flush()

    assert [len(json.loads(written)["text"]) for _, _, written in await rows(connection)] == [MAX_TEXT + 7] * 3
