"""Errors: the tree, how they are sorted and shown, what is near, and that one mistake is told once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestra import errors
from orchestra.cli.render import escape, render_problem, render_problems
from orchestra.errors import Location, OrchestraError, PipelineError, Problem, did_you_mean, near_names, sort_problems
from orchestra.graph.project import find_project
from orchestra.graph.resolve import load_and_resolve

if TYPE_CHECKING:
    from tests.conftest import Workshop


class TestTree:
    @pytest.mark.parametrize(
        ("name", "exit_code"),
        [
            ("OrchestraError", 1),
            ("PipelineError", 2),
            ("GitError", 1),
            ("SessionError", 1),
            ("SessionBusyError", 4),
            ("AgentError", 1),
        ],
    )
    def test_each_kind_has_its_exit_code_a_code_and_a_place_in_the_drawing(self, name: str, exit_code: int) -> None:
        kind = getattr(errors, name)
        assert issubclass(kind, OrchestraError)
        assert kind.exit_code == exit_code
        assert kind.code
        assert errors.__doc__ is not None
        assert name in errors.__doc__

    def test_an_error_is_its_own_only_problem(self) -> None:
        place = Location(Path("a.yaml"), 2, 3)
        error = OrchestraError("wrong", code="odd", hint="do it right", location=place)
        assert str(error) == "wrong"
        assert error.problems == (Problem("odd", "wrong", place, "do it right"),)

    def test_an_error_of_many_speaks_with_the_first_real_one(self) -> None:
        early = Problem("doubt", "hm", Location(Path("a"), 1, 1), severity="warning")
        late = Problem("fault", "no", Location(Path("a"), 9, 1), "hint")
        error = PipelineError.of([late, early])
        assert (error.code, error.message, error.hint) == ("fault", "no", "hint")
        assert error.problems == (early, late)


class TestOrder:
    def test_by_file_line_and_column_and_those_without_a_place_last(self) -> None:
        places = [None, ("b", 1, 1), ("a", 10, 1), ("a", 9, 5), ("a", 9, 2)]
        problems = [Problem("c", "m", Location(Path(p[0]), p[1], p[2]) if p else None) for p in places]
        assert sort_problems(problems) == problems[::-1]


class TestNearNames:
    @pytest.mark.parametrize(
        ("typed", "hint"),
        [
            ("crtic", "did you mean 'critic'?"),
            ("Critic", "did you mean 'critic'?"),
            ("read_file", "did you mean 'read-file'?"),
            ("reviewer", "did you mean 'reviewer-b' or 'reviewer-a'?"),
            ("entirely else", None),
            ("", None),
        ],
    )
    def test_what_looks_alike_is_offered(self, typed: str, hint: str | None) -> None:
        assert did_you_mean(typed, ["critic", "read-file", "reviewer-a", "reviewer-b"]) == hint

    def test_among_no_names_nothing_is_near(self) -> None:
        assert near_names("x", []) == []


class TestRendering:
    def test_a_problem_with_everything(self) -> None:
        place = Location(Path("a.yaml"), 12, 5, "    promt: plan.md  # note")
        shown = render_problem(Problem("unknown-key", "unknown key 'promt'", place, "did you mean 'prompt'?"))
        assert shown.splitlines() == [
            "a.yaml:12:5: error[unknown-key]: unknown key 'promt'",
            "    |",
            " 12 |     promt: plan.md  # note",
            "    |     ^^^^^",
            "hint: did you mean 'prompt'?",
        ]

    def test_a_problem_with_nothing_but_a_message(self) -> None:
        assert render_problem(Problem("odd", "wrong", severity="warning")) == "warning[odd]: wrong"

    def test_problems_are_parted_by_an_empty_line(self) -> None:
        assert render_problems([Problem("a", "x"), Problem("b", "y")]) == "error[a]: x\n\nerror[b]: y"

    @pytest.mark.parametrize("char", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\ud800", "\u2028", "\x7f"])
    def test_no_part_of_a_problem_can_steer_the_terminal(self, char: str) -> None:
        place = Location(Path(f"a{char}.yaml"), 1, 1, f"x{char}y")
        shown = render_problem(Problem("odd", f"m{char}", place, f"h{char}"))
        assert char not in shown
        assert escape(char) in shown
        shown.encode()


WRONG = """
name: wrong
agents:
  a: {task: nothing, model: m, tools: [reed-file], toolz: []}
  b: {task: {template: "Do it."}, model: m, mode: interactiv}
graph:
  - {from: START, to: a}
  - {from: a, to: [b, cc], condition: nowhere}
  - {from: b, to: END}
"""


def found(workshop: Workshop, text: str) -> list[tuple[str, str]]:
    """Return the code of each problem and the line it points at."""
    path = workshop.pipelines / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        load_and_resolve(path, find_project(workshop.repo.path), repos={}, cwd=workshop.repo.path)
    problems = caught.value.problems
    assert list(problems) == sort_problems(problems)
    return [
        (problem.code, problem.location.text.split(":")[0].strip() if problem.location else "") for problem in problems
    ]


def test_mistakes_of_form_and_names_that_are_not_found_are_told_together(workshop: Workshop) -> None:
    provider = "providers: {default: openai, openai: {}}\n"
    codes = {code for code, _ in found(workshop, WRONG + provider)}
    assert codes >= {"unknown-key", "unknown-agent", "unknown-condition", "unknown-tool", "unknown-task"}


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ("agnets: {a: {task: {template: x}, model: m}}", ["unknown-key"]),
        ("agents: {a: {taks: {template: x}, model: m}}", ["unknown-key"]),
        ("agents: {a: {task: {template: x}, modle: m}}", ["unknown-key"]),
        ("agents: {a: {task: {template: x}, model: }}", ["empty"]),
        ("agents: [a]", ["wrong-type"]),
        ("agents: {a: {task: {template: x}, model: m, provider: opnai}}", ["unknown-provider"]),
        ("agents: {a: {task: {template: '{{ x'}, model: m}}", ["template-syntax"]),
    ],
)
def test_one_mistake_is_one_problem(line: str, codes: list[str], workshop: Workshop) -> None:
    head, graph = "name: one\nproviders: {default: openai, openai: {}}", "[{from: START, to: a}, {from: a, to: END}]"
    assert [code for code, _ in found(workshop, f"{head}\n{line}\ngraph: {graph}\n")] == codes


def test_the_exit_code_of_a_wrong_pipeline_is_2(workshop: Workshop) -> None:
    path = workshop.pipelines / "wrong.yaml"
    path.write_text(WRONG)
    done = workshop.cli("compile", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("error[") >= 4
    assert "Traceback" not in done.stderr
