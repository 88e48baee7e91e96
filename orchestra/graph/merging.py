"""Where the files of a token stand, and what happens to them where branches meet (DESIGN §5.9).

Files move along the edges as values. A node begins on what the node before it left; a join brings what arrives at it
together, in the order of `from`, and hands that on. Everything here is a function of the state, except the merging
itself, which the runtime does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from langgraph.types import interrupt

from orchestra.agents.context import SESSION_SLOT, newest_snapshot
from orchestra.agents.meeting import MergeRequest, Side
from orchestra.errors import SessionError
from orchestra.graph.topology import END

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestra.agents.context import RunContext, Snapshot
    from orchestra.agents.meeting import Merged, Position, Record, Resolver
    from orchestra.graph.routing import Route
    from orchestra.graph.topology import Join, Topology


class Layout(Protocol):
    """In which worktree each node works; `Slots` is one."""

    def of(self, node: str, repo: str) -> str:
        """Return the slot of a node in a repo."""

    def retired_by(self, join: str) -> Mapping[str, frozenset[str]]:
        """Return repo → the slots that are done with once a join has merged its branches."""


class Resolvers(Protocol):
    """Who resolves conflicts; `Meetings` is one."""

    def resolver(self, join: str, repo: str) -> Resolver:
        """Return who resolves conflicts of a repo at a join."""


class OneSlot:
    """No worktrees of branches: everybody works in the session's own, and nothing can conflict."""

    def of(self, node: str, repo: str) -> str:  # noqa: ARG002 - the protocol's arguments
        """Return the session's slot."""
        return SESSION_SLOT

    def retired_by(self, join: str) -> Mapping[str, frozenset[str]]:  # noqa: ARG002 - the protocol's argument
        """Return nothing."""
        return {}

    def resolver(self, join: str, repo: str) -> Resolver:  # noqa: ARG002 - the protocol's arguments
        """Return that nobody does."""
        return "fail"


def position_at(state: Mapping[str, Any], place: str) -> Position:
    """Return where the files stand of the token that came to a node last."""
    return dict(state.get("_positions", {}).get(place, {}))


def moved(position: Position, snapshot: Snapshot) -> Position:
    """Return where files stand after an update of the snapshot channel."""
    changed = {repo: slot for slot, repos in snapshot.items() for repo in repos}
    return {repo: slot for repo, slot in {**position, **changed}.items() if slot != SESSION_SLOT}


def stand(node: str, position: Position, *, began_at: Position | None = None) -> dict[str, Any]:
    """Return what the `_stands` of the state hold of a node: where its files are, and where they were before."""
    return {"node": node, "at": position, "from": position if began_at is None else began_at}


def shown(stands: Sequence[Mapping[str, Any]], ended: Sequence[Mapping[str, Any]]) -> Position:
    """Return whose files a checkpoint names: those of the one turn that ended, else what several nodes began on.

    A join beside a turn has no checkpoint of its own.
    """
    told = {turn["agent"] for turn in ended}
    if len(told) == 1:
        stands = [one for one in stands if one["node"] in told]
    if len(stands) == 1:
        return dict(stands[0]["at"])
    first, *others = [one["from"] for one in stands] or [{}]
    return {repo: slot for repo, slot in first.items() if all(one.get(repo) == slot for one in others)}


def commits_at(position: Mapping[str, str], snapshot: Snapshot) -> dict[str, str]:
    """Return repo → the commit on which a token stands."""
    found = {}
    for repo in snapshot.get(SESSION_SLOT, {}):
        slot = position.get(repo, SESSION_SLOT)
        entry = snapshot.get(slot, {}).get(repo) or snapshot[SESSION_SLOT][repo]
        found[repo] = str(entry["commit"])
    return found


def open_record(state: Mapping[str, Any], target: str) -> Record | None:
    """Return the conflict that is open before a node."""
    return state.get("_merging", {}).get(target) or None


def handed_on(node: str, turn: int, position: Position, route: Route, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state's update that tells the nodes a token goes to where its files stand.

    A token that goes nowhere leaves its commits behind, to be merged later.
    """
    places = [f"{node}>{join}" for join in route.arrivals]
    places += [target for target in route.targets if target not in route.arrivals and target not in route.reached]
    known = state.get("_positions", {})
    positions = {place: position for place in places if position or known.get(place)}
    update: dict[str, Any] = {"_positions": positions} if positions else {}
    if not route.targets and position:
        commits = commits_at(position, state.get("snapshot", {}))
        left = {repo: commits[repo] for repo in position}
        update["_loose"] = {f"{node}#{turn}": {"late": route.late, "commits": left}}
    return update


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of bringing branches together."""

    position: Position
    update: dict[str, Any] = field(default_factory=dict)
    """The state's: `snapshot`, `joined`, `_merging`, `_conflicts`, `_loose`."""
    record: Record | None = None
    """The conflict at which it stopped."""


class Merging:
    """Brings together what arrives at joins.

    Args:
        topology: The analysed graph.
        layout: In which worktree each node works.
        resolvers: Who resolves conflicts.
    """

    def __init__(self, topology: Topology, layout: Layout, resolvers: Resolvers) -> None:
        self._topology = topology
        self._layout = layout
        self._resolvers = resolvers

    def slots(self, node: str, repos: Iterable[str]) -> dict[str, str]:
        """Return repo → the slot in which a node works."""
        return {repo: self._layout.of(node, repo) for repo in repos}

    async def begin(self, join: Join, taken: Mapping[str, int], state: Mapping[str, Any], run: RunContext) -> Outcome:
        """Bring together what has arrived at a join.

        Args:
            join: Which one.
            taken: Source → turn of the arrivals.
            state: The state.
            run: Does the merging.
        """
        snapshot: Snapshot = state.get("snapshot", {})
        arrived = [name for name in join.sources if name in taken]
        at = {name: position_at(state, f"{name}>{join.name}") for name in arrived}
        sides = [Side(name, commits_at(at[name], snapshot), at[name]) for name in arrived]
        loose = {} if join.mode == "any" else _left_late(state)
        sides += [Side(key.partition("#")[0], left["commits"]) for key, left in loose.items()]
        update: dict[str, Any] = {"joined": {join.name: dict(taken)}}
        if loose:
            update["_loose"] = {key: {} for key in loose}
        return await self._merge(self._request(join, tuple(sides), state), update, run)

    async def go_on(self, record: Record, position: Position, state: Mapping[str, Any], run: RunContext) -> Outcome:
        """Go on behind a conflict that has been resolved.

        Args:
            record: The conflict.
            position: Where the resolved files stand.
            state: The state, with the resolution in its snapshot channel.
            run: Does the merging.
        """
        sides = tuple(Side(name, commits, at) for name, commits, at in record["sides"])
        join = self._topology.joins[record["join"]]
        request = self._request(join, sides, state, after=record, position=position)
        return await self._merge(request, {"_merging": {record["target"]: {}}}, run)

    async def settle(self, record: Record, state: Mapping[str, Any], run: RunContext) -> Outcome:
        """Wait for a person to resolve a conflict, and go on once that is done.

        Raises:
            SessionError: `merge-conflict`, where nobody is to be waited for.
        """
        settled = await run.settle(record, _clock(state))
        if settled.left and record["resolver"] == "fail":
            who = " and ".join(repr(name) for side in record["who"] for name in side)
            message = f"the work of {who} conflicts {settled.left}; `on_conflict: fail` stops there"
            raise SessionError(message, code="merge-conflict", hint=settled.hint)
        if settled.left:
            text = f"a conflict is yours to resolve, {settled.left}\n{settled.hint}"
            interrupt({"question": {"agent": record["target"], "text": text}})
        snapshot = newest_snapshot(state.get("snapshot"), settled.snapshot)
        position = moved(position_at(state, _place_of(record)), settled.snapshot)
        met = await self.go_on(record, position, {**state, "snapshot": snapshot}, run)
        update = {**met.update, "snapshot": newest_snapshot(settled.snapshot, met.update.get("snapshot"))}
        return Outcome(met.position, update, met.record)

    def _request(self, join: Join, sides: tuple[Side, ...], state: Mapping[str, Any], **more: Any) -> MergeRequest:
        snapshot: Snapshot = state.get("snapshot", {})
        node = join.target if join.mode == "any" else join.name
        repos = snapshot.get(SESSION_SLOT, {})
        return MergeRequest(
            join=join.name,
            target=join.target,
            sides=sides,
            into={repo: self._layout.of(node, repo) for repo in repos},
            resolvers={repo: self._resolvers.resolver(join.name, repo) for repo in repos},
            snapshot=snapshot,
            date=_clock(state),
            retired=self._layout.retired_by(join.name) if join.mode == "all" else {},
            **more,
        )

    async def _merge(self, request: MergeRequest, update: dict[str, Any], run: RunContext) -> Outcome:
        merged = await run.merge(request)
        if merged.snapshot:
            update["snapshot"] = merged.snapshot
        if merged.record is not None:
            update |= {"_merging": {request.target: merged.record}, "_conflicts": merged.conflicts}
            if merged.record["resolver"] != "agent":
                update["_positions"] = {_place_of(merged.record): merged.position}
        elif self._topology.joins[request.join].mode == "all":
            run.retire(self._layout.retired_by(request.join))
        return Outcome(merged.position, update, merged.record)


def end_request(state: Mapping[str, Any], nodes: Iterable[str]) -> MergeRequest | None:
    """Return what is left to merge when a session has ended: the work of writers that never met; None: nothing.

    Args:
        state: The state at the end.
        nodes: Agents and steps in the order of the file.
    """
    snapshot: Snapshot = state.get("snapshot", {})
    loose = {key: left["commits"] for key, left in state.get("_loose", {}).items() if left}
    if not loose:
        return None
    order = list(nodes)
    keys = sorted(loose, key=lambda key: (order.index(key.partition("#")[0]), int(key.partition("#")[2])))
    session = Side("session", commits_at({}, snapshot))
    return MergeRequest(
        join=END,
        target=END,
        sides=(session, *(Side(key.partition("#")[0], loose[key]) for key in keys)),
        into={},
        resolvers={},
        snapshot=snapshot,
        date=_clock(state),
    )


def end_update(state: Mapping[str, Any], merged: Merged) -> dict[str, Any]:
    """Return the state's update that takes up what was merged at the end."""
    if merged.record is not None:
        return {"_conflicts": merged.conflicts}
    keys = [key for key, left in state.get("_loose", {}).items() if left]
    return {"_loose": {key: {} for key in keys}, **({"snapshot": merged.snapshot} if merged.snapshot else {})}


def _place_of(record: Record) -> str:
    """Return the key under which the position of files is kept whose conflict waits for a person."""
    return f"conflict>{record['target']}"


def _left_late(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {key: left for key, left in state.get("_loose", {}).items() if left and left["late"]}


def _clock(state: Mapping[str, Any]) -> str:
    return str(state.get("clock") or state.get("metadata", {}).get("created_at", ""))
