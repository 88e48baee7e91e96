"""One agent or step of a session, as the live view knows it: where it stands, what it does, what it has spent."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from orchestra.runtime.spending import Usage

MOST_TEXT = 4_000
"""Characters that are kept of what an agent writes: its last lines are shown."""


class State(StrEnum):
    """Where an agent stands."""

    WAITING = "waiting"
    RUNNING = "running"
    ASKING = "asking"
    CONFLICT = "conflict"
    DONE = "done"
    FAILED = "failed"


class Act(StrEnum):
    """What an agent does."""

    STARTS = "starts"
    THINKS = "thinks"
    WRITES = "writes"
    CALLS = "calls"
    RETRIES = "retries"
    ASKS = "asks"
    MERGES = "merges"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Doing:
    """What an agent does now."""

    act: Act
    since: float
    """In seconds since the epoch, as all times here."""
    what: str = ""
    """What it is about: the tool, the reason."""
    about: str = ""
    """The tool's main argument."""
    until: float | None = None


@dataclass(slots=True)
class Lane:
    """One agent or step."""

    name: str
    branches: tuple[str, ...] = ()
    """Those that it lies in, the outermost first."""
    state: State = State.WAITING
    turn: int = 0
    """The one that is under way or has ended last; 0: none has begun."""
    turns: int = 0
    """Those that have ended."""
    doing: Doing | None = None
    calls: dict[str, Doing] = field(default_factory=dict)
    """The calls of tools that have not ended."""
    spent: Usage = field(default_factory=Usage)
    text: str = ""
    """The end of what it writes to nobody in particular."""
    began: float | None = None
    """When the turn began, or went on, that is under way."""
    worked: float = 0.0
    """Seconds of what lies before that."""

    def seconds(self, now: float) -> float:
        """Return how long it has worked."""
        return self.worked + (max(now - self.began, 0.0) if self.began is not None else 0.0)

    @property
    def is_at_work(self) -> bool:
        """Whether a turn of it is under way."""
        return self.began is not None

    @property
    def present(self) -> Doing | None:
        """What it does now: of several calls the last one."""
        return next(reversed(self.calls.values()), None) if self.calls else self.doing

    def halt(self, at: float, state: State) -> None:
        """Note that its turn is not under way any more."""
        self.worked = self.seconds(at)
        self.began, self.state, self.text = None, state, ""
        self.doing = self.doing if state is State.FAILED else None
        self.calls.clear()
