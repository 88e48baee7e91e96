"""What a turn needs of the world around the graph: files, budget, the event log.

The runtime hands a `RunContext` to LangGraph as the run's context, so that neither `graph` nor `agents` knows about
git, SQLite or processes. A graph that a user embeds without one gets `Detached`: it runs, and tools that need files
say why they can't.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from orchestra.agents.meeting import Merged, Settled
from orchestra.errors import AgentError
from orchestra.tools.registry import RepoContext, ToolContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping
    from contextlib import AbstractAsyncContextManager

    from orchestra.agents.conversation import Question
    from orchestra.agents.meeting import MergeRequest, Record

Snapshot = dict[str, dict[str, dict[str, Any]]]
"""`{slot: {repo: {"commit": sha, "n": int}}}`; see DESIGN §5.3."""

SESSION_SLOT = "_session"
"""The slot of the integrated files, those of the session branch."""

Retry = Literal["continue", "restart", "mend", "never"]
"""How a failed turn may go on: from its last checkpoint, from its start, once a person has looked at what it left, or
not without the user."""


class TurnFailed(AgentError):  # noqa: N818 - DESIGN's word: a failed turn
    """A turn failed; `retry` says how it may go on.

    Args:
        message: What is wrong.
        code: Stable name of the cause.
        retry: `continue` from the last checkpoint inside the turn, `restart` from its start, `mend`: a `resume` looks
            first whether a person has mended it, and only then starts it anew; or `never`: trying again can't help
            before the user has changed something.
        hint: What to do.
    """

    def __init__(self, message: str, *, code: str, retry: Retry, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry: Retry = retry


def newest_snapshot(old: Snapshot | None, new: Snapshot | None) -> Snapshot:
    """Merge two snapshot channels: for each slot and repo the entry with the greater `n` wins (a reducer)."""
    merged: Snapshot = {slot: dict(repos) for slot, repos in (old or {}).items()}
    for slot, repos in (new or {}).items():
        kept = merged.setdefault(slot, {})
        for repo, entry in repos.items():
            if repo not in kept or entry["n"] >= kept[repo]["n"]:
                kept[repo] = entry
    return merged


class Turn(ToolContext, Protocol):
    """One attempt of one turn, as the agent inside it sees it."""

    agent: str
    """The agent or step whose turn this is."""
    number: int
    """1 for the agent's first turn."""
    attempt: int
    """1 for the first try of this turn."""

    @property
    def start(self) -> Snapshot:
        """The snapshot channel with which the turn's own checkpoints begin."""

    def emit(self, type: str, **payload: Any) -> None:  # noqa: A002 - the event's own word
        """Write an event with a JSON payload into the session's log."""

    def call(self, kind: Literal["model", "tool"], *, after: float = 0.0) -> AbstractAsyncContextManager[None]:
        """Hold a call while it is made; entering it waits where the session is to stop, so that no call begins.

        Args:
            kind: What is called.
            after: Seconds to wait before it, in which the session may be stopped, too.
        """

    async def after_tool(self) -> Snapshot:
        """Take a snapshot after a tool call that may have written; `{}` when nothing changed."""

    def check_budget(self) -> None:
        """Check the session's limits before a model call.

        Raises:
            AgentError: A limit is reached.
        """

    async def model_failed(self, error: TurnFailed) -> bool:
        """Count a turn whose model could not be had; True: call the model again, False: give up."""

    async def is_heard(self, question: str) -> bool:
        """Tell whether a question has its answer already, or somebody is there who may give one."""

    async def ask(self, question: Question, decided: Mapping[str, Any] | None) -> str | None:
        """Have a person answer a question, for as long as somebody is there.

        Args:
            question: What the agent has said; what has changed in the files is filled in.
            decided: What the person decided in the agent's turn before.

        Returns:
            The words of the person; None: nobody is there, or nobody any more. The same question has the same answer.
        """

    async def rewind(self, snapshot: Snapshot) -> Snapshot:
        """Put the files back to an earlier snapshot of the turn, and return the snapshot channel's update."""

    async def finish(self, messages: Mapping[str, str]) -> Snapshot:
        """Commit what the turn changed and return the snapshot channel's update.

        What was committed counts for later turns only once the turn is left without an error.

        Args:
            messages: Repo → the commit message that the agent asked for.
        """


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What the runtime must know to open a turn."""

    node: str
    """The agent's or step's name."""
    number: int
    attempt: int
    worktrees: tuple[str, ...]
    """Repos that need a worktree: something may write there, or runs a process."""
    writes: tuple[str, ...]
    """Those of the worktrees that the turn may change."""
    snapshot: Snapshot
    """The snapshot channel at the turn's start."""
    checkpoint_ns: str
    """The LangGraph namespace of the turn's own checkpoints."""
    started_at: str
    """ISO 8601 time from the state: the date of the turn's commit, the same on every resume."""
    slots: Mapping[str, str] = field(default_factory=dict)
    """Repo → the slot in which the node works; where it lacks, the session's own."""
    position: Mapping[str, str] = field(default_factory=dict)
    """Repo → the slot whose newest commit the turn begins on; where it lacks, the session's own."""
    conflict: Record | None = None
    """The conflict that the turn has to resolve."""

    def slot(self, repo: str) -> str:
        """Return the slot in which the node works in a repo."""
        return self.slots.get(repo, SESSION_SLOT)

    def begins_on(self, repo: str) -> str:
        """Return the slot whose newest commit the turn begins on in a repo."""
        return self.position.get(repo, SESSION_SLOT)


class RunContext(Protocol):
    """What the runtime gives to a running graph."""

    def turn(self, request: TurnRequest) -> AbstractAsyncContextManager[Turn]:
        """Open one attempt of a turn: its files are at hand until it is left."""

    def fault(self, error: Exception) -> TurnFailed | None:
        """Say what an error means that is the machine's doing, such as a full disk; None where it may be a bug.

        May raise the error itself, where the session can't go on at all.
        """

    def begin(self, turn: tuple[str, int], ended: set[tuple[str, int]], beside: Collection[str], *, most: int) -> bool:
        """Note that a turn begins; False: it must not, since so many others have begun in the session.

        Args:
            turn: The agent or step, and its turn.
            ended: The turns that have ended, as far as the state at hand knows.
            beside: Agents and steps that begin in the same step, before this one.
            most: How many turns a session may have.
        """

    async def failed(self, request: TurnRequest, error: TurnFailed) -> bool:
        """Count a failed attempt; True: the turn may start anew, False: the session stops."""

    async def merge(self, request: MergeRequest) -> Merged:
        """Bring the commits of several branches together, up to the first conflict; no worktree is touched.

        Raises:
            OrchestraError: Git could not do its part.
        """

    async def settle(self, record: Record, date: str) -> Settled:
        """Hand a conflict to a person, or take up what the person has resolved since."""

    def adopt(self, snapshot: Snapshot) -> None:
        """Note what a merge gave, now that the node which asked for it is sure to end."""

    def retire(self, slots: Mapping[str, Collection[str]]) -> None:
        """Remove the worktrees of branches that are merged: repo → slots."""

    def emit(self, type: str, **payload: Any) -> None:  # noqa: A002 - the event's own word
        """Write an event that belongs to no turn."""


class DetachedTurn:
    """A turn in a graph that runs without Orchestra's runtime: no files, no limits, no log."""

    def __init__(self, request: TurnRequest) -> None:
        self.agent = request.node
        self.number = request.number
        self.attempt = request.attempt

    @property
    def start(self) -> Snapshot:
        """No files."""
        return {}

    @property
    def repos(self) -> tuple[str, ...]:
        """No repos."""
        return ()

    async def repo(self, name: str) -> RepoContext:
        """Refuse: there is no workspace.

        Raises:
            AgentError: Always.
        """
        raise AgentError(
            f"the repo {name!r} is not at hand: this graph runs without a workspace",
            code="no-workspace",
            hint="run the pipeline with `orchestra run`, or pass a run context when you invoke the graph",
        )

    def emit(self, type: str, **payload: Any) -> None:  # noqa: A002 - the event's own word
        """Drop the event."""

    @asynccontextmanager
    async def call(self, kind: Literal["model", "tool"], *, after: float = 0.0) -> AsyncIterator[None]:  # noqa: ARG002 - the protocol's argument
        """Let every call begin."""
        import asyncio  # takes long to load, and compiling needs only the names in this module

        await asyncio.sleep(after)
        yield

    async def after_tool(self) -> Snapshot:
        """Nothing can have changed."""
        return {}

    def check_budget(self) -> None:
        """There is no limit."""

    async def model_failed(self, error: TurnFailed) -> bool:  # noqa: ARG002 - the protocol's argument
        """Give up at once: the embedding program decides what to retry."""
        return False

    async def is_heard(self, question: str) -> bool:  # noqa: ARG002 - the protocol's argument
        """Nobody is there."""
        return False

    async def ask(self, question: Question, decided: Mapping[str, Any] | None) -> str | None:  # noqa: ARG002 - the protocol's arguments
        """Nobody is there: the embedding program answers the interrupt."""
        return None

    async def rewind(self, snapshot: Snapshot) -> Snapshot:  # noqa: ARG002 - the protocol's argument
        """There are no files."""
        return {}

    async def finish(self, messages: Mapping[str, str]) -> Snapshot:  # noqa: ARG002 - the protocol's argument
        """Nothing is to be committed."""
        return {}


class Detached:
    """The run context of a graph that is invoked without one."""

    @asynccontextmanager
    async def turn(self, request: TurnRequest) -> AsyncIterator[Turn]:
        """Open a turn without files."""
        yield DetachedTurn(request)

    def fault(self, error: Exception) -> TurnFailed | None:  # noqa: ARG002 - the protocol's argument
        """The embedding program sees the error itself."""
        return None

    def begin(self, turn: tuple[str, int], ended: set[tuple[str, int]], beside: Collection[str], *, most: int) -> bool:  # noqa: ARG002 - the protocol's arguments
        """Count what the state knows; of other branches it knows nothing."""
        return len(ended) + len(beside) < most

    async def failed(self, request: TurnRequest, error: TurnFailed) -> bool:  # noqa: ARG002 - the protocol's arguments
        """Give up at once."""
        return False

    async def merge(self, request: MergeRequest) -> Merged:  # noqa: ARG002 - the protocol's argument
        """There are no files."""
        return Merged({}, {})

    async def settle(self, record: Record, date: str) -> Settled:  # noqa: ARG002 - the protocol's arguments
        """There are no files, hence no conflict."""
        return Settled({})

    def adopt(self, snapshot: Snapshot) -> None:
        """There are no files."""

    def retire(self, slots: Mapping[str, Collection[str]]) -> None:
        """There are no files."""

    def emit(self, type: str, **payload: Any) -> None:  # noqa: A002 - the event's own word
        """Drop the event."""
