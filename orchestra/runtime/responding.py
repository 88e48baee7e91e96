"""An answer from outside the process that drives a session: which question it is for, and what becomes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from orchestra.agents.conversation import UnknownCommandError, understand
from orchestra.errors import SessionError, did_you_mean
from orchestra.runtime.asking import how_it_stands, open_questions
from orchestra.runtime.driver_lock import is_driven
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.inbox import LOOK_EVERY, Inbox
from orchestra.runtime.store import Status, read_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.agents.conversation import Question
    from orchestra.runtime.inbox import Answer
    from orchestra.runtime.store import SessionFiles, SessionRecord

PATIENCE = 10.0
"""Seconds in which a driver that waits for an answer should have taken it up."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a session asks."""

    record: SessionRecord
    questions: list[Question]

    def as_json(self) -> dict[str, Any]:
        """Return what `respond --json` prints."""
        return {
            "session_id": self.record.session_id,
            "status": str(self.record.status),
            "waiting_for": self.record.waiting_for,
            "questions": [question.as_json() for question in self.questions],
        }


class Outcome(StrEnum):
    """What became of an answer."""

    TAKEN = "taken"
    """Whoever drives the session goes on with it."""
    FREE = "free"
    """Nobody drives the session."""
    WAITING = "waiting"
    """Whoever drives the session has not taken it up."""


def what_is_asked(files: SessionFiles) -> Asked:
    """Read how a session stands, and which questions it has."""
    return Asked(read_session(files), open_questions(files))


def respond(files: SessionFiles, line: str, *, agent: str | None = None, question: str | None = None) -> Question:
    """Answer an open question; returns it.

    Args:
        files: The session's.
        line: A message to the agent, or a command that ends its turn or takes a message back.
        agent: Whose question, where several are open.
        question: The id that the open question must have.

    Raises:
        UnknownCommandError: The line begins like a command and is none.
        SessionError: It answers nothing: it only looks, nothing or too much is asked, or somebody was faster.
    """
    _refuse_no_answer(files, line)
    asked = what_is_asked(files)
    chosen = _chosen(files, asked, agent, question)
    if not Inbox(files).give(chosen.id, line.strip(), by="respond"):
        raise _answered(files, Inbox(files).answer(chosen.id))
    failpoint("responded")
    return chosen


def wait_until_taken(files: SessionFiles, question: Question, *, patience: float = PATIENCE) -> Outcome:
    """Wait until whoever drives a session goes on with an answer, or nobody drives it.

    A question that the driver has left is taken up by the next one only: then it is waited for longer than `patience`.
    """
    deadline = time.monotonic() + patience
    while True:
        driven = is_driven(files.lock)  # first: what its driver has written before it went counts
        stands = how_it_stands(files, question.id)
        if stands == "human_turn":
            return Outcome.TAKEN
        if not driven:
            return Outcome.FREE
        if stands != "question_left" and time.monotonic() >= deadline:
            return Outcome.WAITING
        time.sleep(LOOK_EVERY)


def _refuse_no_answer(files: SessionFiles, line: str) -> None:
    try:
        said = understand(line)
    except UnknownCommandError as error:
        error.exit_code = 2
        raise
    if said is None:
        word = line.strip().partition(" ")[0]
        reason = f"{word} only shows something, and answers nothing" if word else "the answer is empty"
        raise _wrong(reason, "not-an-answer", f"what is asked: orchestra respond {files.session_id}")


def _chosen(files: SessionFiles, asked: Asked, agent: str | None, question: str | None) -> Question:
    """Return the one question that is meant."""
    if not asked.questions:
        raise _nothing_asked(asked.record)
    meant = [one for one in asked.questions if question in (None, one.id) and agent in (None, one.agent)]
    if not meant:
        raise _not_asked(files, asked.questions, agent, question)
    inbox = Inbox(files)
    waiting = [one for one in meant if inbox.answer(one.id) is None]
    if not waiting:
        raise _answered(files, inbox.answer(meant[0].id))
    if len(waiting) > 1:
        shown = "\n".join(f"  {one.agent}: {_first_line(one.text)}" for one in waiting)
        hint = f"say whom you answer: orchestra respond {files.session_id} --agent {waiting[0].agent} TEXT"
        raise _wrong(f"{len(waiting)} questions are open:\n{shown}", "several-questions", hint)
    return waiting[0]


def _not_asked(
    files: SessionFiles, questions: Sequence[Question], agent: str | None, question: str | None
) -> SessionError:
    known = [one.id for one in questions]
    if question is None or question in known:
        names = list(dict.fromkeys(one.agent for one in questions))
        hint = did_you_mean(agent or "", names) or f"whose questions are open: {', '.join(names)}"
        return _wrong(f"no question of {agent!r} is open", "unknown-question", hint)
    if answer := Inbox(files).answer(question):
        return _answered(files, answer)
    hint = did_you_mean(question, known) or f"open: {', '.join(known)}"
    return _wrong(f"no question {question!r} is open", "unknown-question", hint)


def _answered(files: SessionFiles, answer: Answer | None) -> SessionError:
    session = files.session_id
    # The answer can only be missing where somebody has just removed it.
    which = f"the question {answer.question}" if answer else "the question"
    how = f", through `{answer.by}` at {answer.at[:19].replace('T', ' ')} UTC" if answer else ""
    lies = answer is not None and how_it_stands(files, answer.question) != "human_turn" and not is_driven(files.lock)
    now = f"what is asked now: orchestra respond {session}"
    return SessionError(
        f"{which} was answered already{how}; yours does not count",
        code="already-answered",
        hint=f"`orchestra resume {session}` goes on with it" if lies else now,
    )


def _nothing_asked(record: SessionRecord) -> SessionError:
    session = record.session_id
    look = f"look: orchestra log {session}"
    waits = record.waiting_for
    if record.status is Status.PAUSED and waits:  # for something else than an answer: a conflict to be resolved
        return _wrong(f"{waits['agent']} does not wait for an answer: {waits['text']}", "nothing-asked", None)
    message, hint = {
        Status.RUNNING: ("it runs", f"watch it: orchestra attach {session}"),
        Status.CREATED: ("it is about to run", f"watch it: orchestra attach {session}"),
        Status.FAILED: ("it has failed", f"go on with: orchestra resume {session}"),
        Status.INTERRUPTED: ("it was interrupted", f"go on with: orchestra resume {session}"),
        Status.CANCELLED: ("it was cancelled", look),
        Status.COMPLETED: ("it has completed", look),
    }.get(record.status, (f"it is {record.status}", f"go on with: orchestra resume {session}"))
    return _wrong(f"the session {session} asks nothing: {message}", "nothing-asked", hint)


def _wrong(message: str, code: str, hint: str | None) -> SessionError:
    error = SessionError(message, code=code, hint=hint)
    error.exit_code = 2  # nothing was given
    return error


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 80 else f"{line[:79]}…"  # noqa: PLR2004 - a line of a list
