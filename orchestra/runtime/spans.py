"""Which checkpoints of a session belong to which turn: a checkpoint names its agent, and only the last one the turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Row = Mapping[str, Any]
    """A checkpoint as `store.read_checkpoints` gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The checkpoints of one turn, as places in the session's order."""

    agent: str
    turn: int
    inside: tuple[int, ...] = ()
    """Those inside the turn; a step has none."""
    ended: int | None = None
    """The one at which the turn ended; None: it has not."""

    @property
    def began(self) -> int:
        """The first checkpoint of which it is certain that the turn had begun."""
        return self.inside[0] if self.inside else self.ended or 0


def is_inside(row: Row) -> bool:
    """Tell whether a checkpoint lies inside a turn."""
    return bool(row["checkpoint_ns"] and row["agent"] and not row["ended"])


def spans_of(rows: Sequence[Row]) -> dict[tuple[str, int], Span]:
    """Return the turns of a session, also those that have not ended, in the order in which they began.

    Args:
        rows: Its checkpoints, oldest first.
    """
    spans: list[Span] = []
    last: dict[str, int] = {}
    """Agent → its last turn that has ended."""
    inside: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if is_inside(row):
            inside.setdefault(row["agent"], []).append(place)
        for entry in row["ended"]:
            agent, turn = str(entry["agent"]), int(entry["turn"])
            last[agent] = turn
            spans.append(Span(agent=agent, turn=turn, inside=tuple(inside.pop(agent, ())), ended=place))
    spans += [Span(agent=agent, turn=last.get(agent, 0) + 1, inside=tuple(places)) for agent, places in inside.items()]
    return {(span.agent, span.turn): span for span in sorted(spans, key=lambda span: span.began)}
