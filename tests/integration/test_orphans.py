"""What a driver has started dies with it, however it dies, or is waited for."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import SessionBusyError
from orchestra.runtime.driver_lock import DriverLock, is_driven
from orchestra.runtime.store import SessionFiles, session_ids
from orchestra.tools.process import run_command
from orchestra.tools.watch import current
from tests.processes import exit_code, fork, of_session, until
from tests.session_support import agent, chain, events, holders, says

if TYPE_CHECKING:
    from tests.conftest import Workshop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

COMMANDS = {
    "plain": "exec sleep 100",
    "ignores SIGTERM": "trap '' TERM; while :; do sleep 1; done",
    "grandchildren": "sh -c 'sleep 101 & sleep 102' & sleep 103 & wait",
    "daemon": "setsid sh -c 'exec sleep 104' <&- >&- 2>&- & sleep 105",
    "short": "true",
}


def watchers(files: SessionFiles) -> list[str]:
    return [found for found in holders(files.children_lock) if "(sh)" in found]


@pytest.fixture
def files(tmp_path: Path) -> SessionFiles:
    directory = tmp_path / f"s{os.getpid()}x{os.urandom(4).hex()}"
    directory.mkdir()
    return SessionFiles(directory)


def drive(files: SessionFiles, commands: list[str], seconds: float = 60) -> None:
    """Be a driver that runs commands."""
    lock = DriverLock(files)
    lock.acquire()

    async def all_of_them() -> None:
        environment = {"PATH": os.environ["PATH"]}
        await asyncio.gather(
            *(run_command(one, cwd=files.directory, env=environment, seconds=seconds) for one in commands)
        )

    asyncio.run(all_of_them())
    lock.release()


def resume(files: SessionFiles, seconds: float = 5.0) -> None:
    """Take a session's locks as a resume does, and give them back."""
    lock = DriverLock(files)
    asyncio.run(lock.acquire_after_orphans(seconds))
    lock.release()


@pytest.mark.parametrize("whole_group", [False, True], ids=["driver", "group"])
def test_no_command_outlives_a_driver_that_is_killed_at_any_instant(files: SessionFiles, *, whole_group: bool) -> None:
    seen = 0
    for _ in range(40):
        driver = fork(lambda: drive(files, [*COMMANDS.values()] * 2))
        while os.getpgid(driver) != driver:
            pass  # it leaves this process's group first of all
        time.sleep(random.uniform(0.0, 0.08))  # noqa: S311 - the instant of the kill, not a wait for something
        seen += bool(of_session(files.session_id))
        (os.killpg if whole_group else os.kill)(driver, signal.SIGKILL)
        os.waitpid(driver, 0)

        assert until(lambda: not of_session(files.session_id))
        assert until(lambda: not watchers(files))
        began = time.monotonic()
        resume(files)
        assert time.monotonic() - began < 2
    assert seen > 10, "the drivers were killed before they had started anything"


def test_a_driver_that_ends_leaves_no_watcher_no_zombie_and_no_daemon(files: SessionFiles) -> None:
    def work() -> None:
        drive(files, [COMMANDS["short"], "setsid sleep 104 <&- >&- 2>&- & true"])

        assert of_session(files.session_id) == []
        assert watchers(files) == []
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    assert exit_code(fork(work)) == 0  # what starts commands for the tests is a child of this process


def test_a_session_without_commands_has_no_watcher(files: SessionFiles) -> None:
    lock = DriverLock(files)
    lock.acquire()
    assert watchers(files) == []
    lock.release()


def test_control_without_a_watch_a_command_outlives_its_killed_driver(tmp_path: Path) -> None:
    def work() -> None:
        asyncio.run(run_command("echo $$ > pid; sleep 100", cwd=tmp_path, env=dict(os.environ), seconds=60))

    driver = fork(work)
    pid = tmp_path / "pid"
    assert until(lambda: pid.exists() and pid.read_text().strip(), 10)
    os.killpg(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    command = int(pid.read_text())

    assert not until(lambda: not Path(f"/proc/{command}").exists(), 0.3)
    os.killpg(command, signal.SIGKILL)


def test_a_command_sees_its_session_and_no_descriptor_of_the_watch(files: SessionFiles) -> None:
    async def look() -> Any:
        return await run_command(
            'echo "$ORCHESTRA_SESSION"; readlink /proc/$$/fd/0; ls -l /proc/$$/fd | grep -c pipe:',
            cwd=files.directory,
            env={"PATH": os.environ["PATH"]},
            seconds=10,
        )

    lock = DriverLock(files)
    lock.acquire()
    result = asyncio.run(look())
    lock.release()

    assert result.value["stdout"].split() == [files.session_id, "/dev/null", "2"]  # its own stdout and stderr


def test_a_watcher_that_was_killed_is_replaced_and_knows_what_runs(files: SessionFiles) -> None:
    def work() -> None:
        lock = DriverLock(files)
        lock.acquire()
        asyncio.run(two_commands())

    async def two_commands() -> None:
        environment = {"PATH": os.environ["PATH"]}
        first = asyncio.ensure_future(
            run_command("echo > ready; sleep 100", cwd=files.directory, env=environment, seconds=60)
        )
        assert await asyncio.to_thread(until, (files.directory / "ready").exists, 10)
        watch = current.get()
        assert watch is not None
        assert watch._watcher is not None
        watch._watcher.kill()
        watch._watcher.wait()
        await run_command("echo > again; sleep 100", cwd=files.directory, env=environment, seconds=60)
        await first

    driver = fork(work)
    assert until((files.directory / "again").exists, 10)
    assert len(of_session(files.session_id)) >= 2
    os.killpg(driver, signal.SIGKILL)
    os.waitpid(driver, 0)

    assert until(lambda: not of_session(files.session_id))


def test_what_a_killed_watcher_could_not_kill_a_resume_kills(files: SessionFiles) -> None:
    driver = fork(lambda: drive(files, [COMMANDS["daemon"]]))
    assert until(lambda: len(of_session(files.session_id)) >= 2 and watchers(files), 10)
    (watcher,) = (
        int(found.split()[0]) for found in watchers(files) if int(found.split()[0]) not in of_session(files.session_id)
    )
    os.kill(watcher, signal.SIGKILL)
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    assert of_session(files.session_id)

    resume(files)

    assert of_session(files.session_id) == []


def test_a_git_process_of_a_killed_driver_is_waited_for_and_named(files: SessionFiles) -> None:
    def work() -> None:
        lock = DriverLock(files)
        lock.acquire()
        # As git is started: it knows nothing of the driver's environment.
        subprocess.Popen(["sleep", "60"], pass_fds=[lock.fd], env={"PATH": os.defpath}, start_new_session=True)
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(fork(work), 0)
    (holder,) = holders(files.children_lock)
    assert not is_driven(files.lock)

    with pytest.raises(SessionBusyError) as caught:
        resume(files, 0.2)
    os.kill(int(holder.split()[0]), signal.SIGKILL)
    resume(files)

    assert f"still runs: pid {holder}" in caught.value.message
    assert holder.endswith("(sleep)")


def test_a_fork_of_the_driver_does_not_pass_for_it(files: SessionFiles) -> None:
    """As of multiprocessing in a user's Python tool: it keeps others out for a while, but nothing else."""

    def work() -> None:
        lock = DriverLock(files)
        lock.acquire()
        asyncio.run(run_command("true", cwd=files.directory, env=dict(os.environ), seconds=10))
        if os.fork() == 0:
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)

    def forked() -> list[int]:
        return [int(found.split()[0]) for found in holders(files.children_lock) if "(sh)" not in found]

    os.waitpid(fork(work), 0)
    assert until(lambda: len(forked()) == 1)  # what was being started has its own name a moment later
    assert not is_driven(files.lock)
    assert until(lambda: not watchers(files))
    os.kill(forked()[0], signal.SIGKILL)
    resume(files)


def test_two_sessions_in_one_process_watch_their_own_commands(tmp_path: Path) -> None:
    async def one(name: str) -> str:
        directory = tmp_path / name
        directory.mkdir()
        lock = DriverLock(SessionFiles(directory))
        lock.acquire()
        try:
            result = await run_command(
                "echo $ORCHESTRA_SESSION", cwd=tmp_path, env={"PATH": os.environ["PATH"]}, seconds=10
            )
        finally:
            lock.release()
        return str(result.value["stdout"]).strip()

    async def both() -> list[str]:
        return list(await asyncio.gather(one("left"), one("right")))

    assert asyncio.run(both()) == ["left", "right"]


def test_a_killed_session_that_ran_commands_is_resumed_at_once(workshop: Workshop) -> None:
    """Eight times in a row, each in the middle of a command that would take a minute."""
    tries = workshop.home / "tries"
    tries.mkdir()
    command = f"test $(ls {tries} | wc -l) -ge 8 || {{ mktemp -p {tries}; setsid sleep 61 & sleep 60; }}"
    path = workshop.pipeline(
        {"name": "slow", "agents": {"one": agent(tools=["shell"])}, "graph": chain("one")},
        script={"one": [[{"tools": [{"name": "shell", "args": {"command": command}}]}, says("done")]]},
    )
    driver = fork(lambda: asyncio.run(workshop.run(path)))
    for number in range(1, 9):
        assert until(partial(_has, tries, number), 20)
        (session,) = session_ids(workshop.repo.path)
        os.killpg(driver, signal.SIGKILL)
        os.waitpid(driver, 0)
        driver = fork(partial(_resume, workshop, session))
    os.waitpid(driver, 0)

    assert of_session(session) == []
    assert asyncio.run(workshop.resume(session)).record.status == "completed"
    assert [event["type"] for event in events(workshop, session, "session_resumed")] == ["session_resumed"] * 8


def _has(directory: Path, number: int) -> bool:
    return len(list(directory.iterdir())) >= number


def _resume(workshop: Workshop, session: str) -> None:
    asyncio.run(workshop.resume(session))
