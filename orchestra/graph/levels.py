"""A branch as a node of the graph around it: it runs in a graph of its own and hands back its journal.

A graph that is used as a node gives back its whole state, which reducers would take for news: lists would get what they
began with once more, counters would double. So every node inside a branch also notes what it wrote in a `journal`, and
that is written once more in the graph around it, entry by entry, as if the nodes had stood there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig  # noqa: TC002 - LangGraph reads the annotations of nodes
from langgraph.types import Command, Overwrite

from orchestra.graph.state import JOURNAL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from langgraph.graph.state import CompiledStateGraph

    from orchestra.graph.regions import Branch

_LOCAL = frozenset({"frontier", "ended", "_stands"})
"""What says who is active beside whom, and what has just ended: it holds in one graph."""


@dataclass(frozen=True)
class Level:
    """One of the graphs that a pipeline is lowered to: the outermost one, or that of a branch."""

    nodes: tuple[str, ...]
    """Agents, steps and joins that are nodes of this very graph."""
    branches: tuple[Branch, ...]
    """Those that are one node of it each."""
    places: Mapping[str, str]
    """What can be started here → the node to go to."""
    is_branch: bool

    @classmethod
    def of(cls, members: Iterable[str], branches: tuple[Branch, ...], *, is_branch: bool) -> Level:
        """Lay out the graph of some nodes, of which some lie in branches."""
        within = frozenset().union(*(branch.members for branch in branches))
        nodes = tuple(node for node in members if node not in within)
        places = {**{node: node for node in nodes}, **{branch.entry: branch.name for branch in branches}}
        return cls(nodes, branches, places, is_branch)

    def to(self, targets: Iterable[str]) -> list[str]:
        """Return the nodes to go to, for those of the targets that are here."""
        return [self.places[target] for target in targets if target in self.places]

    def command(self, update: Mapping[str, Any], targets: Collection[str]) -> Command[Any]:
        """Return what a node of this graph gives back: its update and its way on.

        In a branch the update is noted in the journal, with the targets that lie outside.
        """
        written = dict(update)
        if self.is_branch:
            entry = {name: value for name, value in written.items() if name not in _LOCAL}
            if outside := [target for target in targets if target not in self.places]:
                entry["frontier"] = outside
            written |= {JOURNAL: [entry]} if entry else {}
        return Command(update=written, goto=self.to(targets))


def branch_node(
    graph: CompiledStateGraph[Any, Any, Any, Any], branch: Branch, level: Level, fields: Mapping[str, bool]
) -> Callable[..., Any]:
    """Return the node that runs a branch.

    Args:
        graph: The branch as a graph; its output is a `Journal`.
        branch: Which one.
        level: The graph around it.
        fields: The fields of the state's extension, and whether they have a reducer.
    """

    async def run(state: dict[str, Any], config: RunnableConfig) -> list[Command[Any]]:
        result = await graph.ainvoke(_first(state, branch, fields), config)
        return _replayed(result.get(JOURNAL, ()), level, fields)

    return run


def _first(state: Mapping[str, Any], branch: Branch, fields: Mapping[str, bool]) -> dict[str, Any]:
    """Return what a branch begins with: the state as it is, and of all nodes its entry alone is active."""
    kept = {name: value for name, value in state.items() if name not in _LOCAL}
    # A first value is the field's start: it is not folded into LangGraph's own, which is 0 or empty.
    kept |= {name: Overwrite(state[name]) for name, folded in fields.items() if folded and name in state}
    return {**kept, "frontier": [branch.entry]}


def _replayed(journal: Sequence[Mapping[str, Any]], level: Level, fields: Mapping[str, bool]) -> list[Command[Any]]:
    """Return what the branch's nodes wrote, each update by itself, and then the way on."""
    started = dict.fromkeys(target for entry in journal for target in entry.get("frontier", ()))
    plain = {name for name, folded in fields.items() if not folded}
    last = {name: number for number, entry in enumerate(journal) for name in plain.intersection(entry)}
    updates = [
        # A field without a reducer takes one value a step: the last one.
        {name: value for name, value in entry.items() if name != "frontier" and last.get(name, number) == number}
        for number, entry in enumerate(journal)
    ]
    return [
        *(level.command(update, ()) for update in updates if update),
        level.command({"frontier": list(started)}, started),
    ]
