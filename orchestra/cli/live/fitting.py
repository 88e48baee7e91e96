"""Which agents get a line of their own: all of them where there is room, else those that matter now."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from orchestra.cli.live.lane import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestra.cli.live.board import Board
    from orchestra.cli.live.lane import Lane

_LEAVES_FIRST = (State.DONE, State.WAITING, State.FAILED, State.RUNNING, State.ASKING, State.CONFLICT)


@dataclass(slots=True)
class Branch:
    """A branch, or the whole session, with what lies in it."""

    name: str = ""
    parts: list[Branch | Lane] = field(default_factory=list)

    def lanes(self) -> Iterator[Lane]:
        """Yield all agents in it."""
        for part in self.parts:
            if isinstance(part, Branch):
                yield from part.lanes()
            else:
                yield part


@dataclass(frozen=True, slots=True)
class Count:
    """Agents that have no line of their own."""

    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A branch that is shown: with lines for some of its agents, or folded into one."""

    name: str
    lanes: tuple[Lane, ...]
    rows: tuple[Row, ...] = ()
    left_out: tuple[Lane, ...] = ()


Row: TypeAlias = "Lane | Group | Count"


def arrange(board: Board) -> Branch:
    """Put the agents into their branches; a branch of one agent is that agent."""
    whole = Branch()
    for lane in board.lanes.values():
        place = whole
        for name in lane.branches:
            inner = next((part for part in place.parts if isinstance(part, Branch) and part.name == name), None)
            if inner is None:
                inner = Branch(name)
                place.parts.append(inner)
            place = inner
        place.parts.append(lane)
    _unwrap(whole)
    return whole


def _unwrap(branch: Branch) -> None:
    for place, part in enumerate(branch.parts):
        if isinstance(part, Branch):
            _unwrap(part)
            if len(part.parts) == 1:
                branch.parts[place] = part.parts[0]


def fit(board: Board, most: int) -> list[Row]:
    """Return the rows of a session that fit into so many lines.

    A finished branch has one line. Where all do not fit, the finished agents are only counted, then those that wait,
    the last first, and at the very end those that work; then branches in the same order.
    """
    whole = arrange(board)
    states = {lane.name: board.state_of(lane) for lane in whole.lanes()}
    lanes = [*whole.lanes()]
    leaving = [[lane.name for lane in lanes if states[lane.name] is State.DONE]]
    for state in _LEAVES_FIRST[1:]:
        leaving += [[lane.name] for lane in reversed(lanes) if states[lane.name] is state]

    def without(count: int) -> list[Row]:
        return _rows(whole, states, {name for names in leaving[:count] for name in names})

    # The more leave the fewer rows there are: of hundreds of agents, not one after the other is tried.
    rows = without(bisect_left(range(len(leaving)), x=True, key=lambda count: _size(without(count)) <= most))
    if _size(rows) > most:  # so many branches

        def weight(row: Row) -> int:
            return max(_LEAVES_FIRST.index(states[lane.name]) for lane in _lanes_of(row))

        branches = [row for row in rows if isinstance(row, Group)]
        kept = sorted(branches, key=weight, reverse=True)[: max(most - 1, 0)]
        left_out = tuple(lane for row in rows if row not in kept for lane in _lanes_of(row))
        return [*(row for row in branches if row in kept), Count(left_out)]
    return rows


def _rows(branch: Branch, states: dict[str, State], hidden: set[str]) -> list[Row]:
    rows: list[Row] = []
    left_out: list[Lane] = []
    for part in branch.parts:
        if isinstance(part, Branch):
            rows.append(_group(part, states, hidden))
        elif part.name in hidden:
            left_out.append(part)
        else:
            rows.append(part)
    return [*rows, Count(tuple(left_out))] if left_out else rows


def _group(branch: Branch, states: dict[str, State], hidden: set[str]) -> Group:
    lanes = tuple(branch.lanes())
    if all(states[lane.name] is State.DONE or lane.name in hidden for lane in lanes):
        return Group(branch.name, lanes)
    rows = _rows(branch, states, hidden)
    left_out = tuple(lane for row in rows if isinstance(row, Count) for lane in row.lanes)
    return Group(branch.name, lanes, tuple(row for row in rows if not isinstance(row, Count)), left_out)


def _size(rows: Sequence[Row]) -> int:
    return sum(1 + (_size(row.rows) if isinstance(row, Group) else 0) for row in rows)


def _lanes_of(row: Row) -> tuple[Lane, ...]:
    return row.lanes if isinstance(row, Group | Count) else (row,)
