"""Lines, places in them, and the secrets that must not leave the file with them."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from orchestra.errors import Location

if TYPE_CHECKING:
    from pathlib import Path

MAX_MESSAGE = 500

_LINE_BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML's parser counts as a line break."""
_SECRET_KEYS = re.compile(
    r"""(?ix)(\b(?:api[-_]?key|secret|password|token|access[-_]?token|auth[-_]?token|authorization)["']?\s*:\s*)
        (?:"[^"]*"?|'[^']*'?|[^\s,}]+(?:[ ][^\s,}]+)*)"""
)
_MISPLACED_KEYS = re.compile(
    r"""(\bapi_key_env["']?\s*:\s*)(?!["']?(?:[A-Z_][A-Z0-9_]*|[a-z_]+)["']?\s*(?:[,}\#]|$))
        (?:"[^"]*"?|'[^']*'?|[^\s,}]+)""",
    re.VERBOSE,
)
"""A key where the name of its variable belongs."""
_SECRET_SHAPES = re.compile(
    r"\b(?:sk-[\w-]{12,}|gsk_\w{12,}|hf_\w{12,}|xai-[\w-]{12,}|pplx-\w{12,}|AIza[\w-]{20,}|gh[pousr]_\w{20,}|AKIA\w{12,})"
)


def split_lines(text: str) -> tuple[str, ...]:
    """Split a text at the line breaks that YAML knows."""
    return tuple(_LINE_BREAKS.split(text))


@functools.lru_cache(maxsize=16)
def hide_secrets(line: str) -> str:
    """Black out what looks like a key or password, so that no snippet carries it into a terminal or a log."""
    line = _MISPLACED_KEYS.sub(r"\1***", _SECRET_KEYS.sub(r"\1***", line))
    return _SECRET_SHAPES.sub("***", line)


def clip(message: str) -> str:
    """Make a message safe to keep: without secrets, and short even when a key of the file is a megabyte."""
    message = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
    return hide_secrets(message)


def make_location(path: Path, lines: tuple[str, ...], line: int, column: int) -> Location:
    """Make a location with the line's text, its secrets hidden."""
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    return Location(path, line, column, hide_secrets(text))
