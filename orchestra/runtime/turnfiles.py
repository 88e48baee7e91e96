"""The files of one turn: its snapshots, and the one commit in which it ends (DESIGN §5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.handover import TurnConflict, lend, take_back
from orchestra.runtime.restore import stand_on
from orchestra.runtime.snapshots import take
from orchestra.runtime.turns import commit_turn, date_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.agents.context import Snapshot, TurnRequest
    from orchestra.runtime.git import GitManager, Worktree
    from orchestra.runtime.slotfiles import SlotFiles
    from orchestra.runtime.snapshots import Taken


@dataclass(frozen=True, slots=True)
class Held:
    """The commit that holds a repo's integrated files, and the number of its snapshot."""

    commit: str
    number: int


class TurnFiles:
    """The worktrees of one turn, from its first snapshot to its commit."""

    def __init__(
        self,
        files: SlotFiles,
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
        self.committed: Snapshot = {}
        """What the turn's commits hold, for those after it."""
        inside = {name: entry for name, entry in entries.items() if "on" in entry}
        self._now = {
            name: Held(inside[name]["commit"], inside[name]["n"]) if name in inside else base[name] for name in base
        }
        self._conflict = _conflict_of(files.git, request, trees, entries)

    @property
    def start(self) -> Snapshot:
        """The snapshot channel with which the turn's own checkpoints begin: one entry for each repo."""
        start: Snapshot = {}
        for name, held in self.base.items():
            start.setdefault(self._slot(name), {})[name] = {"commit": held.commit, "n": held.number}
        return start

    def changes(self) -> dict[str, tuple[str, str]]:
        """Return repo → the commits before and after, of what the turn has changed as of its last snapshot."""
        return {name: (self.base[name].commit, now.commit) for name, now in self._now.items() if self.is_changed(name)}

    def commits(self) -> dict[str, str]:
        """Return repo → the commit that the turn has there now."""
        return {name: now.commit for name, now in self._now.items()}

    def lend(self) -> None:
        """Let a person work in the worktrees while an answer is waited for."""
        for name in self._request.writes:
            lend(self.trees[name], self._now[name].commit, self._request)

    async def rewind(self, snapshot: Snapshot) -> Snapshot:
        """Put the files back to an earlier snapshot of the turn; what lay there is kept as a rescue, and named.

        Returns:
            The snapshot channel's update; `{}` when nothing had changed since.
        """
        entries = {repo: entry for repos in snapshot.values() for repo, entry in repos.items()}
        update: Snapshot = {}
        for name in self._request.writes:
            entry, now = entries[name], self._now[name]
            take_back(self.trees[name])
            await self._files.rewind(self.trees[name], self._request, entry)
            if self._conflict_in(name):
                self._conflict = _conflict_of(self._files.git, self._request, self.trees, entries)
            if now.commit != entry["commit"] or self._conflict_in(name):
                failpoint("files-rewound")
                self._now[name] = Held(entry["commit"], now.number + 1)
                again = {"on": self.base[name].commit, **entry, "n": now.number + 1}
                update.setdefault(self._request.slot(name), {})[name] = again
        return update

    def _slot(self, name: str) -> str:
        return self._request.slot(name) if name in self.trees else self._request.begins_on(name)

    def is_changed(self, name: str) -> bool:
        """Tell whether the turn has changed a repo, as of its last snapshot."""
        return self._now[name].commit != self.base[name].commit

    async def touched(self, name: str, paths: Sequence[str]) -> None:
        """Take what a tool did to files for the resolution of their conflicts, where they have one."""
        if conflict := self._conflict_in(name):
            await conflict.touched(paths)

    def _conflict_in(self, name: str) -> TurnConflict | None:
        return self._conflict if self._conflict is not None and self._conflict.repo == name else None

    async def snapshot(self) -> Snapshot:
        """Take a snapshot of every repo that the turn may change; `{}` when nothing changed."""
        changed: Snapshot = {}
        for name in self._request.writes:
            before = self._now[name]
            taken = await take(
                self._files.git,
                self.trees[name],
                previous=before.commit,
                number=before.number + 1,
            )
            self._files.warn_of(name, taken.skipped, self._request)
            conflict = self._conflict_in(name)
            got_on = conflict is not None and await conflict.got_on()
            if taken.changed or got_on:
                failpoint("snapshot-taken")
                self._now[name] = Held(taken.commit, before.number + 1)
                entry: dict[str, Any] = {"commit": taken.commit, "n": before.number + 1, "on": self.base[name].commit}
                if conflict is not None:
                    entry |= {"unmerged": list(conflict.unmerged), "given_up": conflict.given_up}
                changed.setdefault(self._request.slot(name), {})[name] = entry
            if taken.changed:
                self._tell_taken(name, taken)
            else:
                take_back(self.trees[name])  # else the next checkpoint, which names another commit, makes it void
        return changed

    def _tell_taken(self, name: str, taken: Taken) -> None:
        skipped = [f"{item.path} ({item.reason})" for item in taken.skipped]
        if taken.mended:
            text = f"objects in {name!r} could not be read and were made again: {', '.join(taken.mended)}"
            self._files.tell("warning", {"code": "object-mended", "message": text}, self._request)
        self._files.tell("snapshot_taken", {"repo": name, "commit": taken.commit, "skipped": skipped}, self._request)

    async def commit(self, messages: Mapping[str, str]) -> Snapshot:
        """Make the turn's one commit in every repo that it changed.

        Args:
            messages: Repo → what the commit is to say.

        Raises:
            TurnFailed: `unresolved-conflict`: something is left of a conflict that the turn had to resolve.
        """
        if self._conflict is not None:
            await self._conflict.adopt_submodules()
        await self.snapshot()
        failpoint("turn-ending")
        if self._conflict is not None:
            await self._conflict.refuse_unresolved(self._now[self._conflict.repo].commit)
        entries: Snapshot = {}
        for name in self._request.writes:
            tree, now, base = self.trees[name], self._now[name], self.base[name]
            conflict = self._conflict_in(name)
            if now.commit == base.commit and conflict is None:
                continue
            commit = await commit_turn(
                self._files.git,
                tree,
                session=self._files.session,
                pipeline=self._files.pipeline,
                agent=self._request.node,
                turn=self._request.number,
                tree_of=now.commit,
                parents=(base.commit,) if conflict is None else conflict.sides,
                message=messages.get(name),
                date=date_of(self._request.started_at),
            )
            failpoint("turn-committed")
            if commit != base.commit:
                self._files.tell("turn_committed", {"repo": name, "commit": commit}, self._request)
            await stand_on(self._files.git, tree, commit)
            failpoint("worktree-on-commit")
            entries.setdefault(self._request.slot(name), {})[name] = {"commit": commit, "n": now.number + 1}
        self.committed = entries
        return entries


def _conflict_of(
    git: GitManager, request: TurnRequest, trees: Mapping[str, Worktree], entries: Mapping[str, Mapping[str, Any]]
) -> TurnConflict | None:
    record = request.conflict
    if record is None or record["repo"] not in request.writes:
        return None
    entry = entries.get(record["repo"], {})
    unmerged, given_up = entry.get("unmerged"), bool(entry.get("given_up"))
    return TurnConflict(git, trees[record["repo"]], record, unmerged, given_up=given_up, agent=request.node)
