"""The rules between the parts of a pipeline file: names that must exist, keys that belong together.

Edges have rules of their own in `edge_rules`, the graph as a whole is judged in `checks`. A part that could not be read
is empty here, and an empty part breaks no rule: nobody is told twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestra.errors import did_you_mean
from orchestra.graph import wording
from orchestra.graph.edge_rules import check_edges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestra.graph.reader import Reading
    from orchestra.graph.schema import InputSpec, Pipeline, ProviderSpec, ShellTool
    from orchestra.tools.shell import ShellToolSpec

IMPLICIT_REPO = "repo"
"""The name of the current directory's repository in a pipeline without `workspace.repos`."""


def check_rules(reading: Reading, pipeline: Pipeline, builtin_tools: Callable[[], Iterable[str]]) -> None:
    """Report every broken rule of a pipeline that was read.

    Args:
        reading: Takes the problems.
        pipeline: The pipeline, defaults filled in.
        builtin_tools: Gives the names that shell tools can't have; called only where there are shell tools.
    """
    _check_nodes(reading)
    _check_providers(reading, pipeline)
    _check_agents(reading, pipeline)
    _check_workspace(reading, pipeline, builtin_tools)
    for name, spec in pipeline.inputs.items():
        _check_input(reading, name, spec)
    check_edges(reading, pipeline.graph)


def _check_nodes(reading: Reading) -> None:
    document = reading.written()
    if "agents" not in document and "steps" not in document:
        hint = "add `agents:` with at least one agent"
        if not reading.meant("agents"):
            reading.report("missing-key", "the pipeline has neither 'agents' nor 'steps'", hint=hint)
    for name in reading.written("steps"):
        if name in reading.written("agents"):
            line = reading.document.locate("agents", name, key=True).line
            message = f"the step {name!r} has the name of an agent (line {line})"
            reading.report("duplicate-name", message, "steps", name, hint="rename one of the two", key=True)


def _check_providers(reading: Reading, pipeline: Pipeline) -> None:
    document = reading.written()
    if "providers" in document and not reading.written("providers"):
        return
    if not pipeline.providers:
        if pipeline.agents and "providers" not in document and not reading.meant("providers"):
            hint = "add `providers: {default: anthropic, anthropic: {models: {smart: claude-opus-5-5}}}`"
            reading.report(
                "no-provider", "the agents have no provider to take models from", "agents", hint=hint, key=True
            )
        elif pipeline.agents and "providers" in document:
            hint = f"add `{pipeline.default_provider or 'anthropic'}: {{}}` under `providers:`"
            reading.report("no-provider", "'providers' names no provider", "providers", hint=hint, key=True)
        return
    written = reading.written("providers")
    for name, spec in pipeline.providers.items():
        if name in written and (written[name] is None or isinstance(written[name], Mapping)):
            check_provider(reading, name, spec)
    default = pipeline.default_provider
    if default is None:
        if "default" not in written:
            hint = f"add `default: {next(iter(pipeline.providers))}`"
            reading.report(
                "missing-key", "the key 'default' is missing in 'providers'", "providers", hint=hint, key=True
            )
    elif default not in pipeline.providers and "default" in written:
        _unknown_provider(reading, default, pipeline, "providers", "default")


def _unknown_provider(reading: Reading, name: str, pipeline: Pipeline, *path: str | int) -> None:
    from orchestra.agents.providers import KNOWN_TYPES

    hint = did_you_mean(name, pipeline.providers)
    if name in KNOWN_TYPES and name not in pipeline.providers:
        hint = f"add `{name}: {{}}` under `providers:`"
    hint = hint or f"the providers are: {', '.join(pipeline.providers)}"
    reading.report("unknown-provider", f"there is no provider {name!r}", *path, hint=hint)


def check_provider(reading: Reading, name: str, spec: ProviderSpec) -> None:
    """Report a type that nobody knows, and keys that don't fit the type."""
    from orchestra.agents.providers import KNOWN_TYPES

    kind = spec.type or name
    path = ("providers", name)
    raw = reading.written(*path)
    if spec.type is None and "type" in raw:
        return
    if kind not in KNOWN_TYPES:
        hint = did_you_mean(kind, KNOWN_TYPES)
        if "type" in raw:
            hint = hint or "write the LangChain integration, such as openai for a service that speaks its protocol"
            reading.report(
                "unknown-provider-type", f"nobody knows the provider type {kind!r}", *path, "type", hint=hint
            )
        else:
            hint = hint or "add `type: openai` for a service that speaks its protocol"
            message = f"the provider {name!r} names no type, and its own name is none"
            reading.report("unknown-provider-type", message, *path, hint=hint, key=True)
    elif kind == "scripted" and "script" not in raw and spec.script is None:
        hint = f"add `script: scripts/{name}.yaml`"
        message = f"the key 'script' is missing in provider {name!r}, which plays recorded turns"
        reading.report("missing-key", message, *path, hint=hint, key=True)
    elif kind != "scripted" and spec.script is not None:
        message = f"'script' is for providers of type scripted, {name!r} has the type {kind!r}"
        reading.report("unexpected-key", message, *path, "script", hint="add `type: scripted`, or remove it", key=True)


def _check_agents(reading: Reading, pipeline: Pipeline) -> None:
    for name, agent in pipeline.agents.items():
        path = ("agents", name)
        if agent.provider is not None and pipeline.providers and agent.provider not in pipeline.providers:
            _unknown_provider(reading, agent.provider, pipeline, *path, "provider")
        raw = reading.written(*path)
        if "when_absent" in raw and agent.mode == "autonomous" and raw.get("mode", "autonomous") == "autonomous":
            message = f"'when_absent' has no effect: agent {name!r} is autonomous"
            hint = "add `mode: interactive`, or remove it"
            reading.report("unused-key", message, *path, "when_absent", hint=hint, key=True, warning=True)
        if agent.output is not None and agent.mode == "interactive":
            message = f"agent {name!r} is interactive, so its output is the person's decision and can't have a form"
            hint = "remove `output`, or let an autonomous agent behind it hand that in"
            reading.report("unexpected-key", message, *path, "output", hint=hint, key=True)


def _check_workspace(reading: Reading, pipeline: Pipeline, builtin_tools: Callable[[], Iterable[str]]) -> None:
    repos = list(reading.written("workspace", "repos")) or [IMPLICIT_REPO]
    unread = reading.meant("repos") or ("repos" in reading.written("workspace") and repos == [IMPLICIT_REPO])
    for repo, tools in pipeline.workspace.tools.items():
        if repo not in repos and not unread:
            hint = did_you_mean(repo, repos) or f"the repos are: {', '.join(repos)}"
            message = f"there is no repo {repo!r} for these tools"
            reading.report("unknown-repo", message, "workspace", "tools", repo, hint=hint, key=True)
        taken = frozenset(builtin_tools()) if tools else frozenset()
        for name in tools:
            if name in taken:
                message = f"the shell tool {name!r} has the name of a built-in tool"
                hint = f"rename it, for example to my-{name}"
                reading.report("tool-name-taken", message, "workspace", "tools", repo, name, hint=hint, key=True)
            _check_shell_tool(reading, repo, name, tools[name])


def shell_tool_spec(repo: str, name: str, tool: ShellTool) -> ShellToolSpec:
    """Translate a shell tool's section into plain arguments."""
    from orchestra.tools.shell import ShellToolSpec

    return ShellToolSpec(
        repo=repo,
        name=name,
        command=tool.command,
        description=tool.description or "",
        args=tool.args,
        timeout=tool.timeout,
        writes=tool.writes,
        env=tool.env,
    )


def _check_shell_tool(reading: Reading, repo: str, name: str, tool: ShellTool) -> None:
    from orchestra.tools.shell import check_shell_tool

    path = ("workspace", "tools", repo, name)
    if reading.wrong_keys(*path) or len(tool.args) != len(reading.written(*path, "args")) or not tool.command:
        return
    spec = shell_tool_spec(repo, name, tool)
    hints: list[str] = []
    for problem in check_shell_tool(spec):
        message, _, hint = problem.partition("; ")
        if any(message.startswith(f"the argument {name!r}") and repr(name) in "".join(hints) for name in tool.args):
            continue  # its placeholder is misspelt, which was just said
        hints.append(hint)
        reading.report("bad-shell-tool", message, *path, "command", hint=hint or "correct the command or its args")


_INPUT_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "a text"),
    "number": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
}


def _check_input(reading: Reading, name: str, spec: InputSpec) -> None:
    if not spec.has_default:
        return
    path = ("inputs", name)
    if spec.required:
        message = f"the input {name!r} is required and has a default"
        reading.report("required-with-default", message, *path, "required", hint="remove one of the two", key=True)
    if spec.default is None or spec.type == "json" or "type" in reading.wrong_keys(*path):
        return
    types, wanted = _INPUT_TYPES[spec.type]
    fits = isinstance(spec.default, types) and isinstance(spec.default, bool) == (spec.type == "boolean")
    if fits:
        return
    written = reading.document.written(*path, "default")
    hint = {
        "string": wording.text_hint(spec.default, written),
        "number": wording.number_hint(spec.default, duration=False),
        "boolean": wording.boolean_hint(spec.default),
    }[spec.type]
    message = f"the default of input {name!r} must be {wanted}, found {wording.found(spec.default)}"
    reading.report("wrong-type", message, *path, "default", hint=hint)
