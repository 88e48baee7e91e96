"""Who can be active at the same time as whom, found from the graph alone.

The relation is the smallest one in which what is started together is parallel, and stays so while either side moves
on. A join of mode `all` moves on only beside nodes that can't arrive at it any more; one of mode `any` starts its
target beside them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from orchestra.graph.topology import END, START

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from orchestra.graph.topology import Edge, Topology

Pair = tuple[str, str]

MAX_PAIRS = 3_000_000
"""Bound on the work of the analysis, far beyond what a thousand agents need."""


@dataclass(frozen=True, slots=True)
class AmbiguousArrival:
    """Two nodes that can be active together, each with an edge of its own to one target."""

    target: str
    sources: Pair
    indexes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Restart:
    """A node whose edge leads onward to what may be active beside it."""

    source: str
    target: str
    index: int


@dataclass(frozen=True)
class Parallelism:
    """Which nodes can be active at the same time."""

    pairs: frozenset[Pair]
    """Both orders of each pair."""
    ambiguous: tuple[AmbiguousArrival, ...]
    """Arrivals that are ambiguous whatever the conditions choose."""
    restarts: tuple[Restart, ...]
    """Edges that could start their target while it is active, whatever the conditions choose."""
    doubled: frozenset[str]
    """Nodes that could be started while they are active."""
    forbidden: dict[str, dict[frozenset[str], AmbiguousArrival]]
    """By edge key: targets that a condition must not choose together."""
    certain: frozenset[Pair]
    """The pairs that need no condition's choice of several targets."""
    complete: bool = True
    """False where the graph was too large to find them all."""


def find_parallelism(topology: Topology) -> Parallelism:
    """Find which nodes can be active together.

    A condition's choice is taken as one target first: errors are only what no condition can avoid. Each pair of its
    targets is then tried: pairs that would make an arrival ambiguous are forbidden at run time, the others count as
    parallel.
    """
    steps = _Steps(topology)
    certain = steps.close(_certain_seeds(topology))
    ambiguous = _ambiguous(topology, certain)
    pairs, forbidden = _choices(topology, steps, certain)
    pairs = _with_early_starts(topology, steps, pairs)
    return Parallelism(
        pairs=pairs,
        ambiguous=tuple(ambiguous),
        restarts=tuple(_restarts(topology, certain)),
        doubled=frozenset(one for one, other in certain if one == other),
        forbidden=forbidden,
        certain=certain,
        complete=steps.left > 0,
    )


def _choices(
    topology: Topology, steps: _Steps, certain: frozenset[Pair]
) -> tuple[frozenset[Pair], dict[str, dict[frozenset[str], AmbiguousArrival]]]:
    """Try each pair of a condition's targets: those that lead to a clash are forbidden, the others run in parallel."""
    seeds = {
        edge.key: [(one, other) for one, other in combinations(_together(edge), 2) if (one, other) not in certain]
        for edge in _conditional(topology)
    }
    before: dict[Pair, list[Pair]] = {}
    steps.close((pair for tried in seeds.values() for pair in tried), certain, before)
    bad = _leading_to(_clashes(topology, before), before)
    forbidden: dict[str, dict[frozenset[str], AmbiguousArrival]] = {}
    parallel: list[Pair] = []
    for edge in _conditional(topology):
        for one, other in seeds[edge.key]:
            clash = bad.get(_ordered(one, other))
            if clash is not None:
                forbidden.setdefault(edge.key, {})[frozenset((one, other))] = clash
            elif (one in edge.loop_targets) == (other in edge.loop_targets):
                # Going back and going on at once is possible, but nobody means it: no warning is due.
                parallel.append((one, other))
    return certain | steps.close(parallel, certain), forbidden


def _with_early_starts(topology: Topology, steps: _Steps, pairs: frozenset[Pair]) -> frozenset[Pair]:
    """Add what a join of mode `any` starts beside those that arrive later, which then start nothing again."""
    early = {join.name: join.target for join in topology.joins.values() if join.mode == "any"}
    steps.held = early.keys()
    while True:
        seeds = [
            (early[one], other)
            for one, other in pairs
            if one in early and (early[one], other) not in pairs and other in topology.reaches(START, early[one])
        ]
        if not seeds or steps.left <= 0:
            return pairs
        pairs |= steps.close(seeds, pairs)


def _clashes(topology: Topology, pairs: Iterable[Pair]) -> dict[Pair, AmbiguousArrival]:
    """Find the pairs that reach one target by separate edges."""
    targets: dict[str, dict[str, int]] = {}
    for source, leaving in topology.edges.items():
        targets[source] = {target: edge.index for edge in leaving for target in edge.reachable}
    found = {}
    for one, other in pairs:
        shared = [] if one == other else [target for target in targets.get(one, ()) if target in targets.get(other, ())]
        if shared and _both_fire(topology, one, other):
            indexes = (targets[one][shared[0]], targets[other][shared[0]])
            found[_ordered(one, other)] = AmbiguousArrival(shared[0], (one, other), indexes)
    return found


def _leading_to(
    clashes: Mapping[Pair, AmbiguousArrival], before: Mapping[Pair, Sequence[Pair]]
) -> dict[Pair, AmbiguousArrival]:
    """Walk back from the clashes to every pair that can come to one."""
    found = dict(clashes)
    queue = deque(found)
    while queue:
        pair = queue.popleft()
        for earlier in before.get(pair, ()):
            if earlier not in found:
                found[earlier] = found[pair]
                queue.append(earlier)
    return found


def _ordered(one: str, other: str) -> Pair:
    return (one, other) if one <= other else (other, one)


def _conditional(topology: Topology) -> Iterator[Edge]:
    for leaving in topology.edges.values():
        yield from (edge for edge in leaving if edge.condition)


def _together(edge: Edge) -> tuple[str, ...]:
    """Return what the edge may start at once: `on_max_loops` comes only where nothing else is left."""
    return tuple(target for target in edge.targets if target != END)


def _certain_seeds(topology: Topology) -> Iterator[Pair]:
    """Yield what is started together without a condition's choice: by one edge, or by several of one source."""
    for source in (*topology.edges, *topology.arrivals):
        leaving = topology.edges.get(source, ())
        for edge in leaving:
            if edge.condition is None:
                yield from combinations(_together(edge), 2)
        groups = [edge.reachable for edge in leaving] + [(join,) for join in topology.arrivals.get(source, ())]
        for one, other in combinations(groups, 2):
            yield from ((a, b) for a in one for b in other if a != b)


class _Steps:
    """Lets both sides of pairs move on until nothing new is found."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self.left = MAX_PAIRS
        self.held: Collection[str] = ()
        """What does not move on."""

    def close(
        self,
        seeds: Iterable[Pair],
        known: frozenset[Pair] = frozenset(),
        before: dict[Pair, list[Pair]] | None = None,
    ) -> frozenset[Pair]:
        """Return every pair that the seeds can come to, in both orders; `before` takes where each was reached from."""
        before = {} if before is None else before
        queue: deque[Pair] = deque()

        def add(one: str, other: str, earlier: Pair | None) -> None:
            if (one, other) in known:
                return
            pair = _ordered(one, other)
            reached_from = before.get(pair)
            if reached_from is None:
                reached_from = before[pair] = []
                queue.append(pair)
            if earlier is not None:
                reached_from.append(earlier)

        for one, other in seeds:
            add(one, other, None)
        while queue and self.left > 0:
            self.left -= 1
            pair = one, other = queue.popleft()
            if one != other:
                for moving, staying in ((one, other), (other, one)):
                    for target in self._onward(moving, staying):
                        add(target, staying, pair)
        return frozenset(pair for one, other in before for pair in ((one, other), (other, one)))

    def _onward(self, moving: str, staying: str) -> Iterator[str]:
        if moving not in self.held and _may_leave(self._topology, moving, staying):
            for target in self._topology.successors.get(moving, ()):
                if not (target == staying and target in self._topology.joins):
                    yield target


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


def _restarts(topology: Topology, pairs: frozenset[Pair]) -> Iterator[Restart]:
    """Yield each edge onward to what may be active beside its source; ways back are judged as loops."""
    for source, leaving in topology.edges.items():
        for edge in leaving:
            for target in edge.reachable:
                if target in edge.loop_targets or (source, target) not in pairs:
                    continue
                join = topology.joins.get(source)
                if join is None or (join.mode == "all" and _may_leave(topology, source, target)):
                    yield Restart(source, target, edge.index)


def _both_fire(topology: Topology, one: str, other: str) -> bool:
    return _may_leave(topology, one, other) or _may_leave(topology, other, one)


def _arriving(topology: Topology) -> dict[str, list[tuple[str, int]]]:
    arriving: dict[str, list[tuple[str, int]]] = {node: [] for node in topology.nodes}
    for source, leaving in topology.edges.items():
        for edge in leaving:
            for target in edge.reachable:
                arriving[target].append((source, edge.index))
    return arriving
