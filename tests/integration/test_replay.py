"""Forks: new sessions from any checkpoint of another one, with its state and its files, that run on to the same end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import GitError, OrchestraError, PipelineError, SessionError
from orchestra.graph.project import find_project
from orchestra.runtime.edits import Edit
from orchestra.runtime.forking import Draft
from orchestra.runtime.naming import CheckpointName, find_checkpoint
from orchestra.runtime.replaying import Changes
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import (
    SessionFiles,
    find_session,
    read_checkpoints,
    read_events,
    read_session,
    session_ids,
)
from orchestra.testing import GitRepo, ScriptedPerson, git_repo
from tests.conftest import Workshop
from tests.gitkit import assert_sound, files_of, fingerprint, git
from tests.session_support import agent, chain, in_a_child, says, writes

if TYPE_CHECKING:
    from orchestra.agents.conversation import Question
    from orchestra.runtime.result import SessionResult


class Knows(ScriptedPerson):
    """Somebody who knows what to say to each question, whenever it is asked."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__([])
        self._by_text = answers

    async def ask(self, question: Question) -> str | None:
        self.asked.append(question)
        return self._by_text.get(question.text)


ANSWERS = {"Shall it be so?": "why?", "Because.": "/reject once more", "And now?": "/approve"}


def note(repo: str, path: str, content: str) -> dict[str, Any]:
    return {"tools": [{"name": f"{repo}:write-file", "args": {"path": path, "content": content}}]}


REPOS = {"back": {"path": "../back"}, "front": {"path": "../front"}}
RICH = {
    "name": "rich",
    "workspace": {"repos": REPOS},
    "agents": {
        "left": agent(tools=["back:write-file", "front:write-file"]),
        "right": agent(tools=["back:write-file"]),
        "merger": agent(tools=["back:write-file"]),
        "talker": agent(mode="interactive", tools=["front:write-file"]),
    },
    "graph": [
        {"from": "START", "to": ["left", "right"]},
        {"from": ["left", "right"], "to": "merger"},
        {"from": "merger", "to": "talker"},
        {
            "from": "talker",
            "to": {"reject": "merger", "approve": "END"},
            "condition": "human-decision",
            "max_loops": 1,
        },
    ],
}
"""A fan-out whose branches conflict, a conversation, a loop, two repositories."""

SCRIPT = {
    "left": [[note("back", "both.txt", "left\n"), note("front", "left.txt", "left\n"), says("Left is done.")]],
    "right": [[note("back", "both.txt", "right\n"), says("Right is done.")]],
    "merger": [
        [note("back", "both.txt", "left and right\n"), says("Merged.")],
        [note("back", "more.txt", "more\n"), says("More.")],
    ],
    "talker": [
        [note("front", "talk.txt", "one\n"), says("Shall it be so?"), says("Because.")],
        [note("front", "talk.txt", "two\n"), says("And now?")],
    ],
}
OUTCOME = {
    "back": {"both.txt": "left and right\n", "more.txt": "more\n", "README.md": "back\n"},
    "front": {"left.txt": "left\n", "talk.txt": "two\n", "README.md": "front\n"},
}


@dataclass
class Forks:
    """A finished session, and ways to fork it."""

    workshop: Workshop
    repos: dict[str, GitRepo]
    session: str

    @property
    def root(self) -> Path:
        return self.workshop.repo.path

    @property
    def files(self) -> SessionFiles:
        return find_session(self.root, self.session)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return read_checkpoints(self.files)

    def manager(self) -> SessionManager:
        return SessionManager(find_project(self.root), channels=[Knows(ANSWERS)])

    async def fork(self, row: dict[str, Any], *, run: bool = True, of: str | None = None, **changes: Any) -> Any:
        source = find_session(self.root, of or self.session)
        return await self.manager().replay(source, row, Changes(**changes), goes_on=run)

    def row(self, *, of: str | None = None, **name: Any) -> dict[str, Any]:
        return find_checkpoint(find_session(self.root, of or self.session), CheckpointName(**name))

    def named(self, session: str) -> SessionFiles:
        return find_session(self.root, session)


def state_at(files: SessionFiles, row: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the channels of a checkpoint, as they are stored, without the id of the session."""
    wanted = row or read_checkpoints(files)[-1]
    with closing(sqlite3.connect(f"file:{files.database}?mode=ro", uri=True)) as connection:
        (blob,) = connection.execute(
            "SELECT checkpoint FROM checkpoints WHERE checkpoint_ns = ? AND checkpoint_id = ?",
            (wanted["checkpoint_ns"], wanted["checkpoint_id"]),
        ).fetchone()
    values: dict[str, Any] = json.loads(blob.decode().replace(files.session_id, "SESSION"))["channel_values"]
    return values


def tree_of(top: Path, revision: str) -> str:
    return git(top, "rev-parse", f"{revision}^{{tree}}")


def files_at(top: Path, revision: str) -> dict[str, str]:
    names = git(top, "ls-tree", "-r", "--name-only", revision).split("\n")
    return {name: git(top, "show", f"{revision}:{name}") + "\n" for name in names}


def files_in(top: Path) -> dict[str, str]:
    paths = [path for path in top.rglob("*") if path.is_file() and path.name != ".git"]
    return {path.relative_to(top).as_posix(): path.read_text() for path in paths}


def blobs_at(top: Path, revision: str) -> dict[str, str]:
    return {name: about.split()[2] for name, about in files_of(top, revision).items()}


def blobs_in(top: Path) -> dict[str, str]:
    """Return path → git's name of the content, of each file in a worktree."""
    paths = [path for path in top.rglob("*") if path.is_file() and path.name != ".git"]
    contents = {path.relative_to(top).as_posix(): path.read_bytes() for path in paths}
    return {
        name: hashlib.sha1(b"blob %d\0%s" % (len(content), content), usedforsecurity=False).hexdigest()
        for name, content in contents.items()
    }


def pinned(top: Path) -> str:
    return git(top, "for-each-ref", "refs/orchestra", "refs/heads")


def assert_ended_well(forks: Forks, result: SessionResult) -> None:
    assert result.record.status == "completed", result.record.error
    assert result.agent_outputs["talker"]["decision"] == "approve"
    for name, repo in forks.repos.items():
        assert files_at(repo.path, result.commits[name]) == OUTCOME[name]
        assert git(repo.path, "rev-parse", result.branches[name]) == result.commits[name]
    ended = [(turn["agent"], turn["turn"]) for row in read_checkpoints(result.record.files) for turn in row["ended"]]
    assert sorted(ended) == [("left", 1), ("merger", 1), ("merger", 2), ("right", 1), ("talker", 1), ("talker", 2)]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """A session with a fan-out, a conflict, a conversation and a loop over two repositories, at its end."""
    base = tmp_path_factory.mktemp("replay")
    repos = {name: git_repo(base / name, {"README.md": f"{name}\n"}) for name in ("back", "front")}
    home, pipelines = base / "home", base / "pipelines"
    home.mkdir()
    pipelines.mkdir()
    workshop = Workshop(repos["back"], pipelines, home)
    path = workshop.pipeline(RICH, script=SCRIPT)
    result = asyncio.run(workshop.run(path, channels=[Knows(ANSWERS)]))
    made = Forks(workshop, repos, result.record.session_id)
    assert_ended_well(made, result)
    return made


async def test_a_fork_of_any_checkpoint_has_its_state_and_its_files_and_runs_on_to_the_same_end(forks: Forks) -> None:
    before = {name: fingerprint(repo.path) for name, repo in forks.repos.items()}
    own = {path: path.read_bytes() for path in forks.files.directory.rglob("*") if path.is_file()}
    for number, row in enumerate(forks.rows):
        stands = await forks.fork(row, run=False)
        session = forks.named(stands.record.session_id)

        rows = read_checkpoints(session)
        assert rows == forks.rows[: number + 1], "its history is the source's up to there"
        assert state_at(session) == state_at(forks.files, row)
        for name, repo in forks.repos.items():
            assert blobs_in(Path(stands.worktrees[name])) == blobs_at(repo.path, row["repos"][name])
        if number % 7 == 0:
            result = await forks.manager().resume(session)
            assert_ended_well(forks, result)
            assert result.record.usage["model_calls"] <= 15
    assert {name: fingerprint(repo.path) for name, repo in forks.repos.items()} == before
    assert {path: path.read_bytes() for path in own} == own, "the source was changed"
    for repo in forks.repos.values():
        assert_sound(repo.path)


async def test_a_fork_of_a_fork_of_a_fork_is_one(forks: Forks) -> None:
    first = await forks.fork(forks.row(agent="talker", turn=1))
    middle = next(row for row in reversed(forks.rows) if row["agent"] == "talker" and row["checkpoint_ns"])
    assert_ended_well(forks, first)
    second = await forks.fork(middle, of=forks.session, run=False)
    third = await forks.fork(middle, of=second.record.session_id)
    assert_ended_well(forks, third)
    assert third.as_json()["forked_from"] == {
        "session_id": second.record.session_id,
        "checkpoint_id": middle["checkpoint_id"],
    }
    own = await forks.fork(read_checkpoints(first.record.files)[-4], of=first.record.session_id)
    assert_ended_well(forks, own)


@pytest.mark.parametrize(
    "point",
    [
        *("session-directory-made", "fork-copied", "fork-cut", "fork-files-copied", "fork-base-pinned:2"),
        *("fork-commits-gathered", "fork-commits-kept", "fork-commits-kept:2", "database-drafted"),
    ],
)
def test_a_fork_that_was_killed_while_it_was_made_leaves_nothing(forks: Forks, point: str) -> None:
    known, before = session_ids(forks.root), {name: pinned(repo.path) for name, repo in forks.repos.items()}
    row = forks.row(before="talker")
    assert in_a_child(lambda: asyncio.run(forks.fork(row, run=False)), failpoint=point) == -signal.SIGKILL
    assert session_ids(forks.root) == known
    stands = asyncio.run(forks.fork(row, run=False))  # the next one sweeps
    (made,) = set(session_ids(forks.root)) - set(known)
    assert [entry.name for entry in (forks.root / ".orchestra" / "sessions").iterdir() if entry.name != ".git"] != known
    assert stands.record.session_id == made
    for name, repo in forks.repos.items():
        new = set(pinned(repo.path).split("\n")) - set(before[name].split("\n"))
        assert {line.split("refs/")[1] for line in new} == {
            f"orchestra/{made}/base",
            f"orchestra/{made}/fork",
            f"heads/orchestra/rich/{made}",
        }
    left = {entry.name for entry in (forks.root / ".orchestra" / "sessions").iterdir()} - {".git"}
    assert left == {*known, made}


@pytest.mark.parametrize(
    "point", ["fork-there", "fork-made", "fork-branch-made:1", "fork-worktree-made:1", "session-reopened"]
)
def test_a_fork_that_was_killed_once_it_was_there_is_resumed(forks: Forks, point: str) -> None:
    known = session_ids(forks.root)
    inside = next(row for row in forks.rows if row["agent"] == "left" and row["changed"] == ["front"])
    assert in_a_child(lambda: asyncio.run(forks.fork(inside, run=False)), failpoint=point) == -signal.SIGKILL
    (made,) = set(session_ids(forks.root)) - set(known)
    assert read_session(forks.named(made)).status == "interrupted"
    assert_ended_well(forks, asyncio.run(forks.manager().resume(forks.named(made))))


async def test_a_checkpoint_whose_objects_were_pruned_is_named_and_nothing_is_made(forks: Forks) -> None:
    row = forks.row(agent="merger", turn=2)
    top = forks.repos["back"].path
    blob = git(top, "rev-parse", f"{row['repos']['back']}:more.txt")
    place = top / ".git" / "objects" / blob[:2] / blob[2:]
    known, before, kept = session_ids(forks.root), pinned(top), place.read_bytes()
    mode = place.stat().st_mode
    for content in (None, b""):
        place.unlink()
        if content is not None:
            place.write_bytes(content)
        with pytest.raises(GitError, match=blob) as caught:
            await forks.fork(row)
        assert (caught.value.code, caught.value.exit_code) == ("objects-missing", 2)
        assert row["checkpoint_id"] in caught.value.message
        assert (session_ids(forks.root), pinned(top)) == (known, before)
        place.unlink(missing_ok=True)
        place.write_bytes(kept)
        place.chmod(mode)
    assert_ended_well(forks, await forks.fork(row))


# --- what is different


def counting(workshop: Workshop, **more: Any) -> Path:
    """A pipeline that counts in its state, and goes back as often as the state says."""
    content = {
        "name": "counting",
        "state": "counted:Counted",
        "inputs": {"goal": {"type": "number", "default": 1}, "topic": {"type": "string", "default": "cats"}},
        "providers": {
            "default": "offline",
            "offline": {"type": "scripted", "script": "script.yaml", "models": {"big": "large"}},
            "other": {"type": "scripted", "script": "other.yaml"},
            "keyless": {"type": "anthropic", "api_key_env": "A_KEY_THAT_NOBODY_HAS"},
        },
        "agents": {
            "writer": agent("Write of {{ inputs.topic }}.", tools=["write-file"]),
            "judge": agent(
                output={"type": "object", "properties": {"seen": {"type": "integer"}}, "required": ["seen"]}
            ),
            "closer": agent("Close {{ agent_outputs.judge.seen }}."),
        },
        "graph": [
            {"from": "START", "to": "writer"},
            {"from": "writer", "to": "judge"},
            {"from": "judge", "to": {"again": "writer", "enough": "closer"}, "condition": "enough", "max_loops": 3},
            {"from": "closer", "to": "END"},
        ],
        **more,
    }
    script = {
        "writer": [[writes("a.txt", f"{turn}\n"), says(f"Written {turn}.")] for turn in (1, 2, 3, 4)],
        "judge": [[{"output": {"seen": turn}}] for turn in (1, 2, 3, 4)],
        "closer": [[says("Closed.")]],
    }
    (workshop.pipelines / "other.yaml").write_text(
        json.dumps({"agents": {**script, "closer": [[says("Closed elsewhere.")]]}}), encoding="utf-8"
    )
    return workshop.pipeline(
        content,
        script=script,
        files={
            "counted.py": "from pydantic import BaseModel\n\n\nclass Counted(BaseModel):\n    limit: int = 1\n",
            "conditions/enough.py": "import orchestra\n\n\n@orchestra.condition('enough')\ndef enough(state):\n"
            "    return 'enough' if state['agent_outputs']['judge']['seen'] >= state['limit'] else 'again'\n",
        },
        name=more.get("name", "pipeline") + ".yaml",
    )


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    base = tmp_path_factory.mktemp("counted")
    repo = git_repo(base / "app", {"README.md": "app\n"})
    (base / "home").mkdir()
    (base / "pipelines").mkdir()
    workshop = Workshop(repo, base / "pipelines", base / "home")
    result = asyncio.run(workshop.run(counting(workshop)))
    assert result.record.status == "completed"
    return Forks(workshop, {"repo": repo}, result.record.session_id)


def turns(result: SessionResult) -> list[str]:
    rows = read_checkpoints(result.record.files)
    return [f"{turn['agent']} {turn['turn']}" for row in rows for turn in row["ended"]]


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
    forks = Forks(workshop, {"repo": workshop.repo}, result.record.session_id)
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


# --- another pipeline


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


async def test_a_pipeline_that_does_not_fit_the_checkpoint_is_refused_with_every_reason(forks: Forks) -> None:
    agents = {name: agent() for name in ("left", "right", "other")}
    workspace = {"repos": {**REPOS, "third": {"path": "../front"}}}
    content = {"name": "odd", "agents": agents, "workspace": workspace, "graph": chain("left", "right", "other")}
    path = forks.workshop.pipeline(content, script={name: [] for name in agents}, name="odd.yaml")
    known = session_ids(forks.root)
    for row, reasons in (
        (forks.row(before="merger"), ["its repo 'third'", "'merger' is about to start there, which it does not have"]),
        (forks.row(before="join.merger"), ["'join.merger' is about to start", "'left' has arrived at the join"]),
    ):
        with pytest.raises(PipelineError) as caught:
            await forks.fork(row, pipeline=path)
        said = "\n".join(problem.message for problem in caught.value.problems)
        assert {problem.code for problem in caught.value.problems} == {"does-not-fit"}
        for reason in reasons:
            assert reason in said
    talking = [row for row in forks.rows if row["agent"] == "talker" and row["checkpoint_ns"]][2]
    with pytest.raises(PipelineError) as caught:
        await forks.fork(talking, pipeline=path)
    assert any("'talker' is at work there, which it does not have" in one.message for one in caught.value.problems)
    assert session_ids(forks.root) == known


# --- sources of every kind


def test_a_session_that_is_running_is_forked_while_it_runs(tmp_path: Path) -> None:
    workshop = workshop_at(tmp_path)
    path = workshop.pipeline(
        {"name": "slow", "agents": {"one": agent(tools=["write-file"]), "two": agent()}, "graph": chain("one", "two")},
        script={"one": [[writes("a.txt", "a\n"), says("One.")]], "two": [[says("Two.", delay=30)]]},
    )
    process = workshop.start("run", path)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "two" in line and "starts" in line:
                break
        (session,) = session_ids(workshop.repo.path)
        forked = workshop.json("replay", session, "--agent", "one", "--no-run")
        assert forked["forked_from"]["session_id"] == session
        assert files_in(Path(forked["worktrees"]["repo"]))["a.txt"] == "a\n"
        assert workshop.json("status", session)[0]["status"] == "running"
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def workshop_at(base: Path) -> Workshop:
    (base / "home").mkdir()
    (base / "pipelines").mkdir()
    return Workshop(git_repo(base / "app", {"README.md": "app\n"}), base / "pipelines", base / "home")


def test_the_command_says_what_it_made_and_what_to_type_next(counted: Forks) -> None:
    workshop = counted.workshop
    stays = workshop.cli("replay", counted.session, "--agent", "writer", "--no-run")
    assert stays.returncode == 0
    (made,) = [name for name in session_ids(counted.root) if name in stays.stderr and name != counted.session]
    assert stays.stdout == f"{counted.root}/.orchestra/worktrees/{made}/_session\n"
    assert f"forked from the session {counted.session}" in stays.stderr
    assert f"go on with: orchestra resume {made}" in stays.stderr
    goes_on = workshop.json("replay", counted.session, "--before", "closer", "--model", "closer=big", "-q")
    assert list(goes_on)[-2:] == ["forked_from", "worktrees"]
    assert goes_on["status"] == "completed"
    assert goes_on["forked_from"]["session_id"] == counted.session
    refused = workshop.cli("replay", counted.session, "--step", "1", "--set", "limit", "--model", "closer")
    assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
    assert "is not PATH=VALUE" in refused.stderr


async def test_a_repository_that_is_gone_and_a_newer_session_are_named(tmp_path: Path) -> None:
    workshop = workshop_at(tmp_path)
    extra = git_repo(tmp_path / "extra", {"README.md": "extra\n"})
    content = {
        "name": "both",
        "workspace": {"repos": {"app": {"path": "../app"}, "extra": {"path": "../extra"}}},
        "agents": {"one": agent(tools=["extra:write-file"])},
        "graph": chain("one"),
    }
    script = {"one": [[note("extra", "a.txt", "a\n"), says("One.")]]}
    result = await workshop.run(workshop.pipeline(content, script=script))
    forks = Forks(workshop, {"app": workshop.repo, "extra": extra}, result.record.session_id)
    row = forks.row(agent="one")
    extra.path.rename(tmp_path / "elsewhere")
    with pytest.raises(SessionError, match=r"is not at .*extra any more") as moved:
        await forks.fork(row)
    assert (moved.value.code, moved.value.exit_code) == ("repo-moved", 2)
    (tmp_path / "elsewhere").rename(extra.path)
    with closing(sqlite3.connect(forks.files.database)) as connection, connection:
        connection.execute("UPDATE sessions SET version = 99")
    with pytest.raises(SessionError, match="newer Orchestra") as newer:
        await forks.fork(row)
    assert newer.value.code == "newer-session"
    assert session_ids(forks.root) == [forks.session]


async def test_a_session_that_did_not_note_its_order_is_forked_too(counted: Forks, tmp_path: Path) -> None:
    """As it is of an Orchestra that did not know of forks: what hangs on the newest checkpoints is done once more."""
    old = SessionFiles(tmp_path / counted.session)
    old.directory.mkdir()
    old.database.write_bytes(counted.files.database.read_bytes())
    with closing(sqlite3.connect(old.database)) as connection, connection:
        for kind, name in connection.execute(
            "SELECT type, name FROM sqlite_master WHERE name LIKE '%order%'"
        ).fetchall():
            if kind in {"table", "trigger"}:
                connection.execute(f"DROP {kind} IF EXISTS {name}")
    row = counted.row(agent="writer")
    draft = Draft(tmp_path / "draft.db")
    about, _ = draft.take(old, row["checkpoint_ns"], row["checkpoint_id"])
    assert about["repos"] == row["repos"]
    assert max(one.seq for one in draft.newest()) == about["seq"]
    with closing(sqlite3.connect(tmp_path / "draft.db")) as connection:
        (last,) = connection.execute("SELECT type FROM events ORDER BY seq DESC LIMIT 1").fetchone()
    assert last == "checkpoint"
