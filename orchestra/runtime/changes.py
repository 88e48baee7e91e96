"""What has changed, told to a person who is asked: `/diff` (DESIGN §6)."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.tools.builtins.changes import SAFE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.agents.conversation import Changes, Question, Since
    from orchestra.runtime.git import GitManager
    from orchestra.runtime.workspace import Workspace


async def describe(git: GitManager, workspace: Workspace, question: Question) -> str:
    """Describe what an agent has changed, and in a later turn what is new since the person decided.

    Args:
        git: Starts git.
        workspace: The session's repositories.
        question: What the agent asks.
    """
    parts = [f"# What {question.agent} has changed in this turn", await _files(git, workspace, question.files)]
    since = question.since
    if since is not None:
        parts += [f"# What has changed since you decided ({since.decision})", await _files(git, workspace, since.files)]
        parts += [f"# What {question.agent} says, against what it said then", _words(since, question)]
    return "\n\n".join(parts) + "\n"


async def _files(git: GitManager, workspace: Workspace, changes: Changes) -> str:
    return "\n\n".join([await _patch(git, workspace, *change) for change in changes.repos.items()]) or "no file"


async def _patch(git: GitManager, workspace: Workspace, name: str, commits: tuple[str, str]) -> str:
    """Render the change of one repository: a list of its files, then the patches."""
    repository = workspace.repos[name].repository
    try:
        result = await git.run(repository, "diff", *SAFE, "--stat=100", "-p", *commits, "--")
    except GitError as error:
        return f"## {name}\n\n{error.message}"
    return f"## {name}: {commits[0][:10]}..{commits[1][:10]}\n\n{result.stdout.decode('utf-8', 'replace').rstrip()}"


def _words(since: Since, question: Question) -> str:
    old, new = since.text.splitlines(), question.text.splitlines()
    return "\n".join(_without_head(difflib.unified_diff(old, new, lineterm="", n=2))) or "the same"


def _without_head(lines: Iterable[str]) -> Iterable[str]:
    """Leave out the names of two files that are none."""
    return (line for number, line in enumerate(lines) if number > 1)
