"""All tools by name: the built-in ones, those of the pipeline file, and Python functions of the user."""

from __future__ import annotations

import contextlib
import contextvars
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from orchestra.errors import PipelineError, Problem, did_you_mean, near_names
from orchestra.tools.base import GitOutput, GitRunner, RepoContext, Tool, ToolContext, ToolFailureError, ToolResult
from orchestra.tools.builtins import BUILTINS
from orchestra.tools.python import PythonTool, describe
from orchestra.tools.shell import ShellToolSpec, check_shell_tool, shell_tool
from orchestra.tools.wire import wire_name, wire_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.errors import Location

__all__ = [
    "GitOutput",
    "GitRunner",
    "RepoContext",
    "ShellToolSpec",
    "Tool",
    "ToolContext",
    "ToolFailureError",
    "ToolRegistry",
    "ToolResult",
    "ToolSet",
    "check_shell_tool",
    "tool_registry",
    "wire_name",
    "wire_names",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_MARK = "__orchestra_tools__"
Function = TypeVar("Function", bound="Callable[..., Any]")

_loading: contextvars.ContextVar[Path | None] = contextvars.ContextVar("orchestra_tools_loading", default=None)
"""The `tools/` directory that is being imported: functions of its files belong to the registry that loads it."""


class ToolSet:
    """The tools of one pipeline, by name."""

    def __init__(self, tools: Iterable[Tool], repos: Sequence[str]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._repos = tuple(repos)

    def get(self, name: str) -> Tool:
        """Return a tool; with one repository its bare name is enough.

        Raises:
            PipelineError: `unknown-tool`, with near names.
        """
        tool = self._tools.get(name)
        if tool is None and len(self._repos) == 1:
            tool = self._tools.get(f"{self._repos[0]}:{name}")
        if tool is None:
            message, hint = self._explain(name)
            raise PipelineError(message, code="unknown-tool", hint=hint)
        return tool

    def names(self) -> list[str]:
        """Return all full names, sorted."""
        return sorted(self._tools)

    def _explain(self, name: str) -> tuple[str, str]:
        message = f"there is no tool {name!r}"
        prefix, colon, rest = name.partition(":")
        if not colon:
            full = [f"{repo}:{name}" for repo in self._repos if f"{repo}:{name}" in self._tools]
            if full:
                return f"{message}: with several repositories a tool needs its repository", f"write {' or '.join(full)}"
            short = {known.removeprefix(f"{self._repos[0]}:") for known in self._tools} if len(self._repos) == 1 else ()
            return message, did_you_mean(name, short) or did_you_mean(name, self._tools) or self._available()
        prefixes = sorted({known.partition(":")[0] for known in self._tools if ":" in known})
        if prefix not in prefixes:
            same = sorted(known for known in self._tools if known.endswith(f":{rest}"))
            hint = did_you_mean(prefix, prefixes) or (f"write {' or '.join(same)}" if same else None)
            return f"{message}: no repository is named {prefix!r}", hint or f"known are {', '.join(prefixes)}"
        siblings = [known.partition(":")[2] for known in self._tools if known.startswith(f"{prefix}:")]
        return message, self._near(prefix, rest, siblings) or self._available(f"{prefix}:")

    def _near(self, prefix: str, rest: str, siblings: list[str]) -> str | None:
        near = near_names(rest, siblings)
        return f"did you mean {' or '.join(repr(f'{prefix}:{each}') for each in near)}?" if near else None

    def _available(self, prefix: str = "") -> str:
        return "available: " + ", ".join(name for name in self.names() if name.startswith(prefix))


class ToolRegistry:
    """Where tools are declared.

    Args:
        parent: A registry whose tools are seen here, too; so a pipeline's own tools stay apart from another's.
    """

    def __init__(self, parent: ToolRegistry | None = None) -> None:
        self._parent = parent
        self._python: dict[str, PythonTool] = {}
        self._per_repo: list[Callable[[str], Tool]] = []
        self._across: dict[str, Tool] = {}

    def register(
        self,
        name: str,
        repo: str | None = None,
        *,
        writes: bool = False,
        description: str | None = None,
        timeout: float | None = None,
    ) -> Callable[[Function], Function]:
        """Make a function a tool: `@tool_registry.register("count-lines")`.

        Args:
            name: `[a-z0-9][a-z0-9-]*`; without `repo` it may hold one colon.
            repo: The repository it belongs to; its name is then `repo:name`.
            writes: Whether it may change files of a worktree.
            description: What the model reads; the docstring's first paragraph by default.
            timeout: Seconds after which a call is given up; 600 by default.
        """

        def decorate(function: Function) -> Function:
            tool = describe(function, name, repo, writes=writes, description=description, timeout=timeout)
            _check_name(tool)
            with contextlib.suppress(AttributeError):  # objects that take no attributes
                setattr(function, _MARK, (*getattr(function, _MARK, ()), tool))
            directory = _loading.get()
            # Helpers beside the tools, too: what a pipeline brings must not be seen by another one.
            if directory is None or not tool.location.path.is_relative_to(directory):
                self._add(tool)
            return function

        return decorate

    def register_builtin(self, tool: Callable[[str], Tool] | Tool) -> None:
        """Add a built-in tool: a function that makes it for a repository, or a tool across repositories.

        A tool across repositories that declares an argument `repo` gets the names of the pipeline's there.
        """
        if isinstance(tool, Tool):
            self._across[tool.name] = tool
        else:
            self._per_repo.append(tool)

    def load_directory(self, path: Path) -> None:
        """Import every Python file of a `tools/` directory and take the tools it declares into this registry.

        Files whose names begin with `_` or `.` are left out: helpers, and what editors leave behind. A tool that a
        helper declares counts where one of the other files imports it by name.
        """
        from orchestra.imports import import_file

        directory = path.absolute()
        for file in sorted(directory.glob("*.py")):
            if file.name.startswith(("_", ".")):
                continue
            token = _loading.set(directory)
            try:
                module = import_file(file)
            finally:
                _loading.reset(token)
            for value in list(vars(module).values()):
                for tool in getattr(value, _MARK, ()) if callable(value) else ():
                    self._add(tool)

    def toolset(self, repos: Sequence[str], shell_tools: Sequence[ShellToolSpec] = ()) -> ToolSet:
        """Make the tools of a pipeline.

        Raises:
            PipelineError: A shell tool is wrong, or two tools have one name.
        """
        problems: list[Problem] = []
        tools: dict[str, Tool] = {}
        for tool in self.tools(repos):
            if tool.name in tools and tool.kind == "python" and tools[tool.name].kind == "builtin":
                text = f"tool {tool.name!r} is already built in"
                problems.append(Problem("duplicate-tool", text, self._place(tool.name), "choose another name"))
            tools[tool.name] = tool
        for spec in shell_tools:
            name = f"{spec.repo}:{spec.name}"
            problems += [Problem("bad-tool", f"tool {name!r}: {text}") for text in check_shell_tool(spec)]
            if name in tools:
                kind = "built in" if tools[name].kind == "builtin" else f"a {tools[name].kind} tool"
                hint = "choose another name"
                problems.append(Problem("duplicate-tool", f"tool {name!r} is already {kind}", hint=hint))
            elif not problems:
                tools[name] = shell_tool(spec)
        if problems:
            raise PipelineError.of(problems)
        return ToolSet(tools.values(), repos)

    def tools(self, repos: Sequence[str]) -> Iterator[Tool]:
        """Make all declared tools for the repositories of a pipeline, the parent's first."""
        if self._parent is not None:
            yield from self._parent.tools(repos)
        for make in self._per_repo:
            yield from (make(repo) for repo in repos)
        for tool in self._across.values():
            yield _for_repos(tool, repos)
        for python in self._python.values():
            if python.repo is None or python.repo in repos:
                yield python.bind(repos)

    def find(self, name: str) -> PythonTool | Tool | None:
        """Return what is declared under a name, apart from the tools made for each repository."""
        return self._across.get(name) or self._python.get(name) or (self._parent.find(name) if self._parent else None)

    def _place(self, name: str) -> Location | None:
        found = self.find(name)
        return found.location if isinstance(found, PythonTool) else None

    def _add(self, tool: PythonTool) -> None:
        earlier = self.find(tool.name)
        # The same file may be imported again, by an editor's reload or in a second session of this process.
        if earlier is not None and not (
            isinstance(earlier, PythonTool) and earlier.location.path == tool.location.path
        ):
            where = f"declared in {earlier.location}" if isinstance(earlier, PythonTool) else "built in"
            raise PipelineError(
                f"tool {tool.name!r} is already {where}",
                code="duplicate-tool",
                hint="give one of them another name",
                location=tool.location,
            )
        self._python[tool.name] = tool


def _check_name(tool: PythonTool) -> None:
    parts = tool.name.split(":")
    if len(parts) <= 2 and all(_NAME.fullmatch(part) for part in parts):  # noqa: PLR2004 - namespace and name
        return
    better = ":".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") or "tool" for part in parts[:2])
    raise PipelineError(
        f"{tool.name!r} can't be the name of a tool: lower-case letters, digits and '-', with at most one ':'",
        code="bad-name",
        hint=f"for example {better!r}",
        location=tool.location,
    )


def _for_repos(tool: Tool, repos: Sequence[str]) -> Tool:
    properties: Mapping[str, Any] = tool.parameters["properties"]
    if "repo" not in properties:
        return tool
    required = list(tool.parameters["required"])
    if len(repos) > 1:
        required.insert(0, "repo")
    choice = {**properties["repo"], "type": "string", "enum": list(repos)}
    parameters = {**tool.parameters, "properties": {**properties, "repo": choice}, "required": required}
    return replace(tool, parameters=parameters)


tool_registry = ToolRegistry()
"""The registry of this process."""
for _builtin in BUILTINS:
    tool_registry.register_builtin(_builtin)
