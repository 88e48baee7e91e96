"""`orchestra attach`: one session, several terminals, real processes, and every one of them killed when it hurts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests import preloaded
from tests.preloaded import COMMAND
from tests.processes import until
from tests.session_support import agent, assert_consistent, chain, events, model_calls, says
from tests.talkkit import (
    THREE,
    answers,
    asked,
    driver_of,
    inbox,
    session_of,
    shell,
    status_of,
    talk,
    two_talkers,
    wait_for_question,
)
from tests.terminal import CTRL_C, CTRL_D, ENTER, Terminal

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Workshop

PROMPT = "talker>\n/"
"""An empty prompt, with the bar below it."""


def asks(terminal: Terminal, text: str) -> None:
    """Wait until a prompt for what was just said is open, after changes; the one before it may be there still."""
    terminal.until(
        lambda display: PROMPT in display.rpartition(text)[2].rpartition("changed: ")[2], f"a prompt for {text!r}"
    )


class Opener:
    """Opens terminals, in each of which a command runs, and closes them at the end."""

    def __init__(self, workshop: Workshop, stack: ExitStack) -> None:
        self._workshop = workshop
        self._stack = stack

    def __call__(self, *args: str | Path, columns: int = 100, **env: str) -> Terminal:
        workshop = self._workshop
        terminal = Terminal(
            [COMMAND, *args],
            directory=workshop.repo.path,
            environment=workshop.environment(**env),
            columns=columns,
            lines=60,
            fresh=workshop.fresh,
        )
        return self._stack.enter_context(terminal)


@pytest.fixture
def open_terminal(workshop: Workshop) -> Iterator[Opener]:
    with ExitStack() as stack:
        yield Opener(workshop, stack)


def piped(workshop: Workshop, *args: str, lines: str) -> subprocess.CompletedProcess[str]:
    return preloaded.run([COMMAND, *args], cwd=workshop.repo.path, env=workshop.environment(), input=lines)


def background(workshop: Workshop, *replies: dict[str, object]) -> str:
    """Start a session in the background whose first reply takes a moment, so that somebody can attach before."""
    return str(workshop.json("run", "--detach", talk(workshop, list(replies)))["session_id"])


def test_the_past_then_the_present_and_answers_from_two_terminals(workshop: Workshop, open_terminal: Opener) -> None:
    run = open_terminal("run", talk(workshop))
    run.shows("First.", PROMPT)
    session = session_of(workshop)
    attached = open_terminal("attach", session)
    attached.shows("session started", "First.", "Ctrl-C detaches", f"pid {run.pid}", PROMPT)

    attached.type("from afar", ENTER)

    run.shows("by attach> from afar")
    asks(run, "Second.")
    asks(attached, "Second.")
    run.type("from here", ENTER)
    attached.shows("by terminal> from here")
    asks(attached, "Third.")
    attached.type("/approve done", ENTER)
    assert (run.exit_code(), attached.exit_code()) == (0, 0)
    assert "session completed" in attached.whole
    assert [(text, by) for _, text, by in answers(workshop, session)] == [
        ("from afar", "attach"),
        ("from here", "terminal"),
        ("/approve done", "attach"),
    ]
    assert "by attach> from afar" not in attached.whole, "what was typed here stands here already"


def test_of_two_that_answer_at_once_one_counts_and_the_other_goes_on(workshop: Workshop, open_terminal: Opener) -> None:
    run = open_terminal("run", talk(workshop))
    run.shows(PROMPT)
    session = session_of(workshop)
    both = [open_terminal("attach", session), open_terminal("attach", session)]
    for number, terminal in enumerate(both):
        terminal.shows(PROMPT)
        terminal.type(f"I am {number}")
        terminal.shows(f"I am {number}")
    for terminal in both:
        terminal.type(ENTER)

    for terminal in (run, *both):
        terminal.shows("Second.", PROMPT)
    ((_, text, by),) = answers(workshop, session)
    assert (text, by) in {("I am 0", "attach"), ("I am 1", "attach")}
    loser = both[1 - int(text[-1])]
    assert f"by attach> {text}" in loser.whole
    loser.type("/approve", ENTER)
    assert run.exit_code() == 0


def test_several_look_on_and_see_the_same(workshop: Workshop, open_terminal: Opener) -> None:
    session = background(workshop, says("First.", delay=2), says("Second."))
    answering = open_terminal("attach", session)
    watching = [open_terminal("attach", "--read-only", session) for _ in range(2)]
    stream = workshop.start("attach", session, "--json")

    answering.shows("First.", PROMPT)
    answering.type("go on", ENTER)
    answering.shows("Second.")
    for terminal in watching:
        terminal.shows("First.", "by attach> go on", "Second.")
        assert "talker>" not in terminal.display
    answering.type("/done", ENTER)

    assert [terminal.exit_code() for terminal in (answering, *watching)] == [0, 0, 0]
    stdout, _ = stream.communicate(timeout=30)
    assert stream.returncode == 0
    assert stdout == workshop.cli("log", session, "--events", "--json").stdout


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
def test_detaching_leaves_the_driver_where_it_is(workshop: Workshop, open_terminal: Opener, key: str) -> None:
    run = open_terminal("run", talk(workshop))
    run.shows(PROMPT)
    session = session_of(workshop)
    attached = open_terminal("attach", session)
    before = attached.modes()
    attached.shows(PROMPT)

    attached.type(key)

    assert attached.exit_code() == 0
    assert f"detached; come back with: orchestra attach {session}" in attached.whole
    assert attached.modes() == before
    assert status_of(workshop, session) == "running"
    run.type("/approve", ENTER)
    assert run.exit_code() == 0


def test_one_detaches_while_nothing_is_asked_too(workshop: Workshop, open_terminal: Opener) -> None:
    go_on = workshop.home / "go-on"
    waits = shell(f"until test -e {go_on}; do sleep 0.02; done")
    session = background(workshop, waits, says("First."))
    attached = open_terminal("attach", session)
    attached.shows("Ctrl-C detaches")

    attached.type(CTRL_C)

    assert attached.exit_code() == 0
    assert status_of(workshop, session) == "running"
    go_on.touch()
    assert until(lambda: status_of(workshop, session) == "paused", 60)


def test_a_driver_without_a_terminal_waits_for_who_is_attached_and_pauses_when_he_leaves(
    workshop: Workshop, open_terminal: Opener
) -> None:
    session = background(workshop, says("First.", delay=2), says("Second."))
    attached = open_terminal("attach", session)
    attached.shows("First.", PROMPT)
    attached.type("go on", ENTER)
    attached.shows("Second.", PROMPT)
    assert status_of(workshop, session) == "running"

    attached.type(CTRL_D)

    assert attached.exit_code() == 0
    assert until(lambda: status_of(workshop, session) == "paused", 10)
    assert [question.text for question in asked(workshop, session)] == ["Second."]


def test_where_nobody_drives_attach_does(workshop: Workshop, open_terminal: Opener) -> None:
    session = str(workshop.json("run", talk(workshop), code=3)["session_id"])
    attached = open_terminal("attach", session)
    attached.shows("nobody drives the session, so this process does; Ctrl-C pauses it", PROMPT)
    assert driver_of(workshop, session) == attached.pid
    attached.type("go on", ENTER)
    attached.shows("Second.", PROMPT)

    attached.type(CTRL_C)

    assert attached.exit_code() == 3
    assert status_of(workshop, session) == "paused"
    again = open_terminal("attach", session)
    again.shows("Second.", PROMPT)
    again.type("/approve", ENTER)
    assert again.exit_code() == 0
    assert sum(model_calls(workshop, session).values()) == len(THREE[0]) - 1, "nothing was paid twice"
    assert_consistent(workshop, asyncio.run(workshop.resume(session)))


@pytest.mark.new_interpreter  # who takes over imports what it needs first, and the other sees that nobody drives
def test_when_the_person_at_the_driver_stops_it_one_of_those_attached_goes_on_with_it(
    workshop: Workshop, open_terminal: Opener
) -> None:
    run = open_terminal("run", talk(workshop))
    run.shows(PROMPT)
    session = session_of(workshop)
    both = [open_terminal("attach", session), open_terminal("attach", session)]
    for terminal in both:
        terminal.shows(PROMPT)

    run.type(CTRL_C)

    assert run.exit_code() == 3
    assert until(lambda: driver_of(workshop, session) in {terminal.pid for terminal in both}, 30)
    driving, other = sorted(both, key=lambda terminal: terminal.pid != driver_of(workshop, session))
    driving.shows("this process does")
    other.shows(f"pid {driving.pid} ", PROMPT)
    other.type("from the other", ENTER)
    driving.shows("by attach> from the other")
    asks(driving, "Second.")
    other.shows("Second.", PROMPT)
    driving.type("/approve", ENTER)
    assert (driving.exit_code(), other.exit_code()) == (0, 0)
    assert [text for _, text, _ in answers(workshop, session)] == ["from the other", "/approve"]


def test_a_driver_that_is_killed_is_told_and_the_session_goes_on(workshop: Workshop, open_terminal: Opener) -> None:
    run = open_terminal("run", talk(workshop))
    run.shows(PROMPT)
    session = session_of(workshop)
    attached = open_terminal("attach", session)
    attached.shows(PROMPT)

    os.kill(run.pid, signal.SIGKILL)

    assert attached.exit_code() == 1
    assert "the process that drove the session is gone" in attached.whole
    assert f"go on with: orchestra resume {session}" in attached.whole
    again = open_terminal("attach", session)
    again.shows("First.", PROMPT)
    again.type("/approve", ENTER)
    assert again.exit_code() == 0


@pytest.mark.parametrize("point", ["answer-given", "attached-answered"])
def test_an_answer_of_somebody_who_is_killed_right_after_it_counts(
    workshop: Workshop, open_terminal: Opener, point: str
) -> None:
    session = background(workshop, says("First.", delay=2), says("Second."))
    attached = open_terminal("attach", session, ORCHESTRA_FAILPOINT=point)
    with inbox(workshop, session).present():
        attached.shows(PROMPT)
        attached.type("my last words", ENTER)
        assert attached.exit_code() == -signal.SIGKILL
        wait_for_question(workshop, session, "Second.")

    assert [text for _, text, _ in answers(workshop, session)] == ["my last words"]


def test_an_answer_is_given_before_the_driver_is_killed_and_taken_by_the_next(
    workshop: Workshop, open_terminal: Opener
) -> None:
    session = background(workshop, says("First.", delay=2), says("Second."))
    attached = open_terminal("attach", session)
    attached.shows(PROMPT)
    driver = driver_of(workshop, session)
    os.kill(driver, signal.SIGSTOP)
    attached.type("while it sleeps", ENTER)
    assert until(lambda: inbox(workshop, session).answer("talker.1.1.0"), 30)
    os.kill(driver, signal.SIGKILL)
    assert attached.exit_code() == 1

    result = asyncio.run(workshop.resume(session))

    assert result.record.waiting_for == {"agent": "talker", "text": "Second."}
    assert [text for _, text, _ in answers(workshop, session)] == ["while it sleeps"]


def test_somebody_who_is_killed_while_he_thinks_is_not_waited_for(workshop: Workshop, open_terminal: Opener) -> None:
    session = background(workshop, says("First.", delay=2))
    attached = open_terminal("attach", session)
    attached.shows(PROMPT)

    os.kill(attached.pid, signal.SIGKILL)

    assert until(lambda: status_of(workshop, session) == "paused", 10)


def test_who_only_looks_on_answers_nothing_and_is_nobody_to_wait_for(workshop: Workshop, open_terminal: Opener) -> None:
    session = background(workshop, says("First.", delay=2))
    watching = open_terminal("attach", "--read-only", session)
    watching.shows("Ctrl-C detaches")
    watching.type("/approve", ENTER)

    assert watching.exit_code() == 0
    assert f"or answer with: orchestra respond {session} TEXT" in watching.whole
    assert status_of(workshop, session) == "paused"
    assert answers(workshop, session) == []
    again = open_terminal("attach", "--read-only", session)
    assert again.exit_code() == 0
    assert status_of(workshop, session) == "paused", "it drives nothing"


def test_one_answer_reaches_each_of_two_that_ask_at_once(workshop: Workshop, open_terminal: Opener) -> None:
    run = open_terminal("run", two_talkers(workshop))
    run.shows("left>")
    session = session_of(workshop)
    attached = open_terminal("attach", session)
    attached.shows("left>", "1 more waits: right")

    attached.type("/approve", ENTER)
    attached.shows("right>")
    attached.type("/reject no", ENTER)

    assert (run.exit_code(), attached.exit_code()) == (0, 0)
    result = asyncio.run(workshop.resume(session))
    decided = {name: result.agent_outputs[name]["decision"] for name in ("left", "right")}
    assert decided == {"left": "approve", "right": "reject"}


def test_what_has_changed_is_shown_to_who_is_attached(workshop: Workshop, open_terminal: Opener) -> None:
    run = open_terminal("run", talk(workshop))
    run.shows(PROMPT)
    attached = open_terminal("attach", session_of(workshop))
    attached.shows(PROMPT)

    attached.type("/diff", ENTER)

    attached.shows("+one", PROMPT)
    assert "+one" not in run.whole


def test_lines_that_are_piped_in_are_turns_and_a_script_detaches_at_their_end(workshop: Workshop) -> None:
    session = background(workshop, says("First.", delay=2), says("Second."), says("Third."))
    done = piped(workshop, "attach", session, lines="go on\n")
    assert done.returncode == 0, done.stderr
    assert "you> go on" in done.stderr
    assert "Second." in done.stderr
    assert "detached" in done.stderr
    assert until(lambda: status_of(workshop, session) == "paused", 10)

    driven = piped(workshop, "attach", session, lines="and on\n")
    assert driven.returncode == 3, driven.stderr
    ended = piped(workshop, "attach", session, lines="/approve\n")
    assert ended.returncode == 0, ended.stderr
    assert [text for _, text, _ in answers(workshop, session)] == ["go on", "and on", "/approve"]


def test_without_anybody_at_hand_it_only_looks_on(workshop: Workshop) -> None:
    session = str(workshop.json("run", talk(workshop), code=3)["session_id"])
    for done in (workshop.cli("attach", session), piped(workshop, "attach", session, lines="")):
        assert done.returncode == 0
        assert "First." in done.stderr
        assert f"go on with: orchestra attach {session}" in done.stderr
    assert status_of(workshop, session) == "paused"
    assert len(events(workshop, session, "session_resumed")) == 0


def test_the_end_of_a_session_is_shown_with_its_exit_code(workshop: Workshop, open_terminal: Opener) -> None:
    failing = workshop.json("run", talk(workshop, [{"error": "auth"}]), code=1)["session_id"]
    failed = open_terminal("attach", failing)
    assert (failed.exit_code(), "error[model-auth]" in failed.whole) == (1, True)

    cancelled = workshop.json("run", talk(workshop), code=3)["session_id"]
    workshop.cli("cancel", cancelled)
    shown = open_terminal("attach", cancelled)
    assert (shown.exit_code(), f"cancelled: session {cancelled}" in shown.whole) == (1, True)
    assert workshop.cli("attach", "--read-only", cancelled).returncode == 0

    done = workshop.pipeline(
        {"name": "one", "agents": {"a": agent()}, "graph": chain("a")}, script={"a": [[says("x")]]}
    )
    completed = workshop.json("run", done)["session_id"]
    ended = open_terminal("attach", completed)
    assert (ended.exit_code(), f"completed: session {completed}" in ended.whole) == (0, True)


def test_a_session_that_is_cancelled_while_one_looks_on_ends_there(workshop: Workshop, open_terminal: Opener) -> None:
    session = background(workshop, says("First.", delay=2))
    attached = open_terminal("attach", session)
    attached.shows(PROMPT)

    assert workshop.cli("cancel", session).returncode == 0

    assert attached.exit_code() == 1
    assert "session cancelled" in attached.whole


def test_a_session_just_being_started_can_be_attached_to(workshop: Workshop, open_terminal: Opener) -> None:
    driver = workshop.start("run", talk(workshop, [says("First.", delay=3)]))
    session = session_of(workshop)  # its database has only just got its name
    attached = open_terminal("attach", session)
    attached.shows("First.", PROMPT)
    attached.type("/approve", ENTER)
    assert attached.exit_code() == 0
    driver.communicate(timeout=30)
    assert driver.returncode == 0


def test_what_happened_long_ago_is_left_out_and_said(workshop: Workshop) -> None:
    turn = [*(shell("true") for _ in range(30)), says("First.")]
    session = workshop.json("run", talk(workshop, turn), code=3)["session_id"]

    shown = workshop.cli("attach", session).stderr

    assert "earlier events are left out" in shown
    assert f"orchestra log {session} --events" in shown
    assert "session started" not in shown
    assert "First." in shown


def test_events_as_json_are_no_session_driven(workshop: Workshop) -> None:
    session = workshop.json("run", talk(workshop), code=3)["session_id"]

    lines = workshop.cli("attach", session, "--json").stdout.splitlines()

    assert json.loads(lines[0]) == {"version": 1}
    assert [json.loads(line)["seq"] for line in lines[1:]] == list(range(1, len(lines)))
    assert status_of(workshop, session) == "paused"
