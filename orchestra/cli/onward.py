"""The commands with which a session goes on, told wherever it is shown how it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.cli.place import typed
from orchestra.runtime.asking import open_questions
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.store import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.agents.conversation import Question
    from orchestra.runtime.store import SessionFiles, SessionRecord


def commands(record: SessionRecord) -> list[str]:
    """Return what to type for a session to go on; nothing where it has ended or goes on by itself."""
    session = record.session_id
    if record.status in (Status.PAUSED, Status.RUNNING):
        questions = unanswered(record.files)
        if questions:
            return [typed(f"attach {session}"), *answers(session, questions)]
    if record.status in (Status.FAILED, Status.INTERRUPTED, Status.PAUSED):
        return [typed(f"resume {session}")]
    return []


def unanswered(files: SessionFiles) -> list[Question]:
    """Return the open questions without those whose answer is there, and will be taken up when the session goes on."""
    inbox = Inbox(files)
    return [question for question in open_questions(files) if not inbox.has_answer(question.id)]


def answers(session: str, questions: Sequence[Question]) -> list[str]:
    """Return the commands that answer questions, each once."""
    agents = dict.fromkeys(question.agent for question in questions)
    to = [f" --agent {agent}" for agent in agents] if len(questions) > 1 else [""]
    return [typed(f"respond {session}{whom} TEXT") for whom in to]
