"""The terminal as a way to a person: questions are put one after another, at a line that can be edited."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TextIO

from orchestra.agents.conversation import UnknownCommandError, understand
from orchestra.cli.lines import Interrupted, open_lines
from orchestra.cli.pager import page
from orchestra.cli.render import escape, escape_prose
from orchestra.cli.transcript import label

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.agents.conversation import Question
    from orchestra.cli.lines import Lines
    from orchestra.cli.transcript import Transcript

_COMMANDS = "/help  /approve  /reject [why]  /done  /undo  /diff"


class TerminalChannel:
    """Asks the person at this terminal (`orchestra.runtime.people.Channel`).

    Args:
        transcript: Shows the questions; the one that has the floor there is put.
        keyboard: The terminal's input.
        display: Its output, on which the transcript is shown, too.
        on_interrupt: Called when Ctrl-C was pressed; the person has then left.
        name: How an answer is called that came through here.
    """

    def __init__(
        self,
        transcript: Transcript,
        keyboard: TextIO,
        display: TextIO,
        *,
        on_interrupt: Callable[[], object],
        name: str = "terminal",
    ) -> None:
        self._transcript = transcript
        self._keyboard = keyboard
        self._display = display
        self._on_interrupt = on_interrupt
        self._name = name
        self._is_open = True
        self._waiting: list[Question] = []
        self._drafts: dict[str, str] = {}
        """What was being typed to an agent when somebody else answered it."""
        self._opened: Lines | None = None
        transcript.prompts = True

    @property
    def name(self) -> str:
        """How an answer is called that came through here."""
        return self._name

    async def is_open(self) -> bool:
        """Tell whether the person is still there."""
        return self._is_open

    async def ask(self, question: Question) -> str | None:
        """Let the person answer, once the question has the floor; see `Channel`."""
        self._waiting.append(question)
        try:
            self._refresh()
            await self._transcript.floor(question)
        finally:
            self._waiting.remove(question)
        while self._is_open:
            line = await self._read(question)
            if line is not None and line.strip():
                if _is_answer(line):
                    self._transcript.typed(question, line, by=self._name)
                return line
        return None

    def settled(self, question: Question) -> None:
        """Put the next question; see `Channel`."""
        self._transcript.settled(question)

    async def tell(self, text: str) -> None:
        """Show something to this person; see `Channel`."""
        await page(self._transcript.screen, escape_prose(text))

    def close(self) -> None:
        """Put no question any more."""
        self._is_open = False
        self._transcript.prompts = False

    async def _read(self, question: Question) -> str | None:
        if self._opened is None:
            self._opened = open_lines(self._keyboard, self._display)
        lines = self._opened
        try:
            with self._transcript.screen.prompt(lines.above):
                return await lines.read(
                    f"{label(question.agent, question.turn)}> ",
                    default=self._drafts.pop(question.agent, ""),
                    toolbar=self._toolbar,
                    state=self._state,
                )
        except asyncio.CancelledError:
            self._drafts[question.agent] = lines.draft
            raise
        except EOFError:
            self.close()
        except Interrupted:
            self.close()
            self._on_interrupt()
        return None

    def _toolbar(self) -> str:
        if not self._waiting:
            return _COMMANDS
        names = ", ".join(escape(question.agent) for question in self._waiting)
        return f"{len(self._waiting)} more wait{'s' * (len(self._waiting) == 1)}: {names}   {_COMMANDS}"

    def _state(self) -> str:
        state = self._transcript.screen.state
        return state() if state is not None else ""

    def _refresh(self) -> None:
        if self._opened is not None:
            self._opened.refresh()


def _is_answer(line: str) -> bool:
    """Tell whether a line is for the agent, and not for whoever takes it."""
    try:
        return understand(line) is not None
    except UnknownCommandError:
        return False
