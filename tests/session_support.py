"""What tests of sessions share: pipelines of writers, a driver that is killed, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sqlite3
import sys
import warnings
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema

from orchestra.runtime.event_log import read_events
from orchestra.runtime.event_types import EVENT_TYPES
from orchestra.runtime.processes import holders_of
from orchestra.runtime.store import find_session, session_ids
from orchestra.testing import write_script
from tests.gitkit import assert_sound, files_of, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from orchestra.runtime.observability import Event
    from orchestra.runtime.result import SessionResult
    from tests.conftest import Workshop


def writes(path: str, content: str, *, name: str = "write-file") -> dict[str, Any]:
    """A scripted reply that writes one file."""
    return {"tools": [{"name": name, "args": {"path": path, "content": content}}]}


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, **more}


def agent(task: str = "Do it.", **more: Any) -> dict[str, Any]:
    return {"task": {"template": task}, "model": "m", **more}


def chain(*names: str) -> list[dict[str, Any]]:
    stops = ["START", *names, "END"]
    return [{"from": one, "to": other} for one, other in itertools.pairwise(stops)]


def in_a_child(work: Callable[[], Any], *, failpoint: str | None = None, quiet: bool = True) -> int:
    """Run something in a forked process, and return how it ended: its exit code, or minus the signal.

    A fork has LangGraph imported already, which would cost a new process seconds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if quiet:
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, 1)
                os.dup2(sink, 2)
            if failpoint:
                os.environ["ORCHESTRA_FAILPOINT"] = failpoint
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing of the test may go on here
            sys.excepthook(*sys.exc_info())
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@dataclass
class Killed:
    """A session whose driver was killed, or that ended before the kill."""

    session: str | None
    finished: bool


def run_and_kill(workshop: Workshop, path: Path, failpoint: str, **settings: Any) -> Killed:
    """Run a pipeline until a failpoint kills it."""
    before = set(session_ids(workshop.repo.path))
    code = in_a_child(lambda: asyncio.run(workshop.run(path, **settings)), failpoint=failpoint)
    assert code in (0, -signal.SIGKILL), code
    new = set(session_ids(workshop.repo.path)) - before
    return Killed(next(iter(new), None), finished=code == 0)


def resume_and_kill(workshop: Workshop, session: str, failpoint: str) -> bool:
    """Resume a session until a failpoint kills it; tells whether it ended before."""
    code = in_a_child(lambda: asyncio.run(workshop.resume(session)), failpoint=failpoint)
    assert code in (0, -signal.SIGKILL), code
    return code == 0


def events(workshop: Workshop, session: str, *types: str) -> list[dict[str, Any]]:
    found = read_events(find_session(workshop.repo.path, session))
    return [event for event in found if not types or event["type"] in types]


def model_calls(workshop: Workshop, session: str) -> dict[tuple[str, int], int]:
    """Return how many model calls each turn has paid for."""
    paid: dict[tuple[str, int], int] = {}
    for event in events(workshop, session, "model_ended"):
        key = (event["node"], event["turn"])
        paid[key] = paid.get(key, 0) + 1
    return paid


def database(workshop: Workshop, session: str) -> Path:
    return find_session(workshop.repo.path, session).database


def holders(path: Path) -> list[str]:
    """Return `PID (COMMAND)` of the other processes that have a file open."""
    return [str(process) for process in holders_of([path])[path] if process.pid != os.getpid()]


def query(workshop: Workshop, session: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{database(workshop, session)}?mode=ro", uri=True)) as connection:
        return [tuple(row) for row in connection.execute(sql, values)]


def turn_commits(workshop: Workshop, branch: str) -> list[str]:
    """Return `agent:turn` of the session branch's commits, oldest first."""
    shown = (
        "%(trailers:key=Orchestra-Agent,valueonly,separator=)%x3A%(trailers:key=Orchestra-Turn,valueonly,separator=)"
    )
    log = workshop.repo.git("log", "--reverse", f"--format={shown}", f"main..{branch}")
    return [line for line in log.split("\n") if line not in ("", ":")]  # the user's uncommitted work has no trailer


def reachable(workshop: Workshop) -> set[str]:
    # Not `--all`, which adds the HEADs of worktrees: one that git is just making has a HEAD of zeros.
    return set(workshop.repo.git("rev-list", "--glob=refs/*").split())


def assert_consistent(workshop: Workshop, result: SessionResult) -> None:
    """Check what holds of every session, however often it was killed."""
    session = result.record.session_id
    rows = workshop.checkpoints(session)
    ended = [(entry["agent"], entry["turn"]) for row in rows for entry in row["ended"]]
    assert len(ended) == len(set(ended)), "a turn ended twice"
    assert {commit for row in rows for commit in row["repos"].values()} <= reachable(workshop)
    commits = turn_commits(workshop, result.branches["repo"]) if result.branches else []
    assert len(commits) == len(set(commits)), "a commit was doubled"
    last = [row for row in rows if not row["checkpoint_ns"]][-1]
    assert last["repos"] == result.commits
    for repo, ref in result.branches.items():
        assert workshop.repo.git("rev-parse", ref) == result.commits[repo]
    numbers = [event["seq"] for event in events(workshop, session)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert query(workshop, session, "PRAGMA integrity_check") == [("ok",)]
    assert_sound(workshop.repo.path)


def tree(workshop: Workshop, commit: str) -> dict[str, str]:
    return files_of(workshop.repo.path, commit)


def contents(workshop: Workshop, commit: str) -> dict[str, str]:
    """Return `{path: content}` of a commit."""
    return {path: workshop.repo.git("show", f"{commit}:{path}") for path in tree(workshop, commit)}


def user_side(workshop: Workshop) -> dict[str, str]:
    """Return the fingerprint of all that is the user's: also of their branches, not the session's."""
    return {
        path: mark
        for path, mark in fingerprint(workshop.repo.path).items()
        if "/refs/heads/orchestra" not in path and "/logs/" not in path and not path.endswith("/.git")
    }


def rescript(workshop: Workshop, session: str, script: dict[str, Any]) -> None:
    """Change what the models of a session say, in its own copy: a model that was mended."""
    write_script(find_session(workshop.repo.path, session).pipeline / "0" / "script.yaml", script)


def rows_of(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the rows inside an agent's turns."""
    return [row for row in rows if row["checkpoint_ns"] and row["agent"] == name]


TOOLS = ["read-file", "write-file", "git-commit"]
PIPELINE: dict[str, Any] = {
    "name": "crash",
    "agents": {
        "left": agent(tools=TOOLS),
        "right": agent(tools=TOOLS),
        "critic": agent(tools=["read-file"], output={"type": "object", "properties": {"verdict": {"type": "string"}}}),
    },
    "steps": {"count": {"tool": "repo:count"}},
    "workspace": {
        "repos": {"repo": {"path": "../app"}},
        "tools": {"repo": {"count": {"command": "echo once >> count.log; wc -l < count.log", "args": {}}}},
    },
    "conditions": "conditions",
    "graph": [
        {"from": "START", "to": ["left", "right"]},
        {"from": ["left", "right"], "to": "count"},
        {"from": "count", "to": "critic"},
        {"from": "critic", "to": ["left", "END"], "condition": "verdict", "max_loops": 1},
    ],
}
CONDITION = """
import orchestra

@orchestra.condition("verdict")
def verdict(state):
    return "left" if state["agent_outputs"]["critic"]["verdict"] == "revise" else "END"
"""
SCRIPT: dict[str, Any] = {
    "left": [
        [writes("left.txt", "1\n"), writes("app.py", "x = 2\n"), says("left one")],
        [writes("left.txt", "2\n"), says("left two")],
    ],
    "right": [[writes("right.txt", "1\n"), says("right one")]],
    "critic": [
        [{"tools": [{"name": "read-file", "args": {"path": "left.txt"}}]}, {"output": {"verdict": "revise"}}],
        [{"output": {"verdict": "approve"}}],
    ],
}
OUTPUTS = {
    "left": "left two",
    "right": "right one",
    "critic": {"verdict": "approve"},
    "count": {"exit_code": 0, "stdout": "2\n", "stderr": ""},
}
FILES = {
    "app.py": "x = 2",
    "count.log": "once\nonce",
    "docs/notes.md": "# Notes",
    "left.txt": "2",
    "right.txt": "1",
}
PAID = {("left", 1): 3, ("left", 2): 2, ("right", 1): 2, ("critic", 1): 2, ("critic", 2): 1}
COMMITS = ["count:1", "count:2", "left:1", "left:2", "right:1"]


def crash_pipeline(workshop: Workshop) -> Path:
    return workshop.pipeline(PIPELINE, script=SCRIPT, files={"conditions/verdict.py": CONDITION})


def assert_done(workshop: Workshop, result: SessionResult, **more: str) -> None:
    assert result.record.status == "completed", result.record.error
    assert result.agent_outputs == OUTPUTS
    found = contents(workshop, result.commits["repo"])
    assert found == FILES | more, found
    assert sorted(turn_commits(workshop, result.branches["repo"])) == COMMITS
    session = result.record.session_id
    paid, kills = model_calls(workshop, session), len(events(workshop, session, "session_resumed"))
    assert paid.keys() == PAID.keys()
    # A kill may cost each of the two that work at the same time the call that it has under way.
    free = {("left", 1): kills, ("right", 1): kills}
    assert all(0 <= calls - PAID[turn] <= free.get(turn, 0) for turn, calls in paid.items()), paid
    assert_consistent(workshop, result)


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(EVENT_TYPES[kind].schema())


def check_events(events: Iterable[Event]) -> None:
    """Hold events against the published schema: each has a type of it, and what that type says."""
    for event in events:
        _validator(event.type).validate(event.payload)
        assert not EVENT_TYPES[event.type].in_turn or None not in (event.node, event.turn, event.attempt), event
