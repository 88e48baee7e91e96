"""What the graph as a whole means and what can be wrong with it: the analysis alone, no model, no LangGraph."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from orchestra.cli.render import render_problem
from orchestra.errors import Location, Problem
from orchestra.graph.checks import check_topology
from orchestra.graph.loader import load_pipeline
from orchestra.graph.parallel import Parallelism, find_parallelism
from orchestra.graph.topology import Topology, analyse
from tests.programs import FanOut, Loop, Program, Sequence, Written, programs, write

NO_PLACE = Location(Path("pipeline.yaml"), 1, 1)


@dataclass
class Judged:
    topology: Topology
    parallelism: Parallelism
    problems: list[Problem]

    @property
    def codes(self) -> list[str]:
        return sorted(problem.code for problem in self.problems)

    def loop_targets(self, source: str) -> set[str]:
        return {target for edge in self.topology.edges[source] for target in edge.loop_targets}

    def on_max_loops(self, source: str) -> str | None:
        return self.topology.edges[source][0].on_max_loops

    def beside(self, node: str) -> set[str]:
        return {other for one, other in self.parallelism.pairs if one == node}


def judge(agents: str, *edges: str) -> Judged:
    """Judge a graph; its edges as they stand in a file."""
    lines = ["name: g", "providers: {default: openai, openai: {}}", "agents:"]
    lines += [f"  {name}: {{task: {{template: x}}, model: m}}" for name in agents.split()]
    lines += ["graph:", *(f"  - {{{edge}}}" for edge in edges)]
    loaded = load_pipeline(Path("pipeline.yaml"), text="\n".join(lines) + "\n")
    topology = analyse(tuple(loaded.pipeline.agents), loaded.pipeline.graph)
    parallelism = find_parallelism(topology)
    return Judged(topology, parallelism, check_topology(topology, parallelism, loaded.document.locate))


def judge_written(written: Written) -> Judged:
    topology = analyse(written.nodes, written.edges)
    parallelism = find_parallelism(topology)
    return Judged(topology, parallelism, check_topology(topology, parallelism, lambda *_, key=False: NO_PLACE))


TO_CRITIC = ("from: START, to: [sec, arch]", "from: [sec, arch], to: critic, join: all")
LOOP = "from: critic, to: [sec, arch, out], condition: x, max_loops: 2"

RIGHT = {
    "a sequence": ("a b", "from: START, to: a", "from: a, to: b", "from: b, to: END"),
    "the pull request review": ("sec arch critic out", *TO_CRITIC, LOOP, "from: out, to: END"),
    "one agent alone, looped": ("a", "from: START, to: a", "from: a, to: [a, END], condition: x, max_loops: 2"),
    "a condition with a way out bounds a cycle": ("a", "from: START, to: a", "from: a, to: [a, END], condition: x"),
    "a bound without a condition": ("a", "from: START, to: a", "from: a, to: a, max_loops: 2, on_max_loops: END"),
    "zero loops": ("a b", "from: START, to: a", "from: a, to: [a, b], condition: x, max_loops: 0", "from: b, to: END"),
    "a condition on START": ("a b", "from: START, to: [a, b], condition: x", "from: [a, b], to: END"),
    "join any": ("a b c", "from: START, to: [a, b]", "from: [a, b], to: c, join: any", "from: c, to: END"),
    "a list that leads to END": ("a b", "from: START, to: [a, b]", "from: [a, b], to: END"),
    "a list of one": ("a b", "from: START, to: a", "from: [a], to: b", "from: b, to: END"),
    "labels, two of them with one target": (
        "a b",
        "from: START, to: a",
        "from: a, to: {yes: b, maybe: b, no: END}, condition: x",
        "from: b, to: END",
    ),
    "several edges of one source": (
        "a b c d",
        "from: START, to: a",
        "from: a, to: b",
        "from: a, to: c",
        "from: [b, c], to: d",
        "from: d, to: END",
    ),
    "a loop inside a branch": (
        "a b b2 b3 c d",
        "from: START, to: a",
        "from: a, to: [b, c]",
        "from: b, to: b2",
        "from: b2, to: [b, b3], condition: x, max_loops: 2",
        "from: [b3, c], to: d",
        "from: d, to: END",
    ),
    "a fan-out in a fan-out, each with its join": (
        "a b c d e f",
        "from: START, to: [a, b]",
        "from: a, to: [c, d]",
        "from: [c, d], to: e",
        "from: [e, b], to: f",
        "from: f, to: END",
    ),
}

WRONG = {
    "no START": ("no-start", "a b", "from: a, to: b", "from: b, to: END"),
    "nobody leads there": ("unreachable-agent", "a b", "from: START, to: a", "from: [a, b], to: END"),
    "a lost cycle": (
        "unreachable-agent",
        "a b c",
        "from: START, to: a",
        "from: a, to: END",
        "from: b, to: c",
        "from: c, to: b",
    ),
    "a fan-out with separate edges": (
        "ambiguous-arrival",
        "a b c",
        "from: START, to: [a, b]",
        "from: a, to: c",
        "from: b, to: c",
        "from: c, to: END",
    ),
    "the same, deeper in both branches": (
        "ambiguous-arrival",
        "a b c d e",
        "from: START, to: [a, b]",
        "from: a, to: c",
        "from: b, to: d",
        "from: c, to: e",
        "from: d, to: e",
        "from: e, to: END",
    ),
    "a join in one branch, an edge from the other": (
        "ambiguous-arrival",
        "a b c d e",
        "from: START, to: [a, b]",
        "from: a, to: [c, d]",
        "from: [c, d], to: e",
        "from: b, to: e",
        "from: e, to: END",
    ),
    "behind a join": (
        "ambiguous-arrival",
        "a b c d e",
        "from: START, to: [a, b, c]",
        "from: [a, b], to: d",
        "from: d, to: e",
        "from: c, to: e",
        "from: e, to: END",
    ),
    "a fan-out by two edges of one source": (
        "ambiguous-arrival",
        "a b c d",
        "from: START, to: a",
        "from: a, to: b",
        "from: a, to: c",
        "from: b, to: d",
        "from: c, to: d",
        "from: d, to: END",
    ),
    "started beside its own predecessor": (
        "ambiguous-arrival",
        "a c",
        "from: START, to: [a, c]",
        "from: a, to: c",
        "from: c, to: END",
    ),
    "back past the fan-out": (
        "loop-out-of-branch",
        "a b c",
        "from: START, to: a",
        "from: a, to: [b, c]",
        "from: b, to: [a, END], condition: x, max_loops: 2",
        "from: c, to: END",
    ),
    "an agent after itself": ("unbounded-cycle", "a", "from: START, to: a", "from: a, to: a"),
    "a cycle of two": ("unbounded-cycle", "a b", "from: START, to: a", "from: a, to: b", "from: b, to: a"),
    "a cycle through a join": (
        "unbounded-cycle",
        "a b c",
        "from: START, to: [a, b]",
        "from: [a, b], to: c",
        "from: c, to: [a, b]",
    ),
    "a condition without a way out": (
        "unbounded-cycle",
        "a b",
        "from: START, to: a",
        "from: a, to: [a, b], condition: x",
        "from: b, to: a",
    ),
    "a way on that leads back": (
        "unbounded-cycle",
        "a b",
        "from: START, to: a",
        "from: a, to: a, max_loops: 1, on_max_loops: b",
        "from: b, to: a",
    ),
    "two ways on": (
        "on-max-loops-missing",
        "a b c",
        "from: START, to: a",
        "from: a, to: [a, b, c], condition: x, max_loops: 2",
        "from: [b, c], to: END",
    ),
    "no way on": ("on-max-loops-missing", "a", "from: START, to: a", "from: a, to: a, max_loops: 2"),
    "the way on is closed, too": (
        "on-max-loops-closed",
        "a b",
        "from: START, to: a",
        "from: a, to: [a, b], condition: x, max_loops: 1, on_max_loops: a",
        "from: b, to: END",
    ),
}

DOUBTFUL = {
    "nothing leaves it": ("no-edge-out", "a b", "from: START, to: [a, b]", "from: b, to: END"),
    "a bound on no loop": (
        "max-loops-without-loop",
        "a b",
        "from: START, to: a",
        "from: a, to: [b, END], condition: x, max_loops: 2",
        "from: b, to: END",
    ),
    "a condition may choose both": (
        "ambiguous-choice",
        "a b c d",
        "from: START, to: a",
        "from: a, to: [b, c], condition: x",
        "from: b, to: d",
        "from: c, to: d",
        "from: d, to: END",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_graph_has_no_problem(name: str) -> None:
    assert judge(*RIGHT[name]).problems == []


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_graph_is_told_once_with_a_place_and_what_to_type(name: str) -> None:
    code, *graph = WRONG[name]

    errors = [problem for problem in judge(*graph).problems if problem.severity == "error"]

    assert [problem.code for problem in errors] == [code]
    assert errors[0].location is not None
    assert errors[0].location.path.name == "pipeline.yaml"
    assert errors[0].hint
    assert "join." not in render_problem(errors[0])


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_doubtful_graph_gets_a_warning_only(name: str) -> None:
    code, *graph = DOUBTFUL[name]

    (problem,) = judge(*graph).problems

    assert (problem.code, problem.severity) == (code, "warning")


class TestMessages:
    def test_an_ambiguous_arrival_shows_the_list_edge_to_write(self) -> None:
        edges = ("from: START, to: [a, b, c]", "from: a, to: d", "from: b, to: d", "from: c, to: d", "from: d, to: END")
        (problem,) = judge("a b c d", *edges).problems
        message = (
            "'a', 'b' and 'c' can be active at the same time, and reach 'd' by separate edges, "
            "which could start it twice"
        )
        assert render_problem(problem).splitlines() == [
            f"pipeline.yaml:12:5: error[ambiguous-arrival]: {message}",
            "    |",
            " 12 |   - {from: c, to: d}",
            "    |     ^",
            "hint: use one list edge instead: `{from: [a, b, c], to: d}`",
        ]

    def test_a_joins_sources_stand_for_it_in_the_hint(self) -> None:
        _, *graph = WRONG["a join in one branch, an edge from the other"]
        (problem,) = judge(*graph).problems
        assert problem.hint == "use one list edge instead: `{from: [c, d, b], to: e}`"

    def test_a_cycle_is_told_with_max_loops_at_the_edge_that_leads_back(self) -> None:
        (problem,) = judge("a b", "from: START, to: a", "from: a, to: b", "from: b, to: a").problems
        assert "the cycle through 'a' and 'b'" in problem.message
        assert problem.hint is not None
        assert "`max_loops: 2`" in problem.hint
        assert problem.location is not None
        assert (problem.location.line, problem.location.column) == (9, 5)

    def test_what_lies_behind_an_unreachable_agent_is_told_with_it(self) -> None:
        edges = ("from: START, to: a", "from: a, to: END", "from: b, to: c", "from: c, to: d", "from: d, to: END")
        (problem,) = judge("a b c d", *edges).problems
        assert (
            problem.message == "'b' can't be reached from START, so it would never run, nor would 'c' and 'd' behind it"
        )
        assert problem.hint is not None
        assert "{from: START, to: b}" in problem.hint

    def test_two_cycles_are_two_problems(self) -> None:
        edges = ("from: START, to: [a, b]", "from: a, to: a", "from: b, to: b")
        assert judge("a b", *edges).codes == ["unbounded-cycle", "unbounded-cycle"]

    def test_a_long_list_of_names_is_cut(self) -> None:
        names = [f"n{number}" for number in range(40)]
        edges = [f"from: {name}, to: z" for name in names]
        (problem,) = judge(
            f"{' '.join(names)} z", f"from: START, to: [{', '.join(names)}]", *edges, "from: z, to: END"
        ).problems
        assert "'n7' and 32 more can be active" in problem.message


class TestLoops:
    def test_a_loop_target_leads_back_and_is_reached_without_the_source(self) -> None:
        judged = judge("sec arch critic out", *TO_CRITIC, LOOP, "from: out, to: END")
        assert judged.loop_targets("critic") == {"sec", "arch"}
        assert judged.on_max_loops("critic") == "out"

    def test_in_nested_loops_the_way_forward_is_no_loop_target(self) -> None:
        edges = (
            "from: START, to: a",
            "from: a, to: b",
            "from: b, to: [a, c], condition: x, max_loops: 2",
            "from: c, to: [a, END], condition: y, max_loops: 3",
        )
        judged = judge("a b c", *edges)
        # From `c` the outer loop leads back to `b`, yet `c` can't be reached from START without `b`.
        assert judged.loop_targets("b") == {"a"}
        assert judged.on_max_loops("b") == "c"
        assert judged.loop_targets("c") == {"a"}
        assert judged.on_max_loops("c") == "END"
        assert judged.problems == []

    def test_on_max_loops_need_not_be_among_the_targets(self) -> None:
        edges = (
            "from: START, to: a",
            "from: a, to: [a, b], condition: x, max_loops: 1, on_max_loops: c",
            "from: [b, c], to: END",
        )
        judged = judge("a b c", *edges)
        assert judged.problems == []
        assert judged.on_max_loops("a") == "c"
        assert "c" in judged.topology.reaches("START")

    def test_a_labelled_loop_target_counts_as_its_target(self) -> None:
        judged = judge("a", "from: START, to: a", "from: a, to: {again: a, stop: END}, condition: x, max_loops: 2")
        assert judged.loop_targets("a") == {"a"}
        assert judged.on_max_loops("a") == "END"


class TestParallelism:
    def test_branches_are_parallel_up_to_their_join(self) -> None:
        edges = (
            "from: START, to: [a1, b1]",
            "from: a1, to: a2",
            "from: b1, to: b2",
            "from: [a2, b2], to: end",
            "from: end, to: END",
        )
        judged = judge("a1 a2 b1 b2 end", *edges)
        assert judged.beside("a1") >= {"b1", "b2"}
        assert judged.beside("a2") >= {"b1", "b2"}
        assert judged.beside("end") == set()

    def test_alternatives_of_a_condition_that_meet_apart_are_not_parallel(self) -> None:
        _, *graph = DOUBTFUL["a condition may choose both"]
        judged = judge(*graph)
        assert judged.beside("b") == set()
        assert judged.parallelism.forbidden == {"a#1": judged.parallelism.forbidden["a#1"]}

    def test_targets_that_a_condition_may_choose_together_are_parallel(self) -> None:
        edges = ("from: START, to: [a, b], condition: x", "from: [a, b], to: c", "from: c, to: END")
        assert judge("a b c", *edges).beside("a") >= {"b"}

    def test_what_a_join_of_mode_any_starts_is_beside_the_slow_branch(self) -> None:
        edges = (
            "from: START, to: [fast, slow]",
            "from: [fast, slow], to: t, join: any",
            "from: t, to: t2",
            "from: t2, to: END",
        )
        judged = judge("fast slow t t2", *edges)
        assert judged.problems == []
        assert judged.beside("slow") >= {"fast", "t", "t2"}
        assert not judged.beside("t") & {"t", "t2"}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_random_programs_have_no_error(program: Program) -> None:
    errors = [problem for problem in judge_written(write(program)).problems if problem.severity == "error"]
    assert errors == []


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_a_loop_that_loses_its_bound_and_condition_is_an_unbounded_cycle(program: Program) -> None:
    assume(_holds(program, Loop))
    written = write(program)
    index = next(edge.index for edge in written.edges if edge.max_loops is not None)
    gate = written.edges[index]
    back = type(gate)(index=index, sources=gate.sources, is_list=False, targets=gate.targets[:1], labels=None)
    written.edges[index] = back
    assert {"unbounded-cycle", "unreachable-agent"}.intersection(judge_written(written).codes)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(programs(), min_size=2, max_size=3))
def test_a_fan_out_that_loses_its_join_is_an_ambiguous_arrival(branches: list[Program]) -> None:
    written = write(FanOut(branches, None))
    closer = next(edge for edge in written.edges if edge.targets == (written.nodes[-1],))
    written.edges.remove(closer)
    for source in closer.sources:
        written.edge(source, list(closer.targets))
    assert "ambiguous-arrival" in judge_written(written).codes


def _holds(program: Program, kind: type) -> bool:
    parts: list[Program] = []
    match program:
        case Sequence(inner):
            parts = inner
        case FanOut(branches, _):
            parts = branches
        case Loop(body, _, _):
            parts = [body]
    return isinstance(program, kind) or any(_holds(part, kind) for part in parts)


class TestSize:
    """A thousand nodes are analysed in a couple of seconds; the limits leave room for a slow machine."""

    def analyse_in(self, seconds: float, written: Written) -> Judged:
        started = time.process_time()
        judged = judge_written(written)
        assert time.process_time() - started < seconds
        return judged

    def test_a_thousand_agents_side_by_side(self) -> None:
        names = [f"n{number}" for number in range(1000)]
        written = Written(names)
        written.edge("START", names[:-1])
        written.edge(names[:-1], [names[-1]])
        written.edge(names[-1], ["END"])
        assert self.analyse_in(10, written).problems == []

    def test_ten_branches_of_a_hundred(self) -> None:
        names = [f"n{number}" for number in range(1000)]
        written = Written([*names, "end"])
        written.edge("START", names[::100])
        for start in range(0, 1000, 100):
            for number in range(start, start + 99):
                written.edge(names[number], [names[number + 1]])
        written.edge(names[99::100], ["end"])
        written.edge("end", ["END"])
        assert self.analyse_in(10, written).problems == []

    def test_three_hundred_nested_loops(self) -> None:
        names = [f"n{number}" for number in range(300)]
        written = Written(names)
        written.edge("START", [names[0]])
        for one, other in pairwise(names):
            written.edge(one, [names[0], other], loops=2, chosen=True)
        written.edge(names[-1], ["END"])
        assert self.analyse_in(10, written).problems == []

    def test_a_choice_among_three_hundred(self) -> None:
        names = [f"n{number}" for number in range(300)]
        written = Written([*names, "end"])
        written.edge("START", names, chosen=True)
        for name in names:
            written.edge(name, ["end"])
        written.edge("end", ["END"])
        assert self.analyse_in(10, written).codes == ["ambiguous-choice"]
