"""From a topology to a LangGraph `StateGraph`: every agent, step and join a node that routes by `Command`.

Branches become graphs of their own, one node each of the graph around them (`levels`); all else is flat. LangGraph's
own list edge is not used: it waits for ever for a source that was not routed to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph.graph import END as LANGGRAPH_END
from langgraph.graph import START as LANGGRAPH_START
from langgraph.graph import StateGraph

from orchestra.graph.levels import Level, branch_node
from orchestra.graph.merging import Layout, Merging, OneSlot, Resolvers
from orchestra.graph.nodes import Body, GraphContext, JoinNode, TurnNode, start_node
from orchestra.graph.routing import entry_route
from orchestra.graph.state import Journal, journaled, reducers, state_schema
from orchestra.graph.topology import START, Topology

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.graph.regions import Branch
    from orchestra.graph.routing import Router

ROUTE_START = "route.START"
"""The helper node that asks the conditions on START; it never shows to users."""


def lower(
    topology: Topology,
    router: Router,
    bodies: Mapping[str, Body],
    extension: Mapping[str, Any] | None = None,
    *,
    branches: tuple[Branch, ...] = (),
    layout: Layout | None = None,
    resolvers: Resolvers | None = None,
    max_steps: int | None = None,
) -> StateGraph[Any, GraphContext, Any, Any]:
    """Build the state graph.

    Args:
        topology: The analysed graph.
        router: Decides what follows a node.
        bodies: What each agent and step does.
        extension: Fields that the pipeline adds to the state, with their annotations.
        branches: Those that become graphs of their own, one node each.
        layout: In which worktree each node works; by default all share one.
        resolvers: Who resolves conflicts.
        max_steps: Turns after which the session stops.
    """
    merging = Merging(topology, layout or OneSlot(), resolvers or OneSlot())
    lowering = _Lowering(topology, router, bodies, extension or {}, merging, max_steps)
    level = Level.of((*topology.nodes, *topology.joins), branches, is_branch=False)
    graph: StateGraph[Any, GraphContext, Any, Any] = StateGraph(lowering.schema, context_schema=GraphContext)
    lowering.fill(graph, level)
    entries = entry_route(topology)
    if entries is None:
        destinations = lowering.destinations(START, level)
        graph.add_node(ROUTE_START, start_node(router, level), destinations=destinations)
    for entry in [ROUTE_START] if entries is None else level.to(entries):
        graph.add_edge(LANGGRAPH_START, entry)
    return graph


class _Lowering:
    """What the graphs of a pipeline have in common."""

    def __init__(
        self,
        topology: Topology,
        router: Router,
        bodies: Mapping[str, Body],
        extension: Mapping[str, Any],
        merging: Merging,
        max_steps: int | None,
    ) -> None:
        self._topology = topology
        self._router = router
        self._bodies = bodies
        self._merging = merging
        self._reduce = reducers(extension)
        self._fields = {name: name in self._reduce for name in extension}
        self._max_steps = max_steps
        self.schema = state_schema(extension)

    def fill(self, graph: StateGraph[Any, GraphContext, Any, Any], level: Level) -> None:
        """Add the nodes of one graph, and the graphs of its branches."""
        for name in level.nodes:
            join = self._topology.joins.get(name)
            if join is not None and join.mode == "any":
                continue  # an arrival starts the target itself
            run: Any  # LangGraph's node types don't admit a plain mapping as the state
            if join is None:
                run = self._turn_node(name, level).run
            else:
                run = JoinNode(join, self._router, self._merging, level).run
            graph.add_node(name, run, destinations=self.destinations(name, level), input_schema=self.schema)
        for branch in level.branches:
            node: Any = branch_node(self._branch(branch).compile(name=branch.entry), branch, level, self._fields)
            onward = tuple(level.to([branch.exit] if branch.exit else []))
            graph.add_node(branch.name, node, destinations=onward or (LANGGRAPH_END,), input_schema=self.schema)

    def _branch(self, branch: Branch) -> StateGraph[Any, GraphContext, Any, Any]:
        inner = Level.of(
            (node for node in (*self._topology.nodes, *self._topology.joins) if node in branch.members),
            branch.branches,
            is_branch=True,
        )
        graph: StateGraph[Any, GraphContext, Any, Any] = StateGraph(
            journaled(self.schema), context_schema=GraphContext, output_schema=Journal
        )
        self.fill(graph, inner)
        graph.add_edge(LANGGRAPH_START, branch.entry)
        return graph

    def _turn_node(self, name: str, level: Level) -> TurnNode:
        return TurnNode(
            name,
            self._bodies[name],
            level=level,
            topology=self._topology,
            router=self._router,
            merging=self._merging,
            reduce=self._reduce,
            max_steps=self._max_steps,
        )

    def destinations(self, name: str, level: Level) -> tuple[str, ...]:
        """Name what a node may go to, so that LangGraph's own drawings are true."""
        reached = self._topology.successors.get(name, ())
        at_once = {join.name: join.target for join in self._topology.joins.values() if join.mode == "any"}
        onward = dict.fromkeys(at_once.get(target, target) for target in reached)
        inside = tuple(level.to(onward))
        ends = name in self._topology.exits or len(inside) < len(onward) or not onward
        return (*inside, LANGGRAPH_END) if ends else inside
