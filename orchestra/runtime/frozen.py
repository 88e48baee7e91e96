"""The pipeline as it was at a session's start: its file and all that it names, copied, so that edits change nothing.

The copy keeps the three levels of discovery apart, as `pipeline/0`, `pipeline/1`, …, each with the files of one level.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestra.errors import SessionError
from orchestra.graph.loader import load_pipeline
from orchestra.graph.project import Project, read_project
from orchestra.graph.resolve import resolve
from orchestra.graph.root import PROJECT_FILE
from orchestra.prompts.discovery import FileDiscovery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.graph.schema import Pipeline
    from orchestra.runtime.store import SessionFiles

MAX_BYTES = 1 << 20
"""Of one copied file; prompts and conditions are far smaller."""

MAX_SOURCES = 1000
"""Python files of one directory."""

MAX_SOURCE_BYTES = 32 << 20
MAX_DIRECTORIES = 1000
"""That are looked into for them."""


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


def resolve_frozen(
    files: SessionFiles,
    root: Path,
    settings: Mapping[str, Any],
    *,
    provider: str | None = None,
    models: Mapping[str, str] | None = None,
) -> ResolvedPipeline:
    """Return what a session runs: the pipeline as it was at its start.

    Args:
        files: The session's.
        root: The project that it belongs to.
        settings: Of its record.
        provider: Used in place of the session's own choice.
        models: Agent → model, beside those that the session has chosen.

    Raises:
        PipelineError: Something that it names is not there any more.
        SessionError: The copy is damaged.
    """
    frozen = thaw(files.pipeline, root, settings["file"])
    project = frozen.project.for_shipped() if settings["shipped"] else frozen.project
    return resolve(
        load_pipeline(frozen.file, project=project),
        project,
        provider=provider or settings.get("provider"),
        models={**settings.get("models", {}), **(models or {})},
        imports=[Path(settings["imports"])],
        discovery=frozen.discovery,
    )


def read_frozen(files: SessionFiles, root: Path, settings: Mapping[str, Any]) -> Pipeline:
    """Return the file of what a session runs; nothing that it names is looked at.

    Args:
        files: The session's.
        root: The project that it belongs to.
        settings: Of its record.

    Raises:
        PipelineError: It can't be read any more.
        SessionError: The copy is damaged.
    """
    frozen = thaw(files.pipeline, root, settings["file"])
    project = frozen.project.for_shipped() if settings["shipped"] else frozen.project
    return load_pipeline(frozen.file, project=project).pipeline


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
    """Yield the files of a level that the pipeline may use; the rest of it is nobody's business."""
    yield from (path for path in level.glob("prompts/*/*.yaml") if _is_small(path))
    for directory in ("tools", pipeline.pipeline.conditions):
        if (level / directory).is_dir():
            yield from _sources(level / directory)
    for spec in pipeline.pipeline.providers.values():
        # A script outside the levels, named by an absolute path, stays where it is.
        if spec.script is not None and (level / spec.script).is_file() and not spec.script.startswith("/"):
            script = level / spec.script
            if not _is_small(script):
                raise SessionError(f"{script} is larger than {MAX_BYTES} bytes", code="file-too-large")
            yield script


def _sources(directory: Path) -> Iterator[Path]:
    """Yield the Python files of a directory, then those of the packages below it that they may import.

    Breadth first, so that what a bound leaves out lies deep: a directory may hold far more than conditions. A package
    that is a link out of the directory is not followed.
    """
    root = directory.resolve()
    waiting, files, bytes_left = deque([directory]), 0, MAX_SOURCE_BYTES
    for _ in range(MAX_DIRECTORIES):
        if not waiting:
            return
        here = waiting.popleft()
        for path in _entries(here):
            if path.is_dir():
                if _is_package(path, root):
                    waiting.append(path)
            elif (
                path.suffix == ".py" and _is_small(path) and (here == directory or path.resolve().is_relative_to(root))
            ):
                files, bytes_left = files + 1, bytes_left - path.stat().st_size
                if files > MAX_SOURCES or bytes_left < 0:
                    return
                yield path


def _is_package(path: Path, root: Path) -> bool:
    """Return whether a directory may hold modules; a link back to where it lies would never end."""
    target = path.resolve()
    inside = target.is_relative_to(root) and not path.parent.resolve().is_relative_to(target)
    return inside and path.name.isidentifier() and path.name != "__pycache__"


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except PermissionError:
        return []


def _is_small(path: Path) -> bool:
    """Return whether it is a readable file that may be copied: no dangling link of an editor, no pipe, no data."""
    return path.is_file() and path.stat().st_size <= MAX_BYTES and os.access(path, os.R_OK)


def _copy(source: Path, target: Path) -> None:
    for parent in [above for above in reversed(target.parents) if not above.exists()]:
        parent.mkdir(mode=0o700)  # one by one: `parents=True` gives those on the way the umask's mode
    shutil.copyfile(source, target)
    target.chmod(0o600)


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
