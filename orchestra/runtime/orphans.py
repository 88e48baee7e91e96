"""Processes that a killed driver left behind, as Linux shows them under `/proc`; elsewhere none are found.

Only those of the same user can be looked into, which all of a session's are.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.tools.watch import MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")


def mark_of(directory: Path) -> str:
    """Return the mark of a session's commands: a copy of its directory is another session with the same id."""
    status = directory.stat()
    return f"{directory.name}.{status.st_dev:x}.{status.st_ino:x}"


def kill_marked(mark: str) -> list[int]:
    """Kill every process that bears a mark in its environment, and return their ids.

    Only for a session that nobody drives. The watcher of a killed driver does the same, unless it was killed, too.
    """
    wanted = f"{MARK}={mark}".encode()
    spared = set(_ancestors())  # a person may type `resume` in a terminal that an agent has started
    killed = []
    for process in _processes():
        with suppress(OSError):
            if process not in spared and wanted in (_PROC / str(process) / "environ").read_bytes().split(b"\0"):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
    return killed


def holders(path: Path) -> list[str]:
    """Return `PID (COMMAND)` of the other processes that have a file or directory open."""
    try:
        wanted = path.stat()
    except OSError:
        return []
    found = [process for process in _processes() if process != os.getpid() and _has_open(process, wanted)]
    return [f"{process} ({_name(process)})" for process in found]


def _has_open(process: int, wanted: os.stat_result) -> bool:
    try:
        with os.scandir(_PROC / str(process) / "fd") as entries:
            return any(os.path.samestat(entry.stat(), wanted) for entry in entries if _exists(entry))
    except OSError:
        return False


def _exists(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError:
        return False
    return True


def _name(process: int) -> str:
    try:
        words = (_PROC / str(process) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "gone"
    return Path(os.fsdecode(words[0])).name or "a process that is ending"


def _processes() -> Iterator[int]:
    with suppress(OSError):
        yield from (int(name) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - names, not paths


def _ancestors() -> Iterator[int]:
    process = os.getpid()
    while process > 1:
        yield process
        try:
            stat = (_PROC / str(process) / "stat").read_bytes()
        except OSError:
            return
        process = int(stat.rpartition(b")")[2].split()[1])
