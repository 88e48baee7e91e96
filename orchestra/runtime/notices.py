"""What a user should know when a session starts: notes, and warnings with a code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """One line for the session's log."""

    text: str
    code: str | None = None
    """Of a warning; None: a note."""

    @property
    def event(self) -> tuple[str, dict[str, str]]:
        """The type and the payload of its event."""
        if self.code is None:
            return "note", {"text": self.text}
        return "warning", {"code": self.code, "message": self.text}


def listed(names: list[str], most: int = 5) -> str:
    """Name the first of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
