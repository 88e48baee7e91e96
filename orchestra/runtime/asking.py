"""Which questions of a session are open, read from its log by other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.agents.conversation import Question
from orchestra.runtime.event_log import event_payload
from orchestra.runtime.store import ENDED, open_readonly, read_session

if TYPE_CHECKING:
    from orchestra.runtime.store import SessionFiles


def open_questions(files: SessionFiles) -> list[Question]:
    """Return the questions that wait for an answer, in the order in which they were asked first.

    A question whose answer lies in the inbox, and that nobody has taken up yet, is open still.

    Raises:
        SessionError: The session's database can't be read.
    """
    if read_session(files).status in ENDED:
        return []
    with open_readonly(files) as connection:
        rows = connection.execute(
            "SELECT node, turn, attempt, type, payload FROM events WHERE type IN"
            " ('question_asked', 'human_turn', 'turn_started', 'turn_ended', 'turn_failed') ORDER BY seq"
        ).fetchall()
        waiting: dict[tuple[str, int], tuple[Question, int]] = {}
        for node, turn, attempt, kind, payload in rows:
            known, asked_in = waiting.get((node, turn), (None, attempt))
            if kind == "question_asked":
                question = Question.from_json(event_payload(payload))
                if known is None or known.id != question.id:
                    waiting.pop((node, turn), None)
                    waiting[node, turn] = question, attempt
            elif _is_over(kind, payload, known, same_attempt=attempt == asked_in):
                waiting.pop((node, turn), None)
        return [question for question, _ in waiting.values()]


def how_it_stands(files: SessionFiles, question: str) -> str | None:
    """Return the type of the last event about a question: `question_asked`, `question_left` or `human_turn`."""
    with open_readonly(files) as connection:
        row = connection.execute(
            "SELECT type FROM events WHERE type IN ('question_asked', 'question_left', 'human_turn')"
            " AND ? IN (payload ->> 'id', payload ->> 'question') ORDER BY seq DESC LIMIT 1",
            (question,),
        ).fetchone()
        return None if row is None else str(row["type"])


def _is_over(kind: str, payload: str, question: Question | None, *, same_attempt: bool) -> bool:
    """Tell whether a question is not open any more after an event of its turn."""
    match kind:
        case "human_turn":
            return question is not None and question.id == event_payload(payload)["question"]
        case "turn_started":
            return not same_attempt  # it has begun anew, and will ask anew
    return True
