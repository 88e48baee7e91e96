"""The event log: everything that happens in a session, in one order (DESIGN §6).

`emit` never waits: events get their number at once and are written in batches, at the latest before the next
checkpoint. Live views listen; nothing prints on its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.spending import Usage
from orchestra.runtime.store import now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import aiosqlite

MAX_TEXT = 30_000
"""Characters of one text in a payload, which is as many as a tool may return; what is longer is cut, and says so."""
MAX_SPOKEN = 1_000_000
"""Characters of what an agent and a person say to each other: who decides on a text must be able to read all of it."""
SPOKEN = frozenset({"text_delta", "question_asked", "human_turn"})
MAX_ITEMS = 1_000
"""Items of one list or mapping in a payload."""
MAX_DEPTH = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    seq: int
    time: str
    type: str
    node: str | None = None
    turn: int | None = None
    attempt: int | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return a line of `orchestra log --events --json`."""
        return {name: getattr(self, name) for name in ("seq", "time", "node", "turn", "attempt", "type", "payload")}


class ObservabilityLogger:
    """Writes the events of a session and keeps its usage.

    Args:
        connection: The session's writing connection.
        lock: The saver's lock: every write is a whole transaction under it.
        listener: Called with each event as it happens; must not block.
        redact: Takes secrets out of a text.
    """

    def __init__(
        self,
        connection: aiosqlite.Connection,
        lock: asyncio.Lock,
        listener: Callable[[Event], None] | None = None,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._listener = listener
        self._told: list[Callable[[Event], None]] = []
        self._redact = redact
        self._pending: list[Event] = []
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._seq = 0
        self._closing = False
        self.usage = Usage()

    async def start(self) -> None:
        """Go on after the events that are there already."""
        async with self._lock:
            ((last,),) = await self._connection.execute_fetchall("SELECT COALESCE(MAX(seq), 0) FROM events")
            calls = await self._connection.execute_fetchall("SELECT payload FROM events WHERE type = 'model_ended'")
        self._seq = last
        for (payload,) in calls:
            self.usage.add(json.loads(payload))
        self._writer = asyncio.create_task(self._write_pending(), name="orchestra-events")

    async def stop(self) -> None:
        """Write what is left and end the writer."""
        if self._writer is not None:
            # Told to end, not cancelled: a cancelled write would lose its batch.
            self._closing = True
            self._wake.set()
            await self._writer
            self._writer = None
        await self.flush()

    def emit(
        self,
        type: str,  # noqa: A002 - the event's own word
        payload: Mapping[str, Any] | None = None,
        *,
        node: str | None = None,
        turn: int | None = None,
        attempt: int | None = None,
    ) -> None:
        """Log an event; the payload must be JSON."""
        self._seq += 1
        payload = payload or {}
        most = MAX_SPOKEN if type in SPOKEN else MAX_TEXT
        event = Event(self._seq, now(), type, node, turn, attempt, _capped(dict(payload), self._redact, most))
        if type == "model_ended":
            self.usage.add(payload)
        self._pending.append(event)
        self._wake.set()
        failpoint(f"event-{type}")
        if self._listener is not None:
            try:
                self._listener(event)
            except Exception:
                # Whoever looks on must not break the session: a closed terminal, a pipe whose reader is gone.
                logger.warning("the listener failed and gets no more events", exc_info=True)
                self._listener = None

    def when_written(self, tell: Callable[[Event], None]) -> None:
        """Have something called with each event once it is in the database, where no kill takes it back.

        Args:
            tell: Must neither block nor fail.
        """
        self._told.append(tell)

    async def turns_since(self, node: str, turn: int) -> tuple[tuple[str, int], ...]:
        """Return the turns of others that have ended since a turn did, in their order."""
        await self.flush()
        async with self._lock:
            rows = await self._connection.execute_fetchall(
                "SELECT node, turn, MAX(seq) FROM events WHERE type = 'turn_ended' AND node != ? AND seq > "
                "(SELECT COALESCE(MAX(seq), 0) FROM events WHERE type = 'turn_ended' AND node = ? AND turn = ?) "
                "GROUP BY node, turn ORDER BY MAX(seq)",
                (node, node, turn),
            )
        return tuple((str(row[0]), int(row[1])) for row in rows)

    async def flush(self) -> None:
        """Write every event emitted so far, in one transaction."""
        if not self._pending:
            return
        async with self._lock:
            batch = list(self._pending)
            failpoint("events-due")
            writing = asyncio.ensure_future(self._write(batch))
            try:
                await asyncio.shield(writing)
            except BaseException:
                # Cancelled, it may have been written nevertheless, and must not be written once more.
                await asyncio.wait([writing])
                if writing.cancelled() or writing.exception() is not None:
                    await self._connection.rollback()
                else:
                    self._put_away(batch)
                raise
            self._put_away(batch)
        failpoint("events-written")

    def _put_away(self, batch: list[Event]) -> None:
        del self._pending[: len(batch)]
        for event in batch if self._told else ():
            for tell in self._told:
                tell(event)

    async def _write(self, batch: list[Event]) -> None:
        await self._connection.executemany(
            "INSERT INTO events (seq, time, node, turn, attempt, type, payload) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    event.seq,
                    event.time,
                    event.node,
                    event.turn,
                    event.attempt,
                    event.type,
                    json.dumps(event.payload, ensure_ascii=False, default=str),
                )
                for event in batch
            ],
        )
        usage = json.dumps(self.usage.as_json())
        await self._connection.execute("UPDATE sessions SET usage = ?, updated_at = ?", (usage, now()))
        await self._connection.commit()

    async def _write_pending(self) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            # What could not be written stays pending. The next checkpoint writes it, or fails as it must.
            with contextlib.suppress(sqlite3.Error):
                await self.flush()


def _capped(value: Any, redact: Callable[[str], str], most: int, depth: int = 0) -> Any:
    """Make a payload fit for the log: JSON, without secrets, texts and lists cut, nothing that SQLite refuses."""
    if value is None or isinstance(value, bool | int | float):
        # Models write NaN and Infinity, which Python reads and JSON does not have.
        return value if not isinstance(value, float) or math.isfinite(value) else repr(value)
    if isinstance(value, dict | list | tuple) and depth < MAX_DEPTH:
        left = len(value) - MAX_ITEMS
        if isinstance(value, dict):
            pairs = list(value.items())[:MAX_ITEMS]
            cut = {_text(str(key), redact, most): _capped(item, redact, most, depth + 1) for key, item in pairs}
            return cut | {"…": f"{left} more"} if left > 0 else cut
        items = [_capped(item, redact, most, depth + 1) for item in value[:MAX_ITEMS]]
        return [*items, f"… {left} more"] if left > 0 else items
    try:
        return _text(value if isinstance(value, str) else repr(value), redact, most)
    except RecursionError:
        return f"<{type(value).__name__}, nested too deeply>"


def _text(text: str, redact: Callable[[str], str], most: int) -> str:
    # Names of files may hold bytes that are no UTF-8, as lone surrogates.
    text = redact(text).encode("utf-8", "backslashreplace").decode()
    if len(text) <= most:
        return text
    tail = most // 4  # how a command ended stands at the end
    return f"{text[: most - tail]}[… {len(text) - most} characters cut …]{text[-tail:]}"
