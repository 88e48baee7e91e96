"""Shell tools: commands of the pipeline file whose `{arg}` placeholders take quoted values, never spliced text."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.errors import did_you_mean
from orchestra.tools.base import DEFAULT_TIMEOUT, Tool, ToolFailureError, ToolResult, worktree_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.tools.base import ToolContext

_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
# `${name}` is the shell's own; `{{name}}` stands for `{name}` as text.
_PLACEHOLDER = re.compile(rf"\{{\{{({_NAME})\}}\}}|(?<!\$)\{{({_NAME})\}}")
_TYPES = {"string", "integer", "number", "boolean"}
_ARGUMENT_KEYS = {"default", "description", "type", "enum"}


@dataclass(frozen=True, slots=True)
class ShellToolSpec:
    """A shell tool as a pipeline declares it."""

    repo: str
    name: str
    command: str
    """Template for `sh -c`; `{arg}` stands for the quoted value of an argument, for nothing when it is empty."""
    description: str = ""
    args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name → `{default?, description?, type?, enum?}`; an argument without a default must be given."""
    timeout: float | None = None
    writes: bool = True
    env: Mapping[str, str] = field(default_factory=dict)


def check_shell_tool(spec: ShellToolSpec) -> list[str]:
    """Find what is wrong with a shell tool, above all placeholders that quoting could not protect."""
    problems = []
    if not spec.command.strip() or "\0" in spec.command:
        problems.append("the command is empty or holds a NUL character")
    used = {match[2] for match in _PLACEHOLDER.finditer(spec.command) if match[2]}
    for name in sorted(used - set(spec.args)):
        hint = (
            did_you_mean(name, spec.args) or f"declare it under `args`, or write {{{{{name}}}}} for the text {{{name}}}"
        )
        problems.append(f"the command uses {{{name}}}, which is not among its args; {hint}")
    problems += [
        f"the argument {name!r} is not used in the command; write {{{name}}} where its value belongs, or remove it"
        for name in spec.args
        if name not in used
    ]
    problems += [problem for name, about in spec.args.items() for problem in _check_argument(name, about)]
    problems += _check_places(spec.command)
    if spec.timeout is not None and not spec.timeout > 0:
        problems.append("the timeout must be more than 0 seconds")
    problems += [
        f"the environment variable {name!r} has a name or value that the system does not take"
        for name, value in spec.env.items()
        if not name or "=" in name or "\0" in f"{name}{value}"
    ]
    return problems


def _check_argument(name: str, about: Mapping[str, Any]) -> list[str]:
    if not re.fullmatch(_NAME, name):
        return [f"{name!r} can't be an argument's name; use letters, digits, '-' and '_'"]
    problems = []
    for key in about:
        if key not in _ARGUMENT_KEYS:
            hint = did_you_mean(key, _ARGUMENT_KEYS) or f"known are {', '.join(sorted(_ARGUMENT_KEYS))}"
            problems.append(f"the argument {name!r} has the unknown key {key!r}; {hint}")
    if about.get("type", "string") not in _TYPES:
        problems.append(
            f"the argument {name!r} has the unknown type {about['type']!r}; use one of {', '.join(sorted(_TYPES))}"
        )
    return problems


def _check_places(command: str) -> list[str]:
    """Refuse placeholders inside quotes, backticks, comments, here-documents and behind a backslash.

    A quoted value in such a place would be taken apart by the shell: `"{x}"` with `$(rm -rf .)` runs it.
    """
    placeholders = [match for match in _PLACEHOLDER.finditer(command) if match[2]]
    if "$'" in command and placeholders:
        return ["a command with $'…' can't take placeholders, since shells differ in where it ends; use '…' instead"]
    if "<<" in command and placeholders:
        return [
            "a command with a here-document ('<<') can't take placeholders; pipe `printf '%s' {arg}` into it instead"
        ]
    problems = []
    for match in placeholders:
        place = _place(command, match.start())
        if place:
            problems.append(
                f"{{{match[2]}}} stands {place}, where its value could be read as code; put it outside, bare: "
                "Orchestra quotes values itself"
            )
    return problems


def _place(command: str, position: int) -> str | None:
    """Say in which dangerous surroundings a position is, or None for bare shell text."""
    closing: list[str] = []
    at = 0
    while at < position:
        if command[at] == "\\" and closing[-1:] != ["'"]:
            if at + 1 == position:
                return "behind a backslash"
            at += 2
            continue
        if _begins_comment(command, at, closing):
            end = command.find("\n", at)
            if end == -1 or end >= position:
                return "in a comment"
            at = end
        _track(command, at, closing)
        at += 1
    return _surroundings(command, closing)


def _begins_comment(command: str, at: int, closing: list[str]) -> bool:
    word_starts = at == 0 or command[at - 1] in " \t\n;&|()"
    return command[at] == "#" and word_starts and closing[-1:] not in (['"'], ["'"], ["}"])


def _track(command: str, at: int, closing: list[str]) -> None:
    """Open or close what one character opens or closes: quotes, backticks, `${…}`, `$(…)`, `(…)`."""
    char, inside = command[at], closing[-1] if closing else ""
    if char == inside:
        closing.pop()
    elif inside == "'":
        return
    elif char in '"`' or (char == "'" and inside != '"'):
        closing.append(char)
    elif command.startswith("${", at):
        closing.append("}")
    elif char == "(" and (inside != '"' or command[at - 1 : at] == "$"):
        closing.append(")")


def _surroundings(command: str, closing: list[str]) -> str | None:
    if '"' in closing or "'" in closing:
        return "inside quotes"
    if "`" in closing:
        return "inside backticks"
    if "}" in closing:
        return "inside '${…}'"
    if "((" in command and ")" in closing:
        return "in a command with '((…))'"
    return None


def render_command(spec: ShellToolSpec, args: Mapping[str, Any]) -> str:
    """Fill in the values, each quoted as one word of the shell."""

    def fill(match: re.Match[str]) -> str:
        if match[1]:
            return f"{{{match[1]}}}"
        value = args.get(match[2], spec.args[match[2]].get("default", ""))
        return "" if value is None or value == "" else shlex.quote(_text(match[2], value))

    return _PLACEHOLDER.sub(fill, spec.command)


def _text(name: str, value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if "\0" in text:
        raise ToolFailureError(f"{name!r} holds a NUL character, which no command can take; leave it out")
    return text


def shell_tool(spec: ShellToolSpec) -> Tool:
    """Make the tool of a declaration that `check_shell_tool` found right."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        from orchestra.tools.process import run_command

        here = await context.repo(spec.repo)
        return await run_command(
            render_command(spec, args),
            cwd=worktree_of(here),
            env={**here.env, **spec.env},
            seconds=spec.timeout or DEFAULT_TIMEOUT,
        )

    properties = {name: _schema(about) for name, about in spec.args.items()}
    return Tool(
        name=f"{spec.repo}:{spec.name}",
        description=spec.description or f"Run `{spec.command}`.",
        parameters={
            "type": "object",
            "properties": properties,
            "required": [name for name, about in spec.args.items() if "default" not in about],
            "additionalProperties": False,
        },
        run=run,
        writes=spec.writes,
        needs_worktree=True,
        repo=spec.repo,
        kind="shell",
        timeout=None,
    )


def _schema(about: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": about.get("type", "string")} | {
        key: about[key] for key in ("description", "enum", "default") if key in about
    }
