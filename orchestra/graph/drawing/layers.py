"""The graph in layers: each node in a rank below all that comes before it, in each rank an order with few crossings.

An arrow that passes ranks has an item in each of them: its label where it has one, else a bend. Then every link leads
from one rank to the next. Arrows back are links, too, that are drawn upwards.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_SWEEPS = 12


@dataclass(frozen=True, slots=True)
class Size:
    """How much room something takes, in the units of the picture."""

    width: int
    height: int
    group: tuple[str, ...] = ()
    """The branches that it lies in, the outermost first; they stay together."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """An arrow between two nodes, named by their places."""

    source: int
    target: int
    is_back: bool = False
    label: Size | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """What stands in a rank."""

    kind: Literal["node", "label", "bend"]
    size: Size
    rank: int
    of: int = -1
    """The node, or the arrow of a label."""


@dataclass(slots=True)
class Link:
    """A part of arrows, from an item to one in the next rank."""

    upper: int
    lower: int
    upwards: bool
    number: int
    arrows: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Layers:
    """The graph in layers; items are named by their places, the nodes first."""

    items: list[Item]
    links: list[Link]
    ranks: list[list[int]]
    chains: dict[int, list[int]]
    """Arrow → its links, downwards; an arrow from a node to itself has none."""

    def neighbours(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """Return for each item those above and those below it that it is linked with."""
        above: defaultdict[int, list[int]] = defaultdict(list)
        below: defaultdict[int, list[int]] = defaultdict(list)
        for link in self.links:
            below[link.upper].append(link.lower)
            above[link.lower].append(link.upper)
        return above, below


def layer(nodes: Sequence[Size], arrows: Sequence[Arrow], last: int | None = None) -> Layers:
    """Arrange a graph in layers.

    Args:
        nodes: Their sizes, in an order that leads from its beginning to its end.
        arrows: Between them.
        last: A node below all others.
    """
    upwards, ranks = _rank(len(nodes), arrows, last)
    items = [Item("node", size, rank, place) for place, (size, rank) in enumerate(zip(nodes, ranks, strict=True))]
    layers = Layers(items, [], [], {})
    _Chains(layers, arrows, upwards).link()
    layers.ranks = [[] for _ in range(max(ranks, default=-1) + 1)]
    for place, item in enumerate(items):
        layers.ranks[item.rank].append(place)
    _order(layers)
    return layers


def _rank(count: int, arrows: Sequence[Arrow], last: int | None) -> tuple[set[int], list[int]]:
    """Return the arrows that lead upwards, and the rank of each node."""
    below: list[dict[int, int]] = [{} for _ in range(count)]
    """Node → what must be below it, and how far at least."""
    upwards = set()
    ordered = sorted(range(len(arrows)), key=lambda number: arrows[number].is_back)
    for number in ordered:
        arrow = arrows[number]
        if arrow.source == arrow.target:
            continue
        upper, lower = (arrow.target, arrow.source) if arrow.is_back else (arrow.source, arrow.target)
        if _leads(below, lower, upper):
            upper, lower = lower, upper
        if upper == arrow.target:
            upwards.add(number)
        below[upper][lower] = max(below[upper].get(lower, 1), 2 if arrow.label else 1)
    ranks = [0] * count
    for node in _downwards(below):
        for lower, distance in below[node].items():
            ranks[lower] = max(ranks[lower], ranks[node] + distance)
    if last is not None and not below[last] and count > 1:
        ranks[last] = max(ranks[last], 1 + max(rank for node, rank in enumerate(ranks) if node != last))
    return upwards, ranks


def _leads(below: Sequence[Mapping[int, int]], start: int, end: int) -> bool:
    """Tell whether one node must be above another one already."""
    seen, waiting = {start}, [start]
    while waiting:
        for lower in below[waiting.pop()]:
            if lower == end:
                return True
            if lower not in seen:
                seen.add(lower)
                waiting.append(lower)
    return False


def _downwards(below: Sequence[Mapping[int, int]]) -> Iterator[int]:
    """Yield each node after all that are above it."""
    above = [0] * len(below)
    for lowers in below:
        for lower in lowers:
            above[lower] += 1
    ready = [node for node, count in enumerate(above) if not count]
    while ready:
        node = ready.pop()
        yield node
        for lower in below[node]:
            above[lower] -= 1
            if not above[lower]:
                ready.append(lower)


class _Chains:
    """Leads arrows through the ranks; those that have the same target flow together."""

    def __init__(self, layers: Layers, arrows: Sequence[Arrow], upwards: set[int]) -> None:
        self._layers = layers
        self._arrows = arrows
        self._upwards = upwards
        self._bends: dict[tuple[int, int, bool, tuple[str, ...]], int] = {}
        self._links: dict[tuple[int, int, bool], Link] = {}

    def link(self) -> None:
        for number, arrow in enumerate(self._arrows):
            if arrow.source != arrow.target:
                self._layers.chains[number] = self._chain(number, arrow)

    def _chain(self, number: int, arrow: Arrow) -> list[int]:
        items, up = self._layers.items, number in self._upwards
        top, bottom = (arrow.target, arrow.source) if up else (arrow.source, arrow.target)
        first, final = items[top].rank, items[bottom].rank
        labelled = None if arrow.label is None else final - 1 if up else first + 1
        stops = [top]
        for rank in range(first + 1, final):
            is_after_label = labelled is None or (rank < labelled if up else rank > labelled)
            if rank == labelled and arrow.label is not None:
                stops.append(self._add(Item("label", self._sized(arrow, arrow.label), rank, number)))
            elif is_after_label:
                stops.append(self._bend(arrow, rank, up))
        stops.append(bottom)
        return [self._link(pair, number, up) for pair in pairwise(stops)]

    def _bend(self, arrow: Arrow, rank: int, up: bool) -> int:
        size = self._sized(arrow, Size(1, 1))
        key = (arrow.target, rank, up, size.group)
        if key not in self._bends:
            self._bends[key] = self._add(Item("bend", size, rank))
        return self._bends[key]

    def _sized(self, arrow: Arrow, size: Size) -> Size:
        one, other = (self._layers.items[end].size.group for end in (arrow.source, arrow.target))
        shared = 0
        while shared < min(len(one), len(other)) and one[shared] == other[shared]:
            shared += 1
        return Size(size.width, size.height, one[:shared])

    def _add(self, item: Item) -> int:
        self._layers.items.append(item)
        return len(self._layers.items) - 1

    def _link(self, pair: tuple[int, int], arrow: int, up: bool) -> int:
        link = self._links.get((*pair, up))
        if link is None:
            link = self._links[(*pair, up)] = Link(*pair, up, len(self._layers.links))
            self._layers.links.append(link)
        link.arrows.append(arrow)
        return link.number


def _order(layers: Layers) -> None:
    """Sort each rank, again and again by what it is linked with above or below, and keep the best."""
    above, below = layers.neighbours()
    sorting = _Sorting(layers)
    best, fewest = [list(rank) for rank in layers.ranks], _crossings(layers, below)
    for sweep in range(_SWEEPS):
        ranks = layers.ranks if sweep % 2 == 0 else layers.ranks[::-1]
        beside = above if sweep % 2 == 0 else below
        for settled, rank in pairwise(ranks):
            sorting.sort(rank, settled, beside)
        count = _crossings(layers, below)
        if count < fewest:
            best, fewest = [list(rank) for rank in layers.ranks], count
    layers.ranks = best


class _Sorting:
    """Sorts a rank: those of one branch stand side by side, and branches in the order of the file."""

    def __init__(self, layers: Layers) -> None:
        self._groups = [item.size.group for item in layers.items]
        self._first: dict[tuple[str, ...], int] = {}
        """Branch → the first item in it."""
        for place, group in enumerate(self._groups):
            for depth in range(1, len(group) + 1):
                self._first.setdefault(group[:depth], place)

    def sort(self, rank: list[int], settled: Sequence[int], beside: Mapping[int, list[int]]) -> None:
        """Sort a rank by where those stand that its items are linked with in the rank beside it."""
        place = {item: number for number, item in enumerate(settled)}
        key = {
            item: sum(place[other] for other in beside[item]) / len(beside[item]) if beside.get(item) else number
            for number, item in enumerate(rank)
        }
        rank[:] = self._sorted(rank, key, 0)

    def _sorted(self, items: Iterable[int], key: Mapping[int, float], depth: int) -> list[int]:
        units: defaultdict[int | tuple[str, ...], list[int]] = defaultdict(list)
        for item in items:
            group = self._groups[item]
            units[group[: depth + 1] if len(group) > depth else item].append(item)
        ordered = sorted(units, key=lambda unit: sum(key[item] for item in units[unit]) / len(units[unit]))
        groups = iter(sorted((unit for unit in ordered if isinstance(unit, tuple)), key=self._first.__getitem__))
        found: list[int] = []
        for unit in ordered:
            found += self._sorted(units[next(groups)], key, depth + 1) if isinstance(unit, tuple) else units[unit]
        return found


def _crossings(layers: Layers, below: Mapping[int, list[int]]) -> int:
    place = {item: number for rank in layers.ranks for number, item in enumerate(rank)}
    count = 0
    for rank in layers.ranks:
        seen: list[int] = []
        for item in rank:
            ends = [place[other] for other in below.get(item, ())]
            count += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return count
