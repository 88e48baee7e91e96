"""The graph in Graphviz' language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.graph.drawing.branches import branch_tree
from orchestra.graph.drawing.states import COLOURS
from orchestra.graph.drawing.text import plain
from orchestra.graph.drawing.wording import heading_of, lines_of_arrow, lines_of_node

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestra.graph.drawing.branches import Branch
    from orchestra.graph.drawing.route import Route
    from orchestra.graph.outline import Outline, OutlineEdge, OutlineNode

_STYLES = {
    "agent": 'shape=box, style="rounded"',
    "step": "shape=box",
    "join": "shape=hexagon",
    "start": "shape=oval",
    "end": "shape=oval",
}


def render_dot(outline: Outline, route: Route | None = None) -> str:
    """Write a graph, and the way that a session has taken through it, for Graphviz."""
    return "".join(f"{line}\n" for line in _lines(outline, route))


def _lines(outline: Outline, route: Route | None) -> Iterator[str]:
    ids = {node.name: f"n{number}" for number, node in enumerate(outline.nodes)}
    yield f"digraph {_quoted([outline.pipeline])} {{"
    yield f"    label={_quoted(heading_of(outline, route))};"
    yield '    labelloc="t";'
    yield '    node [fontname="monospace", fontsize=11];'
    yield '    edge [fontname="monospace", fontsize=10];'
    yield from _nodes(branch_tree(outline), outline, route, ids, "    ")
    for number, edge in enumerate(outline.edges):
        about = _edge(edge, route.along(number) if route else None)
        yield f"    {ids[edge.source]} -> {ids[edge.target]}{about};"
    yield "}"


def _nodes(branch: Branch, outline: Outline, route: Route | None, ids: dict[str, str], indent: str) -> Iterator[str]:
    for node in branch.nodes:
        yield f"{indent}{ids[node.name]} [{_node(node, outline, route)}];"
    for inner in branch.branches:
        yield f"{indent}subgraph cluster_{ids[inner.name]} {{"
        yield f"{indent}    label={_quoted([inner.name])}; color=gray;"
        yield from _nodes(inner, outline, route, ids, indent + "    ")
        yield f"{indent}}}"


def _node(node: OutlineNode, outline: Outline, route: Route | None) -> str:
    colour = f', color="{COLOURS[route.at(node.name).state]}"' if route else ""
    return f"label={_quoted(lines_of_node(node, outline, route, loops=False))}, {_STYLES[node.kind]}{colour}"


def _edge(edge: OutlineEdge, taken: int | None) -> str:
    lines = lines_of_arrow(edge, taken)
    settings = [f"label={_quoted(lines)}"] if lines else []
    if edge.condition:
        settings.append("style=dashed")
    if taken:
        settings.append(f'penwidth=2, color="{COLOURS["running"]}"')
    return f" [{', '.join(settings)}]" if settings else ""


def _quoted(lines: Iterable[str]) -> str:
    """Return lines as one quoted text; in it Graphviz would read entities, and names after a backslash."""
    escaped = (plain(line).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + r"\n".join(escaped) + '"'
