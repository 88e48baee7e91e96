"""What is shown of conversations: who speaks, in which order, and what is told about a question."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.agents.conversation import Changes, Question, Since
from orchestra.cli.displays import Display
from orchestra.cli.progress import Progress
from orchestra.runtime.observability import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

_OWN_STYLES = re.compile(r"\x1b\[(?:0|1|3[3-6]|9[3-6])m")
"""Of headings, warnings and names."""
TIME = "2026-01-01T12:00:00.000000+00:00"


class Show:
    """Shows events, and what came of them."""

    def __init__(self, stream: Any, *, quiet: bool = False) -> None:
        self.progress = Progress(stream, display=Display.QUIET if quiet else Display.PLAIN)
        self.transcript = self.progress.transcript
        self.transcript._clock = lambda: self.seconds
        self.seconds = 0.0

    def event(self, kind: str, agent: str | None = None, turn: int = 1, /, **payload: Any) -> None:
        self.progress.show(Event(1, TIME, kind, agent, turn if agent else None, 1, payload))

    def says(self, agent: str, *texts: str, turn: int = 1, ends: bool = True) -> None:
        self.event("model_started", agent, turn)
        for text in texts:
            self.event("text_delta", agent, turn, text=text)
        if ends:
            self.ends(agent, turn)

    def ends(self, agent: str, turn: int = 1) -> None:
        self.event("model_ended", agent, turn, model="m")

    def asks(self, agent: str, text: str, turn: int = 1, /, **more: Any) -> Question:
        question = Question(f"{agent}-{turn}-{text}".lower().replace(" ", "."), agent, turn, text, **more)
        self.event("question_asked", agent, turn, **question.as_json())
        return question

    def answered(self, question: Question, text: str, by: str = "respond") -> None:
        payload = {"question": question.id, "kind": "message", "text": text, "by": by}
        self.event("human_turn", question.agent, question.turn, **payload)

    def worker(self, what: str = "works") -> None:
        self.event("note", "worker", text=what)


class InFile(Show):
    def __init__(self, **more: Any) -> None:
        self._file = io.StringIO()
        super().__init__(self._file, **more)

    @property
    def text(self) -> str:
        return self._file.getvalue()


class OnTerminal(Show):
    def __init__(self, columns: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        os.set_blocking(self._master, False)
        self._display = os.fdopen(slave, "w", encoding="utf-8")
        self._text = ""
        super().__init__(self._display)

    @property
    def text(self) -> str:
        while True:
            try:
                self._text += os.read(self._master, 65_536).decode().replace("\r\n", "\n")
            except BlockingIOError:
                return _OWN_STYLES.sub("", self._text)

    def close(self) -> None:
        self._display.close()
        os.close(self._master)


@pytest.fixture
def show() -> InFile:
    return InFile()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[OnTerminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = OnTerminal(60)
    yield terminal
    terminal.close()


ENDED = "12:00:00  critic                    m answered (0 in, 0 out, 0.0 s)\n"


class TestAReply:
    def test_it_stands_under_the_name_of_who_speaks(self, show: InFile) -> None:
        show.says("critic", "It is ", "good.\nReally")
        assert show.text == f"\n── critic ──\nIt is good.\nReally\n\n{ENDED}".removeprefix("\n")

    def test_a_later_turn_is_named(self, show: InFile) -> None:
        show.says("critic", "Again.", turn=3)
        assert show.text.startswith("── critic (turn 3) ──\nAgain.\n")

    def test_on_a_terminal_it_appears_as_it_comes_wrapped_at_words(self, terminal: OnTerminal) -> None:
        terminal.says("critic", "some words and a half-writ", ends=False)
        assert terminal.text.endswith("─\nsome words and a")
        terminal.event("text_delta", "critic", text="ten word that goes over the end of the line")
        assert terminal.text.endswith("\nsome words and a half-written word that goes over the end\nof the")
        terminal.ends("critic")
        assert "\nof the line\n" in terminal.text

    def test_elsewhere_it_comes_in_whole_lines_and_is_not_wrapped(self, show: InFile) -> None:
        show.says("critic", "word " * 100, ends=False)
        assert show.text == "── critic ──\n"
        show.event("text_delta", "critic", text="\nmore")
        assert show.text == f"── critic ──\n{'word ' * 100}\n"

    def test_an_escape_sequence_in_two_pieces_is_text(self, terminal: OnTerminal) -> None:
        terminal.says("critic", "red \x1b", "[31m and \x1b]0;title", "\x07 \u202e")
        assert r"red \x1b[31m and \x1b]0;title\x07 \u202e" in terminal.text
        assert "\x1b" not in terminal.text

    def test_one_that_breaks_off_says_so_and_starts_again(self, show: InFile) -> None:
        show.says("critic", "Half a sent", ends=False)
        show.event("model_failed", "critic", message="overloaded")
        show.says("critic", "A whole sentence.")
        first, second = show.text.split("── critic ──\n")[1:]
        assert first.startswith("Half a sent\n\n[critic's answer broke off here; it is asked for again]\n12:00:00")
        assert second.startswith("A whole sentence.\n")

    def test_an_agent_that_calls_a_tool_speaks_again_afterwards(self, show: InFile) -> None:
        show.says("critic", "I look.")
        show.event("tool_started", "critic", tool="read-file")
        show.event("tool_ended", "critic", tool="read-file", ok=True)
        show.says("critic", "I saw.")
        order = [show.text.index(text) for text in ("I look.", "read-file", "I saw.")]
        assert order == sorted(order)


class TestAQuestion:
    def test_what_was_just_read_is_not_shown_again(self, show: InFile) -> None:
        show.says("critic", "What ", "now?")
        show.asks("critic", "What now?")
        assert show.text.count("What now?") == 1

    def test_after_a_resume_it_is_shown_whole(self, show: InFile) -> None:
        show.asks("critic", "What\x1b[2J now?")
        assert show.text == "── critic ──\nWhat\\x1b[2J now?\n"

    def test_a_name_in_somebody_elses_log_steers_no_terminal(self, show: InFile) -> None:
        name = "critic\x1b]0;pwned\x07\x9b2J"
        show.says(name, "Now?")
        question = show.asks(name, "What now?", 2)
        show.event("turn_started", "other\x1b[2J", 3)
        show.says("third", "Me.")
        show.answered(question, "yes")
        assert show.text.count(r"critic\x1b]0;pwned\x07\x9b2J") == 4
        assert r"other\x1b[2J (3)" in show.text
        assert not {"\x1b", "\x07", "\x9b"} & set(show.text)

    def test_what_the_agent_said_before_an_undo_is_shown_again_with_the_reason(self, show: InFile) -> None:
        show.says("critic", "First.")
        show.asks("critic", "First.")
        show.says("critic", "Second.")
        show.asks("critic", "Second.")
        show.asks("critic", "First.", note="your last message is taken back")
        assert show.text.endswith("── critic ──\nFirst.\n\nyour last message is taken back\n")

    def test_the_same_words_with_a_note_are_not_repeated(self, show: InFile) -> None:
        show.says("critic", "First.")
        show.asks("critic", "First.")
        show.event("question_asked", "critic", **Question("x-2", "critic", 1, "First.", "nothing to undo").as_json())
        assert show.text.count("First.") == 1
        assert show.text.endswith("nothing to undo\n")

    def test_a_text_that_the_log_has_cut_is_known_again(self, show: InFile) -> None:
        text = "word " * 5_000
        show.says("critic", text)
        show.asks("critic", f"{text[:20_000]}[… 5000 characters cut]")
        assert "characters cut" not in show.text

    def test_what_the_agent_changed_is_named_by_its_commits(self, show: InFile) -> None:
        show.asks("fixer", "Done.", files=Changes({"backend": ("a" * 40, "b" * 40)}))
        assert show.text.endswith("Done.\n\nchanged: backend aaaaaaaaaa..bbbbbbbbbb; /diff shows it\n")

    @pytest.mark.parametrize(
        ("decision", "reason", "turns", "files", "said"),
        [
            (
                "reject",
                "no\ntests.",
                (("critic", 2),),
                {"repo": ("a", "b")},
                "You rejected this before: no tests. Since then: critic (turn 2) has worked; files changed: repo a..b.",
            ),
            (
                "approve",
                None,
                (("a", 2), ("b", 3)),
                {},
                "You approved this before. Since then: a (turn 2), b (turn 3) have worked; no file has changed.",
            ),
            ("done", None, (), {}, "You ended this before. Since then: no file has changed."),
        ],
    )
    def test_in_a_later_turn_it_tells_what_has_happened_since(
        self, show: InFile, decision: str, reason: str, turns: Any, files: Any, said: str
    ) -> None:
        show.asks("critic", "Again?", 2, since=Since(decision, reason, "x", turns, Changes(files)))
        assert show.text == f"── critic (turn 2) ──\nAgain?\n\n{said}\n"

    def test_it_is_shown_also_where_nothing_is_said(self, show: InFile) -> None:
        show.asks("critic", "")
        assert "(says nothing)" in show.text


class TestAnAnswer:
    @pytest.mark.parametrize(
        ("by", "who"), [("terminal", "you"), ("input", "you"), ("respond", "by respond"), ("attach", "by attach")]
    )
    def test_it_names_who_gave_it(self, show: InFile, by: str, who: str) -> None:
        show.answered(show.asks("critic", "Well?"), "two\nlines\x1b", by)
        indent = " " * len(f"{who}> ")
        assert show.text.endswith(f"Well?\n\n{who}> two\n{indent}lines\\x1b\n")

    def test_it_is_shown_once_though_a_crash_has_it_taken_twice(self, show: InFile) -> None:
        question = show.asks("critic", "Well?")
        show.answered(question, "fine")
        show.event("session_resumed", pipeline="p", file="f")
        show.answered(question, "fine")
        assert show.text.count("fine") == 1

    def test_it_names_the_agent_where_another_one_has_spoken_since(self, show: InFile) -> None:
        question = show.asks("critic", "Well?")
        show.says("editor", "And?")
        show.asks("editor", "And?")
        show.answered(question, "fine")
        assert "by respond to critic> fine" in show.text

    def test_it_is_shown_also_when_another_one_waits_for_its_answer_here(self, show: InFile) -> None:
        show.transcript.prompts = True
        question = show.asks("critic", "Well?")
        show.asks("editor", "And?")
        show.transcript.settled(question)  # the prompt goes to the next before the log tells of the answer
        show.answered(question, "fine")
        assert show.text.endswith("── editor ──\nAnd?\n\nby respond to critic> fine\n")

    def test_what_was_typed_here_stands_there_already(self, show: InFile) -> None:
        question = show.asks("critic", "Well?")
        show.transcript.typed(question, "fine ", by="terminal")
        show.answered(question, "fine", "terminal")
        assert "fine" not in show.text

    def test_what_was_typed_too_late_does_not_hide_the_answer_that_counts(self, show: InFile) -> None:
        question = show.asks("critic", "Well?")
        show.transcript.typed(question, "mine", by="attach")
        show.answered(question, "theirs", "attach")
        assert "by attach> theirs" in show.text


class TestTwoSpeakers:
    def test_who_began_first_is_shown_and_the_other_one_as_a_whole_afterwards(self, show: InFile) -> None:
        show.says("critic", "I am\n", ends=False)
        show.says("editor", "Me too.")
        show.event("text_delta", "critic", text="the first.\n")
        assert "Me too." not in show.text
        show.ends("critic")
        show.asks("critic", "I am\nthe first.\n")
        show.answered(show.asks("editor", "Me too."), "ok")
        assert show.text == (
            f"── critic ──\nI am\nthe first.\n\n{ENDED}\n"
            f"── editor ──\nMe too.\n\n{ENDED.replace('critic', 'editor')}\nby respond> ok\n"
        )

    def test_one_that_is_still_speaking_goes_on_where_the_first_has_ended(self, show: InFile) -> None:
        show.says("critic", "One.\n", ends=False)
        show.says("editor", "Two, ", ends=False)
        show.ends("critic")
        show.event("turn_ended", "critic", duration_s=1.0)
        show.event("text_delta", "editor", text="and more.\n")
        assert show.text.endswith("── editor ──\nTwo, and more.\n")

    def test_what_broke_off_before_it_was_read_is_not_shown(self, show: InFile) -> None:
        show.says("critic", "One.\n", ends=False)
        show.says("editor", "Half a", ends=False)
        show.event("model_failed", "editor", message="overloaded")
        show.says("editor", "The whole.")
        show.ends("critic")
        show.event("turn_ended", "critic", duration_s=1.0)
        assert "Half a" not in show.text
        assert show.text.count("── editor ──\nThe whole.\n") == 1

    def test_while_a_question_is_answered_here_nobody_else_speaks(self, show: InFile) -> None:
        show.transcript.prompts = True
        show.says("critic", "Well?")
        question = show.asks("critic", "Well?")
        show.says("editor", "Me too.")
        assert "Me too." not in show.text
        show.worker()
        assert show.text.endswith("works\n"), "lines are no speech"
        show.transcript.settled(question)
        assert "── editor ──\nMe too.\n" in show.text

    def test_at_the_end_of_a_session_nothing_is_left_unsaid(self, show: InFile) -> None:
        show.transcript.prompts = True
        show.says("critic", "Well?")
        show.asks("critic", "Well?")
        show.says("editor", "Half a sent", ends=False)
        show.worker()
        show.event("session_interrupted")
        assert show.text.endswith("works\n\n── editor ──\nHalf a sent\n\n12:00:00  session interrupted\n")

    async def test_questions_have_the_floor_in_the_order_in_which_the_agents_spoke(self, show: InFile) -> None:
        show.transcript.prompts = True
        show.says("editor", "I began.\n", ends=False)
        show.says("critic", "And me.")
        critic = asyncio.ensure_future(show.transcript.floor(show.asks("critic", "And me.")))
        show.ends("editor")
        editor = asyncio.ensure_future(show.transcript.floor(show.asks("editor", "I began.\n")))
        await asyncio.wait([editor])
        assert not critic.done()
        show.transcript.settled(Question("editor-1-i.began.\n", "editor", 1, ""))
        await asyncio.wait([critic])

    async def test_a_question_that_others_answered_never_has_the_floor(self, show: InFile) -> None:
        show.transcript.prompts = True
        first, second = show.asks("critic", "One?"), show.asks("editor", "Two?")
        waiting = asyncio.ensure_future(show.transcript.floor(second))
        await asyncio.sleep(0)
        show.answered(second, "fine")
        show.transcript.settled(first)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        assert show.text.endswith("── editor ──\nTwo?\n\nby respond> fine\n")
        third = show.asks("critic", "Three?")
        await show.transcript.floor(third)
        waiting.cancel()


class TestOtherLines:
    def test_they_wait_for_the_end_of_what_is_said(self, show: InFile) -> None:
        show.says("critic", "A line\nand", ends=False)
        show.worker()
        show.event("text_delta", "critic", text=" another.")
        show.ends("critic")
        assert "A line\nand another.\n\n12:00:00  worker                    works\n" in show.text

    def test_after_a_while_they_come_between_two_paragraphs(self, terminal: OnTerminal) -> None:
        terminal.says("critic", "One paragraph.\n\n", ends=False)
        terminal.worker()
        terminal.event("text_delta", "critic", text="Another, which goes ")
        terminal.seconds = 11.0
        terminal.event("text_delta", "critic", text="on.\n")
        assert "works" not in terminal.text
        terminal.event("text_delta", "critic", text="\nThe last.\n")
        terminal.ends("critic")
        work = "12:00:00  worker                    works"
        assert f"Another, which goes on.\n\n{work}\n\nThe last.\n" in terminal.text

    def test_never_inside_a_block_of_code(self, terminal: OnTerminal) -> None:
        terminal.says("critic", "```\na\n\n", ends=False)
        terminal.worker()
        terminal.seconds = 11.0
        terminal.event("text_delta", "critic", text="b\n\nc\n```\n")
        terminal.ends("critic")
        assert "```\na\n\nb\n\nc\n```\n\n12:00:00  worker" in terminal.text

    def test_that_a_session_is_being_stopped_is_said_at_once(self, show: InFile) -> None:
        show.says("critic", "A line\n", ends=False)
        show.event("session_stopping", seconds=3.0, waits_for={"model": 1})
        assert show.text.endswith("A line\n12:00:00  waits for 1 model call, 3 s at the most\n")

    def test_those_of_an_agent_stay_behind_what_it_said(self, show: InFile) -> None:
        show.says("critic", "One.\n", ends=False)
        show.says("editor", "Two.")
        show.event("turn_ended", "editor", duration_s=2.0)
        assert "done after" not in show.text
        show.ends("critic")
        show.event("turn_ended", "critic", duration_s=1.0)
        assert show.text.index("Two.") < show.text.index("done after 2.0 s")

    def test_without_a_conversation_they_come_as_ever(self, show: InFile) -> None:
        show.event("session_started", pipeline="p", file="p.yaml")
        show.event("turn_started", "worker")
        show.worker()
        assert show.text == (
            "12:00:00  session started: p (p.yaml)\n"
            "12:00:00  worker                    starts\n"
            "12:00:00  worker                    works\n"
        )


def test_quietly_only_a_conversation_at_this_terminal_is_shown() -> None:
    show = InFile(quiet=True)
    show.says("critic", "Not to be read.")
    show.worker()
    assert show.text == ""
    show.transcript.prompts = True
    show.says("critic", "To be read.")
    show.worker()
    assert show.text == "── critic ──\nTo be read.\n"


def test_nobody_who_reads_is_no_reason_to_fail() -> None:
    reading, writing = os.pipe()
    with suppress(BrokenPipeError), os.fdopen(writing, "w") as stream:
        show = Show(stream)
        show.says("critic", "Somebody listens.")
        os.close(reading)
        show.says("critic", "Nobody listens.")
        show.event("session_completed")


def test_in_a_terminal_without_its_characters_a_heading_has_others() -> None:
    class Latin(io.StringIO):
        encoding = "iso-8859-1"

    stream = Latin()
    Show(stream).says("critic", "Good.")
    assert stream.getvalue().startswith("-- critic --\nGood.\n")
