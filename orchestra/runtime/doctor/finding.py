"""What the doctor says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.errors import OrchestraError


class State(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    """Orchestra works, but something is lost, left over, or may go wrong."""
    ERROR = "error"
    """Something that Orchestra needs does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; a warning or an error says what to do."""

    check: str
    """Which check found it."""
    status: State
    message: str
    fix: str | None = None
    """What to do, in words, or one command to type."""
    commands: tuple[str, ...] = ()
    """Commands to type, one after another, quoted for a shell."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The values in the message, for programs."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of `orchestra doctor --json`."""
        return {
            "check": self.check,
            "status": str(self.status),
            "message": self.message,
            "fix": "\n".join((*([self.fix] if self.fix else []), *self.commands)) or None,
            "commands": list(self.commands),
            "details": dict(self.details),
        }


def of_error(check: str, error: OrchestraError, *, fix: str, status: State = State.ERROR, **details: Any) -> Finding:
    """Make a finding of an error.

    Args:
        check: Who found it.
        error: Its message is the finding's, its hint the fix.
        fix: What to do where the error has no hint.
        status: How bad it is.
        details: More for programs; the error's code is added.
    """
    message = "; ".join(error.message.splitlines())
    return Finding(check, status, message, error.hint or fix, details={"code": error.code, **details})
