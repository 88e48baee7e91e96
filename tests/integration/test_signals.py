"""Ctrl-C, SIGTERM and a closed terminal: in order within 5 s, at once the second time, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.cli.main import app
from orchestra.errors import SessionError
from orchestra.runtime.store import find_session, read_session, session_ids
from tests.preloaded import COMMAND
from tests.processes import exit_code, fork, of_session, until
from tests.session_support import (
    agent,
    assert_consistent,
    assert_done,
    chain,
    crash_pipeline,
    events,
    model_calls,
    says,
    user_side,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

LIMIT = 5.0
HINT = "stopping at the next safe point; once more stops at once"


def pipeline(workshop: Workshop, *replies: dict[str, Any], files: dict[str, str] | None = None, **more: Any) -> Path:
    """Write a pipeline of a worker, which gives the replies, and one after it."""
    content = {
        "name": "slow",
        "agents": {"worker": agent(tools=more.pop("tools", ["shell"])), "after": agent()},
        "graph": chain("worker", "after"),
        **more,
    }
    return workshop.pipeline(content, script={"worker": [list(replies)], "after": [[says("after")]]}, files=files)


def shell(command: str) -> dict[str, Any]:
    return {"tools": [{"name": "shell", "args": {"command": command}}]}


def wait_for_event(workshop: Workshop, process: subprocess.Popen[Any], kind: str) -> str:
    """Wait until a session has written an event, and return the session."""
    assert until(lambda: kind in _kinds(workshop) or process.poll() is not None, 60)
    assert process.poll() is None, process.communicate()
    return session_ids(workshop.repo.path)[0]


def _kinds(workshop: Workshop) -> list[str]:
    try:
        (session,) = session_ids(workshop.repo.path)
        return [event["type"] for event in events(workshop, session)]
    except (ValueError, SessionError):
        return []  # it is just being made


def wait_for_file(process: subprocess.Popen[Any], path: Path) -> None:
    assert until(lambda: path.exists() or process.poll() is not None, 60)
    assert path.exists(), process.communicate()


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[float, str, str]:
    """Send a signal; return how long it took, and what was printed."""
    began = time.monotonic()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    return time.monotonic() - began, stdout, stderr


def test_a_model_call_in_flight_ends_and_is_not_paid_again(workshop: Workshop) -> None:
    path = pipeline(workshop, shell("true"), says("worked", delay=1.5))
    process = workshop.start("run", path, "--json")
    session = wait_for_event(workshop, process, "tool_ended")
    assert until(lambda: _kinds(workshop)[-1] == "model_started")

    took, stdout, stderr = interrupt(process)

    assert (process.returncode, json.loads(stdout)["status"]) == (130, "interrupted"), stderr
    assert took < 3
    assert HINT in stderr
    assert "waits for 1 model call, 3 s at the most" in stderr
    assert f"go on with: orchestra resume {session}" in stderr
    assert model_calls(workshop, session) == {("worker", 1): 2}
    result = asyncio.run(workshop.resume(session))
    assert result.agent_outputs == {"worker": "worked", "after": "after"}
    assert model_calls(workshop, session) == {("worker", 1): 2, ("after", 1): 1}
    assert_consistent(workshop, result)


def test_after_a_signal_no_call_begins(workshop: Workshop) -> None:
    marker = workshop.home / "marker"
    path = pipeline(workshop, shell(f"echo > {marker}; sleep 1"), shell(f"echo > {marker}2"), says("worked"))
    process = workshop.start("run", path, "--json")
    wait_for_file(process, marker)

    took, stdout, stderr = interrupt(process)

    assert took < 3
    assert "waits for 1 tool call" in stderr
    session = json.loads(stdout)["session_id"]
    kinds = [event["type"] for event in events(workshop, session)]
    assert "model_started" not in kinds[kinds.index("session_stopping") :]
    assert "tool_ended" in kinds[kinds.index("session_stopping") :]
    assert not (workshop.home / "marker2").exists()


TOOLS = """
import asyncio, pathlib, time
from orchestra import tool_registry

@tool_registry.register("hang")
def hang(path: str) -> str:
    pathlib.Path(path).touch()
    time.sleep(60)

@tool_registry.register("stubborn")
async def stubborn(path: str) -> str:
    pathlib.Path(path).touch()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
"""


@pytest.mark.parametrize("what", ["model", "deaf command", "thread", "deaf coroutine"])
def test_what_does_not_end_does_not_hold_up_a_stop(workshop: Workshop, what: str) -> None:
    marker = workshop.home / "marker"
    reply = {
        "model": says("late", delay=60),
        "deaf command": shell(f"trap '' TERM; echo > {marker}; while :; do sleep 1; done"),
        "thread": {"tools": [{"name": "hang", "args": {"path": str(marker)}}]},
        "deaf coroutine": {"tools": [{"name": "stubborn", "args": {"path": str(marker)}}]},
    }[what]
    path = pipeline(
        workshop, reply, says("worked"), tools=["shell", "hang", "stubborn"], files={"tools/slow.py": TOOLS}
    )
    process = workshop.start("run", path, "--json")
    if what == "model":
        wait_for_event(workshop, process, "model_started")
    else:
        wait_for_file(process, marker)

    took, stdout, stderr = interrupt(process, signal.SIGTERM)

    document = json.loads(stdout)
    assert (process.returncode, document["status"], document["error"]) == (143, "interrupted", None), stderr
    assert took < LIMIT
    assert of_session(document["session_id"]) == []
    assert read_session(find_session(workshop.repo.path, document["session_id"])).status == "interrupted"


def test_a_second_signal_ends_at_once_and_leaves_no_process(workshop: Workshop) -> None:
    marker = workshop.home / "marker"
    command = f"test -e {marker} || {{ trap '' TERM; echo > {marker}; sleep 60; sleep 60; }}"
    process = workshop.start("run", pipeline(workshop, shell(command), says("worked")))
    wait_for_file(process, marker)
    (session,) = session_ids(workshop.repo.path)
    process.send_signal(signal.SIGINT)
    wait_for_event(workshop, process, "session_stopping")
    time.sleep(0.15)  # a person's second press; what comes sooner is an echo of the first

    took, _, stderr = interrupt(process, signal.SIGTERM)

    assert (process.returncode, took < 0.5) == (143, True), stderr
    assert "stopped at once; go on with: orchestra resume " in stderr
    assert until(lambda: not of_session(session))
    result = asyncio.run(workshop.resume(session))
    assert result.record.status == "completed"
    assert_consistent(workshop, result)


def test_a_signal_that_a_wrapper_passes_on_twice_counts_once(workshop: Workshop) -> None:
    process = workshop.start("run", pipeline(workshop, says("worked", delay=1.0)), "--json")
    session = wait_for_event(workshop, process, "model_started")
    process.send_signal(signal.SIGINT)

    _, stdout, stderr = interrupt(process)

    assert (process.returncode, json.loads(stdout)["status"]) == (130, "interrupted"), stderr
    assert model_calls(workshop, session) == {("worker", 1): 1}


def test_a_closed_terminal_stops_in_order(workshop: Workshop) -> None:
    process = workshop.start("run", pipeline(workshop, says("worked", delay=1.0)))
    session = wait_for_event(workshop, process, "model_started")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)

    assert process.wait(LIMIT) == 129
    assert [event["type"] for event in events(workshop, session)][-1] == "session_interrupted"
    assert model_calls(workshop, session) == {("worker", 1): 1}


def test_a_run_under_nohup_does_not_end_with_the_terminal(workshop: Workshop) -> None:
    path = pipeline(workshop, says("worked", delay=0.5))
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", str(COMMAND), "run", str(path)],
        cwd=workshop.repo.path, env=workshop.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for_event(workshop, process, "model_started")

    _, stdout, stderr = interrupt(process, signal.SIGHUP)

    assert (process.returncode, stdout) == (0, "after\n"), stderr


def test_ctrl_c_in_a_terminal_stops_in_order_and_says_how_to_go_on(workshop: Workshop) -> None:
    path = pipeline(workshop, shell("sleep 1; echo kept > kept.txt"), says("worked"))
    terminal, own_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_TERMINAL, str(COMMAND), "run", str(path), "--display", "plain"],
        cwd=workshop.repo.path, env=workshop.environment(TERM="xterm"),
        stdin=own_end, stdout=own_end, stderr=own_end, start_new_session=True,
    )  # fmt: skip
    os.close(own_end)
    shown = _read_until(terminal, "m answered")
    wait_for_event(workshop, process, "tool_started")
    os.write(terminal, b"\x03")
    shown += _read_until(terminal, "look back with")

    assert process.wait(LIMIT) == 130, shown
    assert "^C" in shown
    assert HINT in shown
    (session,) = session_ids(workshop.repo.path)
    assert f"go on with: orchestra resume {session}" in shown
    (ended,) = events(workshop, session, "tool_ended")
    assert ended["payload"]["exit_code"] == 0, "the terminal's signal must not reach the command"
    os.close(terminal)


_IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def _read_until(terminal: int, text: str) -> str:
    shown = ""
    while text not in shown:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        shown += data.decode()
    return shown


def test_a_signal_before_the_session_exists_leaves_nothing(workshop: Workshop) -> None:
    marker = workshop.home / "marker"
    slow = f"import pathlib, time\npathlib.Path({str(marker)!r}).touch()\ntime.sleep(60)\n"
    path = pipeline(workshop, says("worked"), conditions="conditions", files={"conditions/slow.py": slow})
    process = workshop.start("run", path, "--json")
    wait_for_file(process, marker)

    took, stdout, stderr = interrupt(process)

    document = json.loads(stdout)
    assert (process.returncode, document["status"], document["session_id"]) == (130, "interrupted", None), stderr
    assert took < LIMIT
    assert "Traceback" not in stderr
    assert session_ids(workshop.repo.path) == []


def test_a_signal_while_the_session_is_made_undoes_it(workshop: Workshop) -> None:
    """The user's own filter hangs while their uncommitted work is read."""
    marker = workshop.home / "marker"
    workshop.repo.git("config", "filter.slow.clean", f"touch {marker}; sleep 60; cat")
    workshop.repo.write({".gitattributes": "*.big filter=slow\n", "a.big": "x\n"})
    before = user_side(workshop)
    process = workshop.start("run", pipeline(workshop, says("worked")), "--json")
    wait_for_file(process, marker)

    took, stdout, stderr = interrupt(process)

    document = json.loads(stdout)
    assert (process.returncode, document["status"], document["session_id"]) == (130, "interrupted", None), stderr
    assert took < LIMIT
    sessions = workshop.repo.path / ".orchestra" / "sessions"
    assert [path.name for path in sessions.iterdir()] == [".git"]
    assert workshop.repo.git("for-each-ref", "refs/orchestra", "refs/heads/orchestra") == ""
    changed = {path for path, mark in user_side(workshop).items() if before.get(path) != mark}
    assert not [path for path in changed if ".orchestra" not in path and "/objects" not in path and "info" not in path]


def test_a_signal_while_the_result_is_printed_does_not_tear_it(workshop: Workshop) -> None:
    path = pipeline(workshop, says("x" * 300_000))
    process = workshop.start("run", path, "--json")
    assert process.stderr is not None
    wait_for_event(workshop, process, "session_completed")

    _, stdout, _ = interrupt(process)

    assert process.returncode == 0
    assert json.loads(stdout)["agent_outputs"]["worker"] == "x" * 300_000


def run_cli(workshop: Workshop, out: Path, *arguments: str) -> int:
    """Be the command, in a fork."""
    os.chdir(workshop.repo.path)
    stdout = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stdout, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    try:
        app(list(arguments))
    except SystemExit as end:
        sys.stdout.flush()
        return int(end.code or 0)
    raise AssertionError


@pytest.mark.timeout(300)  # ten sessions, each run and resumed
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_time_loses_nothing_and_pays_nothing_twice(workshop: Workshop, number: signal.Signals) -> None:
    path, out = crash_pipeline(workshop), workshop.home / "out"
    interrupted = 0
    asyncio.run(workshop.run(path))  # the forks then have all that it imports
    began = time.monotonic()
    asyncio.run(workshop.run(path))
    lasts = time.monotonic() - began
    for _ in range(10):
        known = set(session_ids(workshop.repo.path))
        out.unlink(missing_ok=True)
        child = fork(lambda: run_cli(workshop, out, "run", str(path), "--json"))
        until(out.exists)
        time.sleep(random.uniform(0.2, 1.2) * lasts)  # noqa: S311 - the instant of the signal
        began = time.monotonic()
        os.kill(child, number)
        code = exit_code(child)

        assert time.monotonic() - began < LIMIT
        made = set(session_ids(workshop.repo.path)) - known
        if not out.read_text():  # the command was not yet there to take the signal
            assert (code in (130, -number), made) == (True, set())
            continue
        document = json.loads(out.read_text())
        assert (code, document["status"]) in ((128 + number, "interrupted"), (0, "completed"))
        assert made == {document["session_id"]} - {None}
        if made:
            interrupted += code != 0
            assert_done(workshop, asyncio.run(workshop.resume(document["session_id"])))
    assert interrupted, "the signals came too early or too late"
