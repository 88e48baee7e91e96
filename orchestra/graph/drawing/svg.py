"""The graph as SVG: one element that needs nothing else, for files, notebooks and pages.

Nothing in it has an id, and each class begins with `og-`, so that several fit into one page. It follows the colours
of whoever looks on. All texts come from files that may be somebody else's: they are escaped, and nothing links out.
"""

from __future__ import annotations

from html import escape
from math import ceil
from typing import TYPE_CHECKING

from orchestra.graph.drawing.layers import Arrow, Size
from orchestra.graph.drawing.layout import Metrics, lay_out
from orchestra.graph.drawing.states import MARKS
from orchestra.graph.drawing.text import columns, cut, plain
from orchestra.graph.drawing.wording import (
    about_arrow,
    heading_of,
    label_of,
    lines_of_arrow,
    lines_of_node,
    title_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestra.graph.drawing.layout import Box, Layout, Line
    from orchestra.graph.drawing.route import Route
    from orchestra.graph.outline import Outline, OutlineEdge, OutlineNode

_METRICS = Metrics(gap=28, line=12, head=18, lead=12, frame=10)
_MARGIN = 12
_COLUMN = 7.3
"""Pixels of a column of text at 12 pixels."""
_ROW = 16
_MOST_COLUMNS = 40
_MOST_NODES = 400
_MOST_ARROWS = 1500
"""Of a larger graph nobody could follow the lines, and to lay them out would take long."""
_ROUND = 6
STYLE = """
.og-graph{--og-ink:#1f2328;--og-dim:#59636e;--og-line:#818b98;--og-box:#f6f8fa;--og-edge:#9aa4b0;--og-frame:#818b98;
--og-taken:#0969da;--og-done:#1a7f37;--og-running:#0969da;--og-waiting:#9a6700;--og-failed:#cf222e;
font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){.og-graph{--og-ink:#e6edf3;--og-dim:#9da7b3;--og-line:#7d8590;--og-box:#161b22;
--og-edge:#5b6570;--og-frame:#7d8590;--og-taken:#58a6ff;--og-done:#3fb950;--og-running:#58a6ff;--og-waiting:#d29922;
--og-failed:#ff7b72}}
.og-graph text{fill:var(--og-ink);text-anchor:middle}
.og-graph .og-name{font-weight:600}
.og-graph .og-fact,.og-graph .og-label,.og-graph .og-count{fill:var(--og-dim)}
.og-graph .og-frame{fill:var(--og-frame);fill-opacity:.08;stroke:var(--og-frame);stroke-opacity:.25}
.og-graph .og-node rect{fill:var(--og-box);stroke:var(--og-edge);stroke-width:1.2}
.og-graph .og-step rect{stroke-dasharray:none;stroke-width:2}
.og-graph .og-line{fill:none;stroke:var(--og-line);stroke-width:1.3}
.og-graph .og-if{stroke-dasharray:5 3}
.og-graph .og-head{fill:var(--og-line)}
.og-graph .og-taken.og-line{stroke:var(--og-taken);stroke-width:2.2}
.og-graph .og-taken.og-head{fill:var(--og-taken)}
.og-graph .og-done rect{stroke:var(--og-done)}
.og-graph .og-running rect{stroke:var(--og-running);stroke-width:2.4}
.og-graph .og-waiting rect,.og-graph .og-interrupted rect{stroke:var(--og-waiting);stroke-width:2.4}
.og-graph .og-failed rect{stroke:var(--og-failed);stroke-width:2.4}
.og-graph .og-not-reached{opacity:.5}
""".replace("\n", "")
"""Also for pages that take the elements apart."""


def render_svg(outline: Outline, route: Route | None = None) -> str:
    """Draw a graph, and the way that a session has taken through it.

    Args:
        outline: The graph.
        route: What a session did.
    """
    if len(outline.nodes) > _MOST_NODES or len(outline.edges) > _MOST_ARROWS:
        return _too_large(outline)
    return "".join(_Drawing(outline, route).elements())


def _too_large(outline: Outline) -> str:
    count = f"{len(outline.nodes):,} nodes, {len(outline.edges):,} arrows"
    text = _text(300, 12, f"too large: {count}", "og-fact")
    head = '<svg xmlns="http://www.w3.org/2000/svg" class="og-graph" role="img" width="600" height="40"'
    return f'{head} viewBox="0 0 600 40">{_title(f"{outline.pipeline}: {count}")}<style>{STYLE}</style>{text}</svg>'


class _Drawing:
    def __init__(self, outline: Outline, route: Route | None) -> None:
        self._outline = outline
        self._route = route
        self._facts = [lines_of_node(node, outline, route)[1:] for node in outline.nodes]
        self._labels = [self._label(number, edge) for number, edge in enumerate(outline.edges)]

    def elements(self) -> Iterator[str]:
        layout = self._layout()
        width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
        heading = ", ".join(heading_of(self._outline, self._route))
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="og-graph" role="img" aria-label="{escape(heading)}"'
            f' width="{width}" height="{height}" viewBox="{-_MARGIN} {-_MARGIN} {width} {height}">'
        )
        yield f"<title>{escape(heading)}</title><style>{STYLE}</style>"
        for group, box in layout.frames:
            yield f'<rect class="og-frame" {_placed(box)} rx="10">{_title(f"branch {group[-1]}")}</rect>'
        for line in sorted(layout.lines, key=self._is_taken):
            yield from self._line(line)
        for arrow, box in layout.labels.items():
            yield from self._label_elements(arrow, box)
        for place, box in enumerate(layout.nodes):
            yield from self._node(place, box)
        yield "</svg>"

    def _layout(self) -> Layout:
        names = {node.name: place for place, node in enumerate(self._outline.nodes)}
        arrows = [
            Arrow(names[edge.source], names[edge.target], edge.is_back, _text_size(label))
            for edge, label in zip(self._outline.edges, self._labels, strict=True)
        ]
        sizes = [self._size(place, node) for place, node in enumerate(self._outline.nodes)]
        end = next((place for place, node in enumerate(self._outline.nodes) if node.kind == "end"), None)
        return lay_out(sizes, arrows, _METRICS, end)

    def _label(self, number: int, edge: OutlineEdge) -> list[str]:
        if edge.source == edge.target or not label_of(edge):
            return []
        return lines_of_arrow(edge, self._route.along(number) if self._route else None)

    def _name(self, node: OutlineNode) -> str:
        title = title_of(node)
        if self._route is None or node.kind in ("start", "end"):
            return title
        return f"{MARKS[self._route.at(node.name).state]} {title}"

    def _size(self, place: int, node: OutlineNode) -> Size:
        facts = self._facts[place]
        width = max(min(columns(text), _MOST_COLUMNS) for text in (self._name(node), *facts))
        padding = 10 if node.kind in ("agent", "step") else 4
        return Size(ceil(width * _COLUMN) + 24, _ROW * (len(facts) + 1) + 2 * padding, node.branches)

    def _node(self, place: int, box: Box) -> Iterator[str]:
        node = self._outline.nodes[place]
        name, facts = self._name(node), self._facts[place]
        state = f" og-{self._route.at(node.name).state}" if self._route else ""
        radius = {"agent": 9, "step": 2}.get(node.kind, box.height // 2)
        yield f'<g class="og-node og-{node.kind}{state}">{_title("; ".join([name, *facts]))}'
        yield f'<rect {_placed(box)} rx="{radius}"/>'
        top = box.y + (box.height - _ROW * (len(facts) + 1)) // 2
        for row, text in enumerate([name, *facts]):
            yield _text(box.x + box.width / 2, top + row * _ROW, text, "og-fact" if row else "og-name")
        yield "</g>"

    def _label_elements(self, arrow: int, box: Box) -> Iterator[str]:
        taken = self._route.along(arrow) if self._route else None
        yield f"<g>{_title(about_arrow(self._outline.edges[arrow], taken))}"
        for row, text in enumerate(self._labels[arrow]):
            yield _text(box.x + box.width / 2, box.y + row * _ROW, text, "og-label")
        yield "</g>"

    def _is_taken(self, line: Line) -> bool:
        return self._route is not None and any(map(self._route.along, line.arrows))

    def _line(self, line: Line) -> Iterator[str]:
        edges = [self._outline.edges[arrow] for arrow in line.arrows]
        style = " og-taken" if self._is_taken(line) else ""
        dashed = " og-if" if all(edge.condition for edge in edges) else ""
        counts = [self._route.along(arrow) if self._route else None for arrow in line.arrows]
        told = "\n".join(about_arrow(edge, count) for edge, count in zip(edges, counts, strict=True))
        yield f'<g>{_title(told)}<path class="og-line{style}{dashed}" d="{_path(line.points)}"/>'
        if line.head is not None:
            x, y = line.head
            back = 9 if line.upwards else -9
            yield f'<path class="og-head{style}" d="M{x} {y}L{x - 5} {y + back}L{x + 5} {y + back}Z"/>'
            taken = counts[0] or 0
            if taken > 1 and line.is_alone and not self._labels[line.arrows[0]]:
                yield _text(x + 16, y + (2 if line.upwards else -_ROW - 2), f"{taken}x", "og-count")
        yield "</g>"


def _text_size(lines: Sequence[str]) -> Size | None:
    if not lines:
        return None
    return Size(ceil(min(max(map(columns, lines)), _MOST_COLUMNS) * _COLUMN) + 4, _ROW * len(lines) + 2)


def _text(x: float, y: float, text: str, style: str) -> str:
    """Return a line of text whose row begins at a height."""
    return f'<text class="{style}" x="{x:g}" y="{y + 12:g}">{escape(cut(text, _MOST_COLUMNS))}</text>'


def _title(text: str) -> str:
    lines = "\n".join(map(plain, text.split("\n")))
    return f"<title>{escape(lines)}</title>"


def _placed(box: Box) -> str:
    return f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}"'


def _path(points: Sequence[tuple[int, int]]) -> str:
    """Return a line through points, round where it turns."""
    corners = [point for place, point in enumerate(points) if not place or point != points[place - 1]]
    x, y = corners[0]
    parts = [f"M{x} {y}"]
    for before, (x, y), after in zip(corners, corners[1:], corners[2:], strict=False):
        room = min(_ROUND, *(_distance(end, (x, y)) // 2 for end in (before, after)))
        (from_x, from_y), (to_x, to_y) = _towards((x, y), before, room), _towards((x, y), after, room)
        parts.append(f"L{from_x} {from_y}Q{x} {y} {to_x} {to_y}")
    x, y = corners[-1]
    return "".join([*parts, f"L{x} {y}"])


def _distance(one: tuple[int, int], other: tuple[int, int]) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _towards(point: tuple[int, int], end: tuple[int, int], room: int) -> tuple[int, int]:
    """Return a point so far from another one, in the direction of a third."""
    (x, y), (to_x, to_y) = point, end
    return x + room * ((to_x > x) - (to_x < x)), y + room * ((to_y > y) - (to_y < y))
