"""Sessions: started and resumed. Here graph and git meet; how a session is driven is in `drive`."""

from __future__ import annotations

import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchestra.errors import GitError, OrchestraError, PipelineError, SessionError
from orchestra.graph.loader import load_pipeline
from orchestra.graph.project import is_shipped
from orchestra.graph.resolve import resolve
from orchestra.runtime.database import create_database
from orchestra.runtime.drive import OpenSession, SessionResult, drive
from orchestra.runtime.driver_lock import DriverLock
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.frozen import freeze, thaw
from orchestra.runtime.git import GitManager
from orchestra.runtime.store import (
    STATE_DIRECTORY,
    SessionFiles,
    SessionRecord,
    Status,
    now,
    read_session,
    sessions_directory,
)
from orchestra.runtime.workspace import Workspace, open_repositories
from orchestra.runtime.worktree import WorktreeManager, ignore_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestra.graph.project import Project
    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.runtime.observability import Event

ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_LENGTH = 8
ORPHAN_TIMEOUT = 30.0
"""Seconds that a resume waits for commands of a killed driver that still run."""


class SessionManager:
    """Starts and resumes the sessions of a project.

    Args:
        project: Where the sessions live.
        listener: Called with each event as it happens.
    """

    def __init__(self, project: Project, listener: Callable[[Event], None] | None = None) -> None:
        self._project = project
        self._listener = listener

    async def start(
        self,
        pipeline: ResolvedPipeline,
        inputs: Mapping[str, Any],
        *,
        settings: Mapping[str, Any],
    ) -> SessionResult:
        """Start a session and drive it until it ends or waits.

        Args:
            pipeline: What to run.
            inputs: Checked and complete.
            settings: What the command line set and a resume must know again.

        Raises:
            PipelineError: Something is wrong; nothing was started.
            GitError: A repository can't be worked on; nothing was started.
        """
        if pipeline.model_problems:
            raise PipelineError.of(pipeline.model_problems)
        for agent in pipeline.agents.values():
            pipeline.resolver.build(agent.model, agent=agent.name, turn=1)  # a wrong option shows only here
        reader = GitManager()
        with _nothing_started():
            await reader.version()
            opened, notices = await open_repositories(reader, pipeline)
        files = self._new_directory()
        lock = DriverLock(files)
        lock.acquire()
        try:
            git = GitManager(lock_fds=[lock.fd])
            git.overrides = reader.overrides
            created_at = now()
            session_id = files.session_id
            async with _undone_on_failure(git, files) as undo:
                freeze(pipeline, self._project, files.pipeline)
                worktrees = WorktreeManager(git, session_id, files.copies)
                workspace, started = await Workspace.start(
                    git, worktrees, pipeline, opened, session=session_id, created_at=created_at
                )
                undo.workspace = workspace
                copied = await workspace.take_copies(git, pipeline, files.copies)
                failpoint("session-prepared")
                record = SessionRecord(
                    session_id=session_id,
                    pipeline=pipeline.pipeline.name,
                    status=Status.CREATED,
                    created_at=created_at,
                    updated_at=created_at,
                    inputs=dict(inputs),
                    workspace=workspace.as_json(),
                    settings={
                        **settings,
                        "file": pipeline.document.path.name,
                        "shipped": is_shipped(pipeline.document.path),
                        "imports": str(pipeline.document.path.parent),
                    },
                    usage={"input_tokens": 0, "output_tokens": 0, "model_calls": 0, "cost_usd": 0.0},
                    files=files,
                )
                await create_database(record)
            failpoint("session-created")
            session = OpenSession(pipeline, record, git, worktrees, workspace, (*notices, *started, *copied))
            return await drive(session, self._listener)
        finally:
            lock.release()

    async def resume(self, files: SessionFiles) -> SessionResult:
        """Go on with a paused, failed or interrupted session; a completed one gives its result again.

        Raises:
            SessionBusyError: Another process drives it.
            SessionError: It can't be resumed.
        """
        lock = DriverLock(files)
        await lock.acquire_after_orphans(ORPHAN_TIMEOUT)
        try:
            record = read_session(files)
            if record.status is Status.CANCELLED:
                raise SessionError(
                    f"the session {record.session_id} was cancelled", code="cancelled", hint="run the pipeline again"
                )
            frozen = thaw(files.pipeline, self._project.root, record.settings["file"])
            project = frozen.project.for_shipped() if record.settings["shipped"] else frozen.project
            pipeline = resolve(
                load_pipeline(frozen.file, project=project),
                project,
                provider=record.settings.get("provider"),
                imports=[Path(record.settings["imports"])],
                discovery=frozen.discovery,
            )
            if pipeline.model_problems and record.status is not Status.COMPLETED:
                raise PipelineError.of(pipeline.model_problems)
            git = GitManager(lock_fds=[lock.fd])
            workspace = await Workspace.reopen(git, record.workspace)
            worktrees = WorktreeManager(git, record.session_id, files.copies)
            return await drive(OpenSession(pipeline, record, git, worktrees, workspace), self._listener)
        finally:
            lock.release()

    def _new_directory(self) -> SessionFiles:
        """Make the directory of a new session; its name is the id, taken exclusively."""
        parent = self._sessions_directory()
        while True:
            session_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
            try:
                (parent / session_id).mkdir(mode=0o700)
            except FileExistsError:
                continue
            files = SessionFiles(parent / session_id)
            files.inbox.mkdir(mode=0o700)
            return files

    def _sessions_directory(self) -> Path:
        """Make the directory of the sessions; one that is a link may lead anywhere and is refused."""
        own, parent = self._project.root / STATE_DIRECTORY, sessions_directory(self._project.root)
        for directory in (own, parent):
            if directory.is_symlink():
                raise _unusable(directory, "it is a link, and sessions must not lie elsewhere", f"rm '{directory}'")
            try:
                directory.mkdir(mode=0o700, exist_ok=True)
                if directory == own:
                    ignore_all(own)
            except FileExistsError:
                raise _unusable(directory, "it is a file", f"mv '{directory}' '{directory}.old'") from None
            except OSError as error:
                message = error.strerror or str(error)
                raise _unusable(directory, message, "run it where you may write, or name a project: -C DIR") from error
        return parent


def _unusable(directory: Path, reason: str, hint: str) -> SessionError:
    error = SessionError(
        f"sessions can't be kept in {directory}: {reason}", code="sessions-directory-unusable", hint=hint
    )
    error.exit_code = 2  # nothing was started
    return error


@contextmanager
def _nothing_started() -> Iterator[None]:
    try:
        yield
    except OrchestraError as error:
        error.exit_code = 2
        raise


class _undone_on_failure:  # noqa: N801 - named for what holds inside
    """Undo what was prepared when the body fails: a session that could not start leaves nothing."""

    def __init__(self, git: GitManager, files: SessionFiles) -> None:
        self._git = git
        self._files = files
        self.workspace: Workspace | None = None
        """Its bases are let go; before it is known, whoever fixes them does that."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, OrchestraError):
            error.exit_code = 2
        if kind is None:
            return
        shutil.rmtree(self._files.directory, ignore_errors=True)
        if self.workspace is not None:
            with suppress(GitError):  # what went wrong first is what to say
                await self.workspace.undo_start(self._git, self._files.session_id)
