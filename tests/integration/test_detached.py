"""`run --detach`: the session goes on in a process that has no terminal and outlives everything that started it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import SessionError
from orchestra.runtime.detached import until_driven
from orchestra.runtime.store import find_session, read_session, session_ids
from tests import preloaded
from tests.preloaded import COMMAND
from tests.processes import exit_code, until
from tests.session_support import agent, assert_consistent, chain, run_and_kill, says
from tests.talkkit import asked, driver_of, inbox, session_of, status_of, talk, wait_for_question

if TYPE_CHECKING:
    from tests.conftest import Workshop


def waits_for_a_file(workshop: Workshop) -> tuple[Path, Path, Path]:
    """Write a pipeline whose command waits; returns it, the file that says it has begun, and the one it waits for."""
    began, go_on = workshop.home / "began", workshop.home / "go-on"
    command = f"touch {began}; until test -e {go_on}; do sleep 0.02; done"
    pipeline = {
        "name": "waits",
        "inputs": {"note": {"default": ""}},
        "agents": {"worker": agent("Do {{ note }}.", tools=["shell"])},
        "graph": chain("worker"),
    }
    wait = {"tools": [{"name": "shell", "args": {"command": command}}]}
    return workshop.pipeline(pipeline, script={"worker": [[wait, says("done")]]}), began, go_on


def test_the_session_goes_on_without_the_process_that_started_it(workshop: Workshop) -> None:
    path, began, go_on = waits_for_a_file(workshop)

    started = workshop.cli("run", "--detach", path)

    session = started.stdout.strip()
    assert (started.returncode, session_ids(workshop.repo.path)) == (0, [session])
    assert f"orchestra attach {session}\n" in started.stderr
    assert f"orchestra cancel {session}\n" in started.stderr
    assert until(began.exists, 60)
    driver = driver_of(workshop, session)
    assert os.getsid(driver) == driver
    process = Path("/proc", str(driver))
    assert str((process / "fd/0").readlink()) == "/dev/null"
    assert (process / "cwd").readlink() == workshop.repo.path
    log = find_session(workshop.repo.path, session).driver_log
    assert {(process / "fd" / number).readlink() for number in ("1", "2")} == {log}
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    go_on.touch()
    assert until(lambda: status_of(workshop, session) == "completed", 60)
    assert_consistent(workshop, asyncio.run(workshop.resume(session)))


def test_it_survives_its_terminal(workshop: Workshop) -> None:
    path, began, go_on = waits_for_a_file(workshop)
    shell = ["sh", "-c", f"'{COMMAND}' run --detach '{path}' --json; echo over; exec sleep 60"]
    pid, parent = pty.fork()
    if pid == 0:
        os.chdir(workshop.repo.path)
        os.execvpe(shell[0], shell, workshop.environment(TERM="xterm"))  # noqa: S606 - in a terminal of its own
    shown = b""
    while b"over" not in shown:
        shown += os.read(parent, 4096)
    session = session_of(workshop)
    assert until(began.exists, 60)

    os.close(parent)  # hangs up

    assert exit_code(pid) == -signal.SIGHUP
    assert status_of(workshop, session) == "running"
    go_on.touch()
    assert until(lambda: status_of(workshop, session) == "completed", 60)


def test_what_is_wrong_is_said_at_once_and_nothing_is_started(workshop: Workshop) -> None:
    wrong = workshop.pipeline({"name": "wrong", "agents": {"a": agent()}, "graph": chain("b")})
    said = workshop.cli("run", "--detach", wrong)
    assert (said.returncode, said.stdout) == (2, "")
    assert "error[unknown-agent]" in said.stderr

    bare = workshop.pipeline(
        {
            "name": "keyless",
            "providers": {"default": "openai", "openai": {}},
            "agents": {"a": agent()},
            "graph": chain("a"),
        }
    )
    refused = workshop.cli("run", "--detach", bare)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "error[missing-key]" in refused.stderr
    assert session_ids(workshop.repo.path) == []


def test_standard_input_is_read_before_it_goes_to_the_background(workshop: Workshop) -> None:
    path, _, go_on = waits_for_a_file(workshop)
    go_on.touch()
    command = [str(COMMAND), "run", "--detach", str(path), "--input", "note=-", "--json"]
    done = preloaded.run(command, cwd=workshop.repo.path, env=workshop.environment(), input="what was piped in")
    document = json.loads(done.stdout)
    assert (done.returncode, list(document)) == (0, ["session_id", "status"])
    session = document["session_id"]
    assert until(lambda: status_of(workshop, session) == "completed", 60)
    assert read_session(find_session(workshop.repo.path, session)).inputs == {"note": "what was piped in"}


def test_nobody_is_at_hand_in_the_background(workshop: Workshop) -> None:
    session = workshop.json("run", "--detach", talk(workshop))["session_id"]
    assert until(lambda: status_of(workshop, session) == "paused", 60)

    result = workshop.json("respond", session, "/approve")

    assert result["agent_outputs"]["talker"]["decision"] == "approve"


def test_it_waits_in_place_for_somebody_who_looks_on(workshop: Workshop) -> None:
    session = workshop.json("run", "--detach", talk(workshop, [says("First.", delay=1)]))["session_id"]
    with inbox(workshop, session).present():
        question = wait_for_question(workshop, session, "First.")
        assert status_of(workshop, session) == "running"
        shown = workshop.cli("status").stdout.splitlines()[1]
        assert "running, waits for talker" in shown
        details = workshop.cli("status", session).stdout
        assert "waits     talker: First.\n" in details
        assert f"next      orchestra respond {session} TEXT\n" in details
        assert inbox(workshop, session).give(question.id, "/done", by="attach")
        assert until(lambda: status_of(workshop, session) == "completed", 60)


def test_a_driver_in_the_background_is_cancelled(workshop: Workshop) -> None:
    path, began, _ = waits_for_a_file(workshop)
    session = workshop.json("run", "--detach", path)["session_id"]
    assert until(began.exists, 60)
    driver = driver_of(workshop, session)

    assert workshop.cli("cancel", session).returncode == 0

    assert status_of(workshop, session) == "cancelled"
    assert until(lambda: not Path("/proc", str(driver)).exists(), 10)


def test_a_driver_in_the_background_that_is_killed_leaves_a_session_that_goes_on(workshop: Workshop) -> None:
    path, began, go_on = waits_for_a_file(workshop)
    session = workshop.json("run", "--detach", path)["session_id"]
    assert until(began.exists, 60)
    os.kill(driver_of(workshop, session), signal.SIGKILL)
    assert until(lambda: status_of(workshop, session) == "interrupted", 10)
    go_on.touch()

    assert asyncio.run(workshop.resume(session)).record.status == "completed"


def test_a_driver_that_dies_at_once_is_told_and_the_session_can_be_resumed(workshop: Workshop) -> None:
    path, _, go_on = waits_for_a_file(workshop)
    go_on.touch()

    told = workshop.cli("run", "--detach", path, "--json", ORCHESTRA_FAILPOINT="session-reopened")

    document = json.loads(told.stdout)
    assert (told.returncode, document["status"]) == (1, "interrupted")
    assert "error[driver-ended]" in told.stderr
    assert "signal 9" in told.stderr
    assert f"orchestra resume {document['session_id']}" in told.stderr
    assert workshop.json("resume", document["session_id"])["status"] == "completed"


def test_the_last_words_of_a_driver_that_dies_at_once_are_passed_on(workshop: Workshop) -> None:
    killed = run_and_kill(workshop, talk(workshop), "session-created")
    assert killed.session is not None
    files = find_session(workshop.repo.path, killed.session)
    files.driver_log.write_text("error[no-space]: the disk is full\n")
    driver = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    with pytest.raises(SessionError, match=r"(?s)exit code 1.*the disk is full"):
        asyncio.run(until_driven(files, driver))


@pytest.mark.parametrize("point", ["driver-due", "driver-started"])
def test_a_start_that_is_killed_leaves_a_session_that_goes_on(workshop: Workshop, point: str) -> None:
    killed = workshop.cli("run", "--detach", talk(workshop), ORCHESTRA_FAILPOINT=point)
    assert killed.returncode == -signal.SIGKILL
    session = session_of(workshop)
    if point == "driver-started":
        assert until(lambda: status_of(workshop, session) == "paused", 60)
    else:
        assert status_of(workshop, session) == "interrupted"
        assert workshop.json("resume", session, code=3)["status"] == "paused"
    assert [question.text for question in asked(workshop, session)] == ["First."]


def test_the_project_brings_no_modules_into_the_driver(workshop: Workshop) -> None:
    marker = workshop.home / "imported"
    trap = f"open({str(marker)!r}, 'w').close()\nraise SystemExit(7)\n"
    workshop.repo.commit({"orchestra/__init__.py": trap, "yaml.py": trap, "asyncio.py": trap, "typer.py": trap})

    session = workshop.json("run", "--detach", talk(workshop))["session_id"]

    assert until(lambda: status_of(workshop, session) == "paused", 60)
    assert not marker.exists()
