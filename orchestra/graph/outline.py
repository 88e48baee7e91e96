"""The outline of a pipeline's graph: what pictures, live views and reports draw, as plain data.

It is written into the event log when a session starts, so that whoever looks on needs neither the pipeline's files nor
the compiler.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestra.graph.topology import END, START

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.graph.topology import Edge

Kind = Literal["start", "agent", "step", "join", "end"]


@dataclass(frozen=True, slots=True)
class OutlineNode:
    """One node of the graph."""

    name: str
    kind: Kind
    mode: str | None = None
    """Of an agent: `autonomous` or `interactive`; of a join: `all` or `any`."""
    model: str | None = None
    """Of an agent: `provider/model`."""
    tool: str | None = None
    """Of a step."""
    writes: tuple[str, ...] = ()
    """Repos that it may change."""
    branches: tuple[str, ...] = ()
    """The branches that it lies in, the outermost first; a branch is called as its first node."""

    def as_json(self) -> dict[str, Any]:
        """Return the node as in `orchestra graph --format json`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "mode": self.mode,
            "model": self.model,
            "tool": self.tool,
            "writes": list(self.writes),
            "branches": list(self.branches),
        }


@dataclass(frozen=True, slots=True)
class OutlineEdge:
    """One arrow of the graph."""

    source: str
    target: str
    condition: str | None = None
    label: str | None = None
    """What the condition returns to take this arrow, where that is not the target's name; several joined by ` | `."""
    max_loops: int | None = None
    """How often this way back may be taken."""
    is_back: bool = False
    """It leads back to what has run before."""
    is_fallback: bool = False
    """It is taken when the ways back are closed, and only then."""

    def as_json(self) -> dict[str, Any]:
        """Return the arrow as in `orchestra graph --format json`."""
        return {
            "from": self.source,
            "to": self.target,
            "condition": self.condition,
            "label": self.label,
            "max_loops": self.max_loops,
            "back": self.is_back,
            "fallback": self.is_fallback,
        }


@dataclass(frozen=True, slots=True)
class Outline:
    """The graph of one pipeline."""

    pipeline: str
    description: str
    nodes: tuple[OutlineNode, ...]
    """START first, END last; between them joins stand before their targets, else in the order of the file."""
    edges: tuple[OutlineEdge, ...]

    @property
    def by_name(self) -> dict[str, OutlineNode]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "pipeline": self.pipeline,
            "description": self.description,
            "nodes": [node.as_json() for node in self.nodes],
            "edges": [edge.as_json() for edge in self.edges],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outline:
        """Read an outline.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        nodes = tuple(
            OutlineNode(
                name=str(node["name"]),
                kind=node["kind"],
                mode=node["mode"],
                model=node["model"],
                tool=node["tool"],
                writes=tuple(map(str, node["writes"])),
                branches=tuple(map(str, node["branches"])),
            )
            for node in value["nodes"]
        )
        edges = tuple(
            OutlineEdge(
                source=str(edge["from"]),
                target=str(edge["to"]),
                condition=edge["condition"],
                label=edge["label"],
                max_loops=edge["max_loops"],
                is_back=bool(edge["back"]),
                is_fallback=bool(edge["fallback"]),
            )
            for edge in value["edges"]
        )
        known = {node.name for node in nodes}
        if any(edge.source not in known or edge.target not in known for edge in edges):
            raise ValueError("an arrow of the outline ends at no node")
        return cls(str(value["pipeline"]), str(value["description"]), nodes, edges)


def outline(pipeline: ResolvedPipeline) -> Outline:
    """Return the outline of a pipeline."""
    nodes = [OutlineNode(START, "start")]
    joins: defaultdict[str, list[str]] = defaultdict(list)
    for join in pipeline.topology.joins.values():
        joins[join.target].append(join.name)
    for name in pipeline.topology.nodes:
        nodes += [_join(pipeline, join) for join in joins[name]]
        nodes.append(_node(pipeline, name))
    nodes.append(OutlineNode(END, "end"))
    order = {node.name: place for place, node in enumerate(nodes)}
    edges = sorted(_edges(pipeline), key=lambda edge: order[edge.source])
    return Outline(pipeline.pipeline.name, pipeline.pipeline.description or "", tuple(nodes), tuple(edges))


def _around(pipeline: ResolvedPipeline, name: str) -> tuple[str, ...]:
    return tuple(branch.entry for branch in pipeline.branches.around(name))


def _join(pipeline: ResolvedPipeline, name: str) -> OutlineNode:
    return OutlineNode(name, "join", mode=pipeline.topology.joins[name].mode, branches=_around(pipeline, name))


def _node(pipeline: ResolvedPipeline, name: str) -> OutlineNode:
    branches = _around(pipeline, name)
    if name in pipeline.steps:
        step = pipeline.steps[name]
        return OutlineNode(name, "step", tool=step.spec.tool, writes=step.writes, branches=branches)
    agent = pipeline.agents[name]
    model = f"{agent.model.provider.name}/{agent.model.model}"
    return OutlineNode(name, "agent", mode=agent.spec.mode, model=model, writes=agent.writes, branches=branches)


def _edges(pipeline: ResolvedPipeline) -> Iterator[OutlineEdge]:
    topology = pipeline.topology
    for leaving in topology.edges.values():
        for edge in leaving:
            yield from _arrows(edge)
    for source, arrivals in topology.arrivals.items():
        for join in arrivals:
            yield OutlineEdge(source, join)
    for name in topology.nodes:
        if name not in topology.edges and name not in topology.arrivals:
            yield OutlineEdge(name, END)


def _arrows(edge: Edge) -> Iterator[OutlineEdge]:
    for target in dict.fromkeys(edge.targets):
        is_back = target in edge.loop_targets
        yield OutlineEdge(
            edge.source,
            target,
            condition=edge.condition,
            label=_label(edge, target),
            max_loops=edge.max_loops if is_back else None,
            is_back=is_back,
        )
    if edge.on_max_loops is not None and edge.on_max_loops not in edge.targets:
        yield OutlineEdge(edge.source, edge.on_max_loops, condition=edge.condition, is_fallback=True)


def _label(edge: Edge, target: str) -> str | None:
    labels: Sequence[str] = [label for label, named in edge.labels.items() if named == target]
    return " | ".join(labels) if edge.condition is not None and labels != [target] else None
