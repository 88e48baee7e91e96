"""Who can be asked: the ways to a person, and how a person's turn is taken (DESIGN §6).

A channel only carries words. What they mean, which of them only look, and that exactly one answer counts is the same
for all of them: in the process that drives a session, and in one that is attached to it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from orchestra.agents.conversation import UnknownCommandError, understand
from orchestra.errors import SessionError
from orchestra.runtime.inbox import LOOK_EVERY
from orchestra.runtime.stopping import cut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from orchestra.agents.conversation import Question
    from orchestra.runtime.inbox import Inbox

HELP = """\
Write to the agent, or:
  /approve [why]  agree with what it says, and end its turn
  /reject [why]   send it back, with your reason
  /done [what]    end its turn with neither
  /undo           take back your last message, and what was done on it, files too
  /diff           what the agent has changed, and what changed since you decided
  /help           this text
A message that begins with a slash is written with two."""


class Channel(Protocol):
    """A way to a person."""

    @property
    def name(self) -> str:
        """How an answer that came through it is called: `terminal`, `input`."""

    async def is_open(self) -> bool:
        """Tell whether somebody may still answer through it; waits where only what comes can tell."""

    async def ask(self, question: Question) -> str | None:
        """Let the person answer, and return the words as they are.

        The question itself is shown by whoever shows the session's events. Several may be open at once: they are
        put one after another, and the person sees whose they are. Cancelled, where somebody else has answered, it
        stays usable for the next question.

        Returns:
            None: the person has left; the channel is closed.
        """

    def settled(self, question: Question) -> None:
        """Put the next question: this one has its answer, or is not to be answered through this channel any more.

        From `ask` until then a question keeps the channel, so that the line after a `/diff` is for the same agent.
        """

    async def tell(self, text: str) -> None:
        """Show something to this person alone."""


async def take_turn(
    channel: Channel, question: Question, *, give: Callable[[str], bool], diff: Callable[[Question], Awaitable[str]]
) -> bool:
    """Have a person answer a question; commands that only look are served, and words that mean nothing refused.

    Args:
        channel: The way to the person.
        question: What is asked.
        give: Puts the answer into the inbox; False: somebody was faster.
        diff: Describes what has changed.

    Returns:
        False: the person has left.
    """
    try:
        return await _until_answered(channel, question, give=give, diff=diff)
    finally:
        channel.settled(question)


async def _until_answered(
    channel: Channel, question: Question, *, give: Callable[[str], bool], diff: Callable[[Question], Awaitable[str]]
) -> bool:
    while True:
        line = await channel.ask(question)
        if line is None:
            return False
        try:
            said = understand(line)
            is_first = said is not None and give(line.strip())
        except (UnknownCommandError, SessionError) as error:  # no command, or too long: it may be said otherwise
            await channel.tell(f"{error.message}: {error.hint}")
            continue
        if said is not None:
            if not is_first:
                await channel.tell("somebody else has answered already; yours does not count")
            return True
        if line.strip():
            await channel.tell(await diff(question) if line.strip().startswith("/diff") else HELP)


class People:
    """Everybody who may answer the questions of a session that this process drives.

    Args:
        inbox: Where answers arrive.
        channels: The ways to persons from this process; others answer by the inbox.
        diff: Describes what has changed, for `/diff`.
    """

    def __init__(
        self,
        inbox: Inbox,
        channels: Sequence[Channel] = (),
        *,
        diff: Callable[[Question], Awaitable[str]],
    ) -> None:
        self._inbox = inbox
        self._channels = tuple(channels)
        self._diff = diff

    async def are_there(self) -> bool:
        """Tell whether anybody may answer now."""
        if self._inbox.somebody_is_present():
            return True
        return any([await channel.is_open() for channel in self._channels])

    async def wait_for(self, question: Question) -> bool:
        """Wait until a question is answered; False: there is nobody, or nobody any more."""
        talks = [asyncio.create_task(self._talk(channel, question)) for channel in self._channels]
        try:
            while self._inbox.answer(question.id) is None:
                talking = [talk for talk in talks if not talk.done()]
                for talk in talks:
                    if talk.done():
                        talk.result()  # a bug in a channel is told, not waited for
                if not talking and not self._inbox.somebody_is_present():
                    return self._inbox.answer(question.id) is not None
                if talking:
                    await asyncio.wait(talking, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(LOOK_EVERY)
            return True
        finally:
            await cut(*talks)

    async def _talk(self, channel: Channel, question: Question) -> None:
        def give(line: str) -> bool:
            return self._inbox.give(question.id, line, by=channel.name)

        await take_turn(channel, question, give=give, diff=self._diff)
