"""The event log of a session as other processes read it (DESIGN §6)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.runtime.damage import damage_told
from orchestra.runtime.spending import Spending
from orchestra.runtime.store import open_readonly

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterator

    from orchestra.runtime.store import SessionFiles

AT_ONCE = 1_000
"""Events that are read in one go: a reader must not hold up the driver, nor the log fill its memory."""
_COLUMNS = {"time": str, "type": str, "node": str | None, "turn": int | None, "attempt": int | None, "payload": str}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events one wants to see; None: whatever they are."""

    types: Collection[str] | None = None
    agents: Collection[str] | None = None
    """Agents and steps."""
    turn: int | None = None
    since: str | None = None
    """A time as the log writes it: ISO 8601, UTC, with microseconds."""

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition in SQL, and its values."""
        said = ["seq > ?", "seq <= ?"]
        values: list[Any] = []
        for column, wanted in (("type", self.types), ("node", self.agents)):
            if wanted is not None:
                said.append(f"{column} IN ({', '.join('?' * len(wanted))})")
                values += wanted
        if self.turn is not None:
            said.append("turn = ?")
            values.append(self.turn)
        if self.since is not None:
            said.append("time >= ?")
            values.append(self.since)
        return " AND ".join(said), values


ALL = Selection()


def read_events(
    files: SessionFiles, selection: Selection = ALL, *, tail: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the events that a session has now, in their order.

    Args:
        files: The session's.
        selection: Which of them.
        tail: Only so many of these, the last ones.

    Raises:
        SessionError: The session's database can't be read.
    """
    with open_readonly(files, lasting=True) as connection:
        last = last_event(connection)
        after = before_last(connection, selection, tail)
        while after < last:
            events, after = next_events(connection, selection, after, last)
            yield from events


def last_event(connection: sqlite3.Connection) -> int:
    """Return the number of the last event; 0: there is none."""
    ((last,),) = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM events")
    return int(last)


def next_events(
    connection: sqlite3.Connection, selection: Selection, after: int, last: int
) -> tuple[list[dict[str, Any]], int]:
    """Return some of the events between two numbers, and up to which number that are all."""
    condition, values = selection.where()
    statement = f"SELECT * FROM events WHERE {condition} ORDER BY seq LIMIT {AT_ONCE}"  # noqa: S608 - names and marks
    rows = connection.execute(statement, (after, last, *values)).fetchall()
    events = [read_event(row) for row in rows]
    return events, events[-1]["seq"] if len(events) == AT_ONCE else last


def before_last(connection: sqlite3.Connection, selection: Selection, count: int | None) -> int:
    """Return a number after which come so many events, as far as there are so many; None: all of them."""
    if count is None:
        return 0
    condition, values = selection.where()
    statement = f"SELECT seq FROM events WHERE {condition} ORDER BY seq DESC LIMIT 1 OFFSET ?"  # noqa: S608 - as above
    row = connection.execute(statement, (0, last_event(connection), *values, count)).fetchone()
    return 0 if row is None else int(row["seq"])


def read_agents(files: SessionFiles) -> list[str]:
    """Return the agents and steps of a session, those first that its graph names."""
    with open_readonly(files) as connection:
        graph = connection.execute(
            "SELECT payload -> '$.graph.nodes' FROM events WHERE type IN ('session_started', 'session_resumed')"
            " ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        nodes = json.loads((graph and graph[0]) or "[]")
        planned = [node["name"] for node in nodes if isinstance(node, dict) and node["kind"] in {"agent", "step"}]
        seen = connection.execute("SELECT DISTINCT node FROM events WHERE node IS NOT NULL ORDER BY node").fetchall()
    return [*dict.fromkeys([*planned, *(row["node"] for row in seen)])]


def read_spending(files: SessionFiles) -> Spending:
    """Return what the model calls of a session have used so far, by agent and by model."""
    spending = Spending()
    with damage_told(files):
        for event in read_events(files, Selection(types=["model_ended"])):
            spending.add(str(event["node"]), event["payload"])
    return spending


def read_event(row: sqlite3.Row) -> dict[str, Any]:
    """Read an event.

    Raises:
        ValueError: It is none: SQLite keeps values of any type in a damaged or altered database.
    """
    event = dict(row)
    for name, kind in _COLUMNS.items():
        if not isinstance(event[name], kind):
            raise ValueError(f"the {name} of an event is {event[name]!r}")  # noqa: TRY004 - of damaged rows, as all
    return {**event, "payload": event_payload(event["payload"])}


def event_payload(text: str) -> dict[str, Any]:
    """Read what an event says.

    Raises:
        ValueError: It is no JSON object.
    """
    payload = json.loads(text)
    if not isinstance(payload, dict):
        raise ValueError("an event is no JSON object")  # noqa: TRY004 - of damaged rows, as all of them
    return payload
