"""The project around a pipeline: where it begins, its `orchestra.yaml`, and which pipelines have names."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestra.documents import Document, parse_document
from orchestra.errors import PipelineError, Problem, did_you_mean, sort_problems
from orchestra.graph.reader import Reading, Wrong, read_fields
from orchestra.graph.root import PROJECT_FILE, find_root
from orchestra.graph.rules import check_provider
from orchestra.graph.schema import ProjectSpec

if TYPE_CHECKING:
    from pathlib import Path

_YAML_SUFFIXES = (".yaml", ".yml")
_MAX_SHOWN = 200
"""Characters of a mistyped name in a message."""


@dataclass(frozen=True, slots=True)
class Project:
    """A directory that sessions belong to, with what its `orchestra.yaml` says."""

    root: Path
    spec: ProjectSpec = field(default_factory=ProjectSpec)
    document: Document | None = None
    """The `orchestra.yaml`; None where there is none."""
    only_adds: bool = False
    """Whether it may add providers, but neither change those of the pipeline nor bring files: see `for_shipped`."""

    def for_shipped(self) -> Project:
        """Return the project as a shipped pipeline sees it.

        Shipped pipelines are run on repositories of others. Their `orchestra.yaml` must not bring code into one, nor
        send a key of the user to another server.
        """
        return replace(self, only_adds=True)

    @property
    def search_paths(self) -> tuple[Path, ...]:
        """Where files are looked for after the pipeline's own directory, absolute."""
        if self.only_adds:
            return ()
        return tuple((self.root / path).resolve() for path in self.spec.paths)

    def find_pipeline(self, name_or_path: str, cwd: Path) -> Path:
        """Find a pipeline by the path of its file, its name in the project, or the name of a shipped one.

        Args:
            name_or_path: What the user typed; a slash or the ending .yaml means a path.
            cwd: Where relative paths start.

        Raises:
            PipelineError: `unknown-pipeline`, with what exists; `file-not-found`.
        """
        path = cwd / name_or_path
        if name_or_path and _is_file(path):
            return path.resolve()
        if "/" in name_or_path or name_or_path.endswith(_YAML_SUFFIXES) or name_or_path in {".", ".."}:
            raise PipelineError.of([_missing_file(name_or_path, path)])
        if name_or_path in self.spec.pipelines:
            return self._named(name_or_path)
        shipped = shipped_pipelines()
        if name_or_path in shipped:
            return shipped[name_or_path]
        raise PipelineError.of([self._unknown(name_or_path, cwd, shipped)])

    def _named(self, name: str) -> Path:
        path = (self.root / self.spec.pipelines[name]).resolve()
        if not path.is_file():
            place = None if self.document is None else self.document.locate("pipelines", name)
            message = f"the project's pipeline {name!r} has no file {path}"
            hint = _near_file(path) or f"correct the path, it is relative to {PROJECT_FILE}"
            raise PipelineError(message, code="file-not-found", hint=hint, location=place)
        return path

    def _unknown(self, name: str, cwd: Path, shipped: dict[str, Path]) -> Problem:
        files = sorted(
            path.name for path in _entries(cwd) if path.suffix in _YAML_SUFFIXES and path.name != PROJECT_FILE
        )
        names = [*self.spec.pipelines, *shipped]
        lines = [f"there is no pipeline {name[:_MAX_SHOWN]!r}"]
        if self.spec.pipelines:
            lines.append(f"in {self.root / PROJECT_FILE}: {', '.join(sorted(self.spec.pipelines))}")
        if shipped:
            lines.append(f"shipped with Orchestra: {', '.join(sorted(shipped))}")
        by_stem = {file.rpartition(".")[0]: file for file in files}
        hint = did_you_mean(name, names)
        inside = sorted(entry.name for entry in _entries(cwd / name) if entry.suffix in _YAML_SUFFIXES)
        if name and inside:
            hint = f"{name!r} is a directory; name a pipeline file in it: {name}/{inside[0]}"
        if name in by_stem:
            hint = f"did you mean the file {by_stem[name]!r}?"
        hint = hint or "name one of them, or the path of a pipeline file"
        return Problem("unknown-pipeline", "\n".join(lines), hint=hint)


def find_project(start: Path) -> Project:
    """Find the project that a directory belongs to, and read its `orchestra.yaml`.

    Raises:
        PipelineError: The `orchestra.yaml` is wrong.
    """
    root = find_root(start)
    return read_project(root) if (root / PROJECT_FILE).is_file() else Project(root)


def is_shipped(path: Path) -> bool:
    """Tell whether a file is one of the pipelines that come with Orchestra."""
    return path in shipped_pipelines().values()


def shipped_pipelines() -> dict[str, Path]:
    """Return the files of the pipelines that come with Orchestra, by name."""
    from pathlib import Path

    package = Path(__file__).resolve().parents[1]
    directory = package / "_pipelines"
    if not directory.is_dir():
        # A source checkout or an editable install; without the check it could be another package's directory.
        directory = package.parent / "pipelines"
        if not (package.parent / "pyproject.toml").is_file():
            return {}
    return {path.stem: path for path in sorted(_entries(directory)) if path.suffix == ".yaml"}


def read_project(root: Path) -> Project:
    """Read the `orchestra.yaml` of a directory, without looking further upwards.

    Raises:
        PipelineError: With every problem of the file.
    """
    document, problems = parse_document(root / PROJECT_FILE)
    reading = Reading(document)
    reading.problems.extend(problems)
    values = read_fields(ProjectSpec, reading.cursor)
    spec = ProjectSpec() if isinstance(values, Wrong) else ProjectSpec(**values)
    for name, provider in spec.providers.specs.items():
        check_provider(reading, name, provider)
    if reading.problems:
        raise PipelineError.of(sort_problems(reading.problems))
    return Project(root, spec, document)


def _missing_file(typed: str, path: Path) -> Problem:
    shown = typed if len(typed) <= _MAX_SHOWN else f"{typed[:_MAX_SHOWN]}…"
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it never raises
        files = sorted(entry.name for entry in _entries(path) if entry.suffix in _YAML_SUFFIXES)
        hint = f"name a pipeline file in it: {', '.join(files[:5])}" if files else "name a pipeline file in it"
        return Problem("file-not-found", f"{shown} is a directory", hint=hint)
    if os.path.exists(path):  # noqa: PTH110 - as above
        return Problem("file-not-found", f"{shown} is not a regular file", hint="write the pipeline into a file")
    hint = _near_file(path) or "check the path; a pipeline's name has no slash and no .yaml"
    return Problem("file-not-found", f"there is no file {shown}", hint=hint)


def _is_file(path: Path) -> bool:
    """Tell whether a path is a file; one that the system refuses, because it is too long for example, is none."""
    return os.path.isfile(path)  # noqa: PTH113 - unlike Path.is_file it never raises


def _near_file(path: Path) -> str | None:
    names = [entry.name for entry in _entries(path.parent)]
    same = [name for name in names if name in {path.name + suffix for suffix in _YAML_SUFFIXES}]
    return f"did you mean {same[0]!r}?" if same else did_you_mean(path.name[:_MAX_SHOWN], names)


def _entries(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.is_file()]
    except OSError:
        return []
