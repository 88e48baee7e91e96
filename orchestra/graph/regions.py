"""Branches: the parts of a graph between a fan-out and its join, with one way in and one way out (DESIGN §4).

A branch runs, checkpoints and writes on its own. Everything here is a function of the graph alone; which branches
become graphs of their own is decided here too, so that the lowering has only to follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestra.graph.topology import START, reachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.graph.parallel import Parallelism
    from orchestra.graph.topology import Topology


@dataclass(frozen=True, slots=True)
class Branch:
    """Nodes that are entered at one of them, and left for one join or for END."""

    entry: str
    """Its first agent or step; the branch and its worktree bear this name."""
    members: frozenset[str]
    """Its agents, steps and joins, also those of the branches inside."""
    exit: str | None
    """The join outside at which it arrives; None: it ends at END."""
    branches: tuple[Branch, ...] = ()
    """Those inside it."""

    @property
    def name(self) -> str:
        """The helper node that stands for the branch in the graph around it; it never shows to users."""
        return f"branch.{self.entry}"

    def walk(self) -> Iterator[Branch]:
        """Yield the branch and all inside it."""
        yield self
        for inner in self.branches:
            yield from inner.walk()


@dataclass(frozen=True)
class Branches:
    """The branches of a pipeline."""

    found: tuple[Branch, ...] = ()
    """The outermost ones, also those of one node."""
    lowered: tuple[Branch, ...] = ()
    """Those that become graphs of their own, in the same form; what is inside is lowered too, or left out."""
    _around: dict[str, tuple[Branch, ...]] = field(default_factory=dict, repr=False, compare=False)

    def around(self, node: str) -> tuple[Branch, ...]:
        """Return the branches that a node lies in, the outermost first."""
        if node not in self._around:
            level, path = self.found, []
            while inner := next((branch for branch in level if node in branch.members), None):
                path.append(inner)
                level = inner.branches
            self._around[node] = tuple(path)
        return self._around[node]

    def branch_of(self, node: str) -> Branch | None:
        """Return the innermost branch that a node lies in; None: it lies in none."""
        return next(reversed(self.around(node)), None)

    @property
    def by_name(self) -> dict[str, Branch]:
        """The lowered branches, those inside others too, by the name of the node that stands for them."""
        return {branch.name: branch for outer in self.lowered for branch in outer.walk()}


def find_branches(topology: Topology, parallelism: Parallelism) -> Branches:
    """Find the branches of a graph, and those that can run at their own pace.

    In a graph that is too large to know what runs beside what there are none.
    """
    if not parallelism.complete:
        return Branches()
    search = _Search(topology, parallelism)
    everything = frozenset((*topology.nodes, *topology.joins))
    found = search.inside(everything, None)
    return Branches(found, search.paced(everything, found))


class _Search:
    def __init__(self, topology: Topology, parallelism: Parallelism) -> None:
        self._topology = topology
        self._doubled = parallelism.doubled
        self._beside: dict[str, set[str]] = {}
        for one, other in parallelism.pairs:
            self._beside.setdefault(one, set()).add(other)
        self._sources: dict[str, set[str]] = {}
        for source, targets in topology.successors.items():
            for target in targets:
                self._sources.setdefault(target, set()).add(source)

    def inside(self, level: frozenset[str], entry: str | None) -> tuple[Branch, ...]:
        """Find the outermost branches among some nodes, and those inside them."""
        names = [node for node in self._topology.nodes if node in level and node != entry]
        found = [branch for branch in map(self._branch, names) if branch is not None]
        outermost = [one for one in found if not any(one.members < other.members for other in found)]
        return tuple(replace(branch, branches=self.inside(branch.members, branch.entry)) for branch in outermost)

    def _branch(self, entry: str) -> Branch | None:
        """Return the largest branch that begins with a node, where there is one.

        Its members are what can only be reached through its entry; so nothing leads into it elsewhere.
        """
        topology = self._topology
        siblings = {other for source in self._sources.get(entry, ()) for other in topology.successors[source]}
        if not siblings & self._beside.get(entry, set()):
            return None
        elsewhere = topology.reaches(START, avoiding=entry)
        members = frozenset(reachable(topology.successors, (entry,), elsewhere))
        exits = {target for node in members for target in topology.successors.get(node, ())} - members
        if len(exits) > 1 or members & self._doubled or not (siblings - members) & self._beside[entry]:
            return None
        leaving = next(iter(exits), None)
        if leaving is not None and not self._all_lead_to(leaving, members):
            return None
        return Branch(entry, members, leaving)

    def _all_lead_to(self, leaving: str, members: frozenset[str]) -> bool:
        """Tell whether the exit is a join that waits, and every member may still arrive there.

        For one that does not, the join would not wait in a flat graph.
        """
        join = self._topology.joins.get(leaving)
        if join is None or join.mode == "any":
            return False
        return all(leaving in self._topology.reaches(node) for node in members)

    def paced(self, level: frozenset[str], found: tuple[Branch, ...]) -> tuple[Branch, ...]:
        """Choose which branches of a level become graphs of their own.

        A graph of its own is one step of the graph around it. So it must not delay what goes on beside it there: each
        branch that would is taken apart.
        """
        chosen = list(found)
        while slow := next((branch for branch in chosen if self._delays(branch, level, chosen)), None):
            place = chosen.index(slow)
            chosen[place : place + 1] = slow.branches
        return tuple(
            replace(branch, branches=self.paced(branch.members, branch.branches))
            for branch in chosen
            if self._is_worth_it(branch)
        )

    def _delays(self, branch: Branch, level: frozenset[str], chosen: list[Branch]) -> bool:
        """Tell whether something beside a branch, or the branch itself, would be started while it runs."""
        group = {node: other.entry for other in chosen for node in other.members}
        beside = {node for member in branch.members for node in self._beside.get(member, ()) if node in level}
        return any(
            target in level and (target in beside or target in branch.members)
            for source in beside - branch.members
            for target in self._topology.successors.get(source, ())
            if target not in self._topology.joins and not (source in group and group[source] == group.get(target))
        )

    def _is_worth_it(self, branch: Branch) -> bool:
        """Tell whether a branch has several steps: one node alone is a node."""
        return len(branch.members) > 1 or branch.entry in self._topology.successors.get(branch.entry, ())
