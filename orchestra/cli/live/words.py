"""Short words for where a session and its agents stand."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING

from orchestra.cli.live.lane import Act, State
from orchestra.cli.render import escape
from orchestra.runtime.spending import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.cli.live.board import Board
    from orchestra.cli.live.lane import Doing, Lane

_MINUTE, _HOUR = 60, 3_600
_THOUSAND, _MILLION = 1_000, 1_000_000
_CENT = 0.01
_VERBS = {
    "read-file": "reads",
    "list-files": "lists",
    "search-code": "searches",
    "write-file": "writes",
    "edit-file": "edits",
    "delete-file": "deletes",
    "move-file": "moves",
    "git-commit": "commits",
    "shell": "runs",
}
_ACTS = {Act.STARTS: "at work", Act.THINKS: "thinking", Act.WRITES: "writing", Act.ASKS: "waits for you"}
_LASTING = frozenset({Act.STARTS, Act.THINKS, Act.WRITES, Act.CALLS})
_STANDS = {State.FAILED: "failed", State.ASKING: "waits for you", State.CONFLICT: "has a conflict to resolve"}
_MOST_NAMED = 4
_MOST_TOLD = 60


def duration(seconds: float) -> str:
    """Say how long something took or takes."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} m {whole % _MINUTE:02} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} m"


def tokens(usage: Usage) -> str:
    """Say how many tokens something took, shortly; nothing where it took none."""
    count = usage.input_tokens + usage.output_tokens
    if count >= 10 * _MILLION:
        return f"{count / _MILLION:.0f}M"
    if count >= _MILLION:
        return f"{count / _MILLION:.1f}M"
    if count >= 10 * _THOUSAND:
        return f"{count / _THOUSAND:.0f}k"
    if count >= _THOUSAND:
        return f"{count / _THOUSAND:.1f}k"
    return str(count) if usage.model_calls else ""


def cost(usage: Usage) -> str:
    """Say what something cost, shortly; nothing where no model was called."""
    if not usage.model_calls:
        return ""
    if usage.unpriced_calls == usage.model_calls:
        return "$?"
    return f"{'>' if usage.unpriced_calls else ''}{money(usage.cost_usd)}"


def used_by(lanes: Iterable[Lane]) -> Usage:
    """Return what agents have used together."""
    total = Usage()
    for lane in lanes:
        for field in fields(Usage):
            setattr(total, field.name, getattr(total, field.name) + getattr(lane.spent, field.name))
    return total


def money(dollars: float) -> str:
    """Write an amount."""
    return f"${dollars:.2f}" if dollars >= _CENT or not dollars else "<$0.01"


def title(lane: Lane) -> str:
    """Name an agent, and its turn where that is not the first; nothing in it can steer a terminal."""
    return escape(lane.name if lane.turn < 2 else f"{lane.name} ({lane.turn})")  # noqa: PLR2004 - the second turn


def activity(lane: Lane, state: State, now: float) -> tuple[str, str]:
    """Say what an agent does now, and for how long; nothing in it can steer a terminal."""
    present = lane.present
    if present is None:
        return _STANDS.get(state, ""), ""
    what = escape(" ".join(_doing(present, now).split()))
    if len(lane.calls) > 1:
        what += f" and {len(lane.calls) - 1} more"
    if state is State.CONFLICT:
        what = f"conflict: {what}"
    since = now - present.since
    lasts = present.act in _LASTING and lane.is_at_work and since >= 1
    return what, duration(since) if lasts else ""


def _doing(doing: Doing, now: float) -> str:
    match doing.act:
        case Act.CALLS:
            verb = _VERBS.get(doing.what.rpartition(":")[2])
            return f"{verb} {doing.about}" if verb else f"runs {doing.what} {doing.about}"
        case Act.RETRIES:
            left = max((doing.until or now) - now, 0.0)
            reason = f" ({doing.what})" if doing.what else ""
            return f"retries in {duration(left + 0.999)}{reason}" if left else f"retries{reason}"
        case Act.MERGES:
            return f"takes in the work of {doing.what}"
        case Act.FAILED:
            return f"failed: {doing.what}" if doing.what else "failed"
        case act:
            return _ACTS[act]


def counts(states: Iterable[State]) -> str:
    """Count agents by where they stand: `2 running, 1 done`."""
    found: Counter[State] = Counter(State.RUNNING if state is State.CONFLICT else state for state in states)
    shown: dict[State, str] = {State.RUNNING: "running", State.ASKING: "asking", State.FAILED: "failed"}
    shown |= {State.WAITING: "waiting", State.DONE: "done"}
    return ", ".join(f"{found[state]} {word}" for state, word in shown.items() if found[state])


def at_work(board: Board, now: float) -> str:
    """Say in one line who does what: `2 agents: fixer (turn 2, thinking 3 s), critic (...)`."""
    lanes = [lane for lane in board.lanes.values() if lane.is_at_work]
    if not lanes:
        return "no agent is at work"
    told = [_told(lane, board.state_of(lane), now) for lane in lanes[:_MOST_NAMED]]
    if len(lanes) > _MOST_NAMED:
        told.append(f"{len(lanes) - _MOST_NAMED} more")
    return f"{len(lanes)} agent{'s' * (len(lanes) > 1)}: {', '.join(told)}"


def _told(lane: Lane, state: State, now: float) -> str:
    turn = f"turn {lane.turn}, " if lane.turn > 1 else ""
    what, lasts = activity(lane, state, now)
    return f"{escape(lane.name)} ({turn}{what[:_MOST_TOLD]}{f' for {lasts}' if lasts else ''})"


def spending(board: Board) -> str:
    """Say what a session has spent: `12,400 tokens, $0.12`."""
    usage = board.spending.total
    parts = [f"{usage.input_tokens + usage.output_tokens:,} tokens", cost(usage).replace("$?", "cost unknown")]
    return ", ".join(part for part in parts if part)
