"""The contract of every way to a person: what `take_turn` and the drivers rely on."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from orchestra.agents.conversation import Question
from orchestra.cli.prompt import TerminalChannel
from orchestra.cli.screen import Screen
from orchestra.cli.transcript import Transcript
from orchestra.runtime.channels import PipedLines
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.people import Channel, take_turn
from orchestra.runtime.store import SessionFiles
from orchestra.testing import ScriptedPerson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FIRST, SECOND, THIRD = (Question(f"{agent}-1", agent, 1, f"{agent}?") for agent in ("critic", "editor", "tester"))


class Person:
    """Somebody who uses a channel."""

    channel: Channel

    async def says(self, *lines: str) -> None:
        """Say something, when asked."""
        raise NotImplementedError

    async def leaves(self) -> None:
        """Say nothing any more."""
        raise NotImplementedError

    def was_told(self) -> str:
        """Return what was shown to this person."""
        raise NotImplementedError


class Scripted(Person):
    def __init__(self) -> None:
        self._person = ScriptedPerson([])
        self._lines = self._person._all
        self.channel = self._person

    async def says(self, *lines: str) -> None:
        self._lines += lines

    async def leaves(self) -> None:
        pass  # it does when it has said all

    def was_told(self) -> str:
        return "\n".join(self._person.told)


class Piped(Person):
    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._told: list[str] = []
        self.channel = PipedLines(self._read, show=self._told.append)

    async def says(self, *lines: str) -> None:
        os.write(self._write, "".join(f"{line}\n" for line in lines).encode())

    async def leaves(self) -> None:
        os.close(self._write)

    def was_told(self) -> str:
        return "\n".join(self._told)

    def end(self) -> None:
        with suppress(OSError):
            os.close(self._write)


class AtTerminal(Person):
    """Types into a real pseudo-terminal, a line whenever a prompt is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, term: str) -> None:
        self._master, slave = pty.openpty()
        self._files = [open(slave, mode, encoding="utf-8", closefd=False) for mode in ("r", "w")]  # noqa: SIM115
        self._slave = slave
        monkeypatch.setenv("TERM", term)
        self._written = ""
        self._keys: list[str] = []
        self._seen = 0
        # What is written when keys begin to be read: a paste is bracketed from then on, or a line is asked for.
        is_dumb = term == "dumb"
        self._openings = ["critic> ", "editor> ", "tester> "] if is_dumb else ["\x1b[?2004h"]
        self._closing = "\n" if is_dumb else "\x1b[?2004l"
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._look)
        transcript = Transcript(Screen(self._files[1]))
        self.channel = TerminalChannel(transcript, *self._files, on_interrupt=lambda: None)

    async def says(self, *lines: str) -> None:
        self._keys += [line + "\r" for line in lines]
        self._look()

    async def leaves(self) -> None:
        self._keys.append("\x04")
        self._look()

    def was_told(self) -> str:
        return self._written

    def _look(self) -> None:
        with suppress(BlockingIOError):
            self._written += os.read(self._master, 65_536).decode("utf-8", "replace")
        self._press()

    def _press(self) -> None:
        """Press the next keys when a prompt has opened since the last ones."""
        prompt = max(self._written.rfind(opening) for opening in self._openings)
        if self._keys and prompt > max(self._seen, self._written.rfind(self._closing)):
            self._seen = len(self._written)
            os.write(self._master, self._keys.pop(0).encode())

    def end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        for file in self._files:
            file.close()
        os.close(self._slave)
        os.close(self._master)


@pytest.fixture(params=["scripted", "piped", "terminal", "dumb terminal"])
async def person(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Person]:
    match request.param:
        case "scripted":
            yield Scripted()
        case "piped":
            piped = Piped()
            yield piped
            piped.end()
        case kind:
            terminal = AtTerminal(monkeypatch, "dumb" if kind == "dumb terminal" else "xterm")
            yield terminal
            terminal.end()


async def soon(coroutine: asyncio.Future[str | None]) -> str | None:
    return await asyncio.wait_for(coroutine, 10)


def asking(person: Person, question: Question) -> asyncio.Future[str | None]:
    return asyncio.ensure_future(person.channel.ask(question))


async def a_while() -> None:
    """Let whatever could happen happen."""
    for _ in range(20):
        await asyncio.sleep(0.005)


async def test_the_words_arrive_as_they_are(person: Person) -> None:
    await person.says("Ä  word, 漢字 and 'quotes'")
    assert await person.channel.is_open()
    assert await soon(asking(person, FIRST)) == "Ä  word, 漢字 and 'quotes'"


async def test_whoever_has_left_stays_away(person: Person) -> None:
    await person.says("one")
    asked = asking(person, FIRST)
    assert await soon(asked) == "one"
    person.channel.settled(FIRST)
    await person.leaves()

    assert await soon(asking(person, SECOND)) is None
    person.channel.settled(SECOND)
    assert await soon(asking(person, THIRD)) is None
    assert not await person.channel.is_open()


async def test_everybody_who_waits_learns_that_the_person_has_left(person: Person) -> None:
    first, second = asking(person, FIRST), asking(person, SECOND)
    await person.leaves()
    assert await soon(first) is None
    person.channel.settled(FIRST)
    assert await soon(second) is None


async def test_questions_are_put_one_after_another(person: Person) -> None:
    await person.says("for the first", "for the second")
    first, second = asking(person, FIRST), asking(person, SECOND)

    assert await soon(first) == "for the first"
    await a_while()
    assert not second.done(), "the first is not settled yet"
    person.channel.settled(FIRST)
    assert await soon(second) == "for the second"


async def test_the_line_after_one_that_only_looks_is_for_the_same_question(person: Person) -> None:
    await person.says("/diff", "still for the first", "for the second")
    first, second = asking(person, FIRST), asking(person, SECOND)

    assert await soon(first) == "/diff"
    await a_while()
    await person.channel.tell("+a line")
    assert await soon(asking(person, FIRST)) == "still for the first"
    assert not second.done()
    person.channel.settled(FIRST)
    assert await soon(second) == "for the second"
    assert "+a line" in person.was_told()


async def test_a_question_that_waits_for_its_turn_can_be_cancelled(person: Person) -> None:
    await person.says("for the first", "for the third")
    first, second = asking(person, FIRST), asking(person, SECOND)
    assert await soon(first) == "for the first"
    second.cancel()
    await asyncio.wait([second])
    person.channel.settled(SECOND)

    third = asking(person, THIRD)
    person.channel.settled(FIRST)
    assert await soon(third) == "for the third"


async def test_settling_twice_or_what_was_never_asked_changes_nothing(person: Person) -> None:
    await person.says("one", "two")
    person.channel.settled(THIRD)
    assert await soon(asking(person, FIRST)) == "one"
    person.channel.settled(FIRST)
    person.channel.settled(FIRST)
    assert await soon(asking(person, SECOND)) == "two"


async def test_a_turn_is_taken_with_all_its_commands(person: Person, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    inbox = Inbox(SessionFiles(tmp_path))

    async def diff(question: Question) -> str:
        return f"+{question.agent} has changed this"

    def give(text: str) -> bool:
        return inbox.give(FIRST.id, text, by=person.channel.name)

    await person.says("/aprove", "/diff", "/help", "/approve fine")
    assert await asyncio.wait_for(take_turn(person.channel, FIRST, give=give, diff=diff), 10)

    answer = inbox.answer(FIRST.id)
    assert answer is not None
    assert (answer.text, answer.by) == ("/approve fine", person.channel.name)
    for told in ("did you mean '/approve'", "+critic has changed this", "/undo"):
        assert told in person.was_told()


@pytest.mark.parametrize("person", ["piped", "terminal", "dumb terminal"], indirect=True)
async def test_a_question_can_be_cancelled_while_the_person_thinks(person: Person) -> None:
    first = asking(person, FIRST)
    await a_while()
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    person.channel.settled(FIRST)

    assert await person.channel.is_open() if not isinstance(person, Piped) else True
    second = asking(person, SECOND)
    await person.says("for the second")
    assert await soon(second) == "for the second"


async def test_a_dumb_terminal_is_read_only_while_something_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is typed ahead stays with the terminal, and a loop that nobody needs does not turn."""
    person = AtTerminal(monkeypatch, "dumb")
    asked = asking(person, FIRST)
    await a_while()
    asked.cancel()
    await asyncio.wait([asked])
    assert not asyncio.get_running_loop().remove_reader(person._slave)
    person.end()


class TestPipedLines:
    async def test_blank_lines_are_no_turns(self) -> None:
        person = Piped()
        await person.says("", "  ", "one", "", "two")
        await person.leaves()
        assert await soon(asking(person, FIRST)) == "one"
        assert await soon(asking(person, FIRST)) == "two"
        assert await soon(asking(person, FIRST)) is None

    async def test_a_last_line_without_an_end_counts_and_line_ends_of_windows_are_line_ends(self) -> None:
        person = Piped()
        os.write(person._write, b"one\r\ntwo")
        await person.leaves()
        assert [await soon(asking(person, FIRST)) for _ in range(3)] == ["one", "two", None]

    async def test_what_is_no_utf8_is_no_reason_to_fail(self) -> None:
        person = Piped()
        os.write(person._write, b"a\xffb\n")
        assert await soon(asking(person, FIRST)) == "a\ufffdb"
        person.end()

    async def test_a_line_that_came_when_somebody_else_had_answered_is_kept(self) -> None:
        person = Piped()
        first = asking(person, FIRST)
        await a_while()  # the thread waits for a line now
        first.cancel()
        await asyncio.wait([first])
        person.channel.settled(FIRST)
        await person.says("kept", "next")

        assert await soon(asking(person, SECOND)) == "kept"
        person.channel.settled(SECOND)
        assert await soon(asking(person, THIRD)) == "next"
        person.end()

    async def test_a_line_longer_than_a_pipe_arrives_whole(self) -> None:
        person = Piped()
        line = "x" * 300_000
        asked = asking(person, FIRST)
        await asyncio.to_thread(os.write, person._write, line.encode())
        await asyncio.to_thread(os.write, person._write, b"\n")
        assert await soon(asked) == line
        person.end()

    @pytest.mark.parametrize("content", [b"", b"\n \n"])
    async def test_an_empty_stream_is_nobody(self, content: bytes) -> None:
        person = Piped()
        os.write(person._write, content)
        await person.leaves()
        assert not await person.channel.is_open()

    async def test_a_file_is_read_as_a_pipe_is(self, tmp_path: Path) -> None:
        (tmp_path / "turns").write_text("one\n/approve\n")
        with (tmp_path / "turns").open() as file:
            channel = PipedLines(file.fileno(), show=io.StringIO().write)
            assert await channel.ask(FIRST) == "one"
            assert await channel.ask(FIRST) == "/approve"
            assert await channel.ask(FIRST) is None

    def test_a_pipe_that_nobody_closes_does_not_hold_up_the_end_of_a_process(self) -> None:
        code = """
import asyncio, os
from orchestra.agents.conversation import Question
from orchestra.runtime.channels import PipedLines

async def main():
    channel = PipedLines(0, show=print)
    asked = asyncio.ensure_future(channel.ask(Question("a-1", "a", 1, "?")))
    await asyncio.sleep(0.1)
    asked.cancel()
    await asyncio.wait([asked])

asyncio.run(main())
print("ended")
"""
        reading, writing = os.pipe()
        try:
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, stdin=reading, capture_output=True, text=True, timeout=60, check=True)
        finally:
            os.close(reading)
            os.close(writing)
        assert done.stdout + done.stderr == "ended\n"


class TestScriptedPerson:
    async def test_each_agent_may_have_answers_of_its_own(self) -> None:
        person = ScriptedPerson({"critic": ["one"], "editor": ["two"]})
        assert await person.ask(SECOND) == "two"
        person.settled(SECOND)
        assert await person.ask(FIRST) == "one"
        assert person.asked == [SECOND, FIRST]
        assert await person.ask(FIRST) is None

    def test_one_text_is_no_list_of_answers(self) -> None:
        with pytest.raises(TypeError, match="a list of texts"):
            ScriptedPerson("/approve")
