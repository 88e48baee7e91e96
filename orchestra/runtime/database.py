"""A session's database as its one writer, the driver, has it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import aiosqlite

from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.session_row import SessionRow
from orchestra.runtime.store import SessionFiles, SessionRecord, schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BUSY_TIMEOUT = 30.0
"""Seconds that a write waits for another program that has locked the database."""


async def create_database(record: SessionRecord) -> None:
    """Make a session's database, which appears under its name when it is complete."""
    draft = record.files.draft
    draft.touch(mode=0o600)
    # With a rollback journal all of it is in the one file that is renamed. A WAL is emptied only when the connection
    # closes, and on a full disk SQLite leaves it behind without a word.
    async with _connected(draft, journal="DELETE") as connection:
        await connection.executescript(schema("session") + schema("events"))
        await SessionRow(connection, asyncio.Lock()).create(record)
    failpoint("database-drafted")
    draft.rename(record.files.database)


@asynccontextmanager
async def open_database(files: SessionFiles) -> AsyncIterator[aiosqlite.Connection]:
    """Open a session's database as its one writer."""
    async with _connected(files.database) as connection:
        try:
            yield connection
        finally:
            # SQLite does this only for whoever closes it last, and somebody may look on; but who reads for long is
            # not waited for.
            with suppress(sqlite3.Error):
                await connection.execute("PRAGMA busy_timeout = 0")
                await connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@asynccontextmanager
async def _connected(path: Path, *, journal: str = "WAL") -> AsyncIterator[aiosqlite.Connection]:
    connection = await aiosqlite.connect(path, timeout=BUSY_TIMEOUT)
    try:
        await connection.execute(f"PRAGMA journal_mode = {journal}")
        await connection.execute("PRAGMA synchronous = FULL")
        yield connection
    finally:
        await connection.close()
