"""One process's drive of a session, from its last checkpoint until it ends, waits or is interrupted."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import aiosqlite

from orchestra.agents.context import SESSION_SLOT
from orchestra.errors import OrchestraError, SessionError
from orchestra.graph.compiler import GraphCompiler, entries
from orchestra.graph.lowering import GraphContext
from orchestra.runtime.checkpoints import OrchestraSaver
from orchestra.runtime.observability import ObservabilityLogger
from orchestra.runtime.running import BranchFollower, SessionRun
from orchestra.runtime.snapshots import WorkspaceSnapshotIndex
from orchestra.runtime.store import SessionFiles, SessionRecord, SessionRow, Status, read_session, schema
from orchestra.runtime.turnfiles import Held, IntegratedFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from langchain_core.runnables import RunnableConfig

    from orchestra.graph.resolve import ResolvedPipeline
    from orchestra.runtime.git import GitManager
    from orchestra.runtime.observability import Event
    from orchestra.runtime.workspace import Workspace
    from orchestra.runtime.worktree import WorktreeManager


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How driving a session ended."""

    record: SessionRecord
    agent_outputs: dict[str, Any] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    final: tuple[str, ...] = ()
    """The agents whose edges lead to END: their outputs are the result."""

    def as_json(self) -> dict[str, Any]:
        """Return the one JSON object of `run`, `resume` and their like (DESIGN §8)."""
        record = self.record
        error = record.error and {key: record.error.get(key) for key in ("code", "message", "agent")}
        return {
            "session_id": record.session_id,
            "status": str(record.status),
            "pipeline": record.pipeline,
            "agent_outputs": self.agent_outputs,
            "branches": self.branches,
            "commits": self.commits,
            "checkpoints": record.checkpoints,
            "usage": record.usage,
            "conflicts": [],
            "waiting_for": record.waiting_for,
            "error": error,
        }


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session whose lock is held and whose repositories are at hand."""

    pipeline: ResolvedPipeline
    record: SessionRecord
    git: GitManager
    worktrees: WorktreeManager
    workspace: Workspace
    notes: tuple[str, ...] = ()
    """What the user should know when it starts."""


async def drive(session: OpenSession, listener: Callable[[Event], None] | None) -> SessionResult:
    """Drive a session until it ends, waits or is interrupted.

    Args:
        session: What to drive.
        listener: Called with each event as it happens.
    """
    async with open_database(session.record.files) as connection:
        return await _Drive(session, connection, listener).run()


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
        self._notes = session.notes
        self._connection = connection
        self._saver = OrchestraSaver(
            connection,
            nodes=pipeline.topology.nodes,
            joins=pipeline.topology.joins,
            entries=entries(pipeline),
            base=workspace.bases,
        )
        self._log = ObservabilityLogger(connection, self._saver.lock, listener)
        self._row = SessionRow(connection, self._saver.lock)
        self._compiler = GraphCompiler(pipeline)
        self._graph = self._compiler.compile(self._saver)
        self._config: RunnableConfig = {"configurable": {"thread_id": self._session}}
        self._interrupted = False

    async def run(self) -> SessionResult:
        await self._saver.prepare(self._session)
        index = WorkspaceSnapshotIndex(self._connection, self._saver.lock, self._session)
        await index.setup()
        await self._log.start()
        follower = BranchFollower(self._git, self._workspace, index, self._session, await self._branch_positions())
        self._saver.after_put = follower.follow
        self._saver.before_put = self._log.flush
        held = await self._held()
        try:
            if self._record.status is not Status.COMPLETED:
                await self._go_on(held, follower)
            else:
                await follower.move({name: place.commit for name, place in held.items()})
        finally:
            await self._log.stop()
        return await self._result(follower)

    async def _go_on(self, held: dict[str, Held], follower: BranchFollower) -> None:
        files = IntegratedFiles(
            self._git,
            self._worktrees,
            self._workspace,
            held,
            pipeline=self._pipeline.pipeline.name,
            session=self._session,
            tell=lambda kind, payload, node: self._log.emit(kind, payload, node=node),
        )
        run = SessionRun(
            self._session,
            self._workspace,
            files,
            self._git,
            self._saver,
            self._log,
            self._pipeline.pipeline.limits,
            await self._known_failures(),
        )
        started = self._record.checkpoints == 0
        await self._row.set(Status.RUNNING)
        self._log.emit("session_started" if started else "session_resumed", {"pipeline": self._record.pipeline})
        for note in self._notes:
            self._log.emit("note", {"text": note})
        try:
            files.let_go_first(await self._interrupted_turns())
            await follower.move(await self._checkpointed(held))
            await self._graph.ainvoke(
                self._input() if await self._is_new() else None,
                self._config,
                context=GraphContext(run),
                durability="sync",
            )
            await self._settle(run)
        except OrchestraError as error:
            await self._fail({"code": error.code, "message": error.message, "hint": error.hint, "agent": None})
        except asyncio.CancelledError:
            # The first Ctrl-C or SIGTERM: what is checkpointed stays, and the result says how to go on.
            self._interrupted = True
            self._log.emit("session_interrupted")

    def _input(self) -> dict[str, Any]:
        state = self._compiler.initial_state(
            self._record.inputs, session_id=self._session, created_at=self._record.created_at
        )
        base = {name: {"commit": commit, "n": 0} for name, commit in self._workspace.bases.items()}
        return {**state, "snapshot": {SESSION_SLOT: base}, "clock": self._record.created_at}

    async def _is_new(self) -> bool:
        return await self._saver.aget_tuple(self._config) is None

    async def _held(self) -> dict[str, Held]:
        """Return where every repo is: at the last checkpoint, with what finished after it."""
        snapshot = await self._saver.expected_snapshot(self._session, "") or {}
        entries_held = snapshot.get(SESSION_SLOT, {})
        return {
            name: Held(entries_held[name]["commit"], entries_held[name]["n"]) if name in entries_held else Held(base, 0)
            for name, base in self._workspace.bases.items()
        }

    async def _checkpointed(self, held: Mapping[str, Held]) -> dict[str, str]:
        """Return the commits of the last checkpoint itself: branches follow checkpoints, not pending writes."""
        found = await self._saver.aget_tuple(self._config)
        snapshot = (found.checkpoint["channel_values"].get("snapshot") or {}) if found else {}
        entries_held = snapshot.get(SESSION_SLOT, {})
        return {
            name: entries_held[name]["commit"] if name in entries_held else self._workspace.repos[name].base
            for name in held
        }

    async def _branch_positions(self) -> dict[str, str]:
        """Return where each branch is, if one of the session's checkpoints put it there; else where it should be."""
        positions: dict[str, str] = {}
        async with self._saver.lock:
            rows = await self._connection.execute_fetchall(
                "SELECT metadata ->> '$.orchestra.repos' FROM checkpoints WHERE checkpoint_ns = '' ORDER BY rowid"
            )
        for name, repo in self._workspace.repos.items():
            if repo.branch is None:
                continue
            known = {repo.base, *(json.loads(row[0]).get(name) for row in rows if row[0])}
            found = await self._git.read_ref(repo.repository, f"refs/heads/{repo.branch}")
            positions[name] = found if found in known and found else repo.base
        return positions

    async def _interrupted_turns(self) -> list[str]:
        """Return the nodes that were in the middle of a turn which had changed files."""
        state = await self._graph.aget_state(self._config)
        async with self._saver.lock:
            rows = await self._connection.execute_fetchall(
                "SELECT DISTINCT checkpoint_ns FROM checkpoints WHERE checkpoint_ns != ''"
            )
        names = []
        for task in state.tasks:
            inside = [row[0] for row in rows if row[0].split("|")[0] == f"{task.name}:{task.id}"]
            for namespace in inside:
                snapshot = await self._saver.expected_snapshot(self._session, namespace) or {}
                if any("on" in entry for entry in snapshot.get(SESSION_SLOT, {}).values()):
                    names.append(task.name)
        return names

    async def _known_failures(self) -> frozenset[tuple[str, int, int]]:
        async with self._saver.lock:
            rows = await self._connection.execute_fetchall(
                "SELECT node, turn, attempt FROM events WHERE type = 'turn_failed'"
            )
        return frozenset((row[0], row[1], row[2]) for row in rows)

    async def _settle(self, run: SessionRun) -> None:
        """Read from the graph's state how the drive ended; failures come before questions."""
        state = await self._graph.aget_state(self._config)
        raised = [interrupt.value for interrupt in state.interrupts]
        failures = [value["failed"] for value in raised if "failed" in value]
        questions = [value["question"] for value in raised if "question" in value]
        if failures:
            await self._fail(_cause(failures, run.failures))
        elif questions:
            self._log.emit("session_paused", questions[0])
            await self._log.flush()
            await self._row.set(Status.PAUSED, waiting_for=questions[0])
        elif state.next == () and state.tasks == ():
            self._log.emit("session_completed")
            await self._log.flush()
            await self._row.set(Status.COMPLETED)
        else:
            raise SessionError(
                f"the graph stopped before its end, with {', '.join(state.next) or 'unfinished tasks'} to do",
                code="stopped-early",
                hint="this is a bug of Orchestra; `orchestra resume` goes on",
            )

    async def _fail(self, cause: dict[str, Any]) -> None:
        self._log.emit("session_failed", cause)
        await self._log.flush()
        await self._row.set(Status.FAILED, error=cause)

    async def _result(self, follower: BranchFollower) -> SessionResult:
        state = await self._graph.aget_state(self._config)
        held = await self._held()
        topology = self._pipeline.topology
        record = read_session(self._record.files)
        return SessionResult(
            record=replace(record, status=Status.INTERRUPTED) if self._interrupted else record,
            agent_outputs=dict(state.values.get("agent_outputs", {})),
            branches=follower.branches(),
            commits={name: place.commit for name, place in held.items()},
            final=tuple(name for name in topology.nodes if name in topology.exits),
        )


def _cause(failures: list[dict[str, Any]], counted: int) -> dict[str, Any]:
    """Return why a session failed: the one cause, or that turns failed too often."""
    last = failures[-1]
    if counted <= 1 or last["code"] in _LIMITS:
        return {key: last.get(key) for key in ("code", "message", "hint", "agent")}
    return {
        "code": "too-many-failures",
        "message": f"{counted} turns failed, as many as `limits.max_failures_per_session` allows; "
        f"the last one, of {last['agent']!r}: {last['message']} ({last['code']})",
        "hint": last.get("hint") or "`orchestra resume` tries again",
        "agent": last["agent"],
    }


_LIMITS = frozenset({"max-steps", "max-tokens", "max-cost", "timeout"})


@asynccontextmanager
async def open_database(
    files: SessionFiles, create: SessionRecord | None = None
) -> AsyncIterator[aiosqlite.Connection]:
    """Open a session's database as its one writer.

    Args:
        files: The session.
        create: The row of a new session.
    """
    if create is not None:
        files.database.touch(mode=0o600)
    connection = await aiosqlite.connect(files.database, timeout=30.0)
    try:
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = FULL")
        if create is not None:
            await connection.executescript(schema("session") + schema("events"))
            await SessionRow(connection, asyncio.Lock()).create(create)
        yield connection
    finally:
        await connection.close()
