"""What the checks look at: the project, the pipeline, the repositories, the sessions; each found once, when asked for.

Nothing here runs code of the project: a pipeline's file is read, its conditions and tools are not imported.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import GitError, PipelineError, SessionError
from orchestra.graph.loader import read_pipeline
from orchestra.graph.project import Project, find_project, is_shipped
from orchestra.graph.repos import RepoPaths
from orchestra.graph.root import INTERNAL_DIRECTORY, find_root
from orchestra.graph.rules import IMPLICIT_REPO
from orchestra.runtime.git import GitManager, Repository
from orchestra.runtime.store import SessionFiles, SessionRecord, Status, read_session, session_ids, sessions_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from orchestra.documents import Document
    from orchestra.errors import Problem
    from orchestra.graph.schema import Pipeline

GIT_TIMEOUT = 20.0
"""Seconds; the doctor asks git small things only."""
RESUMABLE = (Status.INTERRUPTED, Status.PAUSED, Status.FAILED)
HERE = "the current directory"
_SHA = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True)
class PipelineFile:
    """A pipeline as far as its file alone tells."""

    name: str
    """What the user, or the project, calls it."""
    path: Path
    pipeline: Pipeline | None
    document: Document
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> list[Problem]:
        """What keeps it from running."""
        return [problem for problem in self.problems if problem.severity == "error"]


@dataclass(frozen=True, slots=True)
class KnownRepo:
    """A repository that the project works on, or one of its sessions does."""

    name: str
    source: str
    """Who knows it."""
    path: Path
    wanted: bool
    """A new session would start there; else only sessions of the past know it."""
    repository: Repository | None = None
    error: GitError | None = None
    """Why no session can start there."""


@dataclass(frozen=True, slots=True)
class SessionRepo:
    """A repository as the database of a session names it."""

    name: str
    path: Path
    base: str


@dataclass(slots=True)
class _Sessions:
    """What lies in the directory of the sessions."""

    readable: list[SessionRecord] = field(default_factory=list)
    unreadable: list[tuple[SessionFiles, SessionError]] = field(default_factory=list)
    without_database: list[SessionFiles] = field(default_factory=list)
    error: OSError | None = None


class Surroundings:
    """The place that is examined.

    Args:
        start: The directory that the user stands in.
        wanted: The pipeline that the user named: its file or its name.
    """

    def __init__(self, start: Path, wanted: str | None = None) -> None:
        self.cwd = start
        self.wanted = wanted
        self.git = GitManager(timeout=GIT_TIMEOUT)
        self._version: tuple[int, ...] | GitError | None = None
        self._repositories: list[KnownRepo] | None = None

    @cached_property
    def root(self) -> Path:
        """Where the project begins."""
        return find_root(self.cwd)

    @cached_property
    def start(self) -> Path:
        """Where the implicit repo is looked for; never inside what is Orchestra's own."""
        return self.root if INTERNAL_DIRECTORY in self.cwd.parts else self.cwd

    @cached_property
    def _project(self) -> tuple[Project, PipelineError | None]:
        try:
            return find_project(self.cwd), None
        except PipelineError as error:
            return Project(self.root), error

    @property
    def project(self) -> Project:
        """The project; without what its `orchestra.yaml` says where that is wrong."""
        return self._project[0]

    @property
    def project_error(self) -> PipelineError | None:
        """What is wrong with the `orchestra.yaml`."""
        return self._project[1]

    @cached_property
    def pipeline(self) -> PipelineFile | None:
        """The pipeline that the user named; None: none, or it can't be found (`pipeline_error`)."""
        return None if self.wanted is None or self.pipeline_error else self._found

    @cached_property
    def pipeline_error(self) -> PipelineError | None:
        """Why there is no such pipeline."""
        try:
            self._found  # noqa: B018 - looked for now
        except PipelineError as error:
            return error
        return None

    @cached_property
    def _found(self) -> PipelineFile | None:
        if self.wanted is None:
            return None
        return self._read(self.wanted, self.project.find_pipeline(self.wanted, self.cwd))

    @cached_property
    def named_pipelines(self) -> list[PipelineFile | PipelineError]:
        """The pipelines that the project's `orchestra.yaml` names."""
        found: list[PipelineFile | PipelineError] = []
        for name in self.project.spec.pipelines:
            try:
                found.append(self._read(name, self.project.find_pipeline(name, self.root / INTERNAL_DIRECTORY)))
            except PipelineError as error:
                found.append(error)
        return found

    def _read(self, name: str, path: Path) -> PipelineFile:
        project = self.project.for_shipped() if is_shipped(path) else self.project
        pipeline, document, problems = read_pipeline(path, project=project)
        return PipelineFile(name, path, pipeline, document, tuple(problems))

    @cached_property
    def _sessions(self) -> _Sessions:
        directory = sessions_directory(self.root)
        found = _Sessions()
        try:
            ids = session_ids(self.root)
            # What looks like a repository there keeps `git clean` away.
            others = {entry.name for entry in directory.glob("*")} - {*ids, ".git"}
            entries = [directory / name for name in sorted(others)]
            halves = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
        except OSError as error:
            found.error = error
            return found
        found.without_database = [SessionFiles(entry) for entry in halves]
        for session in ids:
            files = SessionFiles(directory / session)
            try:
                found.readable.append(read_session(files))
            except SessionError as error:
                found.unreadable.append((files, error))
        found.readable.sort(key=lambda record: (record.created_at, record.session_id), reverse=True)
        return found

    @property
    def sessions(self) -> list[SessionRecord]:
        """The sessions of the project that can be read, newest first."""
        return self._sessions.readable

    @property
    def unreadable_sessions(self) -> list[tuple[SessionFiles, SessionError]]:
        """The others, each with what is wrong with it."""
        return self._sessions.unreadable

    @property
    def without_database(self) -> list[SessionFiles]:
        """Directories of sessions that have no database: one that is being made, or was killed meanwhile."""
        return self._sessions.without_database

    @property
    def sessions_error(self) -> OSError | None:
        """Why the sessions can't be listed."""
        return self._sessions.error

    @cached_property
    def session_ids(self) -> frozenset[str]:
        """The ids of all sessions that have a directory, readable or not."""
        return frozenset(entry.name for entry in sessions_directory(self.root).glob("*"))

    async def git_problem(self) -> GitError | None:
        """Return why git can't be used."""
        found = await self.git_version()
        return found if isinstance(found, GitError) else None

    async def git_version(self) -> tuple[int, ...] | GitError:
        """Return git's version, or why there is none that can be used."""
        if self._version is None:
            try:
                self._version = await self.git.version()
            except GitError as error:
                self._version = error
        return self._version

    async def repositories(self) -> list[KnownRepo]:
        """Return every repository that is known, each once; none where git can't be used."""
        if self._repositories is None:
            usable = await self.git_problem() is None
            self._repositories = [repo async for repo in self._open_all()] if usable else []
        return self._repositories

    async def _open_all(self) -> AsyncIterator[KnownRepo]:
        seen: set[Path] = set()
        for name, source, path, wanted in self._places():
            repo = await self._open(name, source, path, wanted=wanted)
            if source == HERE and repo.error is not None and "not a git repository" in repo.error.stderr:
                continue
            where = (repo.repository.top or repo.repository.git_dir) if repo.repository else path
            if where not in seen:
                seen.add(where)
                yield repo

    def _places(self) -> Iterator[tuple[str, str, Path, bool]]:
        """Yield where repositories are said to be: wanted ones first, so that they are judged."""
        for file in (self.pipeline, *self.named_pipelines):
            if isinstance(file, PipelineFile) and file.pipeline is not None:
                paths = RepoPaths(file.pipeline, file.document, {}, self.start)
                list(paths.check(file.pipeline.workspace.repos))
                for name, path in paths.found.items():
                    yield name, f"pipeline {file.name}", path, True
        yield IMPLICIT_REPO, HERE, self.start, True
        for record in self.sessions:
            for repo in session_repos(record):
                if os.path.exists(repo.path):  # noqa: PTH110 - unlike Path.exists it never raises
                    yield repo.name, f"session {record.session_id}", repo.path, False

    async def _open(self, name: str, source: str, path: Path, *, wanted: bool) -> KnownRepo:
        repository = None
        try:
            repository = await self.git.open(name, path, judge=False)
            if wanted:
                repository = await self.git.open(name, path)
        except GitError as error:
            return KnownRepo(name, source, path, wanted, repository, error)
        return KnownRepo(name, source, path, wanted, repository)


def session_repos(record: SessionRecord) -> list[SessionRepo]:
    """Return the repositories of a session; what makes no sense in its database is left out."""
    return [
        SessionRepo(name, Path(entry["path"]), entry["base"])
        for name, entry in record.workspace.items()
        if isinstance(entry, dict)
        and isinstance(entry.get("path"), str)
        and "\0" not in entry["path"]
        and isinstance(entry.get("base"), str)
        and _SHA.fullmatch(entry["base"])
    ]
