"""The saver: LangGraph's checkpoints in the session's database, each with the commits that hold its files.

What `orchestra log` shows of a checkpoint is written into its metadata here, so that reading it needs no LangGraph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from orchestra.agents.context import SESSION_SLOT, newest_snapshot
from orchestra.graph.merging import shown
from orchestra.graph.state import JOURNAL
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.serializer import StrictSerializer
from orchestra.runtime.store import schema

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    import aiosqlite
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata

    from orchestra.agents.context import Snapshot
    from orchestra.graph.regions import Branch

METADATA_KEY = "orchestra"
"""Where a checkpoint's metadata holds `{seq, agent, ended, next, repos, slots, integrated, in_conflict, changed,
created_at}`."""

BRANCH_MARK = "branch:to:"
"""LangGraph's channels that start a node in the next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCheckpoint:
    """A checkpoint that has just been written."""

    id: str
    namespace: str
    agent: str | None
    repos: Mapping[str, str]
    """The commit of each, as the agent has it that the checkpoint is about."""
    slots: Mapping[str, str]
    """Repo → the worktree that has these files."""
    integrated: Mapping[str, str]
    """The commits that the session's branches follow."""
    changed: Sequence[str]
    created_at: str
    in_conflict: bool
    """Whether a conflict is open, so that no branch may move."""


class OrchestraSaver(AsyncSqliteSaver):
    """LangGraph's SQLite saver with a strict serializer and the commits in every checkpoint's metadata.

    Args:
        connection: The session's only writing connection.
        nodes: Agents and steps, so that helper nodes never show.
        joins: Join nodes; they show in `next`.
        entries: What starts first: `next` of the very first checkpoint.
        base: The commit of every repo at the session's start.
        branches: Those that are graphs of their own, by the name of the node that stands for them.
    """

    after_put: Callable[[SavedCheckpoint], Awaitable[None]] | None = None
    """Called when a checkpoint is on disk: branches follow checkpoints."""
    before_put: Callable[[], Awaitable[None]] | None = None
    """Called before a checkpoint or its pending writes are written: their events come first."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        *,
        nodes: Iterable[str],
        joins: Iterable[str],
        entries: Sequence[str],
        base: Mapping[str, str],
        branches: Mapping[str, Branch] | None = None,
    ) -> None:
        super().__init__(connection, serde=StrictSerializer())
        self._nodes = tuple(nodes)
        self._shown = (*self._nodes, *joins)
        self._entries = tuple(entries)
        self._base = dict(base)
        self._branches = dict(branches or {})
        self._seq = 0
        self._shown_repos: dict[str, dict[str, str]] = {}
        """Namespace → the commits that its newest checkpoint names; the root's is ''."""

    async def prepare(self) -> None:
        """Go on where an earlier process stopped: sequence, and the clock of the checkpoints' ids.

        LangGraph takes the greatest id for the latest checkpoint, and ids come from the wall clock. When that has gone
        back since, new checkpoints would hide behind old ones.
        """
        await self.setup()
        async with self.lock:
            await self.conn.executescript(schema("events") + schema("order"))
            rows = await self.conn.execute_fetchall(
                "SELECT MAX(CAST(CAST(metadata AS TEXT) ->> '$.orchestra.seq' AS INTEGER)), MAX(checkpoint_id)"
                " FROM checkpoints"
            )
        ((seq, newest),) = rows
        self._seq = seq or 0
        if newest:
            raise_clock(newest)

    @property
    def count(self) -> int:
        """How many checkpoints the session has written, those of the session that it has left included."""
        return self._seq

    async def expected_snapshot(self, thread_id: str, namespace: str) -> Snapshot | None:
        """Return the snapshot channel at the last checkpoint of a namespace, pending writes applied.

        Args:
            thread_id: The session.
            namespace: That of a turn's own checkpoints; the root's is empty.

        Returns:
            None when there is no checkpoint yet.
        """
        found = await self.aget_tuple({"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace}})
        if found is None:
            return None
        snapshot = _snapshot(found.checkpoint)
        for _, channel, value in found.pending_writes or ():
            if channel == "snapshot":
                snapshot = newest_snapshot(snapshot, value)
        return snapshot

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Write a checkpoint with what `log` shows of it, then let the branches follow."""
        namespace = str(config["configurable"].get("checkpoint_ns", ""))
        await self._recall(namespace, config)
        saved = self._describe(namespace, checkpoint)
        if self.before_put is not None:
            await self.before_put()
        self._seq += 1
        shown = {
            "seq": self._seq,
            "agent": saved.agent,
            "ended": _ended(checkpoint) if self.is_between_turns(namespace) else [],
            "next": self._next(namespace, checkpoint, saved.agent),
            "repos": dict(saved.repos),
            "slots": dict(saved.slots),
            "integrated": dict(saved.integrated),
            "in_conflict": saved.in_conflict,
            "changed": list(saved.changed),
            "created_at": saved.created_at,
        }
        enriched: dict[str, Any] = {**metadata, METADATA_KEY: shown}
        failpoint("checkpoint-due")
        result = await super().aput(config, checkpoint, cast("CheckpointMetadata", enriched), new_versions)
        if not namespace:
            self._shown_repos.clear()  # the turns of the step are over, and their namespaces with them
        self._shown_repos[namespace] = dict(saved.repos)
        if self.after_put is not None:
            await self.after_put(saved)
        return result

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Write what a task gave, which the next checkpoint takes in."""
        if self.before_put is not None:
            await self.before_put()
        failpoint("writes-due")
        await super().aput_writes(config, writes, task_id, task_path)
        failpoint("writes-stored")

    def is_between_turns(self, namespace: str) -> bool:
        """Tell whether a namespace is the root's or that of a branch, not one inside a turn."""
        return all(name in self._branches for name in names_of(namespace))

    async def finished_turns(self) -> frozenset[tuple[str, int]]:
        """Return `(node, turn)` of every turn of the session that has ended, in whatever branch."""
        async with self.lock:
            rows = await self.conn.execute_fetchall(
                "SELECT ended.value ->> '$.agent', ended.value ->> '$.turn' FROM checkpoints,"
                " json_each(CAST(metadata AS TEXT), '$.orchestra.ended') AS ended"
            )
            pending = await self.conn.execute_fetchall("SELECT type, value FROM writes WHERE channel = 'turns'")
        written = [self.serde.loads_typed((kind, value)) for kind, value in pending]
        return frozenset((row[0], row[1]) for row in rows) | {pair for turns in written for pair in turns.items()}

    async def _recall(self, namespace: str, config: RunnableConfig) -> None:
        """Read what the checkpoint before names, where an earlier process wrote it."""
        if namespace not in self._shown_repos:
            found = await self.aget_tuple(config)
            if found is not None:
                about: dict[str, Any] = cast("dict[str, Any]", found.metadata).get(METADATA_KEY, {})
                self._shown_repos[namespace] = dict(about.get("repos", {}))

    def _describe(self, namespace: str, checkpoint: Checkpoint) -> SavedCheckpoint:
        snapshot = _snapshot(checkpoint)
        slots = self._slots(namespace, checkpoint, snapshot)
        repos = {repo: _commit(snapshot, slots[repo], repo) or base for repo, base in self._base.items()}
        before = self._shown_repos.get(namespace, repos)
        return SavedCheckpoint(
            id=checkpoint["id"],
            namespace=namespace,
            agent=self._agent(namespace, checkpoint),
            repos=repos,
            slots=slots,
            integrated={repo: _commit(snapshot, SESSION_SLOT, repo) or base for repo, base in self._base.items()},
            changed=[repo for repo, commit in repos.items() if before.get(repo) != commit],
            created_at=checkpoint["ts"],
            in_conflict=any((checkpoint["channel_values"].get("_merging") or {}).values()),
        )

    def _slots(self, namespace: str, checkpoint: Checkpoint, snapshot: Snapshot) -> dict[str, str]:
        """Tell whose files a checkpoint names: those of the agent that it is about, else those of its branch.

        Inside a turn the snapshot channel has one entry for each repo: that of the agent's own worktree.
        """
        if not self.is_between_turns(namespace):
            own = {repo: slot for slot, repos in snapshot.items() for repo in repos}
            return {repo: own.get(repo, SESSION_SLOT) for repo in self._base}
        stands = checkpoint["channel_values"].get("_stands") or []
        at = shown(stands, _ended(checkpoint))
        if not stands and namespace:
            entry = self._branches[names_of(namespace)[-1]].entry
            at = (_held(checkpoint, "_positions") or {}).get(entry, {})
        return {repo: at.get(repo, SESSION_SLOT) for repo in self._base}

    def _agent(self, namespace: str, checkpoint: Checkpoint) -> str | None:
        if not self.is_between_turns(namespace):
            return next((name for name in reversed(names_of(namespace)) if name in self._nodes), None)
        ended = _ended(checkpoint)
        return str(ended[0]["agent"]) if len(ended) == 1 else None

    def _next(self, namespace: str, checkpoint: Checkpoint, agent: str | None) -> list[str]:
        if not self.is_between_turns(namespace):
            return [agent] if agent else []
        branch = self._branches[names_of(namespace)[-1]] if namespace else None
        entries = self._entries if branch is None else [branch.entry]
        channels = checkpoint["channel_values"]
        if "__start__" in channels:
            return list(entries)
        marked = [name.removeprefix(BRANCH_MARK) for name in channels if name.startswith(BRANCH_MARK)]
        started = {self._branches[name].entry if name in self._branches else name for name in marked}
        started.update(target for entry in channels.get(JOURNAL) or () for target in entry.get("frontier", ()))
        if any(name not in self._shown for name in started):
            return list(entries)  # the conditions on START are yet to be asked
        return sorted(started, key=self._shown.index)


def raise_clock(checkpoint_id: str) -> None:
    """Make sure that the next checkpoint's id is greater than this one, whatever the wall clock says."""
    newest = checkpoint_ids.UUID(checkpoint_id).time
    known: int | None = checkpoint_ids._last_v6_timestamp  # noqa: SLF001 - LangGraph has no public way; a test pins it
    raised: Any = newest if known is None else max(known, newest)
    checkpoint_ids._last_v6_timestamp = raised  # noqa: SLF001


def _snapshot(checkpoint: Checkpoint) -> Snapshot:
    return _held(checkpoint, "snapshot") or {}


def _held(checkpoint: Checkpoint, channel: str) -> Any:
    """Return what a channel holds, also in the very first checkpoint of a graph, which has only the input."""
    channels = checkpoint["channel_values"]
    return channels.get(channel) or (channels.get("__start__") or {}).get(channel)


def _commit(snapshot: Snapshot, slot: str, repo: str) -> str | None:
    entry = snapshot.get(slot, {}).get(repo)
    return str(entry["commit"]) if entry else None


def names_of(namespace: str) -> list[str]:
    """Return the nodes that a namespace leads through, the outermost first."""
    return [part.split(":", 1)[0] for part in namespace.split("|")] if namespace else []


def _ended(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    return list(checkpoint["channel_values"].get("ended") or [])
