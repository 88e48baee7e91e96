"""Lock files of git that stand in the way: waited for, and removed only where they are a session's own and stale."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from orchestra.runtime.git_errors import lock_in
from orchestra.runtime.processes import gits_in, holder_of

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.errors import GitError

WAIT = 30.0
"""Seconds that a command tries again, in all."""
GRACE = 2.0
"""Seconds after which a lock of our own that nobody has open, and nobody has touched, is a killed git's."""
_PAUSES = (0.05, 2.0)


class LockWait:
    """The patience of one git command (D9). Time is the monotonic clock's: a lock's age may be nonsense.

    Args:
        session: Whose locks may be removed; the caller holds the session's lock, so that no git of it is at work
            but its own. None: nobody's.
        place: Where the command runs.
    """

    def __init__(self, session: str | None, place: Path) -> None:
        self._session = session
        self._place = place
        self._started = time.monotonic()
        self._pause = _PAUSES[0]
        self._seen: tuple[Path, tuple[int, int]] | None = None
        self._since = self._started

    async def again(self, error: GitError) -> bool:
        """Wait after a command failed; False: not for a lock, or it was waited for long enough."""
        lock = lock_in(error.stderr, self._place) if error.code == "git-locked" else None
        if lock is None or lock.name == "orchestra.index.lock":  # that one `stage` knows to be stale at once
            return False
        if self._is_stale(lock):
            lock.unlink(missing_ok=True)
            return True
        left = WAIT - (time.monotonic() - self._started)
        if left <= 0:
            return False
        await asyncio.sleep(min(self._pause, left))
        self._pause = min(self._pause * 2, _PAUSES[1])
        return True

    def _is_stale(self, lock: Path) -> bool:
        try:
            info = lock.stat()
        except OSError:
            return False
        seen = (lock, (info.st_ino, info.st_mtime_ns))
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since >= GRACE and self._is_own(lock) and not self._is_busy(lock)

    def _is_busy(self, lock: Path) -> bool:
        """Tell whether a git still needs it; one that waits for its editor or a hook has it not open."""
        return holder_of(lock) is not None or (lock.parent.parent.name == "worktrees" and bool(gits_in([self._place])))

    def _is_own(self, lock: Path) -> bool:
        """Tell whether a lock is of this session: on its references, its branch, or inside its worktree's directory."""
        if self._session is None:
            return False
        parts = lock.parts
        name = parts[-1].removesuffix(".lock")
        if "refs" in parts:
            below = parts[len(parts) - 1 - parts[::-1].index("refs") + 1 :]
            if below[0] == "orchestra":
                return len(below) > 2 and below[1] == self._session  # noqa: PLR2004 - refs/orchestra/{session}/…
            return below[0] == "heads" and (name == self._session or name.endswith(f"-{self._session}"))
        with contextlib.suppress(OSError):
            text = (lock.parent / "locked").read_text(errors="replace")
            return lock.parent.parent.name == "worktrees" and text.startswith(f"orchestra:{self._session}:")
        return False
