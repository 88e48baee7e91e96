"""A whole pipeline with the scripted model on a real repository: checkpoints, commits, outputs passed on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conftest import Workshop

PIPELINE = """
name: fix
agents:
  fixer: {task: {template: "Fix it."}, model: m, tools: [read-file, write-file, git-commit]}
  reviewer: {task: {template: "Review {{ agent_outputs.fixer }}."}, model: m, tools: [read-file]}
graph:
  - {from: START, to: fixer}
  - {from: fixer, to: reviewer}
  - {from: reviewer, to: END}
"""
SCRIPT: dict[str, Any] = {
    "fixer": [
        [
            {"tools": [{"name": "repo:write-file", "args": {"path": "app.py", "content": "x = 2\n"}}]},
            {"tools": [{"name": "repo:git-commit", "args": {"message": "Make x two"}}]},
            {"text": "x is two now."},
        ]
    ],
    "reviewer": [[{"tools": [{"name": "repo:read-file", "args": {"path": "app.py"}}]}, {"text": "Well done."}]],
}


async def test_every_turn_ends_in_a_checkpoint_that_names_its_commit(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(PIPELINE, script=SCRIPT))

    assert result.record.status == "completed", result.record.error
    rows = [row for row in workshop.checkpoints(result.record.session_id) if not row["checkpoint_ns"]]
    ended = [entry for row in rows for entry in row["ended"]]
    assert ended == [{"agent": "fixer", "turn": 1}, {"agent": "reviewer", "turn": 1}]
    fixed = next(row for row in rows if row["agent"] == "fixer")
    assert fixed["changed"] == ["repo"]
    assert workshop.repo.git("show", f"{fixed['repos']['repo']}:app.py") == "x = 2"
    assert rows[0]["repos"] == {"repo": workshop.repo.head}


async def test_the_session_branch_has_one_commit_a_changed_turn(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(PIPELINE, script=SCRIPT))

    branch = result.branches["repo"]
    log = workshop.repo.git("log", "--format=%s|%an|%(trailers:only,unfold,separator=%x2C)", f"main..{branch}")
    session = result.record.session_id
    assert log == (f"Make x two|fixer|Orchestra-Session: {session},Orchestra-Agent: fixer,Orchestra-Turn: 1")
    assert result.commits == {"repo": workshop.repo.git("rev-parse", branch)}


async def test_outputs_are_passed_on_and_the_checkout_is_left_alone(workshop: Workshop) -> None:
    before = workshop.repo.git("status", "--porcelain=v2", "--branch")

    result = await workshop.run(workshop.pipeline(PIPELINE, script=SCRIPT))

    assert result.agent_outputs == {"fixer": "x is two now.", "reviewer": "Well done."}
    assert workshop.repo.git("status", "--porcelain=v2", "--branch") == before
    assert (workshop.repo.path / "app.py").read_text() == "x = 1\n"


def test_the_installed_command_prints_one_json_document(workshop: Workshop) -> None:
    done = workshop.cli("run", workshop.pipeline(PIPELINE, script=SCRIPT), "--json", "-q")

    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(document) == [
        *("session_id", "status", "pipeline", "agent_outputs", "branches", "commits", "checkpoints", "usage"),
        *("conflicts", "waiting_for", "error"),
    ]
    assert document["status"] == "completed"
