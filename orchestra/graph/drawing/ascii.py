"""The graph in characters, for a terminal; where it does not fit, as an indented list of its arrows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.graph.drawing.canvas import DOWN, UP, Canvas
from orchestra.graph.drawing.layers import Arrow, Size
from orchestra.graph.drawing.layout import Metrics, lay_out
from orchestra.graph.drawing.states import MARKS, PLAIN_MARKS
from orchestra.graph.drawing.text import columns, cut, plain
from orchestra.graph.drawing.wording import about_arrow, heading_of, label_of, lines_of_arrow, lines_of_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.graph.drawing.layout import Layout, Line
    from orchestra.graph.drawing.route import Route
    from orchestra.graph.outline import Outline, OutlineEdge, OutlineNode

LEAST_WIDTH = 20
_MOST_NODES = 120
"""A larger graph is a list: nobody could follow its lines."""
_LABEL = 32
"""Columns of a line of an arrow's label; all of it then stands below the picture."""


def render_ascii(outline: Outline, route: Route | None = None, *, width: int = 80, unicode: bool = True) -> str:
    """Draw a graph in characters.

    Args:
        outline: The graph.
        route: What a session did.
        width: The columns that there are.
        unicode: Whether box-drawing characters may be used.
    """
    width = max(width, LEAST_WIDTH)
    head = [cut(line, width) for line in heading_of(outline, route)]
    body = None
    if len(outline.nodes) <= _MOST_NODES:
        for style in _STYLES:
            body = _Sheet(outline, route, style, unicode=unicode).draw(width)
            if body is not None:
                break
    lines = [*head, "", *(body if body is not None else _listed(outline, route, width))]
    text = "".join(f"{line}\n" for line in lines)
    return text if unicode else _in_ascii(text)


def _in_ascii(text: str) -> str:
    for char, instead in (("→", "->"), ("…", "...")):
        text = text.replace(char, instead)
    return text


@dataclass(frozen=True, slots=True)
class _Style:
    """How much stands in the picture itself; the rest stands below it."""

    models: bool = True
    details: bool = True
    labels: bool = True
    gap: int = 2


_STYLES = (
    _Style(),
    _Style(models=False),
    _Style(models=False, details=False),
    _Style(models=False, details=False, labels=False),
    _Style(models=False, details=False, labels=False, gap=1),
)


class _Sheet:
    def __init__(self, outline: Outline, route: Route | None, style: _Style, *, unicode: bool) -> None:
        self._outline = outline
        self._route = route
        self._style = style
        self._unicode = unicode
        self._canvas = Canvas(unicode=unicode, dotted=route is not None)
        self._notes: list[str] = []
        self._footnotes: list[str] = []
        """What stands below."""
        self._texts = {node.name: [*self._lines_of(node)] for node in outline.nodes}
        self._labels = [self._label(number, edge) for number, edge in enumerate(outline.edges)]

    def draw(self, width: int) -> list[str] | None:
        """Return the picture as lines; None where it is wider."""
        names = {node.name: place for place, node in enumerate(self._outline.nodes)}
        arrows = [
            Arrow(names[edge.source], names[edge.target], edge.is_back, _text_size(label))
            for edge, label in zip(self._outline.edges, self._labels, strict=True)
        ]
        end = next((place for place, node in enumerate(self._outline.nodes) if node.kind == "end"), None)
        sizes = [self._size(node) for node in self._outline.nodes]
        if max(size.width for size in sizes) > width:
            return None
        layout = lay_out(sizes, arrows, Metrics(gap=self._style.gap, line=1, head=1), end)
        if layout.width > width:
            return None
        self._draw(layout)
        below = [*(() if self._style.models else _models(self._outline)), *self._notes, *self._footnotes]
        notes = [line for note in below for line in _wrapped(note, width)]
        return [*self._canvas.rows(), *(["", *notes] if notes else [])]

    def _lines_of(self, node: OutlineNode) -> Iterator[str]:
        title, *details = lines_of_node(node, self._outline, self._route, model=self._style.models)
        if self._route is not None and node.kind not in ("start", "end"):
            marks = MARKS if self._unicode else PLAIN_MARKS
            title = f"{marks[self._route.at(node.name).state]} {title}"
        yield title
        if self._style.details:
            yield from details
        elif details:
            self._notes.append(f"{title}: {'; '.join(details)}")

    def _label(self, number: int, edge: OutlineEdge) -> list[str]:
        if edge.source == edge.target or not label_of(edge):
            return []
        taken = self._route.along(number) if self._route else None
        if self._style.labels:
            lines = lines_of_arrow(edge, taken)
            short = [cut(line, _LABEL) for line in lines]
            if short != lines:
                self._footnotes.append(about_arrow(edge, taken))
            return short
        mark = f"[{len(self._footnotes) + 1}]"
        self._footnotes.append(f"{mark} {about_arrow(edge, taken)}")
        return [mark]

    def _size(self, node: OutlineNode) -> Size:
        lines = self._texts[node.name]
        width = max(map(columns, lines))
        if _is_boxed(node):
            return Size(max(width + 4, 9), len(lines) + 2, node.branches)
        return Size(max(width, 5) | 1, len(lines), node.branches)

    def _draw(self, layout: Layout) -> None:
        for node, box in zip(self._outline.nodes, layout.nodes, strict=True):
            edge = int(_is_boxed(node))
            if edge:
                heavy = self._route is not None and self._route.at(node.name).state != "not-reached"
                self._canvas.box(box.x, box.y, box.width, box.height, 1 + heavy, rounded=node.kind == "agent")
            for row, text in enumerate(self._texts[node.name]):
                self._canvas.text(box.x + (box.width - columns(text)) // 2, box.y + edge + row, text)
        for line in layout.lines:
            self._line(line)
        for arrow, box in layout.labels.items():
            for row, text in enumerate(self._labels[arrow]):
                self._canvas.text(box.x + (box.width - columns(text)) // 2, box.y + row, text)
        for line in layout.lines:
            self._count(line)

    def _line(self, line: Line) -> None:
        weight = 1 + (self._route is not None and any(map(self._route.along, line.arrows)))
        (x, top), (to_x, bottom) = line.points[0], line.points[-1]
        self._canvas.line([*line.points[:-1], (to_x, bottom - 1)], line.net, weight)
        self._canvas.touch(x, top, UP, line.net, weight)
        self._canvas.touch(to_x, bottom - 1, DOWN, line.net, weight)
        # Where it begins at the edge of a box.
        if line.upwards:
            self._canvas.leave(to_x, bottom, UP, weight)
        else:
            self._canvas.leave(x, top - 1, DOWN, weight)
        if line.head is not None:
            down, up = "▼▲" if self._unicode else "v^"
            self._canvas.text(*((x, top) if line.upwards else (to_x, bottom - 1)), up if line.upwards else down)

    def _count(self, line: Line) -> None:
        """Write how often an arrow was taken beside its head, where there is room and no label tells it."""
        if self._route is None or line.head is None or not line.is_alone or self._labels[line.arrows[0]]:
            return
        taken = self._route.along(line.arrows[0])
        x, y = line.head if line.upwards else (line.head[0], line.head[1] - 1)
        text = f"{taken}x"
        if taken > 1 and self._canvas.is_free(x + 2, y, len(text)):
            self._canvas.text(x + 2, y, text)


def _models(outline: Outline) -> Iterator[str]:
    """Yield which model has which agents, where they don't stand in the boxes."""
    users: dict[str, list[str]] = {}
    for node in outline.nodes:
        if node.model:
            users.setdefault(plain(node.model), []).append(plain(node.name))
    for model, names in users.items():
        yield f"{model}: {', '.join(names) if len(users) > 1 else 'all agents'}"


def _is_boxed(node: OutlineNode) -> bool:
    return node.kind in ("agent", "step")


def _text_size(lines: list[str]) -> Size | None:
    return Size(max(map(columns, lines)) | 1, len(lines)) if lines else None


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Yield a text as lines of at most so many columns where its words allow it."""
    line = ""
    for word in text.split(" "):
        if line and columns(line) + 1 + columns(word) > width:
            yield line
            line = f"    {word}"
        else:
            line = f"{line} {word}" if line else word
    yield line


def _listed(outline: Outline, route: Route | None, width: int) -> Iterator[str]:
    """Yield the graph as a list: each node, and below it what it leads to."""
    for node in outline.nodes:
        title, *facts = lines_of_node(node, outline, route)
        title = title if node.kind != "join" else f"{plain(node.name)}: {title}"
        yield from _wrapped("; ".join([title, *facts]), width)
        for number, edge in enumerate(outline.edges):
            if edge.source == node.name:
                taken = route.along(number) if route is not None else None
                _, _, about = about_arrow(edge, taken).partition(" → ")
                yield from ("  " + line for line in _wrapped(f"→ {about}", width - 2))
