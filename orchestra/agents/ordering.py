"""The order of tool calls: LangGraph runs the calls of one reply at once, files need them one after another."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence


class CallOrder:
    """Lets the calls of one model reply run as if in their order.

    Calls that may write run alone; calls that only read run beside each other, but not before an earlier write.

    Args:
        calls: The ids of the reply's calls, in order, each with whether it may write.
        answered: Ids of calls that won't come: they were answered before a resume, or are no tools of ours.
    """

    def __init__(self, calls: Sequence[tuple[str, bool]], answered: Collection[str]) -> None:
        self._writes = dict(calls)
        self._ended = {call: asyncio.Event() for call, _ in calls}
        for call in self._ended:
            if call in answered:
                self._ended[call].set()

    @asynccontextmanager
    async def place_of(self, call: str) -> AsyncIterator[None]:
        """Wait until a call may run; leaving lets the next ones go, whatever happened."""
        try:
            for earlier in self._writes:
                if earlier == call:
                    break
                if self._writes[call] or self._writes[earlier]:
                    await self._ended[earlier].wait()
            yield
        finally:
            self._ended[call].set()
