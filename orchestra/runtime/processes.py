"""Which processes are at work on a file or in a directory, where the system can tell (`/proc`)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.name})"


def holder_of(path: Path) -> str | None:
    """Name the process that has a file open (`1234 (git)`), where the system can tell."""
    return next((str(process) for process in holders_of([path])[path]), None)


def holders_of(paths: Iterable[Path]) -> dict[Path, list[Process]]:
    """Return for each file the processes that have it open; of other users' processes that can't be known."""
    wanted = {path: os.path.realpath(path) for path in paths}
    found: dict[Path, list[Process]] = {path: [] for path in wanted}
    for directory in _directories() if wanted else ():
        opened = set(_opened_by(directory))
        for path, real in wanted.items():
            if real in opened:
                found[path] += _process(directory)
    return found


def gits_in(directories: Iterable[Path]) -> list[Process]:
    """Return the git processes that were started in one of the directories or below it."""
    places = [os.path.realpath(directory) for directory in directories]
    return [
        process
        for pid, here in current_directories()
        if any(here.is_relative_to(place) for place in places)
        for process in _process(_PROC / str(pid))
        if process.name.startswith("git")
    ]


def current_directories() -> list[tuple[int, Path]]:
    """Return the current directory of each process, as far as the system tells; of this one always."""
    found = []
    for directory in _directories():
        with contextlib.suppress(OSError):
            found.append((int(directory.name), (directory / "cwd").readlink()))
    with contextlib.suppress(OSError):
        if not found:
            found.append((os.getpid(), Path.cwd()))
    return found


def named(pid: int) -> str:
    """Return a process with its name: `1234 (bash)`."""
    return next((str(process) for process in _process(_PROC / str(pid))), str(pid))


def pids() -> list[int]:
    """Return the processes of this machine."""
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 - names, not paths
    except OSError:
        return []


def can_tell() -> bool:
    """Tell whether this system shows which files a process has open."""
    return (_PROC / "self" / "fd").is_dir()


def _directories() -> Iterable[Path]:
    return [_PROC / str(pid) for pid in pids()]


def _opened_by(directory: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for link in (directory / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(link)  # noqa: PTH115 - a path object for each open file costs more


def _process(directory: Path) -> list[Process]:
    """Return the process, unless it has ended meanwhile."""
    with contextlib.suppress(OSError):
        return [Process(int(directory.name), (directory / "comm").read_text(errors="replace").strip())]
    return []
