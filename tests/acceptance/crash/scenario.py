"""What the crash harness runs: a pipeline whose files tell, line by line, which calls have been carried out.

Every call of the tool `note` appends a line that names its turn and its place there. A line that is there twice was
carried out twice, one that lacks is lost, and `junk.tmp` in a commit is a call that was cut off and kept. Where
parallel agents write to the same file, whoever resolves that writes the whole of it anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
LOOK = 'for log in *.log; do if [ -e "$log" ]; then echo "$log" $(cat "$log"); fi; done'
"""What an agent that runs commands and writes nothing sees: it has to be the files of its checkpoint."""
PERSON = "person"
NOTE = "echo junk > junk.tmp; echo {line} >> {file}; sleep 0.003; rm junk.tmp"


@dataclass(frozen=True)
class Change:
    """What one call does to a file."""

    file: str
    line: str
    """That is added to it."""
    whole: bool = False
    """It is all of the file from now on."""


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
    """First agent of a branch that is a graph of its own → the agents and steps in it."""
    tallies: tuple[str, ...] = ()
    """Steps that leave a line in `tally.log` of `app`."""
    by_hand: tuple[str, tuple[str, ...]] | None = None
    """The repo and the files in which a person resolves the conflicts."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """Question → what a person answers to it."""
    leaves: frozenset[str] = frozenset()
    """Questions at which the person leaves first, and answers from another process later."""
    at_once: int = 1
    """How many model calls may be under way at a time, and be paid again after a kill."""

    def changes(self, repo: str, node: str, turn: int) -> list[Change]:
        """Return what a turn of an agent or step does to a repo, call by call."""
        if node == PERSON:
            there, paths = self.by_hand or ("", ())
            return [Change(path, f"settled-{turn}", whole=True) for path in paths if repo == there]
        if node in self.tallies:
            return [Change("tally.log", "tally")] if repo == "app" else []
        replies = self.script[node][turn - 1] if turn <= len(self.script.get(node, ())) else []
        calls = [call for reply in replies for call in reply.get("tools", ())]
        found = []
        for call in calls:
            args = call["args"]
            if call["name"] == f"{repo}:note":
                found.append(Change(args["file"], args["line"]))
            elif call["name"] == f"{repo}:write-file":
                found.append(Change(args["path"], args["content"].rstrip("\n"), whole=True))
        return found

    def line(self, node: str, within: str) -> tuple[str, ...]:
        """Return the agents and steps that share the way of a node up to the next join.

        Args:
            node: The one that arrives at the join.
            within: First agent of the branch in which that is; empty for the whole graph.
        """
        inside = set(self.branches[within]) if within else set(self.agents)
        found = [line for first, line in self.branches.items() if first != within and node in line]
        return max((line for line in found if inside.issuperset(line)), key=len, default=(node,))

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents and steps that change files, or see them, and the person where there is one."""
        return (*self.script, *self.tallies, *([PERSON] if self.by_hand else []))

    def base(self, repo: str) -> dict[str, str]:
        """Return the files that a session begins with: those of the user's checkout that git does not ignore."""
        laid = {".gitignore": "*.cache\n", "staged.txt": "staged\n", "untracked.txt": "untracked\n"}
        return {**self.repos[repo], **laid, "README.md": "changed\n"}

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
    return _line(repo, f"{agent}.log", line)


def _line(repo: str, file: str, line: str) -> dict[str, Any]:
    return {"name": f"{repo}:note", "args": {"line": line, "file": file}}


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
_LOOKS_AT_BACKEND = {"tools": [{"name": "backend:look", "args": {}}]}
VERDICT = """
import orchestra

@orchestra.condition("verdict")
def verdict(state):
    return ["left", "right"] if state["agent_outputs"]["critic"]["verdict"] == "revise" else "closer"

@orchestra.condition("verdict-on-branches")
def verdict_on_branches(state):
    return ["a-one", "b-one"] if state["agent_outputs"]["critic"]["verdict"] == "revise" else "closer"

@orchestra.condition("verdict-of-lead")
def verdict_of_lead(state):
    return ["api", "model", "page", "docs", "watcher"] if state["agent_outputs"]["lead"] == "revise" else "closer"
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
    tallies=("count",),
    at_once=4,
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
        "b-one": ("b-one", "count", "b-reader"),
    },
    tallies=("count",),
    at_once=3,
)
"""A fan-out of branches of several agents, one with a fan-out inside, and a loop around it."""


def _settles(turn: int) -> list[dict[str, Any]]:
    """Resolve two conflicts in replies of their own, with other work before, between and after."""
    return [
        {"tools": [_note("backend", "lead", f"{turn}.1")]},
        {"tools": [_written("routes.txt", turn)]},
        {"tools": [_note("backend", "lead", f"{turn}.2"), _note("frontend", "lead", f"{turn}.1")]},
        {"tools": [_written("schema.txt", turn), _note("backend", "lead", f"{turn}.3")]},
        {**_says("revise" if turn == 1 else "approve")},
    ]


def _written(path: str, turn: int) -> dict[str, Any]:
    return {"name": "backend:write-file", "args": {"path": path, "content": f"settled-{turn}\n"}}


def _clashes(agent: str, turn: int) -> list[dict[str, Any]]:
    """Change two files that the other one changes too."""
    both = [_line("backend", path, f"{agent}-{turn}") for path in ("routes.txt", "schema.txt")]
    return [{"tools": [_note("backend", agent, f"{turn}.1")]}, {"tools": both}, _says(f"{agent} {turn}")]


def _slow(seconds: float, replies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**reply, "delay": seconds} for reply in replies]


_NOTES = {"note": {"command": NOTE, "args": {"line": {}, "file": {}}}}

MEETING = Scenario(
    name="meeting",
    repos={
        "backend": {"routes.txt": "first\n", "schema.txt": "first\n", "README.md": "backend\n"},
        "frontend": {"page.html": "1\n", "README.md": "frontend\n"},
    },
    pipeline={
        "name": "meeting",
        "providers": SURROUNDINGS["providers"],
        "workspace": {
            "repos": {
                "backend": {"path": "../backend", "copy": ["*.cache"], "setup": SETUP},
                "frontend": {"path": "../frontend"},
            },
            "tools": {
                "backend": {**_NOTES, "look": {"command": LOOK, "args": {}, "writes": False}},
                "frontend": _NOTES,
            },
        },
        "agents": {
            "api": _agent("backend:note"),
            "model": _agent("backend:note"),
            "store": _agent("backend:note", "backend:git-commit"),
            "page": _agent("frontend:note"),
            "docs": _agent("backend:note", "frontend:note"),
            "watcher": _agent("backend:look"),
            "lead": _agent("backend:note", "backend:write-file", "frontend:note"),
            "closer": _agent("backend:note", "frontend:note"),
        },
        "conditions": "conditions",
        "graph": [
            {"from": "START", "to": ["api", "model", "page", "docs", "watcher"]},
            {"from": "model", "to": "store"},
            {"from": ["page", "api", "store", "docs", "watcher"], "to": "lead"},
            {
                "from": "lead",
                "to": ["api", "model", "page", "docs", "watcher", "closer"],
                "condition": "verdict-of-lead",
                "max_loops": 1,
            },
            {"from": "closer", "to": "END"},
        ],
    },
    script={
        "api": [_clashes("api", turn) for turn in (1, 2)],
        "model": [_clashes("model", turn) for turn in (1, 2)],
        "store": [_turn("store", turn, repos=("backend",)) for turn in (1, 2)],
        "page": [_slow(0.02, [*_turn("page", turn, repos=("frontend",))[:2], _says("page")]) for turn in (1, 2)],
        "docs": [
            [{"tools": [_note("backend", "docs", f"{turn}.1"), _note("frontend", "docs", f"{turn}.1")]}, _says("docs")]
            for turn in (1, 2)
        ],
        "watcher": [_slow(0.05, [_LOOKS_AT_BACKEND, _LOOKS_AT_BACKEND, _says("seen")]) for _ in (1, 2)],
        "lead": [_settles(turn) for turn in (1, 2)],
        "closer": [[*_turn("closer", 1, repos=("backend", "frontend"))[:2], _says("closed")]],
    },
    files={"conditions/verdict.py": VERDICT},
    branches={"model": ("model", "store")},
    at_once=5,
)
"""Parallel writers of uneven length in two repos: two conflict in two files, others merge cleanly behind that."""

_GRAPH = [{**edge, "on_conflict": "human"} if edge["to"] == "lead" else edge for edge in MEETING.pipeline["graph"]]

PERSON_RESOLVES = replace(
    MEETING,
    name="person",
    pipeline={**MEETING.pipeline, "name": "person", "graph": _GRAPH},
    script={
        **MEETING.script,
        "lead": [
            [{"tools": [_note("backend", "lead", f"{turn}.1"), _note("frontend", "lead", f"{turn}.1")]}, _says(text)]
            for turn, text in ((1, "revise"), (2, "approve"))
        ],
    },
    by_hand=("backend", ("routes.txt", "schema.txt")),
)
"""The same, but that a person resolves the conflicts: by staging files the first time, by a commit the second."""

_APART = ("api", "model", "store", "page", "docs")

ENDING = replace(
    MEETING,
    name="ending",
    pipeline={
        **{key: value for key, value in MEETING.pipeline.items() if key != "conditions"},
        "name": "ending",
        "agents": {name: MEETING.pipeline["agents"][name] for name in _APART},
        "graph": [
            {"from": "START", "to": ["api", "model", "page", "docs"]},
            {"from": "model", "to": "store"},
            *({"from": name, "to": "END"} for name in ("api", "store", "page", "docs")),
        ],
    },
    script={
        **{name: MEETING.script[name][:1] for name in _APART},
        "model": [_brief("model", 1, "backend")],
    },
)
"""Parallel writers that never meet, and are merged at the session's end."""


def _talker(*tools: str) -> dict[str, Any]:
    return _agent(*tools, mode="interactive")


def _speaks(agent: str, *numbers: str, repos: tuple[str, ...]) -> list[dict[str, Any]]:
    """Change files before each word that is for the person."""
    said = [
        [{"tools": [_note(repo, agent, number) for repo in repos]}, _says(f"{agent} {number}")] for number in numbers
    ]
    return [reply for replies in said for reply in replies]


CHAT = Scenario(
    name="chat",
    repos=REPOS,
    pipeline={
        "name": "chat",
        **SURROUNDINGS,
        "agents": {
            "planner": _agent(*WRITES_APP),
            "asker": _talker(*WRITES_BOTH),
            "twin": _talker("web:note"),
            "judge": _talker(*WRITES_APP),
            "closer": _agent(*WRITES_BOTH),
        },
        "conditions": "conditions",
        "graph": [
            {"from": "START", "to": "planner"},
            {"from": "planner", "to": ["asker", "twin"]},
            {"from": ["asker", "twin"], "to": "judge"},
            {"from": "judge", "to": ["asker", "twin", "closer"], "condition": "judgement", "max_loops": 1},
            {"from": "closer", "to": "END"},
        ],
    },
    script={
        "planner": [_brief("planner", 1)],
        "asker": [
            _speaks("asker", "1.1", "1.2", "1.3", repos=("app", "web")),
            _speaks("asker", "2.1", repos=("web",)),
        ],
        "twin": [_speaks("twin", "1.1", "1.2", repos=("web",)), _speaks("twin", "2.1", repos=("web",))],
        "judge": [_speaks("judge", "1.1", repos=("app",)), _speaks("judge", "2.1", repos=("app",))],
        "closer": [_turn("closer", 1, repos=("app", "web"))],
    },
    files={
        "conditions/judgement.py": """
import orchestra

@orchestra.condition("judgement")
def judgement(state):
    return ["asker", "twin"] if state["agent_outputs"]["judge"]["decision"] == "reject" else "closer"
"""
    },
    answers={
        "asker.1.1.0": "go on",
        "asker.1.1.1": "/undo",
        "asker.1.1.2": "go on then",
        "asker.1.1.3": "and the rest",
        "asker.1.1.4": "/approve",
        "asker.2.1.0": "/done",
        "twin.1.1.0": "what else?",
        "twin.1.1.1": "/approve fine",
        "twin.2.1.0": "/approve",
        "judge.1.1.0": "/reject once more",
        "judge.2.1.0": "/approve",
    },
    leaves=frozenset({"asker.1.1.3", "judge.1.1.0"}),
    at_once=2,
)
"""Two agents talk with a person at the same time, and a third one whose decision sends both back."""

SCENARIOS = {scenario.name: scenario for scenario in (ROUND, BRANCHES, MEETING, PERSON_RESOLVES, ENDING, CHAT)}
