"""A span: one thing that a session did, from when to when, with what is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

Value = str | int | float | bool | list[str]
Attributes = dict[str, Value]


class Kind(StrEnum):
    """What a span stands for."""

    SESSION = "session"
    """One process's drive of the session; the first one is the root."""
    TURN = "turn"
    MODEL = "model"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened inside a span."""

    name: str
    time: str
    attributes: Attributes


@dataclass(slots=True)
class Span:
    """One thing that a session did."""

    key: int
    """The number of the event that it began with: the same whichever process tells of it."""
    parent: int | None
    """The key of the span around it; None: the root."""
    kind: Kind
    name: str
    start: str
    """ISO 8601, as all times of events."""
    attributes: Attributes = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    end: str = ""
    error: str | None = None
    """What kind of failure it ended with."""
    message: str | None = None
    """What is told of the failure beside its kind."""
