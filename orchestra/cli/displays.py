"""How the progress of a session is shown, and which way a terminal, a pipe and the user's wish allow."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TextIO

from orchestra.errors import PipelineError

_LEAST_COLUMNS = 40
"""Of a live view."""


class Display(StrEnum):
    """A way to show progress, on standard error."""

    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    JSON = "json"
    QUIET = "quiet"


def choose(wanted: Display, *, quiet: bool, stream: TextIO | None = None) -> Display:
    """Return how progress is shown; where that can't be what was asked for, it is said.

    Args:
        wanted: `--display`.
        quiet: `-q`.
        stream: Where to; standard error.

    Raises:
        PipelineError: The two contradict each other.
    """
    if quiet:
        if wanted not in (Display.AUTO, Display.QUIET):
            message = f"`-q` shows no progress, and `--display {wanted}` does"
            raise PipelineError(message, code="bad-option", hint="give one of them")
        return Display.QUIET
    if wanted not in (Display.AUTO, Display.RICH):
        return wanted
    stream = stream or sys.stderr
    missing = _what_is_missing(stream)
    if missing is None and (wanted is Display.RICH or not _is_ci()):
        return Display.RICH
    if wanted is Display.RICH:
        from orchestra.cli.screen import Screen

        Screen(stream).write(f"`--display rich` needs {missing}; progress is shown as lines\n")
    return Display.PLAIN


def _what_is_missing(stream: TextIO) -> str | None:
    try:
        if not stream.isatty():
            return "standard error to be a terminal"
    except ValueError:  # closed
        return "standard error to be open"
    from orchestra.cli.screen import Screen, is_dumb

    if is_dumb():
        return "a terminal that understands escape sequences (`TERM`)"
    if Screen(stream).size()[0] < _LEAST_COLUMNS:
        return f"a terminal of {_LEAST_COLUMNS} columns"
    return None


def _is_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")
