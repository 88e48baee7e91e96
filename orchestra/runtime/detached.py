"""A driver in the background: a process of its own that outlives the terminal, and writes into the session's log file.

It is the `resume` of a session that nobody has driven yet, so that whatever becomes of it, the session can go on.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestra.errors import SessionError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.store import Status, read_session

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.store import SessionFiles, SessionRecord

_LOOK_AGAIN = 0.05
_SHOWN = 2_000
"""Characters of its last words."""
_WAITS = frozenset({Status.CREATED, Status.INTERRUPTED})


def start_driver(files: SessionFiles, root: Path) -> subprocess.Popen[bytes]:
    """Start a process that drives a session, in a session of its own without a terminal.

    Args:
        files: The session's; its lock must be free.
        root: The project.
    """
    failpoint("driver-due")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log = os.open(files.driver_log, flags, 0o600)
    try:
        driver = subprocess.Popen(
            # -P: what lies in the project's directory is not for Python to import.
            [sys.executable, "-P", "-m", "orchestra", "resume", files.session_id],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    failpoint("driver-started")
    return driver


async def until_driven(files: SessionFiles, driver: subprocess.Popen[bytes]) -> SessionRecord:
    """Wait until a process in the background drives its session, or has done so already.

    Raises:
        SessionError: `driver-ended`: it has ended before.
    """
    while True:
        code = driver.poll()  # first: what it has done before it ended counts
        record = read_session(files)
        if record.status not in _WAITS:
            return record
        if code is not None:
            raise _ended(files, code)
        await asyncio.sleep(_LOOK_AGAIN)


def _ended(files: SessionFiles, code: int) -> SessionError:
    how = f"signal {-code} ended it" if code < 0 else f"exit code {code}"
    said = ""
    with suppress(OSError):
        said = files.driver_log.read_text(encoding="utf-8", errors="replace").strip()[-_SHOWN:]
    what = "the process in the background ended before it could drive the session"
    error = SessionError(
        f"{what} ({how}):\n{said}" if said else f"{what}, without a word ({how})",
        code="driver-ended",
        hint=f"the session is there: orchestra resume {files.session_id}",
    )
    error.session_id = files.session_id
    return error
