"""The event log of a session as it grows, read by processes that do not drive it.

They look for what is new: the database is SQLite's, which calls nobody. As many as like may look on.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from orchestra.runtime.asking import open_questions
from orchestra.runtime.driver_lock import is_driven
from orchestra.runtime.event_log import ALL, Selection, last_event, next_events, read_event
from orchestra.runtime.observability import Event
from orchestra.runtime.store import ENDED, open_readonly, read_session

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncGenerator, Collection, Sequence

    from orchestra.runtime.store import SessionFiles

LOOK_EVERY = 0.15
"""Seconds between two looks."""
_TALK = frozenset({"question_asked", "human_turn"})
_TURN = ("turn_started", "turn_ended", "turn_failed")
_LAST = 2**62
_REPLY = ("model_started", "model_ended", "model_failed", "turn_started", "turn_ended", "turn_failed")


Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class History:
    """What has happened in a session, cut to what one wants to read."""

    events: Sequence[Event]
    left_out: int
    """Events that one would have seen while they happened, too."""
    last: int
    """The number of the last event, shown or not."""


def read_history(files: SessionFiles, *, quiet: Collection[str], lines: int, talks: int) -> History:
    """Read the last conversations and the last of everything else.

    A reply that is being written is there as far as it has been written, and each question and each answer once.

    Args:
        files: The session's.
        quiet: Types of events that are not worth a line.
        lines: Events beside the conversations.
        talks: Questions, with their answers.

    Raises:
        SessionError: The session's database can't be read.
    """
    is_over = read_session(files).status in ENDED
    still_open = {question.id for question in open_questions(files)}
    with open_readonly(files) as connection:
        rows = connection.execute("SELECT seq, node, type FROM events ORDER BY seq").fetchall()
        told = _told_once(connection, None if is_over else still_open)
        others = [row["seq"] for row in rows if row["type"] not in {*_TALK, "text_delta", *quiet}]
        kept = {*_last(others, lines), *(seq for talk in _last(told, talks) for seq in talk)}
        left_out = len(others) + sum(map(len, told)) - len(kept)
        kept |= _being_written(rows)
        return History(_found(connection, kept), left_out, rows[-1]["seq"] if rows else 0)


def read_state(
    files: SessionFiles, *, lasting: Collection[str], passing: Collection[str] = (), before: int | None = None
) -> list[Event]:
    """Read what tells how a session stands: of a long one only a small part.

    Args:
        files: The session's.
        lasting: Types of events that always count.
        passing: Types of events that count while a turn is under way: of it, and of text only the reply being written.
        before: The number of the first event that does not count.

    Raises:
        SessionError: The session's database can't be read.
    """
    with open_readonly(files) as connection:
        query = "SELECT seq, node, type FROM events WHERE seq < ? ORDER BY seq"
        rows = connection.execute(query, (_LAST if before is None else before,)).fetchall()
        kept = {row["seq"] for row in rows if row["type"] in lasting}
        return _found(connection, kept | (_under_way(rows, passing) if passing else set()))


def _under_way(rows: Sequence[sqlite3.Row], passing: Collection[str]) -> set[int]:
    """Return the numbers of the events of turns that have begun and not ended."""
    doing: dict[str, list[int]] = {}
    for row in rows:
        kind = row["type"]
        if kind in _TURN or kind.startswith("session_"):
            for node in [row["node"]] if row["node"] is not None else [*doing]:
                doing[node] = []
        elif kind in passing and kind != "text_delta" and row["node"] is not None:
            doing.setdefault(row["node"], []).append(row["seq"])
    texts = _being_written(rows) if "text_delta" in passing else set()
    return texts | {seq for numbers in doing.values() for seq in numbers}


def _found(connection: sqlite3.Connection, numbers: Collection[int]) -> list[Event]:
    found = connection.execute(
        "SELECT * FROM events WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq", (json.dumps([*numbers]),)
    )
    return [_event(row) for row in found]


def _last(items: Sequence[Item], count: int) -> Sequence[Item]:
    return items[max(len(items) - count, 0) :]


def _told_once(connection: sqlite3.Connection, still_open: Collection[str] | None) -> list[list[int]]:
    """Return for each question the numbers of its events: once asked, once answered.

    Without those that nobody has answered or will answer; unless the session is over (None): they are its last words.
    """
    rows = connection.execute(
        "SELECT seq, type, coalesce(payload ->> 'question', payload ->> 'id') AS id FROM events"
        " WHERE type IN ('question_asked', 'human_turn') ORDER BY seq"
    ).fetchall()
    answered = {row["id"] for row in rows if row["type"] == "human_turn"}
    talks: dict[str, dict[str, int]] = {}
    for row in rows:
        if still_open is None or row["id"] in answered or row["id"] in still_open:
            talks.setdefault(row["id"], {}).setdefault(row["type"], row["seq"])
    return [[*talk.values()] for talk in talks.values()]


def _being_written(rows: Sequence[sqlite3.Row]) -> set[int]:
    """Return the numbers of the events of replies that have begun and not ended."""
    pieces: dict[str, list[int]] = {}
    for row in rows:
        if row["type"] in _REPLY:
            pieces[row["node"]] = [row["seq"]] if row["type"] == "model_started" else []
        elif row["type"] == "text_delta" and pieces.get(row["node"]):
            pieces[row["node"]].append(row["seq"])
    return {seq for reply in pieces.values() for seq in reply}


async def follow(files: SessionFiles, after: int, selection: Selection = ALL) -> AsyncGenerator[list[Event], None]:
    """Yield what is new, again and again, until nobody drives the session and all has been read.

    Args:
        files: The session's.
        after: The number of the last event that is known.
        selection: Which events.

    Yields:
        Events, in their order; none, where a look has found nothing new.

    Raises:
        SessionError: The session's database can't be read.
    """
    driven = is_driven(files.lock)
    # At rest nothing is opened for long: SQLite would leave files beside the database.
    with open_readonly(files, lasting=driven) as connection:
        while True:
            last = last_event(connection)
            is_news = after < last
            events, after = next_events(connection, selection, after, last)
            yield [Event(**event) for event in events]
            if not is_news and not driven:
                return
            if not is_news:
                await asyncio.sleep(LOOK_EVERY)
            driven = driven and is_driven(files.lock)  # before the next look, which then is the last one


def _event(row: sqlite3.Row) -> Event:
    return Event(**read_event(row))
