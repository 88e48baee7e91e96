"""The way that a session has taken through its graph, read from its event log."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestra.errors import SessionError
from orchestra.graph.drawing.route import Fork, Route, Visit
from orchestra.graph.outline import Outline
from orchestra.graph.topology import END, START
from orchestra.runtime.arrows import Facts, taken_arrows
from orchestra.runtime.damage import damage_told
from orchestra.runtime.event_log import Selection, read_events
from orchestra.runtime.history import forks_of
from orchestra.runtime.observability import Event
from orchestra.runtime.spans import is_inside, spans_of
from orchestra.runtime.spending import Usage
from orchestra.runtime.store import ENDED, Status, list_sessions, read_checkpoints, read_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.graph.drawing.route import State
    from orchestra.runtime.spans import Row
    from orchestra.runtime.store import SessionFiles, SessionRecord

_BEGINS = ("session_started", "session_resumed")
_TYPES = (
    *(*_BEGINS, "session_forked", "session_paused", "session_completed", "session_failed", "session_interrupted"),
    *("session_cancelled",),
    *("turn_started", "turn_ended", "turn_failed", "turn_stopped", "condition_chose", "model_ended"),
    *("question_asked", "question_left", "human_turn", "conflict", "conflict_resolved"),
)
_STATUS = {
    **dict.fromkeys((*_BEGINS, "session_forked"), "running"),
    **{f"session_{status}": status for status in ("paused", "completed", "failed", "interrupted", "cancelled")},
}
_STATES: dict[str, State] = {
    "turn_started": "running",
    "turn_ended": "done",
    "turn_failed": "failed",
    "turn_stopped": "failed",
    "question_asked": "waiting",
    "question_left": "waiting",
    "human_turn": "running",
}
_INTERRUPTS = frozenset(_STATUS) - {"session_started", "session_paused", "session_completed"}
_AT_WORK: tuple[State, ...] = ("running", "waiting")


def read_outline(files: SessionFiles, root: Path) -> Outline:
    """Return the graph of a session, as its log tells it; of an old log, as the session's copy of the pipeline does.

    Args:
        files: The session's.
        root: The project that it belongs to.

    Raises:
        SessionError: The session can't be read.
        PipelineError: Its log does not tell it, and something that its pipeline names is not there any more.
    """
    record = read_session(files)
    with damage_told(files):
        told = [event["payload"].get("graph") for event in read_events(files, Selection(types=_BEGINS))]
    try:
        return Outline.from_json(told[-1])
    except (IndexError, KeyError, TypeError, ValueError):  # of an older Orchestra, or too large for the log
        from orchestra.graph.outline import outline
        from orchestra.runtime.frozen import resolve_frozen

        return outline(resolve_frozen(files, root, record.settings))


def read_route(files: SessionFiles, outline: Outline, root: Path | None = None) -> Route:
    """Return the way that a session has taken.

    Args:
        files: The session's.
        outline: Its graph, see `read_outline`.
        root: The project, in which forks are looked for; None: they are left out.

    Raises:
        SessionError: The session can't be read.
    """
    record = read_session(files)
    with damage_told(files):
        route = fold_route(outline, (Event(**event) for event in read_events(files, Selection(types=_TYPES))))
        others = [] if root is None else [item for item in list_sessions(root) if not isinstance(item, SessionError)]
        rows = read_checkpoints(files)
        return replace(
            route,
            session_id=record.session_id,
            status=str(record.status),
            visits=_settled(route, record.status),
            forks=tuple(_forks(record, rows, others)),
            forked_from=_source(record, rows, others),
        )


def fold_route(outline: Outline, events: Iterable[Event]) -> Route:
    """Return the way that events tell of; without the session's id and forks, which no event knows.

    Args:
        outline: The session's graph.
        events: All of a session in their order, or such of them as tell of turns, models, conditions and questions.
    """
    fold = _Fold(outline)
    for event in events:
        fold.add(event)
    return fold.route()


class _Fold:
    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._nodes = outline.by_name
        self._facts = Facts()
        self._states: dict[str, State] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._usage: defaultdict[str, Usage] = defaultdict(Usage)
        self._started: dict[str, int] = {}
        """Node → the number of the event with which its last turn began."""
        self._ended: dict[str, int] = {}
        self._held: dict[Any, str] = {}
        """Conflict that waits for a person → the join."""
        self._session = self._status = ""

    def add(self, event: Event) -> None:
        kind, payload = event.type, event.payload
        if kind.startswith("session_"):
            self._session_event(kind, payload)
        elif kind == "conflict":
            self._conflict(payload)
        elif kind == "conflict_resolved":
            self._held.pop((payload.get("repo"), payload.get("n")), None)
        elif event.node in self._nodes and event.node is not None:
            if kind == "turn_stopped" and event.turn is None and payload.get("turn") is None:
                self._states[f"join.{event.node}"] = "failed"
                return
            self._node_event(event.node, event)

    def _session_event(self, kind: str, payload: Mapping[str, Any]) -> None:
        self._status = _STATUS.get(kind, self._status)
        if kind in _BEGINS:
            self._session = str(payload.get("session_id", self._session))
        if kind in _INTERRUPTS:
            # Whoever was at work is not any more, until it says so.
            for node, state in self._states.items():
                if state in _AT_WORK:
                    self._states[node] = "interrupted"

    def _node_event(self, node: str, event: Event) -> None:
        turn, kind = (node, event.turn or 0), event.type
        self._states[node] = _STATES.get(kind, self._states.get(node, "not-reached"))
        if kind == "turn_started":
            if turn not in self._facts.begun:
                self._started[node] = event.seq
            self._facts.begun[turn] = None
        elif kind == "turn_ended":
            if turn not in self._facts.unmoved:
                self._facts.ended[turn] = None
            self._ended[node] = event.seq
        elif kind == "model_ended":
            self._usage[node].add(event.payload)
        elif kind == "condition_chose":
            targets = [str(target) for target in event.payload["targets"]]
            self._facts.chosen.setdefault(turn, {})[str(event.payload.get("edge"))] = targets
        if kind in {"turn_ended", "turn_failed"}:
            self._seconds[node] += event.payload.get("duration_s") or 0

    def _conflict(self, payload: Mapping[str, Any]) -> None:
        target = str(payload.get("target"))
        if self._states.get(target) == "running":  # it has resolved one, and this is the next
            last = max((number for name, number in self._facts.begun if name == target), default=0)
            self._facts.unmoved[target, last] = None
        elif payload.get("resolver") == "human":
            self._held[payload.get("repo"), payload.get("n")] = str(payload.get("join"))

    def route(self) -> Route:
        taken = taken_arrows(self._outline, self._facts)
        turns = Counter(name for name, _ in self._facts.begun)
        visits = {name: self._visit(name, turns[name]) for name in turns}
        visits |= {join: visit for join in self._joins() if (visit := self._join_visit(join, taken))}
        if turns:
            visits[START] = Visit(state="done")
        if self._status == "completed":
            visits[END] = Visit(state="done")
        return Route(session_id=self._session, status=self._status, visits=visits, taken=taken)

    def _joins(self) -> Iterator[str]:
        return (node.name for node in self._outline.nodes if node.kind == "join")

    def _visit(self, name: str, turns: int) -> Visit:
        usage = self._usage[name]
        return Visit(
            state=self._states.get(name, "not-reached"),
            turns=turns,
            seconds=self._seconds[name],
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            model_calls=usage.model_calls,
            cost_usd=usage.whole_cost,
        )

    def _join_visit(self, join: str, taken: Sequence[int]) -> Visit | None:
        edges = self._outline.edges
        fired = sum(count for count, edge in zip(taken, edges, strict=True) if edge.source == join)
        arrived = max((self._ended.get(edge.source, 0) for edge in edges if edge.target == join), default=0)
        last = max((self._started.get(edge.target, 0) for edge in edges if edge.source == join), default=0)
        if not arrived and not fired:
            return None
        state: State = "done"
        if self._states.get(join) == "failed" and arrived > last:
            state = "failed"
        elif join in self._held.values() or (arrived > last and self._status != "completed"):
            state = "waiting"
        return Visit(state=state, turns=fired)


def _settled(route: Route, status: Status) -> dict[str, Visit]:
    """Return the visits as they stand: where no process drives a session nobody is at work."""
    stopped: set[State] = set()
    if status not in (Status.CREATED, Status.RUNNING):
        stopped.add("running")
    if status in ENDED:
        stopped.add("waiting")
    return {
        name: replace(visit, state="interrupted") if visit.state in stopped else visit
        for name, visit in route.visits.items()
    }


def _forks(record: SessionRecord, rows: Sequence[Row], others: Sequence[SessionRecord]) -> Iterator[Fork]:
    for fork in forks_of(record.session_id, others):
        node, turn = _where(rows, fork.checkpoint_id)
        yield Fork(
            session_id=fork.record.session_id,
            checkpoint_id=fork.checkpoint_id,
            node=node,
            turn=turn,
            status=str(fork.record.status),
        )


def _source(record: SessionRecord, rows: Sequence[Row], others: Sequence[SessionRecord]) -> Fork | None:
    if record.forked_from is None:
        return None
    session, checkpoint = (str(record.forked_from.get(key)) for key in ("session_id", "checkpoint_id"))
    node, turn = _where(rows, checkpoint)
    status = next((str(other.status) for other in others if other.session_id == session), None)
    return Fork(session_id=session, checkpoint_id=checkpoint, node=node, turn=turn, status=status)


def _where(rows: Sequence[Row], checkpoint: str) -> tuple[str | None, int | None]:
    """Return at whose turn a checkpoint lies: the one that it is inside of, else the last one that had ended."""
    place = next((place for place, row in enumerate(rows) if row["checkpoint_id"] == checkpoint), None)
    if place is None:
        return None, None
    if is_inside(rows[place]):
        spans = spans_of(rows).values()
        return next(((span.agent, span.turn) for span in spans if place in span.inside), (None, None))
    ended = [entry for row in rows[: place + 1] for entry in row["ended"]]
    return (str(ended[-1]["agent"]), int(ended[-1]["turn"])) if ended else (START, None)
