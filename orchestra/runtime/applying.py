"""`apply`: a session's result comes into the user's checkouts as uncommitted changes, or as a branch.

All repositories are looked at before anything is written, and all reasons against it are told at once.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import GitError, OrchestraError, Problem, RefusedError, did_you_mean
from orchestra.runtime.applied import Applied, AppliedRepo
from orchestra.runtime.branch_making import make_branches, plan_branch
from orchestra.runtime.bringing import Journal, applied_ref, bring, recover
from orchestra.runtime.driver_lock import DriverLock
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.filters import read_filters
from orchestra.runtime.git import GitManager
from orchestra.runtime.incoming import Incoming, Outcome, work_out
from orchestra.runtime.obstacles import find_obstacles, links_out
from orchestra.runtime.outcome import read_result
from orchestra.runtime.removal_mark import refuse_half_removed
from orchestra.runtime.repository import judge_checkout
from orchestra.runtime.snapshots import remove_scratch, scratch_directory
from orchestra.runtime.store import SessionFiles, Status, read_session, refuse_copy, session_ids
from orchestra.runtime.tree_changes import changes_between
from orchestra.runtime.worktree import repository_locks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestra.runtime.bringing import Begun
    from orchestra.runtime.git import Repository
    from orchestra.runtime.store import SessionRecord

PATIENCE = 30.0
"""Seconds to wait for what a killed process has left at work."""


async def apply(
    files: SessionFiles, *, repos: Sequence[str] | None = None, branch: str | None = None, dry_run: bool = False
) -> Applied:
    """Bring a session's result into the user's checkouts, in all repositories or in none.

    Args:
        files: The session's.
        repos: Only these; by default all.
        branch: Make a branch of this name at the result instead; no checkout is touched.
        dry_run: Only tell what would happen.

    Raises:
        SessionBusyError: Another process drives the session.
        RefusedError: With all reasons; nothing was touched.
        GitError: Git failed; all files are as they were.
        SessionError: `apply-unfinished`: so did putting them back; the next `apply` does it.
    """
    lock = DriverLock(files)
    await lock.acquire_after_orphans(PATIENCE)
    try:
        record = read_session(files)
        if record.status in (Status.CREATED, Status.RUNNING):  # as it looks while the lock is ours
            called_off = files.cancellation.exists()
            record = replace(record, status=Status.CANCELLED if called_off else Status.INTERRUPTED)
        refuse_copy(files, record, "apply")
        refuse_half_removed(files)
        async with AsyncExitStack() as stack:
            return await _Application(record, lock, stack, branch=branch, dry_run=dry_run).run(repos)
    finally:
        lock.release()


class _Application:
    def __init__(
        self, record: SessionRecord, lock: DriverLock, stack: AsyncExitStack, *, branch: str | None, dry_run: bool
    ) -> None:
        self._record = record
        self._session = record.session_id
        self._lock_fd = lock.fd
        self._stack = stack
        self._branch = branch
        self._dry_run = dry_run
        self._journal = Journal(record.files)
        self._results = read_result(record.files)
        self._problems: list[Problem] = []
        self._git = GitManager(lock_fds=[lock.fd], session=record.session_id)

    async def run(self, repos: Sequence[str] | None) -> Applied:
        begun = self._journal.read()
        chosen = self._choose(repos)
        opened = await self._open([*chosen, *(name for name in begun if name not in chosen)])
        self._refuse()
        await self._lock(opened)
        recovered, left = await self._recover(begun, opened)
        found = {name: await self._plan(name, opened[name]) for name in chosen}
        self._refuse()
        failpoint("apply-planned")
        rescued: dict[str, str] = {}
        coming = {name: one for name, one in found.items() if isinstance(one, Incoming) and one.changes}
        making = {name: one for name, one in found.items() if isinstance(one, AppliedRepo) and one.state == "branched"}
        if not self._dry_run and self._branch is not None:
            await make_branches(self._git, self._branch, {name: (opened[name], making[name].commit) for name in making})
        elif not self._dry_run and coming:
            rescued = await bring(self._git, self._journal, coming)
        applied = {name: await self._tell(one, rescued.get(name)) for name, one in found.items() if one is not None}
        record = self._record
        return Applied(
            record=record,
            repos=applied,
            branch=self._branch,
            dry_run=self._dry_run,
            recovered=recovered,
            left=tuple(left),
        )

    def _choose(self, repos: Sequence[str] | None) -> list[str]:
        known = self._record.workspace
        for name in repos or ():
            if name not in known:
                hint = did_you_mean(name, known) or f"the session has {', '.join(map(repr, known))}"
                self._problems.append(Problem("unknown-repo", f"the session has no repo {name!r}", hint=hint))
        return [name for name in known if repos is None or not repos or name in repos]

    def _refuse(self) -> None:
        if self._problems:
            raise RefusedError(self._problems)

    def _object(self, error: OrchestraError) -> None:
        self._problems += error.problems

    async def _open(self, names: Iterable[str]) -> dict[str, Repository]:
        opened = {}
        for name in names:
            path = Path(self._record.workspace[name]["path"])
            try:
                if not path.exists():  # noqa: ASYNC240 - one look at the disk
                    message = f"the repo {name!r} of this session is not at {path} any more"
                    self._problems.append(Problem("repo-moved", message, hint="put it back there, then apply again"))
                    continue
                repo = await self._git.open(name, path, judge=False)
                if repo.top not in (None, path):  # git went on looking in the directories above
                    message = f"the repo {name!r} of this session is at {path}, which is a part of {repo.top} now"
                    self._problems.append(Problem("repo-changed", message, hint="put the repository back there"))
                    continue
                await read_filters(self._git, repo)
                opened[name] = repo
            except GitError as error:
                self._object(error)
        return opened

    async def _lock(self, opened: Mapping[str, Repository]) -> None:
        """Keep every other `apply` out of these repositories, also that of another session."""
        fds = await repository_locks(self._stack, opened.values())
        overrides = self._git.overrides
        self._git = GitManager(lock_fds=[self._lock_fd, *fds], session=self._session)
        self._git.overrides = overrides
        if not self._dry_run:
            for repo in opened.values():
                remove_scratch(repo, self._session)

    async def _recover(
        self, begun: Mapping[str, Begun], opened: Mapping[str, Repository]
    ) -> tuple[str | None, list[str]]:
        self._refuse_others(opened)
        if not begun:
            return None, []
        if self._dry_run:
            message = "an earlier `apply` of this session was cut off"
            hint = f"run `orchestra apply {self._session}`: it finishes that, or puts the files back first"
            raise RefusedError([Problem("apply-unfinished", message, hint=hint)])
        finished, left = await recover(self._git, self._journal, opened, begun)
        failpoint("apply-recovered")
        return "finished" if finished else "undone", left

    def _refuse_others(self, opened: Mapping[str, Repository]) -> None:
        """Refuse checkouts in which another session's `apply` was cut off: what lies there is nobody's files."""
        if self._branch is not None:  # no checkout is looked at
            return
        places = {str(repo.top): name for name, repo in opened.items() if repo.top}
        sessions = self._record.files.directory.parent
        for other in session_ids(sessions.parents[1]):
            if other == self._session:
                continue
            for one in Journal(SessionFiles(sessions / other)).read().values():
                if one.path in places:
                    message = f"an `apply` of the session {other} into the repo {places[one.path]!r} was cut off"
                    hint = f"end it first: `orchestra apply {other}`"
                    self._problems.append(Problem("apply-unfinished", message, hint=hint))
        self._refuse()

    async def _plan(self, name: str, repo: Repository) -> Incoming | AppliedRepo | None:
        try:
            return await self._plan_one(name, repo)
        except GitError as error:
            self._object(error)
            return None

    async def _plan_one(self, name: str, repo: Repository) -> Incoming | AppliedRepo | None:
        base = str(self._record.workspace[name]["base"])
        result = self._results.get(name, base)
        missing = [commit for commit in (base, result) if not await self._git.exists(repo, [f"{commit}^{{tree}}"])]
        if missing:
            message = f"the repo {name!r} does not have the commit {missing[0]} of the session any more"
            hint = "its refs/orchestra were deleted, or it is another repository"
            self._problems.append(Problem("commit-missing", message, hint=hint))
            return None
        place = str(repo.top or repo.git_dir)
        if await self._git.tree_of(repo, base) == await self._git.tree_of(repo, result):
            return AppliedRepo(path=place, state="unchanged", commit=result)
        if self._branch is not None:
            is_new = await plan_branch(self._git, repo, self._branch, result)
            changes = await changes_between(self._git, repo, base, result)
            state = "branched" if is_new else "already-applied"
            return AppliedRepo(path=place, state=state, commit=result, changes=changes if is_new else ())
        return await self._plan_checkout(repo, base, result)

    async def _plan_checkout(self, repo: Repository, base: str, result: str) -> Incoming | None:
        if repo.top is None:
            message = f"the repo {repo.name!r} ({repo.git_dir}) is bare: it has no files to change"
            hint = f"make a branch: `orchestra apply {self._session} --repo {repo.name} --branch NAME`"
            self._problems.append(Problem("bare-repository", message, hint=hint))
            return None
        await judge_checkout(self._git, repo)
        last = await self._git.read_ref(repo, f"{applied_ref(self._session)}^2")
        scratch = self._stack.enter_context(scratch_directory(repo, self._session))
        outcome = Outcome(session=self._session, base=base, result=result, last=last)
        found = await work_out(self._git, repo, scratch / "index", outcome)
        if isinstance(found, Problem):
            self._problems.append(found)
            return None
        self._problems += await find_obstacles(self._git, repo, found.index, found.changes, session=self._session)
        return found

    async def _tell(self, one: Incoming | AppliedRepo, rescue: str | None) -> AppliedRepo:
        if isinstance(one, AppliedRepo):
            return one
        return AppliedRepo(
            path=str(one.repo.top),
            state="applied" if one.changes else "already-applied",
            commit=one.outcome.result,
            changes=one.changes,
            rescue=rescue,
            links_out=await links_out(self._git, one.repo, one.changes),
        )
