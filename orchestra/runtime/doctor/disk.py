"""Free space, and whether Orchestra may write where it must."""

from __future__ import annotations

import os
from shlex import quote
from typing import TYPE_CHECKING

from orchestra.runtime.disk import size
from orchestra.runtime.doctor.finding import Finding, State
from orchestra.runtime.machine import is_readonly
from orchestra.runtime.store import STATE_DIRECTORY, sessions_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from orchestra.runtime.doctor.surroundings import Surroundings

MIB = 1 << 20
WARN_BELOW = 1024 * MIB
ERROR_BELOW = 100 * MIB
FEW_INODES = 1000
COUNTED = 200_000
"""Entries of a directory that are looked at for its size."""


async def check(here: Surroundings) -> AsyncIterator[Finding]:
    """Judge the file systems of the project and the repositories, and the directories that Orchestra writes in."""
    repos = [(repo.repository, repo.wanted) for repo in await here.repositories() if repo.repository]
    tops = {here.root: True}
    for repo, wanted in repos:
        if repo.top is not None:
            tops.setdefault(repo.top, wanted)
    stores = list(dict.fromkeys(repo.common_dir for repo, wanted in repos if wanted))
    for finding in _file_systems([*tops, *stores]):
        yield finding
    for top, wanted in tops.items():
        for finding in _own_directory(top, project=top == here.root, wanted=wanted):
            yield finding
    for store in stores:
        if not _writable(store):
            yield _not_writable(store, "the commits and references of sessions")


def _file_systems(paths: Iterable[Path]) -> Iterator[Finding]:
    """Judge each file system once."""
    devices: set[int] = set()
    for path in paths:
        device = path.stat().st_dev
        if device not in devices:
            devices.add(device)
            usage = os.statvfs(path)
            yield space(path, usage.f_bavail * usage.f_frsize, usage.f_favail if usage.f_files else None)


def space(path: Path, free: int, inodes: int | None = None) -> Finding:
    """Judge the free space of a file system.

    Args:
        path: A directory on it.
        free: Bytes that are free for the user.
        inodes: Files that can still be made; None where there is no bound.
    """
    message = f"{size(free)} free on the file system of {path}"
    details = {"path": str(path), "free_bytes": free}
    if free >= WARN_BELOW and (inodes is None or inodes >= FEW_INODES):
        return Finding("disk", State.OK, message, details=details)
    if inodes is not None and inodes < FEW_INODES and free >= WARN_BELOW:
        message += f", but room for {inodes} more files only"
    status = State.ERROR if free < ERROR_BELOW or not (inodes is None or inodes) else State.WARNING
    return Finding("disk", status, message, "free some; this shows what is large:", (_largest(path),), details)


def _largest(path: Path) -> str:
    return f"du -xh -d 2 {quote(str(path))} | sort -h | tail"


def _own_directory(top: Path, *, project: bool, wanted: bool) -> Iterator[Finding]:
    """Judge a `.orchestra`: of the project, where sessions lie, or of a repository, where worktrees do."""
    own = top / STATE_DIRECTORY
    for directory in (own, sessions_directory(top)) if project else (own,):
        if directory.is_symlink():
            fix = "look where it leads, then remove the link:"
            message = f"{directory} is a link, and Orchestra's files must not lie elsewhere"
            yield Finding("disk", State.ERROR, message, fix, (_rm(directory),), {"path": str(directory)})
            return
        if directory.exists() and not directory.is_dir():
            target = directory.with_name(f"{directory.name}.old")
            command = f"mv {quote(str(directory))} {quote(str(target))}"
            message = f"{directory} is a file, where Orchestra needs a directory"
            yield Finding("disk", State.ERROR, message, None, (command,), {"path": str(directory)})
            return
    place = next(path for path in (sessions_directory(top), own, top) if path.is_dir())
    if wanted and not _writable(place):
        yield _not_writable(place, "sessions" if project else "worktrees")
    elif own.is_dir():
        taken, complete = _taken(own)
        shown = size(taken) if complete else f"more than {size(taken)}"
        details = {"path": str(own), "bytes": taken, "complete": complete}
        yield Finding("disk", State.OK, f"{own} takes {shown}", details=details)


def _rm(path: Path) -> str:
    return f"rm {quote(str(path))}"


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _not_writable(path: Path, what: str) -> Finding:
    if is_readonly(path):
        message = f"{path} lies on a file system that is mounted read-only, and is needed for {what}"
        fix = "make the file system writable, or work where you may write; this shows it:"
        return Finding("disk", State.ERROR, message, fix, (f"findmnt -T {quote(str(path))}",), {"path": str(path)})
    message = f"{path} can't be written, and is needed for {what}"
    fix = "make it yours, or work where you may write:"
    commands = (f"ls -ld {quote(str(path))}", f"chmod u+rwx {quote(str(path))}")
    return Finding("disk", State.ERROR, message, fix, commands, {"path": str(path)})


def _taken(directory: Path) -> tuple[int, bool]:
    """Return the bytes that a directory takes on the disk, and whether all of it was looked at."""
    taken, seen = 0, 0
    for parent, _, files in os.walk(directory):
        for name in (".", *files):
            try:
                taken += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118 - many of them
            except OSError:
                continue  # gone meanwhile
        seen += 1 + len(files)
        if seen > COUNTED:
            return taken, False
    return taken, True
