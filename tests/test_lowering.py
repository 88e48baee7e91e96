"""The token rules of DESIGN §4, on the compiled graph: random programs against an oracle, and the known hard cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from langgraph.checkpoint.memory import InMemorySaver

from orchestra.graph.conditions import Choice
from orchestra.graph.lowering import GraphContext, lower
from orchestra.graph.parallel import find_parallelism
from orchestra.graph.routing import Router
from orchestra.graph.schema import EdgeSpec
from orchestra.graph.topology import analyse
from tests.programs import Program, Written, interpret, programs, write

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from orchestra.agents.context import Turn


@dataclass
class Outcome:
    update: dict[str, Any]
    decides: bool = False
    commit_messages: dict[str, str] = field(default_factory=dict)


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
class Planned:
    """Conditions that choose by plan: the agent's visit decides."""

    written: Written

    async def choose(self, name: str, state: Any, targets: Any) -> Choice:
        agent = name.removeprefix("choose-")
        visit = state["turns"].get(agent, 1) - 1
        plan = self.written.choices[agent]
        return Choice(tuple(plan[visit] if visit < len(plan) else self.written.defaults[agent]))


async def run(written: Written, turns: list[str] | None = None) -> Counter[str]:
    topology = analyse(written.nodes, written.edges)
    router = Router(topology, find_parallelism(topology), Planned(written))
    turns = [] if turns is None else turns
    bodies = {name: Counting(name, turns) for name in written.nodes}
    graph = lower(topology, router, bodies).compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "recursion_limit": 10_000}
    await graph.ainvoke({"inputs": {}}, config, context=GraphContext())
    state = await graph.aget_state(config)
    assert state.next == ()
    assert state.tasks == ()
    assert Counter(turns) == Counter(state.values["turns"])
    return Counter(turns)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_random_programs_give_every_agent_exactly_its_turns(program: Program) -> None:
    import asyncio

    assert asyncio.run(run(write(program))) == interpret(program)


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


async def test_several_edges_of_one_source_all_apply() -> None:
    edges = graph(("START", "a"), ("a", "b"), ("a", "c"), (["b", "c"], "d"), ("d", "END"))
    turns = await run(written("a b c d", edges))
    assert turns == Counter("abcd")
