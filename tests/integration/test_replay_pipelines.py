"""`replay --pipeline` where the new pipeline does not fit, and replay of databases that somebody else has written."""

from __future__ import annotations

import asyncio
import copy
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError, PipelineError
from orchestra.runtime.replaying import Changes
from orchestra.runtime.store import SessionFiles, session_ids
from tests.conftest import Workshop
from tests.forkkit import (
    REPOS,
    RICH,
    SCRIPT,
    Forks,
    counted_session,
    pinned,
    rich_session,
    state_at,
    turns,
    workshop_at,
)
from tests.gitkit import git
from tests.session_support import agent, chain, in_a_child, says, writes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """A session with a conflict, a conversation and a loop, at its end."""
    return rich_session(tmp_path_factory.mktemp("rich"))


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """A session that has counted once."""
    return counted_session(tmp_path_factory.mktemp("counted"))


def talker_alone(content: dict[str, Any]) -> None:
    content["agents"]["talker"] = agent(tools=["front:write-file"])
    content["graph"][-1] = {"from": "talker", "to": "END"}


def merger_talks(content: dict[str, Any]) -> None:
    content["agents"]["merger"]["mode"] = "interactive"


def merger_is_a_step(content: dict[str, Any]) -> None:
    del content["agents"]["merger"]
    content["workspace"] = {**content["workspace"], "tools": {"back": {"merge": {"command": "true"}}}}
    content["steps"] = {"merger": {"tool": "back:merge"}}


def merger_reads(content: dict[str, Any]) -> None:
    del content["agents"]["merger"]["tools"]


def join_any(content: dict[str, Any]) -> None:
    content["graph"][1]["join"] = "any"


def one_after_another(content: dict[str, Any]) -> None:
    content["graph"][0:2] = [
        {"from": "START", "to": "left"},
        {"from": "left", "to": "right"},
        {"from": "right", "to": "merger"},
    ]


@pytest.mark.parametrize(
    ("change", "at", "said"),
    [
        (talker_alone, "talker", "'talker' is at work there as an interactive agent, and is an autonomous agent in it"),
        (merger_talks, "merger", "'merger' is at work there as an autonomous agent, and is an interactive agent in it"),
        (merger_is_a_step, "merger", "'merger' is at work there as an autonomous agent, and is a step in it"),
        (merger_reads, "merger", "'merger' is at work there with tools, and has none in it"),
        (join_any, "join", "'join.merger' is about to start there, which it does not have"),
        (join_any, "merger", "a conflict is open before 'merger', whose join is another one there"),
        (one_after_another, "merger", "a conflict is open before 'merger', whose join is another one there"),
    ],
)
async def test_a_pipeline_in_which_what_is_open_is_something_else_is_refused(
    rich: Forks, change: Any, at: str, said: str
) -> None:
    content = copy.deepcopy(RICH)
    change(content)
    script = {name: turns for name, turns in SCRIPT.items() if name in content["agents"]}
    path = rich.workshop.pipeline(content, script=script, name=f"{change.__name__}.yaml")
    inside = [row for row in rich.rows if row["agent"] == at and row["checkpoint_ns"]]
    row = inside[2] if inside else rich.row(before="join.merger")
    known = session_ids(rich.root)
    with pytest.raises(PipelineError) as caught:
        await rich.fork(row, pipeline=path)
    assert {problem.code for problem in caught.value.problems} == {"does-not-fit"}
    assert any(said in problem.message for problem in caught.value.problems), caught.value.problems
    assert session_ids(rich.root) == known


async def test_a_bare_repository_gets_no_writer_and_unmerged_work_keeps_its_agent(tmp_path: Path) -> None:
    workshop = workshop_at(tmp_path)
    git(workshop.repo.path, "clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    repos = {"app": {"path": "../app"}, "bare": {"path": "../bare.git"}}
    content: dict[str, Any] = {
        "name": "left",
        "workspace": {"repos": repos},
        "agents": {name: agent(tools=["app:write-file", "bare:read-file"]) for name in ("one", "two")},
        "graph": [
            {"from": "START", "to": ["one", "two"]},
            {"from": ["one"], "to": "END"},
            {"from": "two", "to": "END"},
        ],
    }
    script = {name: [[writes("a.txt", f"{name}\n", name="app:write-file"), says("Done.")]] for name in ("one", "two")}
    result = await workshop.run(workshop.pipeline(content, script=script))
    assert result.record.error is not None
    assert result.record.error["code"] == "merge-conflict"
    forks = Forks(workshop, result.record.session_id, {"app": workshop.repo})
    content["agents"]["one"]["tools"].append("bare:write-file")
    path = workshop.pipeline(content, script=script, name="writer.yaml")
    with pytest.raises(PipelineError, match="the repo 'bare' is bare, and 'one' needs its files in a worktree"):
        await forks.fork(forks.rows[0], pipeline=path)
    content |= {"agents": {"three": agent()}, "graph": chain("three")}
    path = workshop.pipeline(content, script={"three": [[says("Three.")]]}, name="renamed.yaml")
    with pytest.raises(PipelineError, match="what 'one' has written is not merged yet, and it has no 'one'"):
        await forks.fork(forks.rows[-1], pipeline=path)


def test_answers_are_there_as_soon_as_the_fork_is(rich: Forks) -> None:
    """An agent that fails must know that it was heard, also where the fork's maker was killed."""
    row = [row for row in rich.rows if row["agent"] == "talker" and row["checkpoint_ns"]][-1]
    known = set(session_ids(rich.root))
    work: Callable[[], Any] = lambda: asyncio.run(rich.fork(row, run=False))  # noqa: E731
    assert in_a_child(work, failpoint="fork-there") == -signal.SIGKILL
    (made,) = set(session_ids(rich.root)) - known
    answers = {path.name: path.read_text() for path in rich.named(made).inbox.glob("*.json")}
    assert len(answers) == 3
    assert in_a_child(work, failpoint="database-drafted") == -signal.SIGKILL
    sessions = rich.root / ".orchestra" / "sessions"
    (left,) = {path.name for path in sessions.iterdir()} - {*known, made, ".git"}
    assert any((sessions / left / "inbox").iterdir())
    asyncio.run(rich.fork(row, run=False))
    assert not (sessions / left).exists(), "what was not finished is swept with its copies of answers"


def test_a_database_that_somebody_else_has_written_is_refused_and_nothing_is_made(rich: Forks, tmp_path: Path) -> None:
    row = rich.row(agent="merger", turn=1)
    known, before = session_ids(rich.root), {name: pinned(repo.path) for name, repo in rich.repos.items()}
    told = "UPDATE checkpoints SET metadata = json_set(CAST(metadata AS TEXT), ?, json(?))"
    for number, (change, *values) in enumerate(
        (
            ("UPDATE writes SET type = 'pickle', value = x'80049521'",),
            ("UPDATE checkpoints SET checkpoint = x'7b7b7b'",),
            (told, "$.orchestra", "5"),
            (told, "$.orchestra.repos", '{"back": "--stdin", "front": "HEAD"}'),
            (told, "$.orchestra.integrated", '{"back": "refs/heads/main", "front": "HEAD"}'),
            (told, "$.orchestra.slots", '{"back": "../../x", "front": "/x"}'),
            ("UPDATE events SET payload = ? WHERE type = 'model_ended'", '{"input_tokens": "x"}'),
        )
    ):
        forged = SessionFiles(tmp_path / str(number) / rich.session)
        forged.directory.mkdir(parents=True)
        forged.pipeline.symlink_to(rich.files.pipeline)
        forged.database.write_bytes(rich.files.database.read_bytes())
        with closing(sqlite3.connect(forged.database)) as connection, connection:
            connection.execute(change, values)
        with pytest.raises(OrchestraError) as caught:
            asyncio.run(rich.manager().replay(forged, row, Changes()))
        assert (caught.value.code, caught.value.exit_code) == ("untrusted-checkpoint", 2), (values, caught.value)
        assert session_ids(rich.root) == known
        assert {name: pinned(repo.path) for name, repo in rich.repos.items()} == before


# --- pipelines that fit, and every reason why one does not


async def test_a_changed_pipeline_goes_on_from_the_checkpoint(counted: Forks) -> None:
    graph = [
        {"from": "START", "to": "writer"},
        {"from": "writer", "to": "judge"},
        {"from": "judge", "to": "last"},
        {"from": "last", "to": "END"},
    ]
    judge = {"task": {"template": "Judge."}, "model": "m"}
    agents = {"writer": agent(tools=["write-file"]), "judge": judge, "last": agent("{{ limit }}")}
    script = {"judge": [[says("Fine.")]], "last": [[says("The last.")]], "writer": []}
    workshop = counted.workshop
    (workshop.pipelines / "new").mkdir()
    changed = Workshop(workshop.repo, workshop.pipelines / "new", workshop.home)
    path = changed.pipeline(
        {"name": "changed", "state": "counted:Counted", "agents": agents, "graph": graph}, script=script
    )
    (workshop.pipelines / "new" / "counted.py").write_text(
        "from pydantic import BaseModel\n\n\nclass Counted(BaseModel):\n    limit: int = 1\n    more: str = 'new'\n"
    )
    result = await counted.fork(counted.row(agent="writer"), pipeline=path)
    assert turns(result) == ["writer 1", "judge 1", "last 1"]
    assert result.agent_outputs["last"] == "The last."
    assert result.record.pipeline == "changed"
    assert result.branches == {"repo": f"orchestra/changed/{result.record.session_id}"}
    assert state_at(result.record.files)["more"] == "new"
    assert (await counted.manager().resume(result.record.files)).agent_outputs == result.agent_outputs


async def test_a_pipeline_that_does_not_fit_the_checkpoint_is_refused_with_every_reason(rich: Forks) -> None:
    agents = {name: agent() for name in ("left", "right", "other")}
    workspace = {"repos": {**REPOS, "third": {"path": "../front"}}}
    content = {"name": "odd", "agents": agents, "workspace": workspace, "graph": chain("left", "right", "other")}
    path = rich.workshop.pipeline(content, script={name: [] for name in agents}, name="odd.yaml")
    known = session_ids(rich.root)
    for row, reasons in (
        (rich.row(before="merger"), ["its repo 'third'", "'merger' is about to start there, which it does not have"]),
        (rich.row(before="join.merger"), ["'join.merger' is about to start", "'left' has arrived at the join"]),
    ):
        with pytest.raises(PipelineError) as caught:
            await rich.fork(row, pipeline=path)
        said = "\n".join(problem.message for problem in caught.value.problems)
        assert {problem.code for problem in caught.value.problems} == {"does-not-fit"}
        for reason in reasons:
            assert reason in said
    talking = [row for row in rich.rows if row["agent"] == "talker" and row["checkpoint_ns"]][2]
    with pytest.raises(PipelineError) as caught:
        await rich.fork(talking, pipeline=path)
    assert any("'talker' is at work there, which it does not have" in one.message for one in caught.value.problems)
    assert session_ids(rich.root) == known
