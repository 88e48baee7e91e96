"""Who drives the sessions, and git's lock files that lie in the repositories. Nothing is ever removed here."""

from __future__ import annotations

import os
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from orchestra.runtime.doctor.finding import Finding, State
from orchestra.runtime.driver_lock import held
from orchestra.runtime.processes import can_tell, gits_in, holders_of
from orchestra.runtime.store import SessionFiles, sessions_directory
from orchestra.runtime.worktree import session_of_admin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from orchestra.runtime.doctor.surroundings import Surroundings
    from orchestra.runtime.git import Repository
    from orchestra.runtime.processes import Process


async def check(here: Surroundings) -> AsyncIterator[Finding]:
    """Name the sessions that are driven, those whose killed driver left commands, and git's locks."""
    found = False
    for record in here.sessions:
        if finding := _of_session(record.session_id, record.files):
            found = True
            yield finding
    for repo in await here.repositories():
        if repo.repository is not None:
            for finding in _in_repository(here, repo.repository):
                found = True
                yield finding
    if not found:
        yield Finding("locks", State.OK, "no session is driven now, and no lock of git lies in the repositories")


def _of_session(session: str, files: SessionFiles) -> Finding | None:
    lock = held(files.lock)
    if lock is None:
        return None
    details: dict[str, Any] = {"session_id": session, "holder": lock.holder, "path": str(files.lock)}
    if lock.alive:
        message = f"the session {session} is being driven ({lock.holder or 'by a process that just begins or ends'})"
        return Finding("locks", State.OK, message, details=details)
    left = holders_of([files.lock])[files.lock]
    shown = f": {_shown(left)}" if left else ""
    message = (
        f"the driver of the session {session} ({lock.holder}) is gone, "
        f"but commands that it started still run and hold its lock{shown}"
    )
    fix = "wait for them, then resume; or end them:"
    pids = " ".join(str(process.pid) for process in left)
    who = f"kill {pids}" if left else f"fuser -v {quote(str(files.lock))}"
    commands = (who, f"orchestra resume {quote(session)}")
    details = {**details, "pids": [process.pid for process in left]}
    return Finding("locks", State.WARNING, message, fix, commands, details)


def _shown(processes: Sequence[Process]) -> str:
    return ", ".join(map(str, processes))


def _in_repository(here: Surroundings, repo: Repository) -> Iterator[Finding]:
    locks = list(lock_files(repo))
    holders = holders_of(locks)
    gits = gits_in([path for path in (repo.top, repo.common_dir) if path]) if locks else []
    for lock in locks:
        try:
            age = max(0, round(time.time() - lock.lstat().st_mtime))
        except OSError:
            continue  # git is done with it meanwhile
        session = _session_of(repo, lock)
        if session is not None and _is_at_work(here, session):
            continue
        yield _git_lock(here, lock, age, holders[lock], gits, session)


def _git_lock(
    here: Surroundings, lock: Path, age: int, holders: Sequence[Process], gits: Sequence[Process], session: str | None
) -> Finding:
    details = {"path": str(lock), "age_s": age, "pids": [process.pid for process in holders], "session_id": session}
    start = f"git's lock {lock} lies there since {_age(age)}"
    if holders:
        message = f"{start}, held by process {_shown(holders)}"
        return Finding("locks", State.WARNING, message, f"wait for process {_shown(holders)}", (), details)
    if session is not None and session in here.session_ids:
        message = f"{start}; it is of the session {session}, whose next resume removes it"
        return Finding("locks", State.WARNING, message, None, (f"orchestra resume {quote(session)}",), details)
    if gits:
        message = f"{start}; no process holds it open, but git runs there: {_shown(gits)}"
        fix = f"wait for process {_shown(gits)}; remove the lock only when it is gone and the lock still there:"
        details = {**details, "pids": [process.pid for process in gits]}
    else:
        told = "no process holds it open" if can_tell() else "who holds it can't be told on this system"
        message, fix = f"{start}; {told}", "if no git runs there:"
    return Finding("locks", State.WARNING, message, fix, (f"rm {quote(str(lock))}",), details)


def _age(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def lock_files(repo: Repository) -> Iterator[Path]:
    """Yield git's lock files of a repository and its worktrees."""
    common = repo.common_dir
    for directory in dict.fromkeys((repo.git_dir, common, common / "objects" / "info", common / "objects" / "pack")):
        # Those of a linked worktree come with the others below.
        if not directory.is_relative_to(common / "worktrees"):
            yield from _locks(directory)
    for directory in (common / "refs", common / "reftable", common / "worktrees"):
        for parent, _, files in os.walk(directory):
            yield from (Path(parent, name) for name in sorted(files) if name.endswith(".lock"))


def _locks(directory: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208 - names are enough
    except OSError:
        return
    yield from (directory / name for name in names if name.endswith(".lock"))


def _session_of(repo: Repository, lock: Path) -> str | None:
    """Return the session that a lock file belongs to: one of its references or worktrees."""
    parts = lock.relative_to(repo.common_dir).parts if lock.is_relative_to(repo.common_dir) else ()
    if parts[:2] == ("refs", "orchestra") and len(parts) > 3:  # noqa: PLR2004 - below the session
        return parts[2]
    if parts[:1] == ("worktrees",) and len(parts) > 2:  # noqa: PLR2004 - in a worktree's directory
        return session_of_admin(repo.common_dir / "worktrees" / parts[1])
    return None


def _is_at_work(here: Surroundings, session: str) -> bool:
    if session not in here.session_ids:
        return False
    lock = held(SessionFiles(sessions_directory(here.root) / session).lock)
    return lock is not None and lock.alive
