"""The files of a session: who works in which worktree when, and from which commit on (DESIGN §5).

Sequential writers share the session's worktree of a repo; writers that the graph runs at the same time have one each.
Should two turns meet in one worktree nevertheless, they take turns in it. Readers need none, since they read the
objects of the commit they started from; those that run commands get a worktree with just the files of that commit.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestra.agents.context import TurnFailed
from orchestra.runtime.handover import is_handed_over, is_lent, lay_out
from orchestra.runtime.notices import listed
from orchestra.runtime.removal import remove_worktree
from orchestra.runtime.restore import restore, stand_on
from orchestra.runtime.shared_lock import SharedLock
from orchestra.runtime.turnfiles import Held, TurnFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    from orchestra.agents.context import Snapshot, TurnRequest
    from orchestra.runtime.git import GitManager, Worktree
    from orchestra.runtime.staging import Skipped
    from orchestra.runtime.workspace import Workspace
    from orchestra.runtime.worktree import WorktreeManager


class SlotFiles:
    """The files of a session: which commit each repo is at in each slot, and the worktrees they lie in.

    Args:
        git: Starts git.
        worktrees: Makes the worktrees.
        workspace: The repositories.
        newest: The snapshot channel: that of the last checkpoints, with their pending writes applied.
        claims: Node → the `(slot, repo)` in which it may write.
        pipeline: The pipeline's name, for commit messages.
        session: The session's id.
        prepare: Gets a new worktree ready for its first agent: `prepare(worktree, commit, tell)`.
        tell: Logs an event, of a turn or of none: `tell(type, payload, turn)`.
    """

    def __init__(
        self,
        git: GitManager,
        worktrees: WorktreeManager,
        workspace: Workspace,
        newest: Snapshot,
        *,
        claims: Mapping[str, frozenset[tuple[str, str]]],
        pipeline: str,
        session: str,
        prepare: Callable[[Worktree, str, Callable[[str, dict[str, Any]], None]], Awaitable[None]],
        tell: Callable[[str, dict[str, Any], TurnRequest | None], None],
    ) -> None:
        self.git = git
        self._worktrees = worktrees
        self._workspace = workspace
        self._held: dict[tuple[str, str], Held] = {}
        self.adopt(newest)
        self._claims = claims
        self.pipeline = pipeline
        self.session = session
        self._prepare = prepare
        self.tell = tell
        self._left_out: set[tuple[str, Skipped]] = set()
        """Files in no snapshot that the user was told of."""
        self._locks: defaultdict[tuple[str, str], SharedLock] = defaultdict(SharedLock)
        self.fault: TurnFailed | None = None
        """The fault of the machine that stopped a turn: who moved its files on now would make it start anew."""
        self._first: set[str] = set()
        """Nodes that were in the middle of a turn when the session was left: they go before others."""
        self._passed = asyncio.Event()
        """Set and replaced whenever one of them is done."""

    def adopt(self, snapshot: Snapshot) -> None:
        """Note newer commits of slots, which a checkpoint holds or is sure to hold."""
        for slot, repos in snapshot.items():
            for repo, entry in repos.items():
                known = self._held.get((slot, repo))
                if known is None or entry["n"] >= known.number:
                    self._held[slot, repo] = Held(entry["commit"], entry["n"])

    def held(self, slot: str, repo: str) -> Held | None:
        """Return the newest commit of a slot; None: nobody has worked there."""
        return self._held.get((slot, repo))

    def next_number(self, slot: str, repo: str) -> int:
        """Return the number of the next snapshot of a slot."""
        known = self._held.get((slot, repo))
        return known.number + 1 if known else 1

    def lock(self, slot: str, repo: str) -> SharedLock:
        """Return the lock of a worktree."""
        return self._locks[slot, repo]

    def let_go_first(self, nodes: Collection[str]) -> None:
        """Give nodes that were interrupted inside a turn their worktrees before nodes that start afresh there."""
        self._first = set(nodes)

    def let_pass(self, node: str) -> None:
        """Note that a node's turn is over, however it ended: the others need not wait for it any more."""
        if node in self._first:
            self._first.discard(node)
            self._passed.set()
            self._passed = asyncio.Event()

    async def _wait_for_first(self, request: TurnRequest) -> None:
        wanted = {(request.slot(repo), repo) for repo in request.worktrees}
        while request.node not in self._first and any(
            not wanted.isdisjoint(self._claims.get(node, ())) for node in self._first
        ):
            await self._passed.wait()

    @asynccontextmanager
    async def turn(self, request: TurnRequest, inner: Snapshot | None) -> AsyncIterator[TurnFiles]:
        """Give a turn its files.

        Args:
            request: Which repos it needs, and what for.
            inner: The snapshot at its last checkpoint inside; None: it starts afresh.
        """
        await self._wait_for_first(request)
        async with AsyncExitStack() as stack:
            files = await self._open(request, inner, stack)
            yield files
            # Only now: commits of a turn that fails after them (a condition, another repo) are in no checkpoint, and
            # whoever has the worktree next must not stand on them. Its opening puts the files back.
            self.adopt(files.committed)

    async def _open(self, request: TurnRequest, inner: Snapshot | None, stack: AsyncExitStack) -> TurnFiles:
        """Take the worktrees one after another, and bring each to the commit that the turn has to see there."""
        entries = {repo: entry for repos in (inner or {}).values() for repo, entry in repos.items()}
        base = {name: self._base_of(name, request, entries.get(name)) for name in self._workspace.repos}
        trees: dict[str, Worktree] = {}

        async def bring(name: str, commit: str) -> None:
            repo = self._workspace.repos[name].repository
            tree = self._worktrees.find(repo, request.slot(name))
            if name not in entries and _enters(request, name) and tree and not self._worktrees.is_half_made(tree):
                await self.remove(name, request.slot(name))
            trees[name] = await self._worktrees.ensure(repo, request.slot(name), base[name].commit)
            await self._prepare(trees[name], base[name].commit, partial(self._tell_of, request))
            await self._fill(trees[name], commit, request, entries.get(name))

        for name in request.worktrees:
            lock = self.lock(request.slot(name), name)
            if name not in request.writes:
                # Its own checkpoint's files, whatever writers before and after it have made of the worktree.
                commit = base[name].commit
                await stack.enter_async_context(lock.shared(commit, partial(bring, name, commit)))
                if name not in trees:
                    repo = self._workspace.repos[name].repository
                    trees[name] = await self._worktrees.ensure(repo, request.slot(name), commit)
                continue
            await stack.enter_async_context(lock.exclusive())
            if self.fault is not None:
                raise self.fault
            base[name] = self._base_of(name, request, entries.get(name))
            self._refuse_moved(name, request, base[name])
            await bring(name, entries.get(name, {}).get("commit", base[name].commit))
        return TurnFiles(self, request, trees, base, entries)

    def _base_of(self, name: str, request: TurnRequest, entry: dict[str, Any] | None) -> Held:
        """Return where a repo was when the turn began.

        A turn that is gone on with keeps the commit that it began on. A new one that may write begins on what the turn
        before it left in its worktree; one that only reads, or that comes into a worktree of its own, sees the files of
        the checkpoint, whatever happens beside it.
        """
        slot, known = request.slot(name), self.held(request.slot(name), name)
        number = known.number if known else 0
        if entry is not None and "on" in entry:
            return Held(entry["on"], number)
        conflict = request.conflict
        if conflict is not None and conflict["repo"] == name and entry is None:
            return Held(conflict["commit"], number)
        if entry is None and known is not None and name in request.writes and request.begins_on(name) == slot:
            return known
        entry = entry or request.snapshot.get(request.begins_on(name), {}).get(name)
        if entry is None:
            return Held(self._workspace.repos[name].base, number)
        return Held(entry["commit"], number if name in request.writes else entry["n"])

    def _refuse_moved(self, name: str, request: TurnRequest, base: Held) -> None:
        """Refuse to go on with a turn in a worktree in which another turn has moved the files on."""
        known = self.held(request.slot(name), name)
        if request.begins_on(name) == request.slot(name) and known is not None and base.commit != known.commit:
            raise TurnFailed(
                f"the files of {name!r} have moved on since this turn of {request.node!r} was interrupted",
                code="base-moved",
                retry="restart",
            )

    async def _fill(self, tree: Worktree, commit: str, request: TurnRequest, entry: Mapping[str, Any] | None) -> None:
        """Bring the files to a commit, with the conflict that the turn has to resolve, unless a person has them."""
        record = request.conflict
        if entry is not None and is_lent(tree, commit, request):
            return
        if record is None or record["repo"] != tree.repository.name:
            await self._put_back(tree, commit, request)
            return
        if entry is not None and is_handed_over(tree, record):
            return
        await self._put_back(tree, commit, request)
        known = entry or {}
        await lay_out(self.git, tree, record, known.get("unmerged"), given_up=bool(known.get("given_up")))

    async def rewind(self, tree: Worktree, request: TurnRequest, entry: Mapping[str, Any]) -> None:
        """Put the files of a running turn back to those of an earlier snapshot of it."""
        self._worktrees.note_use(tree)
        await self._fill(tree, entry["commit"], request, entry)

    async def remove(self, name: str, slot: str) -> None:
        """Remove the worktree of a slot, if there is one; what lies in it beyond its commits is kept, and named."""
        repo, held = self._workspace.repos[name], self.held(slot, name)
        commit = held.commit if held else repo.base
        rescue = await remove_worktree(self.git, self._worktrees, repo.repository, slot, commit)
        if rescue is not None:
            self.tell("files_kept", {"repo": name, "slot": slot, "rescue": rescue}, None)

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
        if self._worktrees.is_fresh(tree, commit):
            await stand_on(self.git, tree, commit)  # git has just written every file: none is looked at again
            return
        restored = await restore(self.git, tree, commit, session=self.session)
        if restored.rescue_ref or restored.moved_aside:
            details = {
                "repo": tree.repository.name,
                "commit": commit,
                "rescue": restored.rescue_ref,
                "moved_aside": [str(path) for path in restored.moved_aside],
            }
            self.tell("files_put_back", details, request)


def _enters(request: TurnRequest, repo: str) -> bool:
    """Tell whether a turn is the first of its branch to come into its worktree, which has to be a fresh one."""
    slot = request.slot(repo)
    return slot == request.node and request.begins_on(repo) != slot and request.attempt == 1
