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
from orchestra.testing import git_repo
from tests.conftest import Workshop
from tests.gitkit import git
from tests.integration.test_replay import (
    ANSWERS,
    RICH,
    SCRIPT,
    Forks,
    Knows,
    pinned,
    workshop_at,
)
from tests.session_support import agent, chain, in_a_child, says, writes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """The session with a conflict, a conversation and a loop, at its end."""
    base = tmp_path_factory.mktemp("rich")
    repos = {name: git_repo(base / name, {"README.md": f"{name}\n"}) for name in ("back", "front")}
    (base / "home").mkdir()
    (base / "pipelines").mkdir()
    workshop = Workshop(repos["back"], base / "pipelines", base / "home")
    result = asyncio.run(workshop.run(workshop.pipeline(RICH, script=SCRIPT), channels=[Knows(ANSWERS)]))
    assert result.record.status == "completed"
    return Forks(workshop, repos, result.record.session_id)


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
    forks = Forks(workshop, {"app": workshop.repo}, result.record.session_id)
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
