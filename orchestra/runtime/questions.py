"""The open questions of a session that this process drives: asked once, answered once, told to whoever looks on."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestra.agents.conversation import attempt_id, meant
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.stopping import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from orchestra.agents.context import TurnRequest
    from orchestra.agents.conversation import Question
    from orchestra.runtime.inbox import Answer, Inbox
    from orchestra.runtime.observability import ObservabilityLogger
    from orchestra.runtime.people import People
    from orchestra.runtime.session_row import SessionRow
    from orchestra.runtime.stopping import Countdown, StopGate

    Emit = Callable[..., None]


class Questions:
    """Asks the people of a session what its agents want to know.

    Args:
        inbox: Where answers arrive.
        people: Who may answer.
        log: The session's events: a question is in it before it can be answered.
        row: The session's row, which says who is waited for.
        gate: Closed when the session is to stop.
        countdown: The session's time, which does not run while a person thinks.
    """

    def __init__(
        self,
        inbox: Inbox,
        people: People,
        log: ObservabilityLogger,
        row: SessionRow,
        gate: StopGate,
        countdown: Countdown,
    ) -> None:
        self._inbox = inbox
        self._people = people
        self._log = log
        self._row = row
        self._gate = gate
        self._countdown = countdown
        self._open: dict[str, Question] = {}

    async def is_heard(self, question: str) -> bool:
        """Tell whether a question has its answer, or somebody is there who may give one; or the session is to stop."""
        if self._inbox.answer(question) is not None:
            return True
        return await self._unless_stopped(self._people.are_there()) is not False

    def were_answered(self, turn: TurnRequest) -> bool:
        """Tell whether a person has said anything in an attempt of a turn."""
        return self._inbox.heard_in(attempt_id(turn.node, turn.number, turn.attempt))

    async def ask(self, question: Question, emit: Emit) -> Answer | None:
        """Have a question answered; None: nobody is there, or nobody any more.

        Args:
            question: What is asked.
            emit: Logs an event of the turn.
        """
        if self._inbox.answer(question.id) is None:
            emit("question_asked", **question.as_json())
            failpoint("question-asked")
            if not await self._wait_for(question):
                emit("question_left", question=question.id)
                return None
        answer = self._inbox.answer(question.id)
        if answer is not None:
            emit("human_turn", question=question.id, kind=meant(answer.text).kind, text=answer.text, by=answer.by)
            failpoint("answer-taken")
        return answer

    async def _wait_for(self, question: Question) -> bool:
        with self._noted(question), self._countdown.stopped():
            await self._log.flush()
            await self._tell()
            is_answered = await self._unless_stopped(self._people.wait_for(question)) is True
        if is_answered:
            await self._tell()  # else the session's row goes on saying who is waited for
        return is_answered

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, bool]) -> bool | None:
        """Wait for people as long as the session goes on; None: it is to stop."""
        answered = asyncio.ensure_future(waiting)
        stopped = asyncio.ensure_future(self._gate.closed())
        try:
            await asyncio.wait([answered, stopped], return_when=asyncio.FIRST_COMPLETED)
            return answered.result() if answered.done() else None
        finally:
            await cut(answered, stopped)

    @contextmanager
    def _noted(self, question: Question) -> Iterator[None]:
        self._open[question.id] = question
        try:
            yield
        finally:
            del self._open[question.id]

    async def _tell(self) -> None:
        first = next(iter(self._open.values()), None)
        await self._row.wait_for(None if first is None else {"agent": first.agent, "text": first.text})
