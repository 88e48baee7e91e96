"""Where the files that a pipeline names are looked for.

Three levels, the first hit wins: the pipeline's directory, the search paths of the project, the user's directory.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from orchestra.errors import PipelineError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Kind = Literal["role", "persona", "personality", "task"]

FOLDERS: dict[Kind, str] = {
    "role": "roles",
    "persona": "personas",
    "personality": "personalities",
    "task": "tasks",
}


class FileDiscovery:
    """Finds prompts, conditions and scripts by name.

    Args:
        pipeline_dir: The directory of the pipeline file.
        search_paths: The `paths` of the project's `orchestra.yaml`.
        user_dir: The last level; `~/.orchestra` when None.
    """

    def __init__(self, pipeline_dir: Path, search_paths: Sequence[Path] = (), user_dir: Path | None = None) -> None:
        user_dir = Path("~/.orchestra").expanduser() if user_dir is None else user_dir
        levels = (pipeline_dir, *search_paths, user_dir)
        self._levels = tuple(dict.fromkeys(level.absolute() for level in levels))

    @property
    def levels(self) -> tuple[Path, ...]:
        """The directories that are searched, in order."""
        return self._levels

    def find(self, kind: Kind, name: str) -> Path:
        """Return the file of a prompt layer.

        Raises:
            PipelineError: `unknown-role` (or `-persona`, …) with every path tried, or `path-escapes`.
        """
        _refuse_escape(name)
        found, tried = self._search(f"prompts/{FOLDERS[kind]}/{name}.yaml", directory=False)
        if found:
            return found[0]
        raise PipelineError(
            f"there is no {kind} {name!r}{_listed(tried)}",
            code=f"unknown-{kind}",
            hint=self._hint(kind, name),
        )

    def find_file(self, relative: str) -> Path:
        """Return the file at a path relative to one of the levels.

        Raises:
            PipelineError: `file-not-found` with every path tried, or `path-escapes`.
        """
        found, tried = self._search(relative, directory=False)
        if found:
            return found[0]
        wanted = PurePosixPath(relative)
        siblings = {
            str(wanted.with_name(entry.name)) for level in self._levels for entry in _entries(level / wanted.parent)
        }
        raise PipelineError(
            f"there is no file {relative!r}{_listed(tried)}",
            code="file-not-found",
            hint=did_you_mean(relative, sorted(siblings)),
        )

    def find_dirs(self, relative: str) -> list[Path]:
        """Return that directory of each level that has it, the first level first.

        Raises:
            PipelineError: `path-escapes`.
        """
        return self._search(relative, directory=True)[0]

    def names(self, kind: Kind) -> list[str]:
        """Return the names of all prompt layers of a kind, sorted."""
        folders = [level / "prompts" / FOLDERS[kind] for level in self._levels]
        return sorted({entry.stem for folder in folders for entry in _entries(folder) if entry.suffix == ".yaml"})

    def _search(self, relative: str, *, directory: bool) -> tuple[list[Path], list[Path]]:
        """Return the hits and all paths tried."""
        _refuse_escape(relative)
        tried = [level / relative for level in self._levels]
        found = []
        for level, candidate in zip(self._levels, tried, strict=True):
            if _exists(candidate, directory=directory):
                _refuse_link_out(level, candidate)
                found.append(candidate)
        return found, tried

    def _hint(self, kind: Kind, name: str) -> str:
        names = self.names(kind)
        near = did_you_mean(name, names)
        if near:
            return near
        other = next((other for other in FOLDERS if other != kind and name in self.names(other)), None)
        if other:
            return f"{name!r} is a {other}: write `{other}: {name}`"
        known = f"; there are {', '.join(names[:10])}" if names else ""
        return f"write it as prompts/{FOLDERS[kind]}/{name}.yaml beside the pipeline{known}"


def _listed(tried: Iterable[Path]) -> str:
    return "".join(f"\n  tried {path}" for path in tried)


def _refuse_escape(relative: str) -> None:
    path = PurePosixPath(relative)
    if not relative or "\0" in relative or path.is_absolute() or ".." in path.parts or relative.startswith("~"):
        raise PipelineError(
            f"{relative!r} leads out of the directories that are searched",
            code="path-escapes",
            hint="use a path relative to the pipeline file's directory, without '..'; "
            "other directories go under `paths:` of orchestra.yaml",
        )


def _refuse_link_out(level: Path, candidate: Path) -> None:
    target = candidate.resolve()
    if not target.is_relative_to(level.resolve()):
        raise PipelineError(
            f"{candidate} is a link that leads out of {level}, to {target}",
            code="path-escapes",
            hint="copy the file, or name its directory under `paths:` of orchestra.yaml",
        )


def _exists(path: Path, *, directory: bool) -> bool:
    try:
        return path.is_dir() if directory else path.is_file()
    except OSError:  # a name too long, a directory that may not be read
        return False


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
