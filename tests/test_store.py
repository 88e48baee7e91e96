"""Sessions as other processes read them: a damaged one is an error of its own, and of nobody else."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import SessionError
from orchestra.runtime.event_log import read_events
from orchestra.runtime.store import (
    SessionFiles,
    SessionRecord,
    find_session,
    list_sessions,
    read_checkpoints,
    read_session,
)
from tests.session_support import agent, chain, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop
    from tests.pastkit import Past


async def session(workshop: Workshop) -> SessionFiles:
    pipeline = {"name": "x", "agents": {"one": agent()}, "graph": chain("one")}
    result = await workshop.run(workshop.pipeline(pipeline, script={"one": [[says("1")]]}))
    return find_session(workshop.repo.path, result.record.session_id)


def damage(files: SessionFiles, statement: str) -> None:
    with closing(sqlite3.connect(files.database)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sessions SET status = 'exploded'",
        "UPDATE sessions SET usage = '{\"input_tokens\"'",
        "UPDATE sessions SET usage = json_set(usage, '$.input_tokens', 'x')",
        "UPDATE sessions SET settings = '[]'",
        "UPDATE sessions SET settings = '{\"directory\": 3}'",
        'UPDATE sessions SET workspace = \'{"repo": "path"}\'',
        "UPDATE sessions SET settings = json_set(settings, '$.forked_from', 'x')",
        "UPDATE sessions SET workspace = json_set(workspace, '$.repo', 5)",
        "UPDATE sessions SET error = '" + "[" * 100_000 + "'",
        "UPDATE sessions SET created_at = x'ff00'",
        "UPDATE sessions SET pipeline = CAST(x'ff' AS TEXT)",
        "UPDATE sessions SET version = 'one'",
        "ALTER TABLE sessions DROP COLUMN inputs",
        "DROP TABLE sessions",
    ],
)
async def test_one_damaged_session_does_not_hide_the_others(workshop: Workshop, statement: str) -> None:
    whole, damaged = await session(workshop), await session(workshop)
    damage(damaged, statement)

    record, error = list_sessions(workshop.repo.path)

    assert isinstance(record, SessionRecord)
    assert record.session_id == whole.session_id
    assert isinstance(error, SessionError)
    assert error.code == "database-unreadable"
    assert str(damaged.database) in error.message
    assert error.hint


async def test_damaged_rows_of_the_log_are_said_to_be_unreadable(workshop: Workshop) -> None:
    files = await session(workshop)
    damage(files, "UPDATE checkpoints SET metadata = '{}' WHERE rowid = 1")
    damage(files, "UPDATE events SET payload = '{' WHERE seq = 2")

    for read in (read_checkpoints, lambda files: list(read_events(files))):
        with pytest.raises(SessionError) as caught:
            read(files)
        assert caught.value.code == "database-unreadable"


async def test_events_that_were_read_half_way_can_be_put_away_by_any_thread(workshop: Workshop) -> None:
    """As the collector does with those that hang in a traceback."""
    events = read_events(await session(workshop))
    next(events)

    with ThreadPoolExecutor(1) as other:
        other.submit(events.close).result()  # type: ignore[attr-defined]  # it is a generator


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repos", "[]"),
        ("changed", '["elsewhere"]'),
        ("ended", "[{}]"),
        ("ended", '[{"agent": "one", "turn": "x"}]'),
        ("next", "5"),
        ("agent", "{}"),
        ("created_at", "5"),
    ],
)
async def test_a_checkpoint_of_another_shape_is_an_error_of_its_session(
    past: Past, tmp_path: Path, field: str, value: str
) -> None:
    files = SessionFiles(tmp_path)
    shutil.copy(past.files.database, files.database)
    with closing(sqlite3.connect(files.database)) as connection:
        statement = "UPDATE checkpoints SET metadata = json_set(CAST(metadata AS TEXT), ?, json(?))"
        connection.execute(statement, (f"$.orchestra.{field}", value))
        connection.commit()

    with pytest.raises(SessionError) as caught:
        read_checkpoints(files)
    assert caught.value.code == "database-unreadable"


async def test_a_database_that_can_not_be_read_is_closed_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = await session(workshop)
    files.database.write_bytes(b"no database" * 1000)
    connect = sqlite3.connect
    opened: list[sqlite3.Connection] = []

    def remember(*args: Any, **more: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **more))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    with pytest.raises(SessionError) as caught:
        read_session(files)

    assert caught.value.code == "database-unreadable"
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


async def test_reading_a_session_at_rest_leaves_no_file_beside_its_database(workshop: Workshop) -> None:
    """SQLite makes a `-wal` and a `-shm` even to read; made by root they would keep the user from resuming."""
    files = await session(workshop)
    before = sorted(files.directory.iterdir())

    assert read_session(files).status == "completed"
    assert read_checkpoints(files)

    assert sorted(files.directory.iterdir()) == before
