"""A branch of the user's at a session's result, in all repositories or in none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import RefUpdate
from orchestra.runtime.turns import check_branch_name, clashes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.runtime.git import GitManager, Repository


async def plan_branch(git: GitManager, repo: Repository, name: str, commit: str) -> bool:
    """Tell whether a branch is to be made; False: it is there, at that commit.

    Raises:
        GitError: `bad-branch-name`, `branch-exists`, `branch-clash`.
    """
    try:
        await check_branch_name(git, repo, name)
    except GitError as error:
        error.hint = "give a name such as `review/3f`"
        raise
    refs = await git.refs(repo, "refs/heads")
    found = refs.get(f"refs/heads/{name}")
    if found is not None:
        if found == commit:
            return False
        message = f"the repo {repo.name!r} has a branch {name!r} already, at {found[:10]}"
        raise GitError(message, code="branch-exists", hint="give another name")
    if clashes(name.casefold(), {ref.removeprefix("refs/heads/").casefold() for ref in refs}):
        message = f"a branch {name!r} can't lie beside the branches of the repo {repo.name!r}"
        raise GitError(message, code="branch-clash", hint="give another name")
    return True


async def make_branches(git: GitManager, name: str, places: Mapping[str, tuple[Repository, str]]) -> None:
    """Make the branch in every repository; where one fails, those made before are removed again."""
    made: list[tuple[Repository, str]] = []
    ref = f"refs/heads/{name}"
    try:
        for repo, commit in places.values():
            await git.update_refs(repo, [RefUpdate(ref, commit, None)])
            made.append((repo, commit))
            failpoint("apply-branch-made")
    except BaseException:
        for repo, commit in made:
            await git.update_refs(repo, [RefUpdate(ref, None, commit)])
        raise
