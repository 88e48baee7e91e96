from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.documents import read_document
from orchestra.errors import AgentError, PipelineError, Problem
from orchestra.prompts.composer import (
    ComposedPrompt,
    Layers,
    PromptComposer,
    check_template,
    render_template,
)
from orchestra.prompts.discovery import FileDiscovery

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "roles/engineer": "role:\n  name: engineer\n  system: |\n    You are an engineer.\n",
    "roles/writer": "role:\n  name: writer\n  system: You write.\n",
    "personas/senior": "persona:\n  name: senior\n  extends: engineer\n  modifiers: You have seen much.\n",
    "personalities/brief": "personality:\n  name: brief\n  modifiers:\n    - Be brief.\n    - Be exact.\n",
    "tasks/review": "task:\n  name: review\n  template: |\n    Review {{ inputs.what }}.\n    Turn {{ turn }}.\n",
}


def write(directory: Path, files: dict[str, str]) -> PromptComposer:
    for name, text in files.items():
        path = directory / "prompts" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return PromptComposer(FileDiscovery(directory, user_dir=directory / "user"))


@pytest.fixture
def composer(tmp_path: Path) -> PromptComposer:
    return write(tmp_path, FILES)


def layers(role: Any = None, persona: Any = None, personality: Any = None, task: Any = "review") -> Layers:
    return Layers(role, persona, personality, task)


def problems(composer: PromptComposer, wanted: Layers, **places: Any) -> list[Problem]:
    with pytest.raises(PipelineError) as caught:
        composer.compose(wanted, agent="critic", **places)
    return list(caught.value.problems)


def wrong_file(tmp_path: Path, kind: str, text: str) -> Problem:
    folder = {"personality": "personalities"}.get(kind, f"{kind}s")
    composer = write(tmp_path, {**FILES, f"{folder}/x": text})
    [problem] = problems(
        composer, Layers(**{**dict.fromkeys(("role", "persona", "personality")), "task": "review", kind: "x"})
    )
    return problem


def test_layers_are_joined_in_order_by_a_blank_line(composer: PromptComposer) -> None:
    prompt = composer.compose(layers("writer", "senior", "brief"), agent="critic")
    text = prompt.render({"inputs": {"what": "it"}, "turn": 2})
    assert text == "You write.\n\nYou have seen much.\n\nBe brief.\nBe exact.\n\nReview it.\nTurn 2."


def test_a_persona_brings_its_role_when_the_agent_names_none(composer: PromptComposer) -> None:
    assert composer.compose(layers(None, "senior"), agent="a").static == "You are an engineer.\n\nYou have seen much."
    assert composer.compose(layers("writer", "senior"), agent="a").static == "You write.\n\nYou have seen much."


def test_a_task_alone_is_enough(composer: PromptComposer, tmp_path: Path) -> None:
    prompt = composer.compose(layers(), agent="a")
    assert prompt.static == ""
    assert prompt.render({"inputs": {"what": "it"}, "turn": 1}) == "Review it.\nTurn 1."
    assert prompt.source == tmp_path / "prompts" / "tasks" / "review.yaml"
    assert prompt.variables == {"inputs", "turn"}


def test_layers_may_be_inline(composer: PromptComposer) -> None:
    prompt = composer.compose(
        Layers({"system": "S"}, {"extends": "writer", "modifiers": ["a", "b"]}, {"modifiers": "c"}, {"template": "T"}),
        agent="a",
    )
    assert prompt.render({}) == "S\n\na\nb\n\nc\n\nT"
    inline = composer.compose(layers(persona={"extends": "writer", "modifiers": "m"}), agent="a")
    assert inline.static == "You write.\n\nm"


def test_only_the_task_is_a_template(tmp_path: Path) -> None:
    composer = write(tmp_path, {**FILES, "roles/x": 'role: {name: x, system: "Write {{ nothing }} and {% raw"}\n'})
    prompt = composer.compose(layers("x"), agent="a")
    assert "Write {{ nothing }} and {% raw" in prompt.render({"inputs": {"what": 1}, "turn": 1})


@pytest.mark.parametrize(
    ("kind", "text", "place", "message"),
    [
        ("role", "role:\n  name: x\n  sytem: hi\n", ("unknown-key", 3), "unknown key 'sytem' in a role"),
        ("role", "role:\n  name: x\n  system: hi\n  extends: y\n", ("unknown-key", 4), "unknown key 'extends'"),
        ("role", "role:\n  name: x\n", ("missing-key", 1), "the role has no `system`"),
        ("role", "role:\n  system: hi\n", ("missing-key", 1), "the role has no `name`"),
        ("role", "role:\n  name: x\n  system:\n", ("wrong-type", 3), "`system` must be a text, not nothing"),
        ("role", "role:\n  name: x\n  system: 12\n", ("wrong-type", 3), "not a number"),
        ("role", "role:\n  name: x\n  system: [a]\n", ("wrong-type", 3), "not a list"),
        ("role", "role:\n  name: x\n  system: '  '\n", ("empty-text", 3), "`system` is empty"),
        ("role", "role:\n  name: y\n  system: hi\n", ("name-mismatch", 2), "is named 'y', its file 'x'"),
        ("role", "role:\n  name: 7\n  system: hi\n", ("wrong-type", 2), "`name` must be a text"),
        ("role", "role: hi\n", ("wrong-type", 1), "`role` must be a mapping"),
        ("role", "- a\n", ("wrong-kind", 1), "the file holds no role"),
        ("role", "", ("wrong-kind", 1), "the file holds no role"),
        ("role", "persona:\n  name: x\n  modifiers: a\n", ("wrong-kind", 1), "holds a persona, not a role"),
        ("role", "rule:\n  name: x\n", ("wrong-kind", 1), "no top-level key `role`, but 'rule'"),
        ("role", "role:\n  name: x\n  system: a\nmore: 1\n", ("unknown-key", 4), "unknown key 'more'"),
        ("role", "role:\n  name: x\n  name: x\n  system: a\n", ("duplicate-key", 3), "name"),
        (
            "persona",
            "persona:\n  name: x\n  modifiers: a\n  extends: nobody\n",
            ("unknown-role", 4),
            "no role 'nobody'",
        ),
        ("persona", "persona:\n  name: x\n  modifiers: a\n  extends: [a]\n", ("wrong-type", 4), "must name a role"),
        ("persona", "persona:\n  name: x\n  modifiers: {a: b}\n", ("wrong-type", 3), "a text or a list of texts"),
        ("personality", "personality:\n  name: x\n  modifiers: [a, 1]\n", ("wrong-type", 3), "a text or a list"),
        ("personality", "personality:\n  name: x\n  modifiers: []\n", ("empty-text", 3), "`modifiers` is empty"),
        ("task", "task:\n  name: x\n  template: |\n    a\n    {% if %}\n", ("template-syntax", 5), "Expected an expr"),
        (
            "task",
            "task:\n  name: x\n  template: |\n\n    a\n    {% include 'a' %}\n",
            ("template-forbidden", 6),
            "include",
        ),
        ("task", 'task:\n  name: x\n  template: "{{ a|nofilter }}"\n', ("unknown-filter", 3), "nofilter"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_line(
    tmp_path: Path, kind: str, text: str, place: tuple[str, int], message: str
) -> None:
    problem = wrong_file(tmp_path, kind, text)
    assert problem.location is not None
    assert (problem.code, problem.location.line) == place
    assert message in problem.message
    assert problem.location.path.name == "x.yaml"


def test_hints_say_what_to_write(tmp_path: Path) -> None:
    assert wrong_file(tmp_path, "role", "role:\n  name: x\n  sytem: hi\n").hint == "did you mean 'system'?"
    assert wrong_file(tmp_path, "role", "rol:\n  name: x\n").hint == "did you mean 'role'?"
    assert (
        wrong_file(tmp_path, "role", "role:\n  name: y\n  system: a\n").hint
        == "write `name: x`, or rename the file to y.yaml"
    )


def test_all_problems_of_an_agent_are_reported_at_once_at_their_places(tmp_path: Path) -> None:
    composer = write(tmp_path, FILES)
    text = "agents:\n  critic:\n    role: enginer\n    persona: senor\n    task: {templat: hi}\n"
    document = read_document(tmp_path / "p.yaml", text)
    agent = document.value["agents"]["critic"]
    found = problems(
        composer,
        Layers(agent.get("role"), agent.get("persona"), agent.get("personality"), agent.get("task")),
        document=document,
        loc=("agents", "critic"),
    )
    assert [(p.code, p.location.line if p.location else 0, p.hint) for p in found] == [
        ("unknown-role", 3, "did you mean 'engineer'?"),
        ("unknown-persona", 4, "did you mean 'senior'?"),
        ("unknown-key", 5, "did you mean 'template'?"),
    ]


def test_an_agent_without_a_task_is_an_error(composer: PromptComposer) -> None:
    [problem] = problems(composer, layers("engineer", task=None))
    assert (problem.code, problem.hint) == ("missing-task", "add `task: NAME` to agent 'critic'")


def names(template: str, *known: str) -> list[str]:
    return [problem.message.split("'")[1] for problem in check_template(template, known)]


@pytest.mark.parametrize(
    "template",
    [
        "{{ a }}",
        "{% if b is defined %}{{ b }}{% endif %}",
        "{% if b is not defined %}x{% else %}{{ b }}{% endif %}",
        "{% if not (b is defined) %}x{% elif a %}{{ b }}{% endif %}",
        "{% if b is defined and b.x %}{{ b.y }}{% endif %}",
        "{% if b is undefined or b %}{% endif %}",
        "{{ b|default('x') }} {{ b|d }}",
        "{{ b if b is defined else 'x' }}",
        "{% for x in a %}{{ x }}{{ loop.index }}{% endfor %}",
        "{% for x in a if x %}{{ x }}{% endfor %}",
        "{% for k, v in a.items() %}{{ k }}{{ v }}{% endfor %}",
        "{% set x = a %}{{ x }}",
        "{% set x %}{{ a }}{% endset %}{{ x }}",
        "{% with x = a %}{{ x }}{% endwith %}",
        "{% if a %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}",
        "{% for i in range(3) %}{{ i }}{% endfor %}",
        "{# {{ b }} #}{% raw %}{{ b }}{% endraw %}",
    ],
)
def test_names_that_are_there_or_guarded_are_no_problem(template: str) -> None:
    assert names(template, "a") == []


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        ("{{ b }}", ["b"]),
        ("{{ b.c.d }}{{ b }}", ["b"]),
        ("{% if b is defined %}x{% endif %}{{ b }}", ["b"]),
        ("{% if b is defined or a %}{{ b }}{% endif %}", ["b"]),
        ("{% if b is defined %}x{% else %}{{ b }}{% endif %}", ["b"]),
        ("{{ (b ~ c)|default('x') }}", ["b", "c"]),
        ("{{ a|default(b) }}", ["b"]),
        ("{{ b.c is defined }}", ["b"]),
        ("{% for x in a %}{% endfor %}{{ x }}{{ loop }}", ["x", "loop"]),
        ("{% if a %}{% set x = 1 %}{% endif %}{{ x }}", ["x"]),
        ("{% for x in a %}{% set y = 1 %}{% endfor %}{{ y }}", ["y"]),
        ("{{ range }}", ["range"]),
        ("{{ a[b] }}{{ a[c:] }}{{ a.get(d) }}", ["b", "c", "d"]),
        ("{% with x = x %}{{ x }}{% endwith %}", ["x"]),
    ],
)
def test_names_that_may_be_missing_are_found(template: str, missing: list[str]) -> None:
    assert names(template, "a") == missing


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("task:\n  name: x\n  template: |\n    One\n    two {{ inputz.a }}\n", 5, 12),
        ("task:\n  name: x\n  template: |-\n\n    One\n\n    {{ inputz }}\n", 7, 8),
        ("task:\n  name: x\n  template: a {{ inputz }}\n", 3, 18),
        ('task:\n  name: x\n  template: "a {{ inputz }}"\n', 3, 19),
        ("task:\n  name: x\n  template: >\n    One\n    {{ inputz }}\n", 3, 13),
    ],
)
def test_an_undefined_name_is_found_at_its_place_in_the_file(tmp_path: Path, text: str, line: int, column: int) -> None:
    composer = write(tmp_path, {**FILES, "tasks/x": text})
    [problem] = composer.compose(layers(task="x"), agent="a").check({"inputs", "turn"})
    assert problem.location is not None
    assert (problem.code, problem.hint) == ("undefined-variable", "did you mean 'inputs'?")
    assert problem.location.line == line
    if "{{" in problem.location.text:
        assert problem.location.text[problem.location.column - 1 :].startswith("inputz")
        assert problem.location.column == column


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("a\n{% for loop in a %}{% endfor %}", "template-syntax"),
        ("{% for x in a %}" * 25 + "{% endfor %}" * 25, "template-too-deep"),
        ("a\n{{ a.b.c( }}", "template-syntax"),
        ("{{ '\\x' }}", "template-syntax"),
    ],
)
def test_what_only_the_compiler_finds_is_a_problem_too(template: str, code: str) -> None:
    [problem] = check_template(template, ["a"])
    assert problem.code == code


def test_an_inline_task_is_found_in_the_pipeline(composer: PromptComposer, tmp_path: Path) -> None:
    text = "agents:\n  critic:\n    task:\n      template: |\n        a\n        {{ inputz }}\n"
    document = read_document(tmp_path / "p.yaml", text)
    task = document.value["agents"]["critic"]["task"]
    prompt = composer.compose(layers(task=task), agent="critic", document=document, loc=("agents", "critic"))
    [problem] = prompt.check({"inputs"})
    assert problem.location is not None
    assert (problem.location.line, problem.location.column) == (6, 12)


def test_rendering_errors_say_where_and_what() -> None:
    with pytest.raises(AgentError) as caught:
        render_template("a\nb\n{{ d.nmae }}", {"d": {"name": 1}}, where="the task review.yaml")
    expected = "the task review.yaml, line 3: there is no 'nmae' in the mapping; did you mean 'name'?"
    assert (caught.value.code, caught.value.message) == ("undefined-variable", expected)
    with pytest.raises(AgentError) as caught:
        render_template("a\n{{ 1 / n }}", {"n": 0}, where="step tests")
    assert (caught.value.code, caught.value.message) == ("template-failed", "step tests, line 2: division by zero")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ d }}", '{\n  "a": [\n    1,\n    "é"\n  ]\n}'),
        ("{{ d|tojson }}", '{"a": [1, "é"]}'),
        ("{{ none }} {{ true }} {{ 1.5 }}", "None True 1.5"),
        ("{% if x %}\n  a\n{% endif %}\nb", "  a\nb"),
        ("{{ d.a[0] }}{{ d['a'][-1] }}{{ s[1:] }}", "1éext"),
        ("{{ xs|map(attribute='n')|join(', ') }}", "b, a"),
        ("{{ (xs|sort(attribute='n')|first).n }}{{ xs|map(attribute='n')|max }}", "ab"),
        ("{{ xs|selectattr('n', 'eq', 'a')|list|length }}{{ xs|rejectattr('n', 'in', ['a'])|list|length }}", "11"),
        ("{{ 'a' if false }}|", "|"),
        ("{{ 3 > 2 > 1 }} {{ 'e' in s }} {{ 5 not in [1] }}", "True True True"),
        ("{{ s.upper() }} {{ ' x '.strip() }} {{ 'a,b'.split(',')|join('+') }}", "TEXT x a+b"),
        ("{{ 'x\ny'|indent(2) }}", "x\n  y"),
        ("{{ 2 ** 8 - 1 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ -(2) }}", "255 3 3 -2"),
        ("{{ s|title }} {{ s|length }} {{ '4'|int + 1 }} {{ 2.5|round }}", "Text 4 5 2"),
        ("{% for k, v in d|dictsort %}{{ k }}{{ v|length }}{% endfor %}", "a2"),
        ("{% for x in [] %}{% else %}none{% endfor %}", "none"),
        ("{{ '<&>' }}", "<&>"),
    ],
)
def test_what_the_language_can_do(template: str, text: str) -> None:
    data = {"d": {"a": [1, "é"]}, "x": True, "s": "text", "xs": [{"n": "b"}, {"n": "a"}]}
    assert render_template(template, data, where="t") == text


def test_hostile_data_is_never_a_template() -> None:
    assert (
        render_template("{{ a }}", {"a": "{{ 7 * 7 }}{% include 'x' %}"}, where="t") == "{{ 7 * 7 }}{% include 'x' %}"
    )


def test_data_wins_over_methods() -> None:
    assert render_template("{{ d.items }} {{ d.items()|length }}", {"d": {"items": 3}}, where="t") == "3 1"


def test_equal_prompts_compare_equal() -> None:
    assert ComposedPrompt("a", "b") == ComposedPrompt("a", "b")


def test_jinja_is_loaded_only_for_templates() -> None:
    modules = "orchestra.prompts.discovery, orchestra.prompts.composer, orchestra.imports, orchestra.graph.conditions"
    heavy = ("jinja2", "asyncio", "pydantic", "langchain_core")
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
