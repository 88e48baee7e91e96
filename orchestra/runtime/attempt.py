"""One attempt of a turn in a session: its files, its calls, its questions, its events."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestra.agents.conversation import Changes, Since
from orchestra.errors import AgentError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.workspace import process_environment
from orchestra.tools.registry import RepoContext

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.agents.context import Snapshot, TurnFailed, TurnRequest
    from orchestra.agents.conversation import Question
    from orchestra.runtime.running import SessionRun
    from orchestra.runtime.stopping import TurnCalls
    from orchestra.runtime.turnfiles import TurnFiles


class SessionTurn:
    """One attempt of a turn in a session."""

    def __init__(self, run: SessionRun, request: TurnRequest, files: TurnFiles, calls: TurnCalls) -> None:
        self.agent = request.node
        self.number = request.number
        self.attempt = request.attempt
        self._run = run
        self._request = request
        self._files = files
        self._calls = calls
        self.call = calls.call

    @property
    def start(self) -> Snapshot:
        """The snapshot channel with which the turn's own checkpoints begin."""
        return self._files.start

    @property
    def repos(self) -> tuple[str, ...]:
        """The repos of the workspace."""
        return tuple(self._run.workspace.repos)

    async def repo(self, name: str) -> RepoContext:
        """Return a repo as this turn has it: its worktree, or the objects of the commit it started from.

        Raises:
            AgentError: There is no such repo.
        """
        known = self._run.workspace.repos
        if name not in known:
            raise AgentError(f"there is no repo {name!r}", code="unknown-repo", hint=f"repos: {', '.join(known)}")
        repo = known[name]
        tree = self._files.trees.get(name)
        paths = {other: tree.path for other, tree in self._files.trees.items()}
        return RepoContext(
            name=name,
            path=tree.path if tree else None,
            branch=repo.branch,
            head=self._files.base[name].commit,
            dirty=bool(tree) and self._files.is_changed(name),
            env=process_environment(paths),
            base=repo.base,
            merge_base=repo.merge_base,
            git=self._run.git.runner(tree or repo.repository),
            touched=partial(self._files.touched, name),
        )

    def emit(self, type: str, **payload: Any) -> None:  # noqa: A002 - the event's own word
        """Write an event of this turn."""
        self._run.log.emit(type, payload, node=self.agent, turn=self.number, attempt=self.attempt)

    async def after_tool(self) -> Snapshot:
        """Take a snapshot after a call that may have written."""
        failpoint("tool-ended")
        return await self._files.snapshot()

    async def is_heard(self, question: str) -> bool:
        """Tell whether a question has its answer already, or somebody is there who may give one."""
        with self._calls.person():
            return await self._run.questions.is_heard(question)

    async def ask(self, question: Question, decided: Mapping[str, Any] | None) -> str | None:
        """Have a person answer a question, for as long as somebody is there; the worktrees are theirs meanwhile."""
        since = await self._since(decided) if decided is not None else None
        question = replace(question, files=Changes(self._files.changes()), since=since)
        self._files.lend()
        with self._calls.person():
            answer = await self._run.questions.ask(question, self.emit)
        return None if answer is None else answer.text

    async def _since(self, decided: Mapping[str, Any]) -> Since:
        before, now = decided["commits"], self._files.commits()
        return Since(
            decision=decided["decision"],
            reason=decided["reason"],
            text=decided["text"],
            turns=await self._run.log.turns_since(self.agent, self.number - 1),
            files=Changes(
                {repo: (before[repo], now[repo]) for repo in now if before.get(repo, now[repo]) != now[repo]}
            ),
        )

    async def rewind(self, snapshot: Snapshot) -> Snapshot:
        """Put the files back to an earlier snapshot of the turn."""
        return await self._files.rewind(snapshot)

    def check_budget(self) -> None:
        """Check the session's limits before a model call."""
        self._run.check_budget()

    async def model_failed(self, error: TurnFailed) -> bool:
        """Count a turn whose model could not be had; True: call the model again."""
        return self._run.count(self._request, error) and error.retry != "never"

    async def finish(self, messages: Mapping[str, str]) -> Snapshot:
        """Commit what the turn changed."""
        return await self._files.commit(messages)
