"""Removing the worktree of a branch that is merged: what lies in it beyond its commits is kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.runtime.copies import copied_names
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.repository import STATUS, read_status
from orchestra.runtime.restore import keep_rest
from orchestra.runtime.staging import lstat, stage
from orchestra.runtime.tree_changes import SUBMODULE
from orchestra.runtime.worktree import make_parents, move_aside, rescue_directory, stamp

if TYPE_CHECKING:
    from orchestra.runtime.git import GitManager, Repository, Worktree
    from orchestra.runtime.worktree import WorktreeManager


async def remove_worktree(
    git: GitManager, worktrees: WorktreeManager, repo: Repository, slot: str, commit: str, *, keep: bool = True
) -> str | None:
    """Remove the worktree of a slot, if there is one.

    What was changed in it since its last commit becomes a rescue. Files that no commit takes, such as very large ones
    and repositories in the place of submodules, are moved to `.orchestra/rescue` with all the rest; so is a worktree
    that a kill left half-made, of which nobody knows what lies in it. Files that git ignores go.

    Args:
        git: Starts git.
        worktrees: Knows where it is.
        repo: The repository.
        slot: Whose worktree.
        commit: What its files are known to be.
        keep: False: the user wants nothing kept of what lies there.

    Returns:
        The reference that holds what lay there, where it was in no commit.
    """
    tree = worktrees.find(repo, slot)
    if tree is None:
        return None
    rescue, whole = None, True
    if not keep:
        pass
    elif worktrees.is_half_made(tree):
        whole = False
    elif tree.path.is_dir() and not tree.path.is_symlink():
        async with git.exclusive(tree.index):
            staged = await stage(git, tree, tree.index)
            rescue = await keep_rest(git, tree, staged.tree, commit)
            whole = all(item.reason == "copied" for item in staged.skipped) and not await has_submodules(git, tree)
    failpoint("removal-due")
    away = _away(tree, whole=whole)
    if away is not None:
        make_writable(tree.path)  # else it can't be moved
        tree.path.rename(away)
        if keep and whole and not await _is_as_staged(git, replace(tree, path=away)):
            whole = False  # somebody has just written there; nobody finds it any more where it is now
            away = away.rename(rescue_directory(repo, tree.session) / slot)
        if not whole and (tree.git_dir / "modules").is_dir():
            (tree.git_dir / "modules").rename(away.with_name(f"{slot}.modules"))
    failpoint("worktree-away")
    await worktrees.forget(tree)
    failpoint("worktree-forgotten")
    if away is not None and whole:
        await asyncio.to_thread(delete_tree, away)
        with contextlib.suppress(OSError):
            away.parent.rmdir()
    return rescue


async def has_submodules(git: GitManager, tree: Worktree) -> bool:
    """Tell whether a submodule is checked out, by git or as a repository that an agent has cloned to its place."""
    modules = tree.git_dir / "modules"
    if modules.is_dir() and any(modules.iterdir()):
        return True
    if not (tree.path.is_dir() and tree.index.exists()):
        return False
    listed = (await git.run(tree, "ls-files", "--stage", "-z", index=tree.index)).stdout.split(b"\0")
    paths = [line.split(b"\t", 1)[1] for line in listed if line.startswith(SUBMODULE.encode())]
    return any(lstat(os.path.join(os.fsencode(tree.path), path, b".git")) for path in paths)  # noqa: PTH118 - bytes


async def _is_as_staged(git: GitManager, tree: Worktree) -> bool:
    """Tell whether the files are those that have just been staged."""
    output, copied = await git.run(tree, *STATUS, index=tree.index), copied_names(tree)
    changed = (entry for entry in read_status(output.stdout) if entry.change != "." and entry.path not in copied)
    return not output.stderr and not any(changed)


def _away(tree: Worktree, *, whole: bool) -> Path | None:
    """Return where the directory goes as one step: a half-removed one must never be taken for a worktree."""
    if tree.path.is_symlink() or not tree.path.is_dir():
        # Git would follow a link that an agent put there.
        move_aside(tree.repository, tree.session, tree.path)
        return None
    if not whole:
        return rescue_directory(tree.repository, tree.session) / tree.slot
    trash = tree.path.parents[2] / "trash" / f"{tree.session}-{tree.slot}-{stamp()}"
    make_parents(tree.repository, trash)
    return trash


async def empty_trash(repo: Repository, session: str) -> None:
    """Delete what a kill left of worktrees that were being removed."""
    trash = None if repo.top is None else repo.top / ".orchestra" / "trash"
    if trash is not None and not trash.is_symlink() and not trash.parent.is_symlink():
        for directory in trash.glob(f"{session}-*"):
            await asyncio.to_thread(delete_tree, directory)


def delete_tree(directory: Path) -> None:
    """Delete a directory of ours as far as that can be done, also where an agent has made parts of it unwritable."""
    if directory.is_symlink():
        return
    make_writable(directory)
    for base, names, _ in os.walk(directory):
        for name in names:
            make_writable(Path(base, name))
    shutil.rmtree(directory, ignore_errors=True)


def make_writable(directory: Path) -> None:
    """Let the owner write into a directory; a link is left alone."""
    with contextlib.suppress(OSError):
        info = directory.lstat()
        if stat.S_ISDIR(info.st_mode) and stat.S_IMODE(info.st_mode) & stat.S_IRWXU != stat.S_IRWXU:
            directory.chmod(stat.S_IMODE(info.st_mode) | stat.S_IRWXU)
