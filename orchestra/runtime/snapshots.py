"""Snapshots: the exact files of a moment as a commit under `refs/orchestra`, and the index of them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestra.errors import GitError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import RefUpdate
from orchestra.runtime.objects import mend_objects
from orchestra.runtime.staging import Skipped, seed_index, stage
from orchestra.runtime.worktree import ignore_own_directory, known_head, raw_head, remember_head, safe_name

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping, Sequence

    import aiosqlite

    from orchestra.runtime.git import GitManager, Repository, Worktree
    from orchestra.runtime.repository import DirtyState


@dataclass(frozen=True, slots=True)
class Taken:
    """The files of a worktree as a commit."""

    commit: str
    """The snapshot before, when nothing changed."""
    tree: str
    changed: bool
    skipped: tuple[Skipped, ...] = ()
    """What it does not hold."""
    mended: tuple[str, ...] = ()
    """Objects that could not be read, and were made again from the files."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a session starts from in one repository."""

    commit: str
    dirty: DirtyState
    skipped: tuple[Skipped, ...] = ()


async def take(
    git: GitManager, worktree: Worktree, *, previous: str, number: int, date: datetime | None = None
) -> Taken:
    """Make a commit of the files of a worktree, unless they are those of the previous one.

    Args:
        git: Starts git.
        worktree: Whose files.
        previous: The commit that held them last.
        number: Counts the snapshots of the slot.
        date: When; by default now.
    """
    async with git.exclusive(worktree.index):
        staged = await stage(git, worktree, worktree.index)
        if staged.tree == await git.tree_of(worktree, previous):
            return Taken(previous, staged.tree, changed=False, skipped=staged.skipped)
        failpoint("files-staged")
        before = await git.tree_of(worktree, previous)
        mended = await mend_objects(git, worktree, worktree.index, before, staged.tree, session=worktree.session)
        message = f"Snapshot {number} of {worktree.slot}\n"
        commit = await chain(git, worktree, staged.tree, previous, message=message, date=date or datetime.now(UTC))
        return Taken(commit, staged.tree, changed=True, skipped=staged.skipped, mended=mended)


async def chain(git: GitManager, worktree: Worktree, tree: str, previous: str, *, message: str, date: datetime) -> str:
    """Commit a tree on top of what its slot's reference holds, so that nothing it held can be lost.

    Parents are the previous snapshot, the tip of the chain where it is another (a snapshot that no checkpoint came
    to name, or those inside the turn before), and the agent's own commits.
    """
    ref = slot_ref(worktree)
    head = await moved_head(git, worktree)
    key = (worktree.repository.common_dir, ref)
    while True:
        known = key in git.tips
        tip = git.tips[key] if known else await git.read_ref(worktree, ref)
        parents = list(dict.fromkeys(parent for parent in (previous, tip, head) if parent))
        commit = await git.commit_tree(worktree, tree, parents, message, author=None, date=date)
        failpoint("snapshot-committed")
        try:
            await git.update_refs(worktree, [RefUpdate(ref, commit, tip)])
        except GitError as error:
            git.tips.pop(key, None)
            if known and error.code == "ref-moved":
                continue
            raise
        failpoint("snapshot-pinned")
        git.tips[key] = commit
        if head:
            remember_head(worktree, head)
        return commit


def slot_ref(worktree: Worktree) -> str:
    """Return the reference that holds a slot's snapshots."""
    return f"refs/orchestra/{worktree.session}/wt/{worktree.slot}"


async def moved_head(git: GitManager, worktree: Worktree) -> str | None:
    """Return the worktree's HEAD if the agent moved it to where nothing of ours keeps it."""
    raw = raw_head(worktree)
    known = known_head(worktree)
    if raw == known:
        return None
    head = await git.read_ref(worktree, "HEAD^{commit}")
    return head if head != known else None


async def base_snapshot(
    git: GitManager, repo: Repository, *, session: str, mode: Literal["include", "head", "refuse"], date: datetime
) -> Base:
    """Fix the commit that a session starts from, and keep it from git's clean-up.

    It is chosen once: a session whose base is fixed already gets that one again.

    Args:
        git: Starts git.
        repo: The user's repository.
        session: The session's id.
        mode: What to do with uncommitted work.
        date: The date of the commit that holds it.
    """
    ref = f"refs/orchestra/{safe_name(session)}/base"
    pinned = await git.read_ref(repo, ref)
    if mode == "include" and repo.top is not None and pinned is None:
        base = await _include(git, repo, session, date)
    else:
        base = await _committed(git, repo, mode, date)
    if pinned is not None:
        return Base(pinned, base.dirty)
    failpoint("base-committed")
    await git.update_refs(repo, [RefUpdate(ref, base.commit, None)])
    failpoint("base-pinned")
    return base


async def _committed(git: GitManager, repo: Repository, mode: str, date: datetime) -> Base:
    dirty = await git.dirty(repo)
    if mode == "refuse" and not dirty.clean:
        message = f"repository {repo.name!r} has uncommitted work: {dirty}"
        raise GitError(message, code="dirty-checkout", hint="commit it, or set `workspace: {dirty: include}`")
    return Base(repo.head or await _empty_root(git, repo, date), dirty)


async def _empty_root(git: GitManager, repo: Repository, date: datetime) -> str:
    """Make a commit of no files: an empty repository has none to start from, and its branch stays unborn."""
    tree = (await git.run(repo, "hash-object", "-t", "tree", "-w", "--stdin", input=b"")).text
    return await git.commit_tree(repo, tree, [], "An empty repository\n", author=None, date=date)


async def _include(git: GitManager, repo: Repository, session: str, date: datetime) -> Base:
    """Commit the user's files as they are, read through a copy of the user's index."""
    with scratch_directory(repo, session) as scratch:
        index = scratch / "index"
        await seed_index(git, repo, index)
        staged = await stage(git, repo, index)
        git.index_trees.pop(index, None)
        if not staged.dirty.clean:
            before = await git.tree_of(repo, repo.head) if repo.head else None
            await mend_objects(git, repo, index, before, staged.tree, session=session)
    if repo.head is not None and staged.tree == await git.tree_of(repo, repo.head):
        return Base(repo.head, staged.dirty, staged.skipped)
    if repo.head is None and staged.dirty.clean:
        return Base(await _empty_root(git, repo, date), staged.dirty, staged.skipped)
    where = f"the branch {repo.branch}" if repo.branch else "a detached HEAD"
    message = (
        "Uncommitted work of the user's checkout\n\n"
        f"What lay on top of {where} when the Orchestra session {session}\nstarted: {staged.dirty}.\n"
    )
    parents = [repo.head] if repo.head else []
    commit = await git.commit_tree(repo, staged.tree, parents, message, author=None, date=date)
    return Base(commit, staged.dirty, staged.skipped)


@contextlib.contextmanager
def scratch_directory(repo: Repository, session: str) -> Iterator[Path]:
    """Give a directory for a moment, in which nobody looks for anything."""
    ignore_own_directory(repo)
    root = (repo.top or repo.git_dir) / ".orchestra"
    root.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f"scratch-{session}-") as scratch:
        yield Path(scratch)


def remove_scratch(repo: Repository, session: str) -> None:
    """Remove what a kill left of scratch directories."""
    for directory in ((repo.top or repo.git_dir) / ".orchestra").glob(f"scratch-{session}-*"):
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class RepoState:
    """One repository at a checkpoint, as the index holds it."""

    repo: str
    commit_sha: str
    branch: str | None = None
    worktree_path: str | None = None
    """Where the session's worktree lies, below the repository's top; None where it has none."""
    agent: str | None = None


class WorkspaceSnapshotIndex:
    """Which checkpoint belongs to which commits, both ways.

    An index only: checkpoints hold the commits themselves, and it can be rebuilt from them.

    Args:
        connection: The session's database.
        lock: The lock of all who write to it.
        session: The session's id.
    """

    def __init__(self, connection: aiosqlite.Connection, lock: asyncio.Lock, session: str) -> None:
        self._connection = connection
        self._lock = lock
        self._session = session

    async def setup(self) -> None:
        """Make the tables, where they lack."""
        async with self._lock:
            await self._connection.executescript(_sql()["schema"])
            await self._connection.commit()

    async def record(
        self, checkpoint_id: str, checkpoint_ns: str, states: Sequence[RepoState], *, created_at: str
    ) -> bool:
        """Record the commits of a checkpoint, in one transaction; returns False when none is new.

        New is a commit that is not the last one recorded for its repository and worktree.
        """
        key = {"checkpoint_id": checkpoint_id, "checkpoint_ns": checkpoint_ns}
        async with self._lock:
            await self._connection.execute("BEGIN IMMEDIATE")
            try:
                changed = any([await self._is_new(state) for state in states])
                if changed:
                    row = {**key, "session": self._session, "created_at": created_at}
                    await self._connection.execute(_sql()["insert_snapshot"], row)
                    for state in states:
                        await self._connection.execute(_sql()["insert_state"], {**key, **asdict(state)})
            except BaseException:
                await self._connection.rollback()
                raise
            await self._connection.commit()
        return changed

    async def commits_of(self, checkpoint_id: str, checkpoint_ns: str = "") -> dict[str, RepoState]:
        """Return the repositories at a checkpoint, by name.

        A checkpoint at which nothing was new has no row: the newest one before it counts, of its own namespace if
        there is one. (With parallel writers only the checkpoint itself is sure to tell whose files it means.)
        """
        key = {"checkpoint_id": checkpoint_id, "checkpoint_ns": checkpoint_ns, "session": self._session}
        rows = await self._fetch("states_at", key)
        return {state.repo: state for state in map(_repo_state, rows)}

    async def checkpoints_of(self, commit: str) -> list[tuple[str, str]]:
        """Return the checkpoints `(id, namespace)` that name a commit, oldest first."""
        return [(str(row[0]), str(row[1])) for row in await self._fetch("checkpoints_of", {"commit_sha": commit})]

    async def _is_new(self, state: RepoState) -> bool:
        key = {"session": self._session, "repo": state.repo, "worktree_path": state.worktree_path}
        return [tuple(row) for row in await self._fetch("last_commit", key)] != [(state.commit_sha,)]

    async def _fetch(self, name: str, values: Mapping[str, object]) -> list[Sequence[object]]:
        async with self._connection.execute(_sql()[name], values) as cursor:
            return [tuple(row) for row in await cursor.fetchall()]


def _repo_state(row: Sequence[object]) -> RepoState:
    repo, commit, *others = row
    branch, path, agent = (None if value is None else str(value) for value in others)
    return RepoState(str(repo), str(commit), branch, path, agent)


@cache
def _sql() -> dict[str, str]:
    text = Path(__file__).with_name("sql").joinpath("snapshots.sql").read_text(encoding="utf-8")
    parts = (part.split("\n", 1) for part in text.split("-- name: ")[1:])
    return {name.strip(): statement for name, statement in parts}
