"""Traces as OpenTelemetry's protocol brings them to a real collector, with what must never get there."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.graph.project import find_project
from orchestra.runtime.replaying import Changes
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import find_session
from orchestra.runtime.telemetry import switches, traced
from orchestra.testing import ScriptedPerson
from tests.collectors import Collector, serving
from tests.session_support import agent, chain, events, run_and_kill, says, writes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestra.agents.conversation import Question
    from tests.conftest import Workshop

CONTENTS = ("PROMPT-MARK", "INPUT-MARK", "TEXT-MARK", "FILE-MARK", "PATH-MARK", "OUTPUT-MARK")
READS = [{"name": "read-file", "args": {"path": path}} for path in ("app.py", "docs/notes.md", "PATH-MARK.txt")]
PIPELINE: dict[str, Any] = {
    "name": "traced",
    "inputs": {"about": {"default": "INPUT-MARK"}},
    "agents": {
        "reader": agent("PROMPT-MARK", tools=["read-file", "write-file"]),
        "writer": agent(tools=["write-file"]),
        "critic": agent(output={"type": "object", "properties": {"verdict": {"type": "string"}}}),
    },
    "steps": {"count": {"tool": "repo:count"}},
    "workspace": {
        "repos": {"repo": {"path": "../app"}},
        "tools": {"repo": {"count": {"command": "ls | wc -l", "args": {}, "writes": False}}},
    },
    "conditions": "conditions",
    "graph": [
        {"from": "START", "to": ["reader", "writer"]},
        {"from": ["reader", "writer"], "to": "count"},
        {"from": "count", "to": "critic"},
        {"from": "critic", "to": ["reader", "END"], "condition": "verdict", "max_loops": 1},
    ],
}
CONDITION = """
import orchestra

@orchestra.condition("verdict")
def verdict(state):
    return "reader" if state["agent_outputs"]["critic"]["verdict"] == "revise" else "END"
"""
USAGE = {"input_tokens": 900, "output_tokens": 40, "cached_tokens": 500}
SCRIPT: dict[str, Any] = {
    "reader": [
        [{"tools": READS, "usage": USAGE}, writes("b.txt", "1\n"), says("TEXT-MARK the key is hunter2hunter2")],
        [says("again")],
    ],
    "writer": [[writes("PATH-MARK.md", "FILE-MARK\n"), {"error": "rate_limit", "times": 1}, says("OUTPUT-MARK")]],
    "critic": [[{"output": {"verdict": "revise"}}], [{"output": {"verdict": "approve"}}]],
}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, and an environment that names it."""
    collector = Collector()
    with serving(collector):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
        yield collector


def pipeline(workshop: Workshop) -> Path:
    return workshop.pipeline(PIPELINE, script=SCRIPT, files={"conditions/verdict.py": CONDITION})


def small(workshop: Workshop, script: dict[str, Any], **more: Any) -> Path:
    agents = {name: agent(tools=["write-file"], **more) for name in script}
    return workshop.pipeline({"name": "small", "agents": agents, "graph": chain(*script)}, script=script)


def warnings(workshop: Workshop) -> list[str]:
    return [event.payload["code"] for event in workshop.events if event.type == "warning"]


async def test_a_session_is_one_tree_of_spans_without_contents(workshop: Workshop, collector: Collector) -> None:
    result = await workshop.run(pipeline(workshop))

    assert result.record.status == "completed"
    collector.assert_one_tree()
    session = result.record.session_id
    (root,) = collector.named("invoke_workflow traced")
    begun = collector.children(root)
    assert sorted(begun[:2]) == ["invoke_agent reader", "invoke_agent writer"]
    assert begun[2:4] == ["step count", "invoke_agent critic"]
    assert begun[4:] == ["invoke_agent reader", "step count", "invoke_agent critic"]
    assert root.attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert root.attributes["orchestra.outcome"] == "completed"
    assert root.resource["service.name"] == "orchestra"
    told = {name for name, _ in root.events}
    assert {"orchestra.checkpoint", "orchestra.merged"} <= told

    reader, again = sorted(collector.named("invoke_agent reader"), key=lambda span: span.start)
    assert collector.children(reader) == [
        *("chat m", *["execute_tool repo:read-file"] * 3),
        *("chat m", "execute_tool repo:write-file", "chat m"),
    ]
    assert [span.attributes["orchestra.turn"] for span in (reader, again)] == [1, 2]
    assert reader.attributes["gen_ai.agent.name"] == "reader"
    reads = collector.named("execute_tool repo:read-file")
    assert len({span.attributes["gen_ai.tool.call.id"] for span in reads}) == 3
    assert sorted(span.status for span in reads) == [(0, ""), (0, ""), (2, "tool_error")]
    call = next(span for span in collector.named("chat m") if span.attributes["gen_ai.usage.input_tokens"] == 900)
    assert call.kind == 3  # a client
    assert {name: call.attributes[name] for name in call.attributes if "usage" in name} == {
        "gen_ai.usage.input_tokens": 900,
        "gen_ai.usage.output_tokens": 40,
        "gen_ai.usage.cache_read.input_tokens": 500,
        "gen_ai.usage.cache_creation.input_tokens": 0,
    }
    assert call.attributes["gen_ai.provider.name"] == "scripted"
    assert call.attributes["orchestra.provider"] == "offline"
    assert call.attributes["gen_ai.response.finish_reasons"] == ["tool_use"]

    (writer,) = collector.named("invoke_agent writer")
    commits = {event.node: event.payload["commit"] for event in workshop.events if event.type == "turn_committed"}
    assert writer.attributes["orchestra.commit.repo"] == commits["writer"]
    tried = [span for span in collector.named("chat m") if span.attributes.get("orchestra.attempts") == 2]
    assert [name for span in tried for name, _ in span.events] == ["orchestra.model_failed"]
    assert [span.status[0] for span in tried] == [0]
    critic = collector.named("invoke_agent critic")[0]
    chose = next(about for name, about in critic.events if name == "orchestra.condition_chose")
    assert chose["orchestra.targets"] == ["reader"]

    assert {span.attributes["gen_ai.conversation.id"] for span in collector.spans} == {session}
    assert not [mark for mark in (*CONTENTS, "hunter2", str(workshop.repo.path)) if mark in collector.text]
    assert find_session(workshop.repo.path, session).sent_spans.stat().st_mode & 0o777 == 0o600


async def test_contents_are_sent_where_the_user_says_so_and_secrets_never(
    workshop: Workshop, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(switches.CONTENTS, "true")

    await workshop.run(pipeline(workshop))

    collector.assert_one_tree()
    assert not [mark for mark in CONTENTS if mark not in collector.text]
    assert "hunter2" not in collector.text
    (reader, _) = sorted(collector.named("invoke_agent reader"), key=lambda span: span.start)
    assert "PROMPT-MARK" in reader.attributes["gen_ai.system_instructions"]
    assert "INPUT-MARK" in reader.attributes["gen_ai.input.messages"]
    assert "TEXT-MARK" in reader.attributes["gen_ai.output.messages"]
    wrote = [span.attributes for span in collector.named("execute_tool repo:write-file")]
    assert any("FILE-MARK" in about["gen_ai.tool.call.arguments"] for about in wrote)
    assert any("PATH-MARK.md" in about["gen_ai.tool.call.result"] for about in wrote)


async def test_a_failed_turn_is_an_error_and_the_trace_hangs_where_the_environment_says(
    workshop: Workshop, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = "0af7651916cd43dd8448eb211c80319c"
    monkeypatch.setenv("TRACEPARENT", f"00-{around}-b7ad6b7169203331-01")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=let me in")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    path = small(workshop, {"first": [[{"error": "auth"}]], "second": [[says("hm")]]})

    result = await workshop.run(path)

    assert result.record.status == "failed"
    (root,) = collector.named("invoke_workflow small")
    assert (root.trace, root.parent) == (around, "b7ad6b7169203331")
    assert root.resource["service.name"] == "mine"
    assert collector.requests[0].headers["authorization"] == "let me in"
    errors = {span.name: (span.attributes["error.type"], span.status) for span in collector.spans}
    assert errors["invoke_workflow small"] == errors["invoke_agent first"] == ("model-auth", (2, "model-auth"))
    kind, status = errors["chat m"]
    assert kind.endswith("Error")
    assert status == (2, kind)  # no words of the provider

    monkeypatch.delenv("TRACEPARENT")
    await workshop.resume(result.record.session_id)

    assert {span.trace for span in collector.spans} == {around}
    (first, second) = collector.named("invoke_workflow small")
    assert second.parent == first.id
    assert len({span.id for span in collector.spans}) == len(collector.spans)


async def test_a_conversation_is_in_the_trace_without_its_words(workshop: Workshop, collector: Collector) -> None:
    path = small(workshop, {"talker": [[says("Shall I, TEXT-MARK?"), says("Good.")]]}, mode="interactive")

    result = await workshop.run(path, channels=[ScriptedPerson(["yes, INPUT-MARK", "/approve"])])

    assert result.record.status == "completed"
    collector.assert_one_tree()
    (talker,) = collector.named("invoke_agent talker")
    told = [name for name, _ in talker.events if name in ("orchestra.question_asked", "orchestra.human_turn")]
    assert told == ["orchestra.question_asked", "orchestra.human_turn"] * 2
    assert not [mark for mark in CONTENTS if mark in collector.text]


@pytest.mark.parametrize("delay", [10, 60_000])
@pytest.mark.parametrize("failpoint", ["event-tool_ended", "event-turn_ended"])
async def test_after_a_kill_the_trace_goes_on_as_one_tree(
    workshop: Workshop, collector: Collector, failpoint: str, delay: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", str(delay))  # what was sent before the kill
    path = small(workshop, {"first": [[writes("a.txt", "1\n"), says("one")]], "second": [[says("two")]]})
    killed = await asyncio.to_thread(run_and_kill, workshop, path, failpoint)
    assert killed.session is not None
    assert not killed.finished

    result = await workshop.resume(killed.session)

    assert result.record.status == "completed"
    collector.assert_one_tree(killed=True)
    first, second = sorted(collector.named("invoke_workflow small"), key=lambda span: span.start)
    assert second.parent == first.id
    assert first.attributes["orchestra.outcome"] == "killed"
    assert second.attributes["orchestra.drive"] == 2
    # Each event that begins something has its span, whichever process has sent it.
    begun = events(workshop, killed.session, "turn_started", "model_started", "tool_started")
    keys = {span.attributes["orchestra.event"] for span in collector.spans}
    assert {event["seq"] for event in begun} <= keys


async def test_what_could_not_be_sent_is_sent_by_the_next_process(
    workshop: Workshop, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traced, "PATIENCE", 0.5)
    path = small(workshop, {"talker": [[says("Well?"), says("Good.")]]}, mode="interactive")
    collector.status = 400

    result = await workshop.run(path)

    assert result.record.status == "paused"
    assert warnings(workshop) == ["traces-lost"]
    collector.requests.clear()
    collector.status = 200
    await workshop.resume(result.record.session_id, channels=[ScriptedPerson(["/done"])])
    collector.assert_one_tree()
    assert len(collector.named("invoke_workflow small")) == 2


async def test_a_fork_is_a_trace_of_its_own(workshop: Workshop, collector: Collector) -> None:
    result = await workshop.run(small(workshop, {"first": [[says("one")]], "second": [[says("two")]]}))
    source = result.record.session_id
    collector.requests.clear()
    row = next(row for row in workshop.checkpoints(source) if row["next"] == ["second"])

    manager = SessionManager(find_project(workshop.repo.path))
    fork = await manager.replay(find_session(workshop.repo.path, source), row, Changes())

    collector.assert_one_tree()
    assert {span.attributes["orchestra.session.id"] for span in collector.spans} == {fork.record.session_id}
    (root,) = collector.named("invoke_workflow small")
    assert root.attributes["orchestra.forked_from.session.id"] == source
    assert collector.children(root) == ["invoke_agent second"]


async def test_without_an_endpoint_nothing_is_loaded(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("otel", "sending", "smith"):
        monkeypatch.setitem(sys.modules, f"orchestra.runtime.telemetry.{name}", None)

    result = await workshop.run(small(workshop, {"first": [[says("one")]]}))

    assert result.record.status == "completed"
    assert warnings(workshop) == []


@contextmanager
def closed_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    yield url


@pytest.mark.parametrize("fault", ["dead", "hangs", "refuses", "no url"])
async def test_a_collector_that_fails_is_one_warning_and_nothing_else(
    workshop: Workshop,
    collector: Collector,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(traced, "PATIENCE", 0.5)
    collector.hangs, collector.status = fault == "hangs", 500
    with closed_port() as nowhere:
        if fault in ("dead", "no url"):
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere if fault == "dead" else "::::")

        result = await workshop.run(small(workshop, {"first": [[says("one")]]}))

    assert result.record.status == "completed"
    assert warnings(workshop) == ["traces-lost"]
    assert capfd.readouterr() == ("", "")
    assert not find_session(workshop.repo.path, result.record.session_id).sent_spans.exists()


async def test_an_answer_that_makes_no_sense_is_no_fault(workshop: Workshop, collector: Collector) -> None:
    collector.answer = b"\xff<html>" * 1000

    await workshop.run(small(workshop, {"first": [[says("one")]]}))

    collector.assert_one_tree()
    assert warnings(workshop) == []


async def test_without_the_extra_a_run_goes_on_and_says_what_to_install(
    workshop: Workshop, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "orchestra.runtime.telemetry.otel", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    result = await workshop.run(small(workshop, {"first": [[says("one")]]}))

    assert result.record.status == "completed"
    (warning,) = [event.payload for event in workshop.events if event.type == "warning"]
    assert warning["code"] == "traces-off"
    assert "pip install 'orchestra-agents[otel]'" in warning["message"]
    assert collector.requests == []


async def test_a_protocol_that_is_not_spoken_is_said(
    workshop: Workshop, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

    await workshop.run(small(workshop, {"first": [[says("one")]]}))

    assert warnings(workshop) == ["traces-off"]
    assert collector.requests == []


async def test_a_sampler_that_takes_nothing_is_obeyed(
    workshop: Workshop, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")

    await workshop.run(small(workshop, {"first": [[says("one")]]}))

    assert warnings(workshop) == []
    assert collector.requests == []


class Silent(ScriptedPerson):
    """A person who never answers."""

    def __init__(self) -> None:
        super().__init__([])
        self.waits = asyncio.Event()

    async def ask(self, question: Question) -> str | None:
        self.waits.set()
        await asyncio.Event().wait()
        return None


async def test_a_stop_is_not_held_up_by_a_collector_that_hangs(workshop: Workshop, collector: Collector) -> None:
    collector.hangs = True
    path = small(workshop, {"talker": [[says("Well?"), says("Good.")]]}, mode="interactive")
    person = Silent()
    run = asyncio.create_task(workshop.run(path, channels=[person]))
    await person.waits.wait()
    started = time.monotonic()

    run.cancel()
    result = await run

    assert result.record.status == "paused"
    assert time.monotonic() - started < 2.5  # with `PATIENCE` it were more than 3
