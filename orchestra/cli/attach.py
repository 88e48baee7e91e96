"""`orchestra attach`: look on at a session from another terminal, and answer what it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestra.cli.displays import Display, choose
from orchestra.cli.options import DisplayOption, QuietOption
from orchestra.errors import PipelineError


def attach_command(
    session: Annotated[str, typer.Argument(help="The session's id, or a unique beginning of it.")],
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only look on: answer nothing, drive nothing.")
    ] = False,
    display: DisplayOption = Display.AUTO,
    json: Annotated[
        bool, typer.Option("--json", help="Print every event as JSON, one a line, as it comes; implies --read-only.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Look on at a session from this terminal: what has happened, then what happens; and answer what it asks.

    Ctrl-C detaches, and so does Ctrl-D at the prompt; the session goes on. As many as like may look on, and of several
    answers one counts. Where no process drives a paused or interrupted session, this one does, and Ctrl-C pauses it.

    Exit codes: 0 done, detached, or only looked on; 1 failed, cancelled, or its driver was killed; 3 waits for a
    person; 130/143 interrupted while it was driven from here.

    Example: orchestra attach 3f
    """
    from orchestra.cli.attaching import attach
    from orchestra.cli.events import follow_events
    from orchestra.graph.root import find_root
    from orchestra.runtime.store import find_session

    if json and display not in (Display.AUTO, Display.QUIET):
        message = f"`--json` prints the events, and nothing as `--display {display}` would"
        raise PipelineError(message, code="bad-option", hint="give one of them")
    shown = Display.QUIET if json else choose(display, quiet=quiet)
    root = find_root(Path.cwd())
    files = find_session(root, session)
    try:
        code = follow_events(files, json=True) if json else attach(root, files, read_only=read_only, display=shown)
    except KeyboardInterrupt:  # while nothing waits for it
        code = 0
    if code:
        raise typer.Exit(code)
