"""Which parts of a graph are branches, and which of them can run at their own pace."""

from __future__ import annotations

import pytest

from orchestra.graph.regions import Branch, Branches, find_branches
from tests.test_topology import RIGHT, judge

NESTED = (
    "a b a1 a2 a3 a4 b1 z",
    "from: START, to: [a, b]",
    "from: a, to: [a1, a2]",
    "from: a1, to: a3",
    "from: [a3, a2], to: a4",
    "from: b, to: b1",
    "from: [a4, b1], to: z",
    "from: z, to: END",
)


def branches(agents: str, *edges: str) -> Branches:
    judged = judge(agents, *edges)
    assert [problem for problem in judged.problems if problem.severity == "error"] == []
    return find_branches(judged.topology, judged.parallelism)


def shown(found: tuple[Branch, ...]) -> dict[str, str]:
    """Return the first agent of each branch, inner ones too, and its members."""
    return {branch.entry: " ".join(sorted(branch.members)) for outer in found for branch in outer.walk()}


def lowered(agents: str, *edges: str) -> dict[str, str]:
    return shown(branches(agents, *edges).lowered)


def test_what_lies_between_a_fan_out_and_its_join_is_a_branch() -> None:
    found = branches(*NESTED)

    assert shown(found.lowered) == {"a": "a a1 a2 a3 a4 join.a4", "a1": "a1 a3", "b": "b b1"}
    assert [branch.exit for branch in found.lowered] == ["join.z", "join.z"]
    assert [branch.exit for branch in found.lowered[0].branches] == ["join.a4"]
    assert list(found.by_name) == ["branch.a", "branch.a1", "branch.b"]


def test_a_node_knows_the_branches_around_it() -> None:
    found = branches(*NESTED)

    assert [branch.entry for branch in found.around("a3")] == ["a", "a1"]
    assert [branch.entry for branch in found.around("join.a4")] == ["a"]
    inner = found.branch_of("a3")
    assert inner is not None
    assert inner.entry == "a1"
    assert found.branch_of("z") is None


def test_one_agent_alone_is_a_branch_that_stays_a_node() -> None:
    found = branches(*NESTED)
    inner = found.branch_of("a2")

    assert inner is not None
    assert inner.members == {"a2"}
    assert inner.name not in found.by_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a sequence", {}),
        ("the pull request review", {}),
        ("one agent alone, looped", {}),
        ("join any", {}),
        ("a loop inside a branch", {"b": "b b2 b3"}),
        ("a fan-out in a fan-out, each with its join", {"a": "a c d e join.e"}),
    ],
)
def test_the_known_graphs_have_these_branches(name: str, expected: dict[str, str]) -> None:
    assert lowered(*RIGHT[name]) == expected


LOOPED_BRANCHES = (
    "a a2 b b2 critic out",
    "from: START, to: [a, b]",
    "from: a, to: a2",
    "from: b, to: b2",
    "from: [a2, b2], to: critic",
    "from: critic, to: [a, b, out], condition: x, max_loops: 2",
    "from: out, to: END",
)
BRANCHES = {
    "a loop around the fan-out": (LOOPED_BRANCHES, {"a": "a a2", "b": "b b2"}),
    "a condition chooses among branches": (
        (
            "r a a2 b b2 z",
            "from: START, to: r",
            "from: r, to: [a, b], condition: x",
            "from: a, to: a2",
            "from: b, to: b2",
            "from: [a2, b2], to: z",
            "from: z, to: END",
        ),
        {"a": "a a2", "b": "b b2"},
    ),
    "a branch that may end early": (
        (
            "a a2 b b2 z",
            "from: START, to: [a, b]",
            "from: a, to: [a2, END], condition: x",
            "from: b, to: b2",
            "from: [a2, b2], to: z",
            "from: z, to: END",
        ),
        {"a": "a a2", "b": "b b2"},
    ),
    "branches that never meet": (
        ("a a2 b b2", "from: START, to: [a, b]", "from: a, to: a2", "from: b, to: b2", "from: [a2, b2], to: END"),
        {"a": "a a2", "b": "b b2"},
    ),
    "an agent that repeats itself beside another": (
        (
            "a b z",
            "from: START, to: [a, b]",
            "from: a, to: a, max_loops: 2, on_max_loops: END",
            "from: b, to: z",
            "from: z, to: END",
        ),
        {"a": "a", "b": "b z"},
    ),
    "a join of mode any inside a branch": (
        (
            "a a1 a2 a3 b b2 z",
            "from: START, to: [a, b]",
            "from: a, to: [a1, a2]",
            "from: [a1, a2], to: a3, join: any",
            "from: b, to: b2",
            "from: [a3, b2], to: z",
            "from: z, to: END",
        ),
        {"a": "a a1 a2 a3 join.a3", "b": "b b2"},
    ),
}

FLAT = {
    "a source of a join of mode any is not inside": (
        "a a2 b b2 z",
        "from: START, to: [a, b]",
        "from: a, to: a2",
        "from: b, to: b2",
        "from: [a2, b2], to: z, join: any",
        "from: z, to: END",
    ),
    "a branch must not delay what a join of mode any starts beside it": (
        "fast slow slow2 c c2 t z",
        "from: START, to: [fast, slow, c]",
        "from: slow, to: slow2",
        "from: [fast, slow2], to: t, join: any",
        "from: c, to: c2",
        "from: [t, c2], to: z",
        "from: z, to: END",
    ),
    "a way out that the join would not wait for": (
        "a a2 tail b z",
        "from: START, to: [a, b]",
        "from: a, to: [a2, tail]",
        "from: tail, to: END",
        "from: [a2, b], to: z",
        "from: z, to: END",
    ),
    "two joins": (
        "a a2 b c y z",
        "from: START, to: [a, b, c]",
        "from: a, to: [a2, END], condition: x",
        "from: [a, b], to: y",
        "from: [a2, c], to: z",
        "from: [y, z], to: END",
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_with_one_way_in_and_one_way_out_runs_on_its_own(name: str) -> None:
    edges, expected = BRANCHES[name]

    assert lowered(*edges) == expected


@pytest.mark.parametrize("name", FLAT)
def test_what_has_several_ways_or_would_delay_others_stays_flat(name: str) -> None:
    assert lowered(*FLAT[name]) == {}


def test_a_branch_beside_a_sequence_that_stays_flat_would_delay_it() -> None:
    """`b` and `b2` share a join of mode any, so they stay; a graph of `a` and `a2` would hold up `b2`."""
    found = branches(
        "a a2 b b2 c t z",
        "from: START, to: [a, b, c]",
        "from: a, to: a2",
        "from: b, to: b2",
        "from: [b2, c], to: t, join: any",
        "from: [a2, t], to: z",
        "from: z, to: END",
    )

    assert found.branch_of("a2") is not None
    assert found.lowered == ()


def test_hundreds_of_branches_are_found() -> None:
    names = [f"a{number}" for number in range(300)]
    edges = ["from: START, to: [" + ", ".join(f"{name}-x" for name in names) + "]"]
    edges += [f"from: {name}-x, to: {name}-y" for name in names]
    edges += ["from: [" + ", ".join(f"{name}-y" for name in names) + "], to: z", "from: z, to: END"]
    agents = " ".join(f"{name}-{part}" for name in names for part in "xy") + " z"

    assert len(lowered(agents, *edges)) == 300
