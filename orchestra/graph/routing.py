"""The rules by which tokens move: edges with conditions and bounds, arrivals, joins (DESIGN §4).

Everything here is a pure function of the topology and the state, except the call of a condition. A node writes its
targets into the `frontier`; hence in each step every node can read which nodes are active beside it, and a join knows
whether a source that is missing can still arrive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from orchestra.errors import SessionError
from orchestra.graph.topology import END, START, Edge, Join, Topology

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestra.graph.conditions import Choice
    from orchestra.graph.parallel import Parallelism


@dataclass
class Route:
    """Where a node goes, and what it must write for that."""

    targets: dict[str, None] = field(default_factory=dict)
    """Nodes to start, in order, each once."""
    loops: dict[str, int] = field(default_factory=dict)
    choices: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)
    """Edge → what its condition returned, where the edge has labels for its targets."""
    arrivals: dict[str, dict[str, int]] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    lineage: dict[str, dict[str, int]] = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)
    """Targets that are started by an arrival at their join of mode `any`."""
    late: bool = False
    """Whether an arrival came after its round had begun, and started nothing."""

    def update(self) -> dict[str, Any]:
        """Return the state's update, without empty fields."""
        fields = {
            "loops": self.loops,
            "choices": self.choices,
            "arrivals": self.arrivals,
            "rounds": self.rounds,
            "lineage": self.lineage,
        }
        return {"frontier": list(self.targets), **{name: value for name, value in fields.items() if value}}

    def told(self) -> Iterator[dict[str, Any]]:
        """Yield what the log says of each choice."""
        for edge, chosen in self.choices.items():
            yield {"edge": edge, "targets": chosen} | ({"labels": self.labels[edge]} if edge in self.labels else {})


class Conditions(Protocol):
    """Asks the conditions; `ConditionRegistry` does."""

    async def choose(self, name: str, state: Mapping[str, Any], targets: Mapping[str, str], *, source: str) -> Choice:
        """Return which of the targets (label → target) the condition chooses, at an edge that leaves `source`."""


class Router:
    """Decides what starts when a node has ended."""

    def __init__(self, topology: Topology, parallelism: Parallelism, conditions: Conditions) -> None:
        self._topology = topology
        self._parallelism = parallelism
        self._conditions = conditions

    async def route(self, node: str, state: Mapping[str, Any], turn: int = 0) -> Route:
        """Decide what starts when `node` has ended.

        Args:
            node: The agent, step or join that has ended, or START.
            state: The state with the node's own update applied.
            turn: The turn that has ended; it marks the arrival at joins.

        Raises:
            OrchestraError: A condition failed, or chose what it must not.
        """
        route = Route()
        for edge in self._topology.edges.get(node, ()):
            chosen = edge.targets
            if edge.condition is not None:
                choice = await self._choose(edge, edge.condition, state)
                chosen = choice.targets
                route.choices[edge.key] = list(chosen)
                if choice.labels and choice.labels != chosen:
                    route.labels[edge.key] = list(choice.labels)
            targets, looped = self._bound(edge, chosen, state)
            if looped:
                route.loops[edge.key] = state.get("loops", {}).get(edge.key, 0) + 1
            route.targets.update(dict.fromkeys(target for target in targets if target != END))
        self._descend(node, route, state)
        for name in self._topology.arrivals.get(node, ()):
            join = self._topology.joins[name]
            if join.mode == "any":
                self._arrive_at_any(node, turn, join, route, state)
            else:
                route.arrivals[name] = {node: turn}
                route.targets[name] = None
        return route

    def _descend(self, node: str, route: Route, state: Mapping[str, Any]) -> None:
        """Hand on from which rounds of the joins of mode `any` the node's turn descends."""
        own = self._descent(node, state)
        if own:
            route.lineage = dict.fromkeys(route.targets, own)

    def _descent(self, node: str, state: Mapping[str, Any]) -> dict[str, int]:
        known = state.get("lineage", {})
        join = self._topology.joins.get(node)
        own: dict[str, int] = {}
        for origin in join.sources if join else (node,):
            for name, count in known.get(origin, {}).items():
                own[name] = max(count, own.get(name, 0))
        return own

    def _arrive_at_any(self, node: str, turn: int, join: Join, route: Route, state: Mapping[str, Any]) -> None:
        """Start the target of a join of mode `any` for the first arrival of a round.

        An arrival that does not descend from the join's last start belongs to that round still, and starts nothing.
        No node stands between: it would take a step of its own, beside whatever slow sibling is at work.
        """
        done = state.get("rounds", {}).get(join.name, 0)
        own = self._descent(node, state)
        if own.get(join.name, 0) < done:
            route.late = True
            return
        route.targets[join.target] = None
        route.arrivals[join.name] = {node: turn}
        route.reached.append(join.target)
        route.rounds[join.name] = done + 1
        route.lineage[join.target] = {**route.lineage.get(join.target, {}), **own, join.name: done + 1}

    async def _choose(self, edge: Edge, condition: str, state: Mapping[str, Any]) -> Choice:
        choice = await self._conditions.choose(condition, state, edge.labels, source=edge.source)
        for chosen, clash in self._parallelism.forbidden.get(edge.key, {}).items():
            if chosen.issubset(choice.targets):
                first, second = (target for target in choice.targets if target in chosen)
                one, other = clash.sources
                raise SessionError(
                    f"the condition {condition!r} chose {first!r} and {second!r} together, but {one!r} and "
                    f"{other!r} then arrive at {clash.target!r} apart and would start it twice",
                    code="ambiguous-choice",
                    hint=f"join them: `{{from: [{one}, {other}], to: {clash.target}}}`",
                )
        return choice

    @staticmethod
    def _bound(edge: Edge, chosen: tuple[str, ...], state: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
        """Drop closed loop targets; tell whether a loop target was chosen."""
        if edge.max_loops is None or not edge.loop_targets.intersection(chosen):
            return chosen, False
        if state.get("loops", {}).get(edge.key, 0) < edge.max_loops:
            return chosen, True
        left = tuple(target for target in chosen if target not in edge.loop_targets)
        return left or ((edge.on_max_loops,) if edge.on_max_loops else ()), False

    def join(self, join: Join, state: Mapping[str, Any]) -> JoinStep:
        """Decide whether a join of mode `all` fires in this step, waits, or has nothing to do."""
        waiting = pending(join, state)
        active = [node for node in state.get("frontier", ()) if node != join.name]
        if not waiting:
            return JoinStep(fires=False, waits=False)
        fires = join.name in self._firing(join, active, state)
        return JoinStep(fires=fires, waits=not fires, taken=waiting if fires else {})

    def _firing(self, join: Join, active: list[str], state: Mapping[str, Any]) -> set[str]:
        """Return which joins fire in this step: the same answer in every join, from the same state.

        A join waits while a missing source can be reached from an active node. Joins that wait only for each other
        would wait for ever: the one declared first fires.
        """
        agents = [node for node in active if node not in self._topology.joins]
        joins = {join.name: join, **{name: self._topology.joins[name] for name in active if name not in agents}}
        held = {name for name, one in joins.items() if _is_awaited(self._topology, one, agents, state)}
        blocks = {
            name: {other for other in joins if other != name and _is_awaited(self._topology, one, [other], state)}
            for name, one in joins.items()
        }
        while grown := {name for name in joins if name not in held and blocks[name] & held}:
            held |= grown
        free = {name for name in joins if name not in held}
        firing = {name for name in free if not blocks[name]}
        if not firing and free:
            firing = {min(free, key=lambda name: joins[name].index)}
        return firing


@dataclass(frozen=True, slots=True)
class JoinStep:
    """What a join does in a step."""

    fires: bool
    waits: bool
    taken: dict[str, int] = field(default_factory=dict)
    """Source → turn of the arrivals that are taken up."""


def pending(join: Join, state: Mapping[str, Any]) -> dict[str, int]:
    """Return source → turn of the arrivals that a join has not taken up yet."""
    arrived = state.get("arrivals", {}).get(join.name, {})
    taken = state.get("joined", {}).get(join.name, {})
    return {source: turn for source, turn in arrived.items() if turn > taken.get(source, 0)}


def _is_awaited(topology: Topology, join: Join, active: Iterable[str], state: Mapping[str, Any]) -> bool:
    """Tell whether a source that has not arrived can still be reached from an active node."""
    missing = set(join.sources) - pending(join, state).keys()
    return any(not missing.isdisjoint(topology.reaches(node, avoiding=join.name)) for node in active)


def entry_route(topology: Topology) -> list[str] | None:
    """Return what starts first, or None where a condition on START must decide."""
    leaving = topology.edges.get(START, ())
    if any(edge.condition for edge in leaving):
        return None
    return list(dict.fromkeys(target for edge in leaving for target in edge.reachable))
