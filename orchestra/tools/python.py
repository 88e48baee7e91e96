"""Python tools: a function of the user becomes a tool, its signature and docstring the schema."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

from orchestra.errors import Location, PipelineError
from orchestra.tools.base import (
    DEFAULT_TIMEOUT,
    RepoContext,
    Tool,
    ToolResult,
    failed,
    in_daemon,
    succeeded,
    worktree_of,
)
from orchestra.tools.output import utf8

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from orchestra.tools.base import ToolContext

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_LARGEST_VALUE = 1_000_000
"""Characters of JSON that one result may put into the session's state."""


@dataclass(frozen=True, slots=True)
class PythonTool:
    """A registered function, before the repositories of a pipeline are known."""

    name: str
    repo: str | None
    function: Callable[..., Any]
    description: str
    parameters: Mapping[str, Any]
    repo_parameter: str | None
    """The parameter that takes the `RepoContext`."""
    writes: bool
    timeout: float | None
    location: Location

    def bind(self, repos: Sequence[str]) -> Tool:
        """Make the tool for the repositories of a pipeline."""
        chooses = self.repo_parameter is not None and self.repo is None and len(repos) > 1
        fixed = self.repo or (repos[0] if len(repos) == 1 else None)

        async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
            values = dict(args)
            if self.repo_parameter is not None:
                chosen = values.pop("repo") if chooses else fixed
                here = await context.repo(str(chosen))
                worktree_of(here)  # so that user code may rely on its path
                values[self.repo_parameter] = here
            return _to_result(await _call(self.function, values, self.timeout or DEFAULT_TIMEOUT))

        return Tool(
            name=self.name,
            description=self.description,
            parameters=_with_repo(self.parameters, repos) if chooses else self.parameters,
            run=run,
            writes=self.writes,
            needs_worktree=self.repo is not None or self.repo_parameter is not None,
            repo=self.repo,
            kind="python",
            timeout=None,
        )


def describe(
    function: Callable[..., Any],
    name: str,
    repo: str | None,
    *,
    writes: bool,
    description: str | None,
    timeout: float | None,
) -> PythonTool:
    """Read a function's signature and docstring."""
    location = _location(function)
    text, about = _docstring(inspect.getdoc(function) or "")
    parameters, repo_parameter = _parameters(function, about, location)
    return PythonTool(
        name=name if repo is None else f"{repo}:{name}",
        repo=repo,
        function=function,
        description=description or text or f"The tool {name}.",
        parameters=parameters,
        repo_parameter=repo_parameter,
        writes=writes,
        timeout=timeout,
        location=location,
    )


def _parameters(
    function: Callable[..., Any], about: Mapping[str, str], location: Location
) -> tuple[dict[str, Any], str | None]:
    try:
        # The name is there also for functions that import it only for type checkers.
        hints = typing.get_type_hints(function, localns={"RepoContext": RepoContext}, include_extras=True)
    except (NameError, TypeError) as error:
        raise _wrong(function, f"an annotation can't be read: {error}", location) from None
    properties: dict[str, Any] = {}
    required: list[str] = []
    repo_parameter: str | None = None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise _wrong(function, f"the parameter {name!r} can't be given by name; use plain parameters", location)
        if _is_context(hints.get(name)):
            repo_parameter = name
            continue
        schema = _schema(hints.get(name, Any), function, name, location)
        if name in about:
            schema["description"] = about[name]
        if parameter.default is parameter.empty:
            required.append(name)
        elif _is_json(parameter.default):
            schema["default"] = parameter.default
        properties[name] = schema
    if repo_parameter and "repo" in properties:
        raise _wrong(
            function, "a parameter named 'repo' beside a RepoContext is taken by Orchestra; rename it", location
        )
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return schema, repo_parameter


def _is_context(hint: Any) -> bool:
    return hint is RepoContext or RepoContext in typing.get_args(hint)


def _schema(hint: Any, function: Callable[..., Any], name: str, location: Location) -> dict[str, Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if isinstance(hint, type) and hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is None and hint not in {list, dict}:
        raise _unknown_type(function, name, location)
    if origin is typing.Annotated:
        schema = _schema(inner[0], function, name, location)
        text = next((extra for extra in inner[1:] if isinstance(extra, str)), None)
        return schema | ({"description": text} if text else {})
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in {Union, types.UnionType}:
        return {"anyOf": [_schema(choice, function, name, location) for choice in inner]}
    element = _schema(inner[-1], function, name, location) if inner else {}
    kinds = {list: {"type": "array", "items": element}, dict: {"type": "object", "additionalProperties": element}}
    if (origin or hint) not in kinds:
        raise _unknown_type(function, name, location)
    return kinds[origin or hint]


def _unknown_type(function: Callable[..., Any], name: str, location: Location) -> PipelineError:
    wanted = "use str, int, float, bool, list, dict, Literal or Optional"
    return _wrong(function, f"the type of the parameter {name!r} can't be told to a model; {wanted}", location)


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """Take the description and the parameters' descriptions from a Google-style docstring."""
    head, _, rest = text.partition("\nArgs:\n")
    paragraph = head.strip().split("\n\n", maxsplit=1)[0].replace("\n", " ")
    about: dict[str, str] = {}
    current: str | None = None
    for line in rest.split("\n"):
        if line and not line.startswith(" "):
            break  # the next section
        found = re.match(r" {2,8}\*{0,2}(\w+)(?: \([^)]*\))?: (.*)", line)
        if found and (current is None or not line.startswith("        ")):
            current = found[1]
            about[current] = found[2].strip()
        elif current and line.strip():
            about[current] += f" {line.strip()}"
    return paragraph, about


def _with_repo(parameters: Mapping[str, Any], repos: Sequence[str]) -> dict[str, Any]:
    choice = {"enum": list(repos), "description": "The repository."}
    return {
        **parameters,
        "properties": {"repo": choice, **parameters["properties"]},
        "required": ["repo", *parameters["required"]],
    }


async def _call(function: Callable[..., Any], values: dict[str, Any], seconds: float) -> Any:
    """Call a function, async or in a thread of its own, and give up after its time."""
    import asyncio

    if inspect.iscoroutinefunction(function):
        task: asyncio.Future[Any] = asyncio.ensure_future(_guarded(function(**values)))
    else:
        task = in_daemon(lambda: function(**values))
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
        if not done:
            late = "it was cancelled" if inspect.iscoroutinefunction(function) else "its thread may still be running"
            return failed(f"the tool did not end within {seconds:g} s; {late}")
        if task.cancelled():
            return failed("the tool was cancelled from within")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=2)  # time to clean up; a tool that ignores it is left alone


async def _guarded(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except SystemExit as error:  # asyncio would end the whole process with it
        raise RuntimeError(f"SystemExit: {error}") from None


def _to_result(value: Any) -> ToolResult:
    if isinstance(value, ToolResult):
        return value
    if isinstance(value, str):
        return succeeded(value, utf8(value) if len(value) <= _LARGEST_VALUE else None)
    try:
        text = utf8(json.dumps(value, ensure_ascii=False, allow_nan=False))
        plain = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return succeeded(str(value))
    if len(text) > _LARGEST_VALUE:
        return succeeded(text)
    return ToolResult(ok=True, content="done" if value is None else text, value=plain)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _location(function: Callable[..., Any]) -> Location:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return Location(Path("<unknown>"), 1, 1)
    return Location(Path(code.co_filename), code.co_firstlineno, 1)


def _wrong(function: Callable[..., Any], reason: str, location: Location) -> PipelineError:
    name = getattr(function, "__name__", "the function")
    return PipelineError(f"the Python tool {name!r} can't be used: {reason}", code="bad-tool", location=location)
