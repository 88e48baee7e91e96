"""The project's file, and the pipelines that it names or the user asks for."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from orchestra.errors import PipelineError
from orchestra.graph.root import PROJECT_FILE
from orchestra.runtime.doctor.finding import Finding, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orchestra.errors import Problem
    from orchestra.runtime.doctor.surroundings import PipelineFile, Surroundings


async def check(here: Surroundings) -> AsyncIterator[Finding]:
    """Judge the `orchestra.yaml`, the pipelines in it, and the pipeline that the user asks for."""
    if here.project_error is not None:
        yield _broken("project", f"{here.root / PROJECT_FILE} is wrong", here.project_error.problems)
    else:
        file = PROJECT_FILE if here.project.document is not None else f"no {PROJECT_FILE}"
        yield Finding("project", State.OK, f"{here.root} ({file})", details={"root": str(here.root)})
    for found in here.named_pipelines:
        if isinstance(found, PipelineError):
            yield _broken("pipeline", "", found.problems)
        elif found.name != here.wanted and found.errors:
            yield _wrong(found, State.WARNING)
    if here.pipeline_error is not None:
        yield _broken("pipeline", "", here.pipeline_error.problems)
    elif here.pipeline is not None:
        yield _wrong(here.pipeline, State.ERROR) if here.pipeline.errors else _right(here.pipeline)


def _right(file: PipelineFile) -> Finding:
    message = f"{file.name}: the file {file.path} can be read (`orchestra compile` checks all that it names)"
    return Finding("pipeline", State.OK, message, details={"pipeline": file.name, "file": str(file.path)})


def _wrong(file: PipelineFile, status: State) -> Finding:
    first = file.errors[0]
    line = f", line {first.location.line}" if first.location else ""
    more = f" (and {len(file.errors) - 1} more)" if len(file.errors) > 1 else ""
    message = f"{file.name} can't run: {file.path}{line}: {first.message}{more}"
    details = {"pipeline": file.name, "file": str(file.path), "code": first.code}
    return Finding("pipeline", status, message, None, (f"orchestra compile {quote(file.name)}",), details)


def _broken(check: str, what: str, problems: Sequence[Problem]) -> Finding:
    first = problems[0]
    line = f", line {first.location.line}" if first.location else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    said = "; ".join(first.message.splitlines())
    message = f"{what}{line}: {said}{more}" if what else f"{said}{more}"
    fix = first.hint or "correct the file; this shows every problem: orchestra compile PIPELINE"
    return Finding(check, State.ERROR, message, fix, details={"code": first.code})
