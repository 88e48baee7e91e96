"""What tests of forks share: sessions to fork, people who know what to say, and looks at states and files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.graph.project import find_project
from orchestra.runtime.naming import CheckpointName, find_checkpoint
from orchestra.runtime.replaying import Changes
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import (
    SessionFiles,
    find_session,
    read_checkpoints,
)
from orchestra.testing import GitRepo, ScriptedPerson, git_repo
from tests.conftest import Workshop
from tests.gitkit import files_of, git
from tests.pastkit import Past
from tests.session_support import agent, says, writes

if TYPE_CHECKING:
    from pathlib import Path

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


@dataclass(frozen=True)
class Forks(Past):
    """A finished session, and ways to fork it."""

    repos: dict[str, GitRepo]

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


def turns(result: SessionResult) -> list[str]:
    rows = read_checkpoints(result.record.files)
    return [f"{turn['agent']} {turn['turn']}" for row in rows for turn in row["ended"]]


def workshop_at(base: Path) -> Workshop:
    return _workshop(base, git_repo(base / "app", {"README.md": "app\n"}))


def rich_session(base: Path) -> Forks:
    """Make a session with a fan-out, a conflict, a conversation and a loop over two repositories, at its end."""
    repos = {name: git_repo(base / name, {"README.md": f"{name}\n"}) for name in ("back", "front")}
    workshop = _workshop(base, repos["back"])
    result = asyncio.run(workshop.run(workshop.pipeline(RICH, script=SCRIPT), channels=[Knows(ANSWERS)]))
    made = Forks(workshop, result.record.session_id, repos)
    assert_ended_well(made, result)
    return made


def counted_session(base: Path) -> Forks:
    """Make a session of the pipeline that counts, at its end."""
    workshop = workshop_at(base)
    result = asyncio.run(workshop.run(counting(workshop)))
    assert result.record.status == "completed"
    return Forks(workshop, result.record.session_id, {"repo": workshop.repo})


def _workshop(base: Path, repo: GitRepo) -> Workshop:
    (base / "home").mkdir()
    (base / "pipelines").mkdir()
    return Workshop(repo, base / "pipelines", base / "home")
