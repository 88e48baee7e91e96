"""What a session has done, checkpoint by checkpoint, and which sessions have left it where: what `log` shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.errors import SessionError
from orchestra.runtime.damage import damage_told
from orchestra.runtime.event_log import Selection, read_events
from orchestra.runtime.spans import copied_rows, is_inside, spans_of, turn_changes
from orchestra.runtime.store import list_sessions, read_numbered, read_session, read_turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.runtime.spans import Commits, Row, Span
    from orchestra.runtime.store import SessionFiles, SessionRecord

_TYPES = ("checkpoint", "condition_chose", "conflict", "human_turn", "merged", "turn_committed", "warning")
_DECIDES = frozenset({"approve", "reject", "done"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn, as its session has logged it."""

    agent: str
    turn: int
    ended: bool
    facts: Mapping[str, Any]
    """Its row of the view `turns`; empty where nothing of it was logged."""
    decisions: tuple[str, ...]
    """What a condition behind it, or a person in it, has decided."""
    changes: Mapping[str, tuple[str, str]]
    """Repo → the commits before and after."""
    commits: Commits
    """Repo → the turn's commit."""
    left_out: tuple[str, ...]
    """Which of its files are in no commit, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A session that has left another one at a checkpoint."""

    record: SessionRecord
    checkpoint_id: str
    forks: tuple[Fork, ...]
    """Those that have left it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A checkpoint that is shown."""

    row: Row
    what: str
    """Which step it ends, where that is no turn: `start` or joins."""
    turns: tuple[Turn, ...]
    """Those that ended with it."""
    folded: int
    """The checkpoints inside these turns that are not shown."""
    changes: Mapping[str, tuple[str, str]]
    """Inside a turn: what has changed since the checkpoint before."""
    merges: tuple[Mapping[str, Any], ...]
    """The payloads of the events `merged` and `conflict` that led to it."""
    forks: tuple[Fork, ...]

    @property
    def is_inside(self) -> bool:
        """Whether it lies inside a turn."""
        return is_inside(self.row)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that a session has done."""

    record: SessionRecord
    rows: Sequence[Row]
    entries: tuple[Entry, ...]
    unfinished: tuple[Turn, ...]
    """The turns that have begun and not ended."""
    source: SessionRecord | None
    """The session that it has left, where it is a fork and that one is still there."""
    left_after: int | None
    """How many of the entries it has in common with that one."""


@dataclass
class _Events:
    """What the events of a session tell of its turns and checkpoints."""

    commits: dict[tuple[str, int], dict[str, str]] = field(default_factory=dict)
    decisions: dict[tuple[str, int], dict[str, None]] = field(default_factory=dict)
    left_out: dict[tuple[str, int], dict[str, None]] = field(default_factory=dict)
    merges: dict[tuple[str, str], list[Mapping[str, Any]]] = field(default_factory=dict)
    """Checkpoint and namespace → what was merged since the one before it that is between turns."""


def read_history(files: SessionFiles, root: Path, *, inside: bool = False) -> History:
    """Read what a session has done.

    Args:
        files: The session's.
        root: The project, in which forks of it are looked for.
        inside: Whether the checkpoints inside turns are entries, too.
    """
    record, numbered = read_session(files), read_numbered(files)
    rows = [row for _, row in numbered]
    events = _read_events(files, rows)
    facts = {(fact["agent"], fact["turn"]): fact for fact in read_turns(files)}
    turns = {key: _turn(span, rows, events, facts) for key, span in spans_of(rows).items()}
    others = [item for item in list_sessions(root) if not isinstance(item, SessionError)]
    forks: dict[str, list[Fork]] = {}
    for fork in forks_of(record.session_id, others):
        forks.setdefault(fork.checkpoint_id, []).append(fork)
    entries = tuple(_entries(rows, turns, events, forks, inside=inside))
    origin = record.forked_from or {}
    copied = {id(row) for row in copied_rows(record, numbered)}
    return History(
        record=record,
        rows=rows,
        entries=entries,
        unfinished=tuple(turn for turn in turns.values() if not turn.ended),
        source=next((other for other in others if other.session_id == origin.get("session_id")), None),
        left_after=sum(id(entry.row) in copied for entry in entries) if origin else None,
    )


def committed(files: SessionFiles) -> dict[tuple[str, int], dict[str, str]]:
    """Return what each turn has committed: `(agent, turn)` → repo → commit."""
    return _read_events(files, ()).commits


def decisions_of(files: SessionFiles) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return what conditions and people have decided: `(agent, turn)` → in words."""
    return {turn: tuple(said) for turn, said in _read_events(files, ()).decisions.items()}


def decision_of(kind: str, payload: Mapping[str, Any]) -> str | None:
    """Return what a condition or a person has decided, in words; None where the event is no decision."""
    if kind == "condition_chose":
        return f"chose {', '.join(map(str, payload.get('labels') or payload['targets']))}"
    if kind == "human_turn" and payload.get("kind") in _DECIDES:
        _, _, reason = str(payload["text"]).strip().partition(" ")
        return f"{payload['kind']}: {reason}" if reason.strip() else str(payload["kind"])
    return None


def _read_events(files: SessionFiles, rows: Sequence[Row]) -> _Events:
    with damage_told(files):
        return _gather(read_events(files, Selection(_TYPES)), rows)


def _gather(events: Iterable[Mapping[str, Any]], rows: Sequence[Row]) -> _Events:
    found = _Events()
    between = {(row["checkpoint_id"], row["checkpoint_ns"]) for row in rows if not is_inside(row)}
    pending: list[Mapping[str, Any]] = []
    for event in events:
        kind, payload, turn = event["type"], event["payload"], (event["node"], event["turn"])
        if kind == "turn_committed":
            found.commits.setdefault(turn, {})[str(payload["repo"])] = str(payload["commit"])
        elif kind in {"merged", "conflict"}:
            if payload not in pending:  # after a crash it is made once more
                pending.append(_whole(payload, ("agents", "paths") if kind == "conflict" else ("from", "commit")))
        elif kind == "checkpoint":
            key = (payload["id"], payload.get("namespace", ""))
            if pending and key in between:
                found.merges[key], pending = pending, []
        elif kind == "warning":
            if payload.get("code") == "snapshot-incomplete":
                found.left_out.setdefault(turn, {})[str(payload["message"])] = None
        elif said := decision_of(kind, payload):
            found.decisions.setdefault(turn, {})[said] = None
    return found


def _whole(payload: Mapping[str, Any], keys: Iterable[str]) -> Mapping[str, Any]:
    """Return what an event says of a merge, where all of it is there."""
    paths = dict(payload.get("paths", ()))  # pairs of a path and the kind of its conflict
    if not payload.keys() >= {"repo", *keys} or not all(isinstance(path, str) for path in paths):
        raise LookupError("an event of a merge lacks something")
    return payload


def _turn(span: Span, rows: Sequence[Row], events: _Events, facts: Mapping[tuple[str, int], Mapping[str, Any]]) -> Turn:
    key = (span.agent, span.turn)
    commits = events.commits.get(key, {})
    return Turn(
        agent=span.agent,
        turn=span.turn,
        ended=span.ended is not None,
        facts=facts.get(key, {}),
        decisions=tuple(events.decisions.get(key, ())),
        changes=turn_changes(rows, span, commits),
        commits=commits,
        left_out=tuple(events.left_out.get(key, ())),
    )


def forks_of(session: str, others: Iterable[SessionRecord], above: frozenset[str] = frozenset()) -> Iterator[Fork]:
    """Yield the sessions that have left one, the oldest first; a damaged one that has left itself ends the search."""
    others, above = list(others), above | {session}
    for record in sorted(others, key=lambda record: (record.created_at, record.session_id)):
        origin = record.forked_from or {}
        if origin.get("session_id") == session and record.session_id not in above:
            forks = tuple(forks_of(record.session_id, others, above))
            yield Fork(record=record, checkpoint_id=str(origin.get("checkpoint_id")), forks=forks)


def _entries(
    rows: Sequence[Row],
    turns: Mapping[tuple[str, int], Turn],
    events: _Events,
    forks: Mapping[str, Sequence[Fork]],
    *,
    inside: bool,
) -> Iterator[Entry]:
    folded: Counter[str] = Counter()
    nexts: dict[str, list[str]] = {}
    """Namespace → what came next at its checkpoint before."""
    repos: dict[str, Commits] = {}
    shown_forks: set[str] = set()
    for row in rows:
        namespace, id_ = row["checkpoint_ns"], row["checkpoint_id"]
        before = nexts.get(namespace)
        was = repos.get(namespace) or row["repos"]
        nexts[namespace], repos[namespace] = row["next"], row["repos"]
        left = () if id_ in shown_forks else tuple(forks.get(id_, ()))
        merges = tuple(events.merges.get((id_, namespace), ()))
        if is_inside(row):
            is_shown = inside or bool(left)
            folded[row["agent"]] += not is_shown
        else:
            is_shown = inside or bool(left or merges or row["ended"]) or (not namespace and _is_news(row, before))
        if is_shown:
            shown_forks.add(id_)
            yield Entry(
                row=row,
                what=_what(row, before),
                turns=tuple(turns[entry["agent"], entry["turn"]] for entry in row["ended"]),
                folded=sum(folded.pop(entry["agent"], 0) for entry in row["ended"]),
                changes={repo: (was[repo], row["repos"][repo]) for repo in row["changed"]} if is_inside(row) else {},
                merges=merges,
                forks=left,
            )


def _is_news(row: Row, before: list[str] | None) -> bool:
    """Tell LangGraph's own steps from ours: these have the same files, and the same way on."""
    return bool(row["changed"]) or row["next"] != before


def _what(row: Row, before: list[str] | None) -> str:
    if is_inside(row):
        return f"inside {row['agent']}, step {row['step']}"
    if before is None:
        return "start" if not row["checkpoint_ns"] else f"before {', '.join(row['next'])}"
    if row["next"] == before:
        return f"before {', '.join(before)}" if before else "end"
    joined = [name for name in before if name.startswith("join.") and name not in row["next"]]
    return ", ".join(joined or before) or "end"
