"""How problems look in a terminal: the place, the line with a caret, the reason, what to type."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.errors import Location, Problem

_WIDTH = 100
"""Columns of a snippet; a longer line is cut around the caret."""
_MAX_CARETS = 40
_WORD = re.compile(r"""\"(?:[^"\\]|\\.)*\"|'[^']*'|[^\s,:\[\]{}"']+""")
_NOT_ASCII = re.compile(r"[^\n -~]")
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def render_problems(problems: Iterable[Problem]) -> str:
    """Render problems in the order given, a blank line between two."""
    return "\n\n".join(render_problem(problem) for problem in problems)


def render_problem(problem: Problem) -> str:
    """Render one problem as plain text, without a line break at its end.

    Nothing in it can steer a terminal: control characters of file names, snippets and messages are escaped.
    """
    head = f"{problem.severity}[{problem.code}]: {escape(problem.message, keep_lines=True)}"
    parts = [head]
    if problem.location is not None:
        place = problem.location
        parts = [f"{escape(_shown_path(place.path))}:{place.line}:{place.column}: {head}"]
        if place.text.strip():
            parts.append(_snippet(place))
    if problem.hint:
        parts.append(f"hint: {escape(problem.hint, keep_lines=True)}")
    return "\n".join(parts)


def escape(text: str, *, keep_lines: bool = False) -> str:
    """Make control, format and bidirectional characters visible."""
    return _escape(text, "\n" if keep_lines else "")


def escape_prose(text: str) -> str:
    """Make visible what could steer a terminal; lines, tabs and the joiners of scripts and emoji are kept."""
    return _escape(text, "\n\t\u200c\u200d")


def as_json(document: object, *, indent: int | None = 2) -> str:
    """Write a JSON document in which nothing can steer a terminal: such characters stand as JSON's own escapes."""
    import json

    def unit(match: re.Match[str]) -> str:
        char = match[0]
        return char if _is_plain(char) else json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"

    return _NOT_ASCII.sub(unit, json.dumps(document, ensure_ascii=False, indent=indent, default=str))


def _escape(text: str, kept: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_plain(char) or char in kept else _escaped(char) for char in text)


def _is_plain(char: str) -> bool:
    return " " <= char <= "~" or unicodedata.category(char) not in _ESCAPED_CATEGORIES


def _escaped(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:  # noqa: PLR2004 - two hexadecimal digits
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - four


def _shown_path(path: Path) -> str:
    """Show a path relative to the current directory when it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _snippet(place: Location) -> str:
    # A window first: the line of a hostile file may be a megabyte.
    offset = max(0, place.column - 1 - 2 * _WIDTH)
    line = place.text[offset : offset + 5 * _WIDTH]
    start = max(0, min(place.column - 1 - offset, len(line)))
    match = _WORD.match(line, start)
    end = min(match.end() if match else start + 1, start + _MAX_CARETS)
    before, word, after = (_visible(part) for part in (line[:start], line[start:end], line[end:].rstrip()))
    before, word, after = _fit(before, word, after)
    number = str(place.line)
    gutter = " " * len(number)
    carets = "^" * max(1, _columns(word))
    return "\n".join(
        [f" {gutter} |", f" {number} | {before}{word}{after}".rstrip(), f" {gutter} | {' ' * _columns(before)}{carets}"]
    )


def _visible(text: str) -> str:
    return escape(text.replace("\t", "→"))


def _fit(before: str, word: str, after: str) -> tuple[str, str, str]:
    """Cut a long line on both sides of the marked word."""
    if _columns(before + word + after) <= _WIDTH:
        return before, word, after
    room = max(10, _WIDTH - _columns(word))
    left = before
    if _columns(before) > room // 2 and _columns(after) > room // 2:
        left = _tail(before, room // 2)
    elif _columns(before) > room // 2:
        left = _tail(before, room - _columns(after))
    return left, word, _head(after, room - _columns(left))


def _tail(text: str, width: int) -> str:
    kept = ""
    for char in reversed(text):
        if _columns(char + kept) >= width:
            return "…" + kept
        kept = char + kept
    return kept


def _head(text: str, width: int) -> str:
    kept = ""
    if _columns(text) <= width:
        return text
    for char in text:
        if _columns(kept + char) >= width:
            break
        kept += char
    return kept + "…"


def _columns(text: str) -> int:
    """Count the terminal columns of a text: East Asian wide characters take two, combining marks none."""
    return sum(_column(char) for char in text)


def _column(char: str) -> int:
    if " " <= char <= "~":
        return 1
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
