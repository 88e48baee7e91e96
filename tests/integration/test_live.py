"""The live view of the installed command in a real terminal, and progress as events for programs."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.preloaded import COMMAND
from tests.session_support import agent, chain, says
from tests.talkkit import talk
from tests.terminal import CTRL_C, ENTER, Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

CTRL_Z = "\x1a"


def team(workshop: Workshop) -> Path:
    """Write a pipeline of two branches whose first agents wait until a file is there."""
    waits = {"tools": [{"name": "repo:waits", "args": {}}]}
    command = f"until test -e {workshop.home / 'go-on'}; do sleep 0.02; done"
    content = {
        "name": "team",
        "agents": {name: agent(tools=["repo:waits"]) for name in ("plan", "left", "left-two", "right", "last")},
        "workspace": {
            "repos": {"repo": {"path": "../app"}},
            "tools": {"repo": {"waits": {"command": command, "args": {}}}},
        },
        "graph": [
            {"from": "START", "to": "plan"},
            {"from": "plan", "to": ["left", "right"]},
            {"from": "left", "to": "left-two"},
            {"from": ["left-two", "right"], "to": "last"},
            {"from": "last", "to": "END"},
        ],
    }
    text = "I look at it, and \x1b[31mthen\x07 I write what I have seen."
    script = {
        "plan": [[says("Planned.")]],
        "left": [[{"error": "rate_limit"}, {**waits, "text": text}, says("Left.")]],
        "left-two": [[says("Left two.")]],
        "right": [[waits, says("Right.")]],
        "last": [[says("The result.")]],
    }
    return workshop.pipeline(content, script=script)


def test_one_watches_a_team_at_work_leaves_it_to_the_shell_and_comes_back(workshop: Workshop) -> None:
    command = f"{COMMAND} run {shlex.quote(str(team(workshop)))}; echo it is stopped; read answer; fg"
    shell = ["bash", "-mc", command]
    with Terminal(
        shell, directory=workshop.repo.path, environment=workshop.environment(), columns=100, lines=30
    ) as terminal:
        said = r"left │ I look at it, and \x1b[31mthen\x07 I write"
        display = terminal.shows("● left ", "● right ", "runs repo:waits", "○ last", "branch left", said)
        assert "session started" in display
        assert "model call failed: 429" in display, "failures stay above the tree"
        assert "starts" not in display, "what the tree shows has no line"
        terminal.type(ENTER, "typed blindly", ENTER)

        for columns in (60, 120, 100):
            terminal.resize(columns, 30)
            terminal.until(lambda display: display.count("team  ") == 1 and "● right" in display, "one tree")
            assert "typed blindly" not in terminal.display

        terminal.type(CTRL_Z)
        terminal.shows("it is stopped")
        assert "○ last" not in terminal.whole, "the shell has the terminal as it was"
        assert not terminal.screen.cursor.hidden
        terminal.type("seen")
        terminal.shows("seen")
        terminal.type(ENTER)
        terminal.shows("● left ", "○ last")
        (workshop.home / "go-on").touch()
        assert terminal.exit_code() == 0

    shown = terminal.whole
    assert not terminal.screen.cursor.hidden
    assert "○ last" not in shown
    assert "way: plan → (" in shown
    assert shown.count("completed: session") == 1
    assert "The result." in shown
    assert b"\x1b[31mthen" not in terminal.written


def test_control_c_takes_the_tree_away_and_says_how_to_go_on(workshop: Workshop) -> None:
    command = [str(COMMAND), "run", str(team(workshop))]
    with Terminal(
        command, directory=workshop.repo.path, environment=workshop.environment(NO_COLOR="1"), columns=80, lines=24
    ) as terminal:
        before = terminal.modes()
        terminal.shows("● left ", "● right ")
        assert not [style for style in (b"\x1b[1m", b"\x1b[2m", b"\x1b[35m") if style in terminal.written]
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 130
        assert terminal.modes() == before
    assert "○ last" not in terminal.whole
    assert "stopping at the next safe point" in terminal.whole
    assert "go on with: orchestra resume" in terminal.whole
    assert not terminal.screen.cursor.hidden


def test_what_one_types_ahead_is_there_when_one_is_asked(workshop: Workshop) -> None:
    command = [str(COMMAND), "run", str(talk(workshop, [says("First.", delay=1)]))]
    with Terminal(command, directory=workshop.repo.path, environment=workshop.environment()) as terminal:
        terminal.shows("● talker", "thinking")
        terminal.type("/approve well", ENTER)
        assert terminal.exit_code() == 0
    assert "talker approved: well" in terminal.whole


@pytest.mark.parametrize("options", [("-q", "--display", "rich"), ("--detach", "--display", "json")])
def test_options_that_contradict_each_other_start_nothing(workshop: Workshop, options: tuple[str, ...]) -> None:
    done = workshop.cli("run", team(workshop), *options)
    assert (done.returncode, "error[bad-option]" in done.stderr) == (2, True)
    assert not (workshop.repo.path / ".orchestra").exists()


def test_progress_as_json_is_the_event_log_beside_the_one_document(workshop: Workshop) -> None:
    content = {"name": "one", "agents": {"a": agent()}, "graph": chain("a")}
    path = workshop.pipeline(content, script={"a": [[says("x")]]})
    done = workshop.cli("run", path, "--display", "json", "--json")
    session = json.loads(done.stdout)["session_id"]
    log = workshop.cli("log", session, "--events", "--json").stdout
    assert done.stderr == log

    attached = workshop.cli("attach", session, "--display", "json")
    assert (attached.returncode, attached.stderr, attached.stdout) == (0, log, "")
