"""Looking on at a session that another process drives, and answering what it asks (DESIGN §6, `attach`)."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING

from orchestra.errors import OrchestraError
from orchestra.runtime.asking import open_questions
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.following import follow
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.people import take_turn
from orchestra.runtime.stopping import cut
from orchestra.runtime.store import read_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.agents.conversation import Question
    from orchestra.runtime.observability import Event
    from orchestra.runtime.people import Channel
    from orchestra.runtime.store import SessionFiles

WAY = "attach"
"""How an answer is called that was given while watching."""

_CHANGING = frozenset({"question_asked", "human_turn", "turn_started", "turn_ended", "turn_failed"})
"""Events after which other questions may be open than before."""


class Watch:
    """Shows a session's events as they come, and puts its questions to the person here.

    Whoever drives the session waits for an answer in place as long as somebody watches who may give one.

    Args:
        files: The session's.
        show: Called with each event.
        channel: The way to the person; None: who only looks on.
        after: The number of the last event that was shown already.
    """

    def __init__(
        self, files: SessionFiles, show: Callable[[Event], None], channel: Channel | None, *, after: int = 0
    ) -> None:
        self._files = files
        self._inbox = Inbox(files)
        self._show = show
        self._channel = channel
        self._last = after
        self._open: list[Question] = []
        self._talks: dict[str, asyncio.Task[bool]] = {}

    async def until_nobody_drives(self) -> bool:
        """Watch until nobody drives the session any more; False: the person has left before."""
        self._open = open_questions(self._files)
        with ExitStack() as presence:
            coming = asyncio.ensure_future(self._comes(presence))
            try:
                async with aclosing(follow(self._files, self._last)) as looks:
                    async for events in looks:
                        self._take(events)
                        channel = coming.result() if coming.done() else None
                        if channel is not None and not await self._put_questions(channel):
                            return False
                return True
            finally:
                await cut(coming, *self._talks.values())
                self._talks.clear()

    async def _comes(self, presence: ExitStack) -> Channel | None:
        """Be there as soon as it is known that somebody is; None: nobody is."""
        if self._channel is None or not await self._channel.is_open():
            return None
        presence.enter_context(self._inbox.present())
        return self._channel

    def _take(self, events: list[Event]) -> None:
        for event in events:
            self._last = event.seq
            self._show(event)
        if any(event.type in _CHANGING for event in events):
            self._open = open_questions(self._files)

    async def _put_questions(self, channel: Channel) -> bool:
        """Put what is open, and withdraw what others have answered; False: the person has left."""
        unanswered = {question.id: question for question in self._open if self._inbox.answer(question.id) is None}
        for name, talk in list(self._talks.items()):
            if talk.done():
                if not talk.result():
                    return False
            elif name not in unanswered:
                await cut(talk)
                del self._talks[name]
        for name, question in unanswered.items():
            if name not in self._talks:
                self._talks[name] = asyncio.create_task(self._talk(channel, question))
        return True

    async def _talk(self, channel: Channel, question: Question) -> bool:
        def give(line: str) -> bool:
            given = self._inbox.give(question.id, line, by=WAY)
            failpoint("attached-answered")
            return given

        return await take_turn(channel, question, give=give, diff=self._diff)

    async def _diff(self, question: Question) -> str:
        from orchestra.runtime.changes import describe
        from orchestra.runtime.git import GitManager
        from orchestra.runtime.workspace import Workspace

        git = GitManager()
        try:
            workspace = await Workspace.reopen(git, read_session(self._files).workspace)
            return await describe(git, workspace, question)
        except OrchestraError as error:
            return f"the changes can't be shown: {error.message}"
