"""The nodes of the graph: a turn of an agent or a step, a join, and the conditions on START.

A node writes its result, its route and the reasons for it in one update, so that no checkpoint lies between a turn's
end and the decision about what follows. A failure must not cancel the siblings, hence it is an `interrupt`.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.runnables import RunnableConfig  # noqa: TC002 - LangGraph reads the annotations of nodes
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime  # noqa: TC002 - as above
from langgraph.types import interrupt

from orchestra.agents.context import Detached, RunContext, Turn, TurnFailed, TurnRequest, newest_snapshot
from orchestra.errors import OrchestraError, SessionError
from orchestra.graph.merging import Outcome, commits_at, handed_on, moved, open_record, position_at, stand
from orchestra.graph.routing import pending
from orchestra.graph.state import with_update
from orchestra.graph.topology import START

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langgraph.types import Command

    from orchestra.agents.meeting import Record
    from orchestra.graph.levels import Level
    from orchestra.graph.merging import Merging
    from orchestra.graph.routing import Router
    from orchestra.graph.topology import Join, Topology


@dataclass(frozen=True, slots=True)
class GraphContext:
    """The context with which the compiled graph is invoked: `ainvoke(..., context=GraphContext(run))`."""

    run: RunContext = field(default_factory=Detached)


class Body(Protocol):
    """What a node does in its turn: an agent or a step."""

    worktrees: tuple[str, ...]
    """Repos in which it needs a worktree."""
    writes: tuple[str, ...]
    """Repos that it may change."""

    async def __call__(self, state: Mapping[str, Any], turn: Turn, config: RunnableConfig) -> Result:
        """Run the turn and return its result."""


class Result(Protocol):
    """What a turn gives back."""

    @property
    def update(self) -> dict[str, Any]:
        """The state's update: `agent_outputs`, `messages`, fields of the extension."""

    @property
    def commit_messages(self) -> Mapping[str, str]:
        """Repo → what the agent wants its commit there to say."""

    @property
    def decides(self) -> bool:
        """Whether the output is a decision, which names the commits that it was made on."""


class TurnNode:
    """The node of an agent or a step: one attempt of one turn, then the way on."""

    def __init__(
        self,
        name: str,
        body: Body,
        *,
        level: Level,
        topology: Topology,
        router: Router,
        merging: Merging,
        reduce: Mapping[str, Callable[[Any, Any], Any]],
        max_steps: int | None,
    ) -> None:
        self._name = name
        self._body = body
        self._level = level
        self._topology = topology
        self._router = router
        self._merging = merging
        self._reduce = reduce
        self._max_steps = max_steps

    async def run(self, state: dict[str, Any], config: RunnableConfig, runtime: Runtime[GraphContext]) -> Command[Any]:
        """Run the turn.

        A failure stops this branch by an `interrupt`: siblings run on, and `resume` runs only this node again.
        """
        run = runtime.context.run if runtime.context else Detached()
        request = self._request(state, config, position_at(state, self._name))
        failure: OrchestraError
        try:
            self._check_steps(state, run)
            if _waits_for_a_person(open_record(state, self._name)):
                return self._stop_at(await self._merging.settle(state["_merging"][self._name], state, run), run)
            met = await self._meet(state, run)
            if met.record is not None:
                return self._stop_at(met, run)
            run.adopt(met.update.get("snapshot", {}))  # merging again gives the same commits
            before = with_update(state, met.update, self._reduce)
            request = self._request(before, config, met.position)
            async with run.turn(request) as turn:
                return await self._turn(before, met, turn, config, run)
        except GraphBubbleUp:
            raise  # a question to the user
        except OrchestraError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - it must not cancel the siblings
            failure = run.fault(error) or _told(self._name, error, run, turn=request.number)
        if isinstance(failure, TurnFailed) and await run.failed(request, failure):
            return self._again(request)
        if runtime.context is None:
            raise failure  # the program that embeds the graph has nobody who would resume it
        _stop(self._name, failure, run, turn=request.number, attempt=request.attempt)
        raise failure  # an interrupt is never answered for a failure; the node runs again instead

    async def _meet(self, state: dict[str, Any], run: RunContext) -> Outcome:
        """Bring together what has arrived at a join of mode `any`, which has no node of its own."""
        if open_record(state, self._name) is None:
            for join in self._topology.joins.values():
                taken = pending(join, state) if join.target == self._name and join.mode == "any" else {}
                if taken:
                    return await self._merging.begin(join, taken, state, run)
        return Outcome(position_at(state, self._name))

    def _stop_at(self, met: Outcome, run: RunContext) -> Command[Any]:
        """Come back in a step of its own, so that a checkpoint names the commit with the markers, or a person's."""
        positions = {**met.update.get("_positions", {}), self._name: met.position}
        run.adopt(met.update.get("snapshot", {}))
        update = {
            **met.update,
            "_positions": positions,
            "_stands": [stand(self._name, met.position)],
            "frontier": [self._name],
        }
        return self._level.command(update, [self._name])

    async def _turn(
        self, state: dict[str, Any], met: Outcome, turn: Turn, config: RunnableConfig, run: RunContext
    ) -> Command[Any]:
        result = await self._body(state, turn, config)
        update = dict(result.update)
        update["snapshot"] = await turn.finish(result.commit_messages)
        position = moved(met.position, update["snapshot"])
        update["turns"] = {self._name: turn.number}
        update["ended"] = [{"agent": self._name, "turn": turn.number}]
        update["clock"] = datetime.now(UTC).isoformat(timespec="microseconds")
        if result.decides:
            now = newest_snapshot(state.get("snapshot"), update["snapshot"])
            decided = {**update["agent_outputs"][self._name], "commits": commits_at(position, now)}
            update["agent_outputs"] = {self._name: decided}
        update = with_update(met.update, update, self._reduce)
        if record := open_record(state, self._name):
            solved = {**state["_conflicts"][str(record["n"])], "resolved_by": self._name}
            update["_conflicts"] = {str(record["n"]): solved}
            # The clock is still that of the turn's start: made again after a kill, the commits have to be the same.
            resolved = {**with_update(state, update, self._reduce), "clock": state.get("clock", "")}
            rest = await self._merging.go_on(record, position, resolved, run)
            update = with_update(update, rest.update, self._reduce)
            if rest.record is not None:
                return self._once_more(rest, update, run)
            position = rest.position
        turn.emit("output_given", output=update["agent_outputs"][self._name])
        after = with_update(state, update, self._reduce)
        route = await self._router.route(self._name, after, turn.number)
        for edge, chosen in route.choices.items():
            labels = {"labels": route.labels[edge]} if edge in route.labels else {}
            turn.emit("condition_chose", edge=edge, targets=chosen, **labels)
        update |= route.update() | {"_stands": [stand(self._name, position, began_at=met.position)]}
        update = with_update(update, handed_on(self._name, turn.number, position, route, after), self._reduce)
        run.adopt(update["snapshot"])
        return self._level.command(update, route.targets)

    def _once_more(self, met: Outcome, update: dict[str, Any], run: RunContext) -> Command[Any]:
        """End a turn that has resolved one conflict and met another: a further turn, or a person, resolves that."""
        record = met.record or {}
        join = self._topology.joins[record["join"]]
        waits = record["resolver"] != "agent" and join.mode == "all"
        target = join.name if waits else self._name
        positions = {**update.get("_positions", {}), self._name: met.position}
        run.adopt(update["snapshot"])
        update |= {"_positions": positions, "_stands": [stand(self._name, met.position)], "frontier": [target]}
        return self._level.command(update, [target])

    def _request(self, state: Mapping[str, Any], config: RunnableConfig, position: Mapping[str, str]) -> TurnRequest:
        number = state.get("turns", {}).get(self._name, 0) + 1
        turn, attempt = state.get("attempts", {}).get(self._name, (0, 1))
        return TurnRequest(
            node=self._name,
            number=number,
            attempt=attempt if turn == number else 1,
            worktrees=self._body.worktrees,
            writes=self._body.writes,
            snapshot=state.get("snapshot", {}),
            checkpoint_ns=str(config.get("configurable", {}).get("checkpoint_ns", "")),
            started_at=state.get("clock") or state.get("metadata", {}).get("created_at", ""),
            slots=self._merging.slots(self._name, self._body.worktrees),
            position=position,
            conflict=open_record(state, self._name),
        )

    def _again(self, request: TurnRequest) -> Command[Any]:
        """Start the turn anew, in a step of its own: fresh inner checkpoints, and the attempt is in the state."""
        attempts = {self._name: [request.number, request.attempt + 1]}
        return self._level.command({"attempts": attempts, "frontier": [self._name]}, [self._name])

    def _check_steps(self, state: Mapping[str, Any], run: RunContext) -> None:
        """Count this turn: those that have ended, and those that stand before it in the same step.

        What goes on in other branches only the run knows: the state of this one does not hold their turns.
        """
        if self._max_steps is None:
            return
        turns = state.get("turns", {})
        beside = [node for node in dict.fromkeys(state.get("frontier", ())) if node not in self._topology.joins]
        before = beside[: beside.index(self._name)] if self._name in beside else []
        ended = {(node, turn) for node, count in turns.items() for turn in range(1, count + 1)}
        if not run.begin((self._name, turns.get(self._name, 0) + 1), ended, before, most=self._max_steps):
            raise SessionError(
                f"the session has had its {self._max_steps} turns (`limits.max_steps`)",
                code="max-steps",
                hint="look with `orchestra log` whether it goes in circles; else raise `limits.max_steps`",
            )


def _waits_for_a_person(record: Record | None) -> bool:
    return record is not None and record["resolver"] != "agent"


def _told(node: str, error: Exception, run: RunContext, **where: int) -> TurnFailed:
    """Log what has no words for its failures, the user's Python or Orchestra itself, and say that it failed."""
    trace = "".join(traceback.format_exception(error))
    run.emit("internal_error", agent=node, traceback=trace, **where)
    return TurnFailed(
        f"the turn of {node!r} stopped on {type(error).__name__}: {error}",
        code="internal-error",
        retry="never",
        hint="the traceback is in the session's events: `orchestra log SESSION --events --json`",
    )


def _stop(node: str, failure: OrchestraError, run: RunContext, **where: int) -> None:
    """Stop this branch: its siblings run on, and `resume` runs this node again."""
    run.emit("turn_stopped", agent=node, turn=where.get("turn"), code=failure.code, message=failure.message)
    interrupt(failure_payload(node, failure, **where))


def failure_payload(node: str | None, failure: OrchestraError, **where: int) -> dict[str, Any]:
    """Return what the driver reads from the interrupt of a failed turn."""
    details = {"code": failure.code, "message": failure.message, "hint": failure.hint}
    return {"failed": {"agent": node, **where, **details}}


class JoinNode:
    """The node of a join of mode `all`: it waits, and brings together what has arrived."""

    def __init__(self, join: Join, router: Router, merging: Merging, level: Level) -> None:
        self._join = join
        self._router = router
        self._merging = merging
        self._level = level

    async def run(self, state: dict[str, Any], runtime: Runtime[GraphContext]) -> Command[Any]:
        """Wait for who can still arrive, else merge and start the target."""
        run = runtime.context.run if runtime.context else Detached()
        failure: OrchestraError
        try:
            met = await self._meet(state, run)
            return met if not isinstance(met, Outcome) else await self._onward(met, state, run)
        except GraphBubbleUp:
            raise
        except OrchestraError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - it must not cancel the siblings
            failure = run.fault(error) or _told(self._join.target, error, run)
        if runtime.context is None:
            raise failure
        _stop(self._join.target, failure, run)
        raise failure

    async def _meet(self, state: dict[str, Any], run: RunContext) -> Outcome | Command[Any]:
        record = open_record(state, self._join.target)
        if record is not None and record["join"] == self._join.name and _waits_for_a_person(record):
            return await self._merging.settle(record, state, run)
        step = self._router.join(self._join, state)
        if step.waits:
            return self._level.command({"frontier": [self._join.name]}, [self._join.name])
        if not step.fires:
            return self._level.command({}, ())
        return await self._merging.begin(self._join, step.taken, state, run)

    async def _onward(self, met: Outcome, state: dict[str, Any], run: RunContext) -> Command[Any]:
        update = {**met.update, "_stands": [stand(self._join.name, met.position)]}
        run.adopt(update.get("snapshot", {}))
        if _waits_for_a_person(met.record):
            return self._level.command({**update, "frontier": [self._join.name]}, [self._join.name])
        route = await self._router.route(self._join.name, state)
        handed = handed_on(self._join.name, 0, met.position, route, state)
        positions = {**update.get("_positions", {}), **handed.pop("_positions", {})}
        update |= route.update() | handed | ({"_positions": positions} if positions else {})
        return self._level.command(update, route.targets)


def start_node(router: Router, level: Level) -> Callable[..., Any]:
    """Return the node that asks the conditions on START."""

    async def run(state: dict[str, Any]) -> Command[Any]:
        try:
            route = await router.route(START, state)
        except OrchestraError as failure:
            interrupt(failure_payload(None, failure))
            raise
        return level.command(route.update(), route.targets)

    return run
