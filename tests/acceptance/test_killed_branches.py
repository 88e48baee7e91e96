"""Parallel writers in two repositories, killed with -9 in each branch and at the join, as a user would run them."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.runtime.store import session_ids
from orchestra.testing import git_repo
from tests.session_support import agent, says

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import Workshop

BRANCHES = ("api", "store", "page")
"""Where the session is killed: the agent that writes beside `store`, the second agent of a branch, the other repo."""
HOLD = (
    "echo junk > junk.tmp; if [ -p {holds}/{{name}} ]; then echo here > {holds}/{{name}}; sleep 60; fi; rm junk.tmp; "
)
NOTE = "echo {{name}} {{line}} >> {{name}}.log"


def writer(repo: str, name: str, calls: int, seconds: float) -> list[list[dict[str, Any]]]:
    notes = [{"name": f"{repo}:note", "args": {"name": name, "line": f"{line}"}} for line in range(calls)]
    return [[*({"tools": [note], "delay": seconds} for note in notes), says(f"{name} is done")]]


@pytest.fixture
def holds(tmp_path: Path) -> Path:
    """A directory in which a pipe makes the agent of its name wait in the middle of a call."""
    directory = tmp_path / "holds"
    directory.mkdir()
    return directory


@pytest.fixture
def pipeline(workshop: Workshop, holds: Path, tmp_path: Path) -> Path:
    """Three parallel writers of uneven length, two of them in one repo, and who goes on behind their join."""
    git_repo(tmp_path / "frontend", {"page.html": "<p>\n"})
    note = {"note": {"command": (HOLD + NOTE).format(holds=holds), "args": {"name": {}, "line": {}}}}
    return workshop.pipeline(
        {
            "name": "two-repos",
            "workspace": {
                "repos": {"backend": {"path": "../app"}, "frontend": {"path": "../frontend"}},
                "tools": {"backend": note, "frontend": note},
            },
            "agents": {
                "api": agent(tools=["backend:note"]),
                "model": agent(tools=["backend:note"]),
                "store": agent(tools=["backend:note"]),
                "page": agent(tools=["frontend:note"]),
                "release": agent(tools=["backend:note", "frontend:note"]),
            },
            "graph": [
                {"from": "START", "to": ["api", "model", "page"]},
                {"from": "model", "to": "store"},
                {"from": ["api", "store", "page"], "to": "release"},
                {"from": "release", "to": "END"},
            ],
        },
        script={
            "api": writer("backend", "api", 3, 0.0),
            "model": writer("backend", "model", 1, 0.0),
            "store": writer("backend", "store", 2, 0.05),
            "page": writer("frontend", "page", 5, 0.1),
            "release": writer("backend", "release", 1, 0.0),
        },
    )


def kill_in(process: subprocess.Popen[str], pipe: int) -> None:
    """Kill Orchestra with -9 as soon as an agent says through its pipe that it is in the middle of a call."""
    ready, _, _ = select.select([pipe], [], [], 60)
    assert ready, process.poll()
    os.kill(process.pid, signal.SIGKILL)
    os.close(pipe)
    assert process.wait() == -signal.SIGKILL
    for stream in filter(None, (process.stdout, process.stderr)):
        stream.close()


def what_it_came_to(workshop: Workshop, document: dict[str, Any]) -> dict[str, list[str]]:
    """Return repo → the tree of its result, and the subjects of the commits that lead to it."""
    found = {}
    for name, directory in (("backend", workshop.repo.path), ("frontend", workshop.repo.path.parent / "frontend")):
        repo = type(workshop.repo)(directory)
        commit = document["commits"][name]
        assert repo.git("rev-parse", document["branches"][name]) == commit
        log = repo.git("log", "--topo-order", "--format=%T %s", f"main..{commit}").splitlines()
        found[name] = [repo.git("rev-parse", f"{commit}^{{tree}}"), *log]
    return found


def test_three_writers_killed_in_each_branch_and_at_the_join_end_with_the_trees_of_an_undisturbed_run(
    workshop: Workshop, pipeline: Path, holds: Path
) -> None:
    undisturbed = workshop.json("run", pipeline)
    (before,) = session_ids(workshop.repo.path)

    command: tuple[str | Path, ...] = ("run", pipeline)
    for number, name in enumerate(BRANCHES):
        for held in BRANCHES[number:]:  # new ones each time: nobody whom a kill has left waits at them
            (holds / held).unlink(missing_ok=True)
            os.mkfifo(holds / held)
        pipe = os.open(holds / name, os.O_RDONLY | os.O_NONBLOCK)
        kill_in(workshop.start(*command), pipe)
        (session,) = set(session_ids(workshop.repo.path)) - {before}
        (holds / name).unlink()
        command = ("resume", session)
    at_join = workshop.cli("resume", session, ORCHESTRA_FAILPOINT="merge-pinned:1")
    assert at_join.returncode == -signal.SIGKILL
    behind_join = workshop.cli("resume", session, ORCHESTRA_FAILPOINT="worktree-away:1")
    assert behind_join.returncode == -signal.SIGKILL
    document = workshop.json("resume", session)

    assert document["status"] == undisturbed["status"] == "completed"
    assert what_it_came_to(workshop, document) == what_it_came_to(workshop, undisturbed)
    assert document["agent_outputs"] == undisturbed["agent_outputs"]
    for repo in (workshop.repo.path, workshop.repo.path.parent / "frontend"):
        places = sorted(path.name for path in (repo / ".orchestra" / "worktrees" / session).iterdir())
        assert places == ["_session"]
        assert list((repo / ".orchestra").glob("trash/*")) == []
