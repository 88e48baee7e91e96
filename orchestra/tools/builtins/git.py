"""`git-diff`, `git-log`, `git-show` and `git-commit`: the history, and the agent's own change."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from orchestra.tools.base import Tool, ToolFailureError, ToolResult, succeeded
from orchestra.tools.builtins.changes import pathspec, show_changes
from orchestra.tools.builtins.read import show_file
from orchestra.tools.builtins.revisions import resolve
from orchestra.tools.builtins.schema import integer, parameters, string
from orchestra.tools.builtins.source import read_blob
from orchestra.tools.confinement import parse_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.tools.base import RepoContext, ToolContext

_REV = "A commit, branch, tag, or HEAD~2."
_ONLY = "Only this file or directory. Default: everything."
_LONGEST_MESSAGE = 10_000


def git_diff(repo: str) -> Tool:
    """Make `git-diff` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        here = await context.repo(repo)
        base, path = args.get("base"), args.get("path")
        since = here.base if base is None else await resolve(here, base)
        # Without a worktree the agent's files are the commit's; with one they are compared as they lie there.
        target = () if here.path is not None else (here.head,)
        text = await show_changes(here, ("diff", since, *target), path, untracked=here.path is not None)
        named = "the session's start" if base is None else repr(base)
        return succeeded(text or f"no change since {named} ({since[:10]}){_in(path)}")

    return Tool(
        name=f"{repo}:git-diff",
        description=(
            "Show what has changed in the files you see: since the start of the session, or since another revision. "
            "Files that git does not track yet are included."
        ),
        parameters=parameters(
            base=string(f"Compare with this revision. {_REV} Default: the session's start.", optional=True),
            path=string(_ONLY, optional=True),
        ),
        run=run,
        repo=repo,
    )


def git_log(repo: str) -> Tool:
    """Make `git-log` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        here = await context.repo(repo)
        limit, path = args.get("limit", 20), args.get("path")
        result = await here.git(
            "log", "--no-show-signature", "--no-color", "--no-decorate", "--no-notes", "--no-ext-diff", "--no-textconv",
            "--no-patch", "--date=short", "--format=%h %ad %an: %s", f"--max-count={limit + 1}", here.head,
            "--", *pathspec(here, path),
        )  # fmt: skip
        lines = result.stdout.decode("utf-8", "replace").splitlines()
        if not lines:
            return succeeded(f"no commit{_in(path)}")
        more = "\n… and older commits; raise the limit to see more" if len(lines) > limit else ""
        return succeeded("\n".join(lines[:limit]) + more)

    return Tool(
        name=f"{repo}:git-log",
        description="List commits, newest first: hash, date, author and subject.",
        parameters=parameters(
            limit=integer("The most commits to list. Default: 20.", optional=True, maximum=500),
            path=string("Only commits that changed this file or directory. Default: all.", optional=True),
        ),
        run=run,
        repo=repo,
    )


def git_show(repo: str) -> Tool:
    """Make `git-show` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        here = await context.repo(repo)
        return succeeded(await _show(here, args["rev"], args.get("path")))

    return Tool(
        name=f"{repo}:git-show",
        description=(
            "Show a commit: its message and its change. With `path`, the change of that file; if the commit did not "
            "change the file, the file as it was in that commit."
        ),
        parameters=parameters(rev=string(_REV), path=string(_ONLY, optional=True)),
        run=run,
        repo=repo,
    )


async def _show(repo: RepoContext, rev: str, path: str | None) -> str:
    commit = await resolve(repo, rev)
    head = await repo.git(
        "show", "--no-patch", "--no-show-signature", "--no-color", "--no-notes", "--no-ext-diff", "--no-textconv",
        "--date=iso", "--format=commit %H%nauthor %an%ndate %ad%n%n%B", commit, "--",
    )  # fmt: skip
    message = head.stdout.decode("utf-8", "replace").strip()[:4_000]
    # A merge is shown as what it brought in.
    command = ("show", "--no-show-signature", "--no-notes", "--format=", "--diff-merges=first-parent", commit)
    change = await show_changes(repo, command, path)
    if change or path is None:
        return f"{message}\n\n{change or 'the commit changes no file'}"
    parts = parse_path(path)
    try:
        text = show_file(path, await read_blob(repo, commit, parts))
    except ToolFailureError as failure:
        raise ToolFailureError(f"the commit did not change {path!r}, and {failure}") from None
    return f"{message}\n\nthe commit did not change {path}; this is the file in that commit:\n{text}"


def git_commit(repo: str) -> Tool:
    """Make `git-commit` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        del context  # the runtime takes the message of a turn's last call and makes the commit itself
        message = args["message"].strip()
        if not message or "\0" in message:
            raise ToolFailureError("the message is empty or holds a NUL character; say in one line what you changed")
        if len(message) > _LONGEST_MESSAGE:
            raise ToolFailureError(f"the message has {len(message):,} characters; use at most {_LONGEST_MESSAGE:,}")
        if re.search(r"(?im)^\s*orchestra-[a-z]+\s*:", message):
            raise ToolFailureError(
                "lines that begin with 'Orchestra-…:' are written by Orchestra alone; leave them out"
            )
        return succeeded("noted: this will be the message of this turn's commit, which is made when your turn ends")

    return Tool(
        name=f"{repo}:git-commit",
        description="Set the message of the commit that is made of your changes when your turn ends.",
        parameters=parameters(message=string("A short first line; then, after an empty line, why.")),
        run=run,
        repo=repo,
    )


def _in(path: str | None) -> str:
    return "" if path is None else f" in {path!r}"
