"""The conversation of a session as a person reads it: who speaks, what was asked, what was answered.

One speaks at a time: whoever began has the floor until it has said all and, where its question is answered at this
terminal, until it has its answer. What others say meanwhile is shown as a whole afterwards.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.agents.conversation import Question
from orchestra.cli.prose import Prose
from orchestra.cli.render import escape_prose

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from orchestra.agents.conversation import Changes, Since
    from orchestra.cli.screen import Screen
    from orchestra.runtime.observability import Event

PATIENCE = 10.0
"""Seconds after which a line of another agent may stand between two paragraphs; else it waits for the reply's end."""
_RULE = 80
"""The columns of a header's line, at the most."""
_COMPARED = 10_000
"""Characters by which a question is known to have been read already; the log cuts longer texts."""


@dataclass(eq=False)
class _Speaker:
    agent: str
    turn: int = 1
    prose: Prose | None = None
    """While it speaks."""
    said: str = ""
    """Its last reply, as far as it was shown."""
    is_busy: bool = False
    """Whether it keeps the floor."""
    asks: str | None = None
    """The question that waits for its answer at this terminal."""
    due: list[Callable[[], None]] = field(default_factory=list)
    """What it has said and done without having the floor."""
    reply_at: int = 0
    """Where in `due` its reply begins that is under way."""


class Transcript:
    """Shows the events of conversations.

    Args:
        screen: Where.
        own: How answers are called that come from this process.
        clock: Tells the seconds.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        own: Collection[str] = ("terminal", "input"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.screen = screen
        self.prompts = False
        """Whether questions are answered at this terminal."""
        self._own = frozenset(own)
        self._clock = clock
        self._speakers: dict[str, _Speaker] = {}
        self._floor: _Speaker | None = None
        self._queue: list[_Speaker] = []
        self._held: list[str] = []
        self._held_since = 0.0
        self._asked: set[str] = set()
        self._answered: set[str] = set()
        self._told: set[str] = set()
        self._typed: dict[str, tuple[str, str]] = {}
        self._after_prose = False
        self._heard: _Speaker | None = None
        """Who has spoken last."""
        self._changed = asyncio.Event()

    def show(self, event: Event) -> bool:
        """Show an event's part in a conversation; True: there is nothing else to show of it."""
        if event.type.startswith("session_"):
            if event.type != "session_stopping":
                self._show_all()
            return False
        if event.node is None:
            return False
        speaker = self._speakers.get(event.node)
        match event.type:
            case "text_delta":
                speaker = self._speaker(event.node, event.turn)
                text = str(event.payload["text"])
                self._do(speaker, lambda: self._speak(speaker, text))
                return True
            case "question_asked":
                self._ask(Question.from_json(event.payload))
                return True
            case "human_turn":
                self._answer(self._speaker(event.node, event.turn), event.payload)
                return True
        if speaker is not None:
            self._note(speaker, event.type)
        return False

    def line(self, text: str, *, agent: str | None = None, at_once: bool = False) -> None:
        """Show a line about something else, where it tears no paragraph apart.

        Args:
            text: The line.
            agent: Whom it is about; it comes behind what that agent has said before.
            at_once: It can't wait.
        """
        speaker = self._speakers.get(agent or "")
        if speaker is not None and speaker.due and not at_once:
            speaker.due.append(lambda: self._line(text))
        elif self._floor is None or self._floor.prose is None or at_once:
            self._line(text)
        else:
            if not self._held:
                self._held_since = self._clock()
            self._held.append(text)

    async def floor(self, question: Question) -> None:
        """Wait until a question has been shown and is to be answered now."""
        speaker = self._speaker(question.agent, question.turn)
        if question.id not in self._asked:
            self._ask(question)
        while self._floor is not speaker:
            if not speaker.due:
                speaker.due.append(lambda: self._keep(speaker, question))
                self._enqueue(speaker)
                self._pass_on()
                continue
            await self._changed.wait()
        self._keep(speaker, question)

    def settled(self, question: Question) -> None:
        """Let others speak: the question has its answer, or will get none here."""
        self._answered.add(question.id)
        speaker = self._speaker(question.agent, question.turn)
        if speaker.asks == question.id:
            self._let_go(speaker)
            self._pass_on()

    def typed(self, question: Question, line: str, *, by: str) -> None:
        """Note that an answer stands on the screen already, as it was typed."""
        self._typed[question.id] = (by, line.strip())

    def has_shown(self, text: str) -> bool:
        """Tell whether a text of an agent was shown."""
        return any(_is_same(speaker.said, text) for speaker in self._speakers.values())

    def _speaker(self, agent: str, turn: int | None) -> _Speaker:
        speaker = self._speakers.setdefault(agent, _Speaker(agent))
        speaker.turn = turn or speaker.turn
        return speaker

    def _do(self, speaker: _Speaker, act: Callable[[], None]) -> None:
        """Show something that an agent says or does, now or when it has the floor."""
        if self._floor is speaker:
            act()
        else:
            speaker.due.append(act)
            self._enqueue(speaker)
        self._pass_on()

    def _enqueue(self, speaker: _Speaker) -> None:
        if speaker not in self._queue:
            self._queue.append(speaker)

    def _pass_on(self) -> None:
        """Give the floor to the next who waits, when nobody keeps it."""
        while self._floor is None or not self._floor.is_busy:
            self._show_held()
            self._floor = self._queue.pop(0) if self._queue else None
            if self._floor is None:
                break
            self._perform(self._floor)
        self._changed.set()
        self._changed = asyncio.Event()

    def _perform(self, speaker: _Speaker) -> None:
        due, speaker.due, speaker.reply_at = speaker.due, [], 0
        for act in due:
            act()

    def _show_all(self) -> None:
        """Show whatever waits: a session ends or begins."""
        for speaker in (*filter(None, [self._floor]), *self._queue):
            self._perform(speaker)
            self._end(speaker)
            self._let_go(speaker)
        self._queue.clear()
        self._pass_on()

    def _note(self, speaker: _Speaker, kind: str) -> None:
        """Take what an agent does as the end of what it said."""
        match kind:
            case "model_started":
                speaker.reply_at = len(speaker.due)
            case "model_ended" if speaker.prose or speaker.due:
                self._do(speaker, lambda: self._end(speaker))
            case "model_failed" if self._floor is speaker:
                self._break_off(speaker)
            case "model_failed":
                del speaker.due[speaker.reply_at :]
            case "tool_started" | "turn_ended" | "turn_failed" | "turn_stopped" | "question_left":
                if speaker.is_busy or speaker.due:
                    self._do(speaker, lambda: self._let_go(speaker))

    def _keep(self, speaker: _Speaker, question: Question) -> None:
        speaker.is_busy, speaker.asks = True, question.id
        self._answered.discard(question.id)

    def _let_go(self, speaker: _Speaker) -> None:
        self._end(speaker)
        speaker.is_busy, speaker.asks = False, None

    def _speak(self, speaker: _Speaker, text: str) -> None:
        if speaker.prose is None:
            self._header(speaker)
            speaker.prose, speaker.said, speaker.is_busy = Prose(lambda: self.screen.width), "", True
        speaker.said += text
        self.screen.write(speaker.prose.feed(text))
        if self._held and speaker.prose.is_between_paragraphs and self._clock() - self._held_since > PATIENCE:
            self._show_held()
            self.screen.blank_line()

    def _end(self, speaker: _Speaker) -> None:
        if speaker.prose is not None:
            self.screen.write(speaker.prose.end())
            speaker.prose, self._after_prose = None, True
            self._show_held()

    def _break_off(self, speaker: _Speaker) -> None:
        if speaker.prose is not None:
            self._end(speaker)
            self._line(f"[{speaker.agent}'s answer broke off here; it is asked for again]")
            speaker.said = ""
        speaker.is_busy = False
        self._pass_on()

    def _ask(self, question: Question) -> None:
        speaker = self._speaker(question.agent, question.turn)
        again = question.id in self._asked
        self._asked.add(question.id)
        if not (again and speaker.asks == question.id):
            self._do(speaker, lambda: self._show_question(speaker, question))

    def _show_question(self, speaker: _Speaker, question: Question) -> None:
        self._end(speaker)
        if not _is_same(speaker.said, question.text):
            self._header(speaker)
            prose = Prose(lambda: self.screen.width)
            self.screen.write(prose.feed(question.text or "(says nothing)") + prose.end())
            speaker.said, self._after_prose = question.text, True
        about = [question.note] if question.note else []
        about += [_since(question.since)] if question.since else []
        about += [f"changed: {_changes(question.files)}; /diff shows it"] if question.files.repos else []
        for text in about:
            self._paragraph(text)
        if question.id in self._answered or not self.prompts:
            self._let_go(speaker)
        else:
            self._keep(speaker, question)

    def _answer(self, speaker: _Speaker, payload: Mapping[str, Any]) -> None:
        question, by, text = (str(payload[name]) for name in ("question", "by", "text"))
        if question not in self._told:  # after a crash the same answer is taken once more
            self._told.add(question)
            if self._typed.pop(question, None) != (by, text):
                self._do(speaker, lambda: self._show_answer(speaker, by, text))
        self._answered.add(question)
        if speaker.asks == question or speaker.due:
            self._do(speaker, lambda: self._let_go(speaker))

    def _show_answer(self, speaker: _Speaker, by: str, text: str) -> None:
        who = "you" if by in self._own else f"by {escape_prose(by)}"
        who += "> " if self._heard is speaker else f" to {speaker.agent}> "
        self.screen.blank_line()
        lines = escape_prose(text).split("\n")
        self._line(self.screen.bold(who) + f"\n{' ' * len(who)}".join(lines))

    def _header(self, speaker: _Speaker) -> None:
        self.screen.blank_line()
        title = f"── {label(speaker.agent, speaker.turn)} ──"
        rule = "─" * (min(self.screen.width or 0, _RULE) - len(title))
        self.screen.write(self.screen.bold(title + rule) + "\n")
        self._heard = speaker

    def _paragraph(self, text: str) -> None:
        prose = Prose(lambda: self.screen.width)
        self._line((prose.feed(text) + prose.end()).removesuffix("\n"))

    def _line(self, text: str) -> None:
        if self._after_prose:
            self._after_prose = False
            self.screen.blank_line()
        self.screen.finish_line()
        self.screen.write(text + "\n")

    def _show_held(self) -> None:
        held, self._held = self._held, []
        for line in held:
            self._line(line)


def label(agent: str, turn: int) -> str:
    """Name an agent, and its turn where that is not the first."""
    return agent if turn == 1 else f"{agent} (turn {turn})"


def _is_same(shown: str, text: str) -> bool:
    shown, text = shown.strip(), text.strip()
    return bool(shown) and (shown == text or (len(text) > _COMPARED and shown[:_COMPARED] == text[:_COMPARED]))


def _since(since: Since) -> str:
    decided = {"reject": "rejected", "approve": "approved"}.get(since.decision, "ended")
    why = f": {since.reason.rstrip('.')}" if since.reason else ""
    worked = ", ".join(f"{agent} (turn {turn})" for agent, turn in since.turns)
    who = f"{worked} {'has' if len(since.turns) == 1 else 'have'} worked; " if worked else ""
    files = f"files changed: {_changes(since.files)}" if since.files.repos else "no file has changed"
    return f"You {decided} this before{why}. Since then: {who}{files}."


def _changes(changes: Changes) -> str:
    return ", ".join(f"{repo} {before[:10]}..{after[:10]}" for repo, (before, after) in changes.repos.items())
