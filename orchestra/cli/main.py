"""The `orchestra` command: the Typer app and what happens to errors; nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestra.cli.compile import compile_command
from orchestra.cli.demo import demo_command
from orchestra.cli.log import log_command
from orchestra.cli.resume import resume_command
from orchestra.cli.run import run_command
from orchestra.cli.status import status_command
from orchestra.errors import OrchestraError

app = typer.Typer(
    name="orchestra",
    help="Teams of agents over your git repositories, from one YAML file.\n\nTry it without a key: `orchestra demo`",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo_command)
app.command("compile")(compile_command)
app.command("run")(run_command)
app.command("resume")(resume_command)
app.command("status")(status_command)
app.command("log")(log_command)


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
            os.chdir(directory)
        except OSError as error:
            raise typer.BadParameter(f"{directory}: {error.strerror}", param_hint="-C") from None


def main() -> None:
    """Run the command line; errors that a user can fix are rendered, bugs leave a report."""
    try:
        app()
    except OrchestraError as error:
        if os.environ.get("ORCHESTRA_DEBUG"):
            raise
        from orchestra.cli.render import render_problems

        print(render_problems(error.problems), file=sys.stderr)  # noqa: T201 - this is the command line
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); Python must not complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("ORCHESTRA_DEBUG"):
            raise
        from orchestra.cli.report import report_bug

        report_bug(error)
        sys.exit(1)
