"""What the crash harness runs: a pipeline whose files tell, line by line, which calls have been carried out.

Every call of the tool `note` appends a line that names its turn and its place there. A line that is there twice was
carried out twice, one that lacks is lost, and `junk.tmp` in a commit is a call that was cut off and kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.testing import git_repo, write_script

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SETUP = "cp build.cache ready.cache && echo ready >> ready.cache && git diff --quiet HEAD && echo prepared >> README.md"
PREPARED = {"build.cache": "ignored\n", "ready.cache": "ignored\nready\n"}
"""What git ignores and the worktree of `app` has nevertheless: copied from the checkout, and made by `setup`.

What `setup` does to a file that git knows has to be put back; it fails where that was not done.
"""
LOOK = 'for log in *.log; do echo "$log" $(cat "$log"); done'
"""What an agent that runs commands and writes nothing sees: it has to be the files of its checkpoint."""
NOTE = "echo junk > junk.tmp; echo {line} >> {file}; sleep 0.003; rm junk.tmp"


@dataclass(frozen=True)
class Scenario:
    """A pipeline, its recorded replies and its repositories."""

    name: str
    pipeline: Mapping[str, Any]
    script: Mapping[str, Any]
    repos: Mapping[str, Mapping[str, str]]
    """Name → the files of its first commit."""
    files: Mapping[str, str] = field(default_factory=dict)
    """More files beside the pipeline."""
    branches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """First agent of a branch that is a graph of its own → the agents in it."""
    at_once: int = 1
    """How many model calls may be under way at a time, and be paid again after a kill."""

    def notes(self, repo: str, agent: str, turn: int) -> list[str]:
        """Return the lines that a turn of an agent adds to its log in a repo, in order."""
        replies = self.script[agent][turn - 1] if turn <= len(self.script.get(agent, ())) else []
        calls = [call for reply in replies for call in reply.get("tools", ())]
        return [call["args"]["line"] for call in calls if call["name"] == f"{repo}:note"]

    def turns(self, agent: str) -> int:
        """Return how many turns an agent has in a whole run."""
        return len(self.script.get(agent, ()))

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that leave notes."""
        return tuple(self.script)

    def lay_out(self, directory: Path) -> Path:
        """Make the repositories and the pipeline file; returns the file."""
        import yaml

        for name, files in self.repos.items():
            repo = git_repo(directory / name, {**files, ".gitignore": "*.cache\n"})
            # A checkout with work of every kind: it has to be as it was, to the byte.
            repo.write({"staged.txt": "staged\n"})
            repo.git("add", "staged.txt")
            repo.write(
                {"README.md": "changed\n", "untracked.txt": "untracked\n", "build.cache": PREPARED["build.cache"]}
            )
        pipelines = directory / "pipelines"
        write_script(pipelines / "script.yaml", self.script)
        for relative, text in self.files.items():
            path = pipelines / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        path = pipelines / "pipeline.yaml"
        path.write_text(yaml.safe_dump(dict(self.pipeline), sort_keys=False), encoding="utf-8")
        return path


def _note(repo: str, agent: str, line: str) -> dict[str, Any]:
    return {"name": f"{repo}:note", "args": {"line": line, "file": f"{agent}.log"}}


def _says(text: str) -> dict[str, Any]:
    return {"text": text, "usage": {"input_tokens": 10, "output_tokens": 2}}


def _turn(agent: str, turn: int, *, repos: tuple[str, ...]) -> list[dict[str, Any]]:
    """One call, then several in one reply, then a commit message, then the answer."""
    first = {"tools": [_note(repos[0], agent, f"{turn}.1")]}
    both = {"tools": [_note(repo, agent, f"{turn}.{number}") for repo in repos for number in (2, 3)]}
    message = {"tools": [{"name": f"{repos[0]}:git-commit", "args": {"message": f"{agent} in turn {turn}"}}]}
    return [first, both, message, _says(f"{agent} {turn}")]


def _brief(agent: str, turn: int, repo: str = "app") -> list[dict[str, Any]]:
    """One call, then the answer."""
    return [{"tools": [_note(repo, agent, f"{turn}.1")]}, _says(f"{agent} {turn}")]


def _agent(*tools: str, **more: Any) -> dict[str, Any]:
    return {"task": {"template": "Do your part."}, "model": "m", "tools": list(tools), **more}


_LOOKS = {"tools": [{"name": "app:look", "args": {}}]}
VERDICT = """
import orchestra

@orchestra.condition("verdict")
def verdict(state):
    return ["left", "right"] if state["agent_outputs"]["critic"]["verdict"] == "revise" else "closer"

@orchestra.condition("verdict-on-branches")
def verdict_on_branches(state):
    return ["a-one", "b-one"] if state["agent_outputs"]["critic"]["verdict"] == "revise" else "closer"
"""
SURROUNDINGS: dict[str, Any] = {
    "providers": {"default": "offline", "offline": {"type": "scripted", "script": "script.yaml"}},
    "workspace": {
        "repos": {"app": {"path": "../app", "copy": ["*.cache"], "setup": SETUP}, "web": {"path": "../web"}},
        "tools": {
            "app": {
                "note": {"command": NOTE, "args": {"line": {}, "file": {}}},
                "look": {"command": LOOK, "args": {}, "writes": False},
                "tally": {"command": "echo tally >> tally.log; wc -l < tally.log", "args": {}},
            },
            "web": {"note": {"command": NOTE, "args": {"line": {}, "file": {}}}},
        },
    },
}
REPOS = {"app": {"app.py": "x = 1\n", "README.md": "app\n"}, "web": {"web.js": "1\n", "README.md": "web\n"}}
WRITES_APP = ("app:note", "app:git-commit")
WRITES_BOTH = ("app:note", "web:note", "app:git-commit")

ROUND = Scenario(
    name="round",
    repos=REPOS,
    pipeline={
        "name": "round",
        **SURROUNDINGS,
        "agents": {
            "planner": _agent(*WRITES_APP),
            "left": _agent(*WRITES_BOTH),
            "right": _agent(*WRITES_APP),
            "reader": _agent("app:read-file", "web:read-file"),
            "looker": _agent("app:look"),
            "critic": _agent("app:read-file", output={"type": "object", "properties": {"verdict": {"type": "string"}}}),
            "closer": _agent(*WRITES_BOTH),
        },
        "steps": {"count": {"tool": "app:tally"}},
        "conditions": "conditions",
        "graph": [
            {"from": "START", "to": "planner"},
            {"from": "planner", "to": ["left", "right", "reader", "looker"]},
            {"from": ["left", "right", "reader", "looker"], "to": "count"},
            {"from": "count", "to": "critic"},
            {"from": "critic", "to": ["left", "right", "closer"], "condition": "verdict", "max_loops": 1},
            {"from": "closer", "to": "END"},
        ],
    },
    script={
        "planner": [_turn("planner", 1, repos=("app",))],
        "left": [_turn("left", turn, repos=("app", "web")) for turn in (1, 2)],
        "right": [_turn("right", turn, repos=("app",)) for turn in (1, 2)],
        "reader": [[{"tools": [{"name": "app:read-file", "args": {"path": "planner.log"}}]}, _says("read")]],
        "looker": [[_LOOKS, {**_LOOKS, "delay": 0.05}, _says("looked")]],
        "critic": [[{"output": {"verdict": "revise"}}], [{"output": {"verdict": "approve"}}]],
        "closer": [_turn("closer", 1, repos=("app", "web"))],
    },
    files={"conditions/verdict.py": VERDICT},
)

BRANCHES = Scenario(
    name="branches",
    repos=REPOS,
    pipeline={
        "name": "branches",
        **SURROUNDINGS,
        "agents": {
            "planner": _agent(*WRITES_APP),
            "a-one": _agent(*WRITES_APP),
            "a-left": _agent(*WRITES_APP),
            "a-more": _agent(*WRITES_APP),
            "a-right": _agent("web:note"),
            "a-last": _agent(*WRITES_BOTH),
            "b-one": _agent(*WRITES_BOTH),
            "b-reader": _agent("app:read-file"),
            "critic": _agent("app:read-file", output={"type": "object", "properties": {"verdict": {"type": "string"}}}),
            "closer": _agent(*WRITES_BOTH),
        },
        "steps": {"count": {"tool": "app:tally"}},
        "conditions": "conditions",
        "graph": [
            {"from": "START", "to": "planner"},
            {"from": "planner", "to": ["a-one", "b-one"]},
            {"from": "a-one", "to": ["a-left", "a-right"]},
            {"from": "a-left", "to": "a-more"},
            {"from": ["a-more", "a-right"], "to": "a-last"},
            {"from": "b-one", "to": "count"},
            {"from": "count", "to": "b-reader"},
            {"from": ["a-last", "b-reader"], "to": "critic"},
            {"from": "critic", "to": ["a-one", "b-one", "closer"], "condition": "verdict-on-branches", "max_loops": 1},
            {"from": "closer", "to": "END"},
        ],
    },
    script={
        "planner": [_brief("planner", 1)],
        "a-one": [_brief("a-one", turn) for turn in (1, 2)],
        "a-left": [_brief("a-left", turn) for turn in (1, 2)],
        "a-more": [_brief("a-more", turn) for turn in (1, 2)],
        "a-right": [_brief("a-right", turn, "web") for turn in (1, 2)],
        "a-last": [_turn("a-last", turn, repos=("app", "web")) for turn in (1, 2)],
        "b-one": [_turn("b-one", turn, repos=("app", "web")) for turn in (1, 2)],
        "b-reader": [
            [{"tools": [{"name": "app:read-file", "args": {"path": "b-one.log"}}]}, _says(f"read {turn}")]
            for turn in (1, 2)
        ],
        "critic": [[{"output": {"verdict": "revise"}}], [{"output": {"verdict": "approve"}}]],
        "closer": [_brief("closer", 1)],
    },
    files={"conditions/verdict.py": VERDICT},
    branches={
        "a-one": ("a-one", "a-left", "a-more", "a-right", "a-last"),
        "a-left": ("a-left", "a-more"),
        "b-one": ("b-one", "b-reader"),
    },
    at_once=3,
)
"""A fan-out of branches of several agents, one with a fan-out inside, and a loop around it."""

SCENARIOS = {scenario.name: scenario for scenario in (ROUND, BRANCHES)}
