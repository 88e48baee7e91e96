"""Where read tools read: the files of a worktree as they lie there, or the objects of a commit. One interface."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from orchestra.tools.base import RepoContext, ToolFailureError, in_thread
from orchestra.tools.confinement import Parts, is_confined, missing_file, parse_path, read_bytes

if TYPE_CHECKING:
    import pathlib

MOST_BYTES = 20_000_000
"""Larger files are not read."""


class Source(Protocol):
    """The files of a repository as one agent sees them."""

    async def read(self, path: str) -> bytes:
        """Return a file's bytes, or fail with a message."""

    async def files(self) -> list[str]:
        """Return all paths that git tracks, or would track: sorted, ignored ones left out."""

    @property
    def grep(self) -> tuple[str, ...]:
        """The arguments that make `git grep` look at these files."""

    def owns(self, path: str) -> bool:
        """Whether what git says about a path may be shown: no symlink leads there."""


def source_of(repo: RepoContext) -> Source:
    """Choose by whether the agent has a worktree."""
    return CommitFiles(repo) if repo.path is None else WorktreeFiles(repo, repo.path)


class WorktreeFiles:
    """Files as they lie in a worktree, untracked ones included."""

    grep = ("--untracked", "--exclude-standard")

    def __init__(self, repo: RepoContext, root: pathlib.Path) -> None:
        self._repo = repo
        self._root = root

    async def read(self, path: str) -> bytes:
        """Read one file, following no link."""
        parts = parse_path(path, root=self._root)
        data, size = await in_thread(lambda: read_bytes(self._root, parts, MOST_BYTES + 1))
        _check_size(path, max(size, len(data)))
        return data

    async def files(self) -> list[str]:
        """List tracked and untracked files, without ignored and deleted ones."""
        # The index may lag behind HEAD here (turns are committed through an index of the runtime's own): what it misses
        # counts as untracked, what it has too much as deleted, so the union is right.
        present = await self._list("--cached", "--others", "--exclude-standard")
        deleted = await self._list("--deleted")
        return sorted(present - deleted)

    def owns(self, path: str) -> bool:
        """Whether the path exists and no part of it is a symlink."""
        return is_confined(self._root, tuple(path.split("/")))

    async def _list(self, *which: str) -> set[str]:
        result = await self._repo.git("ls-files", "-z", "--full-name", *which)
        return _names(result.stdout)


class CommitFiles:
    """The files of a commit, read from git's objects."""

    def __init__(self, repo: RepoContext) -> None:
        self._repo = repo

    @property
    def grep(self) -> tuple[str, ...]:
        """The commit itself."""
        return (self._repo.head,)

    async def read(self, path: str) -> bytes:
        """Read one blob."""
        return await read_blob(self._repo, self._repo.head, parse_path(path))

    async def files(self) -> list[str]:
        """List the files of the commit."""
        result = await self._repo.git("ls-tree", "-r", "-z", "--full-tree", "--name-only", self._repo.head)
        return sorted(_names(result.stdout))

    def owns(self, path: str) -> bool:
        """Objects hold no links that git would follow."""
        del path
        return True


async def read_blob(repo: RepoContext, commit: str, parts: Parts) -> bytes:
    """Read a file of a commit, with the same messages as for a worktree."""
    path = "/".join(parts)
    entry = await _entry(repo, commit, parts)
    if entry is None:
        raise await _missing(repo, commit, parts)
    mode, kind, name, size = entry
    if mode == "120000":
        target = (await repo.git("cat-file", "blob", name)).stdout.decode("utf-8", "replace")
        raise ToolFailureError(
            f"{path!r} is a symlink to {target!r}; tools do not follow links: name the file that is meant"
        )
    if kind == "tree":
        raise ToolFailureError(f"{path!r} is a directory; list-files with '{path}/**' lists it")
    if kind != "blob":
        raise ToolFailureError(f"{path!r} is a submodule, whose files are not part of this repository")
    _check_size(path, int(size))
    return (await repo.git("cat-file", "blob", name)).stdout


async def _entry(repo: RepoContext, commit: str, parts: Parts) -> tuple[str, str, str, str] | None:
    path = "/".join(parts)
    result = await repo.git("ls-tree", "-z", "-l", "--full-tree", commit, "--", f":(top,literal){path}")
    for line in result.stdout.split(b"\0"):
        about, _, name = line.partition(b"\t")
        if name == os.fsencode(path):
            mode, kind, sha, size = about.decode("ascii").split()
            return mode, kind, sha, size
    return None


async def _missing(repo: RepoContext, commit: str, parts: Parts) -> ToolFailureError:
    for depth in range(1, len(parts)):
        entry = await _entry(repo, commit, parts[:depth])
        if entry is None:
            parts = parts[:depth]
            break
        if entry[1] != "tree":
            kind = "a symlink, which tools do not follow" if entry[0] == "120000" else "a file, not a directory"
            return ToolFailureError(f"{'/'.join(parts[:depth])!r} is {kind}")
    folder = f"{commit}:{'/'.join(parts[:-1])}"
    listing = await repo.git("ls-tree", "-z", "--name-only", folder, ok=(0, 128))
    return missing_file(parts, sorted(_names(listing.stdout)))


def _names(output: bytes) -> set[str]:
    return {name.decode("utf-8", "replace") for name in output.split(b"\0") if name}


def _check_size(path: str, size: int) -> None:
    if size > MOST_BYTES:
        raise ToolFailureError(
            f"{path!r} has {size:,} bytes, more than the {MOST_BYTES:,} that can be read; use search-code"
        )
