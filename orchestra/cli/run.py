"""`orchestra run`: start a session of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.options import (
    InputOption,
    JsonOption,
    ProviderOption,
    QuietOption,
    RepoOption,
    print_warnings,
    read_inputs_given,
    read_repos_given,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.cli.driving import Session
    from orchestra.runtime.drive import SessionResult


def run_command(
    pipeline: Annotated[str, typer.Argument(help="A pipeline file, or the name of a pipeline.")],
    inputs: InputOption = None,
    repo: RepoOption = None,
    provider: ProviderOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a pipeline over your repositories. Your checkout is not touched.

    The outputs of the agents that lead to END go to stdout, all else to stderr.
    Exit codes: 0 done, 1 failed, 2 something is wrong and nothing was started, 3 waits for a person,
    4 driven by another process, 130/143 interrupted.

    Example: orchestra run pr-review --input base=main
    """
    run(pipeline, inputs=inputs, repo=repo, provider=provider, json=json, quiet=quiet)


def run(
    pipeline: str,
    *,
    inputs: Sequence[str] | None = None,
    repo: Sequence[str] | None = None,
    provider: str | None = None,
    json: bool = False,
    quiet: bool = False,
) -> SessionResult:
    """Start a session in the current directory's project and drive it to its end."""
    from orchestra.cli.driving import drive

    def prepare() -> Session:
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
        from orchestra.runtime.session import SessionManager

        return lambda listener, channels: SessionManager(project, listener, channels).start(
            resolved, values, settings={"provider": provider}
        )

    return drive(prepare, json=json, quiet=quiet)
