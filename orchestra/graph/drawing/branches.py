"""The branches of a graph as a tree, for formats that draw a frame around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestra.graph.outline import Outline, OutlineNode


@dataclass(slots=True)
class Branch:
    """A branch, or the whole graph."""

    name: str
    """Of its first node; of the whole graph empty."""
    nodes: list[OutlineNode] = field(default_factory=list)
    """Those of it that lie in no branch inside."""
    branches: list[Branch] = field(default_factory=list)


def branch_tree(outline: Outline) -> Branch:
    """Return the nodes of a graph by branch; a branch of a single node needs no frame and is left out."""
    sizes: dict[tuple[str, ...], int] = {}
    for node in outline.nodes:
        for depth in range(1, len(node.branches) + 1):
            path = node.branches[:depth]
            sizes[path] = sizes.get(path, 0) + 1
    known: dict[tuple[str, ...], Branch] = {(): Branch("")}
    names = outline.by_name
    for node in outline.nodes:
        branch = known[()]
        for depth in range(1, len(node.branches) + 1):
            path = node.branches[:depth]
            if sizes[path] == 1 or path[-1] not in names:
                break
            if path not in known:
                known[path] = Branch(path[-1])
                branch.branches.append(known[path])
            branch = known[path]
        branch.nodes.append(node)
    return known[()]
