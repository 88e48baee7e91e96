"""`shell`: any command, for agents that list it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestra.tools.base import DEFAULT_TIMEOUT, Tool, ToolFailureError, ToolResult, worktree_of
from orchestra.tools.builtins.schema import integer, parameters, string

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.tools.base import ToolContext


def shell(repo: str) -> Tool:
    """Make `shell` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        from orchestra.tools.process import run_command

        command = args["command"]
        if not command.strip() or "\0" in command:
            raise ToolFailureError("the command is empty or holds a NUL character")
        here = await context.repo(repo)
        return await run_command(
            command, cwd=worktree_of(here), env=here.env, seconds=args.get("timeout", DEFAULT_TIMEOUT)
        )

    return Tool(
        name=f"{repo}:shell",
        description=(
            "Run a command with sh in the root of the repository. It has no standard input, and what it leaves running "
            "in the background is stopped when it ends."
        ),
        parameters=parameters(
            command=string("The command."),
            timeout=integer("Seconds after which it is stopped. Default: 600.", optional=True, maximum=3_600),
        ),
        run=run,
        writes=True,
        needs_worktree=True,
        repo=repo,
        timeout=None,
    )
