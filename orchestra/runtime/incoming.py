"""What a session's result would make of a checkout: worked out through a private index; only objects are written.

The checkout as it is (staged, unstaged and untracked work together) and the result are merged from the commit that
the session started from, which holds the work that was uncommitted then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestra.errors import Problem
from orchestra.runtime.merges import Conflict, merge_trees
from orchestra.runtime.notices import listed
from orchestra.runtime.objects import mend_objects
from orchestra.runtime.obstacles import adopt_equal
from orchestra.runtime.staging import seed_index, stage
from orchestra.runtime.tree_changes import Change, changes_between

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Repository

_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a session has for a repository."""

    session: str
    base: str
    """The commit that the session started from."""
    result: str
    """The commit of its result."""
    last: str | None = None
    """The result that was applied last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """What would change in a checkout."""

    repo: Repository
    index: Path
    """A private index that knows the files as they are."""
    outcome: Outcome
    before: str
    """A commit of the files as they are."""
    after: str
    """The tree of the files as they would be."""
    changes: tuple[Change, ...]


async def work_out(git: GitManager, repo: Repository, index: Path, outcome: Outcome) -> Incoming | Problem:
    """Merge the result into the files of a checkout, in objects only.

    Args:
        git: Starts git.
        repo: The user's repository, with a checkout.
        index: Where the private index is made.
        outcome: What the session has for it.

    Returns:
        What would change, or why that can't be told: the two conflict.
    """
    await seed_index(git, repo, index)
    mine = (await stage(git, repo, index)).tree
    base = await git.tree_of(repo, outcome.base)
    await mend_objects(git, repo, index, base, mine, session=outcome.session)
    merged = await _merge(git, repo, mine, outcome)
    if isinstance(merged, Conflict):
        return _conflict(repo, merged, outcome.session)
    changes = await changes_between(git, repo, mine, merged)
    if adopted := await adopt_equal(git, repo, index, changes):
        mine = adopted
        changes = await changes_between(git, repo, mine, merged)
    return Incoming(
        repo=repo,
        index=index,
        outcome=outcome,
        before=await _commit(git, repo, mine, outcome.base, outcome.session),
        after=merged,
        changes=changes,
    )


async def _merge(git: GitManager, repo: Repository, mine: str, outcome: Outcome) -> str | Conflict:
    """Merge from where the two parted: the start, or the result that is in the checkout already."""
    start = outcome.base
    if outcome.last not in (None, outcome.result) and await _has_all_of(git, repo, mine, outcome):
        start = outcome.last
    return await _three_way(git, repo, mine, start, outcome.result, outcome.session)


async def _has_all_of(git: GitManager, repo: Repository, mine: str, outcome: Outcome) -> bool:
    """Tell whether the checkout still has what was applied last: merging that again would change nothing."""
    last = outcome.last
    assert last is not None  # noqa: S101 - the caller has looked
    if not await git.exists(repo, [last]) or not await git.holds(repo, outcome.result, [last]):
        return False
    return await _three_way(git, repo, mine, outcome.base, last, outcome.session) == mine


async def _three_way(
    git: GitManager, repo: Repository, mine: str, start: str, theirs: str, session: str
) -> str | Conflict:
    if mine == await git.tree_of(repo, start):
        return await git.tree_of(repo, theirs)
    ours = await _commit(git, repo, mine, start, session)
    return await merge_trees(git, repo, ours, theirs, labels=("checkout", session), session=session)


async def _commit(git: GitManager, repo: Repository, tree: str, parent: str, session: str) -> str:
    message = f"The checkout before the result of the Orchestra session {session} was applied\n"
    return await git.commit_tree(repo, tree, [parent], message, author=None, date=datetime.now(UTC))


def _conflict(repo: Repository, conflict: Conflict, session: str) -> Problem:
    paths = listed([f"{one.path!r} ({one.kind})" for one in conflict.paths], _SHOWN)
    return Problem(
        "apply-conflict",
        f"the repo {repo.name!r}: your files and the session's result conflict in {paths}",
        hint=f"merge it with git: `orchestra apply {session} --repo {repo.name} --branch NAME`, then `git merge NAME`; "
        "or put your own changes aside first (`git stash -u`)",
    )
