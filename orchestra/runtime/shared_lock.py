"""A lock for a worktree: one writer, or several readers of the same commit."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class SharedLock:
    """A lock that one writer holds, or several readers of the same commit; served in the order of asking."""

    def __init__(self) -> None:
        self._gate = asyncio.Lock()
        self._readers = 0
        self._commit: str | None = None
        """What the readers read."""
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold it alone."""
        async with self._gate:
            await self._idle.wait()
            yield

    @asynccontextmanager
    async def shared(self, commit: str, prepare: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
        """Hold it beside other readers of a commit.

        Args:
            commit: What is to be read.
            prepare: Called while nobody else is in: brings the files to the commit.
        """
        async with self._gate:
            if commit != self._commit:
                await self._idle.wait()
            if not self._readers:
                await prepare()
            self._commit = commit
            self._readers += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._idle.set()
