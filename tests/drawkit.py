"""What tests of pictures share: small outlines, random ones, and a check that a layout can be read."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from orchestra.graph.outline import Outline, OutlineEdge, OutlineNode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.graph.drawing.layout import Box, Layout


def sketch(*edges: OutlineEdge, **nodes: OutlineNode) -> Outline:
    """Make an outline of arrows; what is not described is an agent, or a join by its name."""
    names = dict.fromkeys(name for edge in edges for name in (edge.source, edge.target))
    inner = [nodes.get(name.replace("-", "_"), _node(name)) for name in names if name not in ("START", "END")]
    return Outline("sketch", "A sketch", (OutlineNode("START", "start"), *inner, OutlineNode("END", "end")), edges)


def _node(name: str) -> OutlineNode:
    if name.startswith("join."):
        return OutlineNode(name, "join", mode="all")
    return OutlineNode(name, "agent", mode="autonomous", model="p/m")


LOOPS = sketch(
    OutlineEdge("START", "plan"),
    OutlineEdge("plan", "left"),
    OutlineEdge("plan", "right"),
    OutlineEdge("left", "join.critic"),
    OutlineEdge("right", "join.critic"),
    OutlineEdge("join.critic", "critic"),
    OutlineEdge("critic", "left", "verdict", "revise", max_loops=2, is_back=True),
    OutlineEdge("critic", "END", "verdict", "approve"),
)


@st.composite
def outlines(draw: st.DrawFn, texts: st.SearchStrategy[str] | None = None) -> Outline:
    """Graphs of all sorts, also such as no pipeline could have."""
    strange = st.just("") if texts is None else texts
    texts = st.sampled_from(["ok", "a longer label", "标签"]) if texts is None else texts
    count = draw(st.integers(1, 9))
    # A log may be somebody else's: its names may be anything.
    names = ["START", *(f"agent-{number}{draw(strange)}" for number in range(count)), "END"]
    free = st.none() | texts
    nodes = [
        OutlineNode(
            name,
            draw(st.sampled_from(["agent", "step", "join"])),
            mode=draw(st.sampled_from([None, "all", "interactive"])),
            model=draw(free),
            tool=draw(free),
            writes=tuple(draw(st.lists(texts, max_size=2))),
            branches=tuple(draw(st.lists(st.sampled_from(names[1:4]), max_size=2, unique=True))),
        )
        for name in names[1:-1]
    ]
    edges = [
        OutlineEdge(
            source,
            target,
            condition=draw(free),
            label=draw(free),
            max_loops=draw(st.none() | st.integers(0, 3)),
            is_back=draw(st.booleans()),
            is_fallback=draw(st.booleans()),
        )
        for source, target in draw(
            st.lists(st.tuples(st.sampled_from(names[:-1]), st.sampled_from(names[1:])), max_size=16)
        )
    ]
    whole = (OutlineNode("START", "start"), *nodes, OutlineNode("END", "end"))
    return Outline(draw(texts), draw(texts), whole, tuple(edges))


def faults(layout: Layout) -> list[str]:
    """Return why a picture could be misread: boxes over boxes, lines through boxes, lines over lines."""
    boxes = {f"node {place}": box for place, box in enumerate(layout.nodes)}
    boxes |= {f"label {arrow}": box for arrow, box in layout.labels.items()}
    found = [f"{one} over {other}" for one, other in combinations(boxes, 2) if _overlap(boxes[one], boxes[other])]
    for number, line in enumerate(layout.lines):
        for name, box in boxes.items():
            if any(_enters(piece, box) for piece in pairwise(line.points)):
                found.append(f"line {number} through {name}")
    for one, other in combinations(range(len(layout.lines)), 2):
        first, second = layout.lines[one], layout.lines[other]
        ends = {first.points[0], first.points[-1]} & {second.points[0], second.points[-1]}
        if first.net != second.net and not ends and _run_together(first.points, second.points):
            found.append(f"line {one} over line {other}")
    sheet = (range(layout.width + 1), range(layout.height + 1))
    outside = (
        name
        for name, box in boxes.items()
        if box.x not in sheet[0] or box.x + box.width not in sheet[0] or box.y + box.height not in sheet[1]
    )
    return [*found, *(f"{name} outside the picture" for name in outside)]


def _overlap(one: Box, other: Box) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


def _enters(piece: tuple[tuple[int, int], tuple[int, int]], box: Box) -> bool:
    """Tell whether a piece of line comes into a box: it may end at its edges, where it belongs."""
    (x, y), (to_x, to_y) = piece
    left, right, top, bottom = min(x, to_x), max(x, to_x), min(y, to_y), max(y, to_y)
    return left < box.x + box.width and right >= box.x and top < box.y + box.height and bottom > box.y


def _run_together(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> bool:
    return any(_share(piece, another) for piece in pairwise(one) for another in pairwise(other))


def _share(one: tuple[tuple[int, int], tuple[int, int]], other: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    """Tell whether two pieces run along each other for a while."""
    for axis in (0, 1):
        if len({one[0][axis], one[1][axis], other[0][axis], other[1][axis]}) == 1:
            begin = max(min(end[1 - axis] for end in piece) for piece in (one, other))
            end = min(max(end[1 - axis] for end in piece) for piece in (one, other))
            return end > begin
    return False
