"""Copying a path from one tree to another: no link on the way is followed, and a file is for its owner alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def paths_below(directory: Path) -> list[bytes]:
    """Return the files and links below a directory of ours."""
    top, found = os.fsencode(directory), []
    for base, directories, files in os.walk(top):
        links = [name for name in directories if os.path.islink(os.path.join(base, name))]  # noqa: PTH114, PTH118
        found += [os.path.relpath(os.path.join(base, name), top) for name in (*files, *links)]  # noqa: PTH118
    return sorted(found)


def copy_path(source: Path, target: Path, name: bytes, *, directories: int, replace: bool = False) -> None:
    """Copy one file or link from below one directory to below another.

    Args:
        source: A directory that is trusted; what lies below it is not.
        target: The same.
        name: The path below both.
        directories: The mode of directories that are made on the way.
        replace: Whether what lies there gives way; else it is an error.
    """
    with _parent(source, name) as (here, last), _parent(target, name, make=directories) as (there, _):
        if replace:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(last, dir_fd=there)
        mode = os.stat(last, dir_fd=here, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(last, dir_fd=here), last, dir_fd=there)
            return
        reading = os.open(last, READING, dir_fd=here)
        with open(reading, "rb") as old:  # noqa: PTH123 - a descriptor
            writing = os.open(last, _NEW, 0o700 if mode & stat.S_IXUSR else 0o600, dir_fd=there)
            with open(writing, "wb") as new:  # noqa: PTH123 - a descriptor
                shutil.copyfileobj(old, new)


@contextlib.contextmanager
def _parent(top: Path, name: bytes, *, make: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Open the directory that a path lies in, step by step from a top that is trusted."""
    *above, last = name.split(b"/")
    here = os.open(top, _DIRECTORY)
    try:
        for part in above:
            if make is not None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, make, dir_fd=here)
            below = os.open(part, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        yield here, last
    finally:
        os.close(here)
