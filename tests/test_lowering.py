"""The token rules of DESIGN §4, on the compiled graph: random programs against an oracle, and the known hard cases."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Overwrite

from orchestra.graph.conditions import Choice
from orchestra.graph.lowering import lower
from orchestra.graph.nodes import GraphContext
from orchestra.graph.parallel import find_parallelism
from orchestra.graph.regions import find_branches
from orchestra.graph.routing import Router
from orchestra.graph.schema import EdgeSpec
from orchestra.graph.state import JOURNAL
from orchestra.graph.topology import analyse
from tests.programs import Outcome, Program, Written, interpret, programs, write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.runnables import RunnableConfig

    from orchestra.agents.context import Turn
    from orchestra.graph.nodes import Body


@dataclass
class Counting:
    """A node that only counts its turns."""

    name: str
    turns: list[str]
    worktrees: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    async def __call__(self, state: Any, turn: Turn, config: RunnableConfig) -> Outcome:
        self.turns.append(self.name)
        return Outcome({"agent_outputs": {self.name: turn.number}})


@dataclass
class Adding(Counting):
    """A node that also writes fields of an extension, with and without a reducer."""

    async def __call__(self, state: Any, turn: Turn, config: RunnableConfig) -> Outcome:
        assert JOURNAL not in state
        outcome = await super().__call__(state, turn, config)
        outcome.update |= {"trail": [f"{self.name}:{turn.number}"], "total": turn.number}
        return outcome


@dataclass
class Awaiting(Counting):
    """A node that ends only when others have begun."""

    begun: dict[str, asyncio.Event] = field(default_factory=dict)
    awaits: str | None = None

    async def __call__(self, state: Any, turn: Turn, config: RunnableConfig) -> Outcome:
        self.begun[self.name].set()
        if self.awaits:
            await asyncio.wait_for(self.begun[self.awaits].wait(), 60)
        return await super().__call__(state, turn, config)


@dataclass
class Planned:
    """Conditions that choose by plan: the agent's visit decides."""

    written: Written

    async def choose(self, name: str, state: Any, targets: Any, *, source: str) -> Choice:
        agent = name.removeprefix("choose-")
        visit = state["turns"].get(agent, 1) - 1
        plan = self.written.choices[agent]
        return Choice(tuple(plan[visit] if visit < len(plan) else self.written.defaults[agent]))


EXTENSION = {"trail": Annotated[list[str], operator.add], "total": Annotated[int, operator.add]}
SEED = {"trail": ["seed"], "total": 100}


async def play(
    written: Written,
    bodies: Mapping[str, Body],
    extension: Mapping[str, Any],
    first: Mapping[str, Any],
    *,
    branched: bool,
) -> dict[str, Any]:
    """Run a program to its end and return its state."""
    topology = analyse(written.nodes, written.edges)
    parallelism = find_parallelism(topology)
    router = Router(topology, parallelism, Planned(written))
    branches = find_branches(topology, parallelism).lowered if branched else ()
    graph = lower(topology, router, bodies, extension, branches=branches).compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "recursion_limit": 10_000}
    await graph.ainvoke({"inputs": {}, **first}, config, context=GraphContext())
    state = await graph.aget_state(config)
    assert state.next == ()
    assert state.tasks == ()
    return dict(state.values)


async def run(written: Written, turns: list[str] | None = None) -> Counter[str]:
    turns = [] if turns is None else turns
    state = await play(written, {name: Counting(name, turns) for name in written.nodes}, {}, {}, branched=True)
    assert Counter(turns) == Counter(state["turns"])
    return Counter(turns)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_random_programs_give_every_agent_exactly_its_turns(program: Program) -> None:
    assert asyncio.run(run(write(program))) == interpret(program)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_branches_on_their_own_end_in_the_state_of_the_flat_graph(program: Program) -> None:
    written = write(program)
    bodies = {name: Adding(name, []) for name in written.nodes}

    own, flat = (asyncio.run(play(written, bodies, EXTENSION, SEED, branched=branched)) for branched in (True, False))

    for field_name in ("agent_outputs", "turns", "loops", "choices", "arrivals", "joined", "total"):
        assert own.get(field_name) == flat.get(field_name)
    assert sorted(own["trail"]) == sorted(flat["trail"])


def graph(*edges: tuple[Any, Any], **options: dict[str, Any]) -> list[EdgeSpec]:
    specs = []
    for index, (source, target) in enumerate(edges):
        sources = tuple(source) if isinstance(source, list) else (source,)
        targets = tuple(target) if isinstance(target, list) else (target,)
        given_options = options.get(f"e{index}", {})
        specs.append(
            EdgeSpec(
                index=index,
                sources=sources,
                is_list=isinstance(source, list),
                targets=targets,
                labels=None,
                **given_options,
            )
        )
    return specs


def written(nodes: str, edges: list[EdgeSpec], **choices: list[list[str]]) -> Written:
    defaults = {agent: plan[-1] for agent, plan in choices.items()}
    return Written(nodes.split(), edges, choices, defaults)


async def test_a_join_does_not_wait_for_a_source_that_was_not_routed_to() -> None:
    edges = graph(
        ("START", ["security", "architecture"]),
        (["security", "architecture"], "critic"),
        ("critic", ["security", "architecture", "synthesizer"]),
        ("synthesizer", "END"),
        e2={"condition": "choose-critic", "max_loops": 2},
    )
    program = written("security architecture critic synthesizer", edges, critic=[["security"], ["synthesizer"]])

    turns = await run(program)

    assert turns == {"security": 2, "architecture": 1, "critic": 2, "synthesizer": 1}


@pytest.mark.parametrize(("wanted", "had"), [(0, 0), (1, 1), (2, 2), (5, 2)])
async def test_a_loop_is_closed_after_its_bound(wanted: int, had: int) -> None:
    edges = graph(
        ("START", ["a", "b"]),
        (["a", "b"], "critic"),
        ("critic", ["a", "b", "done"]),
        ("done", "END"),
        e2={"condition": "choose-critic", "max_loops": 2},
    )
    plan = [["b", "a"]] * wanted + [["done"]]

    turns = await run(written("a b critic done", edges, critic=plan))

    assert turns == {"a": 1 + had, "b": 1 + had, "critic": 1 + had, "done": 1}


async def test_a_join_of_mode_any_starts_its_target_once_a_round() -> None:
    edges = graph(
        ("START", "open"),
        ("open", ["fast", "slow1"]),
        ("slow1", "slow2"),
        ("slow2", "slow3"),
        (["fast", "slow3"], "target"),
        ("target", ["open", "done"]),
        ("done", "END"),
        e4={"join": "any"},
        e5={"condition": "choose-target", "max_loops": 1},
    )
    turns = await run(written("open fast slow1 slow2 slow3 target done", edges, target=[["done"]]))
    assert turns == Counter(["open", "fast", "slow1", "slow2", "slow3", "target", "done"])


async def test_a_join_of_mode_any_starts_its_target_beside_the_slow_branch() -> None:
    edges = graph(
        ("START", ["fast", "slow1"]),
        ("slow1", "slow2"),
        ("slow2", "slow3"),
        (["fast", "slow3"], "target"),
        ("target", "END"),
        e3={"join": "any"},
    )
    program = written("fast slow1 slow2 slow3 target", edges)
    order: list[str] = []

    await run(program, order)

    assert order.index("target") < order.index("slow3")
    assert abs(order.index("target") - order.index("slow2")) == 1, "in the step after the arrival"


async def test_a_join_of_mode_any_fires_again_in_the_next_round() -> None:
    edges = graph(
        ("START", "open"),
        ("open", ["a", "b"]),
        (["a", "b"], "target"),
        ("target", ["open", "done"]),
        ("done", "END"),
        e2={"join": "any"},
        e3={"condition": "choose-target", "max_loops": 3},
    )
    plan = [["open"], ["open"], ["done"]]
    turns = await run(written("open a b target done", edges, target=plan))
    assert turns == {"open": 3, "a": 3, "b": 3, "target": 3, "done": 1}


async def test_two_joins_that_wait_only_for_each_other_start_with_the_first_declared() -> None:
    edges = graph(
        ("START", ["a", "b"]),
        (["a", "p"], "x"),
        (["b", "q"], "y"),
        ("x", ["q", "END"]),
        ("y", ["p", "END"]),
        e3={"condition": "choose-x"},
        e4={"condition": "choose-y"},
    )
    turns = await run(written("a b x y p q", edges, x=[["END"]], y=[["END"]]))
    assert turns == Counter("abxy")


async def test_a_condition_on_start_chooses_what_runs_first() -> None:
    edges = graph(("START", ["a", "b"]), ("a", "END"), ("b", "END"), e0={"condition": "choose-START"})
    turns = await run(written("a b", edges, START=[["b"]]))
    assert turns == {"b": 1}


async def test_a_condition_on_start_chooses_among_branches() -> None:
    edges = graph(
        ("START", ["a", "b"]),
        ("a", "a2"),
        ("b", "b2"),
        (["a2", "b2"], "end"),
        ("end", "END"),
        e0={"condition": "choose-START"},
    )
    assert await run(written("a a2 b b2 end", edges, START=[["b"]])) == Counter(["b", "b2", "end"])
    assert await run(written("a a2 b b2 end", edges, START=[["b", "a"]])) == Counter(["a", "a2", "b", "b2", "end"])


async def test_several_edges_of_one_source_all_apply() -> None:
    edges = graph(("START", "a"), ("a", "b"), ("a", "c"), (["b", "c"], "d"), ("d", "END"))
    turns = await run(written("a b c d", edges))
    assert turns == Counter("abcd")


NESTED = graph(
    ("START", ["a1", "b1"]),
    ("a1", ["x1", "y1"]),
    ("x1", "x2"),
    ("y1", "y2"),
    (["x2", "y2"], "a2"),
    ("b1", "b2"),
    (["a2", "b2"], "end"),
    ("end", "END"),
)
NAMES = "a1 x1 y1 x2 y2 a2 b1 b2 end"


@pytest.mark.parametrize(("slow", "awaited"), [("b1", "a2"), ("a1", "b2"), ("y1", "x2"), ("x1", "y2"), ("y1", "b2")])
async def test_a_fast_branch_does_not_wait_for_a_slow_one(slow: str, awaited: str) -> None:
    """In a flat graph the awaited agent would not start before the slow one has ended."""
    program = written(NAMES, NESTED)
    begun = {name: asyncio.Event() for name in program.nodes}
    bodies = {name: Awaiting(name, [], begun=begun, awaits=awaited if name == slow else None) for name in program.nodes}

    state = await play(program, bodies, {}, {}, branched=True)

    assert state["turns"] == dict.fromkeys(program.nodes, 1)


@dataclass
class Latest(Counting):
    """A node that writes a field without a reducer."""

    async def __call__(self, state: Any, turn: Turn, config: RunnableConfig) -> Outcome:
        outcome = await super().__call__(state, turn, config)
        return Outcome(outcome.update | ({"plan": self.name} if self.name.startswith("a") else {}))


async def test_a_field_without_a_reducer_takes_the_last_value_of_a_branch() -> None:
    program = written(NAMES, NESTED)
    bodies = {name: Latest(name, []) for name in program.nodes}

    state = await play(program, bodies, {"plan": str}, {"plan": "none"}, branched=True)

    assert state["plan"] == "a2"


async def test_a_reducer_of_the_users_own_sees_each_update_once() -> None:
    """The first value is no update: a product that began with LangGraph's own 0 would stay 0."""
    program = written(NAMES, NESTED)
    extension = {"total": Annotated[int, operator.mul], "trail": Annotated[list[str], operator.add]}
    seen: dict[str, int] = {}

    @dataclass
    class Seeing(Adding):
        async def __call__(self, state: Any, turn: Turn, config: RunnableConfig) -> Outcome:
            seen[self.name] = state["total"]
            return await super().__call__(state, turn, config)

    bodies = {name: Seeing(name, []) for name in program.nodes}

    state = await play(program, bodies, extension, {"total": Overwrite(7), "trail": []}, branched=True)

    assert state["total"] == 7
    assert seen == dict.fromkeys(program.nodes, 7)
    assert sorted(state["trail"]) == sorted(f"{name}:1" for name in program.nodes)


def test_langgraphs_drawing_shows_the_branches() -> None:
    topology = analyse(NAMES.split(), NESTED)
    parallelism = find_parallelism(topology)
    program = written(NAMES, NESTED)
    branches = find_branches(topology, parallelism).lowered
    bodies = {name: Counting(name, []) for name in program.nodes}
    compiled = lower(topology, Router(topology, parallelism, Planned(program)), bodies, branches=branches).compile()

    drawn = {(edge.source, edge.target) for edge in compiled.get_graph().edges}
    inside = set(compiled.get_graph(xray=True).nodes)

    assert ("__start__", "branch.a1") in drawn
    assert ("branch.a1", "join.end") in drawn
    assert ("end", "__end__") in drawn
    assert {"branch.a1:a1", "branch.a1:join.a2", "branch.b1:b2"} <= inside
