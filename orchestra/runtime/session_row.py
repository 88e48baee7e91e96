"""The session's row as its driver writes it; everybody else reads it (`store`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.store import VERSION, now

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiosqlite

    from orchestra.runtime.store import SessionRecord, Status


class SessionRow:
    """The driver's hand on the session's row; every change is one transaction under the saver's lock.

    Args:
        connection: The session's writing connection.
        lock: The saver's lock.
        redact: Takes secrets out of what agents say.
    """

    def __init__(self, connection: aiosqlite.Connection, lock: Any, redact: Callable[[str], str] = str) -> None:
        self._connection = connection
        self._lock = lock
        self._redact = redact

    async def create(self, record: SessionRecord) -> None:
        """Write the row of a new session."""
        fields = {
            "session_id": record.session_id,
            "version": VERSION,
            "pipeline": record.pipeline,
            "status": str(record.status),
            "created_at": record.created_at,
            "updated_at": record.updated_at,
            **{key: json.dumps(getattr(record, key)) for key in ("inputs", "workspace", "settings", "usage")},
        }
        names, marks = ", ".join(fields), ", ".join("?" * len(fields))
        async with self._lock:
            statement = f"INSERT INTO sessions ({names}) VALUES ({marks})"  # noqa: S608 - fixed names
            await self._connection.execute(statement, tuple(fields.values()))
            await self._connection.commit()

    async def set(
        self,
        status: Status,
        *,
        error: dict[str, Any] | None = None,
        waiting_for: dict[str, Any] | None = None,
    ) -> None:
        """Write the session's state."""
        failpoint("status-due")
        async with self._lock:
            await self._connection.execute(
                "UPDATE sessions SET status = ?, updated_at = ?, error = ?, waiting_for = ?",
                (str(status), now(), _json(error), _json(self._without_secrets(waiting_for))),
            )
            await self._connection.commit()
        failpoint("status-written")

    async def wait_for(self, waiting_for: dict[str, Any] | None) -> None:
        """Write whom a running session waits for."""
        async with self._lock:
            await self._connection.execute(
                "UPDATE sessions SET updated_at = ?, waiting_for = ?",
                (now(), _json(self._without_secrets(waiting_for))),
            )
            await self._connection.commit()

    def _without_secrets(self, waiting_for: dict[str, Any] | None) -> dict[str, Any] | None:
        return waiting_for and {**waiting_for, "text": self._redact(waiting_for["text"])}


def _json(value: dict[str, Any] | None) -> str | None:
    # In ASCII: a path may hold bytes that are no UTF-8, and SQLite takes no lone surrogates.
    return None if value is None else json.dumps(value)
