"""What tests of processes share: forks that can be signalled, and what is left of them."""

from __future__ import annotations

import os
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def fork(work: Callable[[], Any]) -> int:
    """Run something in a forked process with a group of its own, and return its id.

    A fork has LangGraph imported already, which would cost a new process seconds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            code = work() or 0
        finally:
            os._exit(code)
    with suppress(OSError):  # the fork has done so itself, and may be gone
        os.setpgid(pid, pid)
    return pid


def exit_code(pid: int) -> int:
    """Wait for a forked process, and return its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def of_session(session: str) -> list[int]:
    """Return the processes that bear a session's name in their environment, as its commands do."""
    wanted, found = f"ORCHESTRA_SESSION={session}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in environment:
            found.append(int(entry.name))
    return found


def until(holds: Callable[[], Any], seconds: float = 2.0) -> bool:
    """Wait until something holds; False when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
