"""SQLite: the JSON functions that Orchestra needs, and the versions that can damage a database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from orchestra.runtime.doctor.finding import Finding, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestra.runtime.doctor.surroundings import Surroundings

JSON_SINCE = "3.38"
_AFFECTED = ((3, 7, 0), (3, 51, 3))
"""From the first version with the WAL reset bug to the first without it (https://sqlite.org/wal.html#walresetbug)."""
_BACKPORTS = ((3, 44, 6), (3, 50, 7))
"""The first mended versions of older branches."""
_SHOW = "python3 -c 'import sqlite3; print(sqlite3.sqlite_version)'"


async def check(here: Surroundings) -> AsyncIterator[Finding]:
    """Judge the SQLite of this Python."""
    del here
    yield judge(sqlite3.sqlite_version_info[:3], json=_has_json())


def judge(found: tuple[int, ...], *, json: bool) -> Finding:
    """Judge a version of SQLite.

    Args:
        found: The version.
        json: Whether it has the operator `->>`.
    """
    shown = ".".join(map(str, found))
    details = {"version": shown, "json": json, "wal_reset_bug": has_wal_reset_bug(found)}
    if not json:
        message = f"{shown} lacks the JSON operators that Orchestra needs ({JSON_SINCE} or newer has them)"
        fix = "install Orchestra with another Python; this shows the SQLite of one:"
        return Finding("sqlite", State.ERROR, message, fix, (_SHOW,), details)
    message = shown
    if has_wal_reset_bug(found):  # no warning: nothing is wrong as long as only Orchestra writes its databases
        message = (
            f"{shown}; it has the WAL reset bug (mended in 3.51.3, 3.50.7 and 3.44.6): two writers at once can damage "
            "a database. Orchestra has one writer for each of its databases, so it is not hit; let no other program "
            "write into a session.db"
        )
    return Finding("sqlite", State.OK, message, details=details)


def has_wal_reset_bug(found: tuple[int, ...]) -> bool:
    """Tell whether a version has the bug that can damage a WAL database which several processes write."""
    first, mended = _AFFECTED
    backported = any(found[:2] == since[:2] and found >= since for since in _BACKPORTS)
    return first <= found < mended and not backported


def _has_json() -> bool:
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            return bool(connection.execute("""SELECT '{"a": 1}' ->> 'a'""").fetchone()[0] == 1)
        except sqlite3.OperationalError:
            return False
