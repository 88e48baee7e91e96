"""`orchestra run` and `resume` with a person in front of them, in a real terminal; and with piped lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests import preloaded
from tests.preloaded import COMMAND
from tests.session_support import agent
from tests.talkkit import answers, session_of, status_of, talk, two_talkers, writes
from tests.terminal import CTRL_C, CTRL_D, ENTER, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TypeAlias

    from tests.conftest import Workshop

    Opener: TypeAlias = Callable[..., Terminal]

OPEN = "/help  /approve"
"""Stands below a prompt as long as it is open."""


@pytest.fixture
def run(workshop: Workshop) -> Iterator[Opener]:
    with ExitStack() as stack:

        def open_terminal(*args: str | Path, env: dict[str, str] | None = None, **more: Any) -> Terminal:
            environment = workshop.environment(**(env or {}))
            terminal = Terminal([COMMAND, *args], directory=workshop.repo.path, environment=environment, **more)
            return stack.enter_context(terminal)

        yield open_terminal


def reviewed(workshop: Workshop) -> Path:
    """Write a pipeline whose review comes back after a rejection, when somebody else has changed a file."""
    content = {
        "name": "reviewed",
        "agents": {
            "reviewer": agent(mode="interactive", tools=["write-file"]),
            "fixer": agent(tools=["write-file"]),
        },
        "graph": [
            {"from": "START", "to": "reviewer"},
            {
                "from": "reviewer",
                "to": {"approve": "END", "reject": "fixer"},
                "condition": "human-decision",
                "max_loops": 2,
                "on_max_loops": "END",
            },
            {"from": "fixer", "to": "reviewer"},
        ],
    }
    script = {
        "reviewer": [
            [{"text": "The tests are missing."}, {"text": "Because nobody wrote any."}],
            [{"text": "Now there are tests."}],
        ],
        "fixer": [[writes("def test(): pass\n", "test_app.py"), {"text": "Written."}]],
    }
    return workshop.pipeline(content, script=script)


def test_one_reads_asks_rejects_sees_what_changed_and_approves(workshop: Workshop, run: Opener) -> None:
    terminal = run("run", reviewed(workshop), lines=60)
    terminal.shows("── reviewer ──", "The tests are missing.", "reviewer>", OPEN, "1 agent: reviewer (waits for you)")
    terminal.type("why?", ENTER)
    terminal.shows("Because nobody wrote any.", OPEN)
    terminal.type("/reject write some.", ENTER)
    display = terminal.shows("── reviewer (turn 2) ──", "reviewer (turn 2)>", OPEN)
    told = " ".join(display.split())
    assert "You rejected this before: write some. Since then: fixer (turn 1) has worked; files changed: repo " in told
    terminal.type("/diff", ENTER)
    terminal.shows("+def test(): pass", "+Now there are tests.", OPEN)
    terminal.type("/approve good", ENTER)

    assert terminal.exit_code() == 0
    session = session_of(workshop)
    assert [text for _, text, _ in answers(workshop, session)] == ["why?", "/reject write some.", "/approve good"]
    end = terminal.whole.partition("reviewer (turn 2)> /approve good")[2]
    assert "reviewer approved: good" in end
    assert "Now there are tests." not in end, "what was just read is not printed once more"


def test_where_standard_output_goes_elsewhere_the_result_is_there(
    workshop: Workshop, run: Opener, tmp_path: Path
) -> None:
    terminal = run("run", talk(workshop), stdout=tmp_path / "out")
    terminal.shows("First.", "talker>", OPEN)
    terminal.type("/approve", ENTER)
    assert terminal.exit_code() == 0
    assert (tmp_path / "out").read_text() == "First.\n"


def test_with_json_and_quietly_one_talks_as_well(workshop: Workshop, run: Opener, tmp_path: Path) -> None:
    terminal = run("run", talk(workshop), "--json", "--quiet", stdout=tmp_path / "out")
    display = terminal.shows("First.", "talker>", OPEN)
    assert "session started" not in display
    terminal.type("/reject no", ENTER)
    assert terminal.exit_code() == 0
    assert json.loads((tmp_path / "out").read_text())["agent_outputs"]["talker"]["decision"] == "reject"


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
def test_one_leaves_and_comes_back(workshop: Workshop, run: Opener, key: str) -> None:
    terminal = run("run", talk(workshop))
    before = terminal.modes()
    terminal.shows("First.", "talker>", OPEN)
    terminal.type("go on", ENTER)
    terminal.shows("Second.", OPEN)
    terminal.type(key)

    assert terminal.exit_code() == 3
    assert terminal.modes() == before
    session = session_of(workshop)
    assert status_of(workshop, session) == "paused"
    assert f"orchestra attach {session}" in terminal.whole

    again = run("resume", session)
    again.shows("── talker ──", "Second.", "talker>", OPEN)
    again.type("/approve", ENTER)
    assert again.exit_code() == 0
    assert [text for _, text, _ in answers(workshop, session)] == ["go on", "/approve"]


def test_a_terminal_is_put_back_by_a_process_that_ends_at_once(workshop: Workshop, run: Opener) -> None:
    """The command of another agent goes on, so that the first signal alone does not end the process."""
    names = ["talker", "worker"]
    content = {
        "name": "busy",
        "agents": {"talker": agent(mode="interactive"), "worker": agent()},
        "graph": [{"from": "START", "to": names}, *({"from": name, "to": "END"} for name in names)],
    }
    script = {"talker": [[{"text": "First."}]], "worker": [[{"text": "Late.", "delay": 60}]]}
    terminal = run("run", workshop.pipeline(content, script=script))
    before = terminal.modes()
    terminal.shows("talker>", OPEN)
    os.kill(terminal.pid, signal.SIGTERM)
    terminal.shows("stopping at the next safe point")
    terminal.hides(OPEN)
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.exit_code() == 143
    assert terminal.modes() == before


def test_two_agents_at_once_are_read_and_answered_one_after_the_other(workshop: Workshop, run: Opener) -> None:
    terminal = run("run", two_talkers(workshop), lines=60)
    display = terminal.shows("1 more waits", OPEN)
    first, second = ("left", "right") if "left>" in display else ("right", "left")
    assert f"I am {second}." not in display
    terminal.type("/approve", ENTER)
    terminal.shows(f"I am {second}.", f"{second}>", OPEN)
    terminal.type("/reject no", ENTER)
    assert terminal.exit_code() == 0
    session = session_of(workshop)
    given = {question.partition(".")[0]: text for question, text, _ in answers(workshop, session)}
    assert given == {first: "/approve", second: "/reject no"}


def test_nobody_is_asked_where_the_questions_can_not_be_read(workshop: Workshop) -> None:
    shell = f"exec {COMMAND} run {talk(workshop)} 2>/dev/null"
    with Terminal(["sh", "-c", shell], directory=workshop.repo.path, environment=workshop.environment()) as terminal:
        assert terminal.exit_code() == 3
    assert status_of(workshop, session_of(workshop)) == "paused"


def piped(workshop: Workshop, *args: str | Path, lines: str) -> subprocess.CompletedProcess[str]:
    return preloaded.run([COMMAND, *args], cwd=workshop.repo.path, env=workshop.environment(), input=lines)


def test_piped_lines_are_turns_and_when_they_run_out_the_session_pauses(workshop: Workshop) -> None:
    done = piped(workshop, "run", talk(workshop), lines="go on\n\n/diff\n")
    assert done.returncode == 3, done.stderr
    session = session_of(workshop)
    assert [(text, by) for _, text, by in answers(workshop, session)] == [("go on", "input")]
    assert "you> go on" in done.stderr
    assert "+two" in done.stderr, "what /diff shows"
    assert "\x1b" not in done.stderr

    again = piped(workshop, "resume", session, lines="/approve piped\n")
    assert again.returncode == 0, again.stderr
    assert again.stdout == "Second.\n"


def test_standard_input_that_was_an_input_of_the_pipeline_is_nobody(workshop: Workshop) -> None:
    content = {
        "name": "talk",
        "inputs": {"what": {"type": "string"}},
        "agents": {"talker": {**agent(mode="interactive"), "task": {"template": "Talk about {{ inputs.what }}."}}},
        "graph": [{"from": "START", "to": "talker"}, {"from": "talker", "to": "END"}],
    }
    path = workshop.pipeline(content, script={"talker": [[{"text": "First."}]]})
    done = piped(workshop, "run", path, "--input", "what=-", lines="/approve\nall of this is the input\n")
    assert done.returncode == 3, done.stderr
    assert answers(workshop, session_of(workshop)) == []


@pytest.mark.parametrize("stdin", ["<&-", "</dev/null", "</dev/zero"])
def test_what_can_say_nothing_is_nobody(workshop: Workshop, stdin: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" run "$1" {stdin}', str(COMMAND), str(talk(workshop))],
        cwd=workshop.repo.path,
        env=workshop.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 3, done.stderr
    assert answers(workshop, session_of(workshop)) == []
