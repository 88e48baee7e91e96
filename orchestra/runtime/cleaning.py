"""Removing sessions that have ended, with all they left: what nobody has elsewhere is never removed unasked.

A cleanup is planned, then done from the plan (`cleanup_plan`). Each session goes under its own lock, in an order in
which a kill loses nothing: a mark in its directory, then its worktrees, its references, and at last the directory
itself, in one step. The next cleanup finishes what has the mark.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from orchestra.errors import GitError, OrchestraError, SessionBusyError, SessionError
from orchestra.runtime.cleanup_plan import Plan, Reason, RepoPlan, Report, SessionPlan
from orchestra.runtime.creation import ID_LENGTH
from orchestra.runtime.driver_lock import DriverLock
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import GitManager, RefUpdate
from orchestra.runtime.machine import machine_error
from orchestra.runtime.processes import current_directories
from orchestra.runtime.removal import delete_tree, empty_trash, make_writable, remove_worktree
from orchestra.runtime.removal_mark import mark_begun, mark_half_removed, unmark
from orchestra.runtime.repo_survey import RepoSurvey, SessionRepo
from orchestra.runtime.snapshots import remove_scratch
from orchestra.runtime.store import STATE_DIRECTORY, SessionFiles, find_session, session_ids, sessions_directory
from orchestra.runtime.survey import REMOVABLE, Looked, Survey, look_at
from orchestra.runtime.worktree import WorktreeManager, make_parents, repository_locks, stamp, worktree_place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from pathlib import Path

    from orchestra.runtime.git import Repository

DEFAULT_AGE = timedelta(days=14)
_BUSY = 1.0
"""Seconds that a session's lock is waited for: somebody may just look whether it is held."""
_TRASHED = re.compile(rf"[0-9a-z]{{{ID_LENGTH}}}-[a-z0-9_-]+")


async def plan_cleanup(
    root: Path, *, sessions: Sequence[str] | None = None, older_than: timedelta = DEFAULT_AGE, discard: bool = False
) -> Plan:
    """Look what a cleanup would do; nothing is removed.

    Args:
        root: The project.
        sessions: Ids or unique beginnings of them, whatever their age; None: all that have ended and are old enough,
            and those that a cleanup had begun to remove.
        older_than: How long ago a session must have been at work last.
        discard: Whether what is nowhere else may be lost, too.

    Raises:
        SessionError: There is no such session, or the project's directory of sessions is a link.
    """
    _refuse_links(root)
    trash = tuple(_trash(root))
    chosen = _named(root, sessions, trash) if sessions is not None else _old(root, datetime.now(UTC) - older_than)
    looked = list(chosen)
    branches = frozenset(branch for one in looked for branch in one.branches)
    survey = Survey(RepoSurvey(GitManager(), branches, discard, cwds=current_directories()))
    return Plan(tuple([await survey.plan(one) for one in looked]), trash, discard, branches)


async def clean(root: Path, plan: Plan) -> Report:
    """Do what a plan says; a session that is not any more as it was then is kept."""
    opened: dict[Path, Repository | GitError] = {}
    done = [one if one.reasons else await _clean(root, one, plan, opened) for one in plan.sessions]
    for directory in plan.trash:
        await asyncio.to_thread(delete_tree, directory)
    with suppress(OSError):
        (root / STATE_DIRECTORY / "trash").rmdir()
    return Report(tuple(done), plan.trash)


def planned_report(plan: Plan) -> Report:
    """Return what will be reported when all goes as planned."""
    return Report(plan.sessions, plan.trash)


def _refuse_links(root: Path) -> None:
    for directory in (root / STATE_DIRECTORY, sessions_directory(root), root / STATE_DIRECTORY / "trash"):
        if directory.is_symlink():
            error = SessionError(
                f"{directory} is a link, and nothing is removed behind it",
                code="own-directory-is-link",
                hint=f"look where it leads: ls -ld '{directory}'",
            )
            error.exit_code = 2
            raise error


def _trash(root: Path) -> Iterable[Path]:
    """Return the directories of sessions that were on their way out when a kill came; others are not ours."""
    trash = root / STATE_DIRECTORY / "trash"
    for path in sorted(trash.iterdir()) if trash.is_dir() else ():
        if _TRASHED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path


def _named(root: Path, names: Sequence[str], trash: Sequence[Path]) -> Iterable[Looked]:
    found: dict[Path, SessionFiles] = {}
    for name in names:
        try:
            files = find_session(root, name)
        except SessionError:
            if name and any(path.name.startswith(name.lower()) for path in trash):
                continue  # it is gone but for that
            raise
        found[files.directory] = files
    return [look_at(files) for files in found.values()]


def _old(root: Path, before: datetime) -> Iterable[Looked]:
    for session in session_ids(root):
        files = SessionFiles(sessions_directory(root) / session)
        looked = look_at(files)
        at = looked.updated_at
        ended = looked.record is not None and looked.record.status in REMOVABLE
        if looked.record is None or files.cleanup_mark.exists() or (ended and (at is None or at <= before)):
            yield looked


class _Kept(Exception):  # noqa: N818 - a way out, no error
    """The session stays after all."""

    def __init__(self, *reasons: Reason) -> None:
        super().__init__()
        self.reasons = reasons


async def _clean(
    root: Path, planned: SessionPlan, plan: Plan, opened: dict[Path, Repository | GitError]
) -> SessionPlan:
    """Remove one session, or say why not."""
    files = SessionFiles(sessions_directory(root) / planned.session_id)
    lock = DriverLock(files)
    try:
        await lock.acquire_after_orphans(_BUSY)
        try:
            away, done = await _Cleaner(root, files, lock, plan, opened).remove(planned)
        finally:
            lock.release()
        failpoint("cleanup-session-away")
        await asyncio.to_thread(delete_tree, away)
        failpoint("cleanup-done")
    except (_Kept, OrchestraError, OSError) as error:
        if not files.directory.exists():
            return planned  # another cleanup has removed it meanwhile
        reasons = error.reasons if isinstance(error, _Kept) else (_failure(files, error),)
        return replace(planned, reasons=reasons, discarded=())
    return done


def _failure(files: SessionFiles, error: OrchestraError | OSError) -> Reason:
    if isinstance(error, OSError):
        named = machine_error(error, files.directory)
        error = named or SessionError(f"{error.filename or files.directory}: {error.strerror}", code="not-removed")
    code = "driven" if isinstance(error, SessionBusyError) else error.code
    return Reason(code, error.message, error.hint, final=True)


class _Cleaner:
    """Removes one session, whose lock is held."""

    def __init__(
        self,
        root: Path,
        files: SessionFiles,
        lock: DriverLock,
        plan: Plan,
        opened: dict[Path, Repository | GitError],
    ) -> None:
        self._root = root
        self._files = files
        self._discard = plan.discard
        self._lock_fd = lock.fd
        self._git = GitManager(lock_fds=[lock.fd], session=files.session_id)
        self._worktrees = WorktreeManager(self._git, files.session_id)
        self._survey = RepoSurvey(self._git, plan.branches, plan.discard, opened, current_directories())

    async def remove(self, planned: SessionPlan) -> tuple[Path, SessionPlan]:
        """Remove all that is not the session's directory, and move that away.

        Returns:
            Where the directory is now, and what was done: as planned, but for a branch that nobody else keeps any more.
        """
        looked = look_at(self._files, mine=True)
        now = await Survey(self._survey).plan(looked)
        if now != planned:
            message = "it is not any more as it was when the cleanup was planned"
            raise _Kept(*now.reasons or (Reason("changed", message, f"orchestra cleanup {self._files.session_id}"),))
        mark_begun(self._files)
        failpoint("cleanup-begun")
        known = {repo.name: repo for repo in looked.repos}
        for repo in now.repos:
            await self._remove_worktrees(known[repo.name], repo)
        async with self._alone(known[repo.name] for repo in now.repos) as git:
            ready = [await self._ready(known[repo.name], repo) for repo in now.repos]
            mark_half_removed(self._files)
            failpoint("cleanup-references-due")
            for one in ready:
                await self._remove_references(git, known[one.name], one)
        trash = self._root / STATE_DIRECTORY / "trash"
        trash.mkdir(mode=0o700, exist_ok=True)
        away = trash / f"{self._files.session_id}-{stamp()}"
        make_writable(self._files.directory)
        return self._files.directory.rename(away), replace(planned, repos=tuple(ready))

    @asynccontextmanager
    async def _alone(self, places: Iterable[SessionRepo]) -> AsyncIterator[GitManager]:
        """Let no other cleanup remove references there: of two, each would take the other's branch for a keeper.

        The git that it gives keeps them out as long as one of its processes lives.
        """
        async with AsyncExitStack() as stack:
            fds = await repository_locks(stack, [await self._survey.open(known.path) for known in places])
            yield GitManager(lock_fds=[self._lock_fd, *fds], session=self._files.session_id)

    async def _remove_worktrees(self, known: SessionRepo, plan: RepoPlan) -> None:
        repo = await self._survey.open(known.path)
        for tree in plan.worktrees:
            await remove_worktree(self._git, self._worktrees, repo, tree.slot, tree.commit, keep=not self._discard)
            failpoint("cleanup-worktree-removed")
        await empty_trash(repo, self._files.session_id)
        remove_scratch(repo, self._files.session_id)
        if repo.top is not None:
            with suppress(OSError):
                (repo.top / worktree_place(self._files.session_id, "any")).parent.rmdir()

    async def _ready(self, known: SessionRepo, planned: RepoPlan) -> RepoPlan:
        """Look once more, now that nobody can work in the worktrees; what somebody did there last is a rescue."""
        if self._discard:
            return planned
        plan, reasons = await self._survey.look(known, self._files.session_id, begun=True)
        if reasons or plan is None:
            unmark(self._files)
            raise _Kept(*reasons)
        return replace(planned, refs=plan.refs, branch=plan.branch, rescued=plan.rescued)

    async def _remove_references(self, git: GitManager, known: SessionRepo, plan: RepoPlan) -> None:
        repo = await self._survey.open(known.path)
        if plan.rescued is not None:
            away = plan.rescued.parents[1] / "trash" / f"{self._files.session_id}-rescue-{stamp()}"
            make_parents(repo, away)
            plan.rescued.rename(away)
            failpoint("cleanup-rescued-away")
            await asyncio.to_thread(delete_tree, away)
        updates = [RefUpdate(ref, None, sha) for ref, sha in plan.refs]
        if plan.branch is not None and plan.branch.stays is None:
            updates.append(RefUpdate(f"refs/heads/{plan.branch.name}", None, plan.branch.commit))
        # The base comes last: that it is there says that the others are the session's.
        base = f"refs/orchestra/{self._files.session_id}/base"
        for part in ([one for one in updates if one.ref != base], [one for one in updates if one.ref == base]):
            if part:
                await git.update_refs(repo, part)
                failpoint("cleanup-references-gone")
        with suppress(OSError):
            (plan.path / STATE_DIRECTORY / "trash").rmdir()
