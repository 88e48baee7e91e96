"""How a person names a checkpoint: by its id, by an agent's turn, by what comes after it, by its step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from orchestra.errors import PipelineError, SessionError, did_you_mean
from orchestra.runtime.spans import about_to_start, is_inside, spans_of
from orchestra.runtime.store import read_checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestra.runtime.spans import Row, Span
    from orchestra.runtime.store import SessionFiles

SHORT = 13
"""Characters of an id that are shown, unless it takes more to tell it from others."""
_LISTED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointName:
    """How a person names a checkpoint: in one way, `turn` only beside `agent` or `before`."""

    checkpoint: str | None = None
    """Its id, or a beginning that no other one has."""
    agent: str | None = None
    """An agent or a step: the checkpoint at which its turn ended, the last one or `turn`."""
    turn: int | None = None
    before: str | None = None
    """An agent, a step or a `join.TARGET`: the newest checkpoint before it started, the last time or in `turn`."""
    step: int | None = None
    """The `step` of a checkpoint of the root."""

    def is_given(self) -> bool:
        """Tell whether anything is named."""
        return any(value is not None for value in (self.checkpoint, self.agent, self.turn, self.before, self.step))


def find_checkpoint(files: SessionFiles, name: CheckpointName) -> dict[str, Any]:
    """Find a checkpoint of a session, as a row of `store.read_checkpoints`.

    Raises:
        PipelineError: `bad-option`: nothing is named, or in two ways.
        SessionError: `unknown-checkpoint`, `ambiguous-checkpoint`.
    """
    _refuse_two_ways(name)
    rows = read_checkpoints(files)
    if not rows:
        hint = f"`orchestra status {files.session_id}` shows what it does"
        raise _unknown(f"the session {files.session_id} has no checkpoint yet", hint)
    if name.checkpoint is not None:
        return find_by_id(rows, name.checkpoint, session=files.session_id)
    if name.agent is not None:
        return _find_ended(rows, name.agent, name.turn, files.session_id)
    if name.before is not None:
        return _find_before(rows, name.before, name.turn, files.session_id)
    return _find_step(rows, name.step, files.session_id)


def find_by_id(rows: Sequence[dict[str, Any]], prefix: str, *, session: str) -> dict[str, Any]:
    """Find a checkpoint by its id or a unique beginning of it, with or without its dashes.

    Checkpoints of several namespaces that have one id are one for this: the outermost is taken, of equals the newest.
    """
    wanted = _plain(prefix)
    matches = [row for row in rows if wanted and _plain(row["checkpoint_id"]).startswith(wanted)]
    if not matches:
        near = did_you_mean(prefix[:SHORT], short_ids(rows).values()) or f"`orchestra log {session} --all` lists them"
        raise _unknown(f"the session {session} has no checkpoint {prefix!r}", near)
    ids = list(dict.fromkeys(row["checkpoint_id"] for row in matches))
    if len(ids) > 1:
        listed = "".join(f"\n  {describe(rows, row)}" for row in matches[:_LISTED])
        more = f"\n  and {len(ids) - _LISTED:,} more" if len(ids) > _LISTED else ""
        message = f"{len(ids)} checkpoints of the session {session} begin with {prefix!r}:{listed}{more}"
        raise _not_found(message, "ambiguous-checkpoint", "type more of the id")
    return min(reversed(matches), key=_depth)


def _depth(row: Row) -> int:
    namespace = str(row["checkpoint_ns"])
    return namespace.count("|") + bool(namespace)


def short_ids(rows: Iterable[Row]) -> dict[str, str]:
    """Return the ids of checkpoints, each with as much of it as it takes to name it."""
    ids = sorted({str(row["checkpoint_id"]) for row in rows})
    shared = [0, *(len(commonprefix(pair)) for pair in pairwise(ids)), 0]  # noqa: RUF071 - by character it is
    return {id_: id_[: max(SHORT, shared[place] + 1, shared[place + 1] + 1)] for place, id_ in enumerate(ids)}


def short_id(rows: Iterable[Row], row: Row) -> str:
    """Return as much of a checkpoint's id as it takes to name it."""
    return short_ids(rows)[row["checkpoint_id"]]


def describe(rows: Iterable[Row], row: Row) -> str:
    """Say in a few words which checkpoint one is: its id, and where in the session it lies."""
    if is_inside(row):
        where = f"inside {row['agent']}, step {row['step']}"
    elif row["ended"]:
        where = ", ".join(f"{entry['agent']} (turn {entry['turn']})" for entry in row["ended"])
    else:
        where = f"before {', '.join(row['next'])}" if row["next"] else "the end"
    return f"{short_id(rows, row)}  {where}"


def _refuse_two_ways(name: CheckpointName) -> None:
    given = {
        "--checkpoint": name.checkpoint,
        "--agent": name.agent,
        "--before": name.before,
        "--step": name.step,
    }
    ways = [option for option, value in given.items() if value is not None]
    if len(ways) > 1:
        message = f"{' and '.join(ways)} name a checkpoint each"
        raise PipelineError(message, code="bad-option", hint="give one of them")
    if name.turn is not None and not (name.agent or name.before):
        message = "`--turn` says which turn of an agent, and there is no agent"
        raise PipelineError(
            message, code="bad-option", hint="write `--agent NAME --turn N` or `--before NAME --turn N`"
        )
    if not ways:
        hint = "give `--checkpoint ID`, `--agent NAME`, `--before NAME` or `--step N`"
        raise PipelineError("no checkpoint is named", code="bad-option", hint=hint)


def _find_ended(rows: Sequence[dict[str, Any]], agent: str, turn: int | None, session: str) -> dict[str, Any]:
    spans = turns_of(rows, agent, session=session)
    ended = [span for span in spans if span.ended is not None]
    found = next((span for span in reversed(ended) if turn in (None, span.turn)), None)
    if found is None or found.ended is None:
        which = "no turn" if turn is None else f"no turn {turn}"
        how = f"; ended: {_listed(span.turn for span in ended)}" if ended else ""
        raise _unknown(f"{which} of {agent!r} has ended in the session {session}{how}", _before_hint(spans, agent))
    return rows[found.ended]


def _before_hint(spans: Sequence[Span], agent: str) -> str:
    """Return what to type for the nearest checkpoint there is."""
    if any(span.ended is not None for span in spans):
        return f"leave `--turn` out for the last one of {agent!r}"
    return f"`--before {agent}` names the checkpoint at which it starts"


def _find_before(rows: Sequence[dict[str, Any]], name: str, turn: int | None, session: str) -> dict[str, Any]:
    if name.startswith("join."):
        return _find_before_join(rows, name, turn, session)
    spans = turns_of(rows, name, session=session)
    begun = [span for span in spans if turn in (None, span.turn)]
    waits = turn in (None, spans[-1].turn + 1 if spans else 1)
    if not begun and not waits:
        message = (
            f"no turn {turn} of {name!r} has begun in the session {session}; begun: {_listed(s.turn for s in spans)}"
        )
        raise _unknown(message, f"leave `--turn` out for the last one of {name!r}")
    limit = begun[-1].began if begun else len(rows)
    row = about_to_start(rows[:limit], name)
    if row is None:
        message = f"the session {session} has not come to {'' if turn is None else f'turn {turn} of '}{name!r}"
        raise _unknown(message, f"`orchestra log {session}` shows how far it has come")
    return row


def _find_before_join(rows: Sequence[dict[str, Any]], name: str, turn: int | None, session: str) -> dict[str, Any]:
    if turn is not None:
        target = name.removeprefix("join.")
        hint = f"write `--before {target} --turn {turn}` for what comes behind it"
        raise PipelineError(f"{name!r} is a join, which has no turns", code="bad-option", hint=hint)
    row = about_to_start(rows, name)
    if row is None:
        joins = sorted({item for other in rows for item in other["next"] if item.startswith("join.")})
        near = did_you_mean(name, joins) or f"joins there: {_listed(joins)}"
        raise _unknown(f"the session {session} has not come to {name!r}", near)
    return row


def turns_of(rows: Sequence[Row], agent: str, *, session: str) -> list[Span]:
    """Return the turns of an agent or step in their order; none: it is about to start for the first time.

    Raises:
        SessionError: `unknown-checkpoint`: the session knows no such agent.
    """
    spans = [span for (name, _), span in spans_of(rows).items() if name == agent]
    known = known_agents(rows)
    if not spans and agent not in known:
        hint = did_you_mean(agent, known) or f"agents and steps there: {_listed(known)}"
        raise _unknown(f"no agent or step {agent!r} has started in the session {session}", hint)
    return sorted(spans, key=lambda span: span.turn)


def find_turn(rows: Sequence[Row], agent: str, turn: int | None, *, session: str) -> Span:
    """Find a turn of an agent or step that has begun, also one that has not ended: the last one, or `turn`.

    Raises:
        SessionError: `unknown-checkpoint`.
    """
    spans = turns_of(rows, agent, session=session)
    found = next((span for span in reversed(spans) if turn in (None, span.turn)), None)
    if found is None:
        which = "no turn" if turn is None else f"no turn {turn}"
        begun = f"; begun: {_listed(span.turn for span in spans)}" if spans else ""
        hint = (
            f"leave `--turn` out for the last one of {agent!r}" if spans else f"`orchestra status {session}` shows more"
        )
        raise _unknown(f"{which} of {agent!r} has begun in the session {session}{begun}", hint)
    return found


def known_agents(rows: Iterable[Row]) -> list[str]:
    """Return the agents and steps that a session has started or is about to start, in the order of their coming."""
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(entry["agent"] for entry in row["ended"])
        names |= dict.fromkeys(filter(None, [row["agent"]]))
        names |= dict.fromkeys(name for name in row["next"] if not name.startswith("join."))
    return list(names)


def _find_step(rows: Sequence[dict[str, Any]], step: int | None, session: str) -> dict[str, Any]:
    root = [row for row in rows if not row["checkpoint_ns"]]
    found = [row for row in root if row["step"] == step]
    if found:
        return found[-1]
    steps = [row["step"] for row in root]
    hint = f"its steps are {min(steps)} to {max(steps)}" if steps else f"`orchestra log {session} --all` shows more"
    raise _unknown(f"the session {session} has no step {step}", hint)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"


def _plain(text: str) -> str:
    return text.replace("-", "").lower()


def _unknown(message: str, hint: str | None) -> SessionError:
    return _not_found(message, "unknown-checkpoint", hint)


def _not_found(message: str, code: str, hint: str | None) -> SessionError:
    error = SessionError(message, code=code, hint=hint)
    error.exit_code = 2
    return error
