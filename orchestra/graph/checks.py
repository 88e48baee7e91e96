"""What can be wrong with a graph as a whole, such as endless cycles, and with what its steps are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from orchestra.errors import Problem, did_you_mean
from orchestra.graph.topology import END, START, Edge, Topology, reachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestra.errors import Location
    from orchestra.graph.parallel import AmbiguousArrival, Parallelism
    from orchestra.graph.schema import StepSpec
    from orchestra.tools.registry import Tool

_MOST_NAMES = 8
"""In one message."""


class Locate(Protocol):
    """Gives the place of a path in the pipeline file: `locate("graph", 2, "to")`."""

    def __call__(self, *loc: str | int, key: bool = False) -> Location:
        """Return the place of the value, or of its key."""


def check_topology(topology: Topology, parallelism: Parallelism, locate: Locate) -> list[Problem]:
    """Return every problem of the graph as a whole.

    Args:
        topology: The analysed graph.
        parallelism: Who can be active together.
        locate: Gives the place of a path in the pipeline file: `locate("graph", 2, "to")`.
    """
    if not topology.edges.get(START):
        return [
            Problem(
                "no-start",
                "no edge leaves START, so nothing would run",
                locate("graph", key=True),
                f"add `- {{from: START, to: {topology.nodes[0] if topology.nodes else 'AGENT'}}}`",
            )
        ]
    loops = list(_loops_out_of_branches(topology, parallelism, locate))
    return [
        *_too_large(parallelism, locate),
        *_unreachable(topology, locate),
        *_dead_ends(topology, locate),
        *_bounds(topology, locate),
        *_unbounded_cycles(topology, locate),
        *_ambiguous_arrivals(topology, parallelism, locate),
        *(loops or _restarts(parallelism, topology, locate)),
    ]


def _too_large(parallelism: Parallelism, locate: Locate) -> Iterator[Problem]:
    if not parallelism.complete:
        yield Problem(
            "graph-too-large",
            "too many agents and steps can run beside each other to tell what meets whom",
            locate("graph", key=True),
            "split the pipeline, or join parallel branches earlier",
        )


def _unreachable(topology: Topology, locate: Locate) -> Iterator[Problem]:
    found = topology.reaches(START)
    lost = [node for node in topology.nodes if node not in found]
    behind = {node: topology.reaches(node).intersection(lost) - {node} for node in lost}
    first = [node for node in lost if not any(node in others for others in behind.values())]
    told: set[str] = set()
    for node in (*first, *lost):
        if node in told:
            continue  # a consequence of what was said
        others = [other for other in lost if other in behind[node] - told]
        told |= {node, *others}
        also = f", nor would {listed(others)} behind it" if others else ""
        yield Problem(
            "unreachable-agent",
            f"{node!r} can't be reached from START, so it would never run{also}",
            node_place(node, locate),
            f"add an edge to it, such as `- {{from: START, to: {node}}}`, or remove it",
        )


def node_place(node: str, locate: Locate) -> Location:
    """The place where a node is defined: the step of that name when there is no such agent."""
    in_agents, in_steps = locate("agents", node, key=True), locate("steps", node, key=True)
    return max(in_agents, in_steps) if _names(in_steps, node) and not _names(in_agents, node) else in_agents


def _names(place: Location, node: str) -> bool:
    return place.text[place.column - 1 :].lstrip("'\"").startswith(node)


def _dead_ends(topology: Topology, locate: Locate) -> Iterator[Problem]:
    for node in topology.nodes:
        if node not in topology.edges and node not in topology.arrivals and node in topology.reaches(START):
            yield Problem(
                "no-edge-out",
                f"no edge leaves {node!r}: the way ends there, as if it led to END",
                node_place(node, locate),
                f"say so: `- {{from: {node}, to: END}}`",
                "warning",
            )


def _bounds(topology: Topology, locate: Locate) -> Iterator[Problem]:
    for leaving in topology.edges.values():
        for edge in leaving:
            if edge.max_loops is None:
                continue
            if not edge.loop_targets:
                yield Problem(
                    "max-loops-without-loop",
                    f"`max_loops` bounds nothing: no target of this edge leads back to {edge.source!r}",
                    locate("graph", edge.index, "max_loops", key=True),
                    "remove `max_loops`, or look whether the edge goes where you mean",
                    "warning",
                )
            elif edge.on_max_loops is None:
                onward = [target for target in edge.targets if target not in edge.loop_targets]
                ways = ", ".join(map(repr, onward)) or "no target"
                yield Problem(
                    "on-max-loops-missing",
                    f"after {_loops(edge.max_loops)} this edge must go on to one target, "
                    f"but {ways} of `to` {'lead' if len(onward) > 1 else 'leads'} onward",
                    locate("graph", edge.index, "max_loops", key=True),
                    f"add `on_max_loops: {onward[0] if onward else END}`",
                )
            elif edge.on_max_loops in edge.loop_targets:
                onward = [target for target in edge.targets if target not in edge.loop_targets]
                yield Problem(
                    "on-max-loops-closed",
                    f"{edge.on_max_loops!r} leads back to {edge.source!r}: it is closed after {_loops(edge.max_loops)}",
                    locate("graph", edge.index, "on_max_loops"),
                    f"name a target that leads onward: `on_max_loops: {onward[0] if onward else END}`",
                )


def _loops(count: int) -> str:
    return "1 loop" if count == 1 else f"{count} loops"


def _unbounded_cycles(topology: Topology, locate: Locate) -> Iterator[Problem]:
    """Report cycles that neither a bound nor a condition with a way out can end."""
    arcs: dict[str, list[tuple[str, Edge | None]]] = {
        source: [
            (target, edge)
            for edge in leaving
            for target in edge.reachable
            if not (edge.max_loops is not None and target in edge.loop_targets)
        ]
        for source, leaving in topology.edges.items()
    }
    for source, joins in topology.arrivals.items():
        arcs.setdefault(source, []).extend((join, None) for join in joins)
    while True:
        cycles = [part for part in _components(arcs) if len(part) > 1 or _loops_on_itself(arcs, part)]
        leaving = {
            edge.key
            for part in cycles
            for source in part
            for _, edge in arcs.get(source, ())
            if edge is not None and edge.condition and not part.issuperset(edge.targets)
        }
        if not leaving:
            break
        arcs = {
            source: [(target, edge) for target, edge in out if edge is None or edge.key not in leaving]
            for source, out in arcs.items()
        }
    for part in cycles:
        if part & topology.reaches(START):
            yield _unbounded(topology, part, locate)


def _unbounded(topology: Topology, part: frozenset[str], locate: Locate) -> Problem:
    edges = [edge for source in part for edge in topology.edges.get(source, ()) if part.intersection(edge.reachable)]
    back = [edge for edge in edges if part.intersection(edge.loop_targets)] or edges
    edge = max(back, key=lambda candidate: candidate.index)
    names = listed([node for node in topology.nodes if node in part])
    return Problem(
        "unbounded-cycle",
        f"the cycle through {names} would never end",
        locate("graph", edge.index),
        "bound this edge with `max_loops: 2`, or give it a condition with a target outside the cycle",
    )


def _loops_on_itself(arcs: Mapping[str, Sequence[tuple[str, Edge | None]]], part: frozenset[str]) -> bool:
    (node,) = part
    return any(target == node for target, _ in arcs.get(node, ()))


def _components(arcs: Mapping[str, Sequence[tuple[str, Edge | None]]]) -> list[frozenset[str]]:
    """Return the strongly connected components of the arcs (small graphs: two searches a node suffice)."""
    successors = {source: tuple(target for target, _ in out) for source, out in arcs.items()}
    backwards: dict[str, list[str]] = {}
    for source, targets in successors.items():
        for target in targets:
            backwards.setdefault(target, []).append(source)
    parts: list[frozenset[str]] = []
    placed: set[str] = set()
    for node in successors:
        if node not in placed:
            part = frozenset(reachable(successors, (node,)) & reachable(backwards, (node,)))
            parts.append(part)
            placed |= part
    return parts


def _ambiguous_arrivals(topology: Topology, parallelism: Parallelism, locate: Locate) -> Iterator[Problem]:
    for target, (sources, index) in _by_target(topology, parallelism.ambiguous).items():
        yield Problem(
            "ambiguous-arrival",
            f"{listed(sources)} can be active at the same time, and reach {target!r} by separate edges, "
            "which could start it twice",
            locate("graph", index),
            f"use one list edge instead: `{{from: [{', '.join(sources)}], to: {target}}}`",
        )
    loops = {edge.key: edge.loop_targets for leaving in topology.edges.values() for edge in leaving}
    for key, pairs in parallelism.forbidden.items():
        # Going back and going on at once: nobody means it.
        meant = {chosen: clash for chosen, clash in pairs.items() if len(chosen & loops[key]) != 1}
        for target, (sources, index) in _by_target(topology, meant.values()).items():
            chosen = sorted({name for pair, clash in meant.items() if clash.target == target for name in pair})
            yield Problem(
                "ambiguous-choice",
                f"should a condition choose {listed(chosen)} together, {listed(sources)} would arrive at "
                f"{target!r} apart; the session would stop there",
                locate("graph", index),
                f"where that can happen, use a list edge: `{{from: [{', '.join(sources)}], to: {target}}}`",
                "warning",
            )


def _restarts(parallelism: Parallelism, topology: Topology, locate: Locate) -> Iterator[Problem]:
    told = {clash.target for clash in parallelism.ambiguous}
    for again in parallelism.restarts:
        if again.target in told:
            continue
        told.add(again.target)
        yield Problem(
            "ambiguous-arrival",
            f"{again.target!r} can still be active when {listed(_sources(topology, again.source))} "
            f"{'has' if again.source not in topology.joins else 'have'} ended, and would then start a second time",
            locate("graph", again.index),
            f"keep one way to {again.target!r}: remove this edge, or the one that starts it earlier",
        )


def _by_target(topology: Topology, clashes: Iterable[AmbiguousArrival]) -> dict[str, tuple[list[str], int]]:
    """Gather arrivals: target → the agents that arrive there, and the last of their edges."""
    names: dict[str, dict[str, None]] = {}
    last: dict[str, int] = {}
    for clash in clashes:
        found = names.setdefault(clash.target, {})
        for source in clash.sources:
            found.update(dict.fromkeys(_sources(topology, source)))
        last[clash.target] = max(last.get(clash.target, 0), *clash.indexes)
    return {target: (list(found), last[target]) for target, found in names.items()}


def _sources(topology: Topology, source: str) -> tuple[str, ...]:
    """Return what a user can write for a source: for a join the agents it waits for."""
    return topology.joins[source].sources if source in topology.joins else (source,)


def listed(names: Sequence[str]) -> str:
    """Name some agents in a message, not more than fit into it."""
    shown = [repr(name) for name in names[:_MOST_NAMES]]
    *first, last = shown if len(shown) == len(names) else [*shown, f"{len(names) - len(shown)} more"]
    return f"{', '.join(first)} and {last}" if first else last


def _loops_out_of_branches(topology: Topology, parallelism: Parallelism, locate: Locate) -> Iterator[Problem]:
    if parallelism.ambiguous or not parallelism.doubled:
        return
    doubled_beside: dict[str, list[str]] = {}
    for one, other in sorted(parallelism.certain):
        if other in parallelism.doubled:
            doubled_beside.setdefault(one, []).append(other)
    reported: set[int] = set()
    for source, leaving in topology.edges.items():
        for edge in leaving:
            for target in edge.loop_targets:
                again = [other for other in doubled_beside.get(source, ()) if other in topology.reaches(target)]
                if again and edge.index not in reported:
                    reported.add(edge.index)
                    yield Problem(
                        "loop-out-of-branch",
                        f"the edge from {listed(_sources(topology, source))} back to {target!r} leaves its branch "
                        f"while {listed(_sources(topology, again[0]))} may still be active, which would then start a "
                        "second time",
                        locate("graph", edge.index),
                        "join the branches before the edge that goes back",
                    )


def wrong_arguments(name: str, spec: StepSpec, tool: Tool, locate: Locate) -> Iterator[Problem]:
    """Check a step's arguments as far as they are no templates: its names, and that none lacks."""
    known = tool.parameters.get("properties", {})
    for argument in spec.args:
        if argument not in known:
            hint = did_you_mean(argument, known) or f"it takes: {', '.join(known) or 'no arguments'}"
            place = locate("steps", name, "args", argument, key=True)
            yield Problem("unknown-argument", f"the tool {tool.name!r} has no argument {argument!r}", place, hint)
    for argument in tool.parameters.get("required", ()):
        if argument not in spec.args:
            place = locate("steps", name, key=True)
            message = f"the tool {tool.name!r} needs the argument {argument!r}"
            yield Problem("missing-argument", message, place, f"add `args: {{{argument}: …}}`")


def templates_in(value: Any) -> Iterator[str]:
    """Yield every text inside a step's argument: each may be a template."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from templates_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from templates_in(item)
