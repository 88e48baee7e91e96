"""The session's branches: they follow its checkpoints, and are left alone where someone else moved them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.snapshots import RepoState
from orchestra.runtime.turns import move_branch
from orchestra.runtime.worktree import worktree_place

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from orchestra.runtime.checkpoints import SavedCheckpoint
    from orchestra.runtime.git import GitManager
    from orchestra.runtime.snapshots import WorkspaceSnapshotIndex
    from orchestra.runtime.workspace import Workspace


class BranchFollower:
    """Moves the session's branches when a checkpoint is on disk, and indexes its commits: branches follow checkpoints.

    Args:
        git: Starts git.
        workspace: The repositories.
        index: Checkpoint → commits, both ways.
        session: The session's id.
        at: Where each branch is; None: it has not been made yet.
        worktrees: The repos that have worktrees.
        tell: Logs an event: `tell(type, payload)`.
    """

    def __init__(
        self,
        git: GitManager,
        workspace: Workspace,
        index: WorkspaceSnapshotIndex,
        session: str,
        at: Mapping[str, str | None],
        worktrees: Collection[str],
        tell: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._git = git
        self._workspace = workspace
        self._index = index
        self._session = session
        self._at = dict(at)
        self._worktrees = frozenset(worktrees)
        self._tell = tell
        self.refs: dict[str, str] = {}
        """Repo → where its result is, when that is not the branch itself."""

    async def follow(self, saved: SavedCheckpoint) -> None:
        """Index a checkpoint's commits; at a root checkpoint move the branches."""
        failpoint("checkpoint-written")
        await self._index.record(saved.id, saved.namespace, self._states(saved), created_at=saved.created_at)
        failpoint("checkpoint-indexed")
        self._tell("checkpoint", {"id": saved.id, "namespace": saved.namespace, "repos": dict(saved.repos)})
        if not saved.namespace and not saved.in_conflict:
            await self.move(saved.integrated)
            failpoint("branch-moved")

    async def move(self, commits: Mapping[str, str]) -> None:
        """Bring every branch to its repo's commit.

        Raises:
            GitError: `branch-moved`: someone else moved one; it is left alone.
        """
        for name, repo in self._workspace.repos.items():
            commit = commits.get(name, repo.base)
            old = self._at.get(name)
            if repo.branch is None or (old == commit and name not in self.refs):
                continue
            moved = await move_branch(self._git, repo.repository, repo.branch, commit, old, session=self._session)
            failpoint("one-branch-moved")
            if moved.checked_out_at is None:
                self._at[name] = commit
                self.refs.pop(name, None)
                continue
            if name not in self.refs:
                message = (
                    f"the branch {repo.branch} of {name!r} is checked out at {moved.checked_out_at} and is not moved "
                    f"there; the result is {moved.ref}"
                )
                self._tell("warning", {"code": "branch-checked-out", "message": message})
            self.refs[name] = moved.ref

    async def locate(self, commits: Mapping[str, str]) -> None:
        """Find where the results of a completed session are, moving nothing: its branches are the user's now."""
        result = f"refs/orchestra/{self._session}/result"
        for name, repo in self._workspace.repos.items():
            commit = commits.get(name, repo.base)
            if repo.branch is None or self._at.get(name) == commit:
                continue
            if await self._git.read_ref(repo.repository, result) == commit:
                self.refs[name] = result

    def branches(self) -> dict[str, str]:
        """Return repo → branch, or the reference that stands in for it."""
        return {
            name: self.refs.get(name, repo.branch)
            for name, repo in self._workspace.repos.items()
            if repo.branch is not None
        }

    def positions(self) -> dict[str, str]:
        """Return where every branch is, by its repo; one that can't be moved is where it should be."""
        return {name: commit for name, commit in self._at.items() if commit is not None and name not in self.refs}

    def _states(self, saved: SavedCheckpoint) -> list[RepoState]:
        return [
            RepoState(
                repo=name,
                commit_sha=commit,
                branch=self._workspace.repos[name].branch,
                worktree_path=self._place(name, saved.slots[name]),
                agent=saved.agent,
            )
            for name, commit in saved.repos.items()
        ]

    def _place(self, repo: str, slot: str) -> str | None:
        return worktree_place(self._session, slot).as_posix() if repo in self._worktrees else None


async def branch_positions(
    git: GitManager, workspace: Workspace, named: Mapping[str, Collection[str]], *, untouched: bool
) -> dict[str, str | None]:
    """Return where each branch is, if one of the session's checkpoints put it there; else where it should be.

    Args:
        git: Starts git.
        workspace: The repositories.
        named: Repo → the commits that the session's checkpoints name.
        untouched: The session has written no checkpoint of its own, so that its branches need not be there.
    """
    positions: dict[str, str | None] = {}
    for name, repo in workspace.repos.items():
        if repo.branch is None:
            continue
        found = await git.read_ref(repo.repository, f"refs/heads/{repo.branch}")
        if found is None and untouched:
            positions[name] = None
        else:
            positions[name] = found if found in {repo.base, *named.get(name, ())} else repo.base
    return positions
