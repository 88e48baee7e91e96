"""What can be wrong with a graph as a whole: unreachable agents, endless cycles, ambiguous arrivals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from orchestra.errors import Problem
from orchestra.graph.topology import END, START, Edge, Topology, reachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestra.errors import Location
    from orchestra.graph.parallel import Parallelism


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
                locate("graph"),
                f"add `- {{from: START, to: {topology.nodes[0] if topology.nodes else 'AGENT'}}}`",
            )
        ]
    unreachable = list(_unreachable(topology, locate))
    return [
        *unreachable,
        *_dead_ends(topology, locate),
        *_bounds(topology, locate),
        *_unbounded_cycles(topology, locate),
        *_ambiguous_arrivals(topology, parallelism, locate),
        *_loops_out_of_branches(topology, parallelism, locate),
    ]


def parallel_write_warnings(
    topology: Topology, parallelism: Parallelism, writes: Mapping[str, Sequence[str]], locate: Locate
) -> list[Problem]:
    """Warn where agents that can be active together write to the same repo.

    Args:
        topology: The analysed graph.
        parallelism: Who can be active together.
        writes: For each node the repos that it may write.
        locate: Gives the place of a path in the pipeline file.
    """
    problems = []
    for position, node in enumerate(topology.nodes):
        for other in topology.nodes[position + 1 :]:
            shared = [repo for repo in writes.get(node, ()) if repo in writes.get(other, ())]
            if shared and (node, other) in parallelism.pairs:
                named = " and ".join(repr(repo) for repo in shared)
                problems.append(
                    Problem(
                        "parallel-write",
                        f"{node!r} and {other!r} can run at the same time and both may write to {named}; "
                        "their turns will take place one after the other, each on the files the other left",
                        locate("agents", node, key=True),
                        "put an edge between them, or leave the writing tools to one of them",
                        "warning",
                    )
                )
    return problems


def _unreachable(topology: Topology, locate: Locate) -> Iterator[Problem]:
    found = topology.reaches(START)
    for node in topology.nodes:
        if node not in found:
            yield Problem(
                "unreachable-agent",
                f"{node!r} can't be reached from START, so it would never run",
                _node_place(node, locate),
                f"add an edge to {node!r}, or remove it",
            )


def _node_place(node: str, locate: Locate) -> Location:
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
                _node_place(node, locate),
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
                    f"after {edge.max_loops} loops this edge must go on to one target, "
                    f"but {ways} of `to` {'lead' if len(onward) > 1 else 'leads'} onward",
                    locate("graph", edge.index, "max_loops", key=True),
                    f"add `on_max_loops: {onward[0] if onward else END}`",
                )


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
        yield _unbounded(topology, part, locate)


def _unbounded(topology: Topology, part: frozenset[str], locate: Locate) -> Problem:
    edges = [edge for source in part for edge in topology.edges.get(source, ()) if part.intersection(edge.reachable)]
    back = [edge for edge in edges if part.intersection(edge.loop_targets)] or edges
    edge = max(back, key=lambda candidate: candidate.index)
    names = " → ".join(repr(node) for node in topology.nodes if node in part)
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
    for clash in parallelism.ambiguous:
        one, other = clash.sources
        yield Problem(
            "ambiguous-arrival",
            f"{one!r} and {other!r} can be active at the same time, and each has an edge of its own to "
            f"{clash.target!r}, which could then start twice",
            locate("graph", max(clash.indexes)),
            f"use one list edge instead: `{{from: [{one}, {other}], to: {clash.target}}}`",
        )
    loops = {edge.key: edge.loop_targets for leaving in topology.edges.values() for edge in leaving}
    for key, pairs in parallelism.forbidden.items():
        for chosen, clash in pairs.items():
            if len(chosen & loops[key]) == 1:
                continue  # going back and going on at once: nobody means it
            first, second = sorted(chosen)
            one, other = clash.sources
            yield Problem(
                "ambiguous-choice",
                f"should a condition choose {first!r} and {second!r} together, {one!r} and {other!r} would arrive at "
                f"{clash.target!r} apart; the session would stop there",
                locate("graph", max(clash.indexes)),
                f"where that can happen, use a list edge: `{{from: [{one}, {other}], to: {clash.target}}}`",
                "warning",
            )


def _loops_out_of_branches(topology: Topology, parallelism: Parallelism, locate: Locate) -> Iterator[Problem]:
    if parallelism.ambiguous:
        return
    reported: set[int] = set()
    for source, leaving in topology.edges.items():
        beside = parallelism.certain_beside(source) & parallelism.doubled
        for edge in leaving:
            for target in edge.loop_targets:
                again = sorted(other for other in beside if other in topology.reaches(target))
                if again and edge.index not in reported:
                    reported.add(edge.index)
                    yield Problem(
                        "loop-out-of-branch",
                        f"the edge from {source!r} back to {target!r} leaves its branch while {again[0]!r} may still "
                        "be active, which would then start a second time",
                        locate("graph", edge.index),
                        "join the branches before the edge that goes back",
                    )
