"""Where the changes of parallel writers meet, and what compiling says about it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from orchestra.cli.render import render_problem
from orchestra.graph.conflict_checks import conflict_warnings
from orchestra.graph.loader import load_pipeline
from orchestra.graph.meetings import Meetings, find_meetings
from orchestra.graph.parallel import find_parallelism
from orchestra.graph.regions import find_branches
from orchestra.graph.slots import assign_slots
from orchestra.graph.topology import analyse
from tests.programs import Written
from tests.test_slots import ANY, IRREGULAR, LONG, NESTED, REPO, tangled, use
from tests.test_topology import RIGHT, judge_written

if TYPE_CHECKING:
    from orchestra.errors import Problem

FAN = ("a b c critic", "from: START, to: [a, b, c]", "from: [a, b, c], to: critic", "from: critic, to: END")


def look(graph: tuple[str, ...], steps: str = "", **writers: str) -> tuple[Meetings, list[Problem]]:
    """Find what meets where; `writers` are by repo."""
    agents, *edges = graph
    lines = ["name: g", "providers: {default: openai, openai: {}}"]
    lines += ["workspace: {repos: {app: {path: app}, docs: {path: docs}}}", "agents:"]
    lines += [f"  {name}: {{task: {{template: x}}, model: m}}" for name in agents.split()]
    lines += ["graph:", *(f"  - {{{edge}}}" for edge in edges)]
    loaded = load_pipeline(Path("pipeline.yaml"), text="\n".join(lines) + "\n")
    spec, locate = loaded.pipeline.graph, loaded.document.locate
    topology = analyse(tuple(loaded.pipeline.agents), spec)
    parallelism = find_parallelism(topology)
    branches = find_branches(topology, parallelism)
    writes = {node: [repo for repo in writers if node in writers[repo].split()] for node in topology.nodes}
    slots = assign_slots(topology, parallelism, branches, writes, writes)
    meetings = find_meetings(topology, parallelism, branches, writes, set(topology.nodes) - set(steps.split()))
    return meetings, list(conflict_warnings(spec, topology, slots, meetings, steps.split(), locate))


def met(graph: tuple[str, ...], writers: str) -> dict[str | None, str]:
    return {meeting.join: " ".join(meeting.writers) for meeting in look(graph, app=writers)[0].found}


CASES = {
    "a fan-out": (FAN, "a b", {"join.critic": "a b"}),
    "one writer alone": (FAN, "a critic", {}),
    "writers after each other": (RIGHT["a sequence"], "a b", {}),
    "writers of one branch": (LONG, "a1 a2", {}),
    "two of one branch, and one beside": (LONG, "a1 a2 b", {"join.z": "a1 a2 b"}),
    "a fan-out in a fan-out": (NESTED, "n q b", {"join.f": "n q", "join.z": "n q b"}),
    "a join beside a third branch": (IRREGULAR, "a b c", {"join.d": "a b", "join.e": "a b c"}),
    "a list that leads to END": (RIGHT["a list that leads to END"], "a b", {None: "a b"}),
    "a join of mode any": (ANY, "fast slow t", {"join.t": "fast slow", None: "fast slow t"}),
    "what comes late to a join of mode any meets the others at the next join": (
        (
            "fast slow t x z",
            "from: START, to: [fast, slow, x]",
            "from: [fast, slow], to: t, join: any",
            "from: [t, x], to: z",
            "from: z, to: END",
        ),
        "fast slow",
        {"join.t": "fast slow", "join.z": "fast slow"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_parallel_writers_meet_where_their_ways_join(name: str) -> None:
    graph, writers, expected = CASES[name]

    assert met(graph, writers) == expected


def test_groups_that_never_meet_are_told_apart() -> None:
    graph = ("r a b s c d", "from: START, to: [r, s], condition: x", "from: r, to: [a, b]", "from: s, to: [c, d]")
    apart = (graph[0], "from: START, to: r", graph[2], "from: b, to: s", graph[3])
    meetings, _ = look(apart, app="c d", docs="a b")

    assert [(meeting.repo, meeting.writers) for meeting in meetings.found] == [
        ("docs", ("a", "b")),
        ("app", ("c", "d")),
    ]


def test_a_meeting_knows_which_sources_bring_changes() -> None:
    meetings, _ = look(FAN, app="a c", docs="a b c")

    assert meetings.at("join.critic")["app"].sources == ("a", "c")
    assert meetings.at("join.critic")["docs"].sources == ("a", "b", "c")


@pytest.mark.parametrize(
    ("written", "writers", "steps", "expected"),
    [
        ("", "a b critic", "", "agent"),
        ("", "a b", "", "human"),
        ("", "a b critic", "critic", "human"),
        (", on_conflict: human", "a b critic", "", "human"),
        (", on_conflict: fail", "a b", "", "fail"),
    ],
)
def test_only_an_agent_that_may_write_there_resolves_a_conflict(
    written: str, writers: str, steps: str, expected: str
) -> None:
    graph = (*FAN[:2], FAN[2] + written, FAN[3])

    assert look(graph, steps, app=writers)[0].resolver("join.critic", REPO) == expected


class TestWarnings:
    def test_writers_that_meet_are_told_once_with_where_and_who_resolves(self) -> None:
        _, (problem,) = look(FAN, app="a b c critic")
        message = (
            "'a', 'b' and 'c' may write to 'app' at the same time: each works in a worktree of its own, and before "
            "'critic' their changes are merged in the order of `from`"
        )
        hint = "'critic' resolves it; `on_conflict: human` or `fail` at the edge to it would pause or stop the session"
        assert render_problem(problem).splitlines() == [
            f"pipeline.yaml:5:3: warning[parallel-write]: {message}",
            "   |",
            " 5 |   a: {task: {template: x}, model: m}",
            "   |   ^",
            f"hint: where they conflict, {hint} there",
        ]

    def test_eight_writers_of_two_repos_are_two_warnings(self) -> None:
        names = " ".join(f"w{number}" for number in range(8))
        listed = names.replace(" ", ", ")
        graph = (f"{names} z", f"from: START, to: [{listed}]", f"from: [{listed}], to: z", "from: z, to: END")
        _, problems = look(graph, app=f"{names} z", docs=f"{names} z")
        assert [problem.code for problem in problems] == ["parallel-write", "parallel-write"]

    def test_agents_of_one_branch_share_its_worktree(self) -> None:
        _, problems = look(LONG, app="a1 a2 b z")
        assert "each branch works in a worktree of its own" in problems[0].message

    def test_writers_that_never_meet_are_merged_at_the_end(self) -> None:
        _, (problem,) = look(RIGHT["a list that leads to END"], app="a b")
        assert problem.code == "parallel-write"
        assert "merged at the session's end" in problem.message
        assert problem.hint is not None
        assert "list edge" in problem.hint

    def test_a_target_without_a_writing_tool_leaves_conflicts_to_a_person(self) -> None:
        _, (first, second) = look(FAN, app="a b")
        assert first.hint == "where they conflict, the session pauses for a person"
        assert (second.code, second.severity) == ("conflict-needs-human", "warning")
        assert second.message == (
            "a conflict in 'app' before 'critic' will wait for a person, "
            "since 'critic' has no tool that writes to 'app'"
        )
        assert second.hint == (
            "give 'critic' the tool `app:edit-file`, or say `on_conflict: human` or `on_conflict: fail` at this edge"
        )
        assert second.location is not None
        assert second.location.line == 11

    def test_a_step_resolves_nothing(self) -> None:
        _, problems = look(FAN, "critic", app="a b critic")
        assert problems[1].message.endswith("since 'critic' is a step")

    def test_the_target_of_a_join_of_mode_any_is_looked_at_too(self) -> None:
        _, problems = look(ANY, app="fast slow")
        assert sorted(problem.code for problem in problems) == ["conflict-needs-human", "parallel-write"]

    @pytest.mark.parametrize("written", ["human", "fail"])
    def test_who_says_what_is_to_happen_is_not_told_again(self, written: str) -> None:
        _, problems = look((*FAN[:2], f"{FAN[2]}, on_conflict: {written}", FAN[3]), app="a b")
        assert [problem.code for problem in problems] == ["parallel-write"]

    @pytest.mark.parametrize(
        ("edge", "reason"),
        [
            ("from: [a, b, c], to: critic, on_conflict: human", "no parallel writers of one repo meet at this edge"),
            ("from: [a, b, c], to: END, on_conflict: human", "a list that leads to END is no join"),
            ("from: [a], to: critic, on_conflict: human", "no parallel writers of one repo meet at this edge"),
        ],
    )
    def test_on_conflict_where_nothing_can_conflict_has_no_effect(self, edge: str, reason: str) -> None:
        _, (problem,) = look((*FAN[:2], edge, FAN[3]), app="a critic", docs="b")
        assert (problem.code, problem.severity) == ("on-conflict-without-effect", "warning")
        assert reason in problem.message


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), tangled())
def test_every_pair_of_parallel_writers_meets_at_a_join_or_at_the_end(data: st.DataObject, written: Written) -> None:
    judged = judge_written(written)
    assume(not [problem for problem in judged.problems if problem.severity == "error"])
    writers, _ = data.draw(st.composite(lambda draw: use(draw, written.nodes))())
    writes = {node: [REPO] for node in writers}
    branches = find_branches(judged.topology, judged.parallelism)

    found = find_meetings(judged.topology, judged.parallelism, branches, writes, writers).found

    pairs = {(one, other) for one, other in judged.parallelism.pairs if {one, other} <= set(writers) and one != other}
    assert all(any({one, other} <= set(meeting.writers) for meeting in found) for one, other in pairs)
    assert {one for one, _ in pairs} == {writer for meeting in found for writer in meeting.writers}
    assert sum(meeting.join is None for meeting in found) <= len(pairs)


def test_a_thousand_writers_side_by_side_are_found_in_seconds() -> None:
    names = [f"n{number}" for number in range(1000)]
    written = Written([*names, "z"])
    written.edge("START", names)
    written.edge(names, ["z"])
    written.edge("z", ["END"])
    judged = judge_written(written)
    writes = {name: [REPO] for name in names}
    branches = find_branches(judged.topology, judged.parallelism)

    started = time.process_time()
    (meeting,) = find_meetings(judged.topology, judged.parallelism, branches, writes, names).found
    slots = assign_slots(judged.topology, judged.parallelism, branches, writes, writes)

    assert time.process_time() - started < 15
    assert meeting.writers == tuple(names)
    assert slots.retired_by("join.z") == {REPO: frozenset(names)}
