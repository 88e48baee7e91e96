"""`orchestra respond`: answer an agent from a script, or see what is asked."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.displays import Display, choose
from orchestra.cli.options import DisplayOption, JsonOption, QuietOption, print_json
from orchestra.cli.place import typed
from orchestra.errors import OrchestraError, SessionBusyError, SessionError

if TYPE_CHECKING:
    from orchestra.agents.conversation import Question
    from orchestra.runtime.responding import Asked, Outcome
    from orchestra.runtime.store import SessionFiles


def respond_command(
    session: Annotated[str, typer.Argument(help="The session's id, or a unique beginning of it.")],
    text: Annotated[str | None, typer.Argument(help="The answer; - reads it from standard input.")] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="Whom to answer, where several ask.")
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", metavar="ID", help="Answer only if this question is open.")
    ] = None,
    display: DisplayOption = Display.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer what an agent asks; without TEXT, show what is asked.

    TEXT is a message to the agent, or one of /approve [why], /reject [why], /done [what] and /undo. Where no process
    drives the session, it is driven until it waits again or ends, as by `orchestra resume`.

    Exit codes: 0 done, or somebody else goes on with it; 1 failed, or somebody was faster; 2 nothing is asked, or it
    is no answer; 3 waits for a person again; 130/143 interrupted.

    Example: orchestra respond 3f "/approve looks good"
    """
    from orchestra.graph.root import find_root
    from orchestra.runtime.store import find_session

    shown = choose(display, quiet=quiet)
    root = find_root(Path.cwd())
    files = find_session(root, session)
    if text is None:
        _show(files, json=json)
        return
    from orchestra.runtime.responding import respond

    try:
        given = respond(files, sys.stdin.read() if text == "-" else text, agent=agent, question=question)
    except (OrchestraError, OSError) as error:
        if json:
            _print_refusal(files, error)
        raise
    _go_on(root, files, given, json=json, display=shown)


def _print_refusal(files: SessionFiles, error: OrchestraError | OSError) -> None:
    """Print the document of an answer that was right and does not count (exit 1, DESIGN §8)."""
    from orchestra.cli.driving import failed_document
    from orchestra.runtime.machine import machine_error
    from orchestra.runtime.store import read_session

    named = error if isinstance(error, OrchestraError) else machine_error(error)
    if named is None or named.exit_code != 1:
        return
    with suppress(SessionError):  # its database can't be read: that is the error, then
        record = read_session(files)
        document = failed_document(record.status, named.code, named.message, session=record.session_id)
        print_json({**document, "pipeline": record.pipeline, "waiting_for": record.waiting_for})


def _show(files: SessionFiles, *, json: bool) -> None:
    from orchestra.runtime.responding import what_is_asked

    asked = what_is_asked(files)
    if json:
        print_json(asked.as_json())
    else:
        sys.stdout.write(_text(asked))


def _text(asked: Asked) -> str:
    from orchestra.cli.onward import answers, unanswered
    from orchestra.cli.render import escape_prose

    record = asked.record
    if not asked.questions:
        waits = record.waiting_for
        what = f"{waits['agent']} waits for you:\n{waits['text']}" if waits else "nothing is asked"
        return escape_prose(f"{record.status}: {what}\n")
    parts = []
    for question in asked.questions:
        note = f"\n\n({question.note})" if question.note else ""
        parts.append(f"{question.agent} asks ({question.id}):\n\n{question.text}{note}\n")
    open_ones = unanswered(record.files)
    ways = [f"answer with: {command}" for command in answers(record.session_id, open_ones)]
    if not open_ones:
        ways = [f"answered; goes on with: {typed(f'resume {record.session_id}')}"]
    return escape_prose("\n".join([*parts, *ways]) + "\n")


def _go_on(root: Path, files: SessionFiles, given: Question, *, json: bool, display: Display) -> None:
    """Have the session go on with an answer: by whoever drives it, else by this process."""
    from orchestra.cli.driving import drive
    from orchestra.cli.resume import resuming
    from orchestra.runtime.responding import Outcome, wait_until_taken

    while True:
        try:
            outcome = wait_until_taken(files, given)
        except KeyboardInterrupt:
            sys.stderr.write(f"the answer is given; `{typed(f'resume {files.session_id}')}` goes on with it\n")
            if json:
                _print_answered(files, given)
            raise typer.Exit(130) from None
        if outcome is not Outcome.FREE:
            _tell(files, given, outcome, json=json, quiet=display in (Display.QUIET, Display.JSON))
            return
        try:
            # Nobody is at hand here: it has said what it had to say.
            drive(lambda: resuming(root, files), json=json, display=display, people=lambda _: ())
        except SessionBusyError:
            continue  # somebody else goes on with it
        return


def _print_answered(files: SessionFiles, given: Question) -> None:
    from orchestra.runtime.store import read_session

    record = read_session(files)
    waiting_for = record.waiting_for
    document = {"session_id": record.session_id, "status": str(record.status), "waiting_for": waiting_for}
    print_json({**document, "answered": given.id})


def _tell(files: SessionFiles, given: Question, outcome: Outcome, *, json: bool, quiet: bool) -> None:
    from orchestra.runtime.responding import Outcome

    if json:
        _print_answered(files, given)
    if not quiet:
        whoever = "the process that drives the session"
        goes_on = f"{whoever} goes on with it"
        what = goes_on if outcome is Outcome.TAKEN else f"{whoever} has not taken it up yet"
        watch = typed(f"attach {files.session_id}")
        sys.stderr.write(f"{given.agent} is answered; {what}\nwatch it with: {watch}\n")
