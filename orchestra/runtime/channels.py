"""A way to a person that needs no terminal: lines that are piped in (DESIGN §6)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.agents.conversation import Question


class Bell:
    """Wakes those who wait for a change, in whichever event loop they are."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Wait until it rings."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def ring(self) -> None:
        """Wake everybody who waits now."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


class OneAtATime:
    """Puts questions one after another, in the order in which they came."""

    def __init__(self) -> None:
        self._order: list[str] = []
        self._changed = Bell()

    async def enter(self, question: Question) -> None:
        """Wait until a question is the one that is put; it stays so until it is settled."""
        if question.id not in self._order:
            self._order.append(question.id)
        try:
            while self._order[0] != question.id:
                await self._changed.wait()
        except asyncio.CancelledError:
            self.settle(question)
            raise

    def settle(self, question: Question) -> None:
        """Put the next question."""
        with suppress(ValueError):
            self._order.remove(question.id)
        self._changed.ring()


class PipedLines:
    """Takes each line of a stream as a person's turn; blank lines are none.

    Args:
        descriptor: The stream: a pipe, a socket or a file.
        show: Shows a text to whoever reads what this process says.
    """

    name = "input"

    def __init__(self, descriptor: int, *, show: Callable[[str], object]) -> None:
        self._show = show
        self._order = OneAtATime()
        self._lines = _LineReader(descriptor)

    async def is_open(self) -> bool:
        """Wait for a line that is not blank, or for the end: an empty stream is nobody."""
        return await self._lines.look() is not None

    async def ask(self, question: Question) -> str | None:
        """Take the next line that is not blank; see `Channel`."""
        await self._order.enter(question)
        return await self._lines.next()

    def settled(self, question: Question) -> None:
        """Take the next line for another question; see `Channel`."""
        self._order.settle(question)

    async def tell(self, text: str) -> None:
        """Show something; see `Channel`."""
        self._show(text)


class _LineReader:
    """Reads lines when they are asked for.

    In a thread, since files can't be waited for, and in one of its own: a process ends without waiting for it, while a
    thread of asyncio's would hold up the end until somebody closes the pipe.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._bytes = b""
        self._lock = threading.Lock()
        self._lines: deque[str] = deque()
        self._ended = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._wanted = threading.Semaphore(0)
        self._is_wanted = False
        self._thread: threading.Thread | None = None

    async def look(self) -> str | None:
        """Return the next line that is not blank, and leave it there; None: there is none."""
        while (arrived := self._want()) is not None:
            await arrived.wait()
        return self._lines[0] if self._lines else None

    async def next(self) -> str | None:
        """Take the next line that is not blank; None: there is none. Cancelled, it loses no line."""
        found = await self.look()
        return None if found is None else self._lines.popleft()

    def _want(self) -> asyncio.Event | None:
        """Have a line read, and return what tells that it has come; None: one is there, or the end."""
        with self._lock:
            if self._lines or self._ended:
                return None
            arrived = asyncio.Event()
            self._waiting.append((asyncio.get_running_loop(), arrived))
            if not self._is_wanted:
                self._is_wanted = True
                self._wanted.release()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="orchestra-input", daemon=True)
            self._thread.start()
        return arrived

    def _work(self) -> None:
        line: str | None = ""
        while line is not None:
            self._wanted.acquire()
            line = self._read()
            with self._lock:
                self._is_wanted = False
                self._ended = line is None
                if line is not None and line.strip():
                    self._lines.append(line)
                waiting, self._waiting = self._waiting, []
            for loop, arrived in waiting:
                with suppress(RuntimeError):  # the loop is closed; whoever comes next finds the line
                    loop.call_soon_threadsafe(arrived.set)

    def _read(self) -> str | None:
        pieces = []
        while b"\n" not in self._bytes:
            pieces.append(self._bytes)
            try:
                self._bytes = os.read(self._descriptor, 65_536)
            except OSError:
                self._bytes = b""
            if not self._bytes:
                break
        line, newline, rest = self._bytes.partition(b"\n")
        whole = b"".join((*pieces, line))
        self._bytes = rest
        return whole.decode("utf-8", "replace").removesuffix("\r") if whole or newline else None
