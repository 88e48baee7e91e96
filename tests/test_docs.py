"""The documentation is true: its examples run, its links lead somewhere, its lists are complete.

`ORCHESTRA_UPDATE_SNAPSHOTS=1` writes the generated part of docs/reference/cli.md anew.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.docs_support import PAGES, ROOT, Example, Reader, examples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Workshop

REFERENCE = ROOT / "docs" / "reference"
RUN = [page for page in PAGES if any(example.language == "console" for example in examples(page))]
CHECKED = [example for page in PAGES for example in examples(page) if example.directive is None]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", RUN, ids=_name)
def test_the_examples_of_a_page_print_what_it_shows(page: Path, workshop: Workshop) -> None:
    reader = Reader(workshop, fresh=page.parent.name in {ROOT.name, "tutorial"})
    for example in examples(page):
        reader.follow(example)


@pytest.mark.parametrize("example", CHECKED, ids=lambda example: example.place)
def test_every_example_is_well_formed(example: Example, tmp_path: Path) -> None:
    match example.language:
        case "yaml":
            _check_yaml(example, tmp_path)
        case "python":
            compile(example.body, example.place, "exec")
        case "json":
            json.loads(example.body)
        case "sh":
            subprocess.run(["bash", "-n", "-c", example.body], check=True)
        case language:
            assert language in {"console", "text", "sql", "mermaid"}, f"{example.place}: a language nobody checks"


SKELETON: dict[str, Any] = {
    "name": "example",
    "providers": {"default": "offline", "offline": {"type": "scripted", "script": "script.yaml"}},
    "agents": {"agent": {"task": {"template": "Do it."}, "model": "worker"}},
    "graph": [{"from": "START", "to": "agent"}],
}
FORM = re.compile(r"yaml-.*|duplicate-.*|bad-.*|wrong-type|unknown-key|unexpected-key|missing-key")


def _check_yaml(example: Example, tmp_path: Path) -> None:
    """Read a pipeline, a part of one, a project, a script, or YAML of something else."""
    import yaml

    from orchestra.agents.script import load_script
    from orchestra.documents import read_document
    from orchestra.graph.loader import read_pipeline
    from orchestra.graph.project import read_project
    from orchestra.graph.schema import Pipeline

    path = tmp_path / ("orchestra.yaml" if "# orchestra.yaml" in example.body else "example.yaml")
    path.write_text(example.body, encoding="utf-8")
    content = read_document(path).value
    if path.name == "orchestra.yaml":
        read_project(tmp_path)
        return
    if not isinstance(content, dict) or not set(content) <= set(Pipeline.__slots__):
        return
    if set(content) == {"agents"} and all(isinstance(turns, list) for turns in content["agents"].values()):
        load_script(path)
        return
    whole = "graph" in content
    if not whole:
        path.write_text(yaml.safe_dump({**SKELETON, **content}), encoding="utf-8")
    _, _, problems = read_pipeline(path)
    wrong = [problem for problem in problems if whole or FORM.fullmatch(problem.code)]
    found = [problem for problem in wrong if problem.severity == "error"]
    assert bool(found) == ("wrong" in example.options), f"{example.place}: {found}"


LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = [match["target"] for match in LINK.finditer(text) if not _leads_somewhere(page, match["target"])]
    assert broken == []


def _leads_somewhere(page: Path, target: str) -> bool:
    if re.match(r"https?:|mailto:", target):
        return True
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    return there.exists() and (not anchor or anchor in _anchors(there))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_readme_or_the_docs_index() -> None:
    linked = set()
    for page in PAGES:
        for match in LINK.finditer(page.read_text(encoding="utf-8")):
            linked.add((page.parent / match["target"].partition("#")[0]).resolve())
    assert [_name(page) for page in PAGES if page not in linked and page.name != "README.md"] == []


def test_the_readme_ci_and_contributing_name_the_same_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert last == "bash scripts/uv run bash scripts/check"
    assert f"\n{last}\n" in readme
    assert f"\n{last}\n" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "\nbash scripts/uv run orchestra demo\n" in readme


def test_the_command_line_reference_is_what_help_prints() -> None:
    from typer.testing import CliRunner

    from orchestra.cli.main import app

    names = [str(command.name) for command in app.registered_commands]
    parts = []
    for name in ["", *names]:
        printed = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="orchestra", env={"COLUMNS": "80"})
        assert printed.exit_code == 0
        title = f"orchestra {name}".strip()
        parts.append(f"### `{title}`\n\n```text\n{printed.stdout.strip()}\n```\n")
    page = REFERENCE / "cli.md"
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition("<!-- generated: begin -->\n")
    _, _, tail = rest.partition("<!-- generated: end -->\n")
    wanted = "".join((head, "<!-- generated: begin -->\n", "\n".join(parts), "<!-- generated: end -->\n", tail))
    if os.environ.get("ORCHESTRA_UPDATE_SNAPSHOTS"):
        page.write_text(wanted, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == wanted, "run ORCHESTRA_UPDATE_SNAPSHOTS=1 pytest tests/test_docs.py"


CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+|timeout|cancelled|bug")


def test_every_error_code_is_explained() -> None:
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([a-z0-9-]+)` \|", text, flags=re.MULTILINE)
    used, constants = set(), set()
    for path in (ROOT / "orchestra").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        constants |= set(re.findall(r'"([a-z0-9-]+)"', source)) | set(re.findall(r"error\[([a-z-]+)\]", source))
        used |= set(_codes(ast.parse(source)))
    constants |= {f"unknown-{kind}" for kind in ("role", "persona", "personality", "task")}
    assert explained == sorted(set(explained)), "sorted, each once"
    assert sorted(used - set(explained)) == [], "not explained in errors.md"
    assert sorted(set(explained) - constants) == [], "explained, but nothing in the source says it"


NOT_CODES = {"claude-sonnet-4-5", "orchestra-agents"}
REPORTING = {"Problem", "Fault", "report", "wrong", "_limit", "_stop", "_note", "_not_a_session", "_problem"}


def _codes(tree: ast.AST) -> Iterator[str]:
    """Yield the codes that a module gives to errors: by keyword, as a first argument, or first in a tuple."""
    for node in ast.walk(tree):
        found: list[ast.expr] = []
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            found += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            found += node.args[:2] if name in REPORTING else []
        elif isinstance(node, ast.Dict):
            found += [v for k, v in zip(node.keys, node.values, strict=True) if _constant(k) == "code"]
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            found += node.value.elts[:1]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [node.value] if node.value and [getattr(t, "id", "") for t in targets] == ["code"] else []
        for value in found:
            for part in ast.walk(value):
                if (code := _constant(part)) and CODE.fullmatch(code) and code not in NOT_CODES:
                    yield code


def _constant(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _keys(page: str, heading: str, level: int = 2) -> list[str]:
    """Return the first column of the first table under a heading."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    section = text.partition(f"\n{'#' * level} {heading}\n")[2]
    section = re.split(rf"^#{{1,{level}}} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\| \[?`([\w-]+)`", section, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("The pipeline", "Pipeline"),
        ("`providers`", "ProviderSpec"),
        ("`inputs`", "InputSpec"),
        ("`agents`", "AgentSpec"),
        ("`steps`", "StepSpec"),
        ("`limits`", "Limits"),
        ("The project file, `orchestra.yaml`", "ProjectSpec"),
    ],
)
def test_the_pipeline_reference_has_every_key(heading: str, section: str) -> None:
    from orchestra.graph import schema
    from orchestra.graph.reader import keys_of

    assert sorted(_keys("pipeline-file.md", heading)) == sorted(keys_of(getattr(schema, section)))


def test_the_pipeline_reference_has_every_key_of_workspace_and_edges() -> None:
    from orchestra.graph.edges import _EdgeKeys
    from orchestra.graph.reader import keys_of
    from orchestra.graph.schema import RepoSpec, ShellTool, Workspace

    workspace = [*keys_of(Workspace), *keys_of(RepoSpec), *keys_of(ShellTool)]
    assert sorted(_keys("pipeline-file.md", "`workspace`")) == sorted(workspace)
    assert sorted(_keys("pipeline-file.md", "`graph`")) == sorted(keys_of(_EdgeKeys))


def test_the_tools_reference_has_every_built_in_tool_with_its_arguments() -> None:
    from orchestra.tools.registry import tool_registry

    text = (REFERENCE / "tools.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| \[`([\w-]+)`\][^|]*\| ([^|]*) \|", text, flags=re.MULTILINE))
    written = dict(re.findall(r"^### (\w+:[\w-]+)\n\n.*?^Arguments: (.*?)\.$", text, flags=re.MULTILINE | re.DOTALL))
    toolset = tool_registry.toolset(["repo"])
    for name in toolset.names():
        parameters = toolset.get(name).parameters
        required = parameters.get("required", ())
        arguments = [key if key in required else f"{key}?" for key in parameters["properties"]]
        bare = name.removeprefix("repo:")
        shown = table.pop(bare) if name != bare else written.pop(name)
        assert re.findall(r"`([a-z]+\??)`", shown) == arguments, name
    assert (table, written) == ({}, {})


def test_the_scripted_reference_has_every_key_and_error() -> None:
    from orchestra.agents import script

    text = (REFERENCE / "scripted-models.md").read_text(encoding="utf-8")
    written = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(written) == sorted([*script._REPLY_KEYS, *script.ERROR_KINDS, "error"])


def test_the_state_reference_has_every_field() -> None:
    from orchestra.graph.extension import RESERVED

    assert sorted(_keys("state.md", "The fields")) == sorted(RESERVED - {"turn"})


def test_the_json_reference_has_every_key_of_a_result() -> None:
    from orchestra.runtime.doctor.finding import Finding, State
    from orchestra.runtime.result import SessionResult
    from orchestra.runtime.store import SessionRecord, Status

    record = SessionRecord("7kq2mfzd", "fix", Status.COMPLETED, "", "", {}, {}, {}, {})
    assert _keys("json.md", "`run` and `resume`") == list(SessionResult(record).as_json())
    assert _keys("json.md", "`status`") == [*record.summary(), "spending"]
    assert _keys("json.md", "`doctor`") == list(Finding("git", State.OK, "2.50.1").as_json())
