"""The database of a fork: a copy of another session's, cut so that it is what that was right after a checkpoint.

The source is only read. Cut in the order in which things were written, the copy is a state that the session was really
in: going on with it is what a resume after a kill at that moment would be (DESIGN §5.10).
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langgraph.types import Overwrite

from orchestra.errors import SessionError
from orchestra.graph.state import JOURNAL, without
from orchestra.runtime.checkpoints import names_of
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.observability import Event
from orchestra.runtime.outcome import settled_commits
from orchestra.runtime.serializer import StrictSerializer
from orchestra.runtime.spending import Usage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.runtime.store import SessionFiles, SessionRecord

START = "__start__"
"""LangGraph's channel of a graph's input, which holds all of the state in a graph's first checkpoint."""

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest checkpoint of a graph, from which it would go on."""

    namespace: str
    checkpoint_id: str
    seq: int
    about: Mapping[str, Any]
    """What `log` shows of it."""
    checkpoint: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that its namespace leads through, the outermost first."""
        return tuple(names_of(self.namespace))

    @property
    def state(self) -> dict[str, Any]:
        """The graph's state; changes of it are kept by `Draft.replace`."""
        values: dict[str, Any] = self.checkpoint["channel_values"]
        held: dict[str, Any] = values[START] if self.is_first else values
        return held

    @property
    def is_first(self) -> bool:
        """Whether the graph has not taken up its input yet."""
        return isinstance(self.checkpoint["channel_values"].get(START), dict)

    def set(self, name: str, value: Any) -> None:
        """Set a field of the state, also one that had no value, and one whose first value no reducer may fold."""
        self.state[name] = Overwrite(value) if isinstance(self.state.get(name), Overwrite) else value
        if not self.is_first:
            versions = self.checkpoint["channel_versions"]
            versions.setdefault(name, max(versions.values()))


@contextmanager
def _read_strictly() -> Iterator[None]:
    """Refuse a database whose rows are not of our making."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise SessionError(
            f"the session's database holds a row that can't be read: {type(error).__name__}: {error}",
            code="untrusted-checkpoint",
            hint="the database was changed or made by another program: don't use it",
        ) from error


class Draft:
    """The database of a fork while it is being made; nobody else has it.

    Args:
        path: Where it lies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._serializer = StrictSerializer()

    @_read_strictly()
    def take(
        self, source: SessionFiles, namespace: str, checkpoint_id: str, unended: Collection[str] = ()
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Copy a session's database as it was when a checkpoint had just been written.

        Args:
            source: The session that is left.
            namespace: That of the checkpoint.
            checkpoint_id: Its id.
            unended: Agents whose turns have ended at the checkpoint and are to end once more: then it is as it was just
                before, without what these turns gave.

        Returns:
            What `log` shows of the checkpoint, with its place `seq` in the order of the session, and its state.
        """
        self._path.unlink(missing_ok=True)
        self._path.touch(mode=0o600)
        uri = f"{source.database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as original, closing(sqlite3.connect(self._path)) as copy:
            original.backup(copy)
        failpoint("fork-copied")
        with closing(self._connect()) as copy:
            # All of it in the one file that gets the database's name.
            copy.execute("PRAGMA journal_mode = DELETE")
            kind, blob, metadata = copy.execute(
                "SELECT type, checkpoint, metadata FROM checkpoints WHERE checkpoint_ns = ? AND checkpoint_id = ?",
                (namespace, checkpoint_id),
            ).fetchone()
            about: dict[str, Any] = json.loads(metadata)["orchestra"]
            held: dict[str, Any] = self._serializer.loads_typed((kind, blob))["channel_values"]
            with copy:
                _cut(copy, int(about["seq"]), including=not unended)
                self._unend(copy, namespace, [turn for turn in about["ended"] if turn["agent"] in unended])
            copy.execute("VACUUM")
        failpoint("fork-cut")
        return about, held

    def _unend(self, copy: sqlite3.Connection, namespace: str, turns: Sequence[Mapping[str, Any]]) -> None:
        """Have turns end once more: what their nodes gave goes, what is inside them stays."""
        for turn in turns:
            for task, kind, blob in copy.execute(
                "SELECT task_id, type, value FROM writes WHERE checkpoint_ns = ? AND channel = 'ended'", (namespace,)
            ).fetchall():
                if turn in self._serializer.loads_typed((kind, blob)):
                    copy.execute("DELETE FROM writes WHERE checkpoint_ns = ? AND task_id = ?", (namespace, task))
            copy.execute(
                "DELETE FROM events WHERE node = ? AND turn = ?"
                " AND type IN ('turn_committed', 'turn_ended', 'condition_chose')",
                (turn["agent"], turn["turn"]),
            )

    def take_back(self, namespace: str, fields: Collection[str], outputs: Collection[str]) -> None:
        """Remove from the pending writes of a graph's newest checkpoint what has been set in its state meanwhile."""
        with closing(self._connect()) as copy, copy:
            for row, channel, kind, blob in copy.execute(
                "SELECT rowid, channel, type, value FROM writes WHERE checkpoint_ns = ? AND checkpoint_id ="
                " (SELECT MAX(checkpoint_id) FROM checkpoints WHERE checkpoint_ns = ?)",
                (namespace, namespace),
            ).fetchall():
                if channel in fields:
                    copy.execute("DELETE FROM writes WHERE rowid = ?", (row,))
                elif channel in {"agent_outputs", JOURNAL}:
                    value = self._serializer.loads_typed((kind, blob))
                    entries = value if channel == JOURNAL else [{channel: value}]
                    left = [without(entry, fields, outputs) for entry in entries]
                    new = self._serializer.dumps_typed(left if channel == JOURNAL else left[0][channel])
                    copy.execute("UPDATE writes SET type = ?, value = ? WHERE rowid = ?", (*new, row))

    @_read_strictly()
    def newest(self) -> list[Newest]:
        """Return the newest checkpoint of every graph, the root's first."""
        with closing(self._connect()) as copy:
            rows = copy.execute(
                "SELECT checkpoint_ns, MAX(checkpoint_id), type, checkpoint, metadata FROM checkpoints"
                " GROUP BY checkpoint_ns ORDER BY checkpoint_ns"
            ).fetchall()
        return [
            Newest(namespace, identity, int(about["seq"]), about, self._serializer.loads_typed((kind, blob)))
            for namespace, identity, kind, blob, metadata in rows
            for about in [json.loads(metadata)["orchestra"]]
        ]

    @_read_strictly()
    def branch_points(self) -> dict[str, str]:
        """Return where the session's branches are: at the newest root checkpoint at which no conflict is open."""
        with closing(self._connect()) as copy:
            return settled_commits(copy)

    @_read_strictly()
    def named_commits(self) -> set[str]:
        """Return every object that the copied checkpoints and their pending writes may name."""
        found: set[str] = set()
        with closing(self._connect()) as copy:
            for (metadata,) in copy.execute("SELECT metadata FROM checkpoints"):
                found.update(_hashes(json.loads(metadata)["orchestra"]))
            for kind, blob in copy.execute("SELECT type, value FROM writes"):
                found.update(_hashes(self._serializer.loads_typed((kind, blob))))
        for one in self.newest():
            found.update(_hashes(one.checkpoint["channel_values"]))
        return found

    def replace(self, changed: Newest) -> None:
        """Write back a checkpoint whose state was changed."""
        kind, blob = self._serializer.dumps_typed(changed.checkpoint)
        with closing(self._connect()) as copy, copy:
            copy.execute(
                "UPDATE checkpoints SET type = ?, checkpoint = ? WHERE checkpoint_ns = ? AND checkpoint_id = ?",
                (kind, blob, changed.namespace, changed.checkpoint_id),
            )
            if changed.is_first:  # what its input was, spread over the fields: LangGraph does that again
                copy.execute(
                    "DELETE FROM writes WHERE checkpoint_ns = ? AND checkpoint_id = ?",
                    (changed.namespace, changed.checkpoint_id),
                )

    @_read_strictly()
    def answered(self) -> set[str]:
        """Return the questions whose answers have been taken up."""
        with closing(self._connect()) as copy:
            rows = copy.execute("SELECT payload ->> 'question' FROM events WHERE type = 'human_turn'").fetchall()
        return {row[0] for row in rows}

    @_read_strictly()
    def spent(self) -> Usage:
        """Return what has been spent up to the checkpoint."""
        usage = Usage()
        with closing(self._connect()) as copy:
            for (payload,) in copy.execute("SELECT payload FROM events WHERE type = 'model_ended' ORDER BY seq"):
                usage.add(json.loads(payload))
        return usage

    def settle(self, record: SessionRecord, forked: Mapping[str, Any]) -> Event:
        """Make the copy the database of its own session.

        Args:
            record: The new session.
            forked: What its log says of where it comes from.

        Returns:
            The event that says so.
        """
        for one in self.newest():
            metadata = one.state.get("metadata")
            if isinstance(metadata, dict):
                metadata["session_id"] = record.session_id
                self.replace(one)
        usage = self.spent()
        with closing(self._connect()) as copy, copy:
            for table, column in (
                ("checkpoints", "thread_id"),
                ("writes", "thread_id"),
                ("workspace_snapshots", "session"),
            ):
                copy.execute(f"UPDATE {table} SET {column} = ?", (record.session_id,))  # noqa: S608 - fixed names
            fields = {
                "session_id": record.session_id,
                "pipeline": record.pipeline,
                "status": str(record.status),
                "created_at": record.created_at,
                "updated_at": record.updated_at,
                "inputs": json.dumps(record.inputs),
                "workspace": json.dumps(record.workspace),
                "settings": json.dumps(record.settings),
                "usage": json.dumps(usage.as_json()),
                "waiting_for": None,
                "error": None,
            }
            names = ", ".join(f"{name} = ?" for name in fields)
            copy.execute(f"UPDATE sessions SET {names}", tuple(fields.values()))  # noqa: S608 - fixed names
            (last,) = copy.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()
            event = Event(last + 1, record.created_at, "session_forked", payload=forked)
            copy.execute(
                "INSERT INTO events (seq, time, type, payload) VALUES (?, ?, ?, ?)",
                (event.seq, event.time, event.type, json.dumps(forked)),
            )
        return event

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path)
        connection.execute("PRAGMA synchronous = FULL")
        return connection


def _cut(copy: sqlite3.Connection, seq: int, *, including: bool) -> None:
    """Remove what came after a checkpoint, or it as well.

    A session of an older Orchestra did not note in which order its writes and events came. Those that hang on the
    newest checkpoint of a graph are left out then: at most what they hold is done once more.
    """
    place = "CAST(CAST(metadata AS TEXT) ->> '$.orchestra.seq' AS INTEGER)"
    has_order = copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'write_order'").fetchone()
    if not has_order:
        copy.execute("CREATE TEMP TABLE checkpoint_order (seq, checkpoint_ns, checkpoint_id, last_event)")
        copy.execute("CREATE TEMP TABLE write_order (checkpoint_ns, checkpoint_id, task_id, idx, after)")
    (noted,) = copy.execute("SELECT MAX(last_event) FROM checkpoint_order WHERE seq = ?", (seq,)).fetchone()
    chosen = copy.execute(f"SELECT checkpoint_id FROM checkpoints WHERE {place} = ?", (seq,)).fetchone()  # noqa: S608
    last = seq if including else seq - 1
    copy.execute(f"DELETE FROM checkpoints WHERE {place} > ?", (last,))  # noqa: S608 - a fixed expression
    copy.execute(
        "DELETE FROM writes WHERE (checkpoint_ns, checkpoint_id) NOT IN"
        " (SELECT checkpoint_ns, checkpoint_id FROM checkpoints)"
    )
    copy.execute(
        "DELETE FROM writes WHERE (checkpoint_ns, checkpoint_id) IN"
        " (SELECT checkpoint_ns, MAX(checkpoint_id) FROM checkpoints GROUP BY checkpoint_ns)"
        " AND (checkpoint_ns, checkpoint_id, task_id, idx) NOT IN"
        " (SELECT checkpoint_ns, checkpoint_id, task_id, idx FROM write_order WHERE after < ?)",
        (seq,),
    )
    if noted is None:
        (noted,) = copy.execute(
            "SELECT MIN(seq) FROM events WHERE type = 'checkpoint' AND payload ->> 'id' = ?", chosen
        ).fetchone()
    if noted is not None:
        copy.execute("DELETE FROM events WHERE seq > ?", (noted,))
    for table in ("repo_states", "workspace_snapshots"):
        copy.execute(
            f"DELETE FROM {table} WHERE (checkpoint_ns, checkpoint_id) NOT IN"  # noqa: S608 - fixed names
            " (SELECT checkpoint_ns, checkpoint_id FROM checkpoints)"
        )
    copy.execute("DELETE FROM checkpoint_order WHERE seq > ?", (last,))
    copy.execute(
        "DELETE FROM write_order WHERE (checkpoint_ns, checkpoint_id, task_id, idx) NOT IN"
        " (SELECT checkpoint_ns, checkpoint_id, task_id, idx FROM writes)"
    )


def is_hash(value: object) -> bool:
    """Tell whether a value looks like the name of an object."""
    return isinstance(value, str) and _COMMIT.fullmatch(value) is not None


def _hashes(value: Any) -> Iterator[str]:
    """Yield what looks like the name of an object, wherever it stands."""
    if isinstance(value, str):
        if is_hash(value):
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _hashes(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _hashes(item)
