"""What is switched on by which words of the environment, and what becomes of a log that is not whole."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra.runtime.observability import Event
from orchestra.runtime.telemetry import switches
from orchestra.runtime.telemetry.fold import SpanFold
from orchestra.runtime.telemetry.telling import Subject

URL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        (URL, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, True),
        ({**URL, "OTEL_SDK_DISABLED": "True"}, False),
        ({**URL, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**URL, "OTEL_TRACES_EXPORTER": "console"}, False),
        ({**URL, "OTEL_TRACES_EXPORTER": "console, otlp"}, True),
    ],
)
def test_an_endpoint_switches_spans_on(environment: dict[str, str], wanted: bool) -> None:
    assert switches.otel_is_wanted(environment) is wanted


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"LANGSMITH_API_KEY": "lsv2"}, True),
        ({"LANGCHAIN_API_KEY": "lsv2"}, None),
        ({"LANGSMITH_TRACING": "true"}, True),
        ({"LANGCHAIN_TRACING_V2": "true"}, True),
        ({"LANGSMITH_API_KEY": "lsv2", "LANGSMITH_TRACING": "false"}, False),
        ({"LANGSMITH_API_KEY": "lsv2", "LANGSMITH_TRACING": ""}, True),
        ({"LANGSMITH_TRACING": "0", "LANGCHAIN_TRACING_V2": "true"}, False),
    ],
)
def test_a_key_or_its_own_word_switches_langsmith_on(environment: dict[str, str], wanted: bool | None) -> None:
    assert switches.langsmith_is_wanted(environment) is wanted


@pytest.mark.parametrize(
    ("environment", "hidden"),
    [
        ({}, True),
        ({"LANGSMITH_HIDE_INPUTS": "false"}, False),
        ({"LANGCHAIN_HIDE_INPUTS": "false"}, False),
        ({switches.CONTENTS: "true"}, False),
        ({switches.CONTENTS: "false"}, True),
        ({switches.CONTENTS: "NO_CONTENT"}, True),
        ({switches.CONTENTS: "true", "LANGSMITH_HIDE_INPUTS": "true"}, True),
    ],
)
def test_contents_are_hidden_unless_somebody_has_said_so(environment: dict[str, str], hidden: bool) -> None:
    assert switches.langsmith_hides("INPUTS", environment) is hidden


@pytest.mark.parametrize("given", ["", "nonsense", "00-" + "0" * 31 + "-" + "1" * 16 + "-01", "\n"])
def test_a_trace_context_that_is_none_is_left_alone(given: str) -> None:
    assert switches.carrier({**URL, "TRACEPARENT": given}) == {}


def test_a_trace_context_is_kept_only_where_spans_are_sent() -> None:
    context = {"TRACEPARENT": f"00-{'a' * 32}-{'b' * 16}-01", "TRACESTATE": "x=y"}
    assert switches.carrier(context) == {}
    assert switches.carrier({**URL, **context}) == {"traceparent": context["TRACEPARENT"], "tracestate": "x=y"}


def told(*events: tuple[Any, ...], contents: bool = False) -> list[tuple[str, str | None]]:
    """Feed `(type, node, turn, payload)`; returns the names and errors of the spans, with those left open."""
    subject = Subject("s", "p", {"a", "b"}, {}, contents=contents)
    fold, spans = SpanFold(subject), []
    for seq, (kind, node, turn, payload) in enumerate(events, 1):
        spans += fold.feed(Event(seq, f"2026-01-01T00:00:{seq:02}.000000+00:00", kind, node, turn, 1, payload))
    spans += fold.close()
    assert all(span.start <= span.end for span in spans)
    return [(span.name, span.error) for span in spans]


START: tuple[Any, ...] = ("session_started", None, None, {})
CALL = {"model": "m", "provider": "x", "attempt": 1}


def test_a_log_without_ends_has_its_spans() -> None:
    assert told(START, ("turn_started", "a", 1, {}), ("model_started", "a", 1, CALL)) == [
        ("chat m", None),
        ("invoke_agent a", None),
        ("invoke_workflow p", None),
    ]


def test_events_that_fit_nowhere_are_passed_over() -> None:
    alone: list[tuple[Any, ...]] = [
        (kind, "a", 1, {}) for kind in ("turn_ended", "model_ended", "model_failed", "tool_ended", "turn_failed")
    ]
    assert (
        told(*alone, ("tool_started", "a", 1, {}), ("turn_started", "a", 1, {}), ("checkpoint", None, None, {})) == []
    )


def test_two_calls_of_one_tool_in_an_old_log_are_told_one_after_the_other() -> None:
    call = {"tool": "repo:read-file", "args": {}}
    ended = {"tool": "repo:read-file", "ok": True}
    spans = told(
        START,
        ("turn_started", "a", 1, {}),
        ("tool_started", "a", 1, call),
        ("tool_ended", "a", 1, ended),
        ("tool_started", "a", 1, call),
        ("tool_ended", "a", 1, ended),
    )
    assert [name for name, _ in spans].count("execute_tool repo:read-file") == 2


def test_a_turn_whose_model_came_back_is_no_failure() -> None:
    spans = told(
        START,
        ("turn_started", "a", 1, {}),
        ("model_started", "a", 1, CALL),
        ("model_failed", "a", 1, {"error": "RateLimitError", "retry_in": None}),
        ("turn_failed", "a", 1, {"code": "model-failed"}),
        ("model_started", "a", 1, CALL),
        ("model_ended", "a", 1, {}),
        ("turn_ended", "a", 1, {}),
        ("session_completed", None, None, {}),
    )
    assert spans == [
        ("chat m", "RateLimitError"),
        ("chat m", None),
        ("invoke_agent a", None),
        ("invoke_workflow p", None),
    ]


def test_a_fork_tells_nothing_of_the_session_that_it_left() -> None:
    before: tuple[tuple[Any, ...], ...] = (START, ("turn_started", "a", 1, {}), ("turn_ended", "a", 1, {}))
    subject = Subject("s", "p", {"a"}, {}, contents=False)
    fold = SpanFold(subject)
    for seq, (kind, node, turn, payload) in enumerate(before, 1):
        fold.feed(Event(seq, "2026-01-01T00:00:00+00:00", kind, node, turn, 1, payload))
    assert fold.feed(Event(4, "2026-01-02T00:00:00+00:00", "session_forked", payload={"session_id": "old"})) == []
    fold.feed(Event(5, "2026-01-02T00:00:00+00:00", "session_resumed"))
    (root,) = fold.close()
    assert root.parent is None
    assert root.attributes["orchestra.forked_from.session.id"] == "old"
    assert root.attributes["orchestra.drive"] == 1


@pytest.mark.parametrize("name", ["../../etc/passwd\n", "rm -rf", "x" * 200, 7, None, {"a": 1}])
def test_what_a_model_calls_a_tool_is_told_only_where_it_is_a_name(name: Any) -> None:
    call = {"tool": name, "call": name, "args": {"path": "secret"}}
    spans = told(START, ("turn_started", "a", 1, {}), ("tool_started", "a", 1, call))
    assert spans[0] == ("execute_tool _OTHER", None)
