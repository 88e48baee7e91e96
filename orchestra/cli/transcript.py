"""The conversation of a session as a person reads it: who speaks, what was asked, what was answered.

One speaks at a time: whoever began has the floor until it has said all and, where its question is answered at this
terminal, until it has its answer. What others say meanwhile is shown as a whole afterwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.agents.conversation import Question
from orchestra.cli.floor import Floor, Speaker
from orchestra.cli.prose import Prose
from orchestra.cli.render import escape, escape_prose

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
_SILENT = frozenset({"tool_started", "turn_ended", "turn_failed", "turn_stopped", "question_left"})
"""Events after which an agent says nothing more for now."""


@dataclass(eq=False)
class _Agent(Speaker):
    name: str = ""
    turn: int = 1
    prose: Prose | None = None
    """While it speaks."""
    said: str = ""
    """Its last reply, as far as it was shown."""
    asks: str | None = None
    """The question that waits for its answer at this terminal."""
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
        self._agents: dict[str, _Agent] = {}
        self._floor: Floor[_Agent] = Floor(self._show_held)
        self._heard: _Agent | None = None
        """Who has spoken last."""
        self._held: list[str] = []
        """Lines that would tear a paragraph apart."""
        self._held_since = 0.0
        self._after_prose = False
        self._asked: set[str] = set()
        self._settled: set[str] = set()
        self._told: set[str] = set()
        self._typed: dict[str, tuple[str, str]] = {}

    def show(self, event: Event) -> bool:
        """Show an event's part in a conversation; True: there is nothing else to show of it."""
        if event.type.startswith("session_"):
            if event.type != "session_stopping":
                self._floor.clear(self._end)
            return False
        if event.node is None:
            return False
        match event.type:
            case "text_delta" if not event.payload.get("spoken", True):
                pass  # an agent at work, whom nobody has asked
            case "text_delta":
                agent, text = self._agent(event.node, event.turn), str(event.payload["text"])
                self._floor.do(agent, lambda: self._speak(agent, text))
            case "question_asked":
                self._ask(Question.from_json(event.payload))
            case "human_turn":
                self._answer(self._agent(event.node, event.turn), event.payload)
            case kind:
                if event.node in self._agents:
                    self._note(self._agents[event.node], kind)
                return False
        return True

    def line(self, text: str, *, agent: str | None = None, at_once: bool = False) -> None:
        """Show a line about something else, where it tears no paragraph apart.

        Args:
            text: The line.
            agent: Whom it is about; it comes behind what that agent has said before.
            at_once: It can't wait.
        """
        about, holder = self._agents.get(agent or ""), self._floor.holder
        if about is not None and about.due and not at_once:
            about.due.append(lambda: self._line(text))
        elif holder is None or holder.prose is None or at_once:
            self._line(text)
        else:
            if not self._held:
                self._held_since = self._clock()
            self._held.append(text)

    async def floor(self, question: Question) -> None:
        """Wait until a question has been shown and is to be answered now."""
        agent = self._agent(question.agent, question.turn)
        self._settled.discard(question.id)
        if question.id not in self._asked:
            self._ask(question)
        while self._floor.holder is not agent and self.prompts:
            if agent.due or question.id in self._settled:
                await self._floor.changed.wait()
            else:
                self._floor.do(agent, lambda: self._keep(agent, question))
        self._keep(agent, question)

    def settled(self, question: Question) -> None:
        """Let others speak: the question has its answer, or will get none here."""
        self._settled.add(question.id)
        agent = self._agent(question.agent, question.turn)
        if agent.asks == question.id:
            self._let_go(agent)
            self._floor.pass_on()

    def typed(self, question: Question, line: str, *, by: str) -> None:
        """Note that an answer stands on the screen already, as it was typed."""
        self._typed[question.id] = (by, line.strip())

    def has_shown(self, text: str) -> bool:
        """Tell whether a text is what an agent has said last."""
        return any(_is_same(agent.said, text) for agent in self._agents.values())

    def _agent(self, name: str, turn: int | None) -> _Agent:
        agent = self._agents.setdefault(name, _Agent(name=name))
        agent.turn = turn or agent.turn
        return agent

    def _note(self, agent: _Agent, kind: str) -> None:
        """Take what an agent does as the end of what it said."""
        has_floor = self._floor.holder is agent
        if kind == "model_started":
            agent.reply_at = len(agent.due)
        elif kind == "model_ended" and (agent.prose or agent.due):
            self._floor.do(agent, lambda: self._end(agent))
        elif kind == "model_failed" and has_floor:
            self._break_off(agent)
        elif kind == "model_failed":
            del agent.due[agent.reply_at :]  # nobody has read it, and it comes once more
        elif kind in _SILENT and (has_floor or agent.due):
            self._floor.do(agent, lambda: self._let_go(agent))

    def _keep(self, agent: _Agent, question: Question) -> None:
        """Give a question the floor until it is answered, unless it is."""
        if question.id in self._settled or not self.prompts:
            self._let_go(agent)
        else:
            agent.keeps, agent.asks = True, question.id

    def _let_go(self, agent: _Agent) -> None:
        self._end(agent)
        agent.keeps, agent.asks = False, None

    def _speak(self, agent: _Agent, text: str) -> None:
        if agent.prose is None:
            self._header(agent)
            agent.prose, agent.said, agent.keeps = Prose(lambda: self.screen.width), "", True
        agent.said += text
        for line in text.splitlines(keepends=True):
            self.screen.write(agent.prose.feed(line))
            if self._held and agent.prose.is_between_paragraphs and self._clock() - self._held_since > PATIENCE:
                self._show_held()
                self.screen.blank_line()

    def _end(self, agent: _Agent) -> None:
        if agent.prose is not None:
            self.screen.write(agent.prose.end())
            agent.prose, self._after_prose = None, True
            self._show_held()

    def _break_off(self, agent: _Agent) -> None:
        if agent.prose is not None:
            self._end(agent)
            self._line(f"[{escape(agent.name)}'s answer broke off here; it is asked for again]")
            agent.said = ""
        agent.keeps = False
        self._floor.pass_on()

    def _ask(self, question: Question) -> None:
        agent = self._agent(question.agent, question.turn)
        if question.id not in self._asked or agent.asks != question.id:
            self._asked.add(question.id)
            self._floor.do(agent, lambda: self._show_question(agent, question))

    def _show_question(self, agent: _Agent, question: Question) -> None:
        self._end(agent)
        if not _is_same(agent.said, question.text):
            self._header(agent)
            self._paragraph(question.text or "(says nothing)")
            agent.said, self._after_prose = question.text, True
        if question.note:
            self._paragraph(question.note)
        if question.since:
            self._paragraph(_since(question.since))
        if question.files.repos:
            self._paragraph(f"changed: {_changes(question.files)}; /diff shows it")
        self._keep(agent, question)

    def _answer(self, agent: _Agent, payload: Mapping[str, Any]) -> None:
        question, by, text = (str(payload.get(name, "")) for name in ("question", "by", "text"))
        self._settled.add(question)
        if question not in self._told:  # after a crash the same answer is taken once more
            self._told.add(question)
            holder = self._floor.holder
            if self._typed.pop(question, None) == (by, text):
                pass  # it stands there as it was typed
            elif holder is None or holder is agent or holder.prose or agent.due:
                self._floor.do(agent, lambda: self._show_answer(agent, by, text))
            else:
                self._show_answer(agent, by, text)  # above the prompt of another one
        if agent.asks == question or agent.due:
            self._floor.do(agent, lambda: self._let_go(agent))

    def _show_answer(self, agent: _Agent, by: str, text: str) -> None:
        who = "you" if by in self._own else f"by {escape_prose(by)}"
        who += "> " if self._heard is agent else f" to {escape(agent.name)}> "
        lines = escape_prose(text).split("\n")
        self.screen.blank_line()
        self._line(self.screen.bold(who) + f"\n{' ' * len(who)}".join(lines))

    def _header(self, agent: _Agent) -> None:
        self.screen.blank_line()
        self._after_prose = False
        line = "─" if self.screen.is_unicode else "-"
        title = f"{line * 2} {label(agent.name, agent.turn)} {line * 2}"
        rule = line * (min(self.screen.width or 0, _RULE) - len(title))
        self.screen.write(self.screen.bold(title + rule) + "\n")
        self._heard = agent

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
    """Name an agent, and its turn where that is not the first; nothing in it can steer a terminal."""
    return escape(agent if turn == 1 else f"{agent} (turn {turn})")


def _is_same(shown: str, text: str) -> bool:
    shown, text = shown.strip(), text.strip()
    return bool(shown) and (shown == text or (len(text) > _COMPARED and shown[:_COMPARED] == text[:_COMPARED]))


def _since(since: Since) -> str:
    decided = {"reject": "rejected", "approve": "approved"}.get(since.decision, "ended")
    why = f": {' '.join(since.reason.split()).rstrip('.')}" if since.reason else ""
    worked = ", ".join(f"{agent} (turn {turn})" for agent, turn in since.turns)
    who = f"{worked} {'has' if len(since.turns) == 1 else 'have'} worked; " if worked else ""
    files = f"files changed: {_changes(since.files)}" if since.files.repos else "no file has changed"
    return f"You {decided} this before{why}. Since then: {who}{files}."


def _changes(changes: Changes) -> str:
    return ", ".join(f"{repo} {before[:10]}..{after[:10]}" for repo, (before, after) in changes.repos.items())
