"""Where the repositories of a pipeline are: its own paths, `--repo NAME=PATH`, or the current directory's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import Problem, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from orchestra.documents import Document
    from orchestra.graph.schema import Pipeline, RepoSpec


class RepoPaths:
    """Finds the directories of a pipeline's repos.

    Args:
        pipeline: Declares the repos, relative to its file.
        document: The file.
        given: What `--repo NAME=PATH` set, relative to `cwd`.
        cwd: Where the implicit repo is looked for.
    """

    def __init__(self, pipeline: Pipeline, document: Document, given: Mapping[str, Path], cwd: Path) -> None:
        self._specs = pipeline.workspace.repos
        self._document = document
        self._given = given
        self._cwd = cwd
        self.found: dict[str, Path] = {}
        self.missing: list[Problem] = []
        """The implicit repo, where the current directory is in none: no fault of the file, but nothing can run."""

    def check(self, used: Collection[str]) -> Iterator[Problem]:
        """Find every repo, and yield what is wrong.

        Args:
            used: Repos that an agent or step uses; the implicit one may lack where nobody does.
        """
        known = ", ".join(self._specs)
        misspelt = [name for name in self._given if name not in self._specs]
        for name in misspelt:
            hint = did_you_mean(name, self._specs) or f"its repos: {known}"
            yield Problem("unknown-repo", f"the pipeline has no repo {name!r} (`--repo`)", None, hint)
        for name, spec in self._specs.items():
            path = self._path(name, spec)
            if path is None and (name not in used or misspelt):
                continue
            if path is None:
                what = "is a bare repository, without files" if _is_bare(self._cwd) else "is not in a git repository"
                hint = f"run it inside a git repository, or name one: `--repo {name}=PATH`"
                self.missing.append(Problem("not-a-repository", f"{self._cwd} {what}", None, hint))
            elif not path.is_dir():
                place = None
                if name not in self._given:
                    place = self._document.locate("workspace", "repos", name, "path")
                hint = f"correct the path, or give another one: `--repo {name}=PATH`"
                what = f"is not at {path}" if not path.exists() else f"must be a directory: {path} is a file"
                yield Problem("repo-path-missing", f"the repo {name!r} {what}", place, hint)
            else:
                self.found[name] = path

    def _path(self, name: str, spec: RepoSpec) -> Path | None:
        if name in self._given:
            return (self._cwd / self._given[name].expanduser()).resolve()
        if spec.path is not None:
            return (self._document.path.parent / Path(spec.path).expanduser()).resolve()
        return next((above for above in (self._cwd, *self._cwd.parents) if (above / ".git").exists()), None)


def _is_bare(directory: Path) -> bool:
    return any((above / "HEAD").is_file() and (above / "objects").is_dir() for above in (directory, *directory.parents))
