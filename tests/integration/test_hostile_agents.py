"""What agents, their commands and careless users do to a session's files: it goes on, and nothing leaks or hangs."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import SessionError
from orchestra.runtime.store import find_session, session_ids
from tests.integration.test_signals import interrupt, pipeline, shell, wait_for_event, wait_for_file
from tests.session_support import agent, chain, events, in_a_child, run_and_kill, says, turn_commits

if TYPE_CHECKING:
    from tests.conftest import Workshop


def commands(*lines: str) -> list[dict[str, Any]]:
    """The replies of an agent that runs commands, one after another."""
    return [*({"tools": [{"name": "shell", "args": {"command": line}}]} for line in lines), says("done")]


def one_agent(workshop: Workshop, *lines: str, **repo: Any) -> Path:
    spec = {
        "name": "one",
        "workspace": {"repos": {"repo": {"path": str(workshop.repo.path), **repo}}},
        "agents": {"a": agent(tools=["shell"])},
        "graph": chain("a"),
    }
    return workshop.pipeline(spec, script={"a": [commands(*lines)]})


def with_a_secret(workshop: Workshop) -> None:
    workshop.repo.commit({".gitignore": ".env\n"})
    workshop.repo.write({".env": "TOKEN=hunter2\n"})


def assert_secret_nowhere(workshop: Workshop) -> None:
    objects = workshop.repo.git("cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)")
    blobs = [line.split()[0] for line in objects.split("\n") if line.endswith(" blob")]
    reachable = set(workshop.repo.git("rev-list", "--all", "--objects", "--no-object-names").split())
    assert not [
        blob for blob in reachable.intersection(blobs) if "hunter2" in workshop.repo.git("cat-file", "-p", blob)
    ]


def test_a_copied_secret_stays_out_of_commits_when_the_private_index_has_to_be_made_again(workshop: Workshop) -> None:
    """The agent's own index names it, and the blobs of the private one were pruned by the user."""
    with_a_secret(workshop)
    path = one_agent(workshop, "echo new > new.txt; : > .gitignore; git add -A", "echo more > more.txt", copy=[".env"])
    killed = run_and_kill(workshop, path, "files-staged:2")
    assert killed.session is not None
    workshop.repo.git("gc", "--quiet", "--prune=now")

    result = asyncio.run(workshop.resume(killed.session))

    assert result.record.status == "completed"
    assert_secret_nowhere(workshop)
    (copy,) = workshop.repo.path.glob(".orchestra/worktrees/*/*/.env")
    assert copy.read_text() == "TOKEN=hunter2\n"


async def test_a_copied_secret_stays_out_of_commits_when_the_private_index_is_locked(workshop: Workshop) -> None:
    with_a_secret(workshop)
    lock = "touch $(git rev-parse --git-dir)/orchestra.index.lock"
    result = await workshop.run(
        one_agent(workshop, f": > .gitignore; git add -A; echo x > x.txt; {lock}", copy=[".env"])
    )

    assert result.record.status == "completed"
    assert_secret_nowhere(workshop)


def test_a_setup_that_was_killed_starts_again_on_clean_files(workshop: Workshop) -> None:
    """One that patches a file can't be run twice on it."""
    patch = "grep -q patched app.py && exit 9; echo '# patched' >> app.py"
    path = one_agent(workshop, "echo x > x.txt", setup=patch)
    killed = run_and_kill(workshop, path, "setup-run")
    assert killed.session is not None

    result = asyncio.run(workshop.resume(killed.session))

    assert result.record.status == "completed", result.record.error
    assert workshop.repo.git("show", f"{result.commits['repo']}:app.py") == "x = 1"


@pytest.mark.parametrize(
    "how",
    [
        'test -e ../once || { touch ../once; rm -rf "$PWD"; touch "$PWD"; }',
        "rm .git; mkfifo .git",
        "rm .git; mkdir .git",
        "rm .git; ln -s /nonexistent .git",
    ],
)
def test_an_agent_that_ruins_its_worktree_does_not_stop_the_session_for_ever(workshop: Workshop, how: str) -> None:
    spec = {
        "name": "two",
        "agents": {"a": agent(tools=["shell"]), "b": agent(tools=["shell"])},
        "graph": chain("a", "b"),
    }
    path = workshop.pipeline(spec, script={"a": [commands(how)], "b": [commands("echo b > b.txt")]})

    def work() -> None:
        signal.alarm(90)
        result = asyncio.run(workshop.run(path))
        for _ in range(3):
            if result.record.status == "completed":
                break
            assert result.record.error is not None
            assert result.record.error["code"] != "internal-error", result.record.error
            result = asyncio.run(workshop.resume(result.record.session_id))
        assert result.record.status == "completed", result.record.error
        assert "b:1" in turn_commits(workshop, result.branches["repo"])

    assert in_a_child(work, quiet=False) == 0


ORPHAN = '''
import os, signal, subprocess
from orchestra.tools.registry import RepoContext, tool_registry

@tool_registry.register("build", repo="repo", writes=True)
def build(repo: RepoContext) -> str:
    """Build."""
    marker = repo.path.parent / "again"
    if not marker.exists():
        marker.touch()
        child = subprocess.Popen(["sh", "-c", "while sleep 0.05; do echo late >> notes.txt; done"], cwd=repo.path)
        (repo.path.parent / "pid").write_text(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    (repo.path / "notes.txt").write_text("clean\\n")
    return "ok"
'''


def is_alive(process: int) -> bool:
    try:
        return bool(Path(f"/proc/{process}/environ").read_bytes())  # a zombie has none
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux tells which programs bear the mark")
def test_a_program_of_a_python_tool_does_not_write_on_beside_the_resumed_session(workshop: Workshop) -> None:
    path = workshop.pipeline(
        {"name": "p", "agents": {"a": agent(tools=["build", "shell"])}, "graph": chain("a")},
        script={"a": [[{"tools": [{"name": "build", "args": {}}]}, *commands("sleep 0.5")]]},
        files={"tools/build.py": ORPHAN},
    )
    killed = run_and_kill(workshop, path, "none")
    assert killed.session is not None

    result = asyncio.run(workshop.resume(killed.session))

    assert workshop.repo.git("show", f"{result.commits['repo']}:notes.txt") == "clean"
    (pid,) = workshop.repo.path.glob(".orchestra/worktrees/*/pid")
    assert not is_alive(int(pid.read_text()))


def test_a_second_signal_leaves_one_document_and_names_the_session(workshop: Workshop) -> None:
    marker = workshop.home / "marker"
    command = f"test -e {marker} || {{ trap '' TERM; echo > {marker}; sleep 60; sleep 60; }}"
    process = workshop.start("run", "--json", pipeline(workshop, shell(command), says("worked")))
    wait_for_file(process, marker)
    process.send_signal(signal.SIGINT)
    wait_for_event(workshop, process, "session_stopping")

    while True:  # one that comes at once is taken for the first one's echo
        try:
            _, stdout, stderr = interrupt(process, signal.SIGINT)
        except ProcessLookupError:
            continue
        break

    (session,) = session_ids(workshop.repo.path)
    document = json.loads(stdout)
    assert (process.returncode, document["status"], document["session_id"]) == (130, "interrupted", session)
    assert f"orchestra resume {session}" in stderr


async def test_a_copy_of_a_session_is_refused_and_the_session_itself_goes_on(
    workshop: Workshop, tmp_path: Path
) -> None:
    killed = run_and_kill(workshop, one_agent(workshop, "echo x > x.txt"), "tool-ended")
    assert killed.session is not None
    copied = tmp_path / "backup"
    shutil.copytree(workshop.repo.path, copied, symlinks=True)
    before = len(events(workshop, killed.session))

    refused = workshop.cli("resume", killed.session, cwd=copied)

    assert refused.returncode == 2
    assert "error[session-copied]" in refused.stderr
    assert f"orchestra -C '{workshop.repo.path}' resume {killed.session}" in refused.stderr
    assert len(events(workshop, killed.session)) == before
    assert (await workshop.resume(killed.session)).record.status == "completed"


async def test_a_project_that_was_moved_is_no_copy(workshop: Workshop, tmp_path: Path) -> None:
    """Its repositories stay where they are; only the project's own directory moves."""
    from orchestra.graph.project import find_project
    from orchestra.runtime.session import SessionManager

    killed = run_and_kill(workshop, one_agent(workshop, "echo x > x.txt"), "tool-ended")
    assert killed.session is not None
    home = find_session(workshop.repo.path, killed.session).directory
    moved = tmp_path / "moved" / ".orchestra" / "sessions" / killed.session
    moved.parent.mkdir(parents=True)
    home.rename(moved)

    files = find_session(tmp_path / "moved", killed.session)
    result = await SessionManager(find_project(tmp_path / "moved")).resume(files)

    assert result.record.status == "completed"
    home.mkdir()
    with pytest.raises(SessionError):
        find_session(workshop.repo.path, killed.session)
