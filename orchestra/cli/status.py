"""`orchestra status`: the sessions of a project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestra.cli.options import JsonOption, print_json
from orchestra.cli.place import typed
from orchestra.cli.prices import price, price_of
from orchestra.errors import OrchestraError, PipelineError, did_you_mean

if TYPE_CHECKING:
    from orchestra.runtime.spending import Spending
    from orchestra.runtime.store import SessionRecord


def status_command(
    session: Annotated[str | None, typer.Argument(help="The session's id, or a unique beginning of it.")] = None,
    state: Annotated[
        str | None, typer.Option("--status", metavar="STATE", help="Only sessions in this state, such as paused.")
    ] = None,
    disk: Annotated[bool, typer.Option("--disk", help="Show how much of the disk they take.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the sessions of this project, newest first.

    Example: orchestra status --status interrupted
    """
    from orchestra.graph.root import find_root
    from orchestra.runtime.store import Status, find_session, list_sessions, read_session

    if state is not None and state not in set(Status):
        hint = did_you_mean(state, map(str, Status)) or f"one of: {', '.join(Status)}"
        raise PipelineError(f"there is no state {state!r}", code="unknown-status", hint=hint)
    root = find_root(Path.cwd())
    found = [read_session(find_session(root, session))] if session else list(list_sessions(root))
    records = [item for item in found if not isinstance(item, OrchestraError) and state in (None, str(item.status))]
    broken = [item for item in found if isinstance(item, OrchestraError)]
    if disk:
        _show_disk(records, json=json)
    elif json:
        print_json([_in_full(record) if session else record.summary() for record in records])
    elif session:
        sys.stdout.write(_details(records[0]) if records else f"the session is not {state}\n")
    else:
        sys.stdout.write(_table(records) if records else "no sessions\n")
    for error in broken:
        sys.stderr.write(f"error[{error.code}]: {error.message}\n")


def _in_full(record: SessionRecord) -> dict[str, Any]:
    from orchestra.runtime.event_log import read_spending

    return {**record.summary(), "spending": read_spending(record.files).as_json()}


def _table(records: list[SessionRecord]) -> str:
    rows: list[tuple[str, ...]] = [("SESSION", "PIPELINE", "STATUS", "STARTED", "TOKENS", "COST")]
    rows += [
        (
            record.session_id,
            record.pipeline,
            _status(record),
            record.created_at[:19].replace("T", " "),
            f"{record.usage['input_tokens'] + record.usage['output_tokens']:,}",
            price(record.usage["cost_usd"]),
        )
        for record in records
    ]
    return _aligned(rows)


def _show_disk(records: list[SessionRecord], *, json: bool) -> None:
    import asyncio

    from orchestra.runtime.disk import disk_usage, size

    usages = asyncio.run(disk_usage(records))
    if json:
        print_json([usage.as_json() for usage in usages])
        return
    rows: list[tuple[str, ...]] = [("SESSION", "STATUS", "AGE", "SESSION DIR", "WORKTREES", "REFS")]
    for usage in usages:
        refs = "?" if None in usage.refs.values() else str(sum(filter(None, usage.refs.values())))
        taken = (size(usage.session_bytes), size(usage.worktree_bytes))
        rows.append((usage.session_id, usage.status, _age(usage.updated_at), *taken, refs))
    sessions = sum(usage.session_bytes for usage in usages)
    worktrees = sum(usage.worktree_bytes for usage in usages)
    known = sum(count or 0 for usage in usages for count in usage.refs.values())
    rows.append(("total", "", "", size(sessions), size(worktrees), str(known)))
    sys.stdout.write(_aligned(rows) if usages else "no sessions\n")


def _age(since: str) -> str:
    """Say how long ago something was, in the largest unit that fits."""
    from datetime import UTC, datetime

    try:
        seconds = int((datetime.now(UTC) - datetime.fromisoformat(since).astimezone()).total_seconds())
    except ValueError:
        return "?"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return "now"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    from orchestra.cli.render import escape

    # A database may lie in a repository of someone else: nothing in it may steer the terminal.
    shown = [[escape(cell) for cell in row] for row in rows]
    if not shown:
        return ""
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in shown
    )


def _status(record: SessionRecord) -> str:
    if record.status == "running" and record.waiting_for:
        return f"running, waits for {record.waiting_for['agent']}"
    return str(record.status)


def _details(record: SessionRecord) -> str:
    from orchestra.cli.onward import commands
    from orchestra.cli.render import escape, escape_prose
    from orchestra.runtime.asking import open_questions
    from orchestra.runtime.event_log import read_spending

    usage = record.usage
    lines = [
        f"session   {escape(record.session_id)}",
        f"pipeline  {escape(record.pipeline)}",
        f"status    {escape(_status(record))}",
        f"started   {escape(record.created_at[:19].replace('T', ' '))} UTC",
        f"tokens    {usage['input_tokens']:,} in, {usage['output_tokens']:,} out, {price(usage['cost_usd'])}",
    ]
    lines += _spent(read_spending(record.files))
    if left := record.forked_from:
        lines.append(escape(f"fork of   {left.get('session_id')} at {left.get('checkpoint_id')}"))
    for name, repo in record.workspace.items():
        branch = f", branch {repo['branch']}" if repo["branch"] else ""
        lines.append(escape(f"repo      {name}: {repo['path']}{branch}"))
    if record.error:
        lines.append(escape(f"error     {record.error['code']}: {record.error['message']}", keep_lines=True))
    waits = [(question.agent, question.text) for question in open_questions(record.files)]
    if record.waiting_for and not waits:  # not for an answer
        waits = [(record.waiting_for["agent"], record.waiting_for["text"])]
    lines += [escape_prose(f"waits     {agent}: {text}") for agent, text in waits]
    onward = commands(record) or [typed(f"log {record.session_id}")]
    lines += [escape(f"next      {command}") for command in onward]
    return "\n".join(lines) + "\n"


def _spent(spending: Spending) -> list[str]:
    """Return tables of what each agent and each model has used."""
    rows: list[tuple[str, ...]] = []
    for title, used in (("agent", spending.agents), ("model", spending.models)):
        if used:
            rows.append((title, "calls", "tokens in", "cached", "tokens out", "cost"))
        for name, usage in used.items():
            counts = (usage.model_calls, usage.input_tokens, usage.cached_tokens, usage.output_tokens)
            rows.append((f"  {name}", *(f"{count:,}" for count in counts), price_of(usage)))
    return _aligned(rows).splitlines()
