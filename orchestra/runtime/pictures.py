"""Finds what is to be drawn: the graph of a pipeline, or a session with the way that it has taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import PipelineError, SessionError
from orchestra.graph.drawing.picture import Picture
from orchestra.graph.root import find_root

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.errors import Problem
    from orchestra.runtime.store import SessionFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A picture, and what is to be said about it."""

    picture: Picture
    warnings: Sequence[Problem] = ()
    also_session: str | None = None
    """The session that could have been meant, too."""


def draw(target: str | Path, *, directory: Path | None = None, provider: str | None = None) -> Picture:
    """Draw a pipeline, or a session with the way that it has taken.

    In a notebook the picture shows itself; `print` shows it in characters.

    Args:
        target: A pipeline file, the name of a pipeline, or the id of a session or a unique beginning of it.
        directory: Where the project is looked for; the current directory when left out.
        provider: The provider of agents that name none.

    Raises:
        PipelineError: There is no such pipeline or session, or the pipeline is wrong.
        SessionError: The session can't be read.
    """
    return find_picture(str(target), (directory or Path.cwd()).resolve(), provider=provider).picture


def find_picture(
    target: str, cwd: Path, *, provider: str | None = None, repos: Mapping[str, Path] | None = None
) -> Found:
    """Find what a person has named; where both could be meant it is the pipeline.

    Args:
        target: A pipeline file, the name of a pipeline, or the id of a session or a unique beginning of it.
        cwd: Where the person is.
        provider: Of a pipeline: the provider of agents that name none.
        repos: Of a pipeline: paths of repos.

    Raises:
        PipelineError: `unknown-graph`: there is neither; or the pipeline is wrong.
        SessionError: The session can't be read.
    """
    from orchestra.graph.outline import outline
    from orchestra.graph.project import find_project
    from orchestra.graph.resolve import load_and_resolve

    files, no_session = _find_session(target, cwd)
    try:
        project = find_project(cwd)
        path = project.find_pipeline(target, cwd)
    except PipelineError as error:
        if files is None:
            raise _neither(error, no_session) from None
        return _of_session(files, find_root(cwd), has_options=bool(provider or repos))
    resolved = load_and_resolve(path, project, provider=provider, repos=repos or {}, cwd=cwd)
    also = files.session_id if files else None
    return Found(picture=Picture(outline(resolved)), warnings=resolved.warnings, also_session=also)


def _find_session(target: str, cwd: Path) -> tuple[SessionFiles | None, SessionError | None]:
    from orchestra.runtime.store import find_session

    try:
        return find_session(find_root(cwd), target), None
    except SessionError as error:
        return None, error


def _of_session(files: SessionFiles, root: Path, *, has_options: bool) -> Found:
    from orchestra.runtime.route import read_outline, read_route

    if has_options:
        message = f"{files.session_id!r} is a session, which has its repos and its provider"
        raise PipelineError(message, code="bad-option", hint="leave `--repo` and `--provider` out")
    graph = read_outline(files, root)
    return Found(picture=Picture(graph, read_route(files, graph, root)))


def _neither(no_pipeline: PipelineError, no_session: SessionError | None) -> PipelineError | SessionError:
    """Return one error that says what was looked for as a pipeline and as a session."""
    if no_session is not None and no_session.code == "ambiguous-session":
        return no_session
    if no_pipeline.code != "unknown-pipeline" or no_session is None:
        return no_pipeline
    hints = [error.hint for error in (no_pipeline, no_session) if error.hint]
    near = [hint for hint in hints if hint.startswith("did you mean")]
    return PipelineError(
        f"{no_pipeline.message}\n{no_session.message}", code="unknown-graph", hint=" ".join(near) or hints[0]
    )
