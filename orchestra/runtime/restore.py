"""Putting the files of a worktree back to a commit, losing nothing of what lay there."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import RefUpdate
from orchestra.runtime.objects import mend_objects
from orchestra.runtime.snapshots import moved_head, slot_ref
from orchestra.runtime.staging import copy_index, stage
from orchestra.runtime.worktree import CONFLICT_NOTE, known_head, raw_head, remember_head, rescue_directory, stamp

if TYPE_CHECKING:
    from orchestra.runtime.git import GitManager, Worktree

_LEFTOVERS = (
    *("MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "SQUASH_MSG", "CHERRY_PICK_HEAD", "REVERT_HEAD", "AUTO_MERGE"),
    *("REBASE_HEAD", "BISECT_LOG", "BISECT_START", "BISECT_NAMES", "BISECT_TERMS", "BISECT_EXPECTED_REV"),
    *("rebase-merge", "rebase-apply", "sequencer", CONFLICT_NOTE),
)
"""What git (and, of a conflict, Orchestra) keeps of an operation that was begun and did not end."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What putting files back did."""

    commit: str
    changed: bool
    """Whether the files were others before."""
    rescue_ref: str | None = None
    """Holds what lay there, where it was in no snapshot."""
    moved_aside: tuple[Path, ...] = ()
    """Where ignored files went that stood in the way."""


async def restore(git: GitManager, worktree: Worktree, commit: str, *, session: str) -> Restored:
    """Put the files, the index and the HEAD of a worktree at a commit.

    What lies there is first committed under `refs/orchestra/{session}/rescue`. Ignored files stay; those in the way
    are moved to `.orchestra/rescue`. A file that someone changes meanwhile makes it fail with nothing overwritten.

    Raises:
        GitError: `commit-missing`, `restore-raced`, `restore-mismatch`.
    """
    if not await git.exists(worktree, [f"{commit}^{{tree}}"]):
        raise GitError(f"the commit {commit} is not in {worktree.repository.common_dir}", code="commit-missing")
    async with git.exclusive(worktree.index):
        found = (await stage(git, worktree, worktree.index)).tree
        wanted = await git.tree_of(worktree, commit)
        failpoint("restore-begun")
        rescue = await keep_rest(git, worktree, found, commit)
        failpoint("rescue-kept")
        aside: list[Path] = []
        if found != wanted:
            aside += await _clear_the_way(git, worktree, found, wanted, session)
            failpoint("way-cleared")
            await _switch(git, worktree, found, wanted)
            failpoint("files-switched")
            aside += await _verify(git, worktree, wanted, session)
        await stand_on(git, worktree, commit)
        failpoint("restored")
        return Restored(commit, found != wanted, rescue, tuple(aside))


async def stand_on(git: GitManager, worktree: Worktree, commit: str) -> None:
    """Detach the worktree's HEAD at the commit of its files, and make the agent's index agree.

    Also for the end of a turn, so that the agent's own git shows a clean tree on the turn's commit. Commits of the
    agent's own that no snapshot leads to are kept as a rescue.
    """
    head = await moved_head(git, worktree)
    if head is not None:
        await _pin_rescue(git, worktree, head)
    if raw_head(worktree) != commit:
        await git.run(worktree, "update-ref", "--no-deref", "HEAD", commit)
        remember_head(worktree, commit)
    _clear_leftovers(worktree)
    copy_index(worktree.index, worktree.git_dir / "index")


def _clear_leftovers(worktree: Worktree) -> None:
    for name in _LEFTOVERS:
        path = worktree.git_dir / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


async def keep_rest(git: GitManager, worktree: Worktree, found: str, commit: str) -> str | None:
    """Keep what lies in a worktree, and what the agent committed itself, unless a commit that is kept is just that.

    Args:
        git: Starts git.
        worktree: Where.
        found: The tree that its files are.
        commit: What they are known to be, and kept as.

    Returns:
        The reference that keeps it; None where nothing had to be.
    """
    head = await moved_head(git, worktree)
    kept = [commit, *filter(None, (known_head(worktree),))]
    if head is None and found in [await git.tree_of(worktree, one) for one in kept]:
        return None
    tip = await git.read_ref(worktree, slot_ref(worktree))
    if head is None and tip is not None and found == await git.tree_of(worktree, tip):
        saved = tip
    else:
        parents = list(dict.fromkeys(parent for parent in (tip or commit, head) if parent))
        message = f"What lay in the worktree of {worktree.slot} before it was put back to {commit}\n"
        before = await git.tree_of(worktree, tip or commit)
        await mend_objects(git, worktree, worktree.index, before, found, session=worktree.session)
        saved = await git.commit_tree(worktree, found, parents, message, author=None, date=datetime.now(UTC))
    if head is not None:
        remember_head(worktree, head)
    return await _pin_rescue(git, worktree, saved)


async def _pin_rescue(git: GitManager, worktree: Worktree, commit: str) -> str:
    ref = f"refs/orchestra/{worktree.session}/rescue/{stamp()}-{worktree.slot}"
    await git.update_refs(worktree, [RefUpdate(ref, commit, None)])
    return ref


async def _switch(git: GitManager, worktree: Worktree, found: str, wanted: str) -> None:
    git.index_trees.pop(worktree.index, None)
    try:
        await git.run(worktree, "read-tree", "-m", "-u", found, wanted, index=worktree.index)
    except GitError as error:
        if error.code != "git-failed":
            raise
        message = f"files in {worktree.path} changed while they were put back; nothing was overwritten"
        hint = "end what still writes there, then run `orchestra resume`"
        raise GitError(message, command=error.command, stderr=error.stderr, code="restore-raced", hint=hint) from error


async def _verify(git: GitManager, worktree: Worktree, wanted: str, session: str) -> list[Path]:
    """Prove that the files are those of the snapshot; gives the files that had to go for that.

    A `.gitignore` that was put back may ignore less, and what it no longer hides was not there at the snapshot.
    """
    now = (await stage(git, worktree, worktree.index)).tree
    extra = await _added(git, worktree, wanted, now)
    aside = _move_all(worktree, extra, session)
    if extra:
        now = (await stage(git, worktree, worktree.index)).tree
    same = now == wanted or await _same_but_line_ends(git, worktree, now, wanted)
    if not same and not await _as_checked_out(git, worktree, now, wanted):
        message = f"the files in {worktree.path} are not those of the snapshot after putting them back ({now})"
        raise GitError(message, code="restore-mismatch", hint=f"compare: git diff {wanted} {now}")
    return aside


async def _added(git: GitManager, worktree: Worktree, before: str, after: str) -> list[bytes]:
    if before == after:
        return []
    args = ("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--diff-filter=A", before, after)
    return [name for name in (await git.run(worktree, *args)).stdout.split(b"\0") if name]


async def _same_but_line_ends(git: GitManager, worktree: Worktree, now: str, wanted: str) -> bool:
    """Tell what git's own normalisation does to files that were committed with other line ends (D16)."""
    args = ("diff-tree", "-p", "--exit-code", "--no-ext-diff", "--no-textconv", "--ignore-cr-at-eol", wanted, now)
    return not (await git.run(worktree, *args, ok=(0, 1))).returncode


async def _as_checked_out(git: GitManager, worktree: Worktree, now: str, wanted: str) -> bool:
    """Tell whether the files are what git writes for a commit, though it would not read them back as that.

    So it is with files that were committed around a filter, such as whole ones where LFS wants pointers.
    """
    raw = (await git.run(worktree, "diff-tree", "-r", "-z", "--no-renames", wanted, now)).stdout.split(b"\0")
    changes = list(zip(raw[::2], raw[1::2], strict=False))
    if any(not about.endswith(b" M") for about, _ in changes):
        return False
    asked = b"".join(about.split()[2] + b" " + path + b"\0" for about, path in changes)
    answer = (await git.run(worktree, "cat-file", "--batch", "--filters", "-z", input=asked)).stdout
    for _, path in changes:
        head, _, answer = answer.partition(b"\n")
        size = int(head.rsplit(b" ", 1)[1])
        if read_plain(worktree.path / os.fsdecode(path), size) != answer[:size]:
            return False
        answer = answer[size + 1 :]
    return True


def read_plain(path: Path, most: int) -> bytes | None:
    """Read a plain file, up to one byte more than asked; None: there is none."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(most + 1)


async def _clear_the_way(git: GitManager, worktree: Worktree, found: str, wanted: str, session: str) -> list[Path]:
    """Move away what git would overwrite without a word: files that it ignores, at paths that the commit has."""
    added = await _added(git, worktree, found, wanted)
    if not added:
        return []
    listed = await git.run(worktree, "ls-files", "-z", index=worktree.index)
    tracked = frozenset(listed.stdout.split(b"\0"))
    blocking = {name for path in added for name in files_at(worktree.path, path, tracked)}
    return _move_all(worktree, sorted(blocking), session)


def files_at(top: Path, path: bytes, tracked: frozenset[bytes]) -> list[bytes]:
    """Return the untracked files at a path: it itself, a file in place of a directory above it, or all below it."""
    parts = path.split(b"/")
    for length in range(1, len(parts) + 1):
        name = b"/".join(parts[:length])
        mode = _mode(top, name)
        if mode is None:
            return []
        if not stat.S_ISDIR(mode):
            return [] if name in tracked else [name]
    below = (os.fsencode(os.path.relpath(Path(base, file), top)) for base, file in _walk(top / os.fsdecode(path)))
    return [name for name in below if name not in tracked]


def _walk(directory: Path) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for base, directories, files in os.walk(directory):
        links = [name for name in directories if Path(base, name).is_symlink()]
        found += [(base, name) for name in (*files, *links)]
    return found


def _mode(top: Path, name: bytes) -> int | None:
    try:
        return os.lstat(top / os.fsdecode(name)).st_mode
    except OSError:
        return None


def _move_all(worktree: Worktree, names: list[bytes], session: str) -> list[Path]:
    if not names:
        return []
    directory = rescue_directory(worktree.repository, session)
    return [_move(worktree.path, name, directory) for name in names]


def _move(top: Path, name: bytes, directory: Path) -> Path:
    source, target = top / os.fsdecode(name), directory / os.fsdecode(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
    return target
