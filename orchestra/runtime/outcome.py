"""What a session has come to so far, read from its checkpoints by whoever does not drive it."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

from orchestra.runtime.store import open_readonly

if TYPE_CHECKING:
    import sqlite3

    from orchestra.runtime.store import SessionFiles


def read_result(files: SessionFiles) -> dict[str, str]:
    """Return repo → where the session's branch should be: the commit of the newest checkpoint that lets branches move.

    A checkpoint of an open conflict does not: its commit holds the markers. Empty: there is no checkpoint yet.
    """
    with open_readonly(files) as connection:
        return settled_commits(connection)


def settled_commits(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the same of a session's database that is open."""
    settled = (about for _, about in reversed(_of_the_root(connection)) if not about.get("in_conflict"))
    return dict(next(settled, {"integrated": {}})["integrated"])


def read_outputs(files: SessionFiles) -> dict[str, Any]:
    """Return the outputs of agents and steps at the root's newest checkpoint; empty where there is none yet."""
    return dict(_newest_state(files).get("agent_outputs") or {})


def read_conflicts(files: SessionFiles) -> list[dict[str, Any]]:
    """Return the conflicts at the root's newest checkpoint, path by path, solved ones too."""
    known = dict(_newest_state(files).get("_conflicts") or {})
    return [
        {"repo": one["repo"], **path, "resolved_by": one["resolved_by"]}
        for _, one in sorted(known.items(), key=lambda item: int(item[0]))
        for path in one["paths"]
    ]


def _newest_state(files: SessionFiles) -> dict[str, Any]:
    with open_readonly(files) as connection:
        rows = _of_the_root(connection)
        if not rows:
            return {}
        with closing(connection.cursor()) as cursor:
            query = "SELECT checkpoint FROM checkpoints WHERE checkpoint_ns = '' AND checkpoint_id = ?"
            (blob,) = cursor.execute(query, (rows[-1][0],)).fetchone()
        return dict(json.loads(blob)["channel_values"])


def _of_the_root(connection: sqlite3.Connection) -> list[tuple[str, dict[str, Any]]]:
    """Return id and `log`'s view of the root's checkpoints, oldest first."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'checkpoints'").fetchone():
        return []
    rows = connection.execute("SELECT checkpoint_id, metadata FROM checkpoints WHERE checkpoint_ns = ''").fetchall()
    shown = [(str(identity), json.loads(metadata)["orchestra"]) for identity, metadata in rows]
    return sorted(shown, key=lambda pair: int(pair[1]["seq"]))
