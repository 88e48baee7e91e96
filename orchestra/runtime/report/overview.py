"""The first look at a session's log: its turns and what lay between them, when, how long, what it cost.

Nothing that is long is kept, so that a log of any size fits; the contents come with the second look (`story`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from orchestra.graph.outline import Outline
from orchestra.runtime.spending import Spending, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestra.runtime.observability import Event

State = Literal["running", "done", "failed", "stopped", "waiting", "interrupted"]

MOST_HAPPENINGS = 3_000
"""Events between turns that are told."""
MOST_STRETCHES = 200_000
"""Calls of models and tools that a timeline is drawn of."""

SESSION_TYPES = (
    *("session_started", "session_resumed", "session_forked", "session_completed", "session_failed"),
    *("session_paused", "session_interrupted", "session_cancelled", "session_stopping", "note", "internal_error"),
    *("setup_started", "setup_ended", "files_put_back", "files_kept", "merged", "conflict", "conflict_resolved"),
)
OVERVIEW_TYPES = (
    *(*SESSION_TYPES, "warning", "turn_started", "turn_ended", "turn_failed", "turn_stopped"),
    *("model_started", "model_ended", "model_failed", "tool_started", "tool_ended", "question_asked"),
    *("question_left", "human_turn"),
)
_SHOWN_BETWEEN = frozenset(SESSION_TYPES) - {"session_started", "session_stopping", "setup_started"}
_STATES: Mapping[str, State] = {
    "turn_started": "running",
    "turn_ended": "done",
    "turn_failed": "failed",
    "turn_stopped": "stopped",
    "question_asked": "waiting",
    "question_left": "waiting",
    "human_turn": "running",
}
_DRIVER_CHANGED = frozenset({"session_resumed", "session_forked", "session_interrupted", "session_paused"})


@dataclass(slots=True)
class Stretch:
    """Some time, in seconds since the epoch."""

    kind: Literal["turn", "model", "tool", "person"]
    start: float
    end: float | None = None
    name: str = ""
    ok: bool = True


@dataclass(slots=True)
class TurnFacts:
    """One turn."""

    agent: str
    turn: int
    first: int
    """The number of its first event."""
    attempts: int = 1
    state: State = "running"
    is_copied: bool = False
    """Whether a fork has it from the session that it has left."""
    stretches: list[Stretch] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    failed_calls: int = 0
    """Attempts of model calls that have failed."""
    tools: Counter[str] = field(default_factory=Counter)
    failed_tools: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """Which turn it is."""
        return self.agent, self.turn

    @property
    def seconds(self) -> float:
        """How long it took, as far as that is known."""
        return sum((part.end or part.start) - part.start for part in self.stretches if part.kind == "turn")


@dataclass(frozen=True, slots=True)
class Overview:
    """A session's turns in the order in which they began, and what happened between them."""

    turns: tuple[TurnFacts, ...]
    happenings: tuple[Event, ...]
    untold: int
    """How many events between turns were too many."""
    spending: Spending
    outline: Outline | None
    """None: the log does not tell it."""
    started: float | None
    """When it began, a fork after what it has from the other session; None: nothing has happened yet."""
    ended: float | None


def seconds_of(time: str) -> float:
    """Return the time of an event in seconds."""
    return datetime.fromisoformat(time).timestamp()


def fold_overview(events: Iterable[Event], *, is_driven: bool) -> Overview:
    """Return what events of the `OVERVIEW_TYPES` tell.

    Args:
        events: Those of a session, in their order.
        is_driven: Whether a process drives it; else nobody is at work, whatever the last events say.
    """
    fold = _Fold()
    for event in events:
        fold.add(event)
    return fold.overview(is_driven=is_driven)


class _Fold:
    def __init__(self) -> None:
        self._turns: dict[tuple[str, int], TurnFacts] = {}
        self._happenings: list[Event] = []
        self._untold = 0
        self._spending = Spending()
        self._graph: Any = None
        self._started: float | None = None
        self._last: float | None = None
        self._open: dict[tuple[Any, ...], Stretch] = {}
        self._kept = 0

    def overview(self, *, is_driven: bool) -> Overview:
        for turn in self._turns.values():
            if turn.state == "running" and not is_driven:
                turn.state = "interrupted"
        for stretch in self._open.values():
            stretch.end = self._last
        return Overview(
            turns=tuple(self._turns.values()),
            happenings=tuple(self._happenings),
            untold=self._untold,
            spending=self._spending,
            outline=_outline(self._graph),
            started=self._started,
            ended=self._last,
        )

    def add(self, event: Event) -> None:
        now = seconds_of(event.time)
        if self._started is None or event.type == "session_forked":
            self._started = now
        if event.type.startswith("session_"):
            self._session_event(event)
        self._last = now
        if event.type in _SHOWN_BETWEEN or (event.type == "warning" and event.turn is None):
            self._happen(event)
        if event.node is not None and event.turn is not None:
            self._turn_event(event.node, event.turn, event, now)
        elif event.type == "turn_stopped":
            self._stop(event)

    def _happen(self, event: Event) -> None:
        if len(self._happenings) < MOST_HAPPENINGS:
            payload = {key: value for key, value in event.payload.items() if key != "graph"}
            self._happenings.append(replace(event, payload=payload))
        else:
            self._untold += 1

    def _session_event(self, event: Event) -> None:
        if event.type in ("session_started", "session_resumed"):
            self._graph = event.payload.get("graph") or self._graph
        if event.type == "session_forked":
            for turn in self._turns.values():
                turn.is_copied = True
        if event.type in _DRIVER_CHANGED:
            # Whoever was at work is not any more, since the last that was heard.
            for stretch in self._open.values():
                stretch.end = self._last
            self._open.clear()
            for turn in self._turns.values():
                if turn.state in ("running", "waiting") and event.type != "session_paused":
                    turn.state = "interrupted"

    def _stop(self, event: Event) -> None:
        agent, number = event.payload.get("agent"), event.payload.get("turn")
        facts = self._turns.get((str(agent), number if isinstance(number, int) else 0))
        if facts is not None:
            facts.state = "stopped"
        else:
            self._happen(event)

    def _turn_event(self, node: str, number: int, event: Event, now: float) -> None:
        key, kind, payload = (node, number), event.type, event.payload
        facts = self._turns.get(key)
        if facts is None:
            facts = self._turns[key] = TurnFacts(node, number, event.seq)
        facts.attempts = max(facts.attempts, event.attempt or 1)
        facts.state = _STATES.get(kind, facts.state)
        place = (*key, event.attempt)
        if kind == "turn_started":
            self._begin((*place, "turn"), facts, Stretch("turn", now, name=node))
        elif kind in ("turn_ended", "turn_failed"):
            self._end((*place, "turn"), now, ok=kind == "turn_ended")
            for name in ("model", "person"):
                self._end((*place, name), now)
        elif kind.startswith("model_"):
            self._model_event(place, facts, kind, payload, now)
        elif kind.startswith("tool_"):
            self._tool_event(place, facts, kind, payload, now)
        elif kind == "question_asked":
            self._begin((*place, "person"), facts, Stretch("person", now))
        elif kind in ("human_turn", "question_left"):
            self._end((*place, "person"), now)

    def _model_event(
        self, place: tuple[Any, ...], facts: TurnFacts, kind: str, payload: Mapping[str, Any], now: float
    ) -> None:
        key = (*place, "model")
        if kind == "model_started":
            self._begin(key, facts, Stretch("model", now, name=str(payload.get("model"))))
        elif kind == "model_ended":
            self._end(key, now)
            facts.usage.add(payload)
            self._spending.add(facts.agent, payload)
        elif kind == "model_failed":
            self._end(key, now, ok=False)
            facts.failed_calls += 1

    def _tool_event(
        self, place: tuple[Any, ...], facts: TurnFacts, kind: str, payload: Mapping[str, Any], now: float
    ) -> None:
        name = str(payload.get("tool"))
        key = (*place, "tool", payload.get("call", name))
        if kind == "tool_started":
            self._begin(key, facts, Stretch("tool", now, name=name))
        elif kind == "tool_ended":
            self._end(key, now, ok=bool(payload.get("ok")))
            facts.tools[name] += 1
            facts.failed_tools += not payload.get("ok")

    def _begin(self, key: tuple[Any, ...], facts: TurnFacts, stretch: Stretch) -> None:
        self._end(key, stretch.start)
        self._open[key] = stretch
        self._kept += 1
        if stretch.kind == "turn" or self._kept <= MOST_STRETCHES:
            facts.stretches.append(stretch)

    def _end(self, key: tuple[Any, ...], now: float, *, ok: bool = True) -> None:
        if stretch := self._open.pop(key, None):
            stretch.end, stretch.ok = now, ok


def _outline(graph: object) -> Outline | None:
    try:
        return Outline.from_json(graph)  # type: ignore[arg-type]  # whatever it is, it is checked
    except (KeyError, TypeError, ValueError):
        return None
