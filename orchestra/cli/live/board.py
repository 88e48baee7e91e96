"""The state of a session as its events tell it: a fold without clock, terminal or file."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestra.cli.live.lane import MOST_TEXT, Act, Doing, Lane, State
from orchestra.runtime.spending import Spending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.runtime.observability import Event

LASTING = frozenset(
    {
        *("turn_started", "turn_ended", "turn_failed", "turn_stopped", "model_ended", "condition_chose"),
        *("conflict", "conflict_resolved", "question_asked", "human_turn"),
        *("session_started", "session_resumed", "session_forked", "session_stopping"),
        *("session_completed", "session_failed", "session_paused", "session_interrupted", "session_cancelled"),
    }
)
"""Types of events that the state depends on for good; of the others only those of turns under way count."""
PASSING = frozenset({"model_started", "model_failed", "tool_started", "tool_ended", "text_delta"})
"""Types of events that say what an agent is doing."""
_MAIN_ARGUMENTS = ("path", "command", "pattern", "query", "url", "source", "message", "revision")
_MOST_ABOUT = 200


@dataclass(slots=True)
class Turn:
    """One turn, as a step of the session's way; places are those of the events."""

    agent: str
    number: int
    began: int
    ended: int | None = None
    chose: tuple[str, ...] = ()
    """Where a condition has sent the session behind it."""


@dataclass(slots=True)
class Board:
    """Where a session stands."""

    session: str = ""
    pipeline: str = ""
    status: str = "starting"
    lanes: dict[str, Lane] = field(default_factory=dict)
    spending: Spending = field(default_factory=Spending)
    turns: dict[tuple[str, int], Turn] = field(default_factory=dict)
    """In the order in which they began."""
    conflicts: dict[Any, Mapping[str, Any]] = field(default_factory=dict)
    """Those that are not resolved, by their numbers."""
    speaker: str | None = None
    """Who has written last, and is at work."""
    began: float | None = None
    """When the session was started or resumed, if it goes on."""
    worked: float = 0.0
    """Seconds that it has gone on before."""
    last: float = 0.0
    """When something happened last."""

    def seconds(self, now: float) -> float:
        """Return how long the session has gone on."""
        return self.worked + (max(now - self.began, 0.0) if self.began is not None else 0.0)

    def state_of(self, lane: Lane) -> State:
        """Return where an agent stands: who has to resolve a conflict, and has not, stands in it."""
        if lane.state in (State.RUNNING, State.WAITING) and any(
            conflict.get("target") == lane.name for conflict in self.conflicts.values()
        ):
            return State.CONFLICT
        return lane.state

    def take(self, event: Event) -> None:
        """Take what has happened; an event that makes no sense changes nothing."""
        at = _seconds(event.time) or self.last
        try:
            if event.type.startswith("session_"):
                self._take_of_session(event, at)
            elif event.node is not None:
                self._take_of_turn(event, at)
            else:
                self._take_of_merge(event, at)
        except (LookupError, TypeError, ValueError, AttributeError):  # a damaged log, or one of somebody else
            pass
        self.last = max(self.last, at)

    def _take_of_session(self, event: Event, at: float) -> None:
        match event.type:
            case "session_started" | "session_resumed":
                self._halt(self.last or at)
                self.began, self.status = at, "running"
                self.session, self.pipeline = str(event.payload["session_id"]), str(event.payload["pipeline"])
                self._outline(event.payload.get("graph"))
            case "session_stopping":
                self.status = "stopping"
            case "session_forked":
                self._halt(self.last or at)
            case kind:
                self._halt(at)
                self.status = kind.removeprefix("session_")

    def _halt(self, at: float) -> None:
        """Note that nothing is under way any more: the process that drove the session may have been killed."""
        for lane in self.lanes.values():
            if lane.is_at_work:
                lane.halt(at, State.ASKING if lane.state is State.ASKING else State.WAITING)
        self.worked, self.began, self.speaker = self.seconds(at), None, None

    def _outline(self, graph: Any) -> None:
        if not isinstance(graph, dict):
            return
        from orchestra.graph.outline import Outline

        before, self.lanes = self.lanes, {}
        try:
            nodes = Outline.from_json(graph).nodes
        except (KeyError, TypeError, ValueError):  # of another version, or cut
            nodes = ()
        for node in nodes:
            if node.kind in ("agent", "step"):
                self.lanes[node.name] = before.pop(node.name, Lane(node.name))
                self.lanes[node.name].branches = node.branches
        self.lanes |= {name: lane for name, lane in before.items() if lane.turn or not nodes}

    def _take_of_merge(self, event: Event, at: float) -> None:
        payload = event.payload
        match event.type:
            case "conflict":
                self.conflicts[payload.get("n")] = payload
            case "conflict_resolved":
                self.conflicts.pop(payload.get("n"), None)
            case "merged":
                lane = self.lanes.get(str(payload["join"]).removeprefix("join."))
                if lane is not None and not lane.is_at_work:
                    lane.doing = Doing(Act.MERGES, at, str(payload["from"]))

    def _take_of_turn(self, event: Event, at: float) -> None:
        name = str(event.node)
        lane = self.lanes.get(name)
        if event.type == "turn_started":
            self._start(self.lanes.setdefault(name, lane or Lane(name)), event, at)
        elif lane is not None:
            self._go_on(lane, event, at)

    def _start(self, lane: Lane, event: Event, at: float) -> None:
        lane.halt(at, State.RUNNING)
        lane.turn, lane.began, lane.doing = int(event.turn or 1), at, Doing(Act.STARTS, at)
        self.turns.setdefault((lane.name, lane.turn), Turn(lane.name, lane.turn, event.seq))

    def _go_on(self, lane: Lane, event: Event, at: float) -> None:  # noqa: C901 - a table of types
        payload = event.payload
        match event.type:
            case "model_started":
                lane.doing, lane.text = Doing(Act.THINKS, at), ""
            case "text_delta":
                self._write(lane, payload, at)
            case "model_ended":
                self.spending.add(lane.name, payload)
                lane.spent = self.spending.agents[lane.name]
                lane.doing = Doing(Act.STARTS, at)
            case "model_failed":
                pause = payload.get("retry_in")
                act = Act.FAILED if pause is None else Act.RETRIES
                until = None if pause is None else at + float(pause)
                lane.doing = Doing(act, at, _reason(payload), until=until)
            case "tool_started":
                tool = str(payload["tool"])
                lane.calls[str(payload.get("call", tool))] = Doing(Act.CALLS, at, tool, main_argument(payload))
            case "tool_ended":
                lane.calls.pop(str(payload.get("call", payload.get("tool"))), None)
                lane.doing = Doing(Act.STARTS, at)
            case "question_asked":
                lane.state, lane.doing = State.ASKING, Doing(Act.ASKS, at)
            case "human_turn":
                lane.state, lane.doing = State.RUNNING, Doing(Act.STARTS, at)
            case "condition_chose":
                self.turns[lane.name, lane.turn].chose = tuple(map(str, payload["targets"]))
            case "turn_ended":
                self.turns[lane.name, lane.turn].ended = event.seq
                self.conflicts = {n: one for n, one in self.conflicts.items() if one.get("target") != lane.name}
                self._end(lane, at, State.DONE)
            case "turn_failed" | "turn_stopped":
                lane.doing = Doing(Act.FAILED, at, str(payload.get("message", "")))
                self._end(lane, at, State.FAILED)

    def _end(self, lane: Lane, at: float, state: State) -> None:
        lane.turns += state is State.DONE
        lane.halt(at, state)
        if self.speaker == lane.name:
            self.speaker = None

    def _write(self, lane: Lane, payload: Mapping[str, Any], at: float) -> None:
        if lane.doing is None or lane.doing.act is not Act.WRITES:
            lane.doing = Doing(Act.WRITES, at)
        if not payload.get("spoken", True):  # else it is read as a conversation
            lane.text = (lane.text + str(payload["text"]))[-MOST_TEXT:]
            self.speaker = lane.name


def main_argument(payload: Mapping[str, Any]) -> str:
    """Return the argument of a tool's call that says most about it."""
    args = payload.get("args")
    if not isinstance(args, dict):
        return ""
    named = [args[name] for name in _MAIN_ARGUMENTS if name in args]
    texts = [value for value in (*named, *args.values()) if isinstance(value, str | int) and value != ""]
    return str(texts[0])[:_MOST_ABOUT] if texts else ""


def _reason(payload: Mapping[str, Any]) -> str:
    error = str(payload.get("error", ""))
    for mark, words in (("RateLimit", "rate limit"), ("Timeout", "timeout"), ("Overload", "overloaded")):
        if mark in error:
            return words
    return str(payload.get("message") or error)[:_MOST_ABOUT]


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0
