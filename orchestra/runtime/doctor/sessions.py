"""Sessions that stopped halfway, can't be read, or can't go on. One that is driven right now is none of them."""

from __future__ import annotations

import time
from collections import Counter
from shlex import quote
from typing import TYPE_CHECKING, Any

from orchestra.runtime.creation import is_unfinished
from orchestra.runtime.doctor.finding import Finding, State, of_error
from orchestra.runtime.doctor.surroundings import RESUMABLE, session_repos
from orchestra.runtime.driver_lock import held, names_living
from orchestra.runtime.processes import holders_of
from orchestra.runtime.store import Status, sessions_directory
from orchestra.runtime.workspace import moved_with

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from orchestra.errors import SessionError
    from orchestra.runtime.doctor.surroundings import KnownRepo, SessionRepo, Surroundings
    from orchestra.runtime.git import GitManager, Repository
    from orchestra.runtime.store import SessionFiles, SessionRecord

_LOOK_AGAIN = 0.05


async def check(here: Surroundings) -> AsyncIterator[Finding]:
    """Judge every session of the project."""
    yield _summary(here)
    for record in here.sessions:
        if record.status is Status.INTERRUPTED and all(_exists(repo.path) for repo in session_repos(record)):
            yield _interrupted(record)
        if record.status in RESUMABLE:
            for finding in _copy(record):
                yield finding
        async for finding in _repos(here, record):
            yield finding
    for files, error in here.unreadable_sessions:
        yield _unreadable(files, error)
    for files in _half_made_ones(here.without_database):
        yield _half_made(files)


def _summary(here: Surroundings) -> Finding:
    error = here.sessions_error
    if error is not None:
        path = str(error.filename or sessions_directory(here.root))
        message = f"the sessions in {path} can't be listed: {error.strerror or error}"
        return Finding("sessions", State.ERROR, message, None, (f"ls -ld {quote(path)}",), {"path": path})
    counts = Counter(str(record.status) for record in here.sessions)
    shown = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    message = f"{len(here.sessions)} can be read ({shown})" if counts else "there are none that can be read"
    return Finding("sessions", State.OK, message, details={"counts": dict(counts)})


def _interrupted(record: SessionRecord) -> Finding:
    message = f"{record.session_id} ({record.pipeline}) was interrupted, {record.updated_at[:19].replace('T', ' ')} UTC"
    details = {"session_id": record.session_id, "pipeline": record.pipeline, "updated_at": record.updated_at}
    return Finding("sessions", State.WARNING, message, None, (_resume(record.session_id),), details)


def _resume(session: str) -> str:
    return f"orchestra resume {quote(session)}"


def _copy(record: SessionRecord) -> Iterator[Finding]:
    """A session goes on with its own copy of the pipeline."""
    name = record.settings.get("file")
    directory = record.files.pipeline
    if not isinstance(name, str) or not (directory / "0" / name).is_file():
        message = f"{record.session_id} lacks its copy of the pipeline in {directory}, so it can't go on"
        fix = f"run the pipeline again: orchestra run {quote(record.pipeline)}"
        yield Finding("sessions", State.ERROR, message, fix, (), {"session_id": record.session_id})


async def _repos(here: Surroundings, record: SessionRecord) -> AsyncIterator[Finding]:
    if record.status in (Status.CREATED, Status.RUNNING, Status.CANCELLED):
        return
    sound = session_repos(record)
    if len(sound) < len(record.workspace):
        message = f"{record.session_id}: its database does not say properly which repositories it works on"
        fix = f"run the pipeline again: orchestra run {quote(record.pipeline)}"
        yield Finding("sessions", State.ERROR, message, fix, (), {"session_id": record.session_id})
    known = await here.repositories()
    for repo in sound:
        if finding := await _repo(here, record, repo, known):
            yield finding


async def _repo(here: Surroundings, record: SessionRecord, repo: SessionRepo, known: list[KnownRepo]) -> Finding | None:
    details = {"session_id": record.session_id, "repo": repo.name, "path": str(repo.path), "base": repo.base}
    if not _exists(repo.path):
        message = f"{record.session_id}: its repo {repo.name!r} is not at {repo.path} any more"
        moved = moved_with(record.files.directory, [repo.path])
        back = (f"mv {quote(str(moved[0]))} {quote(str(moved[1]))}",) if moved else ()
        fix = f"put it back there, then `{_resume(record.session_id)}`" + (":" if back else "")
        return Finding("sessions", State.WARNING, message, fix, back, details)
    opened = next((one.repository for one in known if one.repository and repo.path in (one.path, _place(one))), None)
    if opened is None or await _has(here.git, opened, repo.base):
        return None
    message = (
        f"{record.session_id}: its repo {repo.name!r} at {repo.path} lacks the commit {repo.base[:10]} it began at"
    )
    fix = "it is another repository, or its refs/orchestra were deleted; put the right one there, or fetch the commit:"
    commands = (f"git -C {quote(str(repo.path))} fetch PLACE {repo.base}",)
    return Finding("sessions", State.WARNING, message, fix, commands, details)


async def _has(git: GitManager, where: Repository, commit: str) -> bool:
    """Tell whether a repository has a commit, without fetching it: that would run what its configuration names."""
    options = ("--no-walk", "--missing=print", "--end-of-options")
    output = await git.run(where, "rev-list", *options, commit, ok=(0, 128))
    return output.returncode == 0 and output.text == commit


def _place(repo: KnownRepo) -> Path | None:
    return (repo.repository.top or repo.repository.git_dir) if repo.repository else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _unreadable(files: SessionFiles, error: SessionError) -> Finding:
    """Say what to do with a database that can't be read; the hint of the error sends people here."""
    if error.code == "newer-session":
        return of_error("sessions", error, fix="upgrade Orchestra", status=State.WARNING, session_id=files.session_id)
    details = {"code": error.code, "session_id": files.session_id, "path": str(files.database)}
    holders = holders_of([files.database])[files.database] if "locked" in error.message else []
    if holders:
        shown = ", ".join(map(str, holders))
        fix = f"wait for process {shown}, or end it"
        return Finding("sessions", State.ERROR, f"{error.message}; held by process {shown}", fix, (), details)
    fix = "its branch and refs/orchestra in your repositories are not affected; put it aside:"
    aside = files.directory.parents[1] / f"{files.session_id}.damaged"
    commands = (f"mv {quote(str(files.directory))} {quote(str(aside))}",)
    return Finding("sessions", State.ERROR, error.message, fix, commands, details)


def _half_made_ones(without: list[SessionFiles]) -> list[SessionFiles]:
    """Return the directories that a killed process left, without those in which a session is just being made.

    The name of who makes it comes a moment after the directory, and after the lock. The lock itself is not touched for
    a look: whoever begins a session takes it at once or fails.
    """
    nobodys = [files for files in without if not names_living(files.lock)]
    if nobodys:
        time.sleep(_LOOK_AGAIN)
    return [
        files
        for files in nobodys
        if files.directory.is_dir() and not files.database.exists() and not names_living(files.lock)
    ]


def _half_made(files: SessionFiles) -> Finding:
    details: dict[str, Any] = {"session_id": files.session_id, "path": str(files.directory)}
    if not is_unfinished(files.directory):
        message = f"{files.directory} lies among the sessions, but holds no database"
        fix = "Orchestra leaves it alone, since it does not look like its own; look into it, then:"
        return Finding("sessions", State.WARNING, message, fix, (f"rm -r {quote(str(files.directory))}",), details)
    message = f"{files.directory} is of a session that was killed before it began; it holds no work"
    fix = "the next `orchestra run` in this project removes it, and what it pinned in the repositories"
    if held(files) is None:
        return Finding("sessions", State.WARNING, message, fix, (), details)
    pids = [process.pid for process in holders_of([files.children_lock])[files.children_lock]]
    message += ", but commands that its driver started still run"
    commands = (f"kill {' '.join(map(str, pids))}",) if pids else (f"fuser -v {quote(str(files.children_lock))}",)
    fix = f"{fix}, when they have ended; wait for them, or end them:"
    return Finding("sessions", State.WARNING, message, fix, commands, {**details, "pids": pids})
