"""Objects of a new tree that can't be read: made again from the files at hand, so that no snapshot names a broken one.

Git takes an object for written when its file is there, whatever lies in it (D8): after a power failure that is often a
file of no bytes, which `git add` of the same content then leaves as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.git import Worktree, repository_of
from orchestra.runtime.worktree import rescue_directory

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Place

_LINK, _SUBMODULE, _DIRECTORY = b"120000", b"160000", b"040000"
_NAMED = re.compile(r"\b([0-9a-f]{2})/?([0-9a-f]{38}(?:[0-9a-f]{24})?)\b")


@dataclass(frozen=True, slots=True)
class _New:
    mode: bytes
    sha: str
    path: bytes


async def mend_objects(
    git: GitManager, where: Place, index: Path, before: str | None, after: str, *, session: str
) -> tuple[str, ...]:
    """Make sure that what one tree adds to another can be read; return the objects that were made again.

    Args:
        git: Starts git.
        where: The place whose files the tree was made from.
        index: The index it was written from.
        before: A tree that is sound as far as anybody knows; None: there is none.
        after: The new tree.
        session: The session's id: broken objects are moved to its rescue directory, never deleted.

    Raises:
        GitError: `corrupt-object`: one is broken, and the file that it was made from has changed since.
    """
    mended: list[str] = []
    try:
        added = await _added(git, where, before, after)
    except GitError as error:
        mended += await _write_trees(git, where, index, after, error, session)
        added = await _added(git, where, before, after)
    directory = repository_of(where).common_dir / "objects"
    for new in await asyncio.to_thread(_broken, directory, added):
        await _write_blob(git, where, new, session)
        mended.append(new.sha)
    return tuple(mended)


async def _added(git: GitManager, where: Place, before: str | None, after: str) -> list[_New]:
    if before is None:
        fields = (await git.run(where, "ls-tree", "-r", "-t", "-z", after)).stdout.split(b"\0")
        lines = [(line.split(b"\t", 1)[0].split(b" "), line.split(b"\t", 1)[1]) for line in fields if line]
        return [_New(mode, sha.decode(), path) for (mode, _, sha), path in lines]
    args = ("diff-tree", "-r", "-t", "-z", "--no-renames", "--diff-filter=AMT", before, after)
    fields = (await git.run(where, *args)).stdout.split(b"\0")
    pairs = zip(fields[::2], fields[1::2], strict=False)
    return [_New(about.split(b" ")[1], about.split(b" ")[3].decode(), path) for about, path in pairs]


def _broken(directory: Path, added: list[_New]) -> list[_New]:
    blobs = {new.sha: new for new in added if new.mode not in (_SUBMODULE, _DIRECTORY)}
    return [new for new in blobs.values() if not _is_sound(_loose(directory, new.sha), new.sha)]


def _loose(directory: Path, sha: str) -> Path:
    return directory / sha[:2] / sha[2:]


def _is_sound(file: Path, sha: str) -> bool:
    """Tell whether a loose object holds what its name says; one that lies in a pack has a checksum there."""
    try:
        content = zlib.decompress(file.read_bytes())
    except FileNotFoundError:
        return True
    except zlib.error:
        return False
    kind = hashlib.sha1 if len(sha) == 40 else hashlib.sha256  # noqa: PLR2004 - git's two formats
    return kind(content).hexdigest() == sha


async def _write_trees(
    git: GitManager, where: Place, index: Path, tree: str, error: GitError, session: str
) -> list[str]:
    """Write a tree again whose object, or that of a directory in it, is broken."""
    directory = repository_of(where).common_dir / "objects"
    named = {"".join(match) for match in _NAMED.findall(error.stderr)} | {tree}
    broken = [sha for sha in sorted(named) if not _is_sound(_loose(directory, sha), sha)]
    if error.code != "corrupt-object" or not broken:
        raise error
    for sha in broken:
        _move_aside(where, sha, session)
    again = (await git.run(where, "write-tree", index=index)).text
    if again != tree:
        raise error
    return broken


async def _write_blob(git: GitManager, where: Place, new: _New, session: str) -> None:
    """Write a blob again from its file, through the same filters."""
    aside = _move_aside(where, new.sha, session)
    top = where.path if isinstance(where, Worktree) else where.top
    assert top is not None  # noqa: S101 - it has files
    path = os.fsdecode(new.path)
    if new.mode == _LINK:
        target = os.fsencode(os.readlink(top / path))  # noqa: PTH115 - bytes as they are
        made = await git.run(where, "hash-object", "-w", "--no-filters", "--stdin", input=target)
    else:
        made = await git.run(where, "hash-object", "-w", "--", path)
    if made.text != new.sha:
        raise GitError(
            f"the object {new.sha} of {path} in {repository_of(where).common_dir} can't be read, and the file has "
            "changed since it was written",
            code="corrupt-object",
            hint=f"what there was of it is now at {aside}",
        )


def _move_aside(where: Place, sha: str, session: str) -> Path:
    repo = repository_of(where)
    target = rescue_directory(repo, session) / sha
    _loose(repo.common_dir / "objects", sha).rename(target)
    return target
