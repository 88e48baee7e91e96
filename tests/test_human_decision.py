"""The condition `human-decision`: what it needs at its edge, and where each decision leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestra.errors import PipelineError, Problem, SessionError
from orchestra.graph.briefing import briefing
from orchestra.graph.conditions import ConditionRegistry
from orchestra.graph.human_decision import DECISIONS, HUMAN_DECISION
from orchestra.graph.lowering import lower
from orchestra.graph.nodes import GraphContext
from orchestra.graph.parallel import find_parallelism
from orchestra.graph.project import find_project
from orchestra.graph.resolve import load_and_resolve
from orchestra.graph.routing import Router
from orchestra.graph.schema import EdgeSpec
from orchestra.graph.topology import END, analyse
from tests.programs import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.runnables import RunnableConfig

    from orchestra.agents.context import Turn
    from orchestra.graph.resolved import ResolvedPipeline
    from tests.conftest import Workshop

TEXT = """
name: talk
agents:
  fixer: {task: {template: "Fix."}, model: m}
  reviewer: {task: {template: "Review."}, model: m, mode: interactive}
graph:
  - {from: START, to: fixer}
  - {from: fixer, to: reviewer}
  - {from: reviewer, to: {approve: END, reject: fixer}, condition: human-decision, max_loops: 3}
"""
SCRIPT: dict[str, Any] = {"fixer": [[{"text": "Fixed."}]] * 3, "reviewer": [[{"text": "Shall it be merged?"}]] * 3}
OWN = "import orchestra\n\n@orchestra.condition('human-decision')\ndef mine(state): return 'END'\n"


def compiled(workshop: Workshop, text: str, **files: str) -> ResolvedPipeline:
    named = {f"conditions/{name}.py": content for name, content in files.items()}
    path = workshop.pipeline(text, script=SCRIPT, files=named)
    return load_and_resolve(path, find_project(workshop.repo.path), repos={}, cwd=workshop.repo.path)


def errors(workshop: Workshop, text: str, **files: str) -> list[Problem]:
    with pytest.raises(PipelineError) as caught:
        compiled(workshop, text, **files)
    return [problem for problem in caught.value.problems if problem.severity == "error"]


@pytest.mark.parametrize(
    ("decision", "labels", "target"),
    [
        ("approve", {"approve": "END", "reject": "fixer"}, "END"),
        ("reject", {"approve": "END", "reject": "fixer"}, "fixer"),
        ("done", {"approve": "END", "reject": "fixer"}, "END"),
        ("done", {"approve": "END", "reject": "fixer", "done": "fixer"}, "fixer"),
        ("reject", {"approve": "writer", "reject": "END", "done": "fixer"}, "END"),
    ],
)
async def test_a_decision_leads_where_its_label_says(decision: str, labels: dict[str, str], target: str) -> None:
    state = {"agent_outputs": {"reviewer": {"decision": decision}, "other": {"decision": "approve"}}}
    registry = ConditionRegistry([HUMAN_DECISION])
    choice = await registry.choose("human-decision", state, labels, source="reviewer")
    assert choice.targets == (target,)


@pytest.mark.parametrize("output", [None, "approve", {"decision": "maybe"}, {}])
async def test_an_output_that_is_no_decision_stops_with_what_is_allowed(output: Any) -> None:
    registry = ConditionRegistry([HUMAN_DECISION])
    labels = {"approve": "END", "reject": "fixer"}
    with pytest.raises(SessionError, match="allowed: 'approve', 'reject'") as caught:
        await registry.choose("human-decision", {"agent_outputs": {"reviewer": output}}, labels, source="reviewer")
    assert caught.value.code == "bad-condition"


def test_a_condition_of_that_name_in_the_pipelines_directory_wins_with_rules_of_its_own(workshop: Workshop) -> None:
    text = TEXT.replace("to: {approve: END, reject: fixer}", "to: [END, fixer]").replace(", mode: interactive", "")
    resolved = compiled(workshop, text, mine=OWN)
    assert resolved.conditions.get("human-decision").path == workshop.pipelines / "conditions" / "mine.py"
    assert resolved.warnings == ()


def test_a_condition_that_may_stand_in_a_file_that_cant_be_read_is_not_judged(workshop: Workshop) -> None:
    text = TEXT.replace("to: {approve: END, reject: fixer}", "to: [END, fixer]")
    assert [problem.code for problem in errors(workshop, text, mine="def broken(:\n")] == ["bad-import"]


def test_a_misspelt_name_is_recognised(workshop: Workshop) -> None:
    (problem,) = errors(workshop, TEXT.replace("human-decision", "human_decision"))
    assert (problem.code, problem.hint) == ("unknown-condition", "did you mean 'human-decision'?")


EDGE = "to: {approve: END, reject: fixer}"
ON_LIST = ["list-edge-one-target", "max-loops-on-list-edge"]


@pytest.mark.parametrize(
    ("old", "new", "code", "hint"),
    [
        (EDGE, "to: [fixer, END]", "decision-without-labels", "write to: {approve: END, reject: fixer}"),
        (EDGE, "to: END", "decision-without-labels", "write to: {approve: END, reject: AGENT}"),
        (EDGE, "to: {approve: END, done: fixer}", "missing-decision", "add `reject: AGENT`"),
        (EDGE, "to: {reject: fixer, done: END}", "missing-decision", "add `approve: END`"),
        ("approve: END,", "aprove: END,", "unknown-decision", "did you mean 'approve'?"),
        (
            "approve: END,",
            "approve: END, later: fixer,",
            "unknown-decision",
            "the decisions are: approve, reject, done",
        ),
        (", mode: interactive", "", "decision-source", "add `mode: interactive` to 'reviewer'"),
        (", mode: interactive", ", mode: autonomous", "decision-source", "add `mode: interactive` to 'reviewer'"),
    ],
)
def test_what_the_edge_lacks_is_one_problem_at_its_place(
    old: str, new: str, code: str, hint: str, workshop: Workshop
) -> None:
    (problem,) = errors(workshop, TEXT.replace(old, new))
    assert (problem.code, problem.hint) == (code, hint)
    assert problem.location is not None
    assert problem.location.path == workshop.pipelines / "pipeline.yaml"


@pytest.mark.parametrize(
    ("source", "what"), [("tests", "it is a step"), ("START", "at START"), ("fixer", "autonomous")]
)
def test_only_an_interactive_agent_can_be_the_source(source: str, what: str, workshop: Workshop) -> None:
    edge = f"  - {{from: {source}, to: {{approve: reviewer, reject: END}}, condition: human-decision}}\n"
    to_step = "" if source == "START" else f"  - {{from: START, to: {source}}}\n"
    steps = "steps: {tests: {tool: shell, args: {command: 'true'}}}\ngraph:"
    head = TEXT.partition("  - {from: START")[0].replace("graph:", steps)
    found = errors(workshop, head + to_step + edge + "  - {from: reviewer, to: END}\n")
    assert what in next(problem.message for problem in found if problem.code == "decision-source")


def test_everything_that_is_wrong_with_decisions_is_told_at_once(workshop: Workshop) -> None:
    text = TEXT.replace(EDGE, "to: {aprove: END, later: fixer}").replace(", mode: interactive", ", tools: [reed-file]")
    codes = [problem.code for problem in errors(workshop, text)]
    assert sorted(codes) == [
        "decision-source",
        "missing-decision",
        "unknown-decision",
        "unknown-decision",
        "unknown-tool",
    ]


@pytest.mark.parametrize(
    ("old", "new", "codes"),
    [
        ("mode: interactive", "mode: interactiv", ["bad-choice"]),
        ("mode: interactive", "mod: interactive", ["unknown-key"]),
        ("from: reviewer", "from: reviewr", ["unknown-agent"]),
        ("{approve: END, reject: fixer}", "{}", ["empty"]),
        ("approve: END", "approve: [END, fixer]", ["wrong-type"]),
        ("from: reviewer", "from: [reviewer, fixer]", ["condition-on-list-edge", *ON_LIST]),
    ],
)  # fmt: skip
def test_what_follows_from_another_mistake_is_not_told(
    old: str, new: str, codes: list[str], workshop: Workshop
) -> None:
    assert sorted(problem.code for problem in errors(workshop, TEXT.replace(old, new))) == codes


@pytest.mark.parametrize(
    ("agent", "labels", "warned"),
    [
        ("when_absent: finish", "approve: END, reject: fixer", True),
        ("when_absent: finish", "approve: END, reject: fixer, done: END", False),
        ("when_absent: pause", "approve: END, reject: fixer", False),
    ],
)
def test_who_is_approved_without_a_person_is_warned_about(
    agent: str, labels: str, warned: bool, workshop: Workshop
) -> None:
    text = TEXT.replace("mode: interactive", f"mode: interactive, {agent}")
    found = compiled(workshop, text.replace("approve: END, reject: fixer", labels)).warnings
    codes = [problem.code for problem in found]
    assert ("decision-when-absent" in codes) is warned
    assert [problem.hint for problem in found if problem.code == "decision-when-absent"] == [
        "add `done: END` if that is meant, else where it shall lead"
    ] * warned


def test_an_interactive_agent_whose_decision_nobody_routes_on_is_fine(workshop: Workshop) -> None:
    text = TEXT.replace(f"{EDGE}, condition: human-decision, max_loops: 3", "to: END")
    assert compiled(workshop, text).warnings == ()


@pytest.mark.parametrize(
    ("labels", "turns"),
    [
        ("approve: END, reject: fixer", ["fixer", "reviewer"]),
        ("approve: fixer, reject: fixer, done: END", ["fixer", "reviewer"]),
        ("approve: END, reject: END, done: fixer", ["fixer", "reviewer"] * 3),
    ],
)
async def test_without_a_person_a_session_goes_the_way_of_done(
    labels: str, turns: list[str], workshop: Workshop
) -> None:
    text = TEXT.replace("mode: interactive", "mode: interactive, when_absent: finish").replace(
        "approve: END, reject: fixer", labels
    )
    path = workshop.pipeline(text.replace("max_loops: 3", "max_loops: 2, on_max_loops: END"), script=SCRIPT)

    result = await workshop.run(path)

    assert result.record.status == "completed", result.record.error
    rows = workshop.checkpoints(result.record.session_id)
    assert [entry["agent"] for row in rows for entry in row["ended"]] == turns
    assert result.agent_outputs["reviewer"]["decision"] == "done"


def test_who_is_sent_back_is_told_by_whom_and_why(workshop: Workshop) -> None:
    topology = compiled(workshop, TEXT).topology
    decision = {"decision": "reject", "reason": "make it 3", "text": "It is 2.", "commits": {}}
    state = {"choices": {"reviewer#2": ["fixer"]}, "agent_outputs": {"fixer": "Fixed.", "reviewer": decision}}
    text = briefing("fixer", state, topology, context="upstream", turn=2)
    assert "'reviewer' sent the work back to you" in text
    assert '"reason": "make it 3"' in text


@dataclass
class Deciding:
    """A node that only counts its turns; the reviewer's come to the decisions of a plan."""

    name: str
    turns: list[str]
    plan: Sequence[str] = ()
    worktrees: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    async def __call__(self, state: Any, turn: Turn, config: RunnableConfig) -> Outcome:
        self.turns.append(self.name)
        output = {"decision": self.plan[turn.number - 1], "reason": None} if self.plan else "text"
        return Outcome({"agent_outputs": {self.name: output}})


TARGETS = ("fixer", "writer", END)
PLANS = st.lists(st.sampled_from(DECISIONS), min_size=1, max_size=6)
WAY = st.sampled_from(TARGETS)
LABELS = st.fixed_dictionaries({"approve": WAY, "reject": WAY}, optional={"done": WAY})


def expected(plan: Sequence[str], labels: dict[str, str], bound: int) -> list[str]:
    """Walk through the decisions: the fixer leads back to the reviewer, the writer to the end."""
    turns: list[str] = []
    for loops, decision in enumerate(plan):
        turns += ["fixer", "reviewer"]
        target = labels.get(decision, labels["approve"])
        if target == "writer":
            return [*turns, "writer"]
        if target == END or loops == bound:
            break
    return turns


@settings(deadline=None, max_examples=60)
@given(plan=PLANS, labels=LABELS, bound=st.integers(0, 4))
async def test_whatever_is_decided_leads_where_the_labels_say(
    plan: list[str], labels: dict[str, str], bound: int
) -> None:
    names = ("fixer", "reviewer", "writer")
    plan = [*plan, *["approve"] * 5]

    def edge(index: int, source: str, to: tuple[str, ...], **more: Any) -> EdgeSpec:
        return EdgeSpec(
            index=index, sources=(source,), is_list=False, targets=to, labels=more.pop("labels", None), **more
        )

    decided = edge(
        2, "reviewer", tuple(dict.fromkeys(labels.values())), labels=labels, condition="human-decision",
        max_loops=bound, on_max_loops=END,
    )  # fmt: skip
    graph = [edge(0, "START", ("fixer",)), edge(1, "fixer", ("reviewer",)), decided, edge(3, "writer", (END,))]
    topology = analyse(names, graph)
    parallelism = find_parallelism(topology)
    turns: list[str] = []
    bodies = {name: Deciding(name, turns, plan if name == "reviewer" else ()) for name in names}
    router = Router(topology, parallelism, ConditionRegistry([HUMAN_DECISION]))

    compiled_graph = lower(topology, router, bodies, {}).compile()
    await compiled_graph.ainvoke({"inputs": {}}, {"recursion_limit": 100}, context=GraphContext())

    assert turns == expected(plan, labels, bound)
