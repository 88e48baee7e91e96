"""`orchestra replay`: a new session that leaves another one at a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.displays import Display, choose
from orchestra.cli.options import (
    AgentOption,
    BeforeOption,
    CheckpointOption,
    DisplayOption,
    InputOption,
    JsonOption,
    ProviderOption,
    QuietOption,
    StepOption,
    TurnOption,
    print_json,
    read_inputs_given,
    read_models_given,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from orchestra.cli.driving import Session
    from orchestra.runtime.observability import Event
    from orchestra.runtime.people import Channel
    from orchestra.runtime.replaying import Changes
    from orchestra.runtime.result import SessionResult


def replay_command(
    session: Annotated[str, typer.Argument(help="The session's id, or a unique beginning of it.")],
    checkpoint: CheckpointOption = None,
    agent: AgentOption = None,
    turn: TurnOption = None,
    before: BeforeOption = None,
    step: StepOption = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change the state first, such as agent_outputs.critic.verdict=revise; VALUE is JSON or a text.",
        ),
    ] = None,
    inputs: InputOption = None,
    provider: ProviderOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="AGENT=MODEL", help="Let an agent use another model; may be repeated."),
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", metavar="FILE", help="Go on with another pipeline file.")
    ] = None,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Make the session and its worktrees, print their paths, and stop.")
    ] = False,
    display: DisplayOption = Display.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Leave a session at one of its checkpoints as a new session, and go on from there.

    State and files of the new session are those of the checkpoint; the session that it leaves stays as it is, and may
    be running. Name the checkpoint by --checkpoint, --agent, --before or --step; `orchestra log SESSION` shows them.
    What came before it is not paid again.

    Exit codes: 0 done, 1 failed, 2 something is wrong and nothing was made, 3 waits for a person,
    130/143 interrupted. With --no-run: 0 or 2.

    Example: orchestra replay 3f --before fixer --model fixer=smart
    """
    from orchestra.runtime.naming import CheckpointName

    shown = choose(display, quiet=quiet)
    name = CheckpointName(checkpoint=checkpoint, agent=agent, turn=turn, before=before, step=step)

    def prepare() -> Forking:
        return _forking(session, name, _changes(values, inputs, provider, model, pipeline))

    if no_run:
        _stay(prepare, json=json, display=shown)
        return
    from orchestra.cli.driving import drive

    def go_on() -> Session:
        fork = prepare()
        return lambda listener, channels: fork(listener, channels, True)

    drive(go_on, json=json, display=shown)


if TYPE_CHECKING:
    from orchestra.runtime.naming import CheckpointName

    Forking = Callable[[Callable[[Event], None], Sequence[Channel], bool], Coroutine[None, None, SessionResult]]


def _changes(
    values: list[str] | None,
    inputs: list[str] | None,
    provider: str | None,
    model: list[str] | None,
    pipeline: str | None,
) -> Changes:
    from orchestra.errors import PipelineError, Problem
    from orchestra.graph.project import find_project
    from orchestra.runtime.edits import Edit
    from orchestra.runtime.replaying import Changes

    edits: list[Edit] = []
    problems: list[Problem] = []
    for text in values or ():
        try:
            edits.append(Edit.parse(text))
        except PipelineError as error:
            problems += error.problems
    if problems:
        raise PipelineError.of(problems)
    cwd = Path.cwd()
    return Changes(
        edits=edits,
        inputs=read_inputs_given(inputs),
        provider=provider,
        models=read_models_given(model),
        pipeline=find_project(cwd).find_pipeline(pipeline, cwd) if pipeline is not None else None,
    )


def _forking(session: str, name: CheckpointName, changes: Changes) -> Forking:
    """Return what makes the fork and drives it, or not."""
    from orchestra.graph.project import Project, find_project
    from orchestra.graph.root import find_root
    from orchestra.runtime.naming import find_checkpoint
    from orchestra.runtime.session import SessionManager
    from orchestra.runtime.store import find_session

    root = find_root(Path.cwd())
    files = find_session(root, session)
    row = find_checkpoint(files, name)
    # Its own copy of the pipeline is what a fork goes on with, whatever happened to `orchestra.yaml` since.
    project = find_project(Path.cwd()) if changes.pipeline else Project(root)

    async def fork(
        listener: Callable[[Event], None],
        channels: Sequence[Channel],
        goes_on: bool,
    ) -> SessionResult:
        return await SessionManager(project, listener, channels).replay(files, row, changes, goes_on=goes_on)

    return fork


def _stay(prepare: Callable[[], Forking], *, json: bool, display: Display) -> None:
    """Make the fork and say where its files are."""
    import asyncio

    from orchestra.cli.place import typed
    from orchestra.cli.progress import Progress
    from orchestra.cli.render import escape

    display = Display.PLAIN if display is Display.RICH else display  # nothing goes on that would be watched
    progress = Progress(sys.stderr, display=display)
    result = asyncio.run(prepare()(progress.show, (), False))
    if json:
        print_json(result.as_json())
    else:
        places = dict(result.worktrees or {})
        named = len(places) > 1
        lines = [f"{repo}: {path}" if named else path for repo, path in places.items()]
        sys.stdout.write("".join(f"{escape(line)}\n" for line in lines))
    if display is Display.PLAIN:
        session = result.record.session_id
        sys.stderr.write(f"session {session} stands there; go on with: {typed(f'resume {session}')}\n")
