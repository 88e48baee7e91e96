from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

from orchestra.errors import PipelineError
from orchestra.tools.output import HeadTail, cap, fair_shares, redact
from orchestra.tools.registry import RepoContext, ShellToolSpec, ToolRegistry, tool_registry
from orchestra.tools.wire import wire_name, wire_names
from tests.tools_support import Workspace, make_repo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BUILT_IN = {
    "read-file": ({"path"}, {"start", "end"}, False),
    "list-files": (set(), {"glob", "limit"}, False),
    "search-code": ({"pattern"}, {"glob", "context", "limit"}, False),
    "write-file": ({"path", "content"}, set(), True),
    "edit-file": ({"path", "old", "new"}, {"all"}, True),
    "delete-file": ({"path"}, set(), True),
    "move-file": ({"path", "to"}, set(), True),
    "git-diff": (set(), {"base", "path"}, False),
    "git-log": (set(), {"limit", "path"}, False),
    "git-show": ({"rev"}, {"path"}, False),
    "git-commit": ({"message"}, set(), False),
    "shell": ({"command"}, {"timeout"}, True),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "backend", {"a.py": "x\n"})


def bound(registry: ToolRegistry, *roots: Path) -> Workspace:
    workspace = Workspace(*roots)
    workspace.tools = registry.toolset(workspace.repos)
    return workspace


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tools_have_the_arguments_of_the_design(name: str) -> None:
    required, optional, writes = BUILT_IN[name]
    tool = tool_registry.toolset(["backend"]).get(name)
    assert tool.name == f"backend:{name}"
    assert set(tool.parameters["required"]) == required
    assert set(tool.parameters["properties"]) == required | optional
    assert tool.parameters["additionalProperties"] is False
    assert tool.writes is writes
    assert tool.needs_worktree is writes
    assert all(part.get("description") for part in tool.parameters["properties"].values())


def test_names_are_made_for_each_repository() -> None:
    names = tool_registry.toolset(["backend", "frontend"]).names()
    assert {f"{repo}:{tool}" for repo in ("backend", "frontend") for tool in BUILT_IN} < set(names)
    assert "local:get-git-diff" in names


@pytest.mark.parametrize(
    ("repos", "name", "said"),
    [
        (["backend"], "read-fil", "did you mean 'read-file'"),
        (["backend"], "backend:red-file", "did you mean 'backend:read-file'"),
        (["backend"], "bakend:read-file", "did you mean 'backend'?"),
        (["backend", "frontend"], "read-file", "write backend:read-file or frontend:read-file"),
        (["backend"], "backend:zzzz", "available: backend:delete-file"),
        (["backend"], "local:get-diff", "did you mean 'local:get-git-diff'?"),
        (["backend"], "x:read-file", "write backend:read-file"),
    ],
)
def test_an_unknown_tool_gets_a_hint(repos: list[str], name: str, said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        tool_registry.toolset(repos).get(name)
    assert caught.value.code == "unknown-tool"
    assert said in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "argument 'path' is missing"),
        ({"pth": "a"}, "there is no argument 'pth'; did you mean 'path'?"),
        ({"path": ["a"]}, "'path' must be a string, not [\"a\"]"),
        ({"path": None}, "'path' must be a string, not null"),
        ({"path": "a.py", "start": "one"}, "'start' must be a whole number, not \"one\""),
        ({"path": "a.py", "start": 1.5}, "'start' must be a whole number, not 1.5"),
        ({"path": "a.py", "start": True}, "'start' must be a whole number, not true"),
        ({"path": "a.py", "zzz": 1}, "there is no argument 'zzz'"),
        ("a.py", "the arguments must be an object"),
        (None, "the arguments must be an object, not null"),
    ],
)
async def test_wrong_arguments_are_explained(root: Path, args: Any, said: str) -> None:
    workspace = Workspace(root)
    result = await workspace.tools.get("read-file").invoke(args, workspace)
    assert not result.ok
    assert said in result.content
    assert "Arguments: path (a string), start (a whole number, optional)" in result.content
    assert result.value == {"error": result.content}


@pytest.mark.parametrize("start", [1, "1", 1.0, None])
async def test_arguments_whose_meaning_is_clear_are_taken(root: Path, start: Any) -> None:
    assert "     1\tx" in await Workspace(root).text("read-file", path="a.py", start=start)


async def test_a_function_becomes_a_tool(root: Path) -> None:
    registry = ToolRegistry(tool_registry)

    @registry.register("count", repo="backend", writes=True)
    def count(
        here: RepoContext,
        word: str,
        kinds: list[Literal["a", "b"]],
        *,
        least: int = 2,
        note: str | None = None,
        table: Annotated[dict[str, float], "A table."] = {},  # noqa: B006 - read only
    ) -> dict[str, Any]:
        """Count words
        in a repository.

        More for people.

        Args:
            here: Not shown.
            word (str): What to count,
                exactly.
            least: At least
                this many.

        Returns:
            The count.
        """
        return {"repo": here.name, "word": word, "kinds": kinds, "least": least, "note": note, "table": table}

    workspace = bound(registry, root)
    tool = workspace.tools.get("count")
    assert (tool.name, tool.kind, tool.writes, tool.needs_worktree) == ("backend:count", "python", True, True)
    assert tool.description == "Count words in a repository."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "word": {"type": "string", "description": "What to count, exactly."},
            "kinds": {"type": "array", "items": {"enum": ["a", "b"]}},
            "least": {"type": "integer", "default": 2, "description": "At least this many."},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "table": {
                "type": "object",
                "additionalProperties": {"type": "number"},
                "description": "A table.",
                "default": {},
            },
        },
        "required": ["word", "kinds"],
        "additionalProperties": False,
    }
    result = await workspace.call("count", word="x", kinds='["a"]', least="3", table={"y": 1})
    assert result.value == {
        "repo": "backend",
        "word": "x",
        "kinds": ["a"],
        "least": 3,
        "note": None,
        "table": {"y": 1},
    }
    message = await workspace.refusal("count", word="x", kinds=["c"])
    assert '\'kinds\'[0] must be one of "a", "b"' in message


async def test_a_tool_across_repositories_gets_a_repo_argument(root: Path, tmp_path: Path) -> None:
    registry = ToolRegistry(tool_registry)

    @registry.register("where-am-i")
    async def where(repo_context: RepoContext) -> str:
        await asyncio.sleep(0)
        return repo_context.name

    one = bound(registry, root)
    assert one.tools.get("where-am-i").parameters["properties"] == {}
    assert await one.text("where-am-i") == "backend"
    two = bound(registry, root, make_repo(tmp_path / "frontend", {"a": "1"}))
    assert two.tools.get("where-am-i").parameters["required"] == ["repo"]
    assert await two.text("where-am-i", repo="frontend") == "frontend"
    assert 'one of "backend", "frontend"' in await two.refusal("where-am-i", repo="x")


def fails_with(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such row"),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(),
        asyncio.CancelledError(),
        RecursionError("deep"),
        TimeoutError("remote"),
    ],
)
async def test_whatever_a_tool_raises_is_a_message(root: Path, error: BaseException) -> None:
    registry = ToolRegistry(tool_registry)
    registry.register("fails")(fails_with(error))
    message = await bound(registry, root).refusal("fails")
    assert type(error).__name__ in message
    assert "Traceback" not in message


@pytest.mark.parametrize("error", [ValueError("no such row"), SystemExit(3), asyncio.CancelledError()])
async def test_whatever_an_async_tool_raises_is_a_message(root: Path, error: BaseException) -> None:
    registry = ToolRegistry(tool_registry)

    @registry.register("fails")
    async def fails() -> None:
        await asyncio.sleep(0)
        raise error

    await bound(registry, root).refusal("fails")


async def test_secrets_of_the_environment_do_not_reach_the_message(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-canary-123456")
    registry = ToolRegistry(tool_registry)
    registry.register("fails")(fails_with(ValueError("401 for Bearer sk-canary-123456")))
    assert "401 for Bearer [SOME_API_KEY]" in await bound(registry, root).refusal("fails")
    pem = {"SIGNING_KEY": 'BEGIN\n"canary"\nEND'}
    assert redact(f"{json.dumps(pem)} {pem['SIGNING_KEY']}", pem) == '{"SIGNING_KEY": "[SIGNING_KEY]"} [SIGNING_KEY]'
    assert redact("x canary-123456", {"HOME": "canary-123456"}).endswith("123456"), "the control"


def nested(levels: int) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [600, 5_000])
@pytest.mark.parametrize("as_text", [False, True])
async def test_arguments_nested_too_deep_are_explained(root: Path, levels: int, as_text: bool) -> None:
    registry = ToolRegistry(tool_registry)

    @registry.register("takes")
    def takes(value: list[Any]) -> str:
        return str(len(value))

    value = "[" * levels + "]" * levels if as_text else nested(levels)
    said = "'value' must be a list" if as_text else "nested more than 100 levels"
    assert said in await bound(registry, root).refusal("takes", value=value)
    assert (await bound(registry, root).call("takes", value=nested(99))).content == "1"


async def test_a_schema_that_can_not_be_read_is_a_message(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(root)
    fail = fails_with(RecursionError("too deep"))
    monkeypatch.setattr("orchestra.tools.base.read_arguments", lambda *_: fail())
    assert "RecursionError" in await workspace.refusal("read-file", path="a.py")


def test_helpers_beside_tools_are_not_seen_by_other_pipelines(tmp_path: Path) -> None:
    declares = "from orchestra.tools.registry import tool_registry\n\n@tool_registry.register({!r})\ndef {}(): 'x'\n"
    (tmp_path / "_leaky_helper.py").write_text(declares.format("leaked", "leaked"))
    (tmp_path / "leaky_module.py").write_text(declares.format("whole", "whole"))
    (tmp_path / ".#own.py").write_text("raise ValueError\n")
    own = declares.format("own", "own") + "import _leaky_helper, leaky_module\n"
    (tmp_path / "own.py").write_text(own)
    registry = ToolRegistry(tool_registry)
    registry.load_directory(tmp_path)
    assert {"own", "whole"} < set(registry.toolset(["r"]).names())
    assert not {"own", "whole", "leaked"} & set(tool_registry.toolset(["r"]).names())
    assert "leaked" not in registry.toolset(["r"]).names()


async def test_a_tool_that_takes_too_long_is_given_up(root: Path) -> None:
    registry = ToolRegistry(tool_registry)
    over = threading.Event()
    registry.register("slow", timeout=0.1)(over.wait)

    @registry.register("slow-async", timeout=0.1)
    async def slow() -> None:
        await asyncio.Event().wait()

    workspace = bound(registry, root)
    assert "did not end within 0.1 s; its thread may still be running" in await workspace.refusal("slow")
    assert "did not end within 0.1 s; it was cancelled" in await workspace.refusal("slow-async")
    over.set()


@pytest.mark.parametrize(
    ("value", "content", "kept"),
    [
        (None, "done", None),
        ("text", "text", "text"),
        ({"a": (1, 2)}, '{"a": [1, 2]}', {"a": [1, 2]}),
        (object, "<class 'object'>", "<class 'object'>"),
        (float("nan"), "nan", "nan"),
        ("a\ud800", "a?", "a?"),
    ],
)
async def test_results_are_json_or_text(root: Path, value: Any, content: str, kept: Any) -> None:
    registry = ToolRegistry(tool_registry)
    registry.register("give")(lambda: value)
    result = await bound(registry, root).call("give")
    assert result.ok
    assert result.content == content
    assert result.value == kept


def test_a_function_that_cannot_be_a_tool_is_refused_at_its_line() -> None:
    def takes_anything(*args: int) -> None: ...
    def takes_bytes(data: bytes) -> None: ...

    for function, said in ((takes_anything, "can't be given by name"), (takes_bytes, "can't be told to a model")):
        with pytest.raises(PipelineError, match=said) as caught:
            ToolRegistry().register("x")(function)
        assert caught.value.location is not None
        assert caught.value.location.path.name == "test_tools.py"
    with pytest.raises(PipelineError, match="can't be the name") as caught:
        ToolRegistry().register("Count_Words")(lambda: None)
    assert caught.value.hint == "for example 'count-words'"


def test_a_directory_of_tools_belongs_to_the_registry_that_loads_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from orchestra.tools.registry import tool_registry\n"
        "if TYPE_CHECKING:\n    from orchestra.tools.registry import RepoContext\n"
        "@tool_registry.register('hello')\ndef hello(repo_context: RepoContext, name: str = 'you') -> str: ...\n"
    )
    for _ in range(2):
        registry = ToolRegistry(tool_registry)
        registry.load_directory(tmp_path)
        registry.load_directory(tmp_path)
        assert "hello" in registry.toolset(["backend"]).names()
    assert "hello" not in tool_registry.toolset(["backend"]).names()


def test_two_tools_with_one_name_are_an_error(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(
            "from orchestra.tools.registry import tool_registry\n@tool_registry.register('same')\ndef f(): ...\n"
        )
    with pytest.raises(PipelineError, match=r"'same' is already declared in .*one\.py:2"):
        ToolRegistry(tool_registry).load_directory(tmp_path)
    with pytest.raises(PipelineError, match="'r:shell' is already built in"):
        tool_registry.toolset(["r"], [ShellToolSpec(repo="r", name="shell", command="x")])
    registry = ToolRegistry(tool_registry)
    registry.register("read-file", repo="r")(lambda: None)
    with pytest.raises(PipelineError, match="'r:read-file' is already built in"):
        registry.toolset(["r"])


def test_wire_names_are_accepted_by_providers_and_come_back() -> None:
    names = [
        "backend:read-file",
        "shell",
        "a" * 100,
        f"{'a' * 100}b",
        "a:b",
        "a__b",
        "a--b",
        "A:b",
        "été:x",
        "a:b:c",
        "_",
        "",
    ]
    back = wire_names(names)
    assert len(back) == len(names)
    assert wire_name("backend:read-file") == "backend__read-file"
    for wire, name in back.items():
        assert wire == wire_name(name)
        assert len(wire) <= 64
        assert wire.replace("_", "").replace("-", "").isalnum()
        assert wire.isascii()


def test_long_output_keeps_head_and_tail_and_names_the_cut() -> None:
    text = cap("a" * 20_000 + "b" * 20_000)
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert "[… 10,000 characters cut; narrow the request …]" in text
    keeper = HeadTail(10)
    for char in "0123456789":
        keeper.feed(char)
    assert keeper.text() == "0123456789"


def test_shares_give_small_parts_all_they_need() -> None:
    assert fair_shares([10, 1_000_000, 20, 500], 630) == [10, 300, 20, 300]
    assert fair_shares([], 10) == []
    assert sum(fair_shares([5_000] * 7, 1_000)) <= 1_000


def test_the_registry_loads_nothing_heavy() -> None:
    code = (
        "import sys, orchestra.tools.registry; "
        "heavy = {'asyncio', 'langgraph', 'langchain', 'langchain_core', 'jinja2', 'pydantic', 'rich', 'yaml'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
