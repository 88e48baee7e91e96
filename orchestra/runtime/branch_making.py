"""A branch of the user's at a session's result, in all repositories or in none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import RefUpdate
from orchestra.runtime.turns import check_branch_name, clashes
from orchestra.runtime.worktree import content_of, place_of_admin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
    if found_at := _unborn_at(repo, name):
        message = f"{found_at} is on the branch {name!r}, which has no commit yet: its HEAD would move"
        raise GitError(message, code="branch-exists", hint="give another name")
    if clashes(name.casefold(), {ref.removeprefix("refs/heads/").casefold() for ref in refs}):
        message = f"a branch {name!r} can't lie beside the branches of the repo {repo.name!r}"
        raise GitError(message, code="branch-clash", hint="give another name")
    return True


def _unborn_at(repo: Repository, name: str) -> Path | None:
    """Return the checkout whose HEAD names a branch that is not there; in a bare repository that says nothing."""
    places = {admin: place_of_admin(admin) for admin in (repo.common_dir / "worktrees").glob("*")}
    places |= {repo.common_dir: repo.common_dir.parent, repo.git_dir: repo.top}
    on_it = (place for admin, place in places.items() if content_of(admin / "HEAD") == f"ref: refs/heads/{name}")
    return next(filter(None, on_it), None)


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
