"""The graph with the way that the session has taken, taken apart and put together again as elements of the page."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from orchestra.cli.page.html import el, visible
from orchestra.graph.drawing.svg import render_svg

if TYPE_CHECKING:
    from orchestra.cli.page.html import Element, Node
    from orchestra.graph.drawing.route import Route
    from orchestra.graph.outline import Outline

_SVG = "{http://www.w3.org/2000/svg}"


def picture(outline: Outline | None, route: Route | None, session: str) -> Node:
    """Draw the graph; where the log does not tell it, say so."""
    if outline is not None:
        try:
            # The drawing is our own; what does not belong on a page is found all the same, and then nothing is drawn.
            drawn = _element(ET.fromstring(visible(render_svg(outline, route))))  # noqa: S314 - no entities
        except (ET.ParseError, ValueError, KeyError):
            pass
        else:
            return el("div", drawn, class_="scroll graph")
    return el("p", "Its log does not tell the graph: ", el("code", f"orchestra graph {session}"), class_="dim")


def _element(xml: ET.Element) -> Element:
    children: list[Node] = [xml.text or ""]
    for child in xml:
        if child.tag != f"{_SVG}style":  # the page has it
            children.append(_element(child))
        children.append(child.tail or "")
    return el(xml.tag.removeprefix(_SVG), *children, **xml.attrib)
