"""How progress is shown: which way a terminal, a pipe and the options allow, and what each way says."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
from contextlib import nullcontext
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from orchestra.cli.colours import colour_of, painted
from orchestra.cli.displays import Display, choose
from orchestra.cli.progress import Progress
from orchestra.errors import PipelineError
from tests.livekit import Told, busy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        yield stream
    os.close(master)


class TestTheChoice:
    def test_a_terminal_has_the_live_view(self, terminal: TextIO) -> None:
        assert choose(Display.AUTO, quiet=False, stream=terminal) is Display.RICH

    @pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TERM", ""), ("CI", "true"), ("CI", "1")])
    def test_a_dumb_one_and_ci_have_lines(
        self, terminal: TextIO, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        assert choose(Display.AUTO, quiet=False, stream=terminal) is Display.PLAIN

    def test_in_ci_it_is_there_for_who_asks_for_it(self, terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        assert choose(Display.RICH, quiet=False, stream=terminal) is Display.RICH
        monkeypatch.setenv("CI", "false")
        assert choose(Display.AUTO, quiet=False, stream=terminal) is Display.RICH

    def test_a_pipe_has_lines_and_says_so_to_who_wanted_more(self) -> None:
        stream = io.StringIO()
        assert choose(Display.AUTO, quiet=False, stream=stream) is Display.PLAIN
        assert stream.getvalue() == ""
        assert choose(Display.RICH, quiet=False, stream=stream) is Display.PLAIN
        assert stream.getvalue() == (
            "`--display rich` needs standard error to be a terminal; progress is shown as lines\n"
        )

    @pytest.mark.parametrize("wanted", [Display.RICH, Display.PLAIN, Display.JSON])
    def test_what_contradicts_quiet_is_refused(self, wanted: Display) -> None:
        with pytest.raises(PipelineError, match=f"--display {wanted}") as caught:
            choose(wanted, quiet=True)
        assert (caught.value.code, caught.value.exit_code) == ("bad-option", 2)

    @pytest.mark.parametrize("wanted", [Display.AUTO, Display.QUIET])
    def test_quiet_is_quiet(self, wanted: Display) -> None:
        assert choose(wanted, quiet=True) is Display.QUIET


class TestEventsAsJson:
    def test_they_are_those_of_the_log_with_its_version_first(self) -> None:
        stream = io.StringIO()
        progress = Progress(stream, display=Display.JSON)
        told = busy()
        for event in told.events:
            progress.show(event)
        progress.transcript.line("what somebody typed")
        first, *lines = stream.getvalue().splitlines()
        assert json.loads(first) == {"version": 1}
        assert [json.loads(line)["type"] for line in lines] == [event.type for event in told.events]
        assert json.loads(lines[1]) == told.events[1].as_json()


class TestLines:
    def test_what_agents_write_to_nobody_is_not_shown(self) -> None:
        stream = io.StringIO()
        progress = Progress(stream)
        for event in busy().events:
            progress.show(event)
        assert "I have read" not in stream.getvalue()
        assert "model call failed: 429" in stream.getvalue()

    def test_agents_have_colours_on_a_terminal(self, terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
        told = Told()
        told.starts("planner")
        assert _written(told, terminal) == [f"{painted('planner'.ljust(24), 'planner')}  starts"]
        monkeypatch.setenv("NO_COLOR", "1")
        assert _written(told, terminal) == [f"{'planner':<24}  starts"]

    def test_a_colour_stays_the_same_and_is_neither_red_nor_green(self) -> None:
        assert colour_of("critic") == "magenta"
        assert len({colour_of(f"agent-{number}") for number in range(100)}) == 8
        assert not {"red", "green"} & {colour_of(f"agent-{number}") for number in range(100)}
        colour_of("\udcff")


def _written(told: Told, terminal: TextIO) -> list[str]:
    progress = Progress(terminal)
    shown: list[str] = []
    progress.transcript.screen._send = lambda text: shown.append(text[10:].rstrip("\n"))  # type: ignore[method-assign]
    progress.show(told.events[-1])
    return shown


class TestAHeartbeat:
    async def test_it_says_what_goes_on_when_nothing_else_was_said(self) -> None:
        stream = io.StringIO()
        progress = Progress(stream, heartbeat=0.02)
        for event in busy().events:
            progress.show(event)
        before = stream.getvalue()
        async with asyncio.timeout(10):
            while stream.getvalue().count("still running") < 2:  # noqa: ASYNC110 - a stream wakes nobody
                await asyncio.sleep(0.01)
        progress.close()
        said = stream.getvalue().removeprefix(before).splitlines()
        assert said[0].startswith("still running: 3 agents: security (writing for ")
        assert said[0].endswith("; 2,400 tokens, >$0.01")

    async def test_it_is_silent_at_an_open_prompt_and_when_nothing_goes_on(self) -> None:
        stream = io.StringIO()
        progress = Progress(stream, heartbeat=0.01)
        told = busy()
        for event in told.events:
            progress.show(event)

        async def above(write: object) -> None:
            """Nothing is written above this prompt."""

        with progress.transcript.screen.prompt(above):
            await asyncio.sleep(0.1)
            assert "still running" not in progress.transcript.screen._waiting
        progress.show(told.tell("session_paused", agent="planner", text="?"))
        before = stream.getvalue()
        await asyncio.sleep(0.1)
        progress.close()
        assert stream.getvalue() == before

    async def test_other_lines_are_signs_of_life_too(self) -> None:
        stream = io.StringIO()
        progress = Progress(stream, heartbeat=0.5)
        told = busy()
        progress.recall(told.events)
        progress.watch()
        for _ in range(8):
            await asyncio.sleep(0.1)
            progress.transcript.line("a line")
        progress.close()
        assert "still running" not in stream.getvalue()

    @pytest.mark.parametrize("where", ["in a paragraph", "at a pager", "at a prompt", "where nobody reads"])
    async def test_it_never_beats_faster_than_it_should(self, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        says = Mock(return_value="1 agent")
        monkeypatch.setattr("orchestra.cli.heartbeat.at_work", says)
        stream = io.StringIO()
        progress = Progress(stream, heartbeat=0.1)
        told, screen = busy(), progress.transcript.screen
        beat = progress._heartbeat
        assert beat is not None
        waits = Mock(wraps=beat._wait)
        monkeypatch.setattr(beat, "_wait", waits)
        for event in told.events:
            progress.show(event)

        async def above(write: object) -> None:
            """Nothing is written above this prompt."""

        if where == "in a paragraph":
            progress.show(told.tell("text_delta", "security", text="I begin to speak, and", spoken=True))
        if where == "where nobody reads":
            stream.close()
            progress.transcript.line("nobody reads this")
        with (
            screen.lent() if where == "at a pager" else nullcontext(),
            screen.prompt(above) if where == "at a prompt" else nullcontext(),
        ):
            await asyncio.sleep(0.35)
            assert screen._waiting == ""
        progress.close()
        assert 1 <= waits.call_count <= 5
        assert says.called == (where in ("in a paragraph", "where nobody reads"))
        if where == "in a paragraph":
            assert "still running: 1 agent; " in stream.getvalue()

    async def test_with_a_live_view_or_quietly_there_is_none(self) -> None:
        assert Progress(io.StringIO(), display=Display.RICH)._heartbeat is None
        assert Progress(io.StringIO(), display=Display.QUIET)._heartbeat is None
