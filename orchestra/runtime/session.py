"""Sessions: started and resumed. Here graph and git meet; how a session is driven is in `drive`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestra.errors import OrchestraError, PipelineError, SessionBusyError, SessionError
from orchestra.graph.project import is_shipped
from orchestra.runtime.creation import nothing_started, session_in_the_making, sweep
from orchestra.runtime.database import create_database, open_database
from orchestra.runtime.drive import OpenSession, drive, look
from orchestra.runtime.driver_lock import DriverLock
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.frozen import freeze, resolve_frozen
from orchestra.runtime.git import GitManager
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.machine import faults_named
from orchestra.runtime.observability import ObservabilityLogger
from orchestra.runtime.removal import empty_trash
from orchestra.runtime.removal_mark import refuse_half_removed, unmark
from orchestra.runtime.replaying import forked, lay_out, session_worktrees
from orchestra.runtime.session_row import SessionRow
from orchestra.runtime.snapshots import remove_scratch
from orchestra.runtime.store import NOTHING_SPENT, SessionFiles, SessionRecord, Status, now, read_session, refuse_copy
from orchestra.runtime.telemetry.switches import TRACE_CONTEXT, carrier
from orchestra.runtime.workspace import Workspace, open_repositories
from orchestra.runtime.worktree import WorktreeManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from orchestra.graph.project import Project
    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.runtime.git import Repository
    from orchestra.runtime.notices import Notice
    from orchestra.runtime.observability import Event
    from orchestra.runtime.people import Channel
    from orchestra.runtime.replaying import Changes, Fork
    from orchestra.runtime.result import SessionResult

CANCEL_TIMEOUT = 15.0
"""Seconds that a driver has to stop in."""
ORPHAN_TIMEOUT = 30.0
"""Seconds that a resume waits for commands of a killed driver that still run."""


class SessionManager:
    """Starts and resumes the sessions of a project.

    Args:
        project: Where the sessions live.
        listener: Called with each event as it happens.
        channels: The ways to the people who may answer from this process; others answer by the session's inbox.
    """

    def __init__(
        self,
        project: Project,
        listener: Callable[[Event], None] | None = None,
        channels: Sequence[Channel] = (),
    ) -> None:
        self._project = project
        self._listener = listener
        self._channels = tuple(channels)

    async def start(
        self,
        pipeline: ResolvedPipeline,
        inputs: Mapping[str, Any],
        *,
        settings: Mapping[str, Any],
    ) -> SessionResult:
        """Make a session and drive it until it ends or waits; arguments and errors are those of `create`."""
        async with self._made(pipeline, inputs, settings) as session:
            failpoint("session-created")
            with faults_named(session.record.files.directory):
                return await drive(session, self._listener)

    async def create(
        self,
        pipeline: ResolvedPipeline,
        inputs: Mapping[str, Any],
        *,
        settings: Mapping[str, Any],
    ) -> SessionFiles:
        """Make a session that nobody drives yet: `resume` does.

        Args:
            pipeline: What to run.
            inputs: Checked and complete.
            settings: What the command line set and a resume must know again.

        Raises:
            PipelineError: Something is wrong; nothing was started.
            GitError: A repository can't be worked on; nothing was started.
        """
        async with self._made(pipeline, inputs, settings) as session:
            return session.record.files

    @asynccontextmanager
    async def _made(
        self, pipeline: ResolvedPipeline, inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> AsyncIterator[OpenSession]:
        """Make a session, and hold its lock while the body runs."""
        if pipeline.model_problems:
            raise PipelineError.of(pipeline.model_problems)
        for agent in pipeline.agents.values():
            pipeline.resolver.build(agent.model, agent=agent.name, turn=1)  # a wrong option shows only here
        reader = GitManager()
        with nothing_started():
            await reader.version()
            opened, notices = await open_repositories(reader, pipeline)
        with suppress(OSError):  # what a kill left can wait
            await sweep(self._project.root)
        async with session_in_the_making(self._project.root, pipeline.repo_paths.values()) as (files, lock):
            git = GitManager(lock_fds=[lock.fd], session=files.session_id)
            git.overrides = reader.overrides
            session = await self._make(pipeline, opened, notices, inputs, settings, files, git)
        try:
            yield session
        finally:
            lock.release()

    async def _make(
        self,
        pipeline: ResolvedPipeline,
        opened: Mapping[str, Repository],
        notices: Sequence[Notice],
        inputs: Mapping[str, Any],
        settings: Mapping[str, Any],
        files: SessionFiles,
        git: GitManager,
    ) -> OpenSession:
        """Copy the pipeline, fix the bases, write the database: then the session is there."""
        created_at = now()
        freeze(pipeline, self._project, files.pipeline)
        failpoint("pipeline-frozen")
        worktrees = WorktreeManager(git, files.session_id, files.copies)
        workspace, started = await Workspace.start(
            git, worktrees, pipeline, opened, session=files.session_id, created_at=created_at
        )
        copied = await workspace.take_copies(git, pipeline, files.copies)
        failpoint("session-prepared")
        record = SessionRecord(
            session_id=files.session_id,
            pipeline=pipeline.pipeline.name,
            status=Status.CREATED,
            created_at=created_at,
            updated_at=created_at,
            inputs=dict(inputs),
            workspace=workspace.as_json(),
            settings={
                **settings,
                "directory": str(files.directory.resolve()),
                "file": pipeline.document.path.name,
                "shipped": is_shipped(pipeline.document.path),
                "imports": str(pipeline.document.path.parent),
                TRACE_CONTEXT: carrier(),
                "notices": [notice.event for notice in (*notices, *started, *copied)],
            },
            usage=dict(NOTHING_SPENT),
            files=files,
        )
        await create_database(record)
        return OpenSession(pipeline, record, git, worktrees, workspace, self._channels)

    async def resume(self, files: SessionFiles) -> SessionResult:
        """Go on with a paused, failed or interrupted session; a completed one gives its result again.

        Raises:
            SessionBusyError: Another process drives it.
            SessionError: It can't be resumed.
        """
        lock = DriverLock(files)
        with faults_named(files.directory):
            await lock.acquire_after_orphans(ORPHAN_TIMEOUT)
            try:
                return await self._go_on(files, lock)
            finally:
                lock.release()

    async def replay(
        self, source: SessionFiles, checkpoint: Mapping[str, Any], changes: Changes, *, goes_on: bool = True
    ) -> SessionResult:
        """Make a session that leaves another one at a checkpoint, and drive it; the other one is only read.

        Args:
            source: The session that is left; it may be running.
            checkpoint: A row of `log --json`.
            changes: What is to be different.
            goes_on: Drive it; else it stands at the checkpoint, with its worktrees made, until somebody resumes it.

        Raises:
            PipelineError: What is to be different can't be; nothing was made.
            SessionError: The source can't be read.
            GitError: A repository or an object that the checkpoint names is not there.
        """
        async with forked(self._project, source, checkpoint, changes, goes_on=goes_on) as fork:
            try:
                with faults_named(fork.files.directory):
                    return await self._go_on_as(fork, goes_on=goes_on)
            except OrchestraError as error:
                error.session_id = error.session_id or fork.files.session_id
                raise

    async def _go_on_as(self, fork: Fork, *, goes_on: bool) -> SessionResult:
        if self._listener is not None:
            for event in fork.events:
                self._listener(event)
        session = await self._reopened(fork.files, read_session(fork.files), fork.lock, runs=goes_on)
        if goes_on:
            result = await drive(session, self._listener)
            trees = session_worktrees(session.worktrees, session.workspace)
        else:
            trees = await lay_out(session.worktrees, session.workspace, fork.about)
            result = await look(session)
        return replace(result, forked_from=fork.forked_from, worktrees=trees)

    async def cancel(self, files: SessionFiles) -> bool:
        """End a session for good, wherever it runs; its branches, commits and worktrees stay.

        Returns:
            False: it had been cancelled before.

        Raises:
            SessionError: `completed`: it has ended already.
            SessionBusyError: Whoever drives it does not stop.
        """
        before = read_session(files).status
        if before is Status.COMPLETED:
            raise _completed(files)
        Inbox(files).cancel()
        failpoint("cancellation-asked")
        lock = DriverLock(files)
        with faults_named(files.directory):
            try:
                await lock.acquire_from_driver(CANCEL_TIMEOUT)
            except SessionBusyError as error:
                error.hint = "it is cancelled as soon as that process stops or ends; no need to say it again"
                raise
            try:
                record = read_session(files)
                if record.status is Status.COMPLETED:
                    raise _completed(files)
                await _note_cancellation(files, record)
            finally:
                lock.release()
        return before is not Status.CANCELLED

    async def _go_on(self, files: SessionFiles, lock: DriverLock) -> SessionResult:
        record = read_session(files)
        if record.status is Status.CANCELLED or (Inbox(files).is_cancelled() and record.status is not Status.COMPLETED):
            await _note_cancellation(files, record)
            raise SessionError(
                f"the session {record.session_id} was cancelled", code="cancelled", hint="run the pipeline again"
            )
        session = await self._reopened(files, record, lock)
        return await drive(session, self._listener)

    async def _reopened(
        self, files: SessionFiles, record: SessionRecord, lock: DriverLock, *, runs: bool = True
    ) -> OpenSession:
        """Open a session whose lock is held, with its own copy of the pipeline."""
        refuse_copy(files, record, "resume")
        refuse_half_removed(files)
        unmark(files)  # its worktrees are made anew
        pipeline = resolve_frozen(files, self._project.root, record.settings)
        if pipeline.model_problems and runs and record.status is not Status.COMPLETED:
            raise PipelineError.of(pipeline.model_problems)
        git = GitManager(lock_fds=[lock.fd], session=record.session_id)
        workspace = await Workspace.reopen(git, record.workspace)
        worktrees = WorktreeManager(git, record.session_id, files.copies)
        for repo in workspace.repos.values():
            remove_scratch(repo.repository, record.session_id)
            await empty_trash(repo.repository, record.session_id)
        failpoint("session-reopened")
        return OpenSession(pipeline, record, git, worktrees, workspace, self._channels)


async def _note_cancellation(files: SessionFiles, record: SessionRecord) -> None:
    """Write that a session has been called off, where its driver has not."""
    if record.status is Status.CANCELLED:
        return
    async with open_database(files) as connection:
        lock = asyncio.Lock()
        log = ObservabilityLogger(connection, lock)
        await log.start()
        log.emit("session_cancelled")
        await log.stop()
        await SessionRow(connection, lock).set(Status.CANCELLED)


def _completed(files: SessionFiles) -> SessionError:
    error = SessionError(
        f"the session {files.session_id} has completed already",
        code="completed",
        hint=f"its result is still there: orchestra resume {files.session_id}",
    )
    error.exit_code = 2  # nothing was done
    return error
