"""What can be different in a fork: values, inputs, models, providers; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestra.errors import OrchestraError, PipelineError
from orchestra.graph.project import find_project
from orchestra.runtime.edits import Edit
from orchestra.runtime.event_log import read_events
from orchestra.runtime.naming import CheckpointName, find_checkpoint
from orchestra.runtime.replaying import Changes
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import (
    find_session,
    read_session,
    session_ids,
)
from tests.forkkit import (
    Forks,
    counted_session,
    files_at,
    files_in,
    pinned,
    state_at,
    turns,
    workshop_at,
)
from tests.session_support import agent, says, writes


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """A session that has counted once."""
    return counted_session(tmp_path_factory.mktemp("counted"))


async def test_a_value_that_is_set_decides_what_follows(counted: Forks) -> None:
    result = await counted.fork(counted.row(agent="writer"), edits=[Edit.parse("limit=2")])
    assert turns(result) == ["writer 1", "judge 1", "writer 2", "judge 2", "closer 1"]
    assert files_at(counted.root, result.commits["repo"])["a.txt"] == "2\n"
    first = await counted.fork(counted.rows[0], edits=[Edit.parse("limit=3")])
    assert turns(first)[-2:] == ["judge 3", "closer 1"], "also in the very first checkpoint, which holds the input"


async def test_an_output_that_is_set_is_what_the_others_see(counted: Forks) -> None:
    edits = [Edit.parse("agent_outputs.judge.seen=7"), Edit.parse("agent_outputs.writer=Something else.")]
    result = await counted.fork(counted.row(before="closer"), edits=edits)
    assert result.agent_outputs == {"writer": "Something else.", "judge": {"seen": 7}, "closer": "Closed."}
    assert turns(result) == ["writer 1", "judge 1", "closer 1"]


@pytest.mark.parametrize("edit", ["agent_outputs.judge.seen=0", "limit=2"])
async def test_a_condition_that_has_read_what_is_set_is_asked_anew_and_no_call_is_paid_again(
    counted: Forks, edit: str
) -> None:
    row = counted.row(agent="judge")
    result = await counted.fork(row, edits=[Edit.parse(edit)])
    assert turns(result) == ["writer 1", "judge 1", "writer 2", "judge 2", "closer 1"]
    assert result.agent_outputs["judge"] == {"seen": 2}
    assert result.as_json()["forked_from"]["checkpoint_id"] == row["checkpoint_id"]
    assert result.record.usage["model_calls"] == 3 + 4
    again = await counted.fork(row, edits=[Edit.parse(edit)], run=False)
    assert files_in(Path(again.worktrees["repo"]))["a.txt"] == "1\n"
    assert turns(await counted.manager().resume(again.record.files)) == turns(result)


async def test_what_is_set_inside_a_branch_counts_there_and_after_it(tmp_path: Path) -> None:
    workshop = workshop_at(tmp_path)
    judge = {"type": "object", "properties": {"go": {"type": "string"}}, "required": ["go"]}
    content = {
        "name": "branched",
        "agents": {
            "first": agent(tools=["write-file"]),
            "judge": agent(output=judge),
            "tail": agent(tools=["write-file"]),
            "beside": agent(tools=["write-file"]),
            "last": agent("{{ agent_outputs.first }}"),
        },
        "graph": [
            {"from": "START", "to": ["first", "beside"]},
            {"from": "first", "to": "judge"},
            {"from": "judge", "to": {"again": "first", "on": "tail"}, "condition": "go", "max_loops": 2},
            {"from": ["tail", "beside"], "to": "last"},
            {"from": "last", "to": "END"},
        ],
    }
    script = {
        "first": [[writes("a.txt", f"{turn}\n"), says(f"First {turn}.")] for turn in (1, 2)],
        "judge": [[{"output": {"go": "on"}}], [{"output": {"go": "on"}}]],
        "tail": [[writes("t.txt", "t\n"), says("Tail.")]],
        "beside": [[writes("b.txt", "b\n"), says("Beside.")]],
        "last": [[says("Last.")]],
    }
    go = "import orchestra\n\n\n@orchestra.condition('go')\ndef go(s):\n    return s['agent_outputs']['judge']['go']\n"
    result = await workshop.run(workshop.pipeline(content, script=script, files={"conditions/go.py": go}))
    forks = Forks(workshop, result.record.session_id, {"repo": workshop.repo})
    row = forks.row(agent="judge")
    assert row["checkpoint_ns"].startswith("branch.first:")
    again = await forks.fork(row, edits=[Edit.parse("agent_outputs.judge.go=again")])
    assert sorted(turns(again)) == [
        *("beside 1", "first 1", "first 2", "judge 1", "judge 2", "last 1", "tail 1"),
    ]
    assert files_at(workshop.repo.path, again.commits["repo"])["a.txt"] == "2\n"
    words = await forks.fork(forks.row(agent="first"), edits=[Edit.parse("agent_outputs.first=Other words.")])
    assert words.agent_outputs["first"] == "Other words."
    assert sorted(turns(words)) == sorted(turns(result))


async def test_a_step_is_not_run_again_for_what_is_set(tmp_path: Path) -> None:
    workshop = workshop_at(tmp_path)
    content = {
        "name": "stepped",
        "workspace": {"tools": {"repo": {"check": {"command": "exit 1"}}}},
        "agents": {"fixer": agent()},
        "steps": {"check": {"tool": "check"}},
        "graph": [
            {"from": "START", "to": "check"},
            {"from": "check", "to": {"bad": "fixer", "good": "END"}, "condition": "passed"},
            {"from": "fixer", "to": "END"},
        ],
    }
    passed = (
        "import orchestra\n\n\n@orchestra.condition('passed')\ndef passed(state):\n"
        "    return 'bad' if state['agent_outputs']['check']['exit_code'] else 'good'\n"
    )
    script = {"fixer": [[says("Fixed.")]]}
    result = await workshop.run(workshop.pipeline(content, script=script, files={"conditions/passed.py": passed}))
    told: list[Any] = []
    source = find_session(workshop.repo.path, result.record.session_id)
    row = find_checkpoint(source, CheckpointName(agent="check"))
    manager = SessionManager(find_project(workshop.repo.path), told.append)
    changes = Changes(edits=[Edit.parse("agent_outputs.check.exit_code=0")])
    forked = await manager.replay(source, row, changes)
    assert turns(forked) == ["check 1", "fixer 1"]
    (warning,) = [event.payload["message"] for event in told if event.type == "warning"]
    assert "'passed' has already chosen what follows 'check'" in warning


async def test_an_input_that_is_set_is_what_later_prompts_say(counted: Forks) -> None:
    result = await counted.fork(counted.row(before="writer"), inputs={"topic": "dogs"})
    assert result.record.inputs == {"goal": 1, "topic": "dogs"}
    assert state_at(result.record.files)["inputs"] == {"goal": 1, "topic": "dogs"}
    (prompt,) = [event["payload"] for event in read_events(result.record.files) if event["type"] == "session_forked"]
    assert prompt["session_id"] == counted.session
    assert prompt["changes"] == ["--input topic=dogs"]
    assert (result.record.forked_from or {})["changes"] == prompt["changes"]


async def test_another_provider_and_model_are_used_from_there_on(counted: Forks) -> None:
    result = await counted.fork(counted.row(agent="judge"), provider="other", models={"closer": "tiny"})
    assert result.agent_outputs["closer"] == "Closed elsewhere."
    assert (result.record.forked_from or {})["changes"] == ["--provider other", "--model closer=tiny"]
    used = [
        (event["node"], event["payload"]["provider"], event["payload"]["model"])
        for event in read_events(result.record.files)
        if event["type"] == "model_ended"
    ]
    assert used[-1] == ("closer", "other", "tiny")
    assert {provider for _, provider, _ in used[:-1]} == {"offline"}
    again = await counted.manager().resume(result.record.files)
    assert again.as_json()["agent_outputs"] == result.agent_outputs


async def test_to_look_at_files_takes_no_key(counted: Forks) -> None:
    stands = await counted.fork(counted.row(agent="judge"), provider="keyless", run=False)
    assert files_in(Path(stands.worktrees["repo"]))["a.txt"] == "1\n"
    known = session_ids(counted.root)
    with pytest.raises(PipelineError, match="A_KEY_THAT_NOBODY_HAS"):
        await counted.fork(counted.row(agent="judge"), provider="keyless")
    assert session_ids(counted.root) == known


async def test_what_was_spent_up_to_the_checkpoint_stays_spent(counted: Forks) -> None:
    stands = await counted.fork(counted.row(agent="writer"), run=False)
    assert stands.record.usage["model_calls"] == 2
    result = await counted.manager().resume(stands.record.files)
    assert result.record.usage["model_calls"] == read_session(counted.files).usage["model_calls"]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"edits": ["lim=2"]}, "wrong-value", "did you mean 'limit'?"),
        ({"edits": ["limit=many"]}, "wrong-value", "the field 'limit' of the state can't be 'many'"),
        ({"edits": ["turns.writer=0"]}, "wrong-value", "fields that can be set: inputs, agent_outputs, limit"),
        ({"edits": ["agent_outputs.jugde=1"]}, "wrong-value", "did you mean 'judge'?"),
        ({"edits": ["agent_outputs.judge.seen=x"]}, "wrong-value", "the output of 'judge' can't be that"),
        ({"edits": ["agent_outputs.writer.x=1"]}, "wrong-value", "there is nothing inside 'Written 1.'"),
        ({"inputs": {"topics": "x"}}, "unknown-input", "did you mean 'topic'?"),
        ({"inputs": {"goal": "x"}}, "wrong-input", "must be a number"),
        ({"provider": "otter"}, "unknown-provider", "did you mean 'other'?"),
        ({"models": {"closr": "m"}}, "unknown-agent", "did you mean 'closer'?"),
    ],
)
async def test_a_change_that_can_not_be_made_is_refused_and_nothing_is_made(
    counted: Forks, changes: dict[str, Any], code: str, said: str
) -> None:
    known, before = session_ids(counted.root), pinned(counted.root)
    edits = [Edit.parse(text) for text in changes.pop("edits", ())]
    with pytest.raises(OrchestraError) as caught:
        await counted.fork(counted.row(agent="judge"), edits=edits, **changes)
    (problem,) = caught.value.problems
    assert problem.code == code
    assert said in f"{problem.message}\n{problem.hint}"
    assert caught.value.exit_code == 2
    assert (session_ids(counted.root), pinned(counted.root)) == (known, before)


def test_an_option_without_a_value_is_refused() -> None:
    for text in ("limit", "=1", "a..b=1"):
        with pytest.raises(PipelineError, match="is not PATH=VALUE"):
            Edit.parse(text)
    assert Edit.parse('a.b={"c": [1]}') == Edit(("a", "b"), {"c": [1]})
    assert Edit.parse("a=b=c") == Edit(("a",), "b=c")
