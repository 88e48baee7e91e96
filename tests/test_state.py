"""The state: reducers that give the same in any order, and a pipeline's own fields merged into it."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestra.agents.context import newest_snapshot
from orchestra.errors import PipelineError
from orchestra.graph.extension import RESERVED, load_extension
from orchestra.graph.state import (
    BASE_FIELDS,
    greatest,
    latest,
    merge,
    reducers,
    state_schema,
    with_update,
)
from tests.session_support import agent, events, rescript

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Workshop

counts = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=3)
nested = st.dictionaries(st.sampled_from("xy"), counts, max_size=2)
attempts = st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 4), st.integers(1, 4)).map(list))
times = st.datetimes().map(lambda time: time.isoformat(timespec="microseconds") + "+00:00")


def entry(number: int) -> dict[str, Any]:
    return {"commit": f"commit-{number}", "n": number}


snapshots = st.dictionaries(
    st.sampled_from(["_session", "a"]),
    st.dictionaries(st.sampled_from(["app", "web"]), st.integers(0, 9).map(entry), max_size=2),
    max_size=2,
)


def in_any_order(reduce: Callable[[Any, Any], Any], updates: list[Any]) -> None:
    """Fold the updates in every order, one by one and as a tree."""

    def fold(values: Any) -> Any:
        result = None
        for value in values:
            result = reduce(result, value)
        return result

    expected = fold(updates)
    for order in itertools.permutations(updates):
        assert fold(order) == expected
    half = len(updates) // 2
    assert reduce(fold(updates[:half]), fold(updates[half:])) == expected
    assert reduce(expected, expected) == expected


@pytest.mark.parametrize(
    ("reduce", "values"),
    [(greatest, counts), (greatest, nested), (greatest, attempts), (latest, times), (newest_snapshot, snapshots)],
    ids=["counts", "nested", "attempts", "clock", "snapshot"],
)
def test_what_parallel_agents_write_gives_the_same_in_any_order(
    reduce: Callable[[Any, Any], Any], values: st.SearchStrategy[Any]
) -> None:
    @given(st.lists(values, min_size=1, max_size=4))
    @settings(deadline=None, max_examples=60)
    def check(updates: list[Any]) -> None:
        in_any_order(reduce, updates)

    check()


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers()), max_size=6, unique_by=lambda pair: pair[0]))
def test_outputs_of_different_agents_merge_in_any_order(pairs: list[tuple[str, int]]) -> None:
    in_any_order(merge, [{key: value} for key, value in pairs] or [{}])


def test_reducers_leave_what_they_are_given_as_it_is() -> None:
    old = {"_session": {"app": entry(1)}}
    before = json.dumps(old)

    newest_snapshot(old, {"_session": {"app": entry(2), "web": entry(1)}})
    greatest(old, {"_session": {"app": entry(2)}})

    assert json.dumps(old) == before


def test_the_extension_knows_the_names_of_the_base_state() -> None:
    assert BASE_FIELDS | {"turn"} == RESERVED


def test_a_condition_sees_the_state_as_it_will_be() -> None:
    reduce = reducers({})
    state = {"turns": {"a": 1}, "agent_outputs": {"a": "old", "b": "b"}, "inputs": {"x": 1}}

    after = with_update(state, {"turns": {"a": 2}, "agent_outputs": {"a": "new"}}, reduce)

    assert after == {"turns": {"a": 2}, "agent_outputs": {"a": "new", "b": "b"}, "inputs": {"x": 1}}
    assert state["turns"] == {"a": 1}


def test_without_an_extension_the_state_is_the_base() -> None:
    assert state_schema({}).__name__ == "OrchestraState"


# --- a pipeline's own fields

STATE = """
import operator
from typing import Annotated, Any
from pydantic import BaseModel, Field

class State(BaseModel):
    pr_diff: str
    found: Annotated[list[str], Field(description="Findings"), operator.add] = Field(default_factory=lambda: ["seed"])
    factor: Annotated[int, operator.mul] = 1
    verdict: str = "none"
    details: dict[str, Any] = {}
"""
FINDINGS = {
    "type": "object",
    "properties": {
        "found": {"type": "array", "items": {"type": "string"}},
        "factor": {"type": "integer"},
        "other": {"type": "string"},
    },
    "required": ["found"],
}
VERDICT = {"type": "object", "properties": {"verdict": {"type": "string"}, "details": {"type": "object"}}}
TASK = "{{ pr_diff }}|{{ found | join(',') }}|{{ factor }}|{{ verdict }}"


def review(**more: Any) -> dict[str, Any]:
    return {
        "name": "review",
        "state": "review_state:State",
        "inputs": {"pr_diff": {"type": "string"}},
        "agents": {
            "left": agent(TASK, output=FINDINGS),
            "right": agent(TASK, output=FINDINGS),
            "judge": agent(TASK, output=VERDICT),
        },
        "graph": [
            {"from": "START", "to": ["left", "right"]},
            {"from": ["left", "right"], "to": "judge"},
            {"from": "judge", "to": "END"},
        ],
        **more,
    }


SCRIPT: dict[str, Any] = {
    "left": [[{"output": {"found": ["l"], "factor": 3, "other": "kept to itself"}}]],
    "right": [[{"output": {"found": ["r"], "factor": 5}}]],
    "judge": [[{"output": {"verdict": "approve", "details": {"n": [1, None]}}}]],
}


async def test_outputs_write_the_fields_of_their_names_and_templates_see_them(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestra.agents.harness import AgentHarness

    prompts: dict[str, str] = {}
    run = AgentHarness.run

    async def spied(self: AgentHarness, **more: Any) -> Any:
        prompts[self.name] = self._prompt.render(more["variables"])
        return await run(self, **more)

    monkeypatch.setattr(AgentHarness, "run", spied)
    path = workshop.pipeline(review(), script=SCRIPT, files={"review_state.py": STATE})

    result = await workshop.run(path, {"pr_diff": "+x"})

    assert result.record.status == "completed", result.record.error
    assert prompts == {
        "left": "+x|seed|1|none",
        "right": "+x|seed|1|none",
        "judge": "+x|seed,l,r|15|none",
    }
    assert result.agent_outputs["judge"] == {"verdict": "approve", "details": {"n": [1, None]}}


CONDITION = """
import orchestra

@orchestra.condition("enough")
def enough(state):
    return "END" if len(state["found"]) >= 3 and state["pr_diff"] == "+x" else "left"
"""


async def test_conditions_see_the_fields_with_the_turns_own_write(workshop: Workshop) -> None:
    pipeline = review(
        graph=[
            {"from": "START", "to": "left"},
            {"from": "left", "to": ["left", "END"], "condition": "enough", "max_loops": 5},
        ],
        agents={"left": agent(TASK, output=FINDINGS)},
    )
    script = {"left": [[{"output": {"found": ["l"]}}]] * 6}
    files = {"review_state.py": STATE, "conditions/enough.py": CONDITION}

    result = await workshop.run(workshop.pipeline(pipeline, script=script, files=files), {"pr_diff": "+x"})

    assert result.record.status == "completed", result.record.error
    assert len(events(workshop, result.record.session_id, "turn_ended")) == 2


async def test_fields_are_the_same_after_a_resume(workshop: Workshop) -> None:
    path = workshop.pipeline(
        review(), script=SCRIPT | {"judge": [[{"error": "auth"}]]}, files={"review_state.py": STATE}
    )
    result = await workshop.run(path, {"pr_diff": "+x"})
    assert result.record.status == "failed"
    session = result.record.session_id
    rescript(workshop, session, SCRIPT)

    done = await workshop.resume(session)

    assert done.record.status == "completed", done.record.error
    assert done.agent_outputs == {name: turns[0][0]["output"] for name, turns in SCRIPT.items()}


def problems(workshop: Workshop, pipeline: dict[str, Any], **files: str) -> list[tuple[str, str]]:
    from orchestra.graph.project import find_project
    from orchestra.graph.resolve import load_and_resolve

    path = workshop.pipeline(pipeline, script=SCRIPT, files={f"{name}.py": text for name, text in files.items()})
    with pytest.raises(PipelineError) as caught:
        load_and_resolve(path, find_project(workshop.repo.path), repos={}, cwd=workshop.repo.path)
    found = [problem for problem in caught.value.problems if problem.severity == "error"]
    assert all(problem.location and problem.location.path.name.startswith(("pipeline", "clash")) for problem in found)
    assert all(problem.hint for problem in found)
    return [(problem.code, problem.message) for problem in found]


def test_a_field_that_parallel_agents_write_needs_a_reducer(workshop: Workshop) -> None:
    state = STATE.replace("Annotated[int, operator.mul] = 1", "int = 1")

    ((code, message),) = problems(workshop, review(), review_state=state)

    assert code == "missing-reducer"
    assert all(part in message for part in ("'left'", "'right'", "'factor'")), message


def test_a_field_that_the_base_state_has_is_refused(workshop: Workshop) -> None:
    state = (
        "from pydantic import BaseModel\n\nclass State(BaseModel):\n    messages: list[str] = []\n    turn: int = 0\n"
    )

    ((code, message),) = problems(workshop, {**review(), "state": "clash_state:State"}, clash_state=state)

    assert code == "state-field-clash"
    assert "'messages', 'turn'" in message


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("no_such_module:State", "bad-import"),
        ("some_state:Stat", "bad-import"),
        ("some_state:NOT_A_MODEL", "state-not-a-model"),
        ("broken_state:State", "bad-import"),
    ],
)
def test_a_state_that_can_not_be_had_says_why(workshop: Workshop, tmp_path: Path, spec: str, code: str) -> None:
    (workshop.pipelines / "some_state.py").write_text(STATE + "\nNOT_A_MODEL = 3\n")
    (workshop.pipelines / "broken_state.py").write_text("import no_such_package\n")

    with pytest.raises(PipelineError) as caught:
        load_extension(spec, [workshop.pipelines], None)

    assert caught.value.code == code
    assert caught.value.hint or caught.value.location


async def test_an_embedded_graph_has_the_fields_with_their_first_values(workshop: Workshop) -> None:
    from orchestra.graph.compiler import GraphCompiler
    from orchestra.graph.project import find_project
    from orchestra.graph.resolve import load_and_resolve

    path = workshop.pipeline(review(), script=SCRIPT, files={"review_state.py": STATE})
    pipeline = load_and_resolve(path, find_project(workshop.repo.path), repos={}, cwd=workshop.repo.path)
    compiler = GraphCompiler(pipeline)

    end = await compiler.compile().ainvoke(compiler.initial_state({"pr_diff": "+x"}))

    assert (end["found"], end["factor"], end["verdict"]) == (["seed", "l", "r"], 15, "approve")
    assert [message.name for message in end["messages"]] == ["left", "right", "judge"]
