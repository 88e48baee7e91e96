"""On which track between two ranks a line turns, so that no two lines run over each other.

A net is what flows together: it comes down at some places, runs along its track, and goes on down at others. Where one
net comes down at the place at which another goes on, it has to turn above that one; nets that want this of each other
take a second turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_MOST_COMPARED = 150
"""Runs beside each other up to which their crossings are counted."""


@dataclass(slots=True)
class Net:
    """Lines that flow together."""

    uppers: dict[int, int] = field(default_factory=dict)
    """Line → where it comes down."""
    lowers: dict[int, int] = field(default_factory=dict)
    """Line → where it goes on."""

    def add(self, line: int, upper: int, lower: int) -> None:
        """Add a line."""
        self.uppers[line], self.lowers[line] = upper, lower


@dataclass(slots=True)
class Wire:
    """How one line runs between two ranks."""

    net: int
    turns: list[tuple[int, int]] = field(default_factory=list)
    """The places that it turns to, each with the track on which it gets there; none: it is straight."""

    @property
    def track(self) -> int | None:
        """The lowest of its tracks."""
        return max((track for _, track in self.turns), default=None)


@dataclass(slots=True)
class _Run:
    """A piece of a net on one track."""

    net: int
    tops: frozenset[int]
    bottoms: frozenset[int]
    track: int = -1

    @property
    def left(self) -> int:
        return min(self.tops | self.bottoms)

    @property
    def right(self) -> int:
        return max(self.tops | self.bottoms)

    @property
    def is_straight(self) -> bool:
        return self.left == self.right

    def crossings_above(self, other: _Run) -> int:
        """Count the crossings where this run is above the other one."""
        own = sum(other.left < x < other.right for x in self.bottoms)
        return own + sum(self.left < x < self.right for x in other.tops)


def place_tracks(nets: Sequence[Net], apart: int) -> dict[int, Wire]:
    """Return for each line how it runs.

    Args:
        nets: All between two ranks.
        apart: The least distance of two runs on one track.
    """
    runs = [
        _Run(number, frozenset(net.uppers.values()), frozenset(net.lowers.values())) for number, net in enumerate(nets)
    ]
    runs = _order(_without_circles(runs))
    for place, run in enumerate(runs):
        if not run.is_straight:
            run.track = _track(run, runs[:place], apart)
    of_net: dict[int, list[_Run]] = {}
    for run in runs:
        of_net.setdefault(run.net, []).append(run)
    return {
        line: Wire(number, [*_turns(net.uppers[line], lower, of_net[number])])
        for number, net in enumerate(nets)
        for line, lower in net.lowers.items()
    }


def _turns(upper: int, lower: int, runs: Sequence[_Run]) -> Iterator[tuple[int, int]]:
    here = upper
    for number, run in enumerate(runs):
        is_last = number + 1 == len(runs)
        there = lower if is_last else next(iter(run.bottoms))
        if there != here and run.track >= 0:
            yield there, run.track
        here = there


def _track(run: _Run, above: Sequence[_Run], apart: int) -> int:
    # Below all that it touches and that comes before it: those that must be above it are among them.
    return max((other.track + 1 for other in above if _touches(other, run, apart)), default=0)


def _touches(one: _Run, other: _Run, apart: int) -> bool:
    return one.left < other.right + apart and other.left < one.right + apart


def _order(runs: Sequence[_Run]) -> list[_Run]:
    """Sort runs so that each is below those that must be above it, with few crossings."""
    above = _above(runs)
    below: list[list[int]] = [[] for _ in runs]
    for number, uppers in enumerate(above):
        for upper in uppers:
            below[upper].append(number)
    waits = [len(uppers) for uppers in above]
    costs = [_cost(run, runs) for run in runs]
    ready = [(costs[number], number) for number, count in enumerate(waits) if not count]
    heapify(ready)
    ordered = []
    while ready:
        _, number = heappop(ready)
        ordered.append(runs[number])
        for lower in below[number]:
            waits[lower] -= 1
            if not waits[lower]:
                heappush(ready, (costs[lower], lower))
    return ordered


def _above(runs: Sequence[_Run]) -> list[set[int]]:
    """Return for each run those that must be above it."""
    coming: dict[int, int] = {x: number for number, run in enumerate(runs) for x in run.tops}
    cut = {(run.net, x): number for number, run in enumerate(runs) for x in run.bottoms}
    above: list[set[int]] = [set() for _ in runs]
    for number, run in enumerate(runs):
        for x in run.bottoms:
            upper = coming.get(x)
            if upper is not None and runs[upper].net != run.net:
                above[number].add(upper)
        # Of a net that was cut the one piece goes on where the other one has come to.
        above[number] |= {cut[run.net, x] for x in run.tops if (run.net, x) in cut} - {number}
    return above


def _cost(run: _Run, others: Sequence[_Run]) -> int:
    """Return how many more crossings there are with a run above all others than below them."""
    if len(others) > _MOST_COMPARED:
        return -run.left
    return sum(run.crossings_above(other) - other.crossings_above(run) for other in others if other is not run)


def _without_circles(runs: list[_Run]) -> list[_Run]:
    """Cut nets in two that would each have to turn above the other."""
    taken = {x for run in runs for x in run.tops | run.bottoms}
    settled = list(runs)
    while circle := _circle(settled):
        run = max(circle, key=lambda run: run.right - run.left)
        between = _free_place(run, taken)
        taken.add(between)
        settled.remove(run)
        settled += [
            _Run(run.net, run.tops, frozenset((between,))),
            _Run(run.net, frozenset((between,)), run.bottoms),
        ]
    return settled


def _circle(runs: Sequence[_Run]) -> list[_Run]:
    """Return the runs that are left when those are taken away, again and again, above or below which none must be."""
    above = _above(runs)
    left = set(range(len(runs)))
    while free := {number for number in left if not above[number] & left}:
        left -= free
    while free := left - {upper for number in left for upper in above[number]}:
        left -= free
    return [runs[number] for number in sorted(left)]


def _free_place(run: _Run, taken: set[int]) -> int:
    middle = (run.left + run.right) // 2
    return next(x for step in range(len(taken) + 1) for x in (middle + step, middle - step) if x not in taken)
