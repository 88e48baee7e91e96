"""A session is driven by one process at a time, whoever tries and whatever became of the lock file."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import SessionBusyError, SessionError
from orchestra.runtime.driver_lock import DriverLock, is_driven
from orchestra.runtime.store import SessionFiles, find_session, session_ids
from tests.processes import exit_code, fork, until
from tests.session_support import agent, assert_consistent, chain, events, model_calls, says, writes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

_WON, _BUSY = 0, 4


def waiting_session(workshop: Workshop) -> tuple[str, Path]:
    """Make a session whose command waits for a file, and kill its driver; return the file, too."""
    go_on, began = workshop.home / "go-on", workshop.home / "began"
    command = f"echo . >> {began}; until test -e {go_on}; do sleep 0.02; done"
    path = workshop.pipeline(
        {"name": "waits", "agents": {"one": agent(tools=["shell", "write-file"])}, "graph": chain("one")},
        script={
            "one": [
                [
                    writes("a.txt", "1\n"),
                    {"tools": [{"name": "shell", "args": {"command": command}}]},
                    says("done"),
                ]
            ]
        },
    )
    driver = fork(lambda: asyncio.run(workshop.run(path)))
    assert until(began.exists, 30)
    os.kill(driver, signal.SIGKILL)
    exit_code(driver)
    began.unlink()
    return session_ids(workshop.repo.path)[0], go_on


def try_to_resume(workshop: Workshop, session: str, report: Path) -> int:
    try:
        asyncio.run(workshop.resume(session))
    except SessionBusyError as error:
        report.write_text(error.message)
        return _BUSY
    report.write_text(str(os.getpid()))
    return _WON


@pytest.mark.timeout(300)  # a hundred processes
def test_of_a_hundred_resumes_at_once_one_wins_and_the_others_name_it(workshop: Workshop, tmp_path: Path) -> None:
    session, go_on = waiting_session(workshop)
    reports = [tmp_path / f"report-{number}" for number in range(95)]
    forks = [fork(partial(try_to_resume, workshop, session, report)) for report in reports]
    commands = [workshop.start("resume", session, "--json") for _ in range(5)]

    codes: dict[int, int] = {}

    def all_but_one_have_ended() -> bool:
        for pid in forks:
            if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(ended[1])
        return len(codes) + sum(command.poll() is not None for command in commands) >= 99

    assert until(all_but_one_have_ended, 200)
    go_on.touch()
    outputs = [command.communicate(timeout=60) for command in commands]
    codes |= {pid: exit_code(pid) for pid in forks if pid not in codes}
    results = [*codes.items(), *((command.pid, command.returncode) for command in commands)]

    winners = [pid for pid, code in results if code == _WON]
    assert len(winners) == 1
    assert sum(code == _BUSY for _, code in results) == 99
    said = [report.read_text() for report in reports] + [stderr for _, stderr in outputs]
    losers = [text for text in said if "is driven by another process" in text]
    assert len(losers) == 99
    named = f"(pid {winners[0]} on {os.uname().nodename})"
    assert [text for text in losers if named not in text] == []
    assert sum(stdout != "" for stdout, _ in outputs) == sum(command.returncode == _WON for command in commands)
    assert len(events(workshop, session, "session_resumed")) == 1
    assert (workshop.home / "began").read_text() == ".\n"
    assert model_calls(workshop, session) == {("one", 1): 3}
    assert_consistent(workshop, asyncio.run(workshop.resume(session)))


@pytest.mark.parametrize("what", ["deleted", "replaced", "emptied", "moved"])
def test_a_lock_file_that_is_taken_away_lets_nobody_in(tmp_path: Path, what: str) -> None:
    files = SessionFiles(tmp_path)
    lock = DriverLock(files)
    lock.acquire()
    try:
        if what == "emptied":
            os.truncate(files.lock, 0)
        elif what == "moved":
            files.lock.rename(tmp_path / "lock.old")
        else:
            files.lock.unlink()
        if what == "replaced":
            files.lock.write_text("pid 999999999 on elsewhere.example\n")
        with pytest.raises(SessionBusyError) as caught:
            asyncio.run(DriverLock(files).acquire_after_orphans(5))
        assert is_driven(files.lock)
    finally:
        lock.release()

    assert caught.value.exit_code == _BUSY
    assert f"`orchestra log {files.session_id} --events`" in str(caught.value.hint)  # it has no checkpoint at first
    asyncio.run(_take_and_release(files))


async def _take_and_release(files: SessionFiles) -> None:
    lock = DriverLock(files)
    await lock.acquire_after_orphans(5)
    lock.release()


def test_a_driver_whose_lock_file_is_gone_is_still_named(workshop: Workshop) -> None:
    session, go_on = waiting_session(workshop)
    process = workshop.start("resume", session, "--json")
    assert until((workshop.home / "began").exists, 30)
    find_session(workshop.repo.path, session).lock.unlink()

    refused = workshop.cli("resume", session, "--json")
    go_on.touch()
    stdout, _ = process.communicate(timeout=60)

    assert (refused.returncode, refused.stdout) == (_BUSY, "")
    assert re.search(rf"is driven by another process \(pid {process.pid} \((?:python|orchestra)", refused.stderr), (
        refused.stderr
    )
    assert json.loads(stdout)["status"] == "completed"


def test_a_driver_on_another_host_can_not_be_judged(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path)
    lock = DriverLock(files)
    lock.acquire()
    files.lock.write_text("pid 12 on elsewhere.example\n")
    try:
        with pytest.raises(SessionBusyError) as caught:
            asyncio.run(DriverLock(files).acquire_after_orphans(5))
    finally:
        lock.release()

    assert "(pid 12 on elsewhere.example), on another host" in caught.value.message


def test_a_session_killed_on_another_host_is_resumed(tmp_path: Path) -> None:
    """A container has another name after its restart; the kernel says that nobody holds the lock."""
    files = SessionFiles(tmp_path)
    files.lock.write_text("pid 1 on 3f2a9c1d0b7e\n")

    asyncio.run(_take_and_release(files))


def test_status_never_keeps_a_resume_out(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path)
    reader = fork(lambda: _look_for_ever(files))
    try:
        for _ in range(100):
            asyncio.run(_take_and_release(files))
    finally:
        os.kill(reader, signal.SIGKILL)
        exit_code(reader)


def _look_for_ever(files: SessionFiles) -> None:
    while True:
        is_driven(files.lock)


def test_a_new_driver_may_follow_at_once_on_the_one_before(tmp_path: Path) -> None:
    """Git children between fork and exec hold the driver's descriptors for an instant."""
    files = SessionFiles(tmp_path)
    for _ in range(50):
        lock = DriverLock(files)
        lock.acquire()
        child = subprocess.Popen(["true"], pass_fds=[lock.fd])
        lock.release()
        asyncio.run(_take_and_release(files))
        with suppress(ProcessLookupError):
            child.wait()


async def test_who_waits_for_a_session_that_is_being_removed_is_told_that_it_is_gone(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path / "abcdefgh")
    files.directory.mkdir()
    cleanup = DriverLock(files)
    cleanup.acquire()
    waiting = asyncio.ensure_future(DriverLock(files).acquire_after_orphans(5))
    await asyncio.sleep(0)  # it has found the session locked
    files.directory.rename(tmp_path / "trash")
    cleanup.release()

    with pytest.raises(SessionError, match="is not there any more") as gone:
        await waiting
    assert (gone.value.code, gone.value.exit_code) == ("session-removed", 2)
