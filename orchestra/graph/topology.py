"""What a graph means, before anything is lowered to LangGraph (DESIGN §4).

`analyse` turns the edges of a pipeline into a `Topology`: joins as nodes of their own, the loop targets of bounded
edges, what can be reached from where. Checks, pictures and the compiler read it; it knows nothing of LangGraph.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from orchestra.graph.schema import EdgeSpec

START = "START"
END = "END"


def join_name(target: str) -> str:
    """Return the name of the node that joins the branches before `target`."""
    return f"join.{target}"


@dataclass(frozen=True, slots=True)
class Edge:
    """What starts when `source` has ended; a list edge leaves its join."""

    index: int
    """Position under `graph`, so that messages can point at it."""
    source: str
    """An agent, a step, a join or START."""
    targets: tuple[str, ...]
    labels: Mapping[str, str]
    """What a condition may return: label to target (the targets themselves where `to` has no labels)."""
    condition: str | None = None
    max_loops: int | None = None
    loop_targets: frozenset[str] = frozenset()
    """The targets that lead back to the source; closed after `max_loops` choices where that is given."""
    on_max_loops: str | None = None

    @property
    def key(self) -> str:
        """The edge's name in the state's loop counts."""
        return f"{self.source}#{self.index}"

    @property
    def reachable(self) -> tuple[str, ...]:
        """Every node that this edge can start, `on_max_loops` included."""
        extra = (self.on_max_loops,) if self.on_max_loops and self.on_max_loops not in self.targets else ()
        return tuple(target for target in (*self.targets, *extra) if target != END)


@dataclass(frozen=True, slots=True)
class Join:
    """A node that waits for several sources and then starts one target."""

    name: str
    target: str
    sources: tuple[str, ...]
    mode: Literal["all", "any"]
    index: int
    on_conflict: Literal["agent", "human", "fail"] = "agent"


@dataclass(frozen=True)
class Topology:
    """The analysed graph of a pipeline."""

    nodes: tuple[str, ...]
    """Agents and steps, in the order of the file."""
    joins: Mapping[str, Join]
    """By name; in the order of the file."""
    edges: Mapping[str, tuple[Edge, ...]]
    """The edges that leave a node (START and joins too), without those into a join."""
    arrivals: Mapping[str, tuple[str, ...]]
    """The joins at which a node arrives when it has ended."""
    exits: frozenset[str]
    """Nodes with an edge to END, or with none at all."""
    successors: Mapping[str, tuple[str, ...]]
    """Every arc: from START, nodes and joins to nodes and joins."""
    predecessors: Mapping[str, tuple[str, ...]]
    """The same arcs backwards."""
    _reach: dict[tuple[str, str | None], frozenset[str]] = field(default_factory=dict, repr=False, compare=False)

    def reaches(self, source: str, avoiding: str | None = None) -> frozenset[str]:
        """Return what can still be started from `source`, itself included, without passing `avoiding`."""
        key = (source, avoiding)
        if key not in self._reach:
            closed = frozenset() if avoiding is None else frozenset((avoiding,))
            self._reach[key] = frozenset(reachable(self.successors, (source,), closed))
        return self._reach[key]


def reachable(
    successors: Mapping[str, Sequence[str]], sources: Iterable[str], avoiding: Collection[str] = ()
) -> set[str]:
    """Return every node on a way from `sources`, themselves included, that passes no node of `avoiding`."""
    seen = {source for source in sources if source not in avoiding}
    queue = deque(seen)
    while queue:
        for target in successors.get(queue.popleft(), ()):
            if target not in seen and target not in avoiding:
                seen.add(target)
                queue.append(target)
    return seen


def analyse(nodes: Sequence[str], graph: Sequence[EdgeSpec]) -> Topology:
    """Analyse the edges of a pipeline whose names have been checked.

    Args:
        nodes: Agents and steps, in the order of the file.
        graph: The entries under `graph`.

    Returns:
        The topology. A bounded edge whose way on is not unique keeps `on_max_loops=None`: `checks` reports it.
    """
    joins, edges, arrivals = _split(graph)
    exits = _exits(nodes, edges, arrivals)
    successors = _successors(edges, arrivals)
    looped = {source: tuple(_with_loops(edge, successors) for edge in leaving) for source, leaving in edges.items()}
    successors = _successors(looped, arrivals)
    return Topology(
        nodes=tuple(nodes),
        joins=joins,
        edges=looped,
        arrivals=arrivals,
        exits=exits,
        successors=successors,
        predecessors=_predecessors(successors),
    )


def _split(
    graph: Sequence[EdgeSpec],
) -> tuple[dict[str, Join], dict[str, tuple[Edge, ...]], dict[str, tuple[str, ...]]]:
    """Make joins of the list edges; a list edge to END needs none, since the run's end waits for all anyway."""
    joins: dict[str, Join] = {}
    edges: defaultdict[str, list[Edge]] = defaultdict(list)
    arrivals: defaultdict[str, list[str]] = defaultdict(list)
    for spec in graph:
        labels = dict(spec.labels) if spec.labels else {target: target for target in spec.targets}
        sources = spec.sources
        if len(sources) > 1 and spec.targets != (END,):
            (target,) = spec.targets
            join = Join(join_name(target), target, sources, spec.join or "all", spec.index, spec.on_conflict or "agent")
            joins[join.name] = join
            for source in sources:
                arrivals[source].append(join.name)
            sources = (join.name,)
        for source in sources:
            edges[source].append(
                Edge(
                    index=spec.index,
                    source=source,
                    targets=spec.targets,
                    labels=labels,
                    condition=spec.condition,
                    max_loops=spec.max_loops,
                    on_max_loops=spec.on_max_loops,
                )
            )
    return joins, {key: tuple(value) for key, value in edges.items()}, {k: tuple(v) for k, v in arrivals.items()}


def _exits(
    nodes: Sequence[str], edges: Mapping[str, Sequence[Edge]], arrivals: Mapping[str, Sequence[str]]
) -> frozenset[str]:
    ending = {
        source for source, leaving in edges.items() for edge in leaving if END in (*edge.targets, edge.on_max_loops)
    }
    without = {node for node in nodes if node not in edges and node not in arrivals}
    return frozenset((ending | without) & set(nodes))


def _successors(
    edges: Mapping[str, Sequence[Edge]], arrivals: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for source, leaving in edges.items():
        for edge in leaving:
            found[source].update(dict.fromkeys(edge.reachable))
    for source, reached in arrivals.items():
        found[source].update(dict.fromkeys(reached))
    return {source: tuple(targets) for source, targets in found.items()}


def _predecessors(successors: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for source, targets in successors.items():
        for target in targets:
            found[target].append(source)
    return {target: tuple(sources) for target, sources in found.items()}


def _with_loops(edge: Edge, successors: Mapping[str, Sequence[str]]) -> Edge:
    """Find the loop targets of an edge, and where it goes when they are closed (DESIGN §4, `max_loops`)."""
    without_source = reachable(successors, (START,), (edge.source,))
    loop_targets = frozenset(
        target
        for target in edge.targets
        if target != END
        and (target in without_source or target == edge.source)
        and edge.source in reachable(successors, (target,))
    )
    onward = [target for target in dict.fromkeys(edge.targets) if target not in loop_targets]
    fallback = edge.on_max_loops or (onward[0] if len(onward) == 1 and edge.max_loops is not None else None)
    return replace(edge, loop_targets=loop_targets, on_max_loops=fallback)
