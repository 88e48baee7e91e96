"""`orchestra log`: the checkpoints of a session, or its events."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.options import JsonOption, print_json, read_age
from orchestra.errors import PipelineError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.cli.history import Files
    from orchestra.runtime.store import SessionFiles, SessionRecord


def log_command(
    session: Annotated[str | None, typer.Argument(help="The session's id, or a unique beginning of it.")] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Show everything that happened, not the checkpoints.")
    ] = False,
    inside: Annotated[bool, typer.Option("--all", help="Show the checkpoints inside turns, too.")] = False,
    commit: Annotated[
        str | None, typer.Option("--commit", metavar="SHA", help="Find the checkpoints that a commit belongs to.")
    ] = None,
    agents: Annotated[
        list[str] | None, typer.Option("--agent", metavar="NAME", help="Events of that agent or step; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="AGE", help="Events since then: 30s, 5m, 2h, or an ISO 8601 time.")
    ] = None,
    tail: Annotated[int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last N events.")] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with the events that come, until nobody drives the session.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show a session's checkpoints, oldest first: whose turn, its cost, its files, its commits, who forked there.

    With `--commit` no session need be named: all of the project are searched. The options of events show the events,
    also without `--events`. With `--json` each event is one line.

    Example: orchestra log 3f

    Example: orchestra log 3f -f --agent critic --since 5m
    """
    from orchestra.graph.root import find_root
    from orchestra.runtime.store import find_session, read_checkpoints

    root = find_root(Path.cwd())
    events = events or follow or bool(agents) or since is not None or tail is not None
    ways = [name for name, given in (("--events", events), ("--all", inside), ("--commit", commit)) if given]
    if len(ways) > 1:
        message = f"{' and '.join(ways)} show something different each"
        raise PipelineError(message, code="bad-option", hint="give one of them")
    if session is None and commit is None:
        raise PipelineError("no session is named", code="bad-option", hint="run `orchestra status` to see them")
    files = None if session is None else find_session(root, session)
    if commit is not None:
        _traces(root, commit, files, json=json)
    elif files is None:
        return
    elif events:
        _events(files, agents=agents, since=since, tail=tail, follow=follow, json=json)
    elif json:
        print_json(read_checkpoints(files))
    else:
        _history(files, root, inside=inside)


def _traces(root: Path, commit: str, files: SessionFiles | None, *, json: bool) -> None:
    from orchestra.cli.render import escape
    from orchestra.runtime.naming import describe
    from orchestra.runtime.store import find_session, read_checkpoints
    from orchestra.runtime.tracing import trace

    found = trace(root, commit, files)
    if json:
        print_json([{"session_id": item.session_id, **item.row} for item in found])
        return
    rows = {session: read_checkpoints(find_session(root, session)) for session in {item.session_id for item in found}}
    for item in found:
        commits = ", ".join(f"{repo} {sha[:10]}" for repo, sha in item.commits.items())
        where = describe(rows[item.session_id], item.row)
        sys.stdout.write(escape(f"session {item.session_id}  checkpoint {where}  {commits}") + "\n")


def _events(
    files: SessionFiles,
    *,
    agents: Sequence[str] | None,
    since: str | None,
    tail: int | None,
    follow: bool,
    json: bool,
) -> None:
    from orchestra.cli.events import follow_events, print_events
    from orchestra.runtime.event_log import Selection

    if agents:
        _check_agents(files, agents)
    selection = Selection(agents=agents or None, since=None if since is None else _time(since))
    if not follow:
        print_events(files, selection, tail=tail, json=json)
    elif code := follow_events(files, selection, tail=tail, json=json):
        raise typer.Exit(code)


def _check_agents(files: SessionFiles, agents: Sequence[str]) -> None:
    from orchestra.runtime.event_log import read_agents

    known = read_agents(files)
    for name in agents:
        if name not in known:
            hint = did_you_mean(name, known) or f"it has {', '.join(known) or 'none yet'}"
            message = f"the session {files.session_id} has no agent or step {name!r}"
            raise PipelineError(message, code="unknown-agent", hint=hint)


def _time(text: str) -> str:
    """Return the time that `--since` means, as the log writes it; without a zone it is the local time."""
    hint = "write an age (30s, 5m, 2h, 1d), or a time: 2026-11-27T14:00"
    try:
        try:
            time = datetime.fromisoformat(text.strip()).astimezone(UTC)
        except ValueError:
            time = datetime.now(UTC) - read_age(text, "--since", hint=hint)
    except OverflowError:  # before the calendar's beginning, and thus before all events
        return ""
    return time.isoformat(timespec="microseconds")


def _history(files: SessionFiles, root: Path, *, inside: bool) -> None:
    from orchestra.cli.history import render_history
    from orchestra.cli.styles import show, styles
    from orchestra.runtime.history import read_history

    history = read_history(files, root, inside=inside)
    changes = [
        (repo, *pair)
        for entry in history.entries
        for changed in (entry.changes, *(turn.changes for turn in entry.turns))
        for repo, pair in changed.items()
    ]
    changes += [(repo, *pair) for turn in history.unfinished for repo, pair in turn.changes.items()]
    show(render_history(history, _files_of(history.record, changes), styles()))


def _files_of(record: SessionRecord, changes: list[tuple[str, str, str]]) -> Files:
    """Ask git which files differ, by one process a repo; where nothing has changed git is not even loaded."""
    if not changes:
        return {}
    import asyncio

    from orchestra.runtime.differences import Repositories

    async def ask() -> Files:
        repositories = Repositories(record)
        found: Files = {}
        for repo in dict.fromkeys(repo for repo, _, _ in changes):
            pairs = [(before, after) for name, before, after in changes if name == repo]
            found |= {(repo, *pair): files for pair, files in (await repositories.files(repo, pairs)).items()}
        return found

    return asyncio.run(ask())
