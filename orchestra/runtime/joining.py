"""Bringing the commits of branches together: in order, up to the first conflict, no worktree touched (DESIGN §5.9)."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestra.agents.context import SESSION_SLOT
from orchestra.agents.meeting import Merged, Settled
from orchestra.runtime.conflicts import adopt_submodules
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import RefUpdate
from orchestra.runtime.handover import hand_over, how_to_resolve, is_handed_over, lay_out, what_is_left
from orchestra.runtime.merges import Conflict, merge_commits
from orchestra.runtime.restore import restore, stand_on
from orchestra.runtime.staging import stage
from orchestra.runtime.turns import date_of, merge_message, pin
from orchestra.runtime.worktree import raw_head, remember_head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from orchestra.agents.context import Snapshot
    from orchestra.agents.meeting import MergeRequest, Position, Record, Side
    from orchestra.runtime.git import GitManager, Repository, Worktree
    from orchestra.runtime.observability import ObservabilityLogger
    from orchestra.runtime.slotfiles import SlotFiles
    from orchestra.runtime.workspace import Workspace
    from orchestra.runtime.worktree import WorktreeManager

_PATHS_AT_ONCE = 200
"""On one command line, which holds so much and no more."""


class Joiner:
    """Merges what arrives at the joins of a session, and hands conflicts to people.

    Args:
        git: Starts git.
        worktrees: Makes the worktrees.
        workspace: The repositories.
        files: Which commit each repo is at in each slot.
        log: The event log.
        nodes: Agents and steps in the order of the file.
    """

    def __init__(
        self,
        git: GitManager,
        worktrees: WorktreeManager,
        workspace: Workspace,
        files: SlotFiles,
        log: ObservabilityLogger,
        nodes: Sequence[str],
    ) -> None:
        self._git = git
        self._worktrees = worktrees
        self._workspace = workspace
        self._files = files
        self._log = log
        self._nodes = tuple(nodes)
        self._removals = asyncio.Semaphore(os.cpu_count() or 1)
        self._numbers = asyncio.Lock()
        """Held while a conflict gets its number: joins of several branches may conflict at the same time."""

    async def merge(self, request: MergeRequest) -> Merged:
        """Merge repo by repo and side by side, in each up to its first conflict; the first one of all is opened.

        Raises:
            GitError: Git could not do its part.
        """
        placing = _Placing(request, self._files)
        record: Record | None = None
        for repo in placing.repos:
            ours, number = placing.begin(repo)
            while number < len(request.sides):
                theirs = request.sides[number].commits.get(repo, ours)
                merged = await self._pair(request, repo, ours, number, theirs)
                if isinstance(merged, Conflict):
                    if record is None:
                        record = await self._record(request, repo, ours, number, theirs, merged)
                        ours = record["commit"]
                    break
                ours, number = merged, number + 1
            placing.put(repo, ours, reached=number)
        if record is None:
            return Merged(placing.snapshot, placing.position)
        record["reached"] = placing.reached
        return Merged(placing.snapshot, placing.position, record, {str(record["n"]): _told(record)})

    async def _pair(self, request: MergeRequest, repo: str, ours: str, number: int, theirs: str) -> str | Conflict:
        if ours == theirs:
            return ours
        repository, side = self._workspace.repos[repo].repository, request.sides[number]
        session = self._files.session
        merged = await merge_commits(
            self._git,
            repository,
            ours,
            theirs,
            message=merge_message(side.name, join=request.join, pipeline=self._files.pipeline, session=session),
            author=None,
            date=date_of(request.date),
            labels=(_label(request.sides[:number]), side.name),
            session=session,
        )
        if not isinstance(merged, Conflict) and merged not in (ours, theirs):
            failpoint("merge-made")
            slot = request.into.get(repo, SESSION_SLOT)
            await pin(self._git, repository, f"refs/orchestra/{session}/turn/{slot}", merged, expected=ours)
            failpoint("merge-pinned")
            self._log.emit("merged", {"repo": repo, "join": request.join, "from": side.name, "commit": merged})
        return merged

    async def _record(
        self, request: MergeRequest, repo: str, ours: str, number: int, theirs: str, conflict: Conflict
    ) -> Record:
        repository, side = self._workspace.repos[repo].repository, request.sides[number]
        paths = ", ".join(one.path for one in conflict.paths)
        commit = await self._git.commit_tree(
            repository,
            conflict.tree,
            (ours, theirs),
            f"Conflict of {side.name} before {request.target}\n\nWith markers, in: {paths}\n",
            author=None,
            date=date_of(request.date),
        )
        async with self._numbers:
            n = await self._number(repository, commit)
        await self._keep_stages(repository, conflict, n, date_of(request.date))
        failpoint("conflict-kept")
        base = await self._git.merge_base(repository, ours, theirs)
        who = [
            await self._authors(repository, conflict, f"{base}..{ours}")
            or [one.name for one in request.sides[:number]],
            await self._authors(repository, conflict, f"{base}..{theirs}") or [side.name],
        ]
        record: dict[str, Any] = {
            "n": n,
            "join": request.join,
            "target": request.target,
            "repo": repo,
            "slot": request.into.get(repo, SESSION_SLOT),
            "side": number,
            "ours": ours,
            "theirs": theirs,
            "commit": commit,
            "resolver": request.resolvers.get(repo, "fail"),
            "conflict": conflict.as_json(),
            "who": who,
            "sides": [one.as_json() for one in request.sides],
        }
        details = {key: record[key] for key in ("n", "repo", "join", "target", "resolver", "commit")}
        self._log.emit("conflict", {**details, "paths": record["conflict"]["paths"], "agents": [*who[0], *who[1]]})
        return record

    async def _number(self, repository: Repository, commit: str) -> int:
        """Keep the commit with the markers under the next free number, or under its own if a kill came after that."""
        prefix = f"refs/orchestra/{self._files.session}/conflict"
        known: Counter[int] = Counter()
        for repo in self._workspace.repos.values():
            for ref, sha in (await self._git.refs(repo.repository, prefix)).items():
                number = int(ref.rpartition("/")[2])
                if sha == commit:
                    return number
                known[number] += 1
        number = max(known, default=0) + 1
        await self._git.update_refs(repository, [RefUpdate(f"{prefix}/{number}", commit, None)])
        return number

    async def _keep_stages(self, repository: Repository, conflict: Conflict, n: int, date: datetime) -> None:
        """Keep what only the index of a conflict names: of a rename git writes the merged file as a side's stage."""
        plain = {one.path for one in conflict.paths if one.kind in {"content", "modify/delete"}}
        blobs = sorted({one.sha for one in conflict.stages if one.path not in plain and one.mode != "160000"})
        if blobs:
            lines = "".join(f"100644 blob {sha}\t{sha}\n" for sha in blobs).encode()
            tree = (await self._git.run(repository, "mktree", input=lines)).text
            message = f"Files that the index of conflict {n} names\n"
            commit = await self._git.commit_tree(repository, tree, (), message, author=None, date=date)
            await pin(self._git, repository, f"refs/orchestra/{self._files.session}/stages/{n}", commit, expected=None)

    async def _authors(self, repository: Repository, conflict: Conflict, commits: str) -> list[str]:
        """Return the agents that have changed the paths on one side, in the order of the file."""
        paths = [f":(literal){path}" for path in dict.fromkeys(one.path for one in conflict.stages)]
        form = "--format=%(trailers:key=Orchestra-Agent,valueonly,separator=)"
        found: set[str] = set()
        for start in range(0, len(paths), _PATHS_AT_ONCE):
            some = paths[start : start + _PATHS_AT_ONCE]
            found.update((await self._git.run(repository, "log", form, commits, "--", *some)).text.splitlines())
        return [name for name in self._nodes if name in found]

    async def settle(self, record: Record, date: str) -> Settled:
        """Lay a conflict out for a person, or take up what the person has done with it since.

        Returns:
            The resolved files, as a merge commit: the person's own, if there is one; or what is left to do.
        """
        repo, slot = record["repo"], record["slot"]
        repository = self._workspace.repos[repo].repository
        async with self._files.lock(slot, repo).exclusive():
            tree = await self._worktrees.ensure(repository, slot, record["commit"])
            if not is_handed_over(tree, record):
                await restore(self._git, tree, record["commit"], session=self._files.session)
                await lay_out(self._git, tree, record, None)
                hand_over(tree, record)
                failpoint("conflict-handed-over")
            await adopt_submodules(self._git, tree, Conflict.from_json(record["conflict"]))
            async with self._git.exclusive(tree.index):
                files = (await stage(self._git, tree, tree.index)).tree
            left = await what_is_left(self._git, tree, record, files)
            if left:
                return Settled({}, left, how_to_resolve(tree))
            commit = await self._persons_commit(tree, record, files, date)
            await pin(
                self._git, tree, f"refs/orchestra/{self._files.session}/turn/{slot}", commit, expected=record["ours"]
            )
            if raw_head(tree) == commit:  # the person's own commit is kept now: there is nothing to rescue
                remember_head(tree, commit)
            await stand_on(self._git, tree, commit)
            # The mark stays: after a kill before the checkpoint this is found done, and nobody is asked again.
        self._log.emit("conflict_resolved", {"n": record["n"], "repo": repo, "commit": commit})
        entry = {"commit": commit, "n": self._files.next_number(slot, repo)}
        return Settled({slot: {repo: entry}})

    async def _persons_commit(self, tree: Worktree, record: Record, files: str, date: str) -> str:
        """Return the merge that a person made; what is not committed becomes a merge commit of ours."""
        head = await self._git.read_ref(tree, "HEAD^{commit}")
        parents = [record["ours"], record["theirs"]]
        if head not in (None, record["ours"]) and await self._git.holds(tree, str(head), parents):
            if await self._git.tree_of(tree, str(head)) == files:
                return str(head)
            parents = [str(head)]
        message = merge_message(
            record["sides"][record["side"]][0],
            join=record["join"],
            pipeline=self._files.pipeline,
            session=self._files.session,
        )
        return await self._git.commit_tree(tree, files, parents, message, author=None, date=date_of(date))

    async def retire(self, slots: Mapping[str, Sequence[str]]) -> None:
        """Remove the worktrees of branches that are merged: repo → slots.

        All ask for their locks at once: whoever enters one of them anew, in a loop, comes behind.
        """
        known = self._workspace.repos
        wanted = [(repo, slot) for repo, names in slots.items() for slot in names if repo in known]
        await asyncio.gather(*(self._retire(repo, slot) for repo, slot in wanted if known[repo].repository.top))

    async def _retire(self, repo: str, slot: str) -> None:
        async with self._files.lock(slot, repo).exclusive(), self._removals:
            await self._files.remove(repo, slot)


class _Placing:
    """Puts what a merge gives into slots."""

    def __init__(self, request: MergeRequest, files: SlotFiles) -> None:
        self._request = request
        self._files = files
        self.repos = list(request.snapshot.get(SESSION_SLOT, {}))
        self.snapshot: Snapshot = {}
        self.position: Position = dict(request.position)
        self.reached: dict[str, int] = {}
        """Repo → the first side that is not merged yet."""

    def begin(self, repo: str) -> tuple[str, int]:
        """Return the commit that is merged into, and the first side to merge."""
        after = self._request.after
        if after is None:
            return self._request.sides[0].commits[repo], 1
        known = self._request.snapshot.get(self.position.get(repo, SESSION_SLOT), {}).get(repo)
        commit = known["commit"] if known else self._request.sides[0].commits[repo]
        return commit, after["reached"][repo] + (after["repo"] == repo)

    def put(self, repo: str, commit: str, *, reached: int) -> None:
        """Let the files of a repo be those of a commit, in the slot of the merge unless they are so already."""
        self.reached[repo] = reached
        where = self._where(repo)
        known = self._request.snapshot.get(where, {}).get(repo)
        if known is None or known["commit"] != commit:
            where = self._request.into.get(repo, SESSION_SLOT)
            known = self._request.snapshot.get(where, {}).get(repo)
            if known is None or known["commit"] != commit:
                number = max(self._files.next_number(where, repo), known["n"] + 1 if known else 0)
                entry = {"commit": commit, "n": number}
                self.snapshot.setdefault(where, {})[repo] = entry
        self.position[repo] = where
        if where == SESSION_SLOT:
            del self.position[repo]

    def _where(self, repo: str) -> str:
        """Return the slot that all sides are in; the slot of the merge where they differ, or where that one ends."""
        if self._request.after is not None:
            return self.position.get(repo, SESSION_SLOT)
        slots = {side.position.get(repo, SESSION_SLOT) for side in self._request.sides if repo in side.commits}
        if len(slots) > 1 or not slots.isdisjoint(self._request.retired.get(repo, ())):
            return self._request.into.get(repo, SESSION_SLOT)
        return slots.pop()


def _label(sides: Sequence[Side]) -> str:
    """Return what markers call the files that are merged into."""
    names = [side.name for side in sides]
    return names[0] if len(names) == 1 else "merged"


def _told(record: Record) -> dict[str, Any]:
    agents = list(dict.fromkeys([*record["who"][0], *record["who"][1]]))
    paths = [{"path": path, "kind": kind, "agents": agents} for path, kind in record["conflict"]["paths"]]
    return {"repo": record["repo"], "paths": paths, "resolved_by": None}
