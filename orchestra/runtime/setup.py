"""`setup`: a command that prepares each new worktree, once, before any agent works there.

A mark, made last, says that it has run to its end, so one that was killed or failed runs again. What it changed in
files that git does not ignore is no agent's work: they are put back to the commit, and a rescue keeps what lay there.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from orchestra.agents.context import TurnFailed
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.notices import listed
from orchestra.runtime.restore import restore
from orchestra.runtime.workspace import process_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestra.runtime.git import GitManager, Worktree
    from orchestra.tools.base import ToolResult

TIME_LIMIT = 1800.0
"""Seconds."""

_TAIL = 20
"""Lines of output that an error shows."""


class Setup:
    """Runs the setup commands of a session's repos.

    Args:
        git: Starts git.
        commands: By the name of the repo; none where a repo has none.
        session: The session's id.
    """

    def __init__(self, git: GitManager, commands: Mapping[str, str], session: str) -> None:
        self._git = git
        self._commands = commands
        self._session = session

    async def prepare(self, worktree: Worktree, commit: str, tell: Callable[[str, dict[str, Any]], None]) -> None:
        """Run the command of a worktree's repo, unless it has run there to its end.

        Args:
            worktree: Where.
            commit: What its files must be before and afterwards.
            tell: Logs an event.

        Raises:
            TurnFailed: `setup-failed`.
        """
        command = self._commands.get(worktree.repository.name)
        if command is None:
            return
        async with self._git.exclusive(worktree.setup_mark):
            if worktree.setup_mark.exists():
                return
            await self._put_back(worktree, commit, tell)  # what one that was killed or failed has left
            failpoint("setup-due")
            await self._run(command, worktree, tell)
            failpoint("setup-run")
            await self._put_back(worktree, commit, tell)
            worktree.setup_mark.touch()

    async def _run(self, command: str, worktree: Worktree, tell: Callable[[str, dict[str, Any]], None]) -> None:
        from orchestra.tools.process import run_command

        name = worktree.repository.name
        tell("setup_started", {"repo": name, "command": command})
        started = time.monotonic()
        environment = process_environment({name: worktree.path})
        result = await run_command(command, cwd=worktree.path, env=environment, seconds=TIME_LIMIT)
        duration = round(time.monotonic() - started, 3)
        tell("setup_ended", {"repo": name, "ok": result.ok, "exit_code": result.exit_code, "duration_s": duration})
        if not result.ok:
            raise TurnFailed(
                f"the setup of the repo {name!r} failed in {worktree.path}: `{command}`\n{_tail(result)}",
                code="setup-failed",
                retry="never",
                hint=f"mend what it needs, then `orchestra resume {self._session}`; try it: cd '{worktree.path}'",
            )

    async def _put_back(self, worktree: Worktree, commit: str, tell: Callable[[str, dict[str, Any]], None]) -> None:
        restored = await restore(self._git, worktree, commit, session=self._session)
        if not restored.changed or restored.rescue_ref is None:  # what lay there is a commit that is kept anyway
            return
        args = ("diff-tree", "-r", "-z", "--name-only", "--no-renames", commit, str(restored.rescue_ref))
        output = (await self._git.run(worktree, *args)).stdout
        names = [os.fsdecode(name) for name in output.split(b"\0") if name]
        name = worktree.repository.name
        message = (
            f"the setup of {name!r} changed files that git does not ignore, which is no agent's work; they were put "
            f"back, and {restored.rescue_ref} keeps the changes: {listed(names)}"
        )
        tell("warning", {"code": "setup-changed-files", "message": message})


def _tail(result: ToolResult) -> str:
    return "\n".join(result.content.splitlines()[-_TAIL:])
