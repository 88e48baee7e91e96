"""Who can be active at the same time as whom, found from the graph alone.

The relation is the smallest one in which what is started together is parallel, and stays so while either side moves
on. A join of mode `all` moves on only beside nodes that can't arrive at it any more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestra.graph.topology import Edge, Topology

Pair = tuple[str, str]

MAX_STEPS = 2_000_000
"""Bound on the work of the analysis: beyond it, choices of several targets are taken as not allowed."""


@dataclass(frozen=True, slots=True)
class AmbiguousArrival:
    """Two nodes that can be active together, each with an edge of its own to one target."""

    target: str
    sources: Pair
    indexes: tuple[int, int]


@dataclass(frozen=True)
class Parallelism:
    """Which nodes can be active at the same time."""

    pairs: frozenset[Pair]
    """Both orders of each pair."""
    ambiguous: tuple[AmbiguousArrival, ...]
    """Arrivals that are ambiguous whatever the conditions choose."""
    doubled: frozenset[str]
    """Nodes that could be started while they are active."""
    forbidden: dict[str, dict[frozenset[str], AmbiguousArrival]]
    """By edge key: targets that a condition must not choose together."""
    certain: frozenset[Pair]
    """The pairs that need no condition's choice of several targets."""

    def certain_beside(self, node: str) -> frozenset[str]:
        """Return the nodes that can be active while `node` is, whatever the conditions choose."""
        return frozenset(other for one, other in self.certain if one == node)

    def beside(self, node: str) -> frozenset[str]:
        """Return the nodes that can be active while `node` is."""
        return frozenset(other for one, other in self.pairs if one == node and other != node)


def find_parallelism(topology: Topology) -> Parallelism:
    """Find which nodes can be active together.

    A condition's choice is taken as one target first: errors are only what no condition can avoid. Each pair of its
    targets is then tried: pairs that would make an arrival ambiguous are forbidden at run time, the others count as
    parallel.
    """
    budget = _Budget()
    certain = _close(topology, _certain_seeds(topology), frozenset(), budget)
    ambiguous = _ambiguous(topology, certain)
    pairs = certain
    forbidden: dict[str, dict[frozenset[str], AmbiguousArrival]] = {}
    known = {(clash.target, clash.sources) for clash in ambiguous}
    for edge in _conditional(topology):
        for first, second in combinations(edge.reachable, 2):
            tried = _close(topology, [(first, second)], certain, budget)
            clashes = [
                clash for clash in _ambiguous(topology, tried | certain) if (clash.target, clash.sources) not in known
            ]
            if clashes:
                forbidden.setdefault(edge.key, {})[frozenset((first, second))] = clashes[0]
            elif (first in edge.loop_targets) == (second in edge.loop_targets):
                # Going back and going on at once is possible, but nobody means it: no warning is due.
                pairs |= tried
    return Parallelism(
        pairs=pairs,
        ambiguous=tuple(ambiguous),
        doubled=frozenset(one for one, other in certain if one == other),
        forbidden=forbidden,
        certain=certain,
    )


class _Budget:
    def __init__(self) -> None:
        self.left = MAX_STEPS


def _conditional(topology: Topology) -> Iterator[Edge]:
    for leaving in topology.edges.values():
        yield from (edge for edge in leaving if edge.condition)


def _certain_seeds(topology: Topology) -> Iterator[Pair]:
    """Yield what is started together without a condition's choice: by one edge, or by several of one source."""
    for source in (*topology.edges, *topology.arrivals):
        groups = [(edge.reachable, edge.condition is None) for edge in topology.edges.get(source, ())]
        groups += [((join,), True) for join in topology.arrivals.get(source, ())]
        for targets, together in groups:
            if together:
                yield from combinations(targets, 2)
        for (one, _), (other, _) in combinations(groups, 2):
            yield from ((a, b) for a in one for b in other if a != b)


def _close(topology: Topology, seeds: Iterable[Pair], known: frozenset[Pair], budget: _Budget) -> frozenset[Pair]:
    """Let both sides of every pair move on until nothing new is found."""
    found: set[Pair] = set()
    queue: deque[Pair] = deque()

    def add(one: str, other: str) -> None:
        pair = (one, other)
        if pair not in found and pair not in known:
            found.add(pair)
            found.add((other, one))
            queue.append(pair)

    for one, other in seeds:
        add(one, other)
    while queue and budget.left > 0:
        one, other = queue.popleft()
        if one == other:
            continue
        for moving, staying in ((one, other), (other, one)):
            budget.left -= 1
            if not _may_leave(topology, moving, staying):
                continue
            for target in topology.successors.get(moving, ()):
                if not (target == staying and target in topology.joins):
                    add(target, staying)
    return frozenset(found)


def _may_leave(topology: Topology, node: str, beside: str) -> bool:
    """A join fires only beside what can't arrive at it any more; a node may always end."""
    join = topology.joins.get(node)
    if join is None:
        return True
    return topology.reaches(beside, avoiding=join.name).isdisjoint(join.sources)


def _ambiguous(topology: Topology, pairs: frozenset[Pair]) -> list[AmbiguousArrival]:
    clashes = []
    for target, arriving in _arriving(topology).items():
        for (one, first), (other, second) in combinations(arriving, 2):
            if one != other and (one, other) in pairs and _both_fire(topology, one, other):
                clashes.append(AmbiguousArrival(target, (one, other), (first, second)))
    return clashes


def _both_fire(topology: Topology, one: str, other: str) -> bool:
    return _may_leave(topology, one, other) or _may_leave(topology, other, one)


def _arriving(topology: Topology) -> dict[str, list[tuple[str, int]]]:
    arriving: dict[str, list[tuple[str, int]]] = {node: [] for node in topology.nodes}
    for source, leaving in topology.edges.items():
        for edge in leaving:
            for target in edge.reachable:
                arriving[target].append((source, edge.index))
    return arriving
