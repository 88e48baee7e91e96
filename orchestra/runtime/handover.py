"""Conflicts in worktrees: laid out for an agent or a person, handed over, judged when they are done (DESIGN §5.9)."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from orchestra.agents.context import TurnFailed
from orchestra.runtime.conflicts import open_conflict, unresolved
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.merges import Conflict
from orchestra.runtime.notices import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from orchestra.agents.meeting import Record
    from orchestra.runtime.conflicts import Unresolved
    from orchestra.runtime.git import GitManager, Worktree


async def lay_out(git: GitManager, tree: Worktree, record: Record, unmerged: Collection[str] | None) -> None:
    """Make a worktree, whose files are those with the markers, look as a merge that git has stopped.

    Args:
        git: Starts git.
        tree: The worktree.
        record: The conflict.
        unmerged: The paths that are still to be resolved; None: all.
    """
    tree.handed_mark.unlink(missing_ok=True)
    await open_conflict(
        git,
        tree,
        ours=record["ours"],
        theirs=record["theirs"],
        conflict=Conflict.from_json(record["conflict"]),
        unmerged=unmerged,
    )
    failpoint("conflict-laid-out")


def hand_over(tree: Worktree, record: Record) -> None:
    """Note that a person may be at work in a worktree: from now on it is taken as found."""
    tree.handed_mark.write_text(f"{record['commit']}\n", encoding="ascii")


def is_handed_over(tree: Worktree, record: Record) -> bool:
    """Tell whether a worktree was handed to a person with this very conflict."""
    try:
        return tree.handed_mark.read_text(encoding="ascii").strip() == str(record["commit"])
    except (OSError, UnicodeDecodeError):
        return False


async def what_is_left(git: GitManager, tree: Worktree, record: Record, files: str) -> str:
    """Say what of a conflict is not resolved yet; empty: all is.

    Args:
        git: Starts git.
        tree: Where it is resolved.
        record: The conflict.
        files: The tree that the worktree's files are.
    """
    left = await unresolved(git, tree, Conflict.from_json(record["conflict"]), files)
    return _described(record, left) if left else ""


async def refuse_unresolved(git: GitManager, tree: Worktree, record: Record, files: str, *, agent: str) -> None:
    """Refuse the end of a turn that has left something of its conflict; the worktree is a person's then.

    Raises:
        TurnFailed: `unresolved-conflict`.
    """
    left = await what_is_left(git, tree, record, files)
    if left:
        hand_over(tree, record)
        message = f"{agent!r} has ended its turn and left a conflict unresolved: {left}"
        raise TurnFailed(message, code="unresolved-conflict", retry="mend", hint=how_to_resolve(tree))


def how_to_resolve(tree: Worktree) -> str:
    """Return the commands with which a person looks at a conflict and resolves it."""
    place = f"git -C {shlex.quote(str(tree.path))}"
    return (
        f"look at it, mend each file and mark it with `add` (or `rm`), or commit the merge; then resume:\n"
        f"  {place} status\n  {place} diff\n  {place} add FILE\n  orchestra resume {tree.session}"
    )


def _described(record: Record, left: Sequence[Unresolved]) -> str:
    reasons = {"unmerged": "not resolved", "markers": "conflict markers are left"}
    names = listed([f"{one.path} ({reasons[one.reason]})" for one in left])
    return f"in {record['repo']!r}: {names}"
