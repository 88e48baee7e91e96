"""HTML as a tree of elements and texts, made so that content can be nothing but text.

There is no way to put markup into it: elements and attributes are those of a fixed list, none of which runs or loads
anything, and every other string is escaped where it is written. What can't be seen is made visible, so that a text
can't pretend to be another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from html import escape as escape_html
from typing import TypeAlias

from orchestra.cli.render import escape

ELEMENTS = frozenset(
    (
        *("a", "body", "code", "dd", "details", "div", "dl", "dt", "footer", "h1", "h2", "h3", "h4"),
        *("head", "header", "html", "li", "main", "meta", "nav", "p", "pre", "section", "small", "span"),
        *("strong", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "time", "title", "tr"),
        *("ul", "svg", "circle", "g", "line", "path", "rect", "text"),
    )
)
ATTRIBUTES = frozenset(
    (
        *("aria-hidden", "aria-label", "charset", "class", "colspan", "content", "cx", "cy", "d"),
        *("height", "href", "http-equiv", "id", "lang", "name", "open", "r", "role", "rx", "scope"),
        *("tabindex", "viewBox", "width", "x", "x1", "x2", "y", "y1", "y2"),
    )
)
_VOID = frozenset({"meta"})
_ANCHOR = re.compile(r"#[a-z0-9-]+")
_NAMES = re.compile(r"[a-z0-9 -]+")
_UNSEEN = re.compile(r"[^\n\t -~]")
_JOINERS = "\u200c\u200d"
"""Scripts and emoji need them."""

Node: TypeAlias = "str | Element | Iterable[Node]"
"""A text, an element, or several one after the other, which may be made only when they are written."""


class Element:
    """An element; use `el`."""

    __slots__ = ("attributes", "children", "tag")

    def __init__(self, tag: str, attributes: dict[str, str], children: tuple[Node, ...]) -> None:
        self.tag, self.attributes, self.children = tag, attributes, children


class Style(Element):
    """The page's own style, the one text that is written as it is."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        if "<" in text or "&" in text:
            raise ValueError("a style holds markup")
        super().__init__("style", {}, ())
        self.text = text


def el(tag: str, *children: Node, **attributes: str | float | bool | None) -> Element:
    """Make an element.

    Args:
        tag: Its name.
        children: What it holds.
        attributes: As keywords: `class_`, `aria_label`; None and False: it has none, True: it has no value.

    Raises:
        ValueError: The element, or an attribute, is none that a page may have.
    """
    if tag not in ELEMENTS:
        raise ValueError(f"no element of a page: {tag!r}")
    given: dict[str, str] = {}
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if name not in ATTRIBUTES:
            raise ValueError(f"no attribute of a page: {name!r}")
        if value is None or value is False:
            continue
        text = "" if value is True else value if isinstance(value, str) else f"{value:.6g}"
        if name == "href" and not _ANCHOR.fullmatch(text):
            raise ValueError("a page links to places in itself only")
        if name in ("class", "id") and not _NAMES.fullmatch(text):
            raise ValueError(f"no {name} of a page: {text!r}")
        given[name] = text
    return Element(tag, given, children)


def render(node: Node) -> Iterator[str]:
    """Yield the HTML of a node in pieces."""
    if isinstance(node, str):
        yield escaped(node)
    elif isinstance(node, Style):
        yield f"<style>{node.text}</style>"
    elif isinstance(node, Element):
        attributes = "".join(f' {name}="{escaped(value)}"' for name, value in node.attributes.items())
        # The first line break in a `pre` is not a part of it.
        yield f"<{node.tag}{attributes}>" + ("\n" if node.tag == "pre" else "")
        for child in node.children:
            yield from render(child)
        if node.tag not in _VOID:
            yield f"</{node.tag}>"
    else:
        for child in node:
            yield from render(child)


def escaped(text: str) -> str:
    """Return a text as it stands in HTML."""
    return escape_html(visible(text), quote=True)


def visible(text: str) -> str:
    """Make visible what is not: control characters, lone surrogates, what changes the direction of a text."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: _seen(match[0]), text.replace("\r\n", "\n"))


@lru_cache(maxsize=4_096)
def _seen(char: str) -> str:
    return char if char in _JOINERS else escape(char)
