"""`local:get-git-diff`: the change under review, as it was when the session started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestra.tools.base import RepoContext, Tool, ToolFailureError, ToolResult, succeeded
from orchestra.tools.builtins.changes import show_changes
from orchestra.tools.builtins.revisions import is_shallow, resolve
from orchestra.tools.builtins.schema import parameters, string

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.tools.base import ToolContext


def get_git_diff() -> Tool:
    """Make `local:get-git-diff`; the registry adds which repositories there are."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        here = await context.repo(args.get("repo") or context.repos[0])
        since = await _merge_base(here, args.get("base"))
        path = args.get("path")
        text = await show_changes(here, ("diff", since, here.base), path)
        if text:
            return succeeded(f"the change from {since[:10]} to {here.base[:10]}\n{text}")
        if path is not None:
            return succeeded(f"the change under review does not touch {path!r}")
        return succeeded(
            "there is no change to review: the checkout stands on the default branch and has no uncommitted work; "
            "pass `base` (a commit, branch or tag) to compare with something else"
            if since == here.base
            else f"no file differs between {since[:10]} and {here.base[:10]}"
        )

    return Tool(
        name="local:get-git-diff",
        description=(
            "Show the change under review: what the user's checkout, committed and uncommitted, adds to the default "
            "branch, or to `base`."
        ),
        parameters=parameters(
            repo=string("The repository.", optional=True),
            base=string("Compare with the point where the work left this branch, tag or commit.", optional=True),
            path=string("Only this file or directory. Default: everything.", optional=True),
        ),
        run=run,
    )


async def _merge_base(repo: RepoContext, base: str | None) -> str:
    if base is None:
        if repo.merge_base is not None:
            return repo.merge_base
        cause = "no default branch (origin/HEAD, main or master) from which this work starts is known"
        raise ToolFailureError(f"{cause} in repository {repo.name!r}; {await _fetch_advice(repo, 'main')}")
    commit = await resolve(repo, base)
    result = await repo.git("merge-base", commit, repo.base, ok=(0, 1))
    found = result.stdout.decode("ascii").split()
    if not found:
        raise ToolFailureError(
            f"{base!r} and the work under review have no common commit in repository {repo.name!r}; "
            f"{await _fetch_advice(repo, base)}"
        )
    return found[0]


async def _fetch_advice(repo: RepoContext, branch: str) -> str:
    if await is_shallow(repo):
        command = "git fetch --unshallow"
        return (
            f"the clone is shallow: the user can run `{command}` and start again, or pass `base` with a commit it has"
        )
    return f"the user can run `git fetch origin {branch}` and start again, or pass `base` (a commit, branch or tag)"
