"""Which arrows of its graph a session has taken, concluded from its turns and from what conditions chose.

The log says when a turn began and ended and what a condition chose. What follows is known: an arrow without a condition
is taken by each turn that ends; a bound closes the ways back; and a turn that nothing else explains was started by the
join before it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from orchestra.graph.topology import END, START

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from orchestra.graph.outline import Outline, OutlineEdge

Turn = tuple[str, int]
"""A node and the number of its turn."""


@dataclass(slots=True)
class Facts:
    """What is known of the turns of a session."""

    begun: dict[Turn, None] = field(default_factory=dict)
    ended: dict[Turn, None] = field(default_factory=dict)
    """Those that have gone on to what comes next."""
    unmoved: dict[Turn, None] = field(default_factory=dict)
    """Those that ended and were followed by a further turn of the same node: one that met one more conflict."""
    chosen: dict[Turn, dict[str, Sequence[str]]] = field(default_factory=dict)
    """Turn → edge, as `SOURCE#INDEX` → the targets that its condition chose."""


@dataclass(frozen=True, slots=True)
class _Way:
    """The arrows that one edge of the file has become."""

    arrows: tuple[tuple[int, OutlineEdge], ...]

    @property
    def condition(self) -> str | None:
        return self.arrows[0][1].condition

    @property
    def bound(self) -> int | None:
        return next((arrow.max_loops for _, arrow in self.arrows if arrow.max_loops is not None), None)


def taken_arrows(outline: Outline, facts: Facts) -> tuple[int, ...]:
    """Return how often each arrow was taken, in the order of the outline's."""
    return _Count(outline, facts).result()


class _Count:
    def __init__(self, outline: Outline, facts: Facts) -> None:
        self._outline = outline
        self._facts = facts
        self._taken = [0] * len(outline.edges)
        self._starts = Counter(name for name, _ in facts.begun)
        self._starts.subtract(name for name, _ in facts.unmoved)
        self._joins = {node.name for node in outline.nodes if node.kind == "join"}
        leaving: defaultdict[str, list[tuple[int, OutlineEdge]]] = defaultdict(list)
        for number, edge in enumerate(outline.edges):
            leaving[edge.source].append((number, edge))
        self._ways = {source: [*_ways(edges)] for source, edges in leaving.items()}
        self._loops: Counter[tuple[str, int]] = Counter()
        self._unsure: list[Sequence[int]] = []
        """For each choice that is not told in full the arrows of which it took one."""

    def result(self) -> tuple[int, ...]:
        for name, turn in self._facts.ended:
            chosen = [*self._facts.chosen.get((name, turn), {}).items()]
            chosen.sort(key=lambda pair: _index(pair[0]))
            conditional = iter(targets for _, targets in chosen)
            for place, way in enumerate(self._ways.get(name, ())):
                targets = None if way.condition is None else next(conditional, None)
                self._go((name, place), way, targets)
        self._begin()
        for among in self._unsure:
            self._guess(among)
        for join in self._joins:
            self._leave(join)
        return tuple(self._taken)

    def _go(self, key: tuple[str, int], way: _Way, targets: Sequence[str] | None) -> None:
        """Take the arrows of one edge, as the router does (`graph.routing`)."""
        if way.condition is not None and targets is None:
            return
        usual = [(number, arrow) for number, arrow in way.arrows if not arrow.is_fallback]
        chosen = [pair for pair in usual if targets is None or pair[1].target in targets]
        if way.bound is not None and any(arrow.is_back for _, arrow in chosen):
            if self._loops[key] < way.bound:
                self._loops[key] += 1
            else:
                chosen = [pair for pair in chosen if not pair[1].is_back] or self._otherwise(way)
        for number, _ in chosen:
            self._taken[number] += 1

    def _otherwise(self, way: _Way) -> list[tuple[int, OutlineEdge]]:
        """Return where an edge goes when its ways back are closed."""
        fallback = [pair for pair in way.arrows if pair[1].is_fallback]
        onward = fallback or [pair for pair in way.arrows if not pair[1].is_back]
        if len(onward) > 1:
            self._unsure.append([number for number, _ in onward])
            return []
        return onward

    def _begin(self) -> None:
        """Take the arrows that leave START: no event tells what a condition there has chosen."""
        if not self._facts.begun:
            return
        for way in self._ways.get(START, ()):
            for number, arrow in way.arrows:
                if way.condition is None or self._unexplained(arrow.target) > 0:
                    self._taken[number] += 1

    def _guess(self, among: Sequence[int]) -> None:
        edges = self._outline.edges
        started = [number for number in among if self._unexplained(edges[number].target) > 0]
        ends = [number for number in among if edges[number].target == END]
        for number in (started or ends)[:1]:
            self._taken[number] += 1

    def _leave(self, join: str) -> None:
        for number, edge in enumerate(self._outline.edges):
            if edge.source == join:
                self._taken[number] = max(self._unexplained(edge.target), 0)

    def _unexplained(self, node: str) -> int:
        """Return how many turns of a node were started by no arrow that is counted."""
        into = (number for number, edge in enumerate(self._outline.edges) if edge.target == node)
        return self._starts[node] - sum(self._taken[number] for number in into)


def _ways(arrows: Collection[tuple[int, OutlineEdge]]) -> Iterator[_Way]:
    for _, of_one in groupby(arrows, key=lambda pair: pair[1].condition):
        yield _Way(tuple(of_one))


def _index(edge: str) -> int:
    _, _, number = edge.rpartition("#")
    return int(number) if number.isdecimal() else 0
