"""The `orchestra` command: the Typer app and what happens to errors; nothing else."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestra.cli.apply import apply_command
from orchestra.cli.attach import attach_command
from orchestra.cli.cancel import cancel_command
from orchestra.cli.cleanup import cleanup_command
from orchestra.cli.compile import compile_command
from orchestra.cli.demo import demo_command
from orchestra.cli.diff import diff_command
from orchestra.cli.doctor import doctor_command
from orchestra.cli.export import export_command
from orchestra.cli.graph import graph_command
from orchestra.cli.log import log_command
from orchestra.cli.place import enter
from orchestra.cli.replay import replay_command
from orchestra.cli.respond import respond_command
from orchestra.cli.resume import resume_command
from orchestra.cli.run import run_command
from orchestra.cli.status import status_command
from orchestra.errors import OrchestraError

_BROKEN_PIPE = 141
"""What a shell shows for a process that SIGPIPE ended."""

app = typer.Typer(
    name="orchestra",
    help="Teams of agents over your git repositories, from one YAML file.\n\nTry it without a key: `orchestra demo`",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", short_help="Review a demo repository, with no key")(demo_command)
app.command("compile", short_help="Check a pipeline and show what it means")(compile_command)
app.command("graph", short_help="Draw a pipeline, or the way of a session")(graph_command)
app.command("run", short_help="Run a pipeline over your repositories")(run_command)
app.command("resume", short_help="Go on with a session")(resume_command)
app.command("attach", short_help="Look on at a session, and answer")(attach_command)
app.command("respond", short_help="Answer an agent, or see what it asks")(respond_command)
app.command("cancel", short_help="End a session for good")(cancel_command)
app.command("status", short_help="Show the sessions of this project")(status_command)
app.command("log", short_help="Show a session's checkpoints or events")(log_command)
app.command("diff", short_help="Show what a session has changed")(diff_command)
app.command("export", short_help="Write a session as one HTML page")(export_command)
app.command("apply", short_help="Bring a session's result into your checkout")(apply_command)
app.command("replay", short_help="Go on from any checkpoint, as a new session")(replay_command)
app.command("cleanup", short_help="Remove sessions that have ended")(cleanup_command)
app.command("doctor", short_help="Find out what is wrong, and what to do")(doctor_command)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"orchestra {version('orchestra-agents')}")
        raise typer.Exit


@app.callback()
def options(
    directory: Annotated[Path | None, typer.Option("-C", metavar="DIR", help="Run as if started in DIR.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Teams of agents over your git repositories, from one YAML file.

    Try it without a key: orchestra demo
    """
    del version
    if debug:
        os.environ["ORCHESTRA_DEBUG"] = "1"
    if directory is not None:
        try:
            enter(directory)
        except OSError as error:
            raise typer.BadParameter(f"{directory}: {error.strerror}", param_hint="-C") from None


def main() -> None:
    """Run the command line; errors that a user can fix are rendered, bugs leave a report."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller: `>&-`
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_flush(_run()))


def _run() -> int:
    try:
        app()
    except SystemExit as end:
        return _code(end)
    except OrchestraError as error:
        if os.environ.get("ORCHESTRA_DEBUG"):
            raise
        from orchestra.cli.render import render_problems

        sys.stderr.write(render_problems(error.problems) + "\n")
        return error.exit_code
    except BrokenPipeError:
        return _BROKEN_PIPE
    except Exception as error:
        if os.environ.get("ORCHESTRA_DEBUG"):
            raise
        from orchestra.cli.render import render_problems
        from orchestra.runtime.machine import machine_error

        if fault := machine_error(error):
            sys.stderr.write(render_problems(fault.problems) + "\n")
            return 1
        from orchestra.cli.report import report_bug

        report_bug(error)
        return 1
    return 0


def _code(end: SystemExit) -> int:
    if isinstance(end.__context__, BrokenPipeError):  # Click makes it 1, which says that a session failed
        return _BROKEN_PIPE
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def _flush(code: int) -> int:
    """Write out what is left, while something can still be said about it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python must not complain in its own words when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):  # the reader is gone (`| head`)
            return code or _BROKEN_PIPE
        sys.stderr.write(f"error[output-failed]: standard output can't be written: {error.strerror}\n")
        return code or 1
    return code
