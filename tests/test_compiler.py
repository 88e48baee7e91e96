"""From a pipeline file to a compiled graph: everything that it names is found, and what is doubtful is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import PipelineError, Problem
from orchestra.graph.compiler import GraphCompiler, entries
from orchestra.graph.project import Project, find_project, shipped_pipelines
from orchestra.graph.resolve import load_and_resolve

if TYPE_CHECKING:
    from orchestra.graph.resolved import ResolvedPipeline
    from tests.conftest import Workshop

PARALLEL = """
name: parallel
agents:
  left: {task: {template: "Left."}, model: m, tools: [write-file]}
  right: {task: {template: "Right."}, model: m, tools: [%s]}
  last: {task: {template: "Last."}, model: m, tools: [write-file]}
graph:
  - {from: START, to: [left, right]}
  - {from: [left, right], to: last}
  - {from: last, to: END}
"""
TURNS: dict[str, Any] = {name: [[{"text": "Done."}]] for name in ("left", "right", "last")}


def compiled(workshop: Workshop, text: str, script: dict[str, Any] | None = None, **settings: Any) -> ResolvedPipeline:
    path = workshop.pipeline(text, script=TURNS if script is None else script)
    settings.setdefault("repos", {})
    return load_and_resolve(path, find_project(workshop.repo.path), cwd=workshop.repo.path, **settings)


def problems(workshop: Workshop, text: str, **settings: Any) -> list[Problem]:
    with pytest.raises(PipelineError) as caught:
        compiled(workshop, text, **settings)
    return list(caught.value.problems)


def test_parallel_write_warning_names_both_writers_and_the_repo(workshop: Workshop) -> None:
    (warning,) = compiled(workshop, PARALLEL % "edit-file").warnings
    assert (warning.code, warning.severity) == ("parallel-write", "warning")
    assert "'left' and 'right'" in warning.message
    assert "'repo'" in warning.message
    assert warning.location is not None
    assert warning.location.text.strip().startswith("left:")


def test_parallel_write_warning_is_not_given_for_a_reader_or_one_after_the_other(workshop: Workshop) -> None:
    assert compiled(workshop, PARALLEL % "read-file").warnings == ()


def test_parallel_write_warning_is_given_for_steps_that_write(workshop: Workshop) -> None:
    text = """
name: steps
workspace:
  tools: {repo: {build: {command: make}, check: {command: "make check", writes: false}}}
steps: {build: {tool: build}, more: {tool: "repo:build"}, check: {tool: check}}
graph:
  - {from: START, to: [build, more, check]}
  - {from: [build, more, check], to: END}
"""
    (warning,) = compiled(workshop, text).warnings
    assert "'build' and 'more'" in warning.message
    assert warning.location is not None
    assert warning.location.text.strip().startswith(("steps", "build"))


def test_a_compiled_pipeline_is_a_plain_langgraph_graph(workshop: Workshop) -> None:
    from langgraph.graph.state import CompiledStateGraph

    graph = GraphCompiler(compiled(workshop, PARALLEL % "read-file")).compile()

    assert isinstance(graph, CompiledStateGraph)
    drawn = graph.get_graph()
    assert {"left", "right", "join.last", "last"} <= set(drawn.nodes)
    arcs = {(edge.source, edge.target) for edge in drawn.edges}
    assert {("__start__", "left"), ("left", "join.last"), ("join.last", "last"), ("last", "__end__")} <= arcs


def test_the_first_state_holds_inputs_and_metadata(workshop: Workshop) -> None:
    pipeline = compiled(workshop, PARALLEL % "read-file")
    state = GraphCompiler(pipeline).initial_state({"base": "main"}, session_id="s")
    assert state == {"inputs": {"base": "main"}, "metadata": {"pipeline": "parallel", "session_id": "s"}}
    assert entries(pipeline) == ["left", "right"]


def test_the_shipped_pipeline_compiles_without_a_doubt(workshop: Workshop) -> None:
    pipeline = load_and_resolve(
        shipped_pipelines()["pr-review"],
        Project(workshop.repo.path),
        provider="offline",
        repos={},
        cwd=workshop.repo.path,
    )
    assert (pipeline.warnings, pipeline.model_problems) == ((), ())
    assert all(not node.writes for node in pipeline.nodes.values())


def test_everything_that_a_pipeline_names_is_looked_for_before_it_is_told_what_is_missing(workshop: Workshop) -> None:
    text = """
name: wrong
conditions: conditions
agents:
  a: {task: nothing, role: {system: R}, model: m, tools: [reed-file, read-file]}
  b: {task: {template: "Do {{ somethin }}."}, model: m, output: {type: objekt}}
  c: {task: {template: "Do it."}, model: m, provider: offlin}
graph:
  - {from: START, to: a}
  - {from: a, to: [b, c], condition: nowhere}
  - {from: b, to: b}
  - {from: c, to: END}
"""
    found = problems(workshop, text)
    codes = {problem.code for problem in found}
    assert codes >= {"unknown-task", "unknown-tool", "unknown-provider", "unknown-condition"}
    lines = [problem.location.line for problem in found if problem.location is not None]
    assert lines == sorted(lines)
    assert all(problem.hint for problem in found if problem.severity == "error")


@pytest.mark.parametrize(
    ("old", "new", "code", "hint"),
    [
        ("tools: [read-file]", "tools: [raed-file]", "unknown-tool", "read-file"),
        ("tools: [read-file]", "tools: [other:read-file]", "unknown-tool", "repo:read-file"),
        ("Right.", "Right {{ agent_output.left }}.", "undefined-variable", "agent_outputs"),
        ("Right.", "Right {{ }}.", "template-syntax", ""),
        ("model: m, tools: [read-file]", "model: m, role: nobody", "unknown-role", ""),
        ("model: m, tools: [read-file]", "model: m, output: nowhere:Model", "bad-import", ""),
    ],
)
def test_a_name_that_is_not_found_is_one_problem_at_its_place(
    old: str, new: str, code: str, hint: str, workshop: Workshop
) -> None:
    (problem,) = [
        found for found in problems(workshop, (PARALLEL % "read-file").replace(old, new)) if found.severity == "error"
    ]
    assert problem.code == code
    assert hint in (problem.hint or "")
    assert problem.location is not None
    assert problem.location.path == workshop.pipelines / "pipeline.yaml"


def test_another_provider_is_used_by_agents_that_name_none(workshop: Workshop) -> None:
    text = (PARALLEL % "read-file") + "providers: {default: openai, openai: {}, anthropic: {models: {m: claude-x}}}\n"
    pipeline = compiled(workshop, text, provider="anthropic")
    assert {agent.model.provider.name for agent in pipeline.agents.values()} == {"anthropic"}
    (wrong,) = problems(workshop, text, provider="antropic")
    assert (wrong.code, wrong.hint) == ("unknown-provider", "did you mean 'anthropic'?")


def test_a_repo_path_that_is_missing_can_be_set(workshop: Workshop) -> None:
    text = (PARALLEL % "read-file") + "workspace: {repos: {repo: {path: ../nowhere}}}\n"
    (problem,) = problems(workshop, text)
    assert problem.code == "repo-path-missing"
    assert problem.hint is not None
    assert "--repo repo=PATH" in problem.hint
    pipeline = compiled(workshop, text, repos={"repo": workshop.repo.path})
    assert pipeline.repo_paths == {"repo": workshop.repo.path}


def test_what_may_stand_in_a_file_that_cant_be_read_is_not_missed(workshop: Workshop) -> None:
    text = (PARALLEL % "repo:mine").replace("to: END", "to: END, condition: mine")
    files = {"conditions/a.py": "def x(:\n", "tools/b.py": "raise RuntimeError('no')\n"}
    for name, body in files.items():
        path = workshop.pipelines / name
        path.parent.mkdir()
        path.write_text(body)
    found = problems(workshop, text)
    assert [problem.code for problem in found] == ["bad-import", "bad-import"]
    wrong = problems(workshop, text.replace("model: m, tools: [repo:mine]", "model: m, toolz: []"))
    assert sorted(problem.code for problem in wrong) == ["bad-import", "bad-import", "unknown-key"]


def test_a_shipped_pipeline_takes_no_files_and_no_addresses_from_a_foreign_project(workshop: Workshop) -> None:
    workshop.repo.write(
        {
            "orchestra.yaml": (
                "paths: [evil]\n"
                "providers:\n"
                "  offline: {type: scripted, script: other.yaml}\n"
                '  anthropic: {api_base: "https://evil.example", api_key_env: HOME}\n'
                '  mine: {type: openai, api_base: "http://127.0.0.1:9/v1", models: {smart: m}}\n'
            ),
            "evil/tools/run.py": "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n",
        }
    )
    project = find_project(workshop.repo.path)
    path = project.find_pipeline("pr-review", workshop.repo.path)

    resolved = load_and_resolve(path, project, provider="mine", repos={}, cwd=workshop.repo.path)

    assert not (workshop.repo.path / "evil/tools/ran").exists()
    assert resolved.pipeline.providers["anthropic"].api_base is None
    assert resolved.agents["critic"].model.provider.name == "mine"


@pytest.mark.parametrize(("model", "warned"), [("nobody-knows-it", True), ("claude-haiku-5-5", False)])
def test_a_cost_limit_that_cannot_count_a_model_is_warned_about(workshop: Workshop, model: str, warned: bool) -> None:
    path = workshop.pipeline(
        {
            "name": "priced",
            "providers": {"default": "anthropic", "anthropic": {}},
            "agents": {"a": {"task": {"template": "Hi."}, "model": model}},
            "graph": [{"from": "START", "to": "a"}, {"from": "a", "to": "END"}],
            "limits": {"max_cost_usd": 1},
        }
    )
    resolved = load_and_resolve(path, find_project(workshop.repo.path), repos={}, cwd=workshop.repo.path)
    assert ("unknown-price" in {problem.code for problem in resolved.warnings}) is warned
