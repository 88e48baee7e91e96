"""A session with a past to look back on: two repos, a branch, a conflict, a step, a loop; made once for many tests.

Nothing may change it: what a test changes it copies first.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.runtime.store import SessionFiles, find_session, read_checkpoints, sessions_directory
from orchestra.testing import git_repo
from tests.conftest import Workshop
from tests.session_support import agent, says

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "evil\x1b[2Jname.txt"
"""A name that would clear a terminal."""
_MAKES = "printf 'x\\n' >> \"$(printf 'evil\\033[2Jname.txt')\"; printf 'caf\\351 \\033[31m\\n' >> latin.txt"
PIPELINE: dict[str, Any] = {
    "name": "past",
    "workspace": {
        "repos": {"app": {"path": "../app"}, "web": {"path": "../web"}},
        "tools": {"app": {"odd": {"command": _MAKES, "args": {}}}},
    },
    "agents": {
        "planner": agent(tools=["app:write-file"]),
        "left": agent(tools=["app:write-file"]),
        "right": agent(tools=["app:write-file", "app:delete-file"]),
        "more": agent(tools=["app:write-file"]),
        "page": agent(tools=["web:write-file"]),
        "lead": agent(tools=["app:write-file", "web:write-file"]),
        "critic": agent(
            tools=["app:read-file"], output={"type": "object", "properties": {"verdict": {"type": "string"}}}
        ),
    },
    "steps": {"odd": {"tool": "app:odd"}},
    "conditions": "conditions",
    "graph": [
        {"from": "START", "to": "planner"},
        {"from": "planner", "to": ["left", "right", "page"]},
        {"from": "right", "to": "more"},
        {"from": ["left", "more", "page"], "to": "lead"},
        {"from": "lead", "to": "odd"},
        {"from": "odd", "to": "critic"},
        {"from": "critic", "to": {"revise": "lead", "approve": "END"}, "condition": "verdict", "max_loops": 1},
    ],
}
CONDITION = """
import orchestra

@orchestra.condition("verdict")
def verdict(state):
    return state["agent_outputs"]["critic"]["verdict"]
"""


def _puts(path: str, content: str) -> dict[str, Any]:
    repo, _, name = path.partition("/")
    return {"tools": [{"name": f"{repo}:write-file", "args": {"path": name, "content": content}}]}


SCRIPT: dict[str, Any] = {
    "planner": [[_puts("app/plan.md", "# Plan\n"), says("planned", usage={"input_tokens": 900, "output_tokens": 40})]],
    "left": [[_puts("app/routes.txt", "left\n"), says("left is done")]],
    "right": [
        [
            {"tools": [{"name": "app:delete-file", "args": {"path": "old.txt"}}]},
            _puts("app/routes.txt", "right\n"),
            says("right is done"),
        ]
    ],
    "more": [[_puts("app/more.txt", "1\n"), _puts("app/more.txt", "1\n2\n"), says("more is done")]],
    "page": [[_puts("web/page.html", "<p>\n"), says("page is done")]],
    "lead": [
        [_puts("app/routes.txt", "left\nright\n"), says("merged")],
        [_puts("web/notes.md", "revised\n"), says("revised")],
    ],
    "critic": [[{"output": {"verdict": "revise"}}], [{"output": {"verdict": "approve"}}]],
}


@dataclass(frozen=True)
class Past:
    """A project with a session."""

    workshop: Workshop
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

    def ended(self, agent: str, turn: int) -> dict[str, Any]:
        """Return the checkpoint at which a turn ended."""
        (row,) = [row for row in self.rows if {"agent": agent, "turn": turn} in row["ended"]]
        return row

    def copied(self, directory: Path) -> Past:
        """Copy the whole project, for a test that changes something in it."""
        shutil.copytree(self.root.parent, directory, symlinks=True)
        workshop = Workshop(self.workshop.repo, directory / "pipelines", directory / "home")
        workshop.repo = type(self.workshop.repo)(directory / "app")
        past = Past(workshop, self.session)
        for name in ("app", "web"):
            change(past.files, workspace={name: {"path": str(directory / name)}})
        return past


def change(files: SessionFiles, **columns: dict[str, Any]) -> None:
    """Merge something into JSON columns of a session's row."""
    with closing(sqlite3.connect(files.database)) as connection:
        for column, update in columns.items():
            (value,) = connection.execute(f"SELECT {column} FROM sessions").fetchone()  # noqa: S608
            known = json.loads(value)
            for key, item in update.items():
                is_nested = isinstance(item, dict) and isinstance(known.get(key), dict)
                known[key] = known[key] | item if is_nested else item
            connection.execute(f"UPDATE sessions SET {column} = ?", (json.dumps(known),))  # noqa: S608
        connection.commit()


def fork(root: Path, source: SessionFiles, session: str, checkpoint: dict[str, Any], *, seq: int) -> SessionFiles:
    """Make a session as a fork leaves it: the source's database up to a checkpoint, under an id of its own."""
    directory = sessions_directory(root) / session
    shutil.copytree(source.directory, directory)
    files = SessionFiles(directory)
    with closing(sqlite3.connect(files.database)) as connection:
        connection.execute("UPDATE sessions SET session_id = ?", (session,))
        connection.execute(
            "DELETE FROM checkpoints WHERE CAST(CAST(metadata AS TEXT) ->> '$.orchestra.seq' AS INTEGER) > ?", (seq,)
        )
        connection.commit()
    origin = {"session_id": source.session_id, "checkpoint_id": checkpoint["checkpoint_id"], "seq": seq}
    change(files, settings={"forked_from": origin, "directory": str(directory)})
    return files


def make_past(top: Path) -> Past:
    """Run a session to its end, with two turns of the lead, the critic and the step."""
    repo = git_repo(top / "app", {"app.py": "x = 1\n", "routes.txt": "first\n", "old.txt": "old\n"})
    git_repo(top / "web", {"index.html": "<html>\n"})
    for name in ("home", "pipelines"):
        (top / name).mkdir()
    workshop = Workshop(repo, top / "pipelines", top / "home")
    path = workshop.pipeline(PIPELINE, script=SCRIPT, files={"conditions/verdict.py": CONDITION})
    result = asyncio.run(workshop.run(path))
    assert result.record.status == "completed", result.record.error
    return Past(workshop, result.record.session_id)
