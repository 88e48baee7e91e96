"""Texts in pictures: how many columns they take, cut to a width, with nothing in them that could steer anything."""

from __future__ import annotations

import unicodedata

_STEERING = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Categories of control and format characters, of lone surrogates, and of what is no character."""


def plain(text: str) -> str:
    """Return a text as one line that every format can hold: what steers terminals or breaks XML is replaced."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in _STEERING else char
        for char in " ".join(text.split())
    )


def columns(text: str) -> int:
    """Count the columns of a text: East Asian wide characters take two, combining marks none."""
    return sum(map(width_of, text))


def width_of(char: str) -> int:
    """Return how many columns a character takes."""
    if " " <= char <= "~":
        return 1
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return a text that takes at most so many columns; one that was cut ends with an ellipsis."""
    if columns(text) <= width:
        return text
    kept, room = "", max(width - 1, 0)
    for char in text:
        room -= width_of(char)
        if room < 0:
            break
        kept += char
    return f"{kept}…"
