"""Named points at which a test may kill the process; without effect unless the environment arms one.

`ORCHESTRA_FAILPOINT=turn-committed:2` kills the process with SIGKILL when it passes that point for the second time.
`ORCHESTRA_FAILPOINT_TRACE=FILE` appends the name of each point passed to a file, so that tests find them all.
Points lie between any two things that must survive a crash: file, object, reference, event, checkpoint, branch.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

_hits: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Die here if the environment says so."""
    if trace := os.environ.get("ORCHESTRA_FAILPOINT_TRACE"):
        with Path(trace).open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    armed = os.environ.get("ORCHESTRA_FAILPOINT")
    if armed is None:
        return
    wanted, _, count = armed.partition(":")
    if wanted == name:
        _hits[name] += 1
        if _hits[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
