"""The graph as Mermaid, for pages that draw it themselves.

Names of nodes are our own; all other texts stand in quotes, with every character that could mean something written as
its code, so that no text can break out.
"""

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

_HARMLESS = frozenset(" -_.,:/+()$")
_SHAPES = {"start": ("([", "])"), "end": ("([", "])"), "step": ("[", "]"), "join": ("{{", "}}")}


def render_mermaid(outline: Outline, route: Route | None = None) -> str:
    """Write a graph, and the way that a session has taken through it, as a Mermaid flowchart."""
    return "".join(f"{line}\n" for line in _lines(outline, route))


def _lines(outline: Outline, route: Route | None) -> Iterator[str]:
    ids = {node.name: f"n{number}" for number, node in enumerate(outline.nodes)}
    yield "flowchart TD"
    yield f"    accTitle: {_escaped(', '.join(heading_of(outline, route)))}"
    yield from _nodes(branch_tree(outline), outline, route, ids, "    ")
    for number, edge in enumerate(outline.edges):
        yield f"    {ids[edge.source]} {_arrow(edge, route.along(number) if route else None)} {ids[edge.target]}"
    if route is not None:
        for state, colour in COLOURS.items():
            reached = [ids[node.name] for node in outline.nodes if route.at(node.name).state == state]
            if reached:
                name = state.replace("-", "")
                yield f"    classDef {name} stroke:{colour},stroke-width:2px"
                yield f"    class {','.join(reached)} {name}"


def _nodes(branch: Branch, outline: Outline, route: Route | None, ids: dict[str, str], indent: str) -> Iterator[str]:
    for node in branch.nodes:
        yield f"{indent}{ids[node.name]}{_node(node, outline, route)}"
    for inner in branch.branches:
        yield f'{indent}subgraph b{ids[inner.name]}["{_escaped(inner.name)}"]'
        yield from _nodes(inner, outline, route, ids, indent + "    ")
        yield f"{indent}end"


def _node(node: OutlineNode, outline: Outline, route: Route | None) -> str:
    begin, end = _SHAPES.get(node.kind, ("(", ")"))
    return f'{begin}"{_joined(lines_of_node(node, outline, route, loops=False))}"{end}'


def _arrow(edge: OutlineEdge, taken: int | None) -> str:
    lines = lines_of_arrow(edge, taken)
    line = "==>" if taken else "-.->" if edge.condition else "-->"
    return f'{line}|"{_joined(lines)}"|' if lines else line


def _joined(lines: Iterable[str]) -> str:
    return "<br/>".join(map(_escaped, lines))


def _escaped(text: str) -> str:
    return "".join(char if char.isalnum() or char in _HARMLESS else f"#{ord(char)};" for char in plain(text))
