"""`orchestra cancel`: a session ends for good, wherever it runs, and what it has made stays."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import SessionBusyError, SessionError
from orchestra.graph.project import Project
from orchestra.runtime import session as sessions
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import find_session, read_session
from tests.processes import until
from tests.session_support import agent, assert_consistent, chain, events, in_a_child, run_and_kill, says
from tests.talkkit import asked, inbox, session_of, status_of, talk, wait_for_question, writes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop


def slow(workshop: Workshop) -> tuple[Path, Path]:
    """Write a pipeline whose second call takes for ever; returns it, and the file that says that it has begun."""
    began = workshop.home / "began"
    wait = {"tools": [{"name": "shell", "args": {"command": f"touch {began}; exec sleep 60"}}]}
    return (
        workshop.pipeline(
            {"name": "slow", "agents": {"worker": agent(tools=["write-file", "shell"])}, "graph": chain("worker")},
            script={"worker": [[writes("one\n"), wait, says("done")]]},
        ),
        began,
    )


async def cancel(workshop: Workshop, session: str) -> bool:
    return await SessionManager(Project(workshop.repo.path)).cancel(find_session(workshop.repo.path, session))


def test_a_session_that_runs_elsewhere_stops_in_order_and_keeps_what_it_has_made(workshop: Workshop) -> None:
    path, began = slow(workshop)
    driver = workshop.start("run", path, "--json")
    assert until(began.exists, 60)
    session = session_of(workshop)

    document = workshop.json("cancel", session[:4])

    stdout, stderr = driver.communicate(timeout=10)
    assert driver.returncode == 1, stderr
    assert json.loads(stdout)["status"] == "cancelled"
    assert "session cancelled" in stderr
    assert "go on with" not in stderr
    tree = workshop.repo.path / ".orchestra" / "worktrees" / session / "_session"
    assert document == {
        "session_id": session,
        "status": "cancelled",
        "branches": {"repo": f"orchestra/slow/{session}"},
        "worktrees": {"repo": [str(tree)]},
    }
    assert (tree / "a.txt").read_text() == "one\n"
    assert [event["type"] for event in events(workshop, session)][-1] == "session_cancelled"


async def test_a_cancelled_session_is_named_so_by_every_command(workshop: Workshop) -> None:
    session = (await workshop.run(talk(workshop))).record.session_id
    text = workshop.cli("cancel", session).stdout
    assert text.splitlines()[0] == f"cancelled: session {session}"
    assert text.splitlines()[-1] == "it can't be resumed; these stay"

    again = workshop.cli("cancel", session)
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, f"the session {session} was cancelled already")
    resumed = workshop.cli("resume", session)
    assert (resumed.returncode, "error[cancelled]: " in resumed.stderr) == (1, True)
    document = workshop.json("resume", session, code=1)
    assert (document["session_id"], document["status"]) == (session, "cancelled")
    answered = workshop.cli("respond", session, "go on")
    assert (answered.returncode, "it was cancelled" in answered.stderr) == (2, True)
    assert workshop.json("respond", session)["questions"] == []
    (listed,) = workshop.json("status")
    assert (listed["status"], listed["waiting_for"]) == ("cancelled", None)
    assert workshop.cli("log", session, "--events").stdout.count("session cancelled") == 1


@pytest.mark.parametrize("state", ["failed", "interrupted", "created"])
async def test_a_session_that_nobody_drives_is_cancelled(workshop: Workshop, state: str) -> None:
    if state == "failed":
        path = talk(workshop, [{"error": "auth"}])
        session = (await workshop.run(path)).record.session_id
    else:
        point = "session-created" if state == "created" else "event-question_asked"
        killed = run_and_kill(workshop, talk(workshop), point)
        assert killed.session is not None
        session = killed.session
    assert status_of(workshop, session) == ("failed" if state == "failed" else "interrupted")

    assert await cancel(workshop, session)

    assert status_of(workshop, session) == "cancelled"
    assert not await cancel(workshop, session)
    with pytest.raises(SessionError, match="was cancelled"):
        await workshop.resume(session)
    assert len(events(workshop, session, "session_cancelled")) == 1


def test_what_is_left_in_a_repository_that_has_moved_is_not_denied(workshop: Workshop) -> None:
    session = workshop.json("run", talk(workshop), code=3)["session_id"]
    moved = workshop.repo.path.rename(workshop.home / "moved")
    failed = workshop.cli("-C", str(moved), "respond", session, "go on", "--json", cwd=workshop.home)
    assert (failed.returncode, json.loads(failed.stdout)["session_id"]) == (1, session)

    done = workshop.cli("-C", str(moved), "cancel", session, cwd=workshop.home)

    assert done.stdout.splitlines() == [
        f"cancelled: session {session}",
        f"repo is not at {workshop.repo.path} any more; what the session has made there stays",
        "it can't be resumed",
    ]


async def test_a_completed_session_is_not_cancelled(workshop: Workshop) -> None:
    path = workshop.pipeline(
        {"name": "one", "agents": {"a": agent()}, "graph": chain("a")}, script={"a": [[says("x")]]}
    )
    result = await workshop.run(path)
    session = result.record.session_id

    refused = workshop.cli("cancel", session)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"orchestra resume {session}" in refused.stderr
    assert not inbox(workshop, session).is_cancelled()
    assert_consistent(workshop, await workshop.resume(session))


@pytest.mark.parametrize("point", ["answer-written", "answer-given", "cancellation-asked", "event-session_cancelled"])
async def test_a_cancel_that_is_killed_has_cancelled_the_session_or_done_nothing(
    workshop: Workshop, point: str
) -> None:
    session = (await workshop.run(talk(workshop))).record.session_id

    killed = in_a_child(lambda: asyncio.run(cancel(workshop, session)), failpoint=point)

    assert killed == -signal.SIGKILL
    if point == "answer-written":
        assert status_of(workshop, session) == "paused"
        assert (await workshop.resume(session)).record.status == "paused"
        return
    assert status_of(workshop, session) == "cancelled"
    assert asked(workshop, session) == []
    with pytest.raises(SessionError, match="was cancelled"):
        await workshop.resume(session)
    assert read_session(find_session(workshop.repo.path, session)).status == "cancelled"
    assert len(events(workshop, session, "session_cancelled")) == 1


async def test_a_driver_that_does_not_stop_is_named(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    path, began = slow(workshop)
    driver = workshop.start("run", path, "--json")
    assert until(began.exists, 60)
    session = session_of(workshop)
    os.kill(driver.pid, signal.SIGSTOP)
    monkeypatch.setattr(sessions, "CANCEL_TIMEOUT", 1.0)

    with pytest.raises(SessionBusyError, match=f"pid {driver.pid} ") as caught:
        await cancel(workshop, session)

    assert caught.value.exit_code == 4
    assert "as soon as that process stops" in (caught.value.hint or "")
    os.kill(driver.pid, signal.SIGCONT)  # it finds out when it goes on
    stdout, _ = driver.communicate(timeout=30)
    assert json.loads(stdout)["status"] == "cancelled"


def test_a_session_that_waits_in_place_for_a_person_is_cancelled(workshop: Workshop) -> None:
    driver = workshop.start("run", talk(workshop, [says("First.", delay=1)]), "--json")
    session = session_of(workshop)
    with inbox(workshop, session).present():
        wait_for_question(workshop, session, "First.")

        assert workshop.cli("cancel", session).returncode == 0

        stdout, _ = driver.communicate(timeout=30)
    document = json.loads(stdout)
    assert (driver.returncode, document["status"], document["waiting_for"]) == (1, "cancelled", None)


def test_a_driver_that_was_killed_leaves_a_session_that_can_be_cancelled_at_once(workshop: Workshop) -> None:
    path, began = slow(workshop)
    driver = workshop.start("run", path)
    assert until(began.exists, 60)
    session = session_of(workshop)
    driver.kill()

    done = workshop.cli("cancel", session)

    driver.communicate()
    assert done.returncode == 0, done.stderr
    assert status_of(workshop, session) == "cancelled"
