"""What `replay --set` and `--input` do to the state: in branches, beside siblings, through reducers and conditions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError, PipelineError
from orchestra.graph.project import find_project
from orchestra.runtime.edits import Edit
from orchestra.runtime.event_log import read_events
from orchestra.runtime.replaying import Changes
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import read_checkpoints, session_ids
from orchestra.testing import git_repo
from tests.conftest import Workshop
from tests.forkkit import Forks, Knows, state_at, turns
from tests.session_support import agent, says

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.observability import Event

STATE = """
import operator
from typing import Annotated

from pydantic import BaseModel


class Found(BaseModel):
    issues: Annotated[list[str], operator.add] = ["zero"]
    count: Annotated[int, operator.add] = 10
    note: str = "none"
"""
CONDITIONS = """
import orchestra


@orchestra.condition("size")
def size(state):
    return "big" if state["inputs"]["size"] > 1 else "small"


@orchestra.condition("more")
def more(state):
    return "more" if "more" in state["issues"] else "enough"
"""
FILES = {"found.py": STATE, "conditions/all.py": CONDITIONS}
FOUND = {
    "type": "object",
    "properties": {"issues": {"type": "array", "items": {"type": "string"}}, "count": {"type": "integer"}},
    "required": ["issues", "count"],
}


def finds(*issues: str) -> list[dict[str, Any]]:
    return [{"output": {"issues": list(issues), "count": 1}}]


def edited(*texts: str) -> dict[str, Any]:
    return {"edits": [Edit.parse(text) for text in texts]}


def session(base: Path, content: dict[str, Any], script: dict[str, Any], **settings: Any) -> Forks:
    """Run a pipeline to its end, of which forks are made."""
    repo = git_repo(base / "app", {"README.md": "app\n"})
    (base / "home").mkdir()
    (base / "pipelines").mkdir()
    workshop = Workshop(repo, base / "pipelines", base / "home")
    path = workshop.pipeline(content, script=script, files=FILES)
    result = asyncio.run(workshop.run(path, **settings))
    assert result.record.status == "completed", result.record.error
    return Forks(workshop, result.record.session_id, {"repo": repo})


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """Two branches that add to the same fields."""
    content = {
        "name": "branched",
        "state": "found:Found",
        "agents": {name: agent(output=FOUND) for name in ("one", "two")}
        | {"beside": agent(output=FOUND), "after": agent(), "last": agent()},
        "graph": [
            {"from": "START", "to": ["one", "beside"]},
            {"from": "one", "to": "two"},
            {"from": "beside", "to": "after"},
            {"from": ["two", "after"], "to": "last"},
            {"from": "last", "to": "END"},
        ],
    }
    script = {
        "one": [finds("1")],
        "two": [finds("2")],
        "beside": [finds("b")],
        "after": [[says("After.")]],
        "last": [[says("Last.")]],
    }
    return session(tmp_path_factory.mktemp("branched"), content, script)


async def test_what_is_set_inside_a_branch_does_not_swallow_what_others_add(branched: Forks) -> None:
    row = branched.row(agent="one")
    result = await branched.fork(row, **edited('issues=["set"]', "count=0"))
    state = state_at(result.record.files)
    assert state["issues"] == ["set", "b", "2"]
    assert state["count"] == 2
    assert state_at(branched.files)["issues"] == ["zero", "b", "1", "2"]


async def test_what_is_set_twice_inside_a_branch_is_what_was_set_last(branched: Forks) -> None:
    """Also of a field with a reducer, which takes one overwriting value a step."""
    stands = await branched.fork(branched.row(agent="one"), run=False, **edited('issues=["set"]', "note=first"))
    last = read_checkpoints(stands.record.files)[-1]
    result = await branched.fork(last, of=stands.record.session_id, **edited('issues=["again"]', "note=second"))
    state = state_at(result.record.files)
    assert result.record.status == "completed", result.record.error
    assert (state["issues"], state["note"]) == (["again", "b", "2"], "second")


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """Two agents that end in one step of one graph, and a condition behind one of them."""
    content = {
        "name": "beside",
        "state": "found:Found",
        "inputs": {
            "size": {"type": "number", "default": 2},
            "label": {"type": "string", "default": "x"},
            "config": {"type": "json", "default": "text"},
        },
        "agents": {"one": agent(output=FOUND), "two": agent(output=FOUND), "extra": agent(), "last": agent()},
        "graph": [
            {"from": "START", "to": ["one", "two"]},
            {"from": "one", "to": {"more": "extra", "enough": "END"}, "condition": "more"},
            {"from": "one", "to": {"big": "extra", "small": "END"}, "condition": "size"},
            {"from": ["one", "two"], "to": "last"},
            {"from": ["extra"], "to": "END"},
            {"from": "last", "to": "END"},
        ],
    }
    script = {
        "one": [finds("1")],
        "two": [finds("2")],
        "extra": [[says("Extra.")]],
        "last": [[says("Last.")]],
    }
    return session(tmp_path_factory.mktemp("beside"), content, script)


async def test_a_field_with_a_reducer_is_what_was_set_where_its_writers_end_once_more(beside: Forks) -> None:
    row = beside.row(agent="one")
    assert [turn["agent"] for turn in row["ended"]] == ["one", "two"]
    result = await beside.fork(row, **edited('issues=["set"]', "count=5", 'agent_outputs.two.issues=["said"]'))
    state = state_at(result.record.files)
    assert (state["issues"], state["count"]) == (["set"], 5)
    assert result.agent_outputs["two"] == {"issues": ["said"], "count": 1}
    assert sorted(turns(result)) == ["extra 1", "last 1", "one 1", "two 1"]


async def test_a_condition_that_has_read_an_input_is_asked_anew(beside: Forks) -> None:
    row = beside.row(agent="one")
    for changes in ({"inputs": {"size": "1"}}, edited("inputs.size=1")):
        result = await beside.fork(row, **changes)
        assert sorted(turns(result)) == ["last 1", "one 1", "two 1"]


async def test_an_input_keeps_its_value_and_a_new_one_is_of_its_type(beside: Forks) -> None:
    row = beside.row(before="last")
    kept = await beside.fork(row, run=False, **edited("note=new"))
    assert kept.record.inputs == {"size": 2, "label": "x", "config": "text"}, "a JSON text is not read once more"
    set_ = await beside.fork(row, run=False, inputs={"config": '{"a": 1}'}, **edited("inputs.config.b=[2]"))
    assert set_.record.inputs["config"] == {"a": 1, "b": [2]}
    known = session_ids(beside.root)
    for text, said in (
        ("inputs.label=5", "must be a text, not 5"),
        ("inputs.size=true", "must be a number, not true"),
        ("inputs.size=NaN", "must be a number, not"),
        ("inputs.size=1e999", "must be a number, not"),
    ):
        with pytest.raises(PipelineError, match=said) as caught:
            await beside.fork(row, **edited(text))
        assert caught.value.code == "wrong-input"
    assert session_ids(beside.root) == known


def test_a_value_that_no_checkpoint_can_hold_is_refused() -> None:
    deep = "[" * 101 + "]" * 101
    for text, said in (
        (f"note={deep}", "more than 100 levels deep"),
        ('note="\\ud800"', "is not UTF-8 text"),
        ("note=\udcff", "is not UTF-8 text"),
    ):
        with pytest.raises(PipelineError, match=said) as caught:
            Edit.parse(text)
        str(caught.value).encode()
    assert Edit.parse("note=NaN").value == "NaN"


async def test_what_the_start_has_chosen_is_told(tmp_path: Path) -> None:
    content = {
        "name": "started",
        "inputs": {"size": {"type": "number", "default": 1}},
        "agents": {"one": agent(), "two": agent()},
        "graph": [
            {"from": "START", "to": {"small": "one", "big": "two"}, "condition": "size"},
            {"from": "one", "to": "END"},
            {"from": "two", "to": "END"},
        ],
    }
    script = {"one": [[says("One.")]], "two": [[says("Two.")]]}
    forks = await asyncio.to_thread(session, tmp_path, content, script)
    for name, ended, warned in (({"before": "one"}, "one 1", ["size"]), ({"step": -1}, "two 1", [])):
        told: list[Event] = []
        manager = SessionManager(find_project(forks.root), told.append)
        result = await manager.replay(forks.files, forks.row(**name), Changes(inputs={"size": "2"}))
        assert turns(result) == [ended]
        warnings = [event.payload["message"] for event in told if event.type == "warning"]
        assert len(warnings) == len(warned)
        assert all("'size' has already chosen what follows 'START'" in text for text in warnings)
        assert all("`--step -1`" in text for text in warnings)


async def test_a_decision_that_is_set_is_one(tmp_path: Path) -> None:
    content = {
        "name": "talk",
        "agents": {"talker": agent(mode="interactive"), "last": agent()},
        "graph": [
            {"from": "START", "to": "talker"},
            {
                "from": "talker",
                "to": {"approve": "last", "reject": "END"},
                "condition": "human-decision",
            },
            {"from": "last", "to": "END"},
        ],
    }
    script = {"talker": [[says("So?")]], "last": [[says("Last.")]]}
    forks = await asyncio.to_thread(session, tmp_path, content, script, channels=[Knows({"So?": "/approve"})])
    row = forks.row(agent="talker")
    for value in (".decision=perhaps", "=5", "={}", ".decision=[1]"):
        with pytest.raises(OrchestraError, match="is no decision on 'talker'") as caught:
            await forks.fork(row, **edited(f"agent_outputs.talker{value}"))
        assert caught.value.exit_code == 2
    result = await forks.fork(row, **edited("agent_outputs.talker.decision=reject"))
    assert turns(result) == ["talker 1"]
    assert not [event for event in read_events(result.record.files) if event["type"] == "turn_failed"]
