"""From a pipeline file to a checked `Pipeline`; every problem of the file is reported at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestra.documents import Document, parse_document
from orchestra.errors import PipelineError, Problem, sort_problems
from orchestra.graph.reader import Reading, Wrong, read_fields
from orchestra.graph.rules import IMPLICIT_REPO, check_rules
from orchestra.graph.schema import Limits, Pipeline, Providers, RepoSpec, Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from orchestra.graph.project import Project


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline, the document it was read from, and what looks wrong in it without being so."""

    pipeline: Pipeline
    document: Document
    warnings: tuple[Problem, ...] = ()


_MISPLACED = {
    "default": "'default' belongs under `providers:`",
    "edges": "did you mean 'graph'?",
    "nodes": "did you mean 'agents'?",
    "repos": "'repos' is a key of `workspace:`; move it there",
    "tools": "shell tools belong under `workspace.tools`, tools for every agent under `context_tools`",
    "version": "a pipeline file has no version; remove it",
}


def load_pipeline(path: Path, *, project: Project | None = None, text: str | None = None) -> LoadedPipeline:
    """Read and check a pipeline file, as far as the file alone tells.

    Args:
        path: The file; its directory is where its relative paths start.
        project: Whose limits and providers are the defaults.
        text: Taken in place of the file's content.

    Raises:
        PipelineError: With every problem found, sorted by line.
    """
    pipeline, document, found = read_pipeline(path, project=project, text=text)
    if pipeline is None or any(problem.severity == "error" for problem in found):
        raise PipelineError.of(found)
    return LoadedPipeline(pipeline, document, tuple(found))


def read_pipeline(
    path: Path, *, project: Project | None = None, text: str | None = None
) -> tuple[Pipeline | None, Document, list[Problem]]:
    """Read a pipeline file and return what could be read of it, with every problem found.

    What is wrong is left out of the pipeline, so that the rest can still be looked at.
    """
    document, problems = parse_document(path, text)
    reading = Reading(document)
    reading.problems.extend(problems)
    pipeline = _read_pipeline(reading, project)
    return pipeline, document, sort_problems(reading.problems)


def _read_pipeline(reading: Reading, project: Project | None) -> Pipeline | None:
    values = read_fields(Pipeline, reading.cursor, extra=_MISPLACED)
    if isinstance(values, Wrong):
        return None
    providers: Providers = values.pop("providers", Providers())
    limits: dict[str, Any] = values.pop("limits", {})
    if project is not None:
        below = project.spec.providers
        if project.only_adds:
            below = Providers(None, {name: spec for name, spec in below.specs.items() if name not in providers.specs})
        providers = providers.over(below)
        limits = {**project.spec.limits, **limits}
    workspace: Workspace = values.pop("workspace", Workspace())
    if not workspace.repos:
        workspace = replace(workspace, repos={IMPLICIT_REPO: RepoSpec()})
    for key in ("name", "graph"):
        values.setdefault(key, "" if key == "name" else ())
    pipeline = Pipeline(
        **values,
        providers=providers.specs,
        default_provider=providers.default,
        workspace=workspace,
        limits=Limits(**limits),
    )
    check_rules(reading, pipeline, _builtin_tools)
    return pipeline


def _builtin_tools() -> Iterable[str]:
    from orchestra.tools.registry import tool_registry

    return {name.partition(":")[2] for name in tool_registry.toolset([IMPLICIT_REPO]).names()}
