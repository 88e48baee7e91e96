"""What the event log says is a contract: every event that is written has its place in the schema."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

import orchestra
from orchestra.agents.conversation import Question
from orchestra.runtime.event_types import EVENT_TYPES, VERSION, event_schema
from tests.session_support import agent, chain, says, writes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Workshop

SOURCES = Path(orchestra.__file__).parent
REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
CALLS = frozenset({"emit", "tell", "_tell"})


def written_types() -> Iterator[tuple[str, str]]:
    """Yield each event that the source code writes under a literal name, and where."""
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            function, first = node.func, node.args[0]
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            for each in ast.walk(first) if name in CALLS else ():
                value = each.value if isinstance(each, ast.Constant) else None
                if isinstance(value, str) and re.fullmatch(r"[a-z]+(_[a-z]+)*", value):
                    yield value, f"{path.name}:{node.lineno}"


def test_every_event_that_is_written_is_in_the_schema() -> None:
    found = list(written_types())

    assert {name for name, _ in found} > {"turn_started", "session_resumed", "question_asked", "snapshot_taken"}
    assert not [f"{name} ({where})" for name, where in found if name not in EVENT_TYPES]


async def test_the_events_of_a_session_are_what_the_schema_says(workshop: Workshop) -> None:
    pipeline: dict[str, Any] = {
        "name": "x",
        "agents": {"one": agent(tools=["write-file"]), "two": agent()},
        "graph": chain("one", "two"),
    }
    script = {"one": [[writes("a.txt", "1\n"), says("1")]], "two": [[{"error": "overloaded"}, says("2")]]}
    await workshop.run(workshop.pipeline(pipeline, script=script))

    validator = jsonschema.Draft202012Validator(event_schema())
    for event in workshop.events:
        validator.validate(json.loads(json.dumps(event.as_json())))
    assert {"prompt_given", "text_delta", "output_given", "model_failed"} <= {event.type for event in workshop.events}


def test_the_schema_names_all_that_a_question_says() -> None:
    kind = EVENT_TYPES["question_asked"]
    assert {field.name for field in dataclasses.fields(Question)} == {*kind.required, *kind.optional}


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "turn_ended", "payload": {}},
        {"type": "turn_ended", "payload": {"duration_s": "1"}},
        {"type": "turn_ended", "payload": {"duration_s": 1.0}, "node": None},
        {"type": "note", "payload": {"text": "x"}, "seq": 0},
        {"type": "note", "payload": []},
    ],
)
def test_the_schema_refuses_what_is_no_event(wrong: dict[str, Any]) -> None:
    whole = {"seq": 1, "time": "2026-11-27T10:00:00.000000+00:00", "node": "one", "turn": 1, "attempt": 1}
    validator = jsonschema.Draft202012Validator(event_schema())

    assert validator.is_valid({**whole, "type": "note", "payload": {"text": "x"}})
    assert validator.is_valid({**whole, "type": "of-a-later-version", "payload": {"any": "thing"}})
    assert not validator.is_valid({**whole, **wrong})


def table() -> str:
    """Return the reference of all types."""
    lines = ["| type | when | payload |", "|---|---|---|"]
    for name, kind in EVENT_TYPES.items():
        keys = [*(f"`{key}`" for key in kind.required), *(f"`{key}`?" for key in kind.optional)]
        lines.append(f"| `{name}` | {kind.when} | {', '.join(keys)} |")
    return "\n".join(lines)


def test_the_reference_and_the_published_schema_are_what_is_written() -> None:
    page, published = REFERENCE / "events.md", REFERENCE / f"events-{VERSION}.schema.json"
    begin, end = "<!-- generated: begin -->\n", "<!-- generated: end -->\n"
    head, _, rest = page.read_text(encoding="utf-8").partition(begin)
    tail = rest.partition(end)[2]
    wanted = f"{head}{begin}{table()}\n{end}{tail}"
    schema = json.dumps(event_schema(), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("ORCHESTRA_UPDATE_SNAPSHOTS"):
        page.write_text(wanted, encoding="utf-8")
        published.write_text(schema, encoding="utf-8")
    again = "run ORCHESTRA_UPDATE_SNAPSHOTS=1 pytest tests/test_event_types.py"
    assert page.read_text(encoding="utf-8") == wanted, again
    assert published.read_text(encoding="utf-8") == schema, again
