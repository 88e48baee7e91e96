"""From a commit back to the checkpoints that it belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.errors import PipelineError, SessionError
from orchestra.runtime.damage import damage_told
from orchestra.runtime.event_log import Selection, read_events
from orchestra.runtime.spans import copied_rows
from orchestra.runtime.store import (
    SessionFiles,
    read_checkpoints,
    read_numbered,
    read_session,
    session_ids,
    sessions_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

LEAST = 4
"""Characters of a commit's name that have to be given."""
_MADE = ("turn_committed", "merged", "conflict", "conflict_resolved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A checkpoint that a commit belongs to."""

    session_id: str
    row: dict[str, Any]
    commits: dict[str, str]
    """Repo → the commit."""


def trace(root: Path, commit: str, files: SessionFiles | None = None) -> list[Trace]:
    """Find the checkpoints at which a commit came into a session: of a turn, a merge, a snapshot, the session's base.

    Args:
        root: The project.
        commit: Its name, or a beginning of it.
        files: The session to look in; None: all of the project, of each fork only what is its own.

    Raises:
        PipelineError: `bad-option`: that is no name of a commit.
        SessionError: `unknown-commit`.
    """
    wanted = commit.lower()
    if not re.fullmatch(f"[0-9a-f]{{{LEAST},64}}", wanted):
        message = f"{commit!r} is not the name of a commit"
        raise PipelineError(message, code="bad-option", hint=f"give its SHA, or {LEAST} or more characters of it")
    found = (
        _in_session(files, wanted) if files else [item for each in _sessions(root) for item in _own(each, root, wanted)]
    )
    if not found:
        where = f"the session {files.session_id}" if files else f"any session of {root}"
        hint = "a commit that people made belongs to none; `git log` shows by `Orchestra-Session` which are a session's"
        error = SessionError(f"no checkpoint of {where} names a commit {commit!r}", code="unknown-commit", hint=hint)
        error.exit_code = 2
        raise error
    return found


def _sessions(root: Path) -> Iterator[SessionFiles]:
    for session_id in session_ids(root):
        yield SessionFiles(sessions_directory(root) / session_id)


def _own(files: SessionFiles, root: Path, wanted: str) -> list[Trace]:
    """Look in a session for what it has not in common with the one that it has left."""
    try:
        found, record = _in_session(files, wanted), read_session(files)
        if record.forked_from is None or record.forked_from.get("session_id") not in session_ids(root):
            return found
        shared = {_place(row) for row in copied_rows(record, read_numbered(files))}
    except SessionError:
        return []  # `status` tells which session can't be read
    return [item for item in found if _place(item.row) not in shared]


def _place(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["checkpoint_ns"], row["checkpoint_id"]


def _in_session(files: SessionFiles, wanted: str) -> list[Trace]:
    rows = read_checkpoints(files)
    named = [_new_in(rows, place, wanted) for place in range(len(rows))]
    with damage_told(files):
        for place, commits in _made(files, rows, wanted):
            named[place] = commits | named[place]
    return [
        Trace(session_id=files.session_id, row=row, commits=commits)
        for row, commits in zip(rows, named, strict=True)
        if commits
    ]


def _new_in(rows: Sequence[dict[str, Any]], place: int, wanted: str) -> dict[str, str]:
    """Return the commits with which a checkpoint differs from the one before it; of the first one all."""
    row = rows[place]
    new = row["changed"] if place else row["repos"]
    return {repo: row["repos"][repo] for repo in new if row["repos"][repo].startswith(wanted)}


def _made(files: SessionFiles, rows: Sequence[dict[str, Any]], wanted: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield what checkpoints do not name as their files: commits of turns that ran at the same time, and merges."""
    ended = {(entry["agent"], entry["turn"]): place for place, row in enumerate(rows) for entry in row["ended"]}
    places = {(row["checkpoint_id"], row["checkpoint_ns"]): place for place, row in enumerate(rows)}
    pending: dict[str, str] = {}
    for event in read_events(files, Selection([*_MADE, "checkpoint"])):
        payload, turn = event["payload"], (event["node"], event["turn"])
        if event["type"] == "checkpoint":
            place = places.get((payload["id"], payload.get("namespace", "")))
            if pending and place is not None:
                yield place, pending
                pending = {}
        elif str(payload["commit"]).startswith(wanted):
            commits = {str(payload["repo"]): str(payload["commit"])}
            if turn in ended:
                yield ended[turn], commits
            elif event["type"] != "turn_committed":
                pending |= commits
