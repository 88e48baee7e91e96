"""Conflicts in worktrees: laid out for an agent or a person, handed over, judged when they are done (DESIGN §5.9)."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from orchestra.agents.context import TurnFailed
from orchestra.errors import GitError
from orchestra.runtime.conflicts import (
    adopt_submodules,
    conflict_paths,
    give_up,
    is_given_up,
    mark_resolved,
    open_conflict,
    unmerged_paths,
    unresolved,
)
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.merges import Conflict
from orchestra.runtime.notices import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from orchestra.agents.context import TurnRequest
    from orchestra.agents.meeting import Record
    from orchestra.runtime.conflicts import Unresolved
    from orchestra.runtime.git import GitManager, Worktree


async def lay_out(
    git: GitManager, tree: Worktree, record: Record, unmerged: Collection[str] | None, *, given_up: bool = False
) -> None:
    """Make a worktree, whose files are those with the markers, look as a merge that git has stopped.

    Args:
        git: Starts git.
        tree: The worktree.
        record: The conflict.
        unmerged: The paths that are still to be resolved; None: all.
        given_up: Whether the agent has ended the merge since.
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
    if given_up:
        give_up(tree)
    failpoint("conflict-laid-out")


def hand_over(tree: Worktree, record: Record) -> None:
    """Note that a person may be at work in a worktree: from now on it is taken as found."""
    tree.handed_mark.write_text(f"{record['commit']}\n", encoding="ascii")


def is_handed_over(tree: Worktree, record: Record) -> bool:
    """Tell whether a worktree was handed to a person with this very conflict."""
    return _names(tree.handed_mark, record["commit"])


def _names(mark: Path, what: str) -> bool:
    try:
        return mark.read_text(encoding="ascii").strip() == what
    except (OSError, UnicodeDecodeError):
        return False


def lend(tree: Worktree, commit: str, request: TurnRequest) -> None:
    """Note that a person is asked, who may change files meanwhile: this turn takes them as found.

    The mark speaks of this attempt at this commit only. So it may outlive the answer until a checkpoint names the next
    commit, and what a person has changed is not lost to a kill before it.
    """
    tree.lent_mark.write_text(f"{_lent_at(commit, request)}\n", encoding="ascii")


def take_back(tree: Worktree) -> None:
    """Note that what lies here beyond the commit is nobody's."""
    tree.lent_mark.unlink(missing_ok=True)


def is_lent(tree: Worktree, commit: str, request: TurnRequest) -> bool:
    """Tell whether a person was asked in this attempt, at this very commit."""
    return _names(tree.lent_mark, _lent_at(commit, request))


def _lent_at(commit: str, request: TurnRequest) -> str:
    return f"{commit} {request.node}.{request.number}.{request.attempt}"


async def what_is_left(git: GitManager, tree: Worktree, record: Record, files: str) -> str:
    """Say what of a conflict is not resolved yet; empty: all is.

    Args:
        git: Starts git.
        tree: Where it is resolved.
        record: The conflict.
        files: The tree that the worktree's files are.
    """
    left = await unresolved(git, tree, Conflict.from_json(record["conflict"]), files)
    return _described(tree, record, left) if left else ""


def how_to_resolve(tree: Worktree) -> str:
    """Return the commands with which a person looks at a conflict and resolves it."""
    place = f"git -C {shlex.quote(str(tree.path))}"
    return (
        f"look at it, mend each file and mark it with `add` (or `rm`), or commit the merge; then resume:\n"
        f"  {place} status\n  {place} diff\n  {place} add FILE\n  orchestra resume {tree.session}"
    )


def _described(tree: Worktree, record: Record, left: Sequence[Unresolved]) -> str:
    reasons = {"unmerged": "not resolved", "markers": "conflict markers are left", "given-up": "not resolved"}
    names = listed([f"{one.path} ({reasons[one.reason]})" for one in left])
    if any(one.reason == "given-up" for one in left):
        again = f"git -C {shlex.quote(str(tree.path))} merge {record['theirs']}"
        return f"in {record['repo']!r}: {names}; the merge was given up, begin it again: `{again}`"
    return f"in {record['repo']!r}: {names}"


class TurnConflict:
    """The conflict that a turn has to resolve.

    Args:
        git: Starts git.
        tree: Where.
        record: The conflict.
        unmerged: The paths that were still to be resolved at the turn's last snapshot; None: all.
        given_up: Whether the agent had ended the merge by then.
        agent: Whose turn it is.
    """

    def __init__(
        self,
        git: GitManager,
        tree: Worktree,
        record: Record,
        unmerged: Collection[str] | None,
        *,
        given_up: bool,
        agent: str,
    ) -> None:
        self._git = git
        self._tree = tree
        self._record = record
        self._agent = agent
        self._conflict = Conflict.from_json(record["conflict"])
        self.repo: str = record["repo"]
        self.sides: tuple[str, str] = (record["ours"], record["theirs"])
        """The two commits that the turn's one merges."""
        self.unmerged = conflict_paths(self._conflict) if unmerged is None else tuple(unmerged)
        """The paths that are still to be resolved, as of the last snapshot."""
        self.given_up = given_up
        """Whether the agent had ended the merge by then."""

    async def touched(self, paths: Sequence[str]) -> None:
        """Take what a tool did to files for the resolution of their conflicts."""
        await mark_resolved(self._git, self._tree, paths)

    async def got_on(self) -> bool:
        """Look again which paths are unmerged; tells whether they are others than before."""
        before = self.unmerged, self.given_up
        self.given_up = await is_given_up(self._git, self._tree)
        try:
            self.unmerged = await unmerged_paths(self._git, self._tree)
        except GitError as error:
            if error.code != "conflict-index-broken":
                raise
            self.unmerged = conflict_paths(self._conflict)
        return (self.unmerged, self.given_up) != before

    async def adopt_submodules(self) -> None:
        """Take the submodules' commits that were chosen in the index, before the last snapshot."""
        await adopt_submodules(self._git, self._tree, self._conflict)

    async def refuse_unresolved(self, commit: str) -> None:
        """Refuse the end of a turn that has left something of its conflict; the worktree is a person's then.

        Args:
            commit: The files at the turn's end.

        Raises:
            TurnFailed: `unresolved-conflict`.
        """
        files = await self._git.tree_of(self._tree, commit)
        left = await what_is_left(self._git, self._tree, self._record, files)
        if left:
            hand_over(self._tree, self._record)
            message = f"{self._agent!r} has ended its turn and left a conflict unresolved, {left}"
            raise TurnFailed(message, code="unresolved-conflict", retry="mend", hint=how_to_resolve(self._tree))
