"""Pipeline files: what is read, and what is said of the wrong ones.

`ORCHESTRA_UPDATE_SNAPSHOTS=1 uv run pytest tests/test_schema.py` writes the expected texts anew; read the diff.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestra.cli.render import render_problem, render_problems
from orchestra.errors import Location, PipelineError, Problem
from orchestra.graph.loader import LoadedPipeline, load_pipeline
from orchestra.graph.project import Project, find_project, shipped_pipelines

WRONG_FILES = sorted((Path(__file__).parent / "wrong_files").glob("*.yaml"))
REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "pipeline-file.md"

HEAD = "name: review\nproviders: {default: anthropic, anthropic: {models: {smart: claude-opus-5-5}}}\n"
AGENTS = "agents:\n  critic: {task: criticise, model: smart}\n  writer: {task: write, model: smart}\n"
GRAPH = "graph: [{from: START, to: critic}, {from: critic, to: writer}, {from: writer, to: END}]\n"

DESIGN_EXAMPLE = """\
name: pr-review
description: Adversarial review of a change
providers:
  default: anthropic
  anthropic:
    models: {smart: claude-opus-5-5, worker: claude-sonnet-5-5, cheap: claude-haiku-5-5}
    max_tokens: 8192
  openrouter:
    type: openai
    api_base: https://openrouter.ai/api/v1
    api_key_env: OPENROUTER_API_KEY
    models: {smart: anthropic/claude-opus-4.5, worker: meta-llama/llama-3.3-70b}
    options: {temperature: 0}
  offline:
    type: scripted
    script: scripts/pr-review.yaml
workspace:
  repos:
    backend:  {path: ../backend, branch_prefix: orchestra/}
    frontend: {path: ../frontend}
  tools:
    backend:
      run-tests: {command: "pytest -q {path}", description: Run the tests, args: {path: {default: ""}}, timeout: 600}
state: my_package.state:ReviewState
conditions: conditions
context_tools: [local:get-git-diff]
agents:
  security-reviewer:
    role: security-engineer
    persona: senior-security-engineer
    personality: thorough-skeptical
    task: review-pr-security
    model: smart
    provider: anthropic
    tools: [backend:read-file, backend:search-code, frontend:read-file]
    mode: autonomous
    output: my_package.state:Findings
  architecture-reviewer: {task: review-pr-architecture, model: smart}
  critic: {task: {template: "Criticise {{ pr_diff }}"}, model: worker}
  synthesizer: {role: review-synthesizer, task: synthesize-review, model: smart, mode: interactive, when_absent: finish}
steps:
  tests: {tool: backend:run-tests, args: {path: tests/}}
graph:
  - {from: START, to: [security-reviewer, architecture-reviewer]}
  - {from: [security-reviewer, architecture-reviewer], to: critic, join: all}
  - {from: critic, to: [security-reviewer, architecture-reviewer, synthesizer], condition: critic-routing, max_loops: 2}
  - {from: synthesizer, to: END}
limits: {max_failures_per_session: 3, max_steps: 200, max_cost_usd: 5}
"""


def load(text: str, name: str = "pipeline.yaml", project: Project | None = None) -> LoadedPipeline:
    return load_pipeline(Path(name), text=text, project=project)


def problems_of(text: str, project: Project | None = None) -> tuple[Problem, ...]:
    with pytest.raises(PipelineError) as caught:
        load(text, project=project)
    return caught.value.problems


@pytest.mark.parametrize("path", WRONG_FILES, ids=lambda path: path.stem)
def test_a_wrong_file_is_explained_as_in_its_snapshot(path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        load(path.read_text(encoding="utf-8"), path.name)
    shown = render_problems(caught.value.problems) + "\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("ORCHESTRA_UPDATE_SNAPSHOTS"):
        expected.write_text(shown, encoding="utf-8")
    assert shown == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", WRONG_FILES, ids=lambda path: path.stem)
def test_every_problem_has_a_code_a_place_and_a_hint_and_comes_in_order(path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        load(path.read_text(encoding="utf-8"), path.name)
    places = []
    for problem in caught.value.problems:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+|empty", problem.code)
        assert problem.location is not None
        assert problem.hint
        places.append((problem.location.line, problem.location.column))
    assert places == sorted(places)


def test_there_are_enough_wrong_files_and_no_stale_snapshot() -> None:
    assert len(WRONG_FILES) >= 45
    assert {path.stem for path in WRONG_FILES} == {path.stem for path in WRONG_FILES[0].parent.glob("*.txt")}


def test_the_full_example_of_the_design_loads() -> None:
    loaded = load(DESIGN_EXAMPLE)
    pipeline = loaded.pipeline
    assert loaded.warnings == ()
    assert pipeline.default_provider == "anthropic"
    assert pipeline.providers["openrouter"].options == {"temperature": 0}
    assert pipeline.workspace.repos["frontend"].branch_prefix == "orchestra/"
    assert pipeline.workspace.tools["backend"]["run-tests"].args == {"path": {"default": ""}}
    assert pipeline.agents["critic"].task == {"template": "Criticise {{ pr_diff }}"}
    assert pipeline.agents["synthesizer"].when_absent == "finish"
    assert (pipeline.limits.max_steps, pipeline.limits.max_cost_usd) == (200, 5)
    join = pipeline.graph[1]
    assert (join.sources, join.is_list, join.targets, join.join, join.index) == (
        ("security-reviewer", "architecture-reviewer"),
        True,
        ("critic",),
        "all",
        1,
    )


def test_what_is_left_out_has_the_defaults_of_the_design() -> None:
    pipeline = load(HEAD + AGENTS + GRAPH).pipeline
    agent, edge = pipeline.agents["critic"], pipeline.graph[0]
    assert (agent.mode, agent.when_absent, agent.context, agent.max_calls) == ("autonomous", "pause", "upstream", 100)
    assert (edge.is_list, edge.labels, edge.join, edge.max_loops, edge.on_conflict) == (False, None, None, None, None)
    assert (pipeline.limits.max_failures_per_session, pipeline.limits.max_steps) == (3, 1000)
    assert (pipeline.conditions, pipeline.workspace.dirty) == ("conditions", "include")
    assert pipeline.workspace.repos["repo"].path is None


def test_a_map_of_labels_gives_targets_once_each() -> None:
    text = HEAD + AGENTS + "graph:\n  - {from: START, to: critic}\n"
    text += "  - {from: critic, to: {again: writer, more: writer, done: END}, condition: route}\n"
    text += "  - {from: writer, to: END}\n"
    edge = load(text).pipeline.graph[1]
    assert edge.targets == ("writer", "END")
    assert edge.labels == {"again": "writer", "more": "writer", "done": "END"}


def test_steps_alone_make_a_pipeline_without_a_provider() -> None:
    text = "name: checks\nsteps: {tests: {tool: shell, args: {command: pytest}}}\n"
    pipeline = load(text + "graph: [{from: START, to: tests}, {from: tests, to: END}]\n").pipeline
    assert pipeline.default_provider is None
    assert pipeline.steps["tests"].args == {"command": "pytest"}


def test_a_section_with_only_optional_keys_may_be_empty() -> None:
    text = "name: review\nproviders:\n  default: anthropic\n  anthropic:\ninputs:\n  base:\nworkspace:\nlimits:\n"
    pipeline = load(text + AGENTS + GRAPH).pipeline
    assert pipeline.providers["anthropic"].models == {}
    assert pipeline.inputs["base"].type == "string"


def test_shell_tools_work_on_the_implicit_repo() -> None:
    text = HEAD + "workspace: {tools: {repo: {run-tests: {command: pytest, writes: false}}}}\n" + AGENTS + GRAPH
    pipeline = load(text).pipeline
    assert list(pipeline.workspace.repos) == ["repo"]
    assert pipeline.workspace.tools["repo"]["run-tests"].writes is False


def test_a_null_default_of_an_input_counts_as_given() -> None:
    inputs = load(HEAD + "inputs: {a: {default: null}, b: {type: json, default: [1]}, c: {}}\n" + AGENTS + GRAPH)
    assert [spec.has_default for spec in inputs.pipeline.inputs.values()] == [True, True, False]


def test_an_interactive_agent_has_no_output_of_its_own() -> None:
    text = HEAD + AGENTS.replace("task: write,", "task: write, mode: interactive, output: {type: object},") + GRAPH
    (problem,) = problems_of(text)
    assert (problem.code, problem.severity) == ("output-of-interactive", "error")


def test_an_autonomous_agent_with_when_absent_gets_a_warning_only() -> None:
    text = HEAD + AGENTS.replace("task: write,", "task: write, when_absent: finish,") + GRAPH
    (warning,) = load(text).warnings
    assert (warning.code, warning.severity) == ("unused-key", "warning")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("agents", "critic", "model"), "claude"),
        (("graph", 1, "max_loops"), "graph"),
        (("providers", "anthropic", "models", "smart"), "providers"),
    ],
)
def test_values_have_places_in_the_document(path: tuple[str | int, ...], line: str) -> None:
    text = (
        HEAD + AGENTS.replace("model: smart", "model: claude") + GRAPH.replace("to: writer", "to: writer, max_loops: 1")
    )
    place = load(text).document.locate(*path)
    assert place.text.startswith(line) or line in place.text
    assert place.column > 1


def test_a_project_gives_defaults_below_the_pipelines_own(tmp_path: Path) -> None:
    (tmp_path / "orchestra.yaml").write_text(
        "limits: {max_steps: 7, timeout: 60}\n"
        "providers:\n  default: openai\n  openai: {models: {smart: gpt-6, cheap: gpt-6-mini}, api_key_env: TEAM_KEY}\n"
    )
    project = find_project(tmp_path)
    own = "name: review\nproviders: {openai: {models: {smart: gpt-7}, max_tokens: 9}}\nlimits: {max_steps: 8}\n"
    pipeline = load(own + AGENTS + GRAPH, project=project).pipeline
    openai = pipeline.providers["openai"]
    assert pipeline.default_provider == "openai"
    assert (openai.models, openai.api_key_env, openai.max_tokens) == (
        {"smart": "gpt-7", "cheap": "gpt-6-mini"},
        "TEAM_KEY",
        9,
    )
    assert (pipeline.limits.max_steps, pipeline.limits.timeout) == (8, 60)
    assert load("name: review\n" + AGENTS + GRAPH, project=project).pipeline.limits.max_steps == 7


def test_a_providers_type_of_its_own_takes_nothing_from_the_project(tmp_path: Path) -> None:
    (tmp_path / "orchestra.yaml").write_text(
        "providers: {default: main, main: {type: openai, api_key_env: TEAM_KEY}}\n"
    )
    own = "name: review\nproviders: {main: {type: anthropic}}\n"
    pipeline = load(own + AGENTS + GRAPH, project=find_project(tmp_path)).pipeline
    assert pipeline.providers["main"].api_key_env is None


def test_one_condition_may_stand_on_two_edges_with_targets_of_their_own() -> None:
    text = HEAD + AGENTS + "graph:\n  - {from: START, to: critic}\n  - {from: writer, to: END}\n"
    text += "  - {from: critic, to: {more: writer, done: END}, condition: route}\n"
    text += "  - {from: critic, to: {more: critic, done: END}, condition: route, max_loops: 1}\n"
    assert len(load(text).pipeline.graph) == 4


def test_no_secret_of_a_file_is_shown() -> None:
    text = "name: review\nproviders:\n  default: openai\n"
    text += "  openai: {api_key: topsecret, api_key_env: anothersecret1}\n" + AGENTS + GRAPH
    shown = render_problems(problems_of(text))
    assert "topsecret" not in shown
    assert "anothersecret1" not in shown


def test_a_file_with_very_many_problems_ends_soon_with_a_note() -> None:
    started = time.process_time()
    many = "".join(f"  agent{number}: {{tsk: a}}\n" for number in range(5000))
    problems = problems_of(HEAD + "agents:\n" + many + GRAPH)
    assert len(problems) == 101
    assert any(problem.code == "too-many-problems" for problem in problems)
    assert time.process_time() - started < 10


VALUES = [
    "null",
    "[]",
    "{}",
    "3",
    "-1",
    "true",
    "''",
    "[a, b]",
    "{a: b}",
    "x",
    "[{a: b}, 3, null]",
    "*a",
    "&a x",
    "START",
]


@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_changed_in_a_file_ends_in_problems_with_places_and_hints(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    text = chance.choice([DESIGN_EXAMPLE, *(path.read_text(encoding="utf-8") for path in WRONG_FILES)])
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        values = list(re.finditer(r"(?<=: )[^,{}\n\[\]]+|\{[^{}]*\}|\[[^\[\]]*\]", text))
        if values and chance.random() < 0.5:
            value = chance.choice(values)
            text = text[: value.start()] + chance.choice(VALUES) + text[value.end() :]
        else:
            text = text[:at] + chance.choice(" :-{}[],'\"\n\t#&*!|>%@`?é\x00\u2028") + text[at + chance.randint(0, 6) :]
    problems: tuple[Problem, ...] = ()
    try:
        problems = load(text).warnings
    except PipelineError as error:
        problems = error.problems
    assert all(render_problem(problem) for problem in problems)
    assert all(problem.location is not None and problem.hint for problem in problems)


def test_a_megabyte_in_one_key_or_value_is_told_briefly() -> None:
    for long in ("x" * 900_000, "1h" + " " * 900_000 + "x", "to" * 450_000):
        started = time.process_time()
        for part in (f'limits: {{timeout: "{long}"}}', f'"{long}": 1', f"'{long}': 1", f'description: ["{long}"]'):
            assert len(render_problems(problems_of(HEAD + AGENTS + GRAPH + part))) < 2000
        assert len(render_problems(problems_of(HEAD + AGENTS + f'graph: ["{long}"]\n'))) < 2000
        assert time.process_time() - started < 5


def test_reading_a_pipeline_loads_no_heavy_module() -> None:
    code = (
        "import sys, pathlib; from orchestra.graph.loader import load_pipeline; import orchestra.cli.render;"
        f"load_pipeline(pathlib.Path('p.yaml'), text={HEAD + AGENTS + GRAPH!r});"
        "heavy = ('pydantic', 'langgraph', 'langchain', 'langchain_core', 'jinja2', 'typer', 'rich', 'asyncio');"
        "print([module for module in heavy if module in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def reference_examples() -> list[str]:
    blocks = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if not block.startswith("# orchestra.yaml")]


def project_examples() -> list[str]:
    blocks = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if block.startswith("# orchestra.yaml")]


@pytest.mark.parametrize("text", reference_examples())
def test_each_pipeline_of_the_reference_loads(text: str) -> None:
    assert load(text).warnings == ()


@pytest.mark.parametrize("text", project_examples())
def test_each_project_file_of_the_reference_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "orchestra.yaml").write_text(text)
    assert find_project(tmp_path).document is not None


def test_the_reference_names_every_key() -> None:
    from orchestra.graph import schema
    from orchestra.graph.edges import _EdgeKeys
    from orchestra.graph.reader import keys_of

    text = REFERENCE.read_text(encoding="utf-8")
    classes: list[type[Any]] = [
        getattr(schema, name) for name in schema.__all__ if name not in {"EdgeSpec", "Providers"}
    ]
    keys = {key for cls in [*classes, _EdgeKeys] for key in keys_of(cls)}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


class TestProject:
    def test_the_nearest_orchestra_yaml_upwards_is_the_project(self, tmp_path: Path) -> None:
        (tmp_path / "orchestra.yaml").write_text("paths: [shared, ../team]\n")
        below = tmp_path / "a" / "b"
        (below / ".git").mkdir(parents=True)
        project = find_project(below)
        assert project.root == tmp_path
        assert project.search_paths == (tmp_path / "shared", tmp_path.parent / "team")

    def test_else_the_git_root_else_the_directory(self, tmp_path: Path) -> None:
        below = tmp_path / "repo" / "src"
        below.mkdir(parents=True)
        assert find_project(below).root == below
        (tmp_path / "repo" / ".git").write_text("gitdir: elsewhere\n")
        assert find_project(below).root == tmp_path / "repo"

    def test_an_internal_directory_is_never_a_project(self, tmp_path: Path) -> None:
        worktree = tmp_path / ".orchestra" / "worktrees" / "ab12" / "fixer"
        worktree.mkdir(parents=True)
        (worktree / "orchestra.yaml").write_text("paths: [evil]\n")
        (worktree / ".git").write_text("gitdir: elsewhere\n")
        assert find_project(worktree).root == tmp_path

    def test_a_wrong_orchestra_yaml_is_reported_with_places(self, tmp_path: Path) -> None:
        (tmp_path / "orchestra.yaml").write_text(
            "path: [a]\npipelines: [a.yaml]\nproviders: {x: {}}\nlimits: {max_steps: 0}\n"
        )
        with pytest.raises(PipelineError) as caught:
            find_project(tmp_path)
        codes = [problem.code for problem in caught.value.problems]
        assert codes == ["unknown-key", "wrong-type", "unknown-provider-type", "bad-number"]

    def test_an_empty_orchestra_yaml_marks_a_project(self, tmp_path: Path) -> None:
        (tmp_path / "orchestra.yaml").write_text("")
        assert find_project(tmp_path).document is not None

    def test_a_pipeline_is_found_by_path_then_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "orchestra.yaml").write_text("pipelines: {nightly: team/night.yaml}\n")
        (tmp_path / "team").mkdir()
        (tmp_path / "team" / "night.yaml").write_text("")
        project = find_project(tmp_path)
        assert project.find_pipeline("nightly", tmp_path) == tmp_path / "team" / "night.yaml"
        assert project.find_pipeline("night.yaml", tmp_path / "team") == tmp_path / "team" / "night.yaml"

    @pytest.mark.parametrize(
        ("typed", "code", "hint"),
        [
            ("nightli", "unknown-pipeline", "did you mean 'nightly'?"),
            ("reveiw.yaml", "file-not-found", "did you mean 'review.yaml'?"),
            ("review", "unknown-pipeline", "did you mean the file 'review.yaml'?"),
            ("./sub/", "file-not-found", "name a pipeline file in it"),
            ("nightly", "file-not-found", "correct the path, it is relative to orchestra.yaml"),
            ("", "unknown-pipeline", "name one of them, or the path of a pipeline file"),
        ],
    )
    def test_an_unknown_pipeline_is_an_error_with_what_exists(
        self, tmp_path: Path, typed: str, code: str, hint: str
    ) -> None:
        (tmp_path / "orchestra.yaml").write_text("pipelines: {nightly: night.yml}\n")
        (tmp_path / "review.yaml").write_text("")
        (tmp_path / "sub").mkdir()
        with pytest.raises(PipelineError) as caught:
            find_project(tmp_path).find_pipeline(typed, tmp_path)
        assert (caught.value.code, caught.value.hint) == (code, hint)
        if code == "unknown-pipeline":
            assert "nightly" in caught.value.message

    def test_shipped_pipelines_are_those_of_the_checkout(self) -> None:
        directory = Path(__file__).parents[1] / "pipelines"
        assert set(shipped_pipelines()) == {path.stem for path in directory.glob("*.yaml")}


class TestRender:
    def place(self, text: str, column: int) -> Location:
        return Location(Path("p.yaml"), 3, column, text)

    def caret_of(self, text: str, column: int) -> tuple[str, str]:
        lines = render_problem(Problem("a-code", "message", self.place(text, column))).splitlines()
        return lines[2], lines[3]

    def test_the_caret_stands_under_the_word_after_wide_characters(self) -> None:
        line, carets = self.caret_of("名前: tset", 5)
        assert line == " 3 | 名前: tset"
        assert carets == "   | " + " " * 6 + "^^^^"

    def test_a_long_line_is_cut_around_the_caret(self) -> None:
        line, carets = self.caret_of("x" * 5000 + " here " + "y" * 5000, 5002)
        assert len(line) < 120
        assert line[carets.index("^") :].startswith("here")
        assert line.count("…") == 2

    def test_nothing_in_a_file_can_steer_the_terminal(self) -> None:
        problem = Problem(
            "a-code", "found '\x1b[2J'", Location(Path("a\x1b.yaml"), 1, 1, "\x1b]0;evil\x07 \u202e"), "\x9b31m"
        )
        shown = render_problem(problem)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
        assert "\\x1b]0;evil" in shown

    def test_a_caret_past_the_end_and_a_missing_snippet_do_no_harm(self) -> None:
        assert self.caret_of("ab", 9)[1] == "   |   ^"
        assert render_problem(Problem("a-code", "message", self.place("", 1), "do it")) == (
            "p.yaml:3:1: error[a-code]: message\nhint: do it"
        )

    def test_paths_below_the_current_directory_are_relative(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        inside = Problem("a-code", "m", Location(tmp_path / "sub" / "p.yaml", 1, 1))
        outside = Problem("a-code", "m", Location(tmp_path.parent / "p.yaml", 1, 1))
        assert render_problem(inside).startswith("sub/p.yaml:1:1: ")
        assert render_problem(outside).startswith(f"{tmp_path.parent}/p.yaml:1:1: ")
