"""`orchestra resume`: go on with a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.displays import Display, choose
from orchestra.cli.options import DisplayOption, JsonOption, QuietOption
from orchestra.errors import OrchestraError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestra.cli.driving import Session
    from orchestra.runtime.observability import Event
    from orchestra.runtime.people import Channel
    from orchestra.runtime.result import SessionResult
    from orchestra.runtime.store import SessionFiles


def resume_command(
    session: Annotated[str, typer.Argument(help="The session's id, or a unique beginning of it.")],
    display: DisplayOption = Display.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go on with a paused, failed or interrupted session; a completed one prints its result again.

    Files are put back to the last checkpoint; finished agents do not run again, finished model calls are not paid
    again.

    Exit codes: 0 done, 1 failed, 2 something is wrong and nothing was started, 3 waits for a person,
    4 driven by another process, 130/143 interrupted.

    Example: orchestra resume 3f
    """
    from orchestra.cli.driving import drive

    shown = choose(display, quiet=quiet)

    def prepare() -> Session:
        from orchestra.graph.root import find_root
        from orchestra.runtime.store import find_session

        # Not the project itself: a session goes on with its own copy, whatever happened to `orchestra.yaml` since.
        root = find_root(Path.cwd())
        try:
            files = find_session(root, session)
        except SessionError as error:
            raise (_deleted(root, session) if error.code == "unknown-session" else None) or error from None
        return resuming(root, files)

    drive(prepare, json=json, display=shown)


def resuming(root: Path, files: SessionFiles) -> Session:
    """Return what goes on with a session, for `drive`."""
    from orchestra.graph.project import Project
    from orchestra.runtime.session import SessionManager

    async def go_on(listener: Callable[[Event], None], channels: Sequence[Channel]) -> SessionResult:
        try:
            return await SessionManager(Project(root), listener, channels).resume(files)
        except OrchestraError as error:
            error.session_id = error.session_id or files.session_id
            if error.code == "repo-moved":
                error.hint = _way_back(files) or error.hint
            raise

    return go_on


def _deleted(root: Path, session: str) -> SessionError | None:
    """Look for a session whose directory is gone and whose commits are not."""
    import asyncio

    from orchestra.runtime.remains import find_remains

    return asyncio.run(find_remains(root, session))


def _way_back(files: SessionFiles) -> str | None:
    """Say how a repository that was moved with the session in it comes back to its place."""
    from shlex import quote

    from orchestra.runtime.store import read_session
    from orchestra.runtime.workspace import moved_with

    moved = moved_with(files.directory, [Path(repo["path"]) for repo in read_session(files).workspace.values()])
    if moved is None:
        return None
    return f"`mv {quote(str(moved[0]))} {quote(str(moved[1]))}`, then resume again there"
