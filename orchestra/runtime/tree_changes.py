"""What differs between two trees, path by path: names are bytes, since they are whatever somebody wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.runtime.staging import update_index

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Place

SUBMODULE, LINK = "160000", "120000"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a tree has at a path."""

    mode: str
    sha: str


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs."""

    path: bytes
    kind: str
    """Git's letter: `A` added, `M` modified, `D` deleted, `T` another type of file."""
    old: Entry | None
    new: Entry | None
    added: int | None = None
    """Lines; None: the file is binary."""
    deleted: int | None = None


async def changes_between(git: GitManager, where: Place, before: str, after: str) -> tuple[Change, ...]:
    """Return what differs, in the order of the paths; a rename is a deletion and an addition.

    Git reads both contents of each to count the lines, so that one which is gone or broken shows here.
    """
    if before == after:
        return ()
    args = ("diff-tree", "-r", "-z", "--no-renames", "--raw", "--numstat", "--no-ext-diff", "--no-textconv")
    fields = iter((await git.run(where, *args, before, after)).stdout.split(b"\0"))
    return tuple(_read(fields))


def _read(fields: Iterator[bytes]) -> Iterator[Change]:
    raw: list[tuple[bytes, list[str]]] = []
    counts: dict[bytes, tuple[int | None, int | None]] = {}
    for field in fields:
        if field.startswith(b":"):  # a path that begins so stands behind such a field, or behind its numbers
            raw.append((next(fields), field[1:].decode().split(" ")))
        elif field:
            added, deleted, path = field.split(b"\t", 2)
            counts[path] = (_number(added), _number(deleted))
    for path, (old_mode, new_mode, old, new, kind) in raw:
        yield Change(path, kind[0], _entry(old_mode, old), _entry(new_mode, new), *counts.get(path, (None, None)))


def _number(text: bytes) -> int | None:
    return None if text == b"-" else int(text)


def _entry(mode: str, sha: str) -> Entry | None:
    return Entry(mode, sha) if mode.strip("0") else None


async def entries_of(git: GitManager, where: Place, tree: str) -> dict[bytes, Entry]:
    """Return path → entry of all files of a tree."""
    entries = {}
    for line in (await git.run(where, "ls-tree", "-r", "-z", tree)).stdout.split(b"\0"):
        if line:
            about, path = line.split(b"\t", 1)
            mode, _, sha = about.decode().split(" ")
            entries[path] = Entry(mode, sha)
    return entries


async def put_entries(git: GitManager, where: Place, index: Path, entries: Mapping[bytes, Entry | None]) -> str:
    """Put entries into an index as they are, None removes; the files don't matter. Returns the index's tree."""
    # Removals come first: a directory may have become a file.
    await update_index(git, where, index, ("--force-remove",), [path for path, entry in entries.items() if not entry])
    there = [b"%s %s\t%s\0" % (e.mode.encode(), e.sha.encode(), path) for path, e in entries.items() if e]
    if there:
        args = ("update-index", "-z", "--replace", "--index-info")
        await git.run(where, *args, input=b"".join(there), index=index)
    return (await git.run(where, "write-tree", index=index)).text
