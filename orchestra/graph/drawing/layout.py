"""Where each node, label and line of a picture stands, in whole units: columns and lines, or pixels.

Nodes stand in ranks, one below another. Lines leave a node at its lower edge, turn twice between two ranks and come in
at the upper edge of the next node; arrows back the other way round.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from math import floor
from typing import TYPE_CHECKING

from orchestra.graph.drawing.layers import layer
from orchestra.graph.drawing.tracks import Net, Wire, place_tracks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestra.graph.drawing.layers import Arrow, Layers, Link, Size

_PASSES = 24
_STIFF = (8.0, 2.0, 1.0)
"""How much it matters that a line is straight, by how many of its ends are nodes: long arrows must not wind."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Distances, in the units of the picture."""

    gap: int
    """Between two nodes of a rank."""
    line: int
    """Between two parallel lines."""
    head: int
    """The length of an arrow's head."""
    lead: int = 0
    """Between a node and the first turn of a line that has no head there."""
    frame: int = 0
    """Between a branch's frame and what is in it."""


@dataclass(frozen=True, slots=True)
class Box:
    """Where a node or a label stands."""

    x: int
    y: int
    width: int
    height: int


Points = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A piece of line between two items, downwards."""

    points: Points
    arrows: tuple[int, ...]
    """The arrows that it is a part of."""
    net: int
    """Lines of one net flow together; others only cross it."""
    head: tuple[int, int] | None = None
    """Where an arrow ends, and `upwards` in which direction."""
    upwards: bool = False
    is_alone: bool = False
    """It is a part of one arrow only, and no other one ends where it does."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A picture."""

    width: int
    height: int
    nodes: tuple[Box, ...]
    labels: Mapping[int, Box]
    """Arrow → its label."""
    lines: tuple[Line, ...]
    frames: tuple[tuple[tuple[str, ...], Box], ...] = ()
    """Branches that can be framed without anything else in the frame, the outermost first."""


def lay_out(nodes: Sequence[Size], arrows: Sequence[Arrow], metrics: Metrics, last: int | None = None) -> Layout:
    """Lay out a graph.

    Args:
        nodes: Their sizes, in an order that leads from its beginning to its end.
        arrows: Between them; one that leads from a node to itself is left out.
        metrics: Distances.
        last: A node below all others.
    """
    return _Picture(layer(nodes, arrows, last), metrics, len(nodes)).layout()


@dataclass(slots=True)
class _Ports:
    """Where lines meet an item, as distances from its left: those that lead down, and those that lead up."""

    down: int
    up: int


class _Picture:
    def __init__(self, layers: Layers, metrics: Metrics, nodes: int) -> None:
        self._layers = layers
        self._metrics = metrics
        self._nodes = nodes
        self._left: list[float] = [0.0] * len(layers.items)
        self._top: list[int] = [0] * len(layers.items)
        self._above: defaultdict[int, list[Link]] = defaultdict(list)
        self._below: defaultdict[int, list[Link]] = defaultdict(list)
        for link in layers.links:
            self._below[link.upper].append(link)
            self._above[link.lower].append(link)
        middles = [item.size.width // 2 for item in layers.items]
        self._at_top = [_Ports(middle, middle) for middle in middles]
        self._at_bottom = [_Ports(middle, middle) for middle in middles]

    def layout(self) -> Layout:
        for turn in range(_PASSES):
            if turn == _PASSES // 2:
                self._part_ports()
            self._place(downwards=turn % 2 == 0, both=turn >= _PASSES - 2)
        self._round()
        self._part_ports()
        for link in self._layers.links:
            self._straighten(link)
        shift = min(self._left, default=0)
        lefts = [floor(left - shift) for left in self._left]
        self._left = [*lefts]
        lines = [*self._lines()]
        boxes = [
            Box(left, top, item.size.width, item.size.height)
            for item, left, top in zip(self._layers.items, lefts, self._top, strict=True)
        ]
        labels = {item.of: box for item, box in zip(self._layers.items, boxes, strict=True) if item.kind == "label"}
        right = max((box.x + box.width for box in boxes), default=0)
        right = max([right, *(x + 1 for line in lines for x, _ in line.points)])
        bottom = max((box.y + box.height for box in boxes), default=0)
        frames = tuple(self._frames(boxes))
        return Layout(right, bottom, tuple(boxes[: self._nodes]), labels, tuple(lines), frames)

    def _port(self, item: int, link: Link, *, lower: bool) -> int:
        ports = (self._at_top if lower else self._at_bottom)[item]
        return ports.up if link.upwards else ports.down

    def _x(self, item: int, link: Link, *, lower: bool) -> float:
        return self._left[item] + self._port(item, link, lower=lower)

    def _ends(self, link: Link) -> tuple[int, int]:
        """Return where a line begins and ends, once everything stands at a whole place."""
        return floor(self._x(link.upper, link, lower=False)), floor(self._x(link.lower, link, lower=True))

    def _part_ports(self) -> None:
        """Give arrows back a port of their own where a node has both kinds on one side."""
        for item in range(len(self._layers.items)):
            for links, ports, lower in (
                (self._above[item], self._at_top[item], True),
                (self._below[item], self._at_bottom[item], False),
            ):
                back = [link for link in links if link.upwards]
                if not back or len(back) == len(links):
                    continue
                width = self._layers.items[item].size.width
                ends = [self._far_end(link, lower=lower) for link in back]
                is_right = sum(ends) / len(ends) >= self._left[item] + ports.down
                aside = min(max(2 * self._metrics.line, width // 4), width // 2 - self._metrics.line)
                ports.up = ports.down + (aside if is_right else -aside)

    def _far_end(self, link: Link, *, lower: bool) -> float:
        return self._x(link.upper, link, lower=False) if lower else self._x(link.lower, link, lower=True)

    def _straighten(self, link: Link) -> None:
        """Move the port of a line that is alone there, so that it need not turn."""
        upper_x, lower_x = self._ends(link)
        if upper_x == lower_x or self._move_port(link.lower, link, upper_x, lower=True):
            return
        self._move_port(link.upper, link, lower_x, lower=False)

    def _move_port(self, item: int, link: Link, x: int, *, lower: bool) -> bool:
        links = self._above[item] if lower else self._below[item]
        ports = (self._at_top if lower else self._at_bottom)[item]
        place, width = x - floor(self._left[item]), self._layers.items[item].size.width
        is_alone = sum(other.upwards == link.upwards for other in links) == 1
        is_parted = len({other.upwards for other in links}) > 1
        other = ports.down if link.upwards else ports.up
        is_near = is_parted and abs(place - other) < 2 * self._metrics.line
        is_inside = 2 * self._metrics.line <= place < width - 2 * self._metrics.line
        if self._layers.items[item].kind != "node" or not (is_alone and is_inside) or is_near:
            return False
        if link.upwards:
            ports.up = place
        else:
            ports.down = place
        return True

    def _place(self, *, downwards: bool, both: bool) -> None:
        """Move each rank's items towards what they are linked with, none over another."""
        ranks = self._layers.ranks if downwards else self._layers.ranks[::-1]
        for rank in ranks:
            wanted, weights = [], []
            for item in rank:
                pulls = [*self._pulls(item, downwards=downwards, both=both)] or [(self._left[item], 0.1)]
                weight = sum(weight for _, weight in pulls)
                wanted.append(sum(place * weight for place, weight in pulls) / weight)
                weights.append(weight)
            for item, left in zip(rank, self._apart(rank, wanted, weights), strict=True):
                self._left[item] = left

    def _pulls(self, item: int, *, downwards: bool, both: bool) -> Iterator[tuple[float, float]]:
        """Yield where an item would stand for each of its lines to be straight, and how much that matters."""
        if downwards or both:
            for link in self._above[item]:
                yield self._x(link.upper, link, lower=False) - self._port(item, link, lower=True), self._stiff(link)
        if not downwards or both:
            for link in self._below[item]:
                yield self._x(link.lower, link, lower=True) - self._port(item, link, lower=False), self._stiff(link)

    def _stiff(self, link: Link) -> float:
        ends = [self._layers.items[end].kind == "node" for end in (link.upper, link.lower)]
        return _STIFF[sum(ends)] * (1 if link.upwards else 2)

    def _round(self) -> None:
        """Let each item stand at a whole place, and bends below or above what they are linked with where they can."""
        for rank in self._layers.ranks:
            for item in rank:
                self._left[item] = floor(self._left[item] + 0.5)  # always up at a half: what was apart stays apart
        for downwards in (True, False):
            for rank in self._layers.ranks if downwards else self._layers.ranks[::-1]:
                for place, item in enumerate(rank):
                    self._snap(rank, place, self._above[item] if downwards else self._below[item], lower=downwards)

    def _snap(self, rank: Sequence[int], place: int, links: Sequence[Link], *, lower: bool) -> None:
        item = rank[place]
        if self._layers.items[item].kind == "node" or len(links) != 1:
            return
        far = self._far_end(links[0], lower=lower) - self._port(item, links[0], lower=lower)
        if place and far < self._right(rank[place - 1]) + self._gap(rank[place - 1], item):
            return
        after = rank[place + 1] if place + 1 < len(rank) else None
        if after is not None and far + self._layers.items[item].size.width + self._gap(item, after) > self._left[after]:
            return
        self._left[item] = far

    def _right(self, item: int) -> float:
        return self._left[item] + self._layers.items[item].size.width

    def _apart(self, rank: Sequence[int], wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
        """Return the places nearest to those wanted at which no item touches another (isotonic regression)."""
        offsets = [0]
        for one, other in pairwise(rank):
            offsets.append(offsets[-1] + self._layers.items[one].size.width + self._gap(one, other))
        blocks: list[tuple[float, float, int]] = []
        for place, weight, offset in zip(wanted, weights, offsets, strict=False):
            mean, total, count = place - offset, weight, 1
            while blocks and blocks[-1][0] >= mean:
                before, its, many = blocks.pop()
                mean = (before * its + mean * total) / (its + total)
                total, count = its + total, count + many
            blocks.append((mean, total, count))
        spread = [mean for mean, _, count in blocks for _ in range(count)]
        return [mean + offset for mean, offset in zip(spread, offsets, strict=False)]

    def _gap(self, one: int, other: int) -> int:
        items, metrics = self._layers.items, self._metrics
        bends = "bend" in (items[one].kind, items[other].kind)
        left, right = items[one].size.group, items[other].size.group
        shared = sum(a == b for a, b in zip(left, right, strict=False))
        return (metrics.line * 2 if bends else metrics.gap) + metrics.frame * (len(left) + len(right) - 2 * shared)

    def _lines(self) -> Iterator[Line]:
        """Place the ranks one below another, with as much room between them as their lines need."""
        top = 0
        for number, rank in enumerate(self._layers.ranks):
            height = max((self._layers.items[item].size.height for item in rank), default=0)
            for item in rank:
                self._top[item] = top + (height - self._layers.items[item].size.height) // 2
            self._rank_ends = (top, top + height)
            if number + 1 == len(self._layers.ranks):
                return
            below = self._layers.ranks[number + 1]
            links = [link for item in rank for link in self._below[item]]
            nets = self._nets(links)
            tracks = place_tracks(nets, self._metrics.line)
            begin = top + height + self._room(links, upwards=True)
            deepest = max((wire.track for wire in tracks.values() if wire.track is not None), default=-1)
            end = begin + (deepest + 1) * self._step + self._room(links, upwards=False)
            end = max(end, top + height + 1)
            next_height = max((self._layers.items[item].size.height for item in below), default=0)
            for item in below:
                self._top[item] = end + (next_height - self._layers.items[item].size.height) // 2
            for link in links:
                yield self._line(link, tracks[link.number], begin)
            top = end

    @property
    def _step(self) -> int:
        return max(self._metrics.line, 1)

    def _room(self, links: Iterable[Link], *, upwards: bool) -> int:
        ends = (link.upper if upwards else link.lower for link in links if link.upwards == upwards)
        is_head = any(self._layers.items[end].kind == "node" for end in ends)
        return self._metrics.head if is_head else self._metrics.lead

    def _nets(self, links: Sequence[Link]) -> list[Net]:
        """Gather the lines that flow together: those out of one port, else those into one."""
        out: defaultdict[tuple[int, bool], list[Link]] = defaultdict(list)
        for link in links:
            out[link.upper, link.upwards].append(link)
        nets: defaultdict[tuple[str, int, bool], Net] = defaultdict(Net)
        for (upper, upwards), together in out.items():
            for link in together:
                key = ("out", upper, upwards) if len(together) > 1 else ("in", link.lower, upwards)
                nets[key].add(link.number, *self._ends(link))
        return [*nets.values()]

    def _line(self, link: Link, wire: Wire, begin: int) -> Line:
        items = self._layers.items
        upper_x, lower_x = self._ends(link)
        top = self._top[link.upper] + items[link.upper].size.height
        bottom = self._top[link.lower]
        points = [(upper_x, self._top[link.upper] if items[link.upper].kind == "bend" else top)]
        for x, track in wire.turns:
            y = begin + track * self._step
            points += [(points[-1][0], y), (x, y)]
        points.append((lower_x, bottom))
        end, beside = (link.upper, self._below) if link.upwards else (link.lower, self._above)
        head = None
        if items[end].kind == "node":
            head = (upper_x, top) if link.upwards else (lower_x, bottom)
        is_alone = sum(len(other.arrows) for other in beside[end] if other.upwards == link.upwards) == 1
        return Line(tuple(points), tuple(link.arrows), wire.net, head, link.upwards, is_alone)

    def _frames(self, boxes: Sequence[Box]) -> Iterator[tuple[tuple[str, ...], Box]]:
        """Yield the frames of branches of several nodes; one in which something else would stand is left out."""
        groups: dict[tuple[str, ...], None] = {}
        for item in self._layers.items:
            for depth in range(1, len(item.size.group) + 1):
                groups[item.size.group[:depth]] = None
        framed: list[tuple[tuple[str, ...], Box]] = []
        for group in sorted(groups, key=len):
            inside = [item.size.group[: len(group)] == group for item in self._layers.items]
            frame = self._around([box for box, is_in in zip(boxes, inside, strict=True) if is_in], group)
            others = [box for box, is_in in zip(boxes, inside, strict=True) if not is_in]
            others += [box for other, box in framed if other != group[: len(other)]]
            if sum(inside[: self._nodes]) > 1 and not any(_overlap(frame, other) for other in others):
                framed.append((group, frame))
        yield from framed

    def _around(self, boxes: Sequence[Box], group: tuple[str, ...]) -> Box:
        depth = max(len(item.size.group) for item in self._layers.items if item.size.group[: len(group)] == group)
        margin = self._metrics.frame * (depth - len(group) + 1) - self._metrics.frame // 4
        left, top = min(box.x for box in boxes) - margin, min(box.y for box in boxes) - margin
        right, bottom = max(box.x + box.width for box in boxes), max(box.y + box.height for box in boxes)
        return Box(left, top, right + margin - left, bottom + margin - top)


def _overlap(one: Box, other: Box) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )
