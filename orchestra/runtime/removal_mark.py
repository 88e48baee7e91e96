"""The mark of a session that a cleanup has begun to remove: how far it may have come when it was cut off."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from orchestra.errors import SessionError

if TYPE_CHECKING:
    from orchestra.runtime.store import SessionFiles

_REFERENCES = "references"


def mark_begun(files: SessionFiles) -> None:
    """Note that the session's worktrees go, which a resume could make anew; what was noted before stays noted."""
    files.cleanup_mark.touch(mode=0o600)


def mark_half_removed(files: SessionFiles) -> None:
    """Note that its references go: from now on it can't be resumed."""
    files.cleanup_mark.write_text(f"{_REFERENCES}\n", encoding="ascii")


def is_half_removed(files: SessionFiles) -> bool:
    """Tell whether references of the session may be gone."""
    with suppress(OSError):
        return files.cleanup_mark.read_text(encoding="ascii", errors="replace").startswith(_REFERENCES)
    return False


def refuse_half_removed(files: SessionFiles) -> None:
    """Refuse a session of which a cleanup that was cut off may have removed commits.

    Raises:
        SessionError: `cleanup-begun`.
    """
    if is_half_removed(files):
        error = SessionError(
            f"a cleanup was removing the session {files.session_id} when it was cut off",
            code="cleanup-begun",
            hint=f"let it finish: orchestra cleanup {files.session_id}",
        )
        error.exit_code = 2  # nothing was started
        raise error


def unmark(files: SessionFiles) -> None:
    """Let the session be one like others again, unless references of it may be gone."""
    if not is_half_removed(files):
        files.cleanup_mark.unlink(missing_ok=True)
