"""The files of a turn: who may touch a session's worktree when, and its snapshots and commit (DESIGN §5).

Sequential writers share the session's worktree of a repo. Writers that the graph runs at the same time take turns in it
until they get worktrees of their own; readers need none, since they read the objects of the commit they started from.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestra.agents.context import SESSION_SLOT, TurnFailed
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.notices import listed
from orchestra.runtime.restore import restore, stand_on
from orchestra.runtime.snapshots import take
from orchestra.runtime.turns import commit_turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    from orchestra.agents.context import Snapshot, TurnRequest
    from orchestra.runtime.git import GitManager, Worktree
    from orchestra.runtime.staging import Skipped
    from orchestra.runtime.workspace import Workspace
    from orchestra.runtime.worktree import WorktreeManager


@dataclass(frozen=True, slots=True)
class Held:
    """The commit that holds a repo's integrated files, and the number of its snapshot."""

    commit: str
    number: int


class SharedLock:
    """A lock that one writer holds, or several readers of the same commit; served in the order of asking."""

    def __init__(self) -> None:
        self._gate = asyncio.Lock()
        self._readers = 0
        self._commit: str | None = None
        """What the readers read."""
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold it alone."""
        async with self._gate:
            await self._idle.wait()
            yield

    @asynccontextmanager
    async def shared(self, commit: str, prepare: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
        """Hold it beside other readers of a commit.

        Args:
            commit: What is to be read.
            prepare: Called while nobody else is in: brings the files to the commit.
        """
        async with self._gate:
            if commit != self._commit:
                await self._idle.wait()
            if not self._readers:
                await prepare()
            self._commit = commit
            self._readers += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._idle.set()


class IntegratedFiles:
    """The integrated files of a session: which commit each repo is at, and the worktrees they lie in.

    Args:
        git: Starts git.
        worktrees: Makes the worktrees.
        workspace: The repositories.
        held: Where each repo is: that of the last checkpoint, with its pending writes applied.
        pipeline: The pipeline's name, for commit messages.
        session: The session's id.
        prepare: Gets a new worktree ready for its first agent: `prepare(worktree, commit, tell)`.
        tell: Logs an event: `tell(type, payload, turn)`.
    """

    def __init__(
        self,
        git: GitManager,
        worktrees: WorktreeManager,
        workspace: Workspace,
        held: dict[str, Held],
        *,
        pipeline: str,
        session: str,
        prepare: Callable[[Worktree, str, Callable[[str, dict[str, Any]], None]], Awaitable[None]],
        tell: Callable[[str, dict[str, Any], TurnRequest], None],
    ) -> None:
        self.git = git
        self._worktrees = worktrees
        self._workspace = workspace
        self.held = held
        self.pipeline = pipeline
        self.session = session
        self._prepare = prepare
        self.tell = tell
        self._left_out: set[tuple[str, Skipped]] = set()
        """Files in no snapshot that the user was told of."""
        self._locks = {name: SharedLock() for name in workspace.repos}
        self.fault: TurnFailed | None = None
        """The fault of the machine that stopped a turn: who moved its files on now would make it start anew."""
        self._first: set[str] = set()
        """Nodes that were in the middle of a turn when the session was left: they go before others."""
        self._first_done = asyncio.Event()
        self._first_done.set()

    def let_go_first(self, nodes: Collection[str]) -> None:
        """Give nodes that were interrupted inside a turn the worktrees before nodes that start afresh."""
        self._first = set(nodes)
        if self._first:
            self._first_done.clear()

    def let_pass(self, node: str) -> None:
        """Note that a node's turn is over, however it ended: the others need not wait for it any more."""
        self._first.discard(node)
        if not self._first:
            self._first_done.set()

    @asynccontextmanager
    async def turn(self, request: TurnRequest, inner: Snapshot | None) -> AsyncIterator[TurnFiles]:
        """Give a turn its files.

        Args:
            request: Which repos it needs, and what for.
            inner: The snapshot at its last checkpoint inside; None: it starts afresh.
        """
        if request.node not in self._first and request.worktrees:
            await self._first_done.wait()
        async with AsyncExitStack() as stack:
            files = await self._open(request, inner, stack)
            yield files
            # Only now: commits of a turn that fails after them (a condition, another repo) are in no checkpoint, and
            # whoever has the worktree next must not stand on them. Its opening puts the files back.
            self.held.update(files.committed)

    async def _open(self, request: TurnRequest, inner: Snapshot | None, stack: AsyncExitStack) -> TurnFiles:
        """Take the worktrees one after another, and bring each to the commit that the turn has to see there."""
        entries = (inner or {}).get(SESSION_SLOT, {})
        base = {name: self._base_of(name, request, entries.get(name)) for name in self._workspace.repos}
        trees: dict[str, Worktree] = {}

        async def bring(name: str, commit: str) -> None:
            repo = self._workspace.repos[name].repository
            trees[name] = await self._worktrees.ensure(repo, SESSION_SLOT, base[name].commit)
            await self._prepare(trees[name], base[name].commit, partial(self._tell_of, request))
            await self._put_back(trees[name], commit, request)

        for name in request.worktrees:
            if name not in request.writes:
                # Its own checkpoint's files, whatever writers before and after it have made of the worktree.
                commit = base[name].commit
                await stack.enter_async_context(self._locks[name].shared(commit, partial(bring, name, commit)))
                if name not in trees:
                    repo = self._workspace.repos[name].repository
                    trees[name] = await self._worktrees.ensure(repo, SESSION_SLOT, commit)
                continue
            await stack.enter_async_context(self._locks[name].exclusive())
            if self.fault is not None:
                raise self.fault
            base[name] = self._base_of(name, request, entries.get(name))
            if base[name].commit != self.held[name].commit:
                raise TurnFailed(
                    f"the files of {name!r} have moved on since this turn of {request.node!r} was interrupted",
                    code="base-moved",
                    retry="restart",
                )
            await bring(name, entries.get(name, {}).get("commit", base[name].commit))
        return TurnFiles(self, request, trees, base, entries)

    def _base_of(self, name: str, request: TurnRequest, entry: dict[str, Any] | None) -> Held:
        """Return where a repo was when the turn began.

        A turn that is gone on with keeps the commit that it began on. A new one that may write begins on what the turn
        before it left; one that only reads sees the files of the checkpoint, whatever happens beside it.
        """
        if entry is not None and "on" in entry:
            return Held(entry["on"], self.held[name].number)
        if entry is None and name in request.writes:
            return self.held[name]
        entry = entry or request.snapshot.get(SESSION_SLOT, {}).get(name)
        return Held(entry["commit"], entry["n"]) if entry else Held(self._workspace.repos[name].base, 0)

    def warn_of(self, repo: str, skipped: Sequence[Skipped], request: TurnRequest) -> None:
        """Say once which files of a worktree are in no commit, and why."""
        new = [item for item in skipped if (repo, item) not in self._left_out]
        self._left_out.update((repo, item) for item in new)
        if new:
            names = listed([f"{item.path} ({item.reason})" for item in new])
            message = f"{repo}: in no commit of the session: {names}"
            self.tell("warning", {"code": "snapshot-incomplete", "message": message}, request)

    def _tell_of(self, request: TurnRequest, kind: str, payload: dict[str, Any]) -> None:
        self.tell(kind, payload, request)

    async def _put_back(self, tree: Worktree, commit: str, request: TurnRequest) -> None:
        restored = await restore(self.git, tree, commit, session=self.session)
        if restored.rescue_ref or restored.moved_aside:
            details = {
                "repo": tree.repository.name,
                "commit": commit,
                "rescue": restored.rescue_ref,
                "moved_aside": [str(path) for path in restored.moved_aside],
            }
            self.tell("files_put_back", details, request)


class TurnFiles:
    """The worktrees of one turn, from its first snapshot to its commit."""

    def __init__(
        self,
        files: IntegratedFiles,
        request: TurnRequest,
        trees: dict[str, Worktree],
        base: dict[str, Held],
        entries: dict[str, dict[str, Any]],
    ) -> None:
        self._files = files
        self._request = request
        self.trees = trees
        self.base = base
        """Where every repo was when the turn began: what its reading tools see."""
        self.committed: dict[str, Held] = {}
        """What the turn's commits hold, for those after it."""
        inside = {name: entry for name, entry in entries.items() if "on" in entry}
        self._now = {
            name: Held(inside[name]["commit"], inside[name]["n"]) if name in inside else base[name] for name in base
        }

    @property
    def start(self) -> Snapshot:
        """The snapshot channel with which the turn's own checkpoints begin."""
        return {SESSION_SLOT: {name: {"commit": held.commit, "n": held.number} for name, held in self.base.items()}}

    def is_changed(self, name: str) -> bool:
        """Tell whether the turn has changed a repo, as of its last snapshot."""
        return self._now[name].commit != self.base[name].commit

    async def snapshot(self) -> Snapshot:
        """Take a snapshot of every repo that the turn may change; `{}` when nothing changed."""
        changed: dict[str, dict[str, Any]] = {}
        for name in self._request.writes:
            before = self._now[name]
            taken = await take(
                self._files.git,
                self.trees[name],
                previous=before.commit,
                number=before.number + 1,
            )
            self._files.warn_of(name, taken.skipped, self._request)
            if taken.changed:
                failpoint("snapshot-taken")
                self._now[name] = Held(taken.commit, before.number + 1)
                on = self.base[name].commit
                changed[name] = {"commit": taken.commit, "n": before.number + 1, "on": on}
                skipped = [f"{item.path} ({item.reason})" for item in taken.skipped]
                if taken.mended:
                    text = f"objects in {name!r} could not be read and were made again: {', '.join(taken.mended)}"
                    self._files.tell("warning", {"code": "object-mended", "message": text}, self._request)
                self._files.tell(
                    "snapshot_taken", {"repo": name, "commit": taken.commit, "skipped": skipped}, self._request
                )
        return {SESSION_SLOT: changed} if changed else {}

    async def commit(self, messages: Mapping[str, str]) -> Snapshot:
        """Make the turn's one commit in every repo that it changed.

        Args:
            messages: Repo → what the commit is to say.
        """
        await self.snapshot()
        failpoint("turn-ending")
        entries: dict[str, dict[str, Any]] = {}
        for name in self._request.writes:
            tree, now, base = self.trees[name], self._now[name], self.base[name]
            if now.commit == base.commit:
                continue
            commit = await commit_turn(
                self._files.git,
                tree,
                session=self._files.session,
                pipeline=self._files.pipeline,
                agent=self._request.node,
                turn=self._request.number,
                tree_of=now.commit,
                parent=base.commit,
                message=messages.get(name),
                date=_date(self._request.started_at),
            )
            failpoint("turn-committed")
            held = Held(commit, now.number + 1)
            if commit != base.commit:
                self._files.tell("turn_committed", {"repo": name, "commit": commit}, self._request)
            await stand_on(self._files.git, tree, commit)
            failpoint("worktree-on-commit")
            self.committed[name] = held
            entries[name] = {"commit": held.commit, "n": held.number}
        return {SESSION_SLOT: entries} if entries else {}


def _date(text: str) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)
