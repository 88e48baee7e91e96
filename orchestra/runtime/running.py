"""The run context of a session: turns with files, budget and events; failed turns are counted."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from orchestra.agents.context import TurnFailed
from orchestra.errors import GitError, SessionError
from orchestra.runtime.attempt import SessionTurn
from orchestra.runtime.machine import CODES as MACHINE_CODES
from orchestra.runtime.machine import machine_error
from orchestra.runtime.telemetry.traced import turn_traced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from orchestra.agents.context import Retry, Snapshot, Turn, TurnRequest
    from orchestra.agents.meeting import Merged, MergeRequest, Record, Settled
    from orchestra.errors import OrchestraError
    from orchestra.graph.schema import Limits
    from orchestra.runtime.checkpoints import OrchestraSaver
    from orchestra.runtime.git import GitManager
    from orchestra.runtime.joining import Joiner
    from orchestra.runtime.observability import ObservabilityLogger
    from orchestra.runtime.questions import Questions
    from orchestra.runtime.slotfiles import SlotFiles
    from orchestra.runtime.stopping import StopGate
    from orchestra.runtime.workspace import Workspace


class SessionRun:
    """What a running graph gets of the runtime; made anew each time a session is driven.

    Args:
        session: The session's id.
        workspace: The repositories.
        files: Which commit each is at in each slot, and the worktrees.
        joiner: Merges what arrives at joins.
        git: Starts git.
        saver: Knows where interrupted turns stood.
        log: The event log.
        limits: Where the session stops by itself.
        known_failures: `(node, turn, attempt)` of attempts that failed when the session was driven before.
        gate: Where calls wait when the session is to stop.
        begun: `(node, turn)` of the turns that have begun, those that have ended among them.
        questions: Asks the people of the session.
    """

    def __init__(
        self,
        session: str,
        workspace: Workspace,
        files: SlotFiles,
        joiner: Joiner,
        git: GitManager,
        saver: OrchestraSaver,
        log: ObservabilityLogger,
        limits: Limits,
        known_failures: frozenset[tuple[str, int, int]],
        gate: StopGate,
        begun: frozenset[tuple[str, int]],
        questions: Questions,
    ) -> None:
        self.session = session
        self.workspace = workspace
        self.files = files
        self._joiner = joiner
        self._removals: set[asyncio.Task[None]] = set()
        self.git = git
        self.log = log
        self._saver = saver
        self._limits = limits
        self._known_failures = known_failures
        self._gate = gate
        self._begun = set(begun)
        self.questions = questions
        self._lasted: dict[tuple[str, int, int], float] = {}
        """Seconds of attempts that ended without a result, for the event that says why."""
        self.failures = 0
        """Failed turns since the session was last started or resumed."""

    def emit(self, type: str, **payload: Any) -> None:  # noqa: A002 - the event's own word
        """Write an event that belongs to no turn."""
        self.log.emit(type, payload, node=payload.get("agent"))

    def begin(self, turn: tuple[str, int], ended: set[tuple[str, int]], beside: Collection[str], *, most: int) -> bool:  # noqa: ARG002 - whoever is beside says so itself
        """Note that a turn begins; False: it must not, since so many others have begun in the session."""
        self._begun |= ended
        if len(self._begun - {turn}) >= most:
            self.files.let_pass(turn[0])
            return False
        self._begun.add(turn)
        return True

    @asynccontextmanager
    async def turn(self, request: TurnRequest) -> AsyncIterator[Turn]:
        """Open one attempt of a turn, from where it stood when it was interrupted.

        Raises:
            TurnFailed: Git could not do its part.
            SessionError: A limit is reached, and the turn has not begun.
        """
        from orchestra.agents.harness import turn_namespace

        namespace = turn_namespace(request.checkpoint_ns, request.attempt)
        try:
            await self._gate.passed()
            inner = await self._saver.expected_snapshot(self.session, namespace)
            if inner is None:
                self.check_budget()
            async with self.files.turn(request, inner) as files, self._gate.turn() as calls:
                turn = SessionTurn(self, request, files, calls)
                turn.emit("turn_started", resumed=inner is not None)
                started = time.monotonic()
                try:
                    with turn_traced(request.node, request.number, request.attempt):
                        yield turn
                finally:
                    duration = round(time.monotonic() - started, 3)
                    self._lasted[request.node, request.number, request.attempt] = duration
                turn.emit("turn_ended", duration_s=duration)
        except GitError as error:
            if error.code in MACHINE_CODES:
                raise self._stopped(error) from error
            # From its start on a conversation would be gone.
            retry: Retry = "continue" if self.questions.were_answered(request) else "restart"
            raise TurnFailed(error.message, code=error.code, retry=retry, hint=error.hint) from error
        finally:
            self.files.let_pass(request.node)

    async def merge(self, request: MergeRequest) -> Merged:
        """Bring the commits of several branches together, up to the first conflict."""
        try:
            await self._gate.passed()
            return await self._joiner.merge(request)
        except BaseException:
            self.files.let_pass(request.target)
            raise

    async def settle(self, record: Record, date: str) -> Settled:
        """Hand a conflict to a person, or take up what the person has resolved since."""
        try:
            await self._gate.passed()
            return await self._joiner.settle(record, date)
        finally:
            self.files.let_pass(record["target"])

    def adopt(self, snapshot: Snapshot) -> None:
        """Note what a merge gave, now that the node which asked for it is sure to end."""
        self.files.adopt(snapshot)

    def retire(self, slots: Mapping[str, Collection[str]]) -> None:
        """Remove the worktrees of branches that are merged, beside what runs next."""
        wanted = {repo: sorted(names) for repo, names in slots.items() if names}
        if wanted:
            task = asyncio.ensure_future(self._joiner.retire(wanted))
            self._removals.add(task)

    async def retired(self) -> None:
        """Wait until merged worktrees are removed; one that can't be is left, and said."""
        for result in await asyncio.gather(*self._removals, return_exceptions=True):
            if isinstance(result, BaseException):
                message = f"a worktree that is merged could not be removed: {result}"
                self.emit("warning", code="worktree-left", message=message)
        self._removals.clear()

    def fault(self, error: Exception) -> TurnFailed | None:
        """Say what an error means that is the machine's doing; None where it may be a bug."""
        if isinstance(error, sqlite3.Error):
            raise error  # nothing can be written about it either
        repos = [repo.repository.top for repo in self.workspace.repos.values()]
        named = machine_error(error, next(iter(repos), None))
        return self._stopped(named) if named else None

    def _stopped(self, error: OrchestraError) -> TurnFailed:
        self.files.fault = TurnFailed(error.message, code=error.code, retry="never", hint=error.hint)
        return self.files.fault

    async def failed(self, request: TurnRequest, error: TurnFailed) -> bool:
        """Count a failed attempt, unless it failed before and was only checked again."""
        if error.retry == "continue" or error.code in MACHINE_CODES:
            return False  # counted where the model failed; nobody can be blamed for the machine
        again = (request.node, request.number, request.attempt) in self._known_failures
        if error.retry == "never" or (error.retry == "mend" and not again):
            self.count(request, error)
            return False
        if again or error.code == "base-moved":
            return True
        return self.count(request, error)

    def count(self, request: TurnRequest, error: TurnFailed) -> bool:
        """Count a failed turn; True while the session may go on."""
        self.failures += 1
        left = self._limits.max_failures_per_session - self.failures
        details: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
        details["tries_left"] = max(left, 0)
        lasted = self._lasted.pop((request.node, request.number, request.attempt), None)
        if lasted is not None:
            details["duration_s"] = lasted
        self.log.emit("turn_failed", details, node=request.node, turn=request.number, attempt=request.attempt)
        return left > 0

    def check_budget(self) -> None:
        """Check what the session has spent against its limits.

        Raises:
            SessionError: `max-tokens` or `max-cost`.
        """
        limits, usage = self._limits, self.log.usage
        spent = usage.input_tokens + usage.output_tokens
        if limits.max_tokens is not None and spent >= limits.max_tokens:
            raise _limit("max-tokens", f"the session has used {spent:,} tokens of {limits.max_tokens:,}", "max_tokens")
        if limits.max_cost_usd is not None and usage.cost_usd >= limits.max_cost_usd:
            spent_usd = f"{usage.cost_usd:.2f} of {limits.max_cost_usd:.2f} US dollars"
            raise _limit("max-cost", f"the session has cost {spent_usd}", "max_cost_usd")


def timed_out(seconds: float | None) -> SessionError:
    """Say that a drive has had its time."""
    return _limit("timeout", f"the session has run for its {seconds or 0:g} seconds", "timeout")


def _limit(code: str, message: str, key: str) -> SessionError:
    return SessionError(
        f"{message} (`limits.{key}`)",
        code=code,
        hint=f"raise `limits.{key}` and run the pipeline again, or look with `orchestra log` where it went",
    )
