"""What the commands share that drive a session: signals, progress, the result and the exit code."""

from __future__ import annotations

import sys
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestra.cli.at_hand import people_at_hand
from orchestra.cli.displays import Display
from orchestra.cli.options import print_json
from orchestra.cli.progress import Progress
from orchestra.cli.render import as_json, escape
from orchestra.cli.signals import Stopped, StopSignals, stop_signals
from orchestra.cli.summary import summary
from orchestra.errors import OrchestraError
from orchestra.runtime.machine import machine_error
from orchestra.runtime.store import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from orchestra.cli.transcript import Transcript
    from orchestra.runtime.observability import Event
    from orchestra.runtime.people import Channel
    from orchestra.runtime.result import SessionResult

    Session = Callable[[Callable[[Event], None], Sequence[Channel]], Coroutine[None, None, SessionResult]]

EXIT_CODES = {Status.COMPLETED: 0, Status.FAILED: 1, Status.PAUSED: 3, Status.CANCELLED: 1}


def drive(
    prepare: Callable[[], Session],
    *,
    json: bool,
    display: Display,
    shown: Progress | None = None,
    people: Callable[[Transcript], Sequence[Channel]] = people_at_hand,
) -> SessionResult:
    """Drive a session and report; ends the process with the exit code of DESIGN §8 unless it completed.

    Args:
        prepare: Reads what the session needs, and returns what starts or resumes it: called with the listener for its
            events and the ways to the person at hand.
        json: Print one JSON document.
        display: How progress is shown; not `auto`.
        shown: Where it is shown already; whoever made it closes it.
        people: Returns the ways to the person at hand.
    """
    progress = shown or Progress(sys.stderr, display=display)

    def listen(event: Event) -> None:
        if event.type in ("session_started", "session_resumed"):
            signals.session = event.payload["session_id"]
            if event.type == "session_resumed" and not progress.board.session:
                progress.recall(_past(signals.session, before=event.seq))
        progress.show(event)

    async def work(session: Session) -> SessionResult:
        try:
            return await session(listen, people(progress.transcript))
        except Exception as failure:
            error = machine_error(failure) or failure
            kind = error.code if isinstance(error, OrchestraError) else "internal-error"
            started = not isinstance(error, OrchestraError) or error.exit_code == 1
            if json and started:  # stdout is one document, also when the session fails (DESIGN §8)
                signals.last_words = None
                session_id = error.session_id if isinstance(error, OrchestraError) else None
                status = Status.CANCELLED if kind == "cancelled" else Status.FAILED
                print_json(failed_document(status, kind, str(error) or type(error).__name__, session=session_id))
            raise

    with nullcontext() if shown else closing(progress), stop_signals() as signals:
        signals.screen = progress.transcript.screen
        signals.last_words = (lambda: _stopped_document(signals.session)) if json else None
        try:
            result = signals.run(lambda: work(prepare()))
        except Stopped:
            progress.close()
            words, signals.last_words = signals.last_words, None
            sys.stdout.write(words() if words else "")
            signals.leave(signals.code)
        signals.last_words = None
        progress.close()
        code = _report(result, progress, signals, json=json)
        if signals.caught is not None:
            signals.leave(code)
    if code:
        raise typer.Exit(code)
    return result


def _past(session: str, *, before: int) -> list[Event]:
    """Return what has happened in a session that goes on; nothing where it can't be read: it is only shown."""
    from orchestra.cli.live.board import LASTING
    from orchestra.graph.root import find_root
    from orchestra.runtime.following import read_state
    from orchestra.runtime.store import find_session

    try:
        return read_state(find_session(find_root(Path.cwd()), session), lasting=LASTING, before=before)
    except (OrchestraError, OSError):
        return []


def _report(result: SessionResult, progress: Progress, signals: StopSignals, *, json: bool) -> int:
    """Print how a session ended, and return the exit code."""
    # Nobody may listen any more: a signal that closed the terminal is no reason to fail.
    with suppress(OSError) if signals.caught is not None else nullcontext():
        if json:
            print_json(result.as_json())
        elif not (sys.stdout.isatty() and progress.has_shown(result)):
            sys.stdout.write(progress.outputs(result))
        if progress.display in (Display.PLAIN, Display.RICH):
            # Git is not waited for by somebody who has asked the process to end.
            progress.transcript.screen.write(summary(result, progress.transcript, files=signals.caught is None))
        elif progress.is_quiet and result.record.error and not json:
            error = result.record.error
            words = escape(f"error[{error['code']}]: {error['message']}", keep_lines=True)
            progress.transcript.screen.write(f"{words}\n")
    if result.record.status is Status.INTERRUPTED:
        return signals.code
    return EXIT_CODES.get(result.record.status, 1)


def _stopped_document(session: str | None) -> str:
    message = "stopped before anything was run, or before it could be told: see `orchestra status`"
    return as_json(failed_document(Status.INTERRUPTED, "interrupted", message, session=session)) + "\n"


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
