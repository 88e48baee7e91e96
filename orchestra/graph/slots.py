"""Slots: in which worktree each agent, step and join works (DESIGN §5.2); a function of the graph alone.

What runs beside others and changes a repo that they use works apart, in a slot of its own: a whole branch in that of
its first agent. All else works where what led to it worked, hence in a pipeline without fan-outs in the session's slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from orchestra.agents.context import SESSION_SLOT
from orchestra.graph.topology import START, join_name, reachable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from orchestra.graph.parallel import Parallelism
    from orchestra.graph.regions import Branch, Branches
    from orchestra.graph.topology import Topology


@dataclass(frozen=True)
class Slots:
    """The slot of every agent, step and join in every repo."""

    _apart: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Node → repo → slot, where that is not the session's."""
    _retired: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)

    def of(self, node: str, repo: str) -> str:
        """Return the slot in which an agent or step works in a repo, or into which a join merges it."""
        return self._apart.get(node, {}).get(repo, SESSION_SLOT)

    def apart(self, node: str) -> Mapping[str, str]:
        """Return the slot for each repo in which a node works elsewhere than in the session's slot."""
        return self._apart.get(node, {})

    def claims(self, writes: Mapping[str, Collection[str]]) -> dict[str, frozenset[tuple[str, str]]]:
        """Return node → the `(slot, repo)` in which it may write; `writes` names the repos."""
        return {node: frozenset((self.of(node, repo), repo) for repo in repos) for node, repos in writes.items()}

    def of_branches(self) -> dict[str, frozenset[str]]:
        """Return repo → all slots but the session's."""
        slots: dict[str, set[str]] = {}
        for apart in self._apart.values():
            for repo, slot in apart.items():
                slots.setdefault(repo, set()).add(slot)
        return {repo: frozenset(names) for repo, names in slots.items()}

    def retired_by(self, join: str) -> dict[str, frozenset[str]]:
        """Return, for each repo, the slots that are done with once a join has merged its branches."""
        return dict(self._retired.get(join, {}))


def assign_slots(
    topology: Topology,
    parallelism: Parallelism,
    branches: Branches,
    uses: Mapping[str, Collection[str]],
    writes: Mapping[str, Collection[str]],
) -> Slots:
    """Decide where each agent, step and join works.

    Args:
        topology: The analysed graph.
        parallelism: Who can be active together.
        branches: The branches of the graph.
        uses: For each agent and step the repos that it reads or writes.
        writes: Those that it may write.
    """
    graph = _Graph(topology, parallelism)
    levels = list(_levels(graph, branches))
    apart: dict[str, dict[str, str]] = {}
    for repo in dict.fromkeys(chain(*uses.values(), *writes.values())):
        writers = frozenset(node for node, written in writes.items() if repo in written)
        users = writers.union(node for node, used in uses.items() if repo in used)
        for node, slot in _Assignment(graph, users, writers).all(levels).items():
            if slot != SESSION_SLOT:
                apart.setdefault(node, {})[repo] = slot
    slots = Slots(apart)
    return replace(slots, _retired={join: _retired(join, slots, graph, branches) for join in topology.joins})


class _Graph:
    """What the search asks of the graph."""

    def __init__(self, topology: Topology, parallelism: Parallelism) -> None:
        self.topology = topology
        self.nodes = (*topology.nodes, *topology.joins)
        self.beside: dict[str, set[str]] = {node: set() for node in self.nodes}
        for one, other in parallelism.pairs:
            if other != one:
                self.beside[one].add(other)
        for join in topology.joins.values():
            waited = reachable(topology.predecessors, join.sources, (join.name,))
            # A join that waits for all merges when nothing can arrive any more; with mode `any` its target merges.
            for node in self.beside[join.name] & {*waited, join.target} if join.mode == "all" else self.nodes:
                self.beside[join.name].discard(node)
                self.beside[node].discard(join.name)
        self._behind: dict[str, set[str]] = {}

    def behind(self, join: str) -> set[str]:
        """Return what may come to a join without passing its target."""
        if join not in self._behind:
            target = self.topology.joins[join].target
            self._behind[join] = reachable(self.topology.predecessors, (join,), (target,))
        return self._behind[join]


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """A node of a level, or a whole branch that lies in it."""

    name: str
    """Its slot, when it works apart."""
    members: frozenset[str]
    beside: frozenset[str]
    """What is in the level, outside the item, and can be active at the same time."""
    merges: str | None = None
    """The join whose arrivals it merges: itself, or with mode `any` the one before it."""
    waits: bool = False
    """It is a join itself."""


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """The inside of a branch, or the whole graph."""

    entry: str | None
    """The branch; None: the whole graph."""
    members: frozenset[str]
    items: dict[_Item, tuple[_Item, ...]]
    """In an order in which each comes after what leads to it, but for ways back; with what leads to it."""


def _levels(graph: _Graph, branches: Branches) -> Iterator[_Level]:
    """Yield the levels of a graph, each before those inside it."""
    todo: list[tuple[str | None, frozenset[str], tuple[Branch, ...]]] = [(None, frozenset(graph.nodes), branches.found)]
    for entry, members, inside in todo:
        yield _Level(entry, members, _items(graph, entry, members, inside))
        todo += [(branch.entry, branch.members, branch.branches) for branch in inside]


def _items(
    graph: _Graph, entry: str | None, level: frozenset[str], inside: tuple[Branch, ...]
) -> dict[_Item, tuple[_Item, ...]]:
    inner = {node: branch for branch in inside for node in branch.members}
    of: dict[str, _Item] = {}
    onward: dict[_Item, dict[str, None]] = {}
    successors = graph.topology.successors
    for node in graph.nodes:  # in the order of the file, so that the same graph gives the same slots anywhere
        if node in level:
            if node not in of:
                item = _branch_item(graph, inner[node], level) if node in inner else _node_item(graph, node, level)
                of |= dict.fromkeys(item.members, item)
            onward.setdefault(of[node], {}).update(dict.fromkeys(successors.get(node, ())))
    after = {
        item: tuple(dict.fromkeys(of[node] for node in targets if node in level and of[node] is not item))
        for item, targets in onward.items()
    }
    roots = successors.get(START, ()) if entry is None else (entry,)
    order = _forwards(dict.fromkeys(of[node] for node in roots if node in of), after)
    before: dict[_Item, list[_Item]] = {item: [] for item in order}
    for item in order:
        for target in after[item]:
            before[target].append(item)
    return {item: tuple(found) for item, found in before.items()}


def _branch_item(graph: _Graph, branch: Branch, level: frozenset[str]) -> _Item:
    beside = frozenset[str]().union(*(graph.beside[node] for node in branch.members))
    return _Item(branch.entry, branch.members, (beside & level) - branch.members)


def _node_item(graph: _Graph, node: str, level: frozenset[str]) -> _Item:
    joins = graph.topology.joins
    beside = frozenset(graph.beside[node] & level)
    if node in joins:
        merging = node if joins[node].mode == "all" else None
        return _Item(joins[node].target, frozenset((node,)), beside, merging, waits=True)
    join = joins.get(join_name(node))
    return _Item(node, frozenset((node,)), beside, join.name if join and join.mode == "any" else None)


def _forwards(roots: Iterable[_Item], after: Mapping[_Item, tuple[_Item, ...]]) -> list[_Item]:
    """Return what can be reached, each after all that leads to it, but for ways back."""
    seen: set[_Item] = set()
    found: list[_Item] = []
    stack = [(item, False) for item in roots]
    while stack:
        item, left = stack.pop()
        if left:
            found.append(item)
        elif item not in seen:
            seen.add(item)
            stack.append((item, True))
            stack += [(target, False) for target in after[item] if target not in seen]
    return found[::-1]


class _Assignment:
    """Gives slots for one repo."""

    def __init__(self, graph: _Graph, users: frozenset[str], writers: frozenset[str]) -> None:
        self._graph = graph
        self._users = users
        self._writers = writers
        self._inside: dict[str | None, str] = {None: SESSION_SLOT}
        """The slot of each branch."""

    def all(self, levels: Iterable[_Level]) -> dict[str, str]:
        """Return the slot of each node."""
        slots: dict[str, str] = {}
        for level in levels:
            for item, slot in self._level(level, self._inside[level.entry]):
                slots |= dict.fromkeys(item.members, slot)  # what is deeper inside follows, and may differ
                self._inside[item.name] = slot
        for join in self._graph.topology.joins.values():
            if join.mode == "any" and join.target in slots:
                slots[join.name] = slots[join.target]
        return slots

    def _level(self, level: _Level, base: str) -> Iterator[tuple[_Item, str]]:
        merging = {node for item in level.items if self._merges(item, level) for node in item.members}
        place = _Place(level, base, self._writers | merging, self._users | merging)
        for item in level.items:
            yield item, place.put(item)

    def _merges(self, item: _Item, level: _Level) -> bool:
        """Tell whether what arrives at a join may hold changes that were made apart."""
        return item.merges is not None and any(
            not self._graph.beside[writer].isdisjoint(level.members)
            for writer in self._graph.behind(item.merges) & self._writers & level.members
        )


class _Place:
    """Puts the items of a level, one after another, into slots for one repo."""

    def __init__(self, level: _Level, base: str, changing: AbstractSet[str], using: AbstractSet[str]) -> None:
        self._before = level.items
        self._after: dict[_Item, list[_Item]] = {}
        for item, sources in level.items.items():
            for source in sources:
                self._after.setdefault(source, []).append(item)
        self._base = base
        self._changing = changing
        self._using = using
        self._slots: dict[_Item, str] = {}
        self._held: dict[str, tuple[set[str], set[str]]] = {}
        """Slot → who uses the repo there, and who of them changes it."""

    def put(self, item: _Item) -> str:
        """Choose the slot of an item."""
        slot = self._candidate(item)
        if slot is None or not self._is_free(slot, item):
            slot = item.name
        self._slots[item] = slot
        users, changers = self._held.setdefault(slot, (set(), set()))
        users |= item.members & self._using
        changers |= item.members & self._changing
        return slot

    def _candidate(self, item: _Item) -> str | None:
        """Return the slot to share with what was before; None: there is none."""
        sources = [source for source in self._before[item] if source in self._slots and not item.waits]
        led = {self._slots[source] for source in sources} - {self._base}
        if len(led) > 1:
            return None
        crowded = not item.members.isdisjoint(self._changing) and not item.beside.isdisjoint(self._using)
        if not led:
            return None if crowded else self._base
        siblings = frozenset[str]().union(*(other.members for source in sources for other in self._after[source]))
        return None if crowded and siblings & item.beside & self._using else led.pop()

    def _is_free(self, slot: str, item: _Item) -> bool:
        """Tell whether nobody in a slot would see half a change of the item, nor the item one of theirs."""
        users, changers = self._held.get(slot, (set(), set()))
        others = changers if item.members.isdisjoint(self._changing) else users
        return not (others & item.beside and item.members & self._using)


def _retired(join: str, slots: Slots, graph: _Graph, branches: Branches) -> dict[str, frozenset[str]]:
    """Find the slots in which only what ends at a join works, until it is entered again."""
    topology = graph.topology
    inside = set(topology.joins[join].sources)
    inside.update(
        node for outer in branches.found for branch in outer.walk() if branch.exit == join for node in branch.members
    )
    spec = topology.joins[join]
    beside = graph.beside[spec.target if spec.mode == "any" else join]
    retired: dict[str, set[str]] = {}
    for node in inside:
        for repo, slot in slots.apart(node).items():
            if slot != slots.of(join, repo):
                retired.setdefault(repo, set()).add(slot)
    for repo, names in retired.items():
        for slot in list(names):
            workers = {node for node in graph.nodes if slots.of(node, repo) == slot}
            later = reachable(topology.successors, (join,), (slot, join_name(slot)))
            if not workers.isdisjoint(beside) or workers & later - inside:
                names.discard(slot)
    return {repo: frozenset(names) for repo, names in retired.items() if names}
