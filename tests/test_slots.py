"""In which worktree each agent works: a function of the graph and of who writes where."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from orchestra.agents.context import SESSION_SLOT
from orchestra.graph.regions import find_branches
from orchestra.graph.slots import Slots, assign_slots
from tests.programs import Written, programs, write
from tests.test_topology import RIGHT, Judged, judge, judge_written

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tests.programs import Program

REPO = "app"


def assign(judged: Judged, writes: Collection[str], reads: Collection[str] = ()) -> Slots:
    return assign_repos(judged, {REPO: writes}, {REPO: reads})


def assign_repos(judged: Judged, writes: Mapping[str, Collection[str]], reads: Mapping[str, Collection[str]]) -> Slots:
    writing = {node: [repo for repo in writes if node in writes[repo]] for node in judged.topology.nodes}
    using = {node: [*writing[node], *(repo for repo in reads if node in reads[repo])] for node in judged.topology.nodes}
    branches = find_branches(judged.topology, judged.parallelism)
    return assign_slots(judged.topology, judged.parallelism, branches, using, writing)


def shown(judged: Judged, slots: Slots, repo: str = REPO) -> dict[str, str]:
    """Return the slot of each node that does not work in the session's."""
    every = {node: slots.of(node, repo) for node in (*judged.topology.nodes, *judged.topology.joins)}
    return {node: slot for node, slot in every.items() if slot != SESSION_SLOT}


def slots_of(graph: tuple[str, ...], writes: str, reads: str = "") -> dict[str, str]:
    judged = judge(*graph)
    assert [problem for problem in judged.problems if problem.severity == "error"] == []
    return shown(judged, assign(judged, writes.split(), reads.split()))


THREE = ("w1 w2 reader z", "from: START, to: [w1, w2, reader]", "from: [w1, w2, reader], to: z", "from: z, to: END")
LONG = (
    "a1 a2 b z",
    "from: START, to: [a1, b]",
    "from: a1, to: a2",
    "from: [a2, b], to: z",
    "from: z, to: END",
)
NESTED = (
    "a n q f b z",
    "from: START, to: [a, b]",
    "from: a, to: [n, q]",
    "from: [n, q], to: f",
    "from: [f, b], to: z",
    "from: z, to: END",
)
IRREGULAR = (
    "a b c d d2 e",
    "from: START, to: [a, b, c]",
    "from: [a, b], to: d",
    "from: d, to: d2",
    "from: [d2, c], to: e",
    "from: e, to: END",
)
FORKED = (
    "a b c d n q e",
    "from: START, to: [a, b, c]",
    "from: [a, b], to: d",
    "from: d, to: [n, q]",
    "from: [n, q, c], to: e",
    "from: e, to: END",
)
ANY = (
    "fast slow t t2 z",
    "from: START, to: [fast, slow]",
    "from: [fast, slow], to: t, join: any",
    "from: t, to: t2",
    "from: t2, to: z",
    "from: z, to: END",
)

CASES = {
    "a sequence": (RIGHT["a sequence"], "a b", "", {}),
    "two writers beside a reader": (THREE, "w1 w2 z", "reader", {"w1": "w1", "w2": "w2"}),
    "one writer beside a reader": (THREE, "w1", "reader", {"w1": "w1"}),
    "one writer, and nobody else uses the repo": (THREE, "w1", "z", {}),
    "readers alone": (THREE, "", "w1 w2 reader z", {}),
    "a branch shares one slot, whoever in it writes": (LONG, "a2 b", "", {"a1": "a1", "a2": "a1", "b": "b"}),
    "fan-outs in a fan-out": (
        NESTED,
        "n q b",
        "",
        {"a": "a", "n": "n", "q": "q", "join.f": "a", "f": "a", "b": "b"},
    ),
    "what is inside meets in the session's slot when nobody outside uses the repo": (
        NESTED,
        "n q",
        "",
        {"n": "n", "q": "q"},
    ),
    "one writer of a branch in a branch needs no slot besides the outer one's": (
        NESTED,
        "n b",
        "",
        {"a": "a", "n": "a", "q": "a", "join.f": "a", "f": "a", "b": "b"},
    ),
    "a join beside a third branch merges into its target's slot, and who follows goes on there": (
        IRREGULAR,
        "a b c d d2",
        "",
        {"a": "a", "b": "b", "c": "c", "join.d": "d", "d": "d", "d2": "d"},
    ),
    "who only reads sees what was merged beside a third branch": (
        IRREGULAR,
        "a b c",
        "d d2",
        {"a": "a", "b": "b", "c": "c", "join.d": "d", "d": "d", "d2": "d"},
    ),
    "a join of readers has nothing to merge": (IRREGULAR, "", "a b c d d2 e", {}),
    "branches behind such a join": (
        FORKED,
        "a b c n q",
        "",
        {"a": "a", "b": "b", "c": "c", "join.d": "d", "d": "d", "n": "n", "q": "q"},
    ),
    "readers behind such a join": (
        FORKED,
        "a b c",
        "n q",
        {"a": "a", "b": "b", "c": "c", "join.d": "d", "d": "d", "n": "d", "q": "d"},
    ),
    "the target of a join of mode any works beside the slow one": (
        ANY,
        "fast slow",
        "t t2",
        {"fast": "fast", "slow": "slow", "join.t": "t", "t": "t", "t2": "t", "z": "t"},
    ),
    "a condition may start a writer again beside who follows it": (
        (
            "a a2 b c",
            "from: START, to: [a, b], condition: x",
            "from: a, to: a2",
            "from: b, to: [a, c], condition: y, max_loops: 2",
        ),
        "a a2",
        "",
        {"a": "a", "a2": "a2"},
    ),
    "a loop inside a branch": (
        RIGHT["a loop inside a branch"],
        "b2 c",
        "",
        {"b": "b", "b2": "b", "b3": "b", "c": "c"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_who_changes_what_others_use_works_apart(name: str) -> None:
    graph, writes, reads, expected = CASES[name]

    assert slots_of(graph, writes, reads) == expected


def test_each_repo_has_its_own_slots() -> None:
    judged = judge(*THREE)
    slots = assign_repos(judged, {"app": ["w1"], "docs": ["w2"], "site": ["w1", "w2"]}, {"docs": ["reader"]})

    assert shown(judged, slots, "app") == {}
    assert shown(judged, slots, "docs") == {"w2": "w2"}
    assert shown(judged, slots, "site") == {"w1": "w1", "w2": "w2"}
    assert slots.apart("w2") == {"docs": "w2", "site": "w2"}


def test_a_join_retires_the_slots_of_its_branches() -> None:
    judged = judge(*NESTED)
    slots = assign(judged, ["n", "q", "b"])

    assert slots.retired_by("join.f") == {REPO: {"n", "q"}}
    assert slots.retired_by("join.z") == {REPO: {"a", "b", "n", "q"}}


def test_a_join_beside_a_third_branch_retires_what_it_merged() -> None:
    judged = judge(*IRREGULAR)
    slots = assign(judged, ["a", "b", "c", "d2"])

    assert slots.retired_by("join.d") == {REPO: {"a", "b"}}
    assert slots.retired_by("join.e") == {REPO: {"c", "d"}}


def test_a_slot_that_someone_still_works_in_is_not_retired() -> None:
    judged = judge(*ANY)

    assert assign(judged, ["fast", "slow"]).retired_by("join.t") == {}


def test_a_loop_around_the_fan_out_does_not_keep_its_slots() -> None:
    judged = judge(*RIGHT["the pull request review"])

    assert assign(judged, ["sec", "arch"]).retired_by("join.critic") == {REPO: {"sec", "arch"}}


def before(judged: Judged, slots: Slots, node: str) -> frozenset[str]:
    """Return the other slots in which what leads to a node worked."""
    return frozenset(slots.of(one, REPO) for one in judged.topology.predecessors.get(node, ())) - {slots.of(node, REPO)}


def test_a_new_slot_begins_where_what_led_to_it_worked() -> None:
    judged = judge(*FORKED)
    slots = assign(judged, ["a", "b", "c", "n", "q"])

    assert before(judged, slots, "a") == {SESSION_SLOT}
    assert before(judged, slots, "n") == {"d"}
    assert before(judged, slots, "d") == frozenset()
    assert before(judged, slots, "join.e") == {"n", "q", "c"}


NAMES = [f"n{number}" for number in range(9)]


@st.composite
def tangled(draw: st.DrawFn) -> Written:
    """A graph of any shape: what has several sources has them as a list, and the rest starts by itself."""
    written = Written(NAMES[: draw(st.integers(4, 9))])
    nodes = written.nodes
    onward: dict[str, list[str]] = {}
    for number, node in enumerate(nodes):
        most = draw(st.sampled_from([1, 1, 2, 3]))
        sources = draw(st.lists(st.sampled_from(nodes[:number]), max_size=most, unique=True)) if number else []
        if len(sources) > 1:
            written.edge(sources, [node], mode=draw(st.sampled_from(["all", "all", "all", "any"])))
        else:
            onward.setdefault(sources[0] if sources else "START", []).append(node)
    for source, targets in onward.items():
        kind = draw(st.sampled_from(["fan", "fan", "fan", "choose", "end", "loop"]))
        if kind == "loop" and source != "START":
            back = draw(st.sampled_from(nodes[: nodes.index(source) + 1]))
            written.edge(source, [back, targets[0]], loops=2, chosen=True)
            targets.pop(0)
        if targets:
            written.edge(source, [*targets, *["END"][: kind == "end"]], chosen=kind in {"choose", "end"})
    return written


def use(draw: st.DrawFn, nodes: list[str]) -> tuple[list[str], list[str]]:
    chosen = st.lists(st.sampled_from(nodes), max_size=len(nodes), unique=True)
    return draw(chosen), draw(chosen)


def check(judged: Judged, writes: list[str], reads: list[str]) -> None:
    """Check what holds for any graph."""
    slots = assign(judged, writes, reads)
    users = {*writes, *reads}
    for one, other in combinations(judged.topology.nodes, 2):
        if {one, other} <= users and {one, other} & set(writes) and (one, other) in judged.parallelism.pairs:
            assert slots.of(one, REPO) != slots.of(other, REPO), (one, other)
    for join in judged.topology.joins.values():
        for node in set(writes) if join.mode == "all" else ():
            if (join.name, node) in judged.parallelism.pairs and join.name not in judged.topology.reaches(node):
                assert slots.of(join.name, REPO) != slots.of(node, REPO) or not before(judged, slots, join.name)
        if slots.of(join.name, REPO) == join.target:
            assert slots.of(join.target, REPO) == join.target
        assert SESSION_SLOT not in slots.retired_by(join.name).get(REPO, ())
    assert set(shown(judged, slots).values()) <= set(judged.topology.nodes)
    for branch in find_branches(judged.topology, judged.parallelism).found:
        here = slots.of(branch.entry, REPO)
        if here == branch.entry and not branch.branches:
            beside = {node for node in branch.members if (judged.beside(node) - {node}) & branch.members}
            assert {slots.of(node, REPO) for node in branch.members - beside} <= {here}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), programs())
def test_in_a_random_program_nobody_sees_half_a_change(data: st.DataObject, program: Program) -> None:
    written = write(program)
    check(judge_written(written), *data.draw(st.composite(lambda draw: use(draw, written.nodes))()))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), tangled())
def test_in_a_tangled_graph_nobody_sees_half_a_change(data: st.DataObject, written: Written) -> None:
    judged = judge_written(written)
    assume(not [problem for problem in judged.problems if problem.severity == "error"])
    check(judged, *data.draw(st.composite(lambda draw: use(draw, written.nodes))()))


def test_hundreds_of_writers_have_hundreds_of_slots() -> None:
    names = [f"n{number}" for number in range(600)]
    written = Written([*names, "z"])
    written.edge("START", names)
    written.edge(names, ["z"])
    written.edge("z", ["END"])
    judged = judge_written(written)

    slots = assign(judged, names)

    assert shown(judged, slots) == {name: name for name in names}
    assert len(slots.retired_by("join.z")[REPO]) == 600
