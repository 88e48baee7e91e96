"""Revisions that a model wrote: data, never options; resolved to a commit before any other git command sees them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestra.errors import did_you_mean
from orchestra.tools.base import ToolFailureError

if TYPE_CHECKING:
    from orchestra.tools.base import RepoContext

_LONGEST = 250
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


async def resolve(repo: RepoContext, rev: str) -> str:
    """Return the commit that a revision names: a commit, branch, remote branch, tag, or `HEAD~2`.

    `HEAD` means the commit the agent's files stand on: the user's checkout is never looked at.
    """
    _check(rev)
    local = re.sub(r"^(HEAD|@)(?=$|[~^])", repo.head, rev)
    for candidate in (local, f"origin/{rev}"):
        result = await repo.git(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{candidate}^{{commit}}", ok=(0, 1, 128)
        )
        commit = result.stdout.decode("ascii", "replace").strip()
        if result.returncode == 0 and _COMMIT.fullmatch(commit):
            return commit
    raise ToolFailureError(f"there is no revision {rev!r} in repository {repo.name!r}; {await _advice(repo, rev)}")


async def is_shallow(repo: RepoContext) -> bool:
    """Whether the repository is a clone without its whole history, as CI makes them."""
    return (await repo.git("rev-parse", "--is-shallow-repository")).stdout.strip() == b"true"


def _check(rev: str) -> None:
    if not rev.strip():
        raise ToolFailureError("the revision is empty; name a commit, a branch, a tag or HEAD")
    if len(rev) > _LONGEST or not rev.isprintable():
        raise ToolFailureError("a revision is one short line of printable text: a commit, a branch, a tag or HEAD~2")
    if rev.startswith("-"):
        raise ToolFailureError(f"{rev!r} begins with '-', which no revision does; options are not accepted here")
    if "::" in rev:
        raise ToolFailureError(f"{rev!r} is an address, not a revision; nothing is fetched here")
    if ".." in rev:
        raise ToolFailureError(f"{rev!r} is a range; name one revision")
    if "@{" in rev:
        raise ToolFailureError(
            f"{rev!r} asks for the user's own history of this clone; name a commit, a branch or a tag"
        )
    if ":" in rev:
        raise ToolFailureError(f"{rev!r} names a file or a search; name the commit alone, and the file in `path`")


async def _advice(repo: RepoContext, rev: str) -> str:
    listing = await repo.git(
        "for-each-ref", "--count=2000", "--format=%(refname:short)", "refs/heads", "refs/remotes", "refs/tags"
    )
    known = listing.stdout.decode("utf-8", "replace").split("\n")
    near = did_you_mean(rev, [name for name in known if name])
    if near:
        return near
    if await is_shallow(repo):
        return "the clone is shallow: the user can run `git fetch --unshallow`"
    return f"the user can fetch it with `git fetch origin {rev}`; git-log shows what is here"
