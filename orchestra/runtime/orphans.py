"""Processes that a killed driver left behind, as Linux shows them under `/proc`; elsewhere none are found.

Only those of the same user can be looked into, which all of a session's are.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.runtime.processes import pids
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
    for process in pids():
        with suppress(OSError):
            if process not in spared and wanted in (_PROC / str(process) / "environ").read_bytes().split(b"\0"):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
    return killed


def _ancestors() -> Iterator[int]:
    process = os.getpid()
    while process > 1:
        yield process
        try:
            stat = (_PROC / str(process) / "stat").read_bytes()
        except OSError:
            return
        process = int(stat.rpartition(b")")[2].split()[1])
