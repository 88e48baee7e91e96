"""A preloaded command is the installed one: the same output, code and surroundings, and a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestra.tools.watch import MARK
from tests import preloaded
from tests.preloaded import COMMAND, Command
from tests.session_support import agent, chain
from tests.terminal import Terminal

if TYPE_CHECKING:
    from tests.conftest import Workshop

pytestmark = pytest.mark.skipif(not preloaded.WORKS, reason="commands are not preloaded here")

LOOK = """
import io, json, os, signal, sys, threading
import orchestra

def stream(one):
    about = {name: getattr(one, name) for name in
             ("name", "mode", "encoding", "errors", "newlines", "line_buffering", "write_through")}
    return [*about.items(), type(one.buffer).__name__, one.fileno(), one.isatty()]

@orchestra.condition("look")
def look(state):
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    seen = {
        "argv": sys.argv,
        "path": sys.path,
        "environment": dict(os.environ),
        "flags": str(sys.flags),
        "directory": os.getcwd(),
        "files": len(os.listdir("/proc/self/fd")),
        "leads": [os.getpid() == os.getsid(0), os.getpid() == os.getpgrp()],
        "parent": os.getppid(),
        "random": __import__("random").random(),
        "signals": {str(number): str(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()},
        "status": {key: status[key] for key in ("Name", "Umask", "SigBlk", "SigIgn", "SigCgt", "Uid", "Groups")},
        "streams": [stream(one) for one in (sys.stdin, sys.stdout, sys.stderr)],
    }
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps(seen) + chr(10))
    return "END"
"""


def looks(workshop: Workshop) -> Path:
    content = {
        "name": "looks",
        "agents": {"a": agent(), "b": agent()},
        "conditions": "conditions",
        "graph": [
            {"from": "START", "to": "a"},
            {"from": "a", "to": ["b", "END"], "condition": "look", "max_loops": 1},
            {"from": "b", "to": "a"},
        ],
    }
    return workshop.pipeline(content, script={"a": [[{"text": "Done."}]]}, files={"conditions/look.py": LOOK})


@pytest.mark.parametrize(("session", "unbuffered"), [(False, {}), (True, {"PYTHONUNBUFFERED": "1"})], ids=str)
def test_it_has_the_surroundings_of_the_installed_command(
    workshop: Workshop, tmp_path: Path, session: bool, unbuffered: dict[str, str]
) -> None:
    command = [str(COMMAND), "run", str(looks(workshop)), "-q"]
    environment = workshop.environment(SEEN=str(tmp_path / "seen"), OTHER="x", **unbuffered)
    for fresh in (True, False):
        with Command(
            command, fresh=fresh, cwd=workshop.repo.path, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=session, text=True,
        ) as process:  # fmt: skip
            assert process.communicate(timeout=60) == ("Done.\n", "")
            assert process.returncode == 0

    installed, own = map(json.loads, (tmp_path / "seen").read_text().splitlines())
    assert installed.pop("random") != own.pop("random")
    for seen in (installed, own):
        del seen["environment"][MARK]
    assert own == installed
    assert own["parent"] == os.getpid()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_it_can_be_killed_as_any_child(workshop: Workshop, number: signal.Signals) -> None:
    path = workshop.pipeline(
        {"name": "one", "agents": {"a": agent()}, "graph": chain("a")}, script={"a": [[{"text": "Done.", "delay": 60}]]}
    )
    process = workshop.start("run", path)
    assert process.stderr is not None
    while "starts" not in process.stderr.readline():
        assert process.poll() is None

    os.killpg(process.pid, number)

    process.communicate(timeout=10)
    assert process.returncode == -number
    assert not Path("/proc", str(process.pid)).exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_its_terminal_is_its_own(workshop: Workshop, fresh: bool) -> None:
    with Terminal(
        [COMMAND, "run", "missing.yaml"], directory=workshop.repo.path, environment=workshop.environment(), fresh=fresh
    ) as terminal:
        shown = terminal.shows("error[")
        assert (terminal.exit_code(), "missing.yaml" in shown) == (2, True)


def test_what_is_piped_in_comes_in(workshop: Workshop) -> None:
    command, cwd, env = [str(COMMAND), "respond", "x", "-"], workshop.repo.path, workshop.environment()
    own, installed = (
        preloaded.run(command, cwd=cwd, env=env, input="é" * 100_000, fresh=fresh) for fresh in (False, True)
    )
    assert (own.returncode, own.stdout, own.stderr) == (installed.returncode, installed.stdout, installed.stderr)
