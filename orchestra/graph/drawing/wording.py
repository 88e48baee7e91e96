"""The words in pictures: what a node is and did, what an arrow says; all of it safe for any format as one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.graph.drawing.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.graph.drawing.route import Fork, Route, Visit
    from orchestra.graph.outline import Outline, OutlineEdge, OutlineNode

_FORKS = 3
"""Forks of one node that are named."""


def title_of(node: OutlineNode) -> str:
    """Return how a node is called."""
    if node.kind == "join":
        return f"wait for {plain(node.mode or 'all')}"
    return plain(node.name)


def lines_of_node(
    node: OutlineNode, outline: Outline, route: Route | None, *, model: bool = True, loops: bool = True
) -> list[str]:
    """Return what stands in a node: how it is called, what it is, and what a session did there.

    Args:
        node: One of the outline's.
        outline: The graph.
        route: What a session did.
        model: Whether an agent's model stands there.
        loops: Whether the arrows from the node to itself stand there, because the format does not draw them.
    """
    lines = [title_of(node), *facts_of(node, outline, model=model)]
    if loops:
        lines += _loops_of(node, outline, route)
    if route is not None:
        lines += [*visit_of(route.at(node.name), node.kind), *forks_at(node.name, route)]
    return lines


def lines_of_arrow(edge: OutlineEdge, taken: int | None) -> list[str]:
    """Return what stands at an arrow, with how often a session has taken it."""
    return [*label_of(edge), *([f"taken {taken}x"] if taken else [])]


def facts_of(node: OutlineNode, outline: Outline, *, model: bool = True) -> Iterator[str]:
    """Yield what a node is, a fact a line."""
    if node.mode == "interactive":
        yield "interactive"
    if node.model and model:
        yield plain(node.model)
    if node.tool:
        yield f"step {plain(node.tool)}"
    if node.writes:
        yield f"writes {', '.join(map(plain, node.writes))}"
    for condition in dict.fromkeys(edge.condition for edge in outline.edges if edge.source == node.name):
        if condition:
            yield f"asks {plain(condition)}"


def _loops_of(node: OutlineNode, outline: Outline, route: Route | None) -> Iterator[str]:
    for number, edge in enumerate(outline.edges):
        if edge.source == edge.target == node.name:
            about = lines_of_arrow(edge, route.along(number) if route else None)
            yield f"loops: {', '.join(about)}" if about else "loops"


def visit_of(visit: Visit, kind: str) -> Iterator[str]:
    """Yield what a session did at a node."""
    if kind == "join" and visit.turns > 1:
        yield f"{visit.turns:,} rounds"
    if kind in ("start", "end", "join"):
        return
    if visit.state != "done":
        yield visit.state.replace("-", " ")
    if visit.turns:
        yield f"{_times(visit.turns, 'turn')}, {duration(visit.seconds)}"
    if visit.tokens or visit.cost_usd is None:
        cost = "cost unknown" if visit.cost_usd is None else f"${visit.cost_usd:.4f}"
        yield f"{visit.tokens:,} tokens, {cost}"


def forks_at(node: str, route: Route) -> Iterator[str]:
    """Yield which sessions have left at a node's turns, and where the session itself has left another one."""
    forks = [fork for fork in route.forks if fork.node == node]
    yield from (f"fork {plain(fork.session_id)}{_at_turn(fork)}" for fork in forks[:_FORKS])
    if len(forks) > _FORKS:
        yield f"and {_times(len(forks) - _FORKS, 'more fork')}"
    left = route.forked_from
    if left and left.node == node:
        yield f"left {plain(left.session_id)} here{_at_turn(left)}"


def _at_turn(fork: Fork) -> str:
    return f", turn {fork.turn}" if fork.turn else ""


def label_of(edge: OutlineEdge) -> list[str]:
    """Return what stands at an arrow, a thing a line."""
    lines = [plain(edge.label)] if edge.label else []
    if edge.max_loops is not None:
        lines.append(bound_of(edge.max_loops))
    if edge.is_fallback:
        lines.append("else")
    return lines


def bound_of(most: int) -> str:
    """Say how often an arrow may be taken."""
    return {0: "never", 1: "at most once"}.get(most, f"at most {most} times")


def about_arrow(edge: OutlineEdge, taken: int | None = None) -> str:
    """Say all of an arrow in one line."""
    words = [f"{plain(edge.source)} → {plain(edge.target)}"]
    if edge.condition:
        words.append(f"where {plain(edge.condition)} says so")
    words += label_of(edge)
    if taken is not None:
        words.append(f"taken {_times(taken, 'time')}" if taken else "not taken")
    return ", ".join(words)


def heading_of(outline: Outline, route: Route | None) -> Iterator[str]:
    """Yield what the picture shows, and where the session has left another one."""
    name = plain(outline.pipeline)
    yield f"{name}: {plain(outline.description)}" if outline.description else name
    if route is not None:
        yield f"session {plain(route.session_id)}: {plain(route.status)}"
        left = route.forked_from
        if left is not None and left.node is None:
            yield f"left {plain(left.session_id)} at {plain(left.checkpoint_id)}"
        for fork in route.forks:
            if fork.node is None:
                yield f"fork {plain(fork.session_id)} at {plain(fork.checkpoint_id)}"


def duration(seconds: float) -> str:
    """Say how long something took."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _times(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
