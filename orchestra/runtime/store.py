"""Where sessions live on disk, and how other processes read them: one directory and one database a session.

Reading opens the database read-only with the standard library, so that `status` and `log` load neither LangGraph nor
asyncio. Only the driver of a session writes (`SessionRow`).
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestra.errors import SessionError, did_you_mean
from orchestra.runtime.damage import check_checkpoint, check_session, damage_told, json_object, text
from orchestra.runtime.driver_lock import is_driven

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
"""Of the session database's schema; a newer one is refused, untouched."""

READ_TIMEOUT = 5.0
"""Seconds that a reader waits for a program that keeps the database to itself."""

STATE_DIRECTORY = ".orchestra"

NOTHING_SPENT = {"input_tokens": 0, "output_tokens": 0, "model_calls": 0, "cost_usd": 0.0}
"""The `usage` of a session before its first model call."""


class Status(StrEnum):
    """The state of a session (DESIGN §6)."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Shown for `created` or `running` when the driver is gone; never stored."""


ENDED = frozenset({Status.COMPLETED, Status.CANCELLED})
"""Such a session never goes on."""


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """The files of one session."""

    directory: Path

    @property
    def session_id(self) -> str:
        """The session's id, the directory's name."""
        return self.directory.name

    @property
    def database(self) -> Path:
        """LangGraph's checkpoints and Orchestra's tables."""
        return self.directory / "session.db"

    @property
    def draft(self) -> Path:
        """The database while it is being made."""
        return self.database.with_name(f"{self.database.name}.new")

    @property
    def lock(self) -> Path:
        """The file whose lock the driver holds; it names the driver."""
        return self.directory / "lock"

    @property
    def children_lock(self) -> Path:
        """The file whose lock the driver's children hold too, also when the driver was killed."""
        return self.directory / "children.lock"

    @property
    def pipeline(self) -> Path:
        """The pipeline's directory as it was at the start: the file, its prompts, conditions, tools and scripts."""
        return self.directory / "pipeline"

    @property
    def copies(self) -> Path:
        """Ignored files of the repos that each new worktree gets, by the name of the repo."""
        return self.directory / "copies"

    @property
    def inbox(self) -> Path:
        """Answers sent by other processes."""
        return self.directory / "inbox"

    @property
    def driver_log(self) -> Path:
        """What a driver in the background prints."""
        return self.directory / "driver.log"

    @property
    def sent_spans(self) -> Path:
        """The numbers of the spans that a collector of traces has taken; there only where traces are sent."""
        return self.directory / "sent-spans"

    @property
    def cleanup_mark(self) -> Path:
        """The file that is there once a cleanup has begun to remove the session."""
        return self.directory / "cleanup"

    @property
    def apply_journal(self) -> Path:
        """What an `apply` has begun to write; there only while it is at work, or when it was killed."""
        return self.directory / "apply.json"

    @property
    def cancellation(self) -> Path:
        """The file that is there once somebody has called the session off."""
        return self.inbox / "cancel"


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What the database says of a session."""

    session_id: str
    pipeline: str
    status: Status
    created_at: str
    updated_at: str
    inputs: dict[str, Any]
    workspace: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    usage: dict[str, Any]
    waiting_for: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    checkpoints: int = 0
    files: SessionFiles = field(default_factory=lambda: SessionFiles(Path()))

    @property
    def forked_from(self) -> dict[str, Any] | None:
        """Where the session left another one: `{session_id, checkpoint_id, seq}`; None: it is no fork."""
        return self.settings.get("forked_from")

    def summary(self) -> dict[str, Any]:
        """Return the JSON of `orchestra status --json` (DESIGN §8)."""
        return {
            "session_id": self.session_id,
            "pipeline": self.pipeline,
            "status": str(self.status),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "checkpoints": self.checkpoints,
            "usage": self.usage,
            "waiting_for": self.waiting_for,
        }


def now() -> str:
    """Return the present time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def sessions_directory(root: Path) -> Path:
    """Return where the sessions of a project live."""
    return root / STATE_DIRECTORY / "sessions"


def schema(name: str) -> str:
    """Return the text of an SQL file of this package."""
    return resources.files("orchestra.runtime.sql").joinpath(f"{name}.sql").read_text(encoding="utf-8")


def session_ids(root: Path) -> list[str]:
    """Return the ids of all sessions of a project."""
    directory = sessions_directory(root)
    if not directory.is_dir():
        return []
    return sorted(entry.name for entry in directory.iterdir() if (entry / "session.db").is_file())


def find_session(root: Path, prefix: str) -> SessionFiles:
    """Find a session by its id or a unique prefix of it.

    Raises:
        SessionError: No session or several begin with `prefix`.
    """
    known = session_ids(root)
    matches = [known_id for known_id in known if known_id.startswith(prefix.lower())] if prefix else []
    if len(matches) == 1:
        return SessionFiles(sessions_directory(root) / matches[0])
    if matches:
        raise _not_a_session(
            f"{len(matches)} sessions begin with {prefix!r}: {', '.join(matches[:8])}", "ambiguous-session"
        )
    elsewhere = "go into the project, or name it: `orchestra -C DIR ...`"
    hint = did_you_mean(prefix, known) or ("run `orchestra status` to see them" if known else elsewhere)
    where = f"there is no session {prefix!r} in {root}"
    raise _not_a_session(where if known else f"{where}: no session has been run there", "unknown-session", hint)


def _not_a_session(message: str, code: str, hint: str | None = "type more of the id") -> SessionError:
    error = SessionError(message, code=code, hint=hint)
    error.exit_code = 2
    return error


@contextmanager
def open_readonly(files: SessionFiles, *, lasting: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a session's database for reading, as long as the body runs.

    Args:
        files: The session's.
        lasting: The body may take so long that a driver could come meanwhile.

    Raises:
        SessionError: It can't be read, what is read makes no sense, or a newer Orchestra wrote it.
    """
    with damage_told(files):
        unchanging = not lasting and _is_at_rest(files)
        uri = f"{files.database.absolute().as_uri()}?mode=ro{'&immutable=1' if unchanging else ''}"
        # A reader of events that was left half way is closed by whatever thread collects it.
        connecting = sqlite3.connect(uri, uri=True, timeout=READ_TIMEOUT, check_same_thread=False)
        with closing(connecting) as connection:
            connection.row_factory = sqlite3.Row
            row = connection.execute("SELECT version FROM sessions").fetchone()
            if row is not None and row["version"] > VERSION:
                raise SessionError(
                    f"the session {files.session_id} was written by a newer Orchestra "
                    f"(format {row['version']}, known: {VERSION})",
                    code="newer-session",
                    hint="upgrade: `uv tool upgrade orchestra-agents`",
                )
            yield connection


def _is_at_rest(files: SessionFiles) -> bool:
    """Tell whether the database is one complete file that nobody writes.

    SQLite is told so: else it makes a `-wal` and a `-shm` beside it even to read, and fails where it may not.
    """
    try:
        logged = files.database.with_name(f"{files.database.name}-wal").stat().st_size
    except OSError:
        logged = 0
    return not logged and not is_driven(files.lock)


def read_session(files: SessionFiles, *, mine: bool = False) -> SessionRecord:
    """Read one session; where its driver is gone it shows as `interrupted`, or `cancelled` if that was asked for.

    Args:
        files: The session's.
        mine: The caller holds the session's lock, and does not drive it.
    """
    with open_readonly(files) as connection:
        row = connection.execute("SELECT * FROM sessions").fetchone()
        if row is None:
            raise SessionError(f"the session {files.session_id} was never started", code="empty-session")
        driven = Status(row["status"]) in ENDED or (not mine and is_driven(files.lock))
        if not driven:  # what its driver has written before it went
            row = connection.execute("SELECT * FROM sessions").fetchone()
        has_checkpoints = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'checkpoints'").fetchone()
        count = connection.execute("SELECT COUNT(*) FROM checkpoints").fetchone()[0] if has_checkpoints else 0
        status = Status(row["status"])
        if status not in ENDED and not driven:
            if files.cancellation.exists():  # whoever has called it off may have been killed before it was written
                status = Status.CANCELLED
            elif status in (Status.CREATED, Status.RUNNING):
                status = Status.INTERRUPTED
        workspace, settings, usage = (json_object(row, name) for name in ("workspace", "settings", "usage"))
        check_session(workspace, settings, usage)
        return SessionRecord(
            session_id=text(row, "session_id"),
            pipeline=text(row, "pipeline"),
            status=status,
            created_at=text(row, "created_at"),
            updated_at=text(row, "updated_at"),
            inputs=json_object(row, "inputs"),
            workspace=workspace,
            settings=settings,
            usage=NOTHING_SPENT | usage,
            waiting_for=json_object(row, "waiting_for") if row["waiting_for"] and status not in ENDED else None,
            error=json_object(row, "error") if row["error"] else None,
            checkpoints=count,
            files=files,
        )


def refuse_copy(files: SessionFiles, record: SessionRecord, command: str) -> None:
    """Refuse a copy of a session: it would work on the same worktrees and branches as the session itself.

    Args:
        files: Where the session was found.
        record: What its database says.
        command: What was asked of it, such as `resume`.
    """
    home = SessionFiles(Path(record.settings.get("directory", files.directory)))
    if home.database.exists() and not home.directory.samefile(files.directory):
        root = home.directory.parents[2]
        error = SessionError(
            f"this is a copy of the session {record.session_id}; the session itself is in {home.directory}, and both "
            "would work on the same branches",
            code="session-copied",
            hint=f"{command} it there: orchestra -C '{root}' {command} {record.session_id}; or run the pipeline anew "
            "here",
        )
        error.exit_code = 2  # nothing was started
        raise error


def list_sessions(root: Path) -> Iterator[SessionRecord | SessionError]:
    """Yield every session of a project, newest first; an unreadable one comes as its error, last."""
    records: list[SessionRecord] = []
    errors: list[SessionError] = []
    for session_id in session_ids(root):
        try:
            records.append(read_session(SessionFiles(sessions_directory(root) / session_id)))
        except SessionError as error:
            if (sessions_directory(root) / session_id).exists():  # else a cleanup has taken it away meanwhile
                errors.append(error)
    records.sort(key=lambda record: (record.created_at, record.session_id), reverse=True)
    yield from records
    yield from errors


def read_checkpoints(files: SessionFiles) -> list[dict[str, Any]]:
    """Return the rows of `orchestra log --json` (DESIGN §8), oldest first."""
    return [row for _, row in read_numbered(files)]


def read_numbered(files: SessionFiles) -> list[tuple[int, dict[str, Any]]]:
    """Return these rows, each with its place `seq` in the order of the session."""
    with open_readonly(files) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'checkpoints'").fetchone():
            return []
        rows = connection.execute("SELECT checkpoint_id, checkpoint_ns, metadata FROM checkpoints").fetchall()
        return sorted(map(_checkpoint, rows), key=lambda pair: pair[0])


def _checkpoint(row: sqlite3.Row) -> tuple[int, dict[str, Any]]:
    """Return a checkpoint's place in the order of the session, and what the log shows of it."""
    metadata = json.loads(row["metadata"])
    shown = metadata["orchestra"]
    check_checkpoint(shown)
    return int(shown["seq"]), {
        "checkpoint_id": row["checkpoint_id"],
        "checkpoint_ns": row["checkpoint_ns"],
        "step": metadata.get("step"),
        **{key: shown[key] for key in ("agent", "ended", "next", "created_at", "repos", "changed")},
    }


def read_turns(files: SessionFiles) -> list[dict[str, Any]]:
    """Return per turn its tokens, cost, tool calls and durations, oldest first."""
    with open_readonly(files) as connection:
        return [dict(row) for row in connection.execute("SELECT * FROM turns")]
