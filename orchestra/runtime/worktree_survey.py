"""The worktrees of a session, judged one by one: is it ours, does somebody work there, is all of it in a commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from shlex import quote
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.cleanup_plan import Reason, WorktreePlan
from orchestra.runtime.copies import copied_names
from orchestra.runtime.git import Worktree
from orchestra.runtime.processes import named
from orchestra.runtime.removal import has_submodules
from orchestra.runtime.repository import STATUS, read_status
from orchestra.runtime.snapshots import moved_head
from orchestra.runtime.worktree import known_head, place_of_admin, session_of_admin, slot_of_admin, worktree_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Repository


@dataclass(slots=True)
class Found:
    """The worktrees of a session in one repository."""

    plans: list[WorktreePlan] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=dict)
    """What to call a HEAD that Orchestra did not put there → its commit."""
    left: list[Path] = field(default_factory=list)
    """What lies among them and is not Orchestra's."""


async def find_worktrees(
    git: GitManager, repo: Repository, session: str, refs: Mapping[str, str], cwds: Iterable[tuple[int, Path]]
) -> Found:
    """Judge the worktrees of a session.

    Args:
        git: Starts git.
        repo: The repository.
        session: The session's id.
        refs: Its references below `refs/orchestra`.
        cwds: The current directories of processes.
    """
    found = Found()
    if repo.top is None:
        return found
    directory = (repo.top / worktree_place(session, "any")).parent
    ours = list(_worktrees(repo, session))
    link = link_above(directory)
    if link is not None and (ours or directory.exists()):
        look = f"ls -ld {quote(str(link))}"
        found.reasons.append(Reason("linked", f"{link} is a link, and is not followed", look, final=True))
        return found
    for tree in ours:
        reason = _misplaced(tree, cwds)
        if reason is not None:
            found.reasons.append(reason)
            continue
        try:
            await _look_into(git, tree, refs, found)
        except GitError as error:
            found.reasons.append(Reason("unjudged", f"{tree.path} can't be judged: {error.message}", _status(tree)))
            found.plans.append(_plan(tree, refs))
    places = {tree.path for tree in ours}
    if directory.is_dir():
        found.left += sorted(path for path in directory.iterdir() if path not in places)
    return found


def link_above(directory: Path) -> Path | None:
    """Return the first link on the way to a directory of a session, from `.orchestra` on."""
    ways = (directory.parent.parent, directory.parent, directory)
    return next((path for path in ways if path.is_symlink()), None)


def _worktrees(repo: Repository, session: str) -> Iterator[Worktree]:
    """Find them by the reason of their locks, which Orchestra alone writes, in git's own directory."""
    root = repo.common_dir / "worktrees"
    for admin in sorted(root.iterdir()) if root.is_dir() else ():
        place = place_of_admin(admin)
        if session_of_admin(admin) == session and place is not None:
            yield Worktree(repo, session, slot_of_admin(admin), place, admin)


def _misplaced(tree: Worktree, cwds: Iterable[tuple[int, Path]]) -> Reason | None:
    """Say why a worktree must not be touched, whatever lies in it."""
    try:
        place = tree.repository.top and tree.repository.top / worktree_place(tree.session, tree.slot)
    except GitError:
        place = None
    shown = quote(str(tree.path))
    if tree.path != place:
        message = f"its worktree {tree.slot} was moved to {tree.path}"
        return Reason("worktree-moved", message, _status(tree), final=True)
    if tree.path.is_symlink() or (tree.path.exists() and not tree.path.is_dir()):
        return Reason("linked", f"{tree.path} is no directory, but a link or a file", f"ls -ld {shown}", final=True)
    worker = next((pid for pid, here in cwds if here.is_relative_to(tree.path)), None)
    if worker is not None:
        return Reason("in-use", f"the process {named(worker)} works in {tree.path}", final=True)
    return None


async def _look_into(git: GitManager, tree: Worktree, refs: Mapping[str, str], found: Found) -> None:
    head = await moved_head(git, tree)
    if head is not None:
        found.heads[f"the HEAD of {tree.path}"] = head
    if await has_submodules(git, tree):
        message = f"submodules are checked out in {tree.path}, and may have commits of their own"
        found.reasons.append(Reason("submodules", message, f"git -C {quote(str(tree.path))} submodule status"))
    plan = _plan(tree, refs)
    if tree.path.is_dir():
        if not tree.index.exists():
            message = f"{tree.path} was being made when a kill came; what lies in it is in no commit"
            found.reasons.append(Reason("worktree-half-made", message, f"ls -lA {quote(str(tree.path))}"))
        else:
            commit = await _commit_of(git, tree, refs)
            if commit is None:
                message = f"{tree.path} has changes that are in no commit"
                found.reasons.append(Reason("worktree-dirty", message, _status(tree)))
            else:
                plan = WorktreePlan(tree.slot, tree.path, commit)
    found.plans.append(plan)


async def _commit_of(git: GitManager, tree: Worktree, refs: Mapping[str, str]) -> str | None:
    """Return the commit whose files these are; None: there is none."""
    output = await git.run(tree, *STATUS, index=tree.index)
    entries, copied = list(read_status(output.stdout)), copied_names(tree)
    if output.stderr or any(entry.change != "." and entry.path not in copied for entry in entries):
        return None
    if not any(entry.staged for entry in entries):
        head = await git.read_ref(tree, "HEAD^{commit}")
        if head is not None:
            return head
    for commit in _commits(tree, refs):
        args = ("diff-index", "--cached", "--quiet", commit, "--")
        if not (await git.run(tree, *args, index=tree.index, ok=(0, 1))).returncode:
            return commit
    return None


def _commits(tree: Worktree, refs: Mapping[str, str]) -> list[str]:
    names = [f"refs/orchestra/{tree.session}/{kind}/{tree.slot}" for kind in ("wt", "turn")]
    return [refs[name] for name in names if name in refs]


def _plan(tree: Worktree, refs: Mapping[str, str]) -> WorktreePlan:
    return WorktreePlan(tree.slot, tree.path, next(iter(_commits(tree, refs)), known_head(tree) or ""))


def _status(tree: Worktree) -> str:
    return f"git -C {quote(str(tree.path))} status"
