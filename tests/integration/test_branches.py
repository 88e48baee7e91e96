"""Branches in sessions: their own pace, the log, questions, failures and kills inside them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.runtime.serializer import StrictSerializer
from tests.session_support import (
    agent,
    assert_consistent,
    contents,
    events,
    model_calls,
    query,
    rescript,
    resume_and_kill,
    run_and_kill,
    says,
    turn_commits,
    writes,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

GRAPH = [
    {"from": "START", "to": ["a-one", "b-one"]},
    {"from": "a-one", "to": ["a-left", "a-right"]},
    {"from": "a-left", "to": "a-more"},
    {"from": ["a-more", "a-right"], "to": "a-last"},
    {"from": "b-one", "to": "b-two"},
    {"from": ["a-last", "b-two"], "to": "critic"},
    {"from": "critic", "to": ["a-one", "b-one", "END"], "condition": "verdict", "max_loops": 1},
]
CONDITION = """
import orchestra

@orchestra.condition("verdict")
def verdict(state):
    return "END" if state["agent_outputs"]["critic"] == "approve" else ["a-one", "b-one"]
"""
NAMES = ("a-one", "a-left", "a-right", "a-more", "a-last", "b-one", "b-two", "critic")
WRITERS = ("a-one", "a-more", "a-last", "b-one", "b-two")
SCRIPT: dict[str, Any] = {
    name: [
        [*([writes(f"{name}.txt", f"{turn}\n")] if name in WRITERS else []), says(f"{name} {turn}")] for turn in (1, 2)
    ]
    for name in NAMES
} | {"critic": [[says("revise")], [says("approve")]]}
OUTPUTS = {name: f"{name} 2" for name in NAMES} | {"critic": "approve"}
FILES = {"app.py": "x = 1", "docs/notes.md": "# Notes"} | {f"{name}.txt": "2" for name in WRITERS}


def branched(workshop: Workshop, script: dict[str, Any] = SCRIPT, **changes: Any) -> Path:
    """Write a pipeline of two branches, one with a fan-out inside, and a loop around them."""
    agents = {name: agent(tools=["write-file"] if name in WRITERS else []) for name in NAMES}
    for name, more in changes.pop("agents", {}).items():
        agents[name] = {**agents[name], **more}
    content = {"name": "branched", "agents": agents, "conditions": "conditions", "graph": GRAPH, **changes}
    return workshop.pipeline(content, script=script, files={"conditions/verdict.py": CONDITION})


def assert_done(workshop: Workshop, result: Any) -> None:
    assert result.record.status == "completed", result.record.error
    assert result.agent_outputs == OUTPUTS
    assert contents(workshop, result.commits["repo"]) == FILES
    commits = turn_commits(workshop, result.branches["repo"])
    assert sorted(commits) == sorted(f"{name}:{turn}" for name in WRITERS for turn in (1, 2))
    assert_consistent(workshop, result)


async def test_the_log_tells_of_branches_as_of_a_flat_graph(workshop: Workshop) -> None:
    result = await workshop.run(branched(workshop))

    assert_done(workshop, result)
    rows = workshop.checkpoints(result.record.session_id)
    ended = [(entry["agent"], entry["turn"]) for row in rows for entry in row["ended"]]
    assert sorted(ended) == sorted((name, turn) for name in NAMES for turn in (1, 2))
    shown = {name for row in rows for name in [*row["next"], *filter(None, [row["agent"]])]}
    assert shown <= {*NAMES, "join.a-last", "join.critic"}
    first = [row for row in rows if {"agent": "a-one", "turn": 1} in row["ended"]]
    assert [(row["agent"], row["next"], row["changed"]) for row in first] == [
        ("a-one", ["a-left", "a-right"], ["repo"])
    ]
    last = [row for row in rows if {"agent": "b-two", "turn": 1} in row["ended"]]
    assert [row["next"] for row in last] == [["join.critic"]]
    assert [row["next"] for row in rows if not row["checkpoint_ns"]][:3] == [["a-one", "b-one"]] * 2 + [["join.critic"]]
    assert rows[1]["repos"] == rows[0]["repos"]
    assert all(row["changed"] == [] for row in rows if row["next"] == ["a-right"] and row["agent"] == "a-right")


async def test_the_log_for_people_names_each_turn_once(workshop: Workshop) -> None:
    result = await workshop.run(branched(workshop))

    log = workshop.cli("log", result.record.session_id).stdout

    assert {f"{name} (turn {turn})": log.count(f"{name} (turn {turn})") for name in NAMES for turn in (1, 2)} == {
        f"{name} (turn {turn})": 1 for name in NAMES for turn in (1, 2)
    }
    assert "branch." not in log


async def test_the_second_agent_of_a_fast_branch_begins_before_the_slow_one_has_ended(workshop: Workshop) -> None:
    """The slow step ends only when the fast branch's second one has begun; a flat graph would never get there."""
    wait = "for i in $(seq 600); do [ -e {flag} ] && exit 0; sleep 0.05; done; exit 1"
    flag = workshop.home / "flag"
    content = {
        "name": "pace",
        "workspace": {
            "tools": {
                "repo": {
                    "wait": {"command": wait, "args": {"flag": {}}, "writes": False},
                    "say": {"command": "touch {flag}", "args": {"flag": {}}, "writes": False},
                }
            }
        },
        "steps": {
            "fast": {"tool": "repo:say", "args": {"flag": str(flag.with_suffix(".other"))}},
            "then": {"tool": "repo:say", "args": {"flag": str(flag)}},
            "slow": {"tool": "repo:wait", "args": {"flag": str(flag)}},
            "after": {"tool": "repo:say", "args": {"flag": str(flag)}},
        },
        "graph": [
            {"from": "START", "to": ["fast", "slow"]},
            {"from": "fast", "to": "then"},
            {"from": "slow", "to": "after"},
            {"from": ["then", "after"], "to": "END"},
        ],
    }

    result = await workshop.run(workshop.pipeline(content))

    assert result.record.status == "completed", result.record.error
    assert result.agent_outputs["slow"]["exit_code"] == 0
    told = [(event.type, event.node) for event in workshop.events if event.type in ("turn_started", "turn_ended")]
    assert told.index(("turn_started", "then")) < told.index(("turn_ended", "slow"))


LAST_CHECKPOINT = "SELECT type, checkpoint FROM checkpoints WHERE checkpoint_ns = '' ORDER BY checkpoint_id"

KILLS = [
    ("turn-committed", (1, 1, 1, 2, 2, 3)),
    ("checkpoint-written", (4, 5, 6, 7, 8)),
    ("checkpoint-written", (30, 8, 7, 10)),
    ("writes-stored", (5, 7, 8, 13)),
    ("snapshot-taken", (2, 2, 2, 3)),
]
"""A failpoint → how many passes after the kill before each process is killed at it."""


def starts(workshop: Workshop, session: str) -> Counter[tuple[str, int]]:
    """Return how often each turn has begun."""
    return Counter((event["node"], event["turn"]) for event in events(workshop, session, "turn_started"))


@pytest.mark.parametrize(("point", "hits"), KILLS)
def test_a_session_killed_in_branches_ends_as_if_nothing_had_happened(
    workshop: Workshop, point: str, hits: tuple[int, ...]
) -> None:
    first, *others = hits
    killed = run_and_kill(workshop, branched(workshop), f"{point}:{first}")
    assert (killed.session is not None, killed.finished) == (True, False)
    session = str(killed.session)
    before: dict[tuple[str, int], int] = {}
    for failpoint in (*(f"{point}:{hit}" for hit in others), "turn-committed:1"):
        ended = {(entry["agent"], entry["turn"]) for row in workshop.checkpoints(session) for entry in row["ended"]}
        before = {turn: count for turn, count in starts(workshop, session).items() if turn in ended} | before
        finished = resume_and_kill(workshop, session, failpoint)
        assert not finished or failpoint == "turn-committed:1"

    result = asyncio.run(workshop.resume(session))

    assert_done(workshop, result)
    after = starts(workshop, session)
    assert before == {turn: after[turn] for turn in before}, "a finished turn ran again"
    needed = {(name, turn): 2 if name in WRITERS else 1 for name in NAMES for turn in (1, 2)}
    more = sum(model_calls(workshop, session).values()) - sum(needed.values())
    assert 0 <= more <= len(hits) + 1, "a finished model call was paid again"


async def test_a_failure_in_a_branch_leaves_the_other_one_alone_and_resume_runs_it_alone(workshop: Workshop) -> None:
    broken = {**SCRIPT, "a-more": [[{"error": "auth"}], SCRIPT["a-more"][1]]}
    result = await workshop.run(branched(workshop, broken))

    assert result.record.status == "failed"
    assert result.record.error is not None
    assert result.record.error["agent"] == "a-more"
    assert set(result.agent_outputs) == {"a-one", "a-left", "a-right", "b-one", "b-two"}
    session = result.record.session_id
    ended = {(event["node"], event["turn"]) for event in events(workshop, session, "turn_ended")}
    assert ended == {("a-one", 1), ("a-left", 1), ("a-right", 1), ("b-one", 1), ("b-two", 1)}

    rescript(workshop, session, SCRIPT)
    again = await workshop.resume(session)

    assert_done(workshop, again)
    started = [(event["node"], event["turn"]) for event in events(workshop, session, "turn_started")]
    assert all(started.count(turn) == 1 for turn in ended)


STATE = """
from operator import add
from typing import Annotated

from pydantic import BaseModel


class Found(BaseModel):
    found: Annotated[list[str], add] = ["first"]
"""


@pytest.mark.parametrize("failpoint", ["turn-committed:2", "checkpoint-written:20", "writes-stored:25"])
def test_fields_with_a_reducer_get_each_update_once(workshop: Workshop, failpoint: str) -> None:
    schema = {"type": "object", "properties": {"found": {"type": "array", "items": {"type": "string"}}}}
    given = {name: {"output": schema} for name in ("a-left", "a-more", "a-last", "b-one")}
    script = SCRIPT | {name: [[{"output": {"found": [f"{name} {turn}"]}}] for turn in (1, 2)] for name in given}
    path = branched(workshop, script, agents=given, state="found_state:Found")
    (path.parent / "found_state.py").write_text(STATE)
    killed = run_and_kill(workshop, path, failpoint)
    assert killed.session is not None

    result = asyncio.run(workshop.resume(killed.session))

    assert result.record.status == "completed", result.record.error
    last = query(workshop, killed.session, LAST_CHECKPOINT)[-1]
    found = StrictSerializer().loads_typed((last[0], last[1]))["channel_values"]["found"]
    assert sorted(found) == sorted(["first", *(f"{name} {turn}" for name in given for turn in (1, 2))])


async def test_a_turn_in_a_branch_that_starts_anew_has_fresh_checkpoints(workshop: Workshop) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    invalid = [writes("a-more.txt", "1\n"), {"output": {"x": "no"}}, {"output": {"x": "still no"}}]
    script = {**SCRIPT, "a-more": [invalid, SCRIPT["a-more"][1]]}
    path = branched(workshop, script, agents={"a-more": {"output": schema}}, limits={"max_failures_per_session": 2})

    result = await workshop.run(path)

    assert result.record.error is not None
    assert result.record.error["code"] == "too-many-failures"
    session = result.record.session_id
    attempts = [event["attempt"] for event in events(workshop, session, "turn_started") if event["node"] == "a-more"]
    assert attempts == [1, 2]
    assert model_calls(workshop, session)["b-two", 1] == 2
    rescript(workshop, session, {**SCRIPT, "a-more": [[{"output": {"x": 1}}], [{"output": {"x": 2}}]]})
    again = await workshop.resume(session)
    assert again.record.status == "completed", again.record.error
    assert again.agent_outputs["a-more"] == {"x": 2}


@pytest.mark.parametrize("name", ["a-left", "a-right", "b-two"])
async def test_a_question_in_a_branch_pauses_the_session_when_the_others_are_through(
    workshop: Workshop, name: str
) -> None:
    script = {**SCRIPT, name: [[says(f"{name} {turn}")] for turn in (1, 2)]}
    path = branched(workshop, script, agents={name: {"mode": "interactive", "when_absent": "pause", "tools": []}})

    result = await workshop.run(path)

    assert result.record.status == "paused"
    assert result.record.waiting_for == {"agent": name, "text": f"{name} 1"}
    session = result.record.session_id
    ended = {event["node"] for event in events(workshop, session, "turn_ended")}
    assert (
        ended
        == {
            "a-left": {"a-one", "a-right", "b-one", "b-two"},
            "a-right": {"a-one", "a-left", "a-more", "b-one", "b-two"},
            "b-two": {"a-one", "a-left", "a-right", "a-more", "a-last", "b-one"},
        }[name]
    )
    again = await workshop.resume(session)
    assert again.record.waiting_for == result.record.waiting_for
    paid = {(one, 1): 2 if one in WRITERS else 1 for one in ended} | {(name, 1): 1}
    assert model_calls(workshop, session) == paid


async def test_an_interactive_agent_in_a_branch_without_a_person_ends_with_its_first_answer(workshop: Workshop) -> None:
    path = branched(workshop, agents={"a-more": {"mode": "interactive", "when_absent": "finish"}})

    result = await workshop.run(path)

    assert result.record.status == "completed", result.record.error
    answer = result.agent_outputs["a-more"]
    assert (answer["decision"], answer["text"]) == ("done", "a-more 2")
    assert answer["commits"]["repo"] in workshop.repo.git("rev-list", result.branches["repo"]).split()
    assert contents(workshop, answer["commits"]["repo"])["a-more.txt"] == "2"


@pytest.mark.parametrize("most", [1, 2, 4, 6, 8, 15])
def test_the_turns_of_all_branches_count_against_the_limit(workshop: Workshop, most: int) -> None:
    path = branched(workshop, limits={"max_steps": most})

    result = asyncio.run(workshop.run(path))

    assert result.record.error is not None
    assert result.record.error["code"] == "max-steps"
    session = result.record.session_id
    assert len(events(workshop, session, "turn_ended")) == most
    again = asyncio.run(workshop.resume(session))
    assert again.record.error is not None
    assert again.record.error["code"] == "max-steps"
    assert len(events(workshop, session, "turn_ended")) == most


@pytest.mark.parametrize(
    "failpoint", ["turn-committed:4", "turn-committed:3", "event-tool_ended:3", "snapshot-taken:3"]
)
def test_turns_that_ended_before_a_kill_count_against_the_limit(workshop: Workshop, failpoint: str) -> None:
    # `a-right` has ended by then, beside the slow `a-left`: it stands in the pending writes alone.
    slow = {**SCRIPT, "a-left": [[says("a-left 1", delay=1.0)], SCRIPT["a-left"][1]]}
    killed = run_and_kill(workshop, branched(workshop, slow, limits={"max_steps": 6}), failpoint)
    assert killed.session is not None

    result = asyncio.run(workshop.resume(killed.session))

    assert result.record.error is not None
    assert result.record.error["code"] == "max-steps"
    ended = {(event["node"], event["turn"]) for event in events(workshop, killed.session, "turn_ended")}
    assert len(ended) == 6
