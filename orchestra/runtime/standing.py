"""Where a session stands in its graphs: which turns were under way, and which commits are the newest.

A branch is a graph of its own: while it runs, the root's last checkpoint knows nothing of what has ended inside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.agents.context import newest_snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from langgraph.graph.state import CompiledStateGraph
    from langgraph.types import PregelTask, StateSnapshot

    from orchestra.agents.context import Snapshot
    from orchestra.graph.regions import Branch
    from orchestra.runtime.checkpoints import OrchestraSaver

STOPPED = frozenset({"__interrupt__", "__error__"})
"""What LangGraph writes for a task that has to run again."""


@dataclass(frozen=True, slots=True)
class Under:
    """A task of the last checkpoint of a graph, the root's or a branch's."""

    node: str
    namespace: str
    """That of the checkpoints inside it."""
    turn: int
    """Which turn of the agent or step it is."""
    written: frozenset[str]
    """The channels that it has written; empty: it has not ended."""

    @property
    def has_ended(self) -> bool:
        """Whether it need not run again."""
        return bool(self.written) and not self.written & STOPPED


class Standing:
    """Where a session stands, read from its checkpoints.

    Args:
        graph: The compiled pipeline.
        saver: The session's checkpoints.
        session: The session's id.
        branches: Those that are graphs of their own, by the name of the node that stands for them.
    """

    def __init__(
        self,
        graph: CompiledStateGraph[Any, Any, Any, Any],
        saver: OrchestraSaver,
        session: str,
        branches: Mapping[str, Branch],
    ) -> None:
        self._graph = graph
        self._saver = saver
        self._session = session
        self._branches = branches

    async def newest_snapshot(self) -> Snapshot:
        """Return the newest commits: at the root's last checkpoint and in branches, with what finished after it."""
        newest = await self._saver.expected_snapshot(self._session, "") or {}
        async for task in self._tasks():
            if not task.has_ended and self._saver.is_between_turns(task.namespace):
                newest = newest_snapshot(newest, await self._saver.expected_snapshot(self._session, task.namespace))
        return newest

    async def interrupted_turns(self) -> list[str]:
        """Return the nodes that were in the middle of a turn: another one's commit would make them start anew.

        A turn that has failed gives way to one that was cut off: only one of them can have the files it began on.
        """
        turns = await self._turns_under_way()
        cut_off = [task.node for task in turns if not task.written]
        stopped = [task.node for task in turns if task.written & STOPPED]
        return cut_off or stopped

    async def begun_turns(self) -> frozenset[tuple[str, int]]:
        """Return `(node, turn)` of every turn that has begun, whether it has ended or was interrupted."""
        open_ones = {(task.node, task.turn) for task in await self._turns_under_way()}
        return await self._saver.finished_turns() | open_ones

    async def outputs(self) -> dict[str, Any]:
        """Return the latest output of every agent and step, of those in open branches too."""
        state = await self._state()
        known = dict(state.values.get("agent_outputs", {}))
        for branch, values in self._open_branches(state):
            own = values.get("agent_outputs", {})
            known |= {name: output for name, output in own.items() if name in branch.members}
        return known

    async def conflicts(self) -> dict[str, Any]:
        """Return number → every conflict of the session, those met in open branches too."""
        state = await self._state()
        known = dict(state.values.get("_conflicts", {}))
        for _, values in self._open_branches(state):
            own = values.get("_conflicts", {})
            known |= {number: one for number, one in own.items() if number not in known or one["resolved_by"]}
        return known

    async def merging(self) -> dict[str, Any]:
        """Return node → the conflict that is open before it, in the graph whose files the session's branches follow."""
        return dict((await self._state()).values.get("_merging", {}))

    def _open_branches(self, state: StateSnapshot) -> Iterator[tuple[Branch, Mapping[str, Any]]]:
        for task in state.tasks:
            inside: Any = task.state
            branch = self._branches.get(task.name)
            if branch is not None and inside is not None:
                yield branch, inside.values
                yield from self._open_branches(inside)

    async def failed_attempts(self) -> frozenset[tuple[str, int, int]]:
        """Return `(node, turn, attempt)` of every attempt that has failed."""
        async with self._saver.lock:
            rows = await self._saver.conn.execute_fetchall(
                "SELECT node, turn, attempt FROM events WHERE type = 'turn_failed'"
            )
        return frozenset((row[0], row[1], row[2]) for row in rows)

    async def named_commits(self) -> dict[str, set[str]]:
        """Return repo → the commits to which the root's checkpoints put the branches."""
        async with self._saver.lock:
            rows = await self._saver.conn.execute_fetchall(
                "SELECT CAST(metadata AS TEXT) ->> '$.orchestra.integrated' FROM checkpoints WHERE checkpoint_ns = ''"
            )
        named: dict[str, set[str]] = {}
        for (text,) in rows:
            for repo, commit in json.loads(text or "{}").items():
                named.setdefault(repo, set()).add(commit)
        return named

    async def branches_may_follow(self) -> bool:
        """Tell whether branches have to be where the last checkpoint puts them.

        Not while a conflict is open, nor where only the merge at the end is left: the user may have made it.
        """
        state = await self._state()
        ended = state.next == () and state.tasks == ()
        return not any(state.values.get("_merging", {}).values()) and not (
            ended and any(state.values.get("_loose", {}).values())
        )

    async def _turns_under_way(self) -> list[Under]:
        begun = await self._begun()
        return [
            task
            async for task in self._tasks()
            if task.namespace in begun and not (task.has_ended or self._saver.is_between_turns(task.namespace))
        ]

    async def _begun(self) -> set[str]:
        """Return the namespaces that have checkpoints, their own or those of further attempts below them."""
        async with self._saver.lock:
            rows = await self._saver.conn.execute_fetchall(
                "SELECT DISTINCT checkpoint_ns FROM checkpoints WHERE checkpoint_ns != ''"
            )
        return {"|".join(parts[:length]) for (name,) in rows for parts in [name.split("|")] for length in _upto(parts)}

    async def _tasks(self) -> AsyncIterator[Under]:
        """Yield every task that is open, those inside branches too."""
        async for task in self._of(await self._state(), ""):
            yield task

    async def _state(self) -> StateSnapshot:
        return await self._graph.aget_state({"configurable": {"thread_id": self._session}}, subgraphs=True)

    async def _of(self, state: StateSnapshot, namespace: str) -> AsyncIterator[Under]:
        written = await self._written(namespace)
        for task in state.tasks:
            turn = (state.values or {}).get("turns", {}).get(task.name, 0) + 1
            under = _under(task, namespace, turn, written)
            yield under
            inside: Any = task.state  # with `subgraphs` a snapshot, of a task that is a graph
            if inside is not None and not under.has_ended:
                async for inner in self._of(inside, under.namespace):
                    yield inner

    async def _written(self, namespace: str) -> Mapping[str, set[str]]:
        found = await self._saver.aget_tuple({"configurable": {"thread_id": self._session, "checkpoint_ns": namespace}})
        written: dict[str, set[str]] = {}
        for task_id, channel, _ in (found.pending_writes if found else None) or ():
            written.setdefault(task_id, set()).add(channel)
        return written


def _under(task: PregelTask, namespace: str, turn: int, written: Mapping[str, set[str]]) -> Under:
    own = f"{task.name}:{task.id}"
    place = f"{namespace}|{own}" if namespace else own
    return Under(task.name, place, turn, frozenset(written.get(task.id, ())))


def _upto(parts: list[str]) -> range:
    return range(1, len(parts) + 1)
