"""Which checkpoints of a session belong to which turn: a checkpoint names its agent, and only the last one the turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestra.runtime.store import SessionRecord

    Row = Mapping[str, Any]
    """A checkpoint as `store.read_checkpoints` gives it."""
    Commits = Mapping[str, str]
    """Repo → a commit."""

RowT = TypeVar("RowT", bound="Row")


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


def copied_rows(record: SessionRecord, numbered: Iterable[tuple[int, RowT]]) -> list[RowT]:
    """Return the checkpoints that a fork has in common with the session that it has left; of another session none.

    The one at which it left is not among them where its condition was asked anew: the turn ended once more then.
    """
    seq = (record.forked_from or {}).get("seq")
    return [row for place, row in numbered if isinstance(seq, int) and place <= seq]


def about_to_start(rows: Sequence[RowT], name: str) -> RowT | None:
    """Return the newest checkpoint between turns at which an agent, step or join is to start next."""
    return next((row for row in reversed(rows) if name in row["next"] and not is_inside(row)), None)


def turn_changes(rows: Sequence[Row], span: Span, commits: Commits) -> dict[str, tuple[str, str]]:
    """Return repo → the commits before and after, of the repos in which a turn has changed files.

    Args:
        rows: The session's checkpoints.
        span: The turn's.
        commits: What it has committed.
    """
    start = rows[span.inside[0]] if span.inside else about_to_start(rows[: span.began], span.agent)
    if start is None:
        return {}
    end = commits if span.ended is not None or commits else rows[span.inside[-1]]["repos"]
    return {repo: (before, end[repo]) for repo, before in start["repos"].items() if end.get(repo, before) != before}
