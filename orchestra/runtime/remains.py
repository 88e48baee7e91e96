"""What is left of a session in its repositories: of one that was called off, and of one whose directory was deleted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import GitError, SessionError
from orchestra.runtime.git import GitManager
from orchestra.runtime.worktree import worktree_place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.runtime.git import Repository
    from orchestra.runtime.store import SessionRecord


@dataclass(frozen=True, slots=True)
class Kept:
    """What a session that does not go on leaves to the user."""

    branches: dict[str, str]
    """Repo → the session's branch."""
    worktrees: dict[str, list[str]]
    """Repo → the directories in which agents worked."""
    unseen: dict[str, str]
    """Repo → where it should be, of those that can't be opened: what is left there can't be told."""


async def kept_by(record: SessionRecord) -> Kept:
    """Look what there is of a session in its repositories."""
    git = GitManager()
    branches, worktrees, unseen = {}, {}, {}
    for name, stored in record.workspace.items():
        try:
            repo = await git.open(name, Path(stored["path"]), judge=False)
            if stored["branch"] and await git.read_ref(repo, f"refs/heads/{stored['branch']}"):
                branches[name] = str(stored["branch"])
            trees = repo.top and (repo.top / worktree_place(record.session_id, "any")).parent
            if trees and trees.is_dir():
                worktrees[name] = sorted(str(path) for path in trees.iterdir() if path.is_dir())
        except (GitError, OSError):
            unseen[name] = str(stored["path"])
    return Kept(branches, worktrees, unseen)


async def find_remains(root: Path, prefix: str) -> SessionError | None:
    """Look in the repository of a project for a session that has no directory any more.

    Args:
        root: The project.
        prefix: The session's id, or a beginning of it.

    Returns:
        What to tell the user; None where there is no trace of exactly one such session.
    """
    git = GitManager()
    with suppress(GitError):
        repo = await git.open("repo", root, judge=False)
        found = {ref.split("/")[2] for ref in await git.refs(repo, "refs/orchestra")}
        sessions = [session for session in found if prefix and session.startswith(prefix.lower())]
        if len(sessions) == 1:
            return await tell_remains(git, [repo], root, sessions[0])
    return None


async def tell_remains(git: GitManager, repos: Iterable[Repository], root: Path, session: str) -> SessionError:
    """Say that a session can't be driven any more, and where its commits are."""
    kept, look = [], None
    for repo in repos:
        with suppress(GitError):
            refs = await git.refs(repo, f"refs/orchestra/{session}")
            for kind, words in (("turn", "what finished turns committed"), ("wt", "the last snapshot")):
                for ref in (ref for ref in refs if ref.split("/")[3] == kind):
                    kept.append(f"{words} is {ref} in {repo.top or repo.git_dir}")
                    look = look or f"git -C '{repo.top or repo.git_dir}' log -p {ref}"
    what = "; ".join(kept) or "it had committed nothing yet"
    return SessionError(
        f"the session {session} can't go on: its directory under {root / '.orchestra'} was deleted; {what}",
        code="session-deleted",
        hint=f"{look}; then run the pipeline again" if look else "run the pipeline again",
    )
