"""`orchestra log`: the checkpoints of a session, or its events."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestra.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from orchestra.runtime.store import SessionFiles

EVENTS_VERSION = 1


def log_command(
    session: Annotated[str, typer.Argument(help="The session's id, or a unique beginning of it.")],
    events: Annotated[
        bool, typer.Option("--events", help="Show everything that happened, not the checkpoints.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show a session's checkpoints, oldest first, each with the commits that hold its files.

    Example: orchestra log 3f
    """
    from orchestra.graph.root import find_root
    from orchestra.runtime.store import find_session, read_checkpoints

    files = find_session(find_root(Path.cwd()), session)
    if events:
        _events(files, json=json)
    elif json:
        print_json(read_checkpoints(files))
    else:
        sys.stdout.write(_history(files))


def _events(files: SessionFiles, *, json: bool) -> None:
    from orchestra.cli.event_lines import line_of
    from orchestra.cli.render import as_json
    from orchestra.runtime.store import read_events

    if json:
        sys.stdout.write(as_json({"version": EVENTS_VERSION}, indent=None) + "\n")
    for event in read_events(files):
        if json:
            sys.stdout.write(as_json(event, indent=None) + "\n")
        else:
            line = line_of(event["time"], event["type"], event["node"], event["turn"], event["payload"], full=True)
            sys.stdout.write(line + "\n")


def _history(files: SessionFiles) -> str:
    """Render the checkpoints between turns, as `git log --oneline` does; those inside a turn are counted.

    Of those in a branch the ones are shown at which a turn ended.
    """
    from orchestra.cli.render import escape
    from orchestra.runtime.store import read_checkpoints, read_turns

    turns = {(turn["agent"], turn["turn"]): turn for turn in read_turns(files)}
    lines: list[str] = []
    inside: Counter[str] = Counter()
    before: list[str] | None = None
    for row in read_checkpoints(files):
        if row["checkpoint_ns"] and not row["ended"]:
            inside[row["agent"]] += 1
            continue
        what = ", ".join(f"{ended['agent']} (turn {ended['turn']})" for ended in row["ended"])
        if not what and row["next"] == before and not row["changed"]:
            continue  # LangGraph's own step between two of ours: the same files, the same way on
        what = what or ("start" if before is None else ", ".join(before))
        before = before if row["checkpoint_ns"] else row["next"]
        onward = f"  → {', '.join(row['next'])}" if row["next"] else ""
        when = f"{row['checkpoint_id'][:13]}  {row['created_at'][11:19]}"
        lines.append(f"{when}  {what}{_spent(row, turns, inside)}{onward}")
        lines += [f"{'':15}{repo}: {row['repos'][repo][:10]}" for repo in row["changed"]]
    return "".join(f"{escape(line)}\n" for line in lines) or "no checkpoints yet\n"


def _spent(row: dict[str, Any], turns: dict[tuple[str, int], dict[str, Any]], inside: Counter[str]) -> str:
    ended = [turns[key] for entry in row["ended"] if (key := (entry["agent"], entry["turn"])) in turns]
    if not ended:
        return ""
    seconds = max(turn["duration_s"] or 0 for turn in ended)
    tokens = sum((turn["input_tokens"] or 0) + (turn["output_tokens"] or 0) for turn in ended)
    calls = sum(turn["tool_calls"] for turn in ended)
    count = sum(inside.pop(entry["agent"], 0) for entry in row["ended"])
    checkpoints = f", {count} checkpoints inside" if count else ""
    return f"  {seconds:.1f} s, {tokens:,} tokens, {calls} tool calls{checkpoints}"
