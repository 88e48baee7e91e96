"""Texts of any length on a page of a bounded one: short ones as they are, long ones folded, very long ones cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestra.cli.page.html import el, escaped
from orchestra.cli.page.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestra.cli.page.html import Element, Node

MOST = 20_000
"""Characters of one text that are shown."""
_SHORT = 700
"""Up to so many a text is not folded."""
_SHORT_LINES = 14
_GIST = 110
"""Characters of a folded text that are shown."""
_LEAST = 80
_INLINE = 72


class Room:
    """How much of a page is left for a part of it.

    Args:
        left: Bytes.
    """

    def __init__(self, left: int) -> None:
        self.left = left
        self.is_cut = False
        """Whether something was left out."""

    def take(self, text: str) -> tuple[str, int]:
        """Return as much of a text as there is room for, and how many characters are left out."""
        room = max(self.left, _LEAST)
        shown = text[: min(MOST, room)]
        while (needed := len(escaped(shown).encode())) > room:
            shown = shown[: int(len(shown) * room / needed * 0.95)]
        self.left -= needed
        cut = len(text) - len(shown)
        self.is_cut = self.is_cut or cut > 0
        return shown, cut


def block(text: str, room: Room, *, label: str = "", style: str = "", left_out: int = 0, fold: bool = False) -> Node:
    """Show a text.

    Args:
        text: Whatever it holds.
        room: For it.
        label: What it is.
        style: `prose` for what people read as a text.
        left_out: Characters that were left out already.
        fold: Whether it is folded also where it is short.
    """
    shown, cut = room.take(text)
    cut += left_out
    rest = el("p", f"[… {counted(cut, 'character')} left out]", class_="left-out") if cut else ""
    if fold and not cut and len(shown) <= _INLINE and "\n" not in shown:
        return el("div", el("span", label, class_="label"), " ", shown, class_="inline")
    is_short = len(shown) <= _SHORT and shown.count("\n") < _SHORT_LINES
    body = el("pre", shown, class_=f"text {style}".strip(), tabindex=None if is_short else 0)
    if is_short and not fold:
        return [el("div", label, class_="label") if label else "", body, rest]
    return el("details", _summary(label, text), body, rest, class_="fold")


def value_block(value: object, room: Room, *, label: str = "", style: str = "") -> Node:
    """Show a JSON value; a text as a text."""
    if isinstance(value, str):
        return block(value, room, label=label, style=style)
    return block(as_json(value), room, label=label)


def arguments(args: Mapping[str, Any], room: Room) -> Iterator[Element]:
    """Yield the arguments of a call, each with its name."""
    for name, value in args.items():
        text = value if isinstance(value, str) else as_json(value)
        shown_name, _ = room.take(name)
        if len(text) <= _INLINE and "\n" not in text:
            shown, _ = room.take(text)
            yield el("div", el("span", shown_name, class_="label"), " ", el("code", shown), class_="arg")
        else:
            yield el("div", block(text, room, label=shown_name), class_="arg")


def gist(value: object) -> str:
    """Return a line that says what a value is about."""
    if isinstance(value, dict):
        text = "  ".join(f"{str(key)[:40]}={_flat(item)}" for key, item in [*value.items()][:6])
    else:
        text = _flat(value)
    return text if len(text) <= _GIST else f"{text[: _GIST - 1]}…"


def as_json(value: object) -> str:
    """Return a value as a person reads it."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def _flat(value: object) -> str:
    text = value[: 2 * _GIST] if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return " ".join(text[: 2 * _GIST].split())


def _summary(label: str, text: str) -> Element:
    lines = text.count("\n") + 1
    size = f"{counted(len(text), 'character')}, {counted(lines, 'line')}"
    return el(
        "summary",
        el("span", label, class_="label") if label else "",
        " ",
        el("span", gist(text), class_="gist"),
        " ",
        el("small", size, class_="dim"),
    )
