"""The pipeline as it was at a session's start: its file and all that it names, copied, so that edits change nothing.

The copy keeps the three levels of discovery apart, as `pipeline/0`, `pipeline/1`, …, each with the files of one level.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.errors import SessionError
from orchestra.graph.project import Project, read_project
from orchestra.graph.root import PROJECT_FILE
from orchestra.prompts.discovery import FileDiscovery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestra.graph.resolved import ResolvedPipeline

MAX_BYTES = 1 << 20
"""Of one copied file; prompts and conditions are far smaller."""


@dataclass(frozen=True, slots=True)
class FrozenPipeline:
    """Where a session's copy lies."""

    file: Path
    project: Project
    discovery: FileDiscovery


def freeze(pipeline: ResolvedPipeline, project: Project, directory: Path) -> None:
    """Copy a pipeline and what it names into a session's directory.

    Args:
        pipeline: What is about to run.
        project: Its `orchestra.yaml` holds defaults.
        directory: Does not exist yet.
    """
    directory.mkdir(mode=0o700)
    if project.document is not None:
        _write(directory / PROJECT_FILE, project.document.text)
    for number, level in enumerate(pipeline.discovery.levels):
        target = directory / str(number)
        target.mkdir(mode=0o700)
        for path in _named(pipeline, level):
            _copy(path, target / path.relative_to(level))
    document = pipeline.document
    _write(directory / "0" / document.path.name, document.text)


def thaw(directory: Path, root: Path, name: str) -> FrozenPipeline:
    """Find a session's copy again.

    Args:
        directory: The copy.
        root: The project that the session belongs to.
        name: The pipeline file's name; a script may lie beside it.

    Raises:
        SessionError: It is not there.
    """
    file = directory / "0" / name
    if not file.is_file():
        raise SessionError(
            f"the session's copy of its pipeline in {directory} is damaged",
            code="session-damaged",
            hint="run the pipeline again; the session's branch and refs in your repositories are not affected",
        )
    project = read_project(directory) if (directory / PROJECT_FILE).is_file() else Project(root)
    first, *others = sorted((path for path in directory.iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
    *searched, user = others
    discovery = FileDiscovery(first, searched, user)
    return FrozenPipeline(file, Project(root, project.spec, project.document), discovery)


def _named(pipeline: ResolvedPipeline, level: Path) -> Iterator[Path]:
    """Yield the files of a level that the pipeline may use."""
    yield from level.glob("prompts/*/*.yaml")
    for directory in ("tools", pipeline.pipeline.conditions):
        if (level / directory).is_dir():
            yield from (level / directory).glob("*.py")
    for spec in pipeline.pipeline.providers.values():
        # A script outside the levels, named by an absolute path, stays where it is.
        if spec.script is not None and (level / spec.script).is_file() and not spec.script.startswith("/"):
            yield level / spec.script


def _copy(source: Path, target: Path) -> None:
    if source.stat().st_size > MAX_BYTES:
        raise SessionError(f"{source} is larger than {MAX_BYTES} bytes", code="file-too-large")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o600)


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
