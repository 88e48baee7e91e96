"""Meetings: where changes of parallel writers come together, and who resolves conflicts there (DESIGN §5.9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestra.graph.topology import reachable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from orchestra.agents.meeting import Resolver
    from orchestra.graph.parallel import Parallelism
    from orchestra.graph.regions import Branches
    from orchestra.graph.topology import Join, Topology


@dataclass(frozen=True, slots=True)
class Meeting:
    """Writers of one repo that can be active together, and the join at which their changes are merged."""

    join: str | None
    """None: they meet at no join, so they are merged at the session's end."""
    repo: str
    writers: tuple[str, ...]
    """In the order of the file."""
    sources: tuple[str, ...] = ()
    """The join's sources that bring these changes."""


@dataclass(frozen=True)
class Meetings:
    """Where in a pipeline changes can conflict."""

    found: tuple[Meeting, ...] = ()
    """Those at joins first, in the order of the file."""
    _joins: Mapping[str, Join] = field(default_factory=dict)
    _resolving: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Agent → the repos that it may write."""

    def at(self, join: str) -> dict[str, Meeting]:
        """Return what can conflict at a join, by repo."""
        return {meeting.repo: meeting for meeting in self.found if meeting.join == join}

    def resolver(self, join: str, repo: str) -> Resolver:
        """Say who resolves a conflict at a join: its target only where that is an agent that may write there."""
        spec = self._joins[join]
        if spec.on_conflict == "agent" and repo not in self._resolving.get(spec.target, ()):
            return "human"
        return spec.on_conflict


def find_meetings(
    topology: Topology,
    parallelism: Parallelism,
    branches: Branches,
    writes: Mapping[str, Collection[str]],
    agents: Collection[str],
) -> Meetings:
    """Find where the changes of parallel writers meet.

    Args:
        topology: The analysed graph.
        parallelism: Who can be active together.
        branches: The branches of the graph.
        writes: For each agent and step the repos that it may write.
        agents: Those that are agents.
    """
    arriving = {
        join.name: _arriving(topology, join, _level(topology, branches, join.name)) for join in topology.joins.values()
    }
    at_joins: list[Meeting] = []
    at_end: list[Meeting] = []
    for repo in dict.fromkeys(repo for node in topology.nodes for repo in writes.get(node, ())):
        writers = [node for node in topology.nodes if repo in writes.get(node, ())]
        found = _Search(topology, parallelism, arriving, repo, writers)
        at_joins += found.at_joins()
        at_end += found.at_end()
    order = {name: number for number, name in enumerate(topology.joins)}
    at_joins.sort(key=lambda meeting: order[meeting.join or ""])
    resolving = {name: written for name, written in writes.items() if name in agents}
    return Meetings((*at_joins, *at_end), topology.joins, resolving)


def _level(topology: Topology, branches: Branches, node: str) -> frozenset[str]:
    branch = branches.branch_of(node)
    return branch.members if branch else frozenset((*topology.nodes, *topology.joins))


def _arriving(topology: Topology, join: Join, level: frozenset[str]) -> dict[str, set[str]]:
    """Return, for each source of a join, what can lead to it without passing the join."""
    return {
        source: reachable(topology.predecessors, (source,), (join.name,)) & level
        for source in dict.fromkeys(join.sources)
    }


class _Search:
    """Finds the meetings of one repo."""

    def __init__(
        self,
        topology: Topology,
        parallelism: Parallelism,
        arriving: Mapping[str, Mapping[str, set[str]]],
        repo: str,
        writers: list[str],
    ) -> None:
        self._joins = topology.joins
        self._arriving = arriving
        self._repo = repo
        self._writers = writers
        among = frozenset(writers)
        self._left: dict[str, set[str]] = {writer: set() for writer in writers}
        """Writer → those beside it that it has not met at a join that waits for all."""
        for one, other in parallelism.pairs:
            if one in among and other in among and one != other:
                self._left[one].add(other)

    def at_joins(self) -> Iterator[Meeting]:
        """Yield what meets at joins; first where each comes by a way of its own."""
        beside = {writer: frozenset(others) for writer, others in self._left.items()}
        met = {join: self._meet(join, _apart(sides), beside) for join, sides in self._arriving.items()}
        for join, sides in self._arriving.items():
            # What came late to a join of mode `any` is merged at the next one that waits for all.
            if self._joins[join].mode == "all":
                behind = set[str]().union(*sides.values())
                left = {writer: frozenset(others) for writer, others in self._left.items()}
                met[join] |= self._meet(join, dict.fromkeys(behind, behind), left)
        for join, writers in met.items():
            if writers:
                sources = tuple(source for source, side in self._arriving[join].items() if writers & side)
                yield Meeting(join, self._repo, self._ordered(writers), sources)

    def _meet(self, join: str, apart: Mapping[str, Collection[str]], beside: Mapping[str, frozenset[str]]) -> set[str]:
        """Return the writers that meet another one at a join; a pair that waits there is no longer left."""
        writers = set()
        for writer in self._writers:
            others = beside[writer].intersection(apart.get(writer, ()))
            if others:
                writers.add(writer)
                if self._joins[join].mode == "all":
                    self._left[writer] -= others
        return writers

    def at_end(self) -> Iterator[Meeting]:
        """Yield what is left: groups of writers that meet at no join."""
        beside = {writer: tuple(others) for writer, others in self._left.items()}
        told: set[str] = set()
        for writer in self._writers:
            if beside[writer] and writer not in told:
                group = reachable(beside, (writer,))
                told |= group
                yield Meeting(None, self._repo, self._ordered(group))

    def _ordered(self, writers: set[str]) -> tuple[str, ...]:
        return tuple(writer for writer in self._writers if writer in writers)


def _apart(sides: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    """Return, for each node behind a join, the others that can arrive there by another way."""
    found: dict[str, list[str]] = {}
    for source, side in sides.items():
        for node in side:
            found.setdefault(node, []).append(source)
    ways = {node: tuple(taken) for node, taken in found.items()}
    by_ways: dict[tuple[str, ...], set[str]] = {}
    for node, taken in ways.items():
        by_ways.setdefault(taken, set()).add(node)
    others = {taken: frozenset(ways) if len(taken) > 1 else frozenset(ways) - nodes for taken, nodes in by_ways.items()}
    return {node: others[taken] for node, taken in ways.items()}
