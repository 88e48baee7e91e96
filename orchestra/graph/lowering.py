"""From a topology to a LangGraph `StateGraph`: every agent, step and join a node that routes by `Command`.

Branches become graphs of their own, one node each of the graph around them (`levels`); all else is flat.

A node writes its result, its route and the reasons for it in one update, so that no checkpoint lies between a turn's
end and the decision about what follows. LangGraph's own list edge is not used: it waits for ever for a source that was
not routed to.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.runnables import RunnableConfig  # noqa: TC002 - as above
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END as LANGGRAPH_END
from langgraph.graph import START as LANGGRAPH_START
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime  # noqa: TC002 - LangGraph reads the annotations of nodes
from langgraph.types import interrupt

from orchestra.agents.context import (
    SESSION_SLOT,
    Detached,
    RunContext,
    Turn,
    TurnFailed,
    TurnRequest,
    newest_snapshot,
)
from orchestra.errors import OrchestraError, SessionError
from orchestra.graph.levels import Level, branch_node
from orchestra.graph.routing import entry_route
from orchestra.graph.state import Journal, journaled, reducers, state_schema, with_update
from orchestra.graph.topology import START, Topology

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langgraph.types import Command

    from orchestra.graph.regions import Branch
    from orchestra.graph.routing import Router
    from orchestra.graph.topology import Join

ROUTE_START = "route.START"
"""The helper node that asks the conditions on START; it never shows to users."""


@dataclass(frozen=True, slots=True)
class GraphContext:
    """The context with which the compiled graph is invoked: `ainvoke(..., context=GraphContext(run))`."""

    run: RunContext = field(default_factory=Detached)


class Body(Protocol):
    """What a node does in its turn: an agent or a step."""

    worktrees: tuple[str, ...]
    """Repos in which it needs a worktree."""
    writes: tuple[str, ...]
    """Repos that it may change."""

    async def __call__(self, state: Mapping[str, Any], turn: Turn, config: RunnableConfig) -> Result:
        """Run the turn and return its result."""


class Result(Protocol):
    """What a turn gives back."""

    @property
    def update(self) -> dict[str, Any]:
        """The state's update: `agent_outputs`, `messages`, fields of the extension."""

    @property
    def commit_messages(self) -> Mapping[str, str]:
        """Repo → what the agent wants its commit there to say."""

    @property
    def decides(self) -> bool:
        """Whether the output is a decision, which names the commits that it was made on."""


def lower(
    topology: Topology,
    router: Router,
    bodies: Mapping[str, Body],
    extension: Mapping[str, Any] | None = None,
    *,
    branches: tuple[Branch, ...] = (),
    max_steps: int | None = None,
) -> StateGraph[Any, GraphContext, Any, Any]:
    """Build the state graph.

    Args:
        topology: The analysed graph.
        router: Decides what follows a node.
        bodies: What each agent and step does.
        extension: Fields that the pipeline adds to the state, with their annotations.
        branches: Those that become graphs of their own, one node each.
        max_steps: Turns after which the session stops.
    """
    lowering = _Lowering(topology, router, bodies, extension or {}, max_steps)
    level = Level.of((*topology.nodes, *topology.joins), branches, is_branch=False)
    graph: StateGraph[Any, GraphContext, Any, Any] = StateGraph(lowering.schema, context_schema=GraphContext)
    lowering.fill(graph, level)
    entries = entry_route(topology)
    if entries is None:
        destinations = lowering.destinations(START, level)
        graph.add_node(ROUTE_START, _start_node(router, level), destinations=destinations)
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
        max_steps: int | None,
    ) -> None:
        self._topology = topology
        self._router = router
        self._bodies = bodies
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
            run = self._turn_node(name, level).run if join is None else _join_node(join, self._router, level)
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


class TurnNode:
    """The node of an agent or a step: one attempt of one turn, then the way on."""

    def __init__(
        self,
        name: str,
        body: Body,
        *,
        level: Level,
        topology: Topology,
        router: Router,
        reduce: Mapping[str, Callable[[Any, Any], Any]],
        max_steps: int | None,
    ) -> None:
        self._name = name
        self._body = body
        self._level = level
        self._topology = topology
        self._router = router
        self._reduce = reduce
        self._max_steps = max_steps

    async def run(self, state: dict[str, Any], config: RunnableConfig, runtime: Runtime[GraphContext]) -> Command[Any]:
        """Run the turn.

        A failure stops this branch by an `interrupt`: siblings run on, and `resume` runs only this node again.
        """
        request = self._request(state, config)
        run = runtime.context.run if runtime.context else Detached()
        failure: OrchestraError
        try:
            self._check_steps(state, run)
            async with run.turn(request) as turn:
                return await self._turn(state, turn, config)
        except GraphBubbleUp:
            raise  # a question to the user
        except OrchestraError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - it must not cancel the siblings
            failure = run.fault(error) or self._internal(error, run, request)
        if isinstance(failure, TurnFailed) and await run.failed(request, failure):
            return self._again(request)
        if runtime.context is None:
            raise failure  # the program that embeds the graph has nobody who would resume it
        run.emit("turn_stopped", agent=self._name, turn=request.number, code=failure.code, message=failure.message)
        interrupt(failure_payload(self._name, failure, turn=request.number, attempt=request.attempt))
        raise failure  # an interrupt is never answered for a failure; the node runs again instead

    async def _turn(self, state: dict[str, Any], turn: Turn, config: RunnableConfig) -> Command[Any]:
        result = await self._body(state, turn, config)
        update = dict(result.update)
        update["snapshot"] = await turn.finish(result.commit_messages)
        if result.decides:
            held = newest_snapshot(state.get("snapshot"), update["snapshot"]).get(SESSION_SLOT, {})
            commits = {repo: entry["commit"] for repo, entry in held.items()}
            update["agent_outputs"] = {self._name: {**update["agent_outputs"][self._name], "commits": commits}}
        update["turns"] = {self._name: turn.number}
        update["ended"] = [{"agent": self._name, "turn": turn.number}]
        update["clock"] = datetime.now(UTC).isoformat(timespec="microseconds")
        after = with_update(state, update, self._reduce)
        route = await self._router.route(self._name, after, turn.number)
        for edge, chosen in route.choices.items():
            turn.emit("condition_chose", edge=edge, targets=chosen)
        update |= route.update()
        return self._level.command(update, route.targets)

    def _internal(self, error: Exception, run: RunContext, request: TurnRequest) -> TurnFailed:
        trace = "".join(traceback.format_exception(error))
        run.emit("internal_error", agent=self._name, turn=request.number, traceback=trace)
        return _internal(self._name, error)

    def _request(self, state: Mapping[str, Any], config: RunnableConfig) -> TurnRequest:
        number = state.get("turns", {}).get(self._name, 0) + 1
        turn, attempt = state.get("attempts", {}).get(self._name, (0, 1))
        return TurnRequest(
            node=self._name,
            number=number,
            attempt=attempt if turn == number else 1,
            worktrees=self._body.worktrees,
            writes=self._body.writes,
            snapshot=state.get("snapshot", {}),
            checkpoint_ns=str(config.get("configurable", {}).get("checkpoint_ns", "")),
            started_at=state.get("clock") or state.get("metadata", {}).get("created_at", ""),
        )

    def _again(self, request: TurnRequest) -> Command[Any]:
        """Start the turn anew, in a step of its own: fresh inner checkpoints, and the attempt is in the state."""
        attempts = {self._name: [request.number, request.attempt + 1]}
        return self._level.command({"attempts": attempts, "frontier": [self._name]}, [self._name])

    def _check_steps(self, state: Mapping[str, Any], run: RunContext) -> None:
        """Count this turn: those that have ended, and those that stand before it in the same step.

        What goes on in other branches only the run knows: the state of this one does not hold their turns.
        """
        if self._max_steps is None:
            return
        turns = state.get("turns", {})
        beside = [node for node in dict.fromkeys(state.get("frontier", ())) if node not in self._topology.joins]
        before = beside[: beside.index(self._name)] if self._name in beside else []
        ended = {(node, turn) for node, count in turns.items() for turn in range(1, count + 1)}
        if not run.begin((self._name, turns.get(self._name, 0) + 1), ended, before, most=self._max_steps):
            raise SessionError(
                f"the session has had its {self._max_steps} turns (`limits.max_steps`)",
                code="max-steps",
                hint="look with `orchestra log` whether it goes in circles; else raise `limits.max_steps`",
            )


def _internal(node: str, error: Exception) -> TurnFailed:
    """Say that something failed which has no words for its failures: the user's Python, or Orchestra itself."""
    return TurnFailed(
        f"the turn of {node!r} stopped on {type(error).__name__}: {error}",
        code="internal-error",
        retry="never",
        hint="the traceback is in the session's events: `orchestra log SESSION --events --json`",
    )


def failure_payload(node: str | None, failure: OrchestraError, **where: int) -> dict[str, Any]:
    """Return what the driver reads from the interrupt of a failed turn."""
    details = {"code": failure.code, "message": failure.message, "hint": failure.hint}
    return {"failed": {"agent": node, **where, **details}}


def _join_node(join: Join, router: Router, level: Level) -> Callable[..., Any]:
    async def run(state: dict[str, Any]) -> Command[Any]:
        step = router.join(join, state)
        if step.waits:
            return level.command({"frontier": [join.name]}, [join.name])
        taken = {"joined": {join.name: step.taken}} if step.taken else {}
        if not step.fires:
            return level.command(taken, ())
        route = await router.route(join.name, state)
        return level.command(taken | route.update(), route.targets)

    return run


def _start_node(router: Router, level: Level) -> Callable[..., Any]:
    async def run(state: dict[str, Any]) -> Command[Any]:
        try:
            route = await router.route(START, state)
        except OrchestraError as failure:
            interrupt(failure_payload(None, failure))
            raise
        return level.command(route.update(), route.targets)

    return run
