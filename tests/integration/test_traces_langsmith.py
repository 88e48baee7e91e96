"""Traces that LangChain's tracer sends to LangSmith, read from a real server that plays its interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langsmith import utils

from orchestra.runtime.telemetry import switches, traced
from tests.collectors import LangSmith, serving
from tests.integration.test_traces_otel import CONTENTS, closed_port, pipeline, small, warnings
from tests.session_support import says

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Workshop

KEY = "lsv2_pt_0123456789abcdef"


@pytest.fixture
def smith(monkeypatch: pytest.MonkeyPatch) -> Iterator[LangSmith]:
    """LangSmith's interface, and an environment that names it and a key; LangSmith's client remembers what it reads."""
    smith = LangSmith()
    forget()
    with serving(smith):
        monkeypatch.setenv("LANGSMITH_ENDPOINT", smith.url)
        monkeypatch.setenv("LANGSMITH_API_KEY", KEY)
        monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
        yield smith
    forget()


def forget() -> None:
    for remembers in (utils.get_env_var, utils.get_tracer_project):
        remembers.cache_clear()  # type: ignore[union-attr]  # lost by an overload


def failing() -> dict[str, Any]:
    return {"first": [[{"tools": [{"name": "nothing-such"}]}, {"error": "auth"}]]}


async def test_a_key_is_enough_and_no_contents_are_sent(workshop: Workshop, smith: LangSmith) -> None:
    result = await workshop.run(pipeline(workshop))

    session = result.record.session_id
    assert not [mark for mark in (*CONTENTS, "hunter2", str(workshop.repo.path)) if mark in smith.text]
    assert KEY not in smith.text
    assert {request.headers["x-api-key"] for request in smith.requests} == {KEY}
    (root,) = smith.named(f"traced {session}")
    assert {run["trace_id"] for run in smith.runs.values()} == {root["id"]}
    for run in smith.runs.values():
        about = run["extra"]["metadata"]
        assert (about["session_id"], about["pipeline"]) == (session, "traced")
        assert (run.get("inputs") or {}, run.get("outputs") or {}) == ({}, {})
        assert run.get("end_time"), run["name"]
        assert "pipeline:traced" in run["tags"]
    (again,) = smith.named("reader (turn 2)")
    place = {name: again["extra"]["metadata"][name] for name in ("agent", "turn", "attempt")}
    assert place == {"agent": "reader", "turn": 2, "attempt": 1}
    calls = [run["extra"]["metadata"] for run in smith.runs.values() if run["run_type"] == "llm"]
    assert {about["agent"] for about in calls} == {"reader", "writer", "critic"}
    assert {about["usage_metadata"]["input_tokens"] for about in calls if "usage_metadata" in about} == {0, 900}
    assert [run["error"] for run in smith.runs.values() if run.get("error")]
    assert all(" " not in run["error"] for run in smith.runs.values() if run.get("error"))  # a name, no words
    assert warnings(workshop) == []


async def test_contents_are_sent_where_the_user_says_so_and_secrets_never(
    workshop: Workshop, smith: LangSmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(switches.CONTENTS, "true")

    await workshop.run(pipeline(workshop))

    assert not [mark for mark in CONTENTS if mark not in smith.text]
    assert "hunter2" not in smith.text
    assert KEY not in smith.text


async def test_langsmiths_own_words_about_contents_count_too(
    workshop: Workshop, smith: LangSmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_HIDE_OUTPUTS", "false")
    monkeypatch.delenv("LANGSMITH_API_KEY")
    monkeypatch.setenv("LANGSMITH_TRACING", "true")  # a server of one's own

    await workshop.run(small(workshop, {"first": [[says("TEXT-MARK")]]}, context="none"))

    assert "TEXT-MARK" in smith.text
    assert all((run.get("inputs") or {}) == {} for run in smith.runs.values())


async def test_what_a_failure_says_stays_here(workshop: Workshop, smith: LangSmith) -> None:
    await workshop.run(small(workshop, failing()))

    errors = {run["error"] for run in smith.runs.values() if run.get("error")}
    assert "TurnFailed" in errors
    assert "nothing-such" not in smith.text
    assert "Traceback" not in smith.text


@pytest.mark.parametrize("name", ["LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"])
async def test_who_switches_tracing_off_sends_nothing(
    workshop: Workshop, smith: LangSmith, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING_V2", "true")
    monkeypatch.setenv(name, "false")

    await workshop.run(small(workshop, {"first": [[says("one")]]}))

    assert smith.requests == []


@pytest.mark.parametrize("fault", ["dead", "hangs", "refuses"])
async def test_a_langsmith_that_fails_is_one_warning_and_nothing_else(
    workshop: Workshop,
    smith: LangSmith,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(traced, "PATIENCE", 0.5)
    smith.hangs, smith.status = fault == "hangs", 403
    with closed_port() as nowhere:
        if fault == "dead":
            monkeypatch.setenv("LANGSMITH_ENDPOINT", nowhere)

        result = await workshop.run(small(workshop, {"first": [[says("one")]]}))

    assert result.record.status == "completed"
    assert warnings(workshop) == ["traces-lost"]
    assert capfd.readouterr() == ("", "")
