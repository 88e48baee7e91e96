"""`orchestra run`: start a session of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestra.cli.displays import Display, choose
from orchestra.cli.options import (
    DisplayOption,
    InputOption,
    JsonOption,
    ProviderOption,
    QuietOption,
    RepoOption,
    print_warnings,
    read_inputs_given,
    read_repos_given,
)
from orchestra.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.cli.driving import Session
    from orchestra.graph.project import Project
    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.runtime.result import SessionResult


def run_command(
    pipeline: Annotated[str, typer.Argument(help="A pipeline file, or the name of a pipeline.")],
    inputs: InputOption = None,
    repo: RepoOption = None,
    provider: ProviderOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Go on in the background, and print the session's id.")
    ] = False,
    display: DisplayOption = Display.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a pipeline over your repositories. Your checkout is not touched.

    The outputs of the agents that lead to END go to stdout, all else to stderr. With --detach the session goes on
    in the background, also when the terminal is closed, once all has been checked; `orchestra attach` shows it.

    Exit codes: 0 done, 1 failed, 2 something is wrong and nothing was started, 3 waits for a person,
    4 driven by another process, 130/143 interrupted.

    Example: orchestra run pr-review --input base=main
    """
    if detach:
        if display in (Display.RICH, Display.JSON):
            message = f"`--detach` goes on in the background, where `--display {display}` shows nothing"
            raise PipelineError(message, code="bad-option", hint="give one of them, and watch with `orchestra attach`")
        quiet = choose(display, quiet=quiet) is Display.QUIET
        from orchestra.cli.detaching import detach as start_detached

        start_detached(lambda: _prepare(pipeline, inputs, repo, provider, quiet=quiet), json=json, quiet=quiet)
    else:
        shown = choose(display, quiet=quiet)
        run(pipeline, inputs=inputs, repo=repo, provider=provider, json=json, display=shown)


def run(
    pipeline: str,
    *,
    inputs: Sequence[str] | None = None,
    repo: Sequence[str] | None = None,
    provider: str | None = None,
    json: bool = False,
    display: Display,
) -> SessionResult:
    """Start a session in the current directory's project and drive it to its end."""
    from orchestra.cli.driving import drive

    def prepare() -> Session:
        ready = _prepare(pipeline, inputs, repo, provider, quiet=display in (Display.QUIET, Display.JSON))
        from orchestra.runtime.session import SessionManager

        return lambda listener, channels: SessionManager(ready.project, listener, channels).start(
            ready.pipeline, ready.inputs, settings=ready.settings
        )

    return drive(prepare, json=json, display=display)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a session needs, read and checked."""

    project: Project
    pipeline: ResolvedPipeline
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]


def _prepare(
    pipeline: str, inputs: Sequence[str] | None, repo: Sequence[str] | None, provider: str | None, *, quiet: bool
) -> Prepared:
    from orchestra.graph.inputs import read_inputs
    from orchestra.graph.project import find_project
    from orchestra.graph.resolve import load_and_resolve

    cwd = Path.cwd()
    project = find_project(cwd)
    path = project.find_pipeline(pipeline, cwd)
    resolved = load_and_resolve(path, project, provider=provider, repos=read_repos_given(repo), cwd=cwd)
    values = read_inputs(resolved, read_inputs_given(inputs))
    if not quiet:
        print_warnings(resolved.warnings)
    return Prepared(project, resolved, values, {"provider": provider})
