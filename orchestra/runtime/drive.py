"""One process's drive of a session, from its last checkpoint until it ends, waits or is interrupted."""

from __future__ import annotations

import asyncio
import sqlite3
import traceback
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestra.agents.context import SESSION_SLOT
from orchestra.errors import OrchestraError, SessionError
from orchestra.graph.compiler import GraphCompiler, entries
from orchestra.graph.nodes import GraphContext
from orchestra.graph.outline import outline
from orchestra.runtime.branches import BranchFollower, branch_positions
from orchestra.runtime.changes import describe
from orchestra.runtime.checkpoints import OrchestraSaver
from orchestra.runtime.database import open_database
from orchestra.runtime.ending import leave_on_branches, merge_at_end
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.joining import Joiner
from orchestra.runtime.machine import database_error, machine_error, resumable
from orchestra.runtime.observability import ObservabilityLogger
from orchestra.runtime.people import People
from orchestra.runtime.questions import Questions
from orchestra.runtime.remains import tell_remains
from orchestra.runtime.result import SessionResult, why_failed
from orchestra.runtime.running import SessionRun, timed_out
from orchestra.runtime.session_row import SessionRow
from orchestra.runtime.setup import Setup
from orchestra.runtime.slotfiles import SlotFiles
from orchestra.runtime.snapshots import WorkspaceSnapshotIndex
from orchestra.runtime.standing import Standing
from orchestra.runtime.stopping import Countdown, StopGate, finish, forget_cancellation, in_full
from orchestra.runtime.store import SessionRecord, Status, read_session
from orchestra.runtime.telemetry.traced import traced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiosqlite
    from langchain_core.runnables import RunnableConfig

    from orchestra.agents.context import Snapshot, TurnRequest
    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.runtime.git import GitManager
    from orchestra.runtime.observability import Event
    from orchestra.runtime.people import Channel
    from orchestra.runtime.workspace import Workspace
    from orchestra.runtime.worktree import WorktreeManager


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session whose lock is held and whose repositories are at hand."""

    pipeline: ResolvedPipeline
    record: SessionRecord
    git: GitManager
    worktrees: WorktreeManager
    workspace: Workspace
    channels: tuple[Channel, ...] = ()
    """The ways to the people who may answer from this process."""


async def drive(session: OpenSession, listener: Callable[[Event], None] | None) -> SessionResult:
    """Drive a session until it ends, waits or is interrupted.

    Cancel the task to interrupt it: calls in flight may end within 3 seconds, then the result is returned. A second
    cancellation cuts them off at once, a third one does not wait for their clean-up.

    Args:
        session: What to drive.
        listener: Called with each event as it happens.
    """
    return await _driven(session, listener, goes_on=True)


async def look(session: OpenSession) -> SessionResult:
    """Return how a session stands that is not to go on yet; its branches are brought to its last checkpoint."""
    return await _driven(session, None, goes_on=False)


async def _driven(session: OpenSession, listener: Callable[[Event], None] | None, *, goes_on: bool) -> SessionResult:
    files = session.record.files
    try:
        async with open_database(files) as connection:
            return await _Drive(session, connection, listener).run(goes_on=goes_on)
    except sqlite3.Error as error:
        raise resumable(database_error(files.database, error), files.session_id) from error
    except asyncio.CancelledError:
        record = session.record
        if record.status is Status.COMPLETED:
            raise
        forget_cancellation()  # the graph has not run yet, or its result could not be read in time
        return SessionResult(replace(record, status=Status.INTERRUPTED))


class _Drive:
    def __init__(
        self, session: OpenSession, connection: aiosqlite.Connection, listener: Callable[[Event], None] | None
    ) -> None:
        self._pipeline = pipeline = session.pipeline
        self._record = session.record
        self._session = session.record.session_id
        self._git = session.git
        self._worktrees = session.worktrees
        self._workspace = workspace = session.workspace
        self._connection = connection
        self._saver = OrchestraSaver(
            connection,
            nodes=pipeline.topology.nodes,
            joins=pipeline.topology.joins,
            entries=entries(pipeline),
            base=workspace.bases,
            branches=pipeline.branches.by_name,
        )
        redact = pipeline.resolver.redact
        self._log = ObservabilityLogger(connection, self._saver.lock, listener, redact)
        self._row = SessionRow(connection, self._saver.lock, redact)
        self._compiler = GraphCompiler(pipeline)
        self._graph = self._compiler.compile(self._saver)
        self._standing = Standing(self._graph, self._saver, self._session, pipeline.branches.by_name)
        self._config: RunnableConfig = {"configurable": {"thread_id": self._session}}
        self._gate = StopGate()
        self._countdown = Countdown(pipeline.pipeline.limits.timeout)
        self._inbox = Inbox(session.record.files)
        people = People(self._inbox, session.channels, diff=partial(describe, session.git, workspace))
        self._questions = Questions(self._inbox, people, self._log, self._row, self._gate, self._countdown)
        self._interrupted = False

    async def run(self, *, goes_on: bool) -> SessionResult:
        await self._saver.prepare()
        index = WorkspaceSnapshotIndex(self._connection, self._saver.lock, self._session)
        await index.setup()
        await self._log.start()
        named = await self._standing.named_commits()
        untouched = self._saver.count <= (self._record.forked_from or {"seq": 0})["seq"]
        positions = await branch_positions(self._git, self._workspace, named, untouched=untouched)
        used = self._repos_with_worktrees()
        follower = BranchFollower(self._git, self._workspace, index, self._session, positions, used, self._log.emit)
        self._saver.after_put = follower.follow
        self._saver.before_put = self._log.flush
        try:
            if not goes_on:
                await self._follow(follower)
                self._interrupted = True
            elif self._record.status is not Status.COMPLETED:
                async with traced(self._record, self._pipeline, self._log):
                    await self._go_on(follower)
            else:
                await follower.locate(self._integrated(await self._root_snapshot()))
        finally:
            await self._log.stop()
        return await in_full(self._result(follower))

    async def _go_on(self, follower: BranchFollower) -> None:
        started = self._record.checkpoints == 0
        await self._row.set(Status.RUNNING)
        self._log.emit("session_started" if started else "session_resumed", self._what_runs())
        for kind, payload in self._record.settings.get("notices", ()) if started else ():
            self._log.emit(kind, payload)
        try:
            run = await self._session_run()
            run.files.let_go_first(await self._standing.interrupted_turns())
            await self._follow(follower)
            try:
                await self._invoke(run)
            finally:
                await in_full(run.retired())
            await in_full(self._settle(run))
        except OrchestraError as error:
            await self._fail({"code": error.code, "message": error.message, "hint": error.hint, "agent": None})
        except asyncio.CancelledError:
            # What is checkpointed stays, and the result says how to go on.
            forget_cancellation()
            if not await in_full(self._call_off()):
                self._interrupted = True
                self._log.emit("session_interrupted")
        except sqlite3.Error:
            raise  # nothing can be written about it
        except Exception as error:  # noqa: BLE001 - a session is never left as if it were running
            if named := machine_error(error, self._record.files.directory):
                await self._fail({"code": named.code, "message": named.message, "hint": named.hint, "agent": None})
                return
            self._log.emit("internal_error", {"traceback": "".join(traceback.format_exception(error))})
            await self._fail(
                {
                    "code": "internal-error",
                    "message": f"{type(error).__name__}: {error}",
                    "hint": f"the traceback is in `orchestra log {self._session} --events --json`",
                    "agent": None,
                }
            )

    async def _follow(self, follower: BranchFollower) -> None:
        if await self._standing.branches_may_follow():
            await follower.move(await self._checkpointed())

    def _setup_commands(self) -> dict[str, str]:
        return {name: repo.setup for name, repo in self._pipeline.pipeline.workspace.repos.items() if repo.setup}

    async def _session_run(self) -> SessionRun:
        """Return what the graph gets of the runtime, as of the session's last checkpoints."""
        files = SlotFiles(
            self._git,
            self._worktrees,
            self._workspace,
            await self._standing.newest_snapshot(),
            claims=self._pipeline.slots.claims({name: node.writes for name, node in self._pipeline.nodes.items()}),
            pipeline=self._pipeline.pipeline.name,
            session=self._session,
            prepare=Setup(self._git, self._setup_commands(), self._session).prepare,
            tell=self._tell,
        )
        return SessionRun(
            self._session,
            self._workspace,
            files,
            Joiner(self._git, self._worktrees, self._workspace, files, self._log, self._pipeline.topology.nodes),
            self._git,
            self._saver,
            self._log,
            self._pipeline.pipeline.limits,
            await self._standing.failed_attempts(),
            self._gate,
            await self._standing.begun_turns(),
            self._questions,
        )

    def _tell(self, kind: str, payload: dict[str, Any], turn: TurnRequest | None) -> None:
        if turn is None:
            self._log.emit(kind, payload)
        else:
            self._log.emit(kind, payload, node=turn.node, turn=turn.number, attempt=turn.attempt)

    async def _invoke(self, run: SessionRun) -> None:
        """Run the graph from where it stands."""
        state = self._input() if await self._is_new() else None
        config: RunnableConfig = {**self._config, "run_name": f"{self._record.pipeline} {self._session}"}
        work: asyncio.Future[Any] = asyncio.ensure_future(
            self._graph.ainvoke(state, config, context=GraphContext(run), durability="sync")
        )
        try:
            await finish(
                work, self._gate, countdown=self._countdown, tell=self._log.emit, called_off=self._inbox.cancelled()
            )
        except TimeoutError:
            raise timed_out(self._pipeline.pipeline.limits.timeout) from None
        await work

    def _what_runs(self) -> dict[str, Any]:
        """Name the pipeline and its file, since a project may shadow a shipped name, and outline its graph."""
        settings = self._record.settings
        return {
            "session_id": self._session,
            "pipeline": self._record.pipeline,
            "file": f"{settings['imports']}/{settings['file']}",
            "graph": outline(self._pipeline).as_json(),
        }

    def _input(self) -> dict[str, Any]:
        state = self._compiler.initial_state(
            self._record.inputs, session_id=self._session, created_at=self._record.created_at
        )
        base = {name: {"commit": commit, "n": 0} for name, commit in self._workspace.bases.items()}
        return {**state, "snapshot": {SESSION_SLOT: base}, "clock": self._record.created_at}

    async def _is_new(self) -> bool:
        return await self._saver.aget_tuple(self._config) is None

    async def _root_snapshot(self) -> Snapshot:
        """Return where every repo is: at the last checkpoint, with what finished after it."""
        return await self._saver.expected_snapshot(self._session, "") or {}

    async def _checkpointed(self) -> dict[str, str]:
        """Return the commits of the last checkpoint itself: branches follow checkpoints, not pending writes."""
        found = await self._saver.aget_tuple(self._config)
        return self._integrated((found.checkpoint["channel_values"].get("snapshot") or {}) if found else {})

    def _integrated(self, snapshot: Snapshot) -> dict[str, str]:
        held = snapshot.get(SESSION_SLOT, {})
        return {name: held[name]["commit"] if name in held else base for name, base in self._workspace.bases.items()}

    def _repos_with_worktrees(self) -> frozenset[str]:
        return frozenset(repo for node in self._pipeline.nodes.values() for repo in node.worktrees)

    async def _settle(self, run: SessionRun) -> None:
        """Read from the graph's state how the drive ended; failures come before questions."""
        state = await self._graph.aget_state(self._config)
        raised = [interrupt.value for interrupt in state.interrupts]
        failures = [value["failed"] for value in raised if "failed" in value]
        questions = [value["question"] for value in raised if "question" in value]
        if failures:
            most = self._pipeline.pipeline.limits.max_failures_per_session
            await self._fail(why_failed(failures, run.failures, most))
        elif questions:
            if not await self._call_off():
                self._log.emit("session_paused", questions[0])
                await self._log.flush()
                await self._row.set(Status.PAUSED, waiting_for=questions[0])
        elif state.next == () and state.tasks == ():
            await self._complete(run, state.values)
        else:
            raise SessionError(
                f"the graph stopped before its end, with {self._open(state.next) or 'unfinished tasks'} to do",
                code="stopped-early",
                hint="this is a bug of Orchestra; `orchestra resume` goes on",
            )

    async def _complete(self, run: SessionRun, state: dict[str, Any]) -> None:
        node = next(name for name in self._graph.nodes if not name.startswith("__"))
        update = partial(self._graph.aupdate_state, self._config, as_node=node)
        conflict = await merge_at_end(state, self._pipeline.topology.nodes, run, update)
        if conflict is not None:
            await self._fail(await leave_on_branches(self._git, self._workspace, conflict))
            return
        run.retire(self._pipeline.slots.of_branches())
        await run.retired()
        self._log.emit("session_completed")
        await self._log.flush()
        await self._row.set(Status.COMPLETED)

    async def _call_off(self) -> bool:
        """End a session for good that somebody has called off; tells whether that is so."""
        if not self._inbox.is_cancelled():
            return False
        self._log.emit("session_cancelled")
        await self._log.flush()
        await self._row.set(Status.CANCELLED)
        return True

    def _open(self, nodes: tuple[str, ...]) -> str:
        branches = self._pipeline.branches.by_name
        return ", ".join(branches[name].entry if name in branches else name for name in nodes)

    async def _fail(self, cause: dict[str, Any]) -> None:
        redact = self._pipeline.resolver.redact
        cause = {key: redact(text) if isinstance(text, str) else text for key, text in cause.items()}
        self._log.emit("session_failed", cause)
        await self._log.flush()
        await self._row.set(Status.FAILED, error=cause)

    async def _told(self, read: Callable[[], Awaitable[dict[str, Any]]], channel: str) -> dict[str, Any]:
        """Read a channel; where a reducer fails on what was written last, it is that of the last checkpoint."""
        try:
            return await read()
        except sqlite3.Error:
            raise
        except Exception:  # noqa: BLE001 - the user's reducers; how the session ended says so already
            found = await self._saver.aget_tuple(self._config)
            return dict(found.checkpoint["channel_values"].get(channel, {})) if found else {}

    async def _conflicts(self) -> list[dict[str, Any]]:
        """Return every conflict of the session, solved ones too, path by path."""
        found = await self._told(self._standing.conflicts, "_conflicts")
        return [
            {"repo": one["repo"], **path, "resolved_by": one["resolved_by"]}
            for _, one in sorted(found.items(), key=lambda item: int(item[0]))
            for path in one["paths"]
        ]

    async def _result(self, follower: BranchFollower) -> SessionResult:
        if not self._record.files.database.exists():  # nothing that was written since is there
            repos = [repo.repository for repo in self._workspace.repos.values()]
            raise await tell_remains(self._git, repos, self._record.files.directory.parents[2], self._session)
        commits = self._integrated(await self._root_snapshot())
        if any((await self._told(self._standing.merging, "_merging")).values()):
            commits |= follower.positions()
        topology = self._pipeline.topology
        record = read_session(self._record.files)
        return SessionResult(
            record=replace(record, status=Status.INTERRUPTED) if self._interrupted else record,
            agent_outputs=await self._told(self._standing.outputs, "agent_outputs"),
            branches=follower.branches(),
            commits=commits,
            conflicts=await self._conflicts(),
            final=tuple(name for name in topology.nodes if name in topology.exits),
            interactive=tuple(
                name for name, agent in self._pipeline.agents.items() if agent.spec.mode == "interactive"
            ),
        )
