"""`orchestra log`: the checkpoints of a session, or its events."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.options import JsonOption, print_json
from orchestra.errors import PipelineError

if TYPE_CHECKING:
    from orchestra.cli.history import Files
    from orchestra.runtime.store import SessionFiles, SessionRecord

EVENTS_VERSION = 1


def log_command(
    session: Annotated[str | None, typer.Argument(help="The session's id, or a unique beginning of it.")] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Show everything that happened, not the checkpoints.")
    ] = False,
    inside: Annotated[bool, typer.Option("--all", help="Show the checkpoints inside turns, too.")] = False,
    commit: Annotated[
        str | None, typer.Option("--commit", metavar="SHA", help="Find the checkpoints that a commit belongs to.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a session's checkpoints, oldest first: whose turn, its cost, its files, its commits, who forked there.

    With `--commit` no session need be named: all of the project are searched.

    Example: orchestra log 3f
    """
    from orchestra.graph.root import find_root
    from orchestra.runtime.store import find_session, read_checkpoints

    root = find_root(Path.cwd())
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
        _events(files, json=json)
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
