"""`run --detach`: a session that goes on in the background."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import typer

from orchestra.cli.options import print_json
from orchestra.cli.place import typed
from orchestra.cli.render import render_problems
from orchestra.cli.signals import Stopped, stop_signals
from orchestra.errors import SessionError
from orchestra.runtime.store import read_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.cli.run import Prepared
    from orchestra.runtime.store import SessionRecord


def detach(prepare: Callable[[], Prepared], *, json: bool, quiet: bool) -> None:
    """Make a session, have a process in the background drive it, and report.

    Args:
        prepare: Reads and checks what the session needs.
        json: Print one JSON document in place of the id.
        quiet: Print no hints.
    """
    with stop_signals() as signals:
        try:
            record, error = signals.run(lambda: _start(prepare()))
        except Stopped:
            signals.leave(signals.code)
    session = record.session_id
    if json:
        print_json({"session_id": session, "status": str(record.status)})
    else:
        sys.stdout.write(f"{session}\n")
    if error is not None:
        sys.stderr.write(render_problems(error.problems) + "\n")
        raise typer.Exit(error.exit_code)
    if not quiet:
        _tell(record)


async def _start(prepared: Prepared) -> tuple[SessionRecord, SessionError | None]:
    from orchestra.runtime.detached import start_driver, until_driven
    from orchestra.runtime.session import SessionManager

    manager = SessionManager(prepared.project)
    files = await manager.create(prepared.pipeline, prepared.inputs, settings=prepared.settings)
    driver = start_driver(files, prepared.project.root)
    try:
        return await until_driven(files, driver), None
    except SessionError as error:
        return read_session(files), error
    except asyncio.CancelledError:
        sys.stderr.write(f"the session {files.session_id} goes on in the background\n")
        _tell_commands(files.session_id)
        raise


def _tell(record: SessionRecord) -> None:
    from orchestra.cli.progress import Progress
    from orchestra.runtime.observability import Event

    progress = Progress(sys.stderr)
    for kind, payload in record.settings.get("notices", ()):
        progress.show(Event(0, record.created_at, kind, payload=payload))
    where = "in the background" if record.status == "running" else "already"
    sys.stderr.write(f"the session {record.session_id} is {record.status} {where}\n")
    _tell_commands(record.session_id)


def _tell_commands(session: str) -> None:
    sys.stderr.write(
        f"watch it, and answer, with: {typed(f'attach {session}')}\n"
        f"see how it stands with: {typed(f'status {session}')}\n"
        f"end it for good with: {typed(f'cancel {session}')}\n"
    )
