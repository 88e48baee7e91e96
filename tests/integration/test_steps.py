"""Steps: nodes without a model, in the graph, in joins, loops, snapshots and the log like agents."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.session_support import (
    agent,
    assert_consistent,
    chain,
    contents,
    events,
    model_calls,
    run_and_kill,
    says,
    turn_commits,
    writes,
)

if TYPE_CHECKING:
    from tests.conftest import Workshop

ROUTE = """
import orchestra

@orchestra.condition("tests")
def tests(state):
    return "END" if state["agent_outputs"]["tests"]["exit_code"] == 0 else "fixer"
"""
WORKSPACE = {
    "repos": {"repo": {"path": "../app"}},
    "tools": {
        "repo": {
            "run-tests": {
                "command": "grep -qF {want} app.py || ( echo wrong >&2; exit 7 )",
                "args": {"want": {}},
            },
            "touch": {"command": "echo {name} >> {name}.log", "args": {"name": {}}},
            "hang": {"command": "sleep 30", "timeout": 0.2},
        }
    },
}


async def test_a_condition_routes_on_the_exit_code_of_a_step_until_the_tests_are_green(workshop: Workshop) -> None:
    pipeline = {
        "name": "green",
        "workspace": WORKSPACE,
        "inputs": {"want": {"type": "string"}},
        "agents": {
            "fixer": agent(
                "Fix {{ agent_outputs.tests.stderr if agent_outputs.tests is defined else '' }}", tools=["write-file"]
            )
        },
        "steps": {"tests": {"tool": "repo:run-tests", "args": {"want": "{{ want }}"}}},
        "graph": [
            {"from": "START", "to": "tests"},
            {"from": "tests", "to": ["fixer", "END"], "condition": "tests", "max_loops": 3},
            {"from": "fixer", "to": "tests"},
        ],
    }
    script = {"fixer": [[writes("app.py", "x = 2\n"), says("two")], [writes("app.py", "x = 3\n"), says("three")]]}
    path = workshop.pipeline(pipeline, script=script, files={"conditions/tests.py": ROUTE})

    result = await workshop.run(path, {"want": "x = 3"})

    assert result.record.status == "completed", result.record.error
    assert result.agent_outputs == {"fixer": "three", "tests": {"exit_code": 0, "stdout": "", "stderr": ""}}
    session = result.record.session_id
    ended = [event["payload"] for event in events(workshop, session, "tool_ended")]
    assert [call["exit_code"] for call in ended if call["tool"] == "repo:run-tests"] == [7, 7, 0]
    assert events(workshop, session, "turn_failed") == []
    root = [row for row in workshop.checkpoints(session) if not row["checkpoint_ns"]]
    assert [row["agent"] for row in root if row["ended"]] == ["tests", "fixer", "tests", "fixer", "tests"]
    assert [row["ended"][0]["turn"] for row in root if row["ended"]] == [1, 1, 2, 2, 3]
    assert_consistent(workshop, result)


async def test_steps_fan_out_and_join_and_each_change_is_a_commit(workshop: Workshop) -> None:
    pipeline = {
        "name": "fan",
        "workspace": WORKSPACE,
        "agents": {"last": agent("Saw {{ agent_outputs.one.exit_code }}{{ agent_outputs.two.exit_code }}.")},
        "steps": {
            "one": {"tool": "repo:touch", "args": {"name": "one"}},
            "two": {"tool": "repo:touch", "args": {"name": "two"}},
        },
        "graph": [
            {"from": "START", "to": ["one", "two"]},
            {"from": ["one", "two"], "to": "last"},
            {"from": "last", "to": "END"},
        ],
    }

    result = await workshop.run(workshop.pipeline(pipeline, script={"last": [[says("last")]]}))

    files = contents(workshop, result.commits["repo"])
    assert (files["one.log"], files["two.log"]) == ("one", "two")
    assert sorted(turn_commits(workshop, result.branches["repo"])) == ["one:1", "two:1"]
    rows = workshop.checkpoints(result.record.session_id)
    both = next(row for row in rows if len(row["ended"]) == 2)
    assert (both["agent"], both["next"], both["changed"]) == (None, ["join.last"], [])
    joined = next(row for row in rows if row["next"] == ["last"])
    assert (joined["agent"], joined["changed"]) == (None, ["repo"])
    assert_consistent(workshop, result)


TOOL = """
import pathlib
from orchestra.tools.registry import tool_registry

@tool_registry.register("flaky")
def flaky(times: int) -> dict:
    "Fails the first times."
    counter = pathlib.Path({path!r})
    seen = len(counter.read_text()) if counter.exists() else 0
    counter.write_text("x" * (seen + 1))
    if seen < times:
        raise RuntimeError("not yet")
    return {{"seen": seen}}
"""


async def test_a_step_whose_tool_raises_has_the_error_as_its_result(workshop: Workshop) -> None:
    counter = workshop.home / "counter"
    pipeline = {
        "name": "flaky",
        "agents": {"after": agent()},
        "steps": {"try": {"tool": "flaky", "args": {"times": 2}}},
        "graph": [
            {"from": "START", "to": "try"},
            {"from": "try", "to": ["try", "after"], "condition": "worked", "max_loops": 3},
            {"from": "after", "to": "END"},
        ],
    }
    files = {
        "tools/flaky.py": TOOL.format(path=str(counter)),
        "conditions/worked.py": (
            "import orchestra\n\n@orchestra.condition('worked')\ndef worked(state):\n"
            "    return 'try' if 'error' in state['agent_outputs']['try'] else 'after'\n"
        ),
    }
    path = workshop.pipeline(pipeline, script={"after": [[says("after")]]}, files=files)

    result = await workshop.run(path)

    assert result.record.status == "completed", result.record.error
    assert events(workshop, result.record.session_id, "turn_failed") == []
    assert (
        sum(entry["agent"] == "try" for row in workshop.checkpoints(result.record.session_id) for entry in row["ended"])
        == 3
    )
    assert result.agent_outputs == {"try": {"seen": 2}, "after": "after"}


async def test_a_step_that_runs_out_of_time_is_a_result_or_a_failure_but_never_a_hang(workshop: Workshop) -> None:
    pipeline = {
        "name": "hang",
        "workspace": WORKSPACE,
        "agents": {"after": agent()},
        "steps": {"slow": {"tool": "repo:hang"}},
        "graph": chain("slow", "after"),
    }

    async with asyncio.timeout(30):
        result = await workshop.run(workshop.pipeline(pipeline, script={"after": [[says("after")]]}))

    assert result.record.status in ("completed", "failed")
    if result.record.status == "completed":
        assert result.agent_outputs["slow"]["exit_code"] != 0


async def test_an_invalid_output_of_a_step_names_what_is_wrong(workshop: Workshop) -> None:
    counter = workshop.home / "counter"
    schema = {"type": "object", "properties": {"seen": {"type": "string"}}, "required": ["seen"]}
    pipeline = {
        "name": "wrong",
        "agents": {"after": agent()},
        "steps": {"try": {"tool": "flaky", "args": {"times": 0}, "output": schema}},
        "graph": chain("try", "after"),
        "limits": {"max_failures_per_session": 1},
    }
    files = {"tools/flaky.py": TOOL.format(path=str(counter))}

    result = await workshop.run(workshop.pipeline(pipeline, script={"after": [[says("after")]]}, files=files))

    assert result.record.error is not None
    assert result.record.error["code"] == "invalid-output"
    assert "seen" in result.record.error["message"]
    assert "'try'" in result.record.error["message"]


def test_a_step_that_was_killed_is_run_again_on_the_files_before_it(workshop: Workshop) -> None:
    pipeline = {
        "name": "again",
        "workspace": WORKSPACE,
        "agents": {"after": agent()},
        "steps": {"one": {"tool": "repo:touch", "args": {"name": "one"}}},
        "graph": chain("one", "after"),
    }
    path = workshop.pipeline(pipeline, script={"after": [[says("after")]]})
    for point in ("snapshot-taken", "turn-committed", "branch-moved:3"):
        killed = run_and_kill(workshop, path, point)
        assert killed.session is not None
        assert not killed.finished

        result = asyncio.run(workshop.resume(killed.session))

        assert contents(workshop, result.commits["repo"])["one.log"] == "one"
        assert turn_commits(workshop, result.branches["repo"]) == ["one:1"]
        assert model_calls(workshop, killed.session) == {("after", 1): 1}
        assert_consistent(workshop, result)


async def test_a_template_that_fails_fails_its_turn_with_the_place(workshop: Workshop) -> None:
    pipeline: dict[str, Any] = {
        "name": "template",
        "workspace": WORKSPACE,
        "agents": {"first": agent()},
        "steps": {"one": {"tool": "repo:touch", "args": {"name": "{{ agent_outputs.first.missing }}"}}},
        "graph": chain("first", "one"),
    }

    result = await workshop.run(workshop.pipeline(pipeline, script={"first": [[says("first")]]}))

    assert result.record.error is not None
    assert result.record.status == "failed"
    assert "'one'" in result.record.error["message"]
    assert "missing" in result.record.error["message"]
