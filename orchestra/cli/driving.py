"""What the commands share that drive a session: signals, progress, the result and the exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import typer

from orchestra.cli.options import print_json
from orchestra.cli.progress import Progress
from orchestra.errors import OrchestraError
from orchestra.runtime.machine import machine_error
from orchestra.runtime.store import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from orchestra.runtime.drive import SessionResult
    from orchestra.runtime.observability import Event

EXIT_CODES = {Status.COMPLETED: 0, Status.FAILED: 1, Status.PAUSED: 3, Status.CANCELLED: 1}


def drive(
    work: Callable[[Callable[[Event], None] | None], Coroutine[None, None, SessionResult]], *, json: bool, quiet: bool
) -> SessionResult:
    """Drive a session and report; ends the process with the exit code of DESIGN §8 unless it completed.

    Args:
        work: Starts or resumes the session; gets the listener for its events.
        json: Print one JSON document.
        quiet: Print no progress.
    """
    progress = Progress(sys.stderr)
    caught: list[int] = []
    try:
        result = asyncio.run(_interruptible(work(None if quiet else progress.show), caught))
    except asyncio.CancelledError:
        # Before there was anything to resume.
        if json:
            print_json(failed_document(Status.INTERRUPTED, "interrupted", "stopped before the session was started"))
        raise typer.Exit(128 + (caught[0] if caught else signal.SIGINT)) from None
    except Exception as failure:
        error = machine_error(failure) or failure
        kind = error.code if isinstance(error, OrchestraError) else "internal-error"
        started = not isinstance(error, OrchestraError) or error.exit_code == 1
        if json and started:  # stdout is one document, also when the session fails (DESIGN §8)
            session = error.session_id if isinstance(error, OrchestraError) else None
            print_json(failed_document(Status.FAILED, kind, str(error) or type(error).__name__, session=session))
        raise
    if json:
        print_json(result.as_json())
    else:
        sys.stdout.write(progress.outputs(result))
    if not quiet:
        sys.stderr.write(progress.summary(result))
    elif result.record.error and not json:
        sys.stderr.write(f"error[{result.record.error['code']}]: {result.record.error['message']}\n")
    if result.record.status is Status.INTERRUPTED:
        raise typer.Exit(128 + (caught[0] if caught else signal.SIGINT))
    if code := EXIT_CODES.get(result.record.status, 1):
        raise typer.Exit(code)
    return result


def failed_document(status: Status, code: str, message: str, *, session: str | None = None) -> dict[str, object]:
    """Return the JSON object of a drive that has no result: before there was a session, or its database failed."""
    usage = {"input_tokens": 0, "output_tokens": 0, "model_calls": 0, "cost_usd": 0.0}
    return {
        "session_id": session,
        "status": str(status),
        "pipeline": None,
        "agent_outputs": {},
        "branches": {},
        "commits": {},
        "checkpoints": 0,
        "usage": usage,
        "conflicts": [],
        "waiting_for": None,
        "error": {"code": code, "message": message, "agent": None},
    }


async def _interruptible(work: Coroutine[None, None, SessionResult], caught: list[int]) -> SessionResult:
    """Run a coroutine so that the first Ctrl-C or SIGTERM stops it in order, and the second at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def stop(number: int) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        sys.stderr.write("stopping at the last checkpoint; once more stops at once\n")
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, int(number))
    try:
        return await task
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            if caught:  # once more, while the result is being printed, must not look like a crash
                signal.signal(number, lambda signum, _: os._exit(128 + signum))
