"""What a session leaves, looked at before any of it is removed; only a merge that is tried writes scratch files."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from orchestra.errors import SessionError
from orchestra.runtime.cleanup_plan import Reason, RepoPlan, SessionPlan
from orchestra.runtime.creation import ID_ALPHABET, ID_LENGTH
from orchestra.runtime.disk import bytes_below, worktree_bytes
from orchestra.runtime.driver_lock import held
from orchestra.runtime.processes import named
from orchestra.runtime.repo_survey import RepoSurvey, SessionRepo
from orchestra.runtime.store import SessionFiles, Status, read_session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.runtime.store import SessionRecord

REMOVABLE = frozenset({Status.COMPLETED, Status.CANCELLED, Status.FAILED})
_OWN = frozenset(
    {
        *("session.db", "session.db-wal", "session.db-shm", "session.db-journal", "session.db.new", "making.json"),
        *("lock", "children.lock", "inbox", "pipeline", "copies", "driver.log", "cleanup"),
        *("apply.json", "apply.json.new"),
    }
)
"""All that Orchestra puts into a session's directory."""
_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Looked:
    """A session as its database and its directory show it."""

    files: SessionFiles
    record: SessionRecord | None
    """None: it can't be read."""
    repos: tuple[SessionRepo, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """Why it may not go, whatever its repositories say."""

    @property
    def branches(self) -> frozenset[str]:
        """Its branches."""
        return frozenset(repo.branch for repo in self.repos if repo.branch)

    @property
    def updated_at(self) -> datetime | None:
        """When it was last at work; None where that can't be told."""
        with suppress(ValueError):
            return datetime.fromisoformat(self.record.updated_at).astimezone() if self.record else None
        return None


def look_at(files: SessionFiles, *, mine: bool = False) -> Looked:
    """Look at a session without its repositories.

    Args:
        files: The session's.
        mine: The caller holds its lock.
    """
    if (refusal := _foreign(files.directory)) is not None:
        return Looked(files, None, reasons=(refusal,))
    try:
        record = read_session(files, mine=mine)
        # A copy has no part in the repositories: branches and worktrees are those of the session itself.
        repos = () if _is_copy(record) else _repos_of(record)
    except SessionError as error:
        return Looked(files, None, reasons=(Reason(error.code, error.message, error.hint, final=True),))
    return Looked(files, record, repos, tuple(_reasons(record, mine=mine)))


@dataclass(slots=True)
class Survey:
    """Makes of each session what becomes of it."""

    repos: RepoSurvey

    async def plan(self, looked: Looked) -> SessionPlan:
        """Return what becomes of a session."""
        reasons, plans = list(looked.reasons), list[RepoPlan]()
        if worker := self._worker_in(looked.files.directory):
            message = f"the process {named(worker)} works in {looked.files.directory}"
            reasons.append(Reason("in-use", message, final=True))
        if not any(reason.final for reason in reasons):
            for repo in looked.repos:
                begun = looked.files.cleanup_mark.exists()
                plan, found = await self.repos.look(repo, looked.files.session_id, begun=begun)
                plans += [plan] if plan else []
                reasons += found
        kept = [reason for reason in reasons if reason.final or not self.repos.discard]
        record = looked.record
        return SessionPlan(
            looked.files.session_id,
            record.pipeline if record else None,
            str(record.status) if record else None,
            record.updated_at if record else None,
            tuple(plans),
            tuple(kept),
            () if kept else tuple(reasons),
            0 if looked.files.directory.is_symlink() else bytes_below(looked.files.directory),
            sum(worktree_bytes(plan.path, looked.files.session_id) for plan in plans),
        )

    def _worker_in(self, directory: Path) -> int | None:
        return next((pid for pid, here in self.repos.cwds if here.is_relative_to(directory)), None)


def _foreign(directory: Path) -> Reason | None:
    shown = quote(str(directory))
    if directory.is_symlink():
        return Reason("linked", f"{directory} is a link, and is not followed", f"ls -ld {shown}", final=True)
    if len(directory.name) != ID_LENGTH or not set(directory.name) <= set(ID_ALPHABET):
        return Reason("foreign", f"{directory} has no name that Orchestra gives", f"ls -lA {shown}", final=True)
    return None


def _reasons(record: SessionRecord, *, mine: bool) -> Iterable[Reason]:
    """Judge the session and its directory; its conversation and checkpoints are what a cleanup is there to remove."""
    directory = record.files.directory
    shown = quote(str(directory))
    if record.session_id != directory.name:
        message = f"its database is that of the session {record.session_id}"
        yield Reason("foreign", message, f"ls -lA {shown}", final=True)
    holder = None if mine else held(record.files)
    if holder is not None:
        what = "a process drives it" if holder.alive else "commands that it started are still at work"
        who = f" ({holder.holder})" if holder.holder else ""
        yield Reason("driven", what + who, f"orchestra status {directory.name}", final=True)
    if record.status not in REMOVABLE:
        message = f"it is {record.status}, and can go on"
        yield Reason("not-ended", message, f"orchestra cancel {directory.name}", final=True)
    if record.files.apply_journal.exists():
        message = "an `apply` of it was cut off, and the next one completes it or takes it back"
        yield Reason("apply-unfinished", message, f"orchestra apply {directory.name}", final=True)
    others = sorted({entry.name for entry in directory.iterdir()} - _OWN)
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        message = f"its directory has files that are not Orchestra's: {', '.join(others[:_SHOWN])}{more}"
        yield Reason("foreign-files", message, f"ls -lA {shown}")


def _is_copy(record: SessionRecord) -> bool:
    """Tell whether this is the copy of a session that is still there."""
    home = SessionFiles(Path(str(record.settings.get("directory", record.files.directory))))
    with suppress(OSError, ValueError):
        return home.database.exists() and not home.directory.samefile(record.files.directory)
    return False


def _repos_of(record: SessionRecord) -> tuple[SessionRepo, ...]:
    return tuple(_repo_of(record, name, entry) for name, entry in record.workspace.items())


def _repo_of(record: SessionRecord, name: str, entry: Any) -> SessionRepo:
    if isinstance(entry, dict):
        path, base, branch = entry.get("path"), entry.get("base"), entry.get("branch")
        sound = isinstance(path, str) and path.startswith("/") and "\0" not in path
        if sound and isinstance(base, str) and _SHA.fullmatch(base) and isinstance(branch, str | None):
            return SessionRepo(name, Path(str(path)), base, branch)
    raise SessionError(
        f"the session's database {record.files.database} does not say properly which repositories it works on",
        code="database-unreadable",
        hint="orchestra doctor",
    )
