"""From a topology to a LangGraph `StateGraph`: flat, every agent, step and join a node that routes by `Command`.

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
from langgraph.types import Command, interrupt

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
from orchestra.graph.routing import entry_route
from orchestra.graph.state import reducers, state_schema, with_update
from orchestra.graph.topology import START, Topology

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestra.graph.routing import Router

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
    max_steps: int | None = None,
) -> StateGraph[Any, GraphContext, Any, Any]:
    """Build the state graph.

    Args:
        topology: The analysed graph.
        router: Decides what follows a node.
        bodies: What each agent and step does.
        extension: Fields that the pipeline adds to the state, with their annotations.
        max_steps: Turns after which the session stops.
    """
    graph: StateGraph[Any, GraphContext, Any, Any] = StateGraph(
        state_schema(extension or {}), context_schema=GraphContext
    )
    reduce = reducers(extension or {})
    for name in topology.nodes:
        node = TurnNode(name, bodies[name], topology=topology, router=router, reduce=reduce, max_steps=max_steps)
        run: Any = node.run  # LangGraph's node types don't admit a plain mapping as the state
        graph.add_node(name, run, destinations=_destinations(topology, name))
    for name, join in topology.joins.items():
        if join.mode == "any":
            continue  # an arrival starts the target itself
        graph.add_node(name, _join_node(name, topology, router), destinations=_destinations(topology, name))
    entries = entry_route(topology)
    if entries is None:
        graph.add_node(ROUTE_START, _start_node(router), destinations=_destinations(topology, START))
        entries = [ROUTE_START]
    for entry in entries:
        graph.add_edge(LANGGRAPH_START, entry)
    return graph


def _destinations(topology: Topology, name: str) -> tuple[str, ...]:
    """Name what a node may go to, so that LangGraph's own drawings are true."""
    reached = topology.successors.get(name, ())
    at_once = {join.name: join.target for join in topology.joins.values() if join.mode == "any"}
    onward = tuple(dict.fromkeys(at_once.get(target, target) for target in reached))
    return (*onward, LANGGRAPH_END) if name in topology.exits or not onward else onward


class TurnNode:
    """The node of an agent or a step: one attempt of one turn, then the way on."""

    def __init__(
        self,
        name: str,
        body: Body,
        *,
        topology: Topology,
        router: Router,
        reduce: Mapping[str, Callable[[Any, Any], Any]],
        max_steps: int | None,
    ) -> None:
        self._name = name
        self._body = body
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
            self._check_steps(state)
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
        return Command(update=update, goto=list(route.targets))

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
        return Command(update={"attempts": attempts, "frontier": [self._name]}, goto=[self._name])

    def _check_steps(self, state: Mapping[str, Any]) -> None:
        """Count this turn: those that have ended, and those that stand before it in the same step."""
        if self._max_steps is None:
            return
        beside = [node for node in dict.fromkeys(state.get("frontier", ())) if node not in self._topology.joins]
        before = beside.index(self._name) if self._name in beside else 0
        if sum(state.get("turns", {}).values()) + before >= self._max_steps:
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


def _join_node(name: str, topology: Topology, router: Router) -> Callable[..., Any]:
    join = topology.joins[name]

    async def run(state: dict[str, Any]) -> Command[Any]:
        step = router.join(join, state)
        if step.waits:
            return Command(update={"frontier": [name]}, goto=[name])
        taken = {"joined": {name: step.taken}} if step.taken else {}
        if not step.fires:
            return Command(update=taken, goto=[])
        route = await router.route(name, state)
        return Command(update=taken | route.update(), goto=list(route.targets))

    return run


def _start_node(router: Router) -> Callable[..., Any]:
    async def run(state: dict[str, Any]) -> Command[Any]:
        try:
            route = await router.route(START, state)
        except OrchestraError as failure:
            interrupt(failure_payload(None, failure))
            raise
        return Command(update=route.update(), goto=list(route.targets))

    return run
