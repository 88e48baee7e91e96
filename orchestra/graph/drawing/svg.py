"""The graph as SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestra.graph.drawing.route import Route
    from orchestra.graph.outline import Outline


def render_svg(outline: Outline, route: Route | None = None) -> str:
    """Draw a graph, and the way that a session has taken through it."""
    rows = []
    for place, node in enumerate(outline.nodes):
        told = f" ({route.at(node.name).state})" if route else ""
        rows.append(f'<text x="8" y="{20 * place + 20}" fill="currentColor">{escape(node.name + told)}</text>')
    height = 20 * len(rows) + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="og-graph" role="img" viewBox="0 0 400 {height}">'
        + "".join(rows)
        + "</svg>"
    )
