"""How a session has ended or stands: what came of it, which way it went, what it cost, and what to type next."""

from __future__ import annotations

import asyncio
import textwrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestra.cli.live import words
from orchestra.cli.live.board import LASTING, Board
from orchestra.cli.onward import commands
from orchestra.cli.place import typed
from orchestra.cli.prices import price, price_of
from orchestra.cli.render import escape, escape_prose
from orchestra.cli.route import route
from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.cli.transcript import Transcript
    from orchestra.runtime.result import SessionResult
    from orchestra.runtime.spending import Usage
    from orchestra.runtime.store import SessionRecord

_WIDTH = 80
_ASCII = str.maketrans({"→": "->", "\N{MULTIPLICATION SIGN}": "x", "…": "..."})
_MOST_ROWS = 40
_MOST_ROUTE = 4
"""Lines of the way that are shown."""
_GIT_TAKES = 3.0
"""Seconds for which git is asked what has changed."""


def summary(result: SessionResult, transcript: Transcript, *, files: bool = True) -> str:
    """Return how a session that was driven ended, and what to do next.

    Args:
        result: Of the drive.
        transcript: Knows what was read just now.
        files: Ask git what has changed.
    """
    return ending(
        result.record, transcript, result.decisions, result.conflicts, result.branches, result.commits if files else {}
    )


def ending(
    record: SessionRecord,
    transcript: Transcript,
    decisions: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    conflicts: Sequence[Mapping[str, Any]] = (),
    branches: Mapping[str, str] = MappingProxyType({}),
    commits: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return how a session has ended or stands, and what to do next.

    Args:
        record: The session.
        transcript: Knows what was read just now.
        decisions: What persons decided of what is handed over, by agent.
        conflicts: Those of the session.
        branches: Repo → the session's branch.
        commits: Repo → the commit with the session's result.
    """
    board = _board(record)
    session = escape(record.session_id)
    taken = f", {words.duration(board.seconds(board.last))}" if board.turns else ""
    lines = [f"\n{record.status}: session {session}, {record.usage['model_calls']} model calls{taken}"]
    lines += [_decided(name, value) for name, value in decisions.items() if _says_something(value)]
    if record.error:
        lines.append(escape(f"error[{record.error['code']}]: {record.error['message']}", keep_lines=True))
        if record.error.get("hint"):
            lines.append(f"hint: {escape(record.error['hint'], keep_lines=True)}")
    if record.waiting_for:
        agent, text = record.waiting_for["agent"], record.waiting_for["text"]
        shown = "" if transcript.has_shown(text) else f":\n{escape_prose(text)}"
        lines.append(f"{escape(agent)} waits for you{shown}")
    lines += [_conflict(conflict) for conflict in conflicts]
    lines += [*_way(board), _cost(record, board), *_agents(board), *_models(board)]
    changed = _changed(record, commits)
    for repo, branch in branches.items():
        # The command has a line of its own: a narrow terminal would break a longer one in the branch's name.
        what = f" ({changed[repo]})" if repo in changed else ""
        lines += [escape(f"branch of {repo}: {branch}{what}"), escape(f"  git log -p {branch}")]
    if branches and record.status == "completed":
        lines.append(f"bring it into your checkout with: {typed(f'apply {session}')}")
    if onward := commands(record):
        lines.append(escape(f"go on with: {onward[0]}"))
        lines += [escape(f"or answer with: {command}") for command in onward[1:]]
    lines.append(f"look back with: {typed(f'log {session}')}")
    text = "\n".join(lines) + "\n"
    return text if transcript.screen.is_unicode else text.translate(_ASCII)


def _board(record: SessionRecord) -> Board:
    """Return what the session's events tell of it; little where they can't be read."""
    from orchestra.runtime.following import read_state

    board = Board()
    try:
        events = read_state(record.files, lasting=LASTING)
    except (OrchestraError, OSError):  # it has ended nevertheless
        return board
    for event in events:
        board.take(event)
    return board


def _way(board: Board) -> list[str]:
    if len(board.turns) < 2:  # noqa: PLR2004 - one turn is no way
        return []
    lines = textwrap.wrap(f"way: {escape(route(board))}", _WIDTH, subsequent_indent="     ", break_on_hyphens=False)
    cut = [*lines[: _MOST_ROUTE - 2], "     …", lines[-1]]
    return cut if len(lines) > _MOST_ROUTE else lines


def _cost(record: SessionRecord, board: Board) -> str:
    usage, used = record.usage, board.spending.total
    cached = f" ({used.cached_tokens:,} cached)" if used.cached_tokens else ""
    if usage["cost_usd"] is None and used.cost_usd:
        cost = f"at least {price(used.cost_usd)}, some prices unknown"
    else:
        cost = price(usage["cost_usd"])
    return f"{usage['input_tokens']:,} tokens in{cached}, {usage['output_tokens']:,} out, {cost}"


def _agents(board: Board) -> list[str]:
    lanes = [lane for lane in board.lanes.values() if lane.turn]
    if len(lanes) < 2:  # noqa: PLR2004 - one agent is the session
        return []
    rows = [
        (lane.name, str(lane.turns), *_spent(lane.spent), words.duration(lane.seconds(board.last))) for lane in lanes
    ]
    return _table(("agent", "turns", "tokens", "cost", "time"), rows)


def _models(board: Board) -> list[str]:
    models = board.spending.models
    if len(models) < 2:  # noqa: PLR2004 - one model is the session's
        return []
    rows = [(model, str(usage.model_calls), *_spent(usage)) for model, usage in models.items()]
    return _table(("model", "calls", "tokens", "cost"), rows)


def _spent(usage: Usage) -> tuple[str, str]:
    if not usage.model_calls:
        return "", ""
    cost = price_of(usage).replace("at least ", ">").replace("cost unknown", "unknown")
    return f"{usage.input_tokens + usage.output_tokens:,}", cost


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lay out rows; the first column takes what the numbers leave."""
    shown = [head, *rows[:_MOST_ROWS]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)][1:]
    room = _WIDTH - 2 - sum(width + 2 for width in widths)
    names = [escape(row[0]) for row in shown]
    cut = [name if len(name) <= room else f"{name[: room - 1]}…" for name in names]
    first = max(map(len, cut))
    lines = [
        f"  {name.ljust(first)}"
        + "".join(f"  {cell.rjust(width)}" for cell, width in zip(row[1:], widths, strict=True)).rstrip()
        for name, row in zip(cut, shown, strict=True)
    ]
    left = len(rows) - _MOST_ROWS
    return [line.rstrip() for line in lines] + ([f"  … {left} more"] if left > 0 else [])


def _changed(record: SessionRecord, commits: Mapping[str, str]) -> dict[str, str]:
    """Ask git how much differs in each repo; nothing of what it can't tell, or not soon."""
    changes = {
        repo: (str(stored["base"]), commits[repo])
        for repo, stored in record.workspace.items()
        if commits.get(repo, stored["base"]) != stored["base"]
    }
    if not changes:
        return {}
    from orchestra.runtime.differences import differences

    async def ask() -> dict[str, str]:
        async with asyncio.timeout(_GIT_TAKES):
            found = await differences(record, changes, patch=False)
        return {one.repo: _counts(one.files) for one in found if one.error is None}

    try:
        return asyncio.run(ask())
    except (OrchestraError, OSError, TimeoutError, KeyError, ValueError):
        return {}


def _counts(files: Sequence[Any]) -> str:
    added, deleted = (sum(getattr(file, name) or 0 for file in files) for name in ("added", "deleted"))
    return f"{len(files)} file{'s' * (len(files) != 1)}, +{added:,} -{deleted:,}"


def _conflict(conflict: Mapping[str, Any]) -> str:
    by = f"resolved by {conflict['resolved_by']}" if conflict["resolved_by"] else "not resolved by an agent"
    agents = " and ".join(conflict["agents"])
    return escape(f"conflict in {conflict['repo']}: {conflict['path']} ({conflict['kind']}, {agents}), {by}")


def _says_something(decision: Mapping[str, Any]) -> bool:
    """Tell whether somebody has decided: a bare `done` is also what an agent ends with when nobody is there."""
    return decision["decision"] != "done" or bool(decision["reason"])


def _decided(name: str, decision: Mapping[str, Any]) -> str:
    word = {"approve": "approved", "reject": "rejected"}.get(decision["decision"], decision["decision"])
    why = f": {' '.join(decision['reason'].split())}" if decision["reason"] else ""
    return escape(f"{name} {word}{why}")
