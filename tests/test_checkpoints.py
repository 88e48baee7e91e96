"""The strict serializer and the saver: what a database row can do, and what comes back from one."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command, Interrupt, Overwrite, Send

from orchestra.errors import SessionError
from orchestra.runtime.checkpoints import OrchestraSaver, raise_clock
from orchestra.runtime.serializer import FORMAT, RecordedError, StrictSerializer
from tests.session_support import crash_pipeline, database, run_and_kill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import Workshop

serializer = StrictSerializer()


def around(value: Any) -> Any:
    return serializer.loads_typed(serializer.dumps_typed(value))


# --- what goes in comes out

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
keys = st.text(max_size=5) | st.sampled_from(["$", "items", "type", "kind", "lc", "__interrupt__"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.builds(Send, st.text(max_size=5), inner)
        | st.builds(Interrupt, value=inner, id=st.text(max_size=5))
        | st.builds(Overwrite, inner)
        | st.builds(lambda update, goto: Command(update=update, goto=goto), inner, st.lists(st.text(max_size=3)))
    ),
    max_leaves=20,
)


@given(values)
@settings(deadline=None)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    found = around(value)

    assert found == value
    assert type(found) is type(value)


@given(st.dictionaries(keys, values, min_size=1).map(lambda value: {"$": "message", "kind": "human", **value}))
@settings(deadline=None, max_examples=50)
def test_a_users_mapping_that_looks_like_a_mark_is_only_a_mapping(value: dict[str, Any]) -> None:
    assert around(value) == value


MESSAGES = [
    HumanMessage("hi", name="person", id="1"),
    HumanMessage([{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:,"}}]),
    SystemMessage("be good"),
    AIMessage(
        "calling",
        name="critic",
        id="2",
        tool_calls=[{"name": "a", "args": {"$": 1, "x": [None]}, "id": "c1"}],
        invalid_tool_calls=[{"name": "b", "args": "{", "id": "c2", "error": "cut", "type": "invalid_tool_call"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        response_metadata={"stop_reason": "tool_use"},
        additional_kwargs={"thinking": {"$": "error"}},
    ),
    ToolMessage("out", tool_call_id="c1", name="a", status="error", artifact={"exit_code": 1}),
    RemoveMessage(id="2"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_come_back_as_they_were(message: BaseMessage) -> None:
    found = around({"messages": [message]})["messages"][0]

    assert type(found) is type(message)
    assert found == message


def test_a_streamed_chunk_is_kept_as_the_message_it_makes_up() -> None:
    assert around(AIMessageChunk(content="hello", id="1")) == AIMessage("hello", id="1")


def test_an_error_is_kept_as_its_type_and_text() -> None:
    found = around(KeyError("x"))

    assert (type(found), str(found)) == (RecordedError, "KeyError: 'x'")


def test_text_of_any_bytes_comes_back() -> None:
    name = os.fsdecode(b"caf\xe9.py")

    assert around({name: [name, "\0", "\U0001f600"]}) == {name: [name, "\0", "\U0001f600"]}


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), ("datetime.datetime", "at .agent_outputs.critic[1]")),
        (b"bytes", ("builtins.bytes", "at .agent_outputs.critic[1]")),
        ({1, 2}, ("builtins.set", "at .agent_outputs.critic[1]")),
        (Text("text"), ("Text", "at .agent_outputs.critic[1]")),
        ({1: "one"}, ("the key 1", "at .agent_outputs.critic[1]")),
        (ChatMessage(content="hi", role="judge"), ("ChatMessage", "at .agent_outputs.critic[1]")),
        (ToolMessage("x", tool_call_id="1", artifact=object()), ("builtins.object", "critic[1].artifact")),
        (object, ("builtins.type", "at .agent_outputs.critic[1]")),
    ],
    ids=["datetime", "bytes", "set", "subclass", "key", "chat", "artifact", "type"],
)
def test_what_is_no_json_is_an_error_that_names_its_place(value: Any, named: tuple[str, str]) -> None:
    with pytest.raises(SessionError) as caught:
        serializer.dumps_typed({"agent_outputs": {"critic": ["fine", value]}})

    assert caught.value.code == "unserializable-state"
    assert all(part in caught.value.message for part in named), caught.value.message
    assert caught.value.hint


def test_a_value_that_holds_itself_is_an_error_and_no_crash() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(SessionError) as caught:
        serializer.dumps_typed(loop)

    assert caught.value.code == "unserializable-state"


# --- what a row may not do


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.canary}'",)


def constructor(canary: Path) -> bytes:
    """LangGraph's own kind of row: call this with that."""
    import ormsgpack

    call = ormsgpack.packb(("os", "system", f"touch '{canary}'"))
    return ormsgpack.packb(ormsgpack.Ext(0, call))


def lc(*path: str, **kwargs: Any) -> dict[str, Any]:
    return {"lc": 2, "type": "constructor", "id": list(path), "kwargs": kwargs}


def hostile(canary: Path) -> list[tuple[str, bytes]]:
    touch = f"touch '{canary}'"
    marks: list[Any] = [
        {"$": "constructor", "id": ["os", "system"], "args": [touch]},
        {"$": "pickle", "data": "gASV"},
        {"$": ["message"]},
        {"$": {"a": 1}},
        {"$": True},
        {"$": "message", "kind": "subprocess.Popen", "data": {"args": touch}},
        {"$": "message", "kind": "ai", "data": {"content": {"lc": 1}, "no_such_field": 1}},
        {"$": "message", "kind": "tool", "data": {}},
        {"$": "message", "kind": ["ai"], "data": {}},
        {"$": "tuple"},
        {"$": "tuple", "items": 3},
        {"$": "mapping", "items": [1]},
        {"$": "send", "node": "x"},
        {"$": "command", "update": {}},
        {"$": "interrupt", "value": 1},
        {"$": "error"},
    ]
    return [
        ("msgpack", constructor(canary)),
        ("pickle", pickle.dumps(Evil(canary))),
        ("json", json.dumps(lc("os", "system", command=touch)).encode()),
        ("bytes", b"plain"),
        ("null", b""),
        ("orchestra-json+aes", b"{}"),
        ("", b""),
        (FORMAT, pickle.dumps(Evil(canary))),
        (FORMAT, constructor(canary)),
        (FORMAT, b""),
        (FORMAT, b"\xff\xfe{"),
        (FORMAT, b"[" * 100_000 + b"]" * 100_000),
        (FORMAT, b'{"$":"tuple","items":[' * 20_000 + b"]}" * 20_000),
        *((FORMAT, json.dumps(mark).encode()) for mark in marks),
    ]


@pytest.mark.parametrize("number", range(29))
def test_a_hostile_row_is_refused_and_runs_nothing(tmp_path: Path, number: int) -> None:
    canary = tmp_path / "canary"
    row = hostile(canary)[number]

    with pytest.raises(SessionError) as caught:
        serializer.loads_typed(row)

    assert caught.value.code == "untrusted-checkpoint"
    assert not canary.exists()


def test_every_hostile_row_has_its_test(tmp_path: Path) -> None:
    assert len(hostile(tmp_path)) == 29


def test_langchains_constructors_are_only_mappings(tmp_path: Path) -> None:
    payload = lc("langchain_core", "messages", "ai", "AIMessage", content="hi")

    assert around(payload) == payload


@pytest.mark.filterwarnings("ignore")
def test_langgraphs_own_serializer_would_run_such_a_row(tmp_path: Path) -> None:
    """The control: where this fails, the rows above prove nothing."""
    canary = tmp_path / "canary"

    JsonPlusSerializer().loads_typed(("msgpack", constructor(canary)))

    assert canary.exists()


def test_a_session_with_a_planted_row_is_not_resumed(workshop: Workshop, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    killed = run_and_kill(workshop, crash_pipeline(workshop), "checkpoint-written:6")
    assert killed.session is not None
    with closing(sqlite3.connect(database(workshop, killed.session))) as connection:
        connection.execute("UPDATE checkpoints SET type = 'msgpack', checkpoint = ?", (constructor(canary),))
        connection.commit()

    with pytest.raises(SessionError) as caught:
        asyncio.run(workshop.resume(killed.session))

    assert caught.value.code == "untrusted-checkpoint"
    assert not canary.exists()


# --- the saver


@pytest.fixture
async def saver(tmp_path: Path) -> AsyncIterator[OrchestraSaver]:
    async with aiosqlite.connect(tmp_path / "session.db") as connection:
        saver = OrchestraSaver(connection, nodes=["a"], joins=["join.a"], entries=["a"], base={"repo": "0" * 40})
        await saver.prepare()
        yield saver


async def test_the_saver_passes_langgraphs_conformance_tests(tmp_path: Path) -> None:
    from langgraph.checkpoint import conformance

    count = 0

    async def factory() -> AsyncIterator[OrchestraSaver]:
        nonlocal count
        count += 1
        async with aiosqlite.connect(tmp_path / f"{count}.db") as connection:
            one = OrchestraSaver(connection, nodes=["a"], joins=[], entries=["a"], base={})
            await one.prepare()
            yield one

    report = await conformance.validate(conformance.checkpointer_test(name="OrchestraSaver")(factory))

    failures = {name: found.failures for name, found in report.results.items() if found.detected and not found.passed}
    assert failures == {}
    assert report.passed_all_base()


async def test_the_next_checkpoint_is_later_than_all_whatever_the_clock_says(
    saver: OrchestraSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pins the private name in LangGraph on which this hangs."""
    future = str(checkpoint_ids.UUID("1ffffff0-0000-6000-8000-000000000000"))
    monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)

    raise_clock(future)

    assert str(checkpoint_ids.uuid6()) > future
    assert str(checkpoint_ids.uuid6(clock_seq=1)) > future


async def put(saver: OrchestraSaver, namespace: str = "", parent: str | None = None, **channels: Any) -> str:
    config: Any = {"configurable": {"thread_id": "thread", "checkpoint_ns": namespace}}
    if parent:
        config["configurable"]["checkpoint_id"] = parent
    checkpoint = {**empty_checkpoint(), "channel_values": channels}
    saved = await saver.aput(config, checkpoint, {"source": "loop", "step": 1}, {})  # type: ignore[arg-type]
    return str(saved["configurable"]["checkpoint_id"])


def held(commit: str, number: int) -> dict[str, Any]:
    return {"snapshot": {"_session": {"repo": {"commit": commit, "n": number}}}}


async def test_changed_is_told_against_the_checkpoint_before_also_by_another_process(tmp_path: Path) -> None:
    """A new process knows nothing of the namespaces of turns that it goes on with."""
    seen = []
    first = second = ""
    for number in range(3):
        async with aiosqlite.connect(tmp_path / "session.db") as connection:
            saver = OrchestraSaver(connection, nodes=["a"], joins=[], entries=["a"], base={"repo": "base"})
            await saver.prepare()
            if number == 0:
                await put(saver, **held("base", 0))
                first = await put(saver, "a:1", **held("base", 0))
                second = await put(saver, "a:1", first, **held("c1", 1))
            if number == 1:
                await put(saver, "a:1", second, **held("c1", 1))
            if number == 2:
                await put(saver, **held("c2", 2))
            rows = await connection.execute_fetchall("SELECT CAST(metadata AS TEXT) FROM checkpoints ORDER BY rowid")
            seen = [json.loads(row[0])["orchestra"] for row in rows]

    assert [row["changed"] for row in seen] == [[], [], ["repo"], [], ["repo"]]
    assert [row["repos"]["repo"] for row in seen] == ["base", "base", "c1", "c1", "c2"]
    assert [row["seq"] for row in seen] == [1, 2, 3, 4, 5]


async def test_a_checkpoint_in_a_helper_namespace_names_the_agent_around_it(saver: OrchestraSaver) -> None:
    await put(saver)
    await put(saver, "a:1|1")
    await put(saver, "a:1|helper:2")
    await put(saver, "helper:3")

    rows = await saver.conn.execute_fetchall("SELECT CAST(metadata AS TEXT) FROM checkpoints ORDER BY rowid")
    assert [json.loads(row[0])["orchestra"]["agent"] for row in rows] == [None, "a", "a", None]


async def test_events_are_on_disk_before_the_checkpoint_and_branches_move_after_it(saver: OrchestraSaver) -> None:
    order = []

    async def count() -> int:
        return next(iter(await saver.conn.execute_fetchall("SELECT COUNT(*) FROM checkpoints")))[0]  # type: ignore[no-any-return]

    async def before() -> None:
        order.append(("before", await count()))

    async def after(saved: Any) -> None:
        order.append(("after", await count()))

    saver.before_put, saver.after_put = before, after
    await put(saver)

    assert order == [("before", 0), ("after", 1)]
