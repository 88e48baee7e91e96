"""A colour for each agent, the same in every view and every run."""

from __future__ import annotations

from zlib import crc32

_COLOURS = {
    "cyan": "36",
    "magenta": "35",
    "yellow": "33",
    "blue": "34",
    "bright_cyan": "96",
    "bright_magenta": "95",
    "bright_yellow": "93",
    "bright_blue": "94",
}
"""Names that Rich knows → the terminal's codes. Neither red nor green: these mean something, and not to everybody."""


def colour_of(name: str) -> str:
    """Return the name of an agent's colour, as Rich calls it."""
    names = [*_COLOURS]
    return names[crc32(name.encode("utf-8", "backslashreplace")) % len(names)]


def painted(text: str, name: str) -> str:
    """Return a text in an agent's colour, for a terminal that has colours.

    Args:
        text: In which nothing can steer the terminal.
        name: The agent's.
    """
    return f"\x1b[{_COLOURS[colour_of(name)]}m{text}\x1b[0m" if text else text
