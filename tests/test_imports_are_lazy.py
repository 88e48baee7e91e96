"""What a command does not need it does not load: each command in a process of its own, judged by `sys.modules`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

HEAVY = (
    *("langgraph", "langchain", "langchain_core", "langchain_openai", "langchain_anthropic", "langsmith"),
    *("pydantic", "pydantic_core", "jinja2", "jsonschema", "rich", "aiosqlite", "asyncio", "httpx", "genai_prices"),
)

PROGRAM = """
import json, sys
sys.argv = ["orchestra", *json.loads(sys.argv[1])]
from orchestra.cli.main import main
try:
    main()
except SystemExit as end:
    print("\\x00" + json.dumps([end.code, sorted(sys.modules)]))
"""

WRONG = """
name: wrong
providers: {{default: openai, openai: {{}}}}
agents:
  a: {{task: {{template: "Do it."}}, model: m{more}}}
graph:
  - {{from: START, to: a}}
  - {{from: a, to: {target}}}
"""
MISTAKES = {
    "unknown key": WRONG.format(more=", toolz: [read-file]", target="END"),
    "unknown agent": WRONG.format(more="", target="b"),
    "unknown tool": WRONG.format(more=", tools: [reed-file]", target="END"),
    "unknown prompt": WRONG.format(more=", role: nobody", target="END"),
    "unknown condition": WRONG.format(more="", target="END, condition: nothing"),
    "endless cycle": WRONG.format(more="", target="a"),
}


def loaded_by(*args: str, cwd: Path, code: int) -> set[str]:
    """Run a command and return the modules that it loaded."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(args)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert "\x00" in done.stdout, done.stderr
    ended, modules = json.loads(done.stdout.rpartition("\x00")[2])
    assert ended == code, done.stderr
    return set(modules)


def heavy(modules: set[str]) -> set[str]:
    return modules.intersection(HEAVY)


@pytest.mark.parametrize("command", [[], ["run"], ["compile"], ["log"], ["doctor"]], ids=" ".join)
def test_help_loads_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    modules = loaded_by(*command, "--help", cwd=tmp_path, code=0)
    assert heavy(modules) == set()
    assert "yaml" not in modules
    assert "sqlite3" not in modules


def test_the_version_loads_nothing_heavy(tmp_path: Path) -> None:
    assert heavy(loaded_by("--version", cwd=tmp_path, code=0)) == set()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_failing_compile_loads_nothing_heavy(name: str, workshop: Workshop) -> None:
    path = workshop.pipelines / "wrong.yaml"
    path.write_text(MISTAKES[name])
    assert heavy(loaded_by("compile", str(path), cwd=workshop.repo.path, code=2)) == set()


async def test_status_and_log_load_nothing_heavy(workshop: Workshop) -> None:
    pipeline = """
name: one
agents: {a: {task: {template: "Do it."}, model: m}}
graph: [{from: START, to: a}, {from: a, to: END}]
"""
    result = await workshop.run(workshop.pipeline(pipeline, script={"a": [[{"text": "Done."}]]}))
    session, cwd = result.record.session_id, workshop.repo.path

    for command in (["status"], ["status", session, "--json"], ["log", session], ["log", session, "--events"]):
        modules = loaded_by(*command, cwd=cwd, code=0)
        assert heavy(modules) == set(), command
        assert "yaml" not in modules, command
    assert heavy(loaded_by("graph", session, "--format", "svg", cwd=cwd, code=0)) == {"asyncio"}
    # It asks git which branches there are, and measures what it shows.
    assert heavy(loaded_by("attach", session, "--read-only", cwd=cwd, code=0)) == {"asyncio", "rich"}
    assert heavy(loaded_by("respond", session, cwd=cwd, code=0)) == set()
    assert heavy(loaded_by("export", session, "--html", "-", cwd=cwd, code=0)) == {"asyncio"}
    assert heavy(loaded_by("apply", session, cwd=cwd, code=0)) == {"asyncio"}


def test_a_pipeline_is_drawn_without_langgraph(workshop: Workshop) -> None:
    modules = loaded_by("graph", "pr-review", "--provider", "offline", cwd=workshop.repo.path, code=0)
    assert heavy(modules) & {"langgraph", "langchain", "langchain_core", "rich", "httpx"} == set()


@pytest.mark.parametrize("args", [[], ["pr-review"]], ids=" ".join)
def test_the_doctor_loads_no_agents_and_asyncio_only_to_call_git(args: list[str], workshop: Workshop) -> None:
    assert heavy(loaded_by("doctor", *args, cwd=workshop.repo.path, code=0)) == {"asyncio"}
