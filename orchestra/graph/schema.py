"""Which keys a pipeline file and an `orchestra.yaml` have, with their types and defaults (DESIGN §3).

Frozen dataclasses, not Pydantic models: importing Pydantic alone costs more than reading a pipeline. Values carry no
positions; `Document.locate` gives the place of a path such as `("agents", "critic", "model")`.
"""

# ruff: noqa: RUF009 - `key` returns a dataclass field

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestra.graph import kinds
from orchestra.graph.edges import EdgeSpec, read_edge
from orchestra.graph.reader import Cursor, Wrong, key, keys_of, mapping, read_fields, record, sequence
from orchestra.graph.wording import is_typo

__all__ = [
    "AgentSpec",
    "EdgeSpec",
    "InputSpec",
    "Limits",
    "Pipeline",
    "ProjectSpec",
    "ProviderSpec",
    "Providers",
    "RepoSpec",
    "ShellTool",
    "StepSpec",
    "Workspace",
]

LayerSpec = str | Mapping[str, Any]
"""A prompt layer: the name of its file, or its keys inline."""
OutputSpec = str | Mapping[str, Any]
"""The form of an output: the import path of a Pydantic model, or a JSON Schema."""


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """Where models come from; every key may be left out."""

    type: str | None = key(kinds.text)
    """The LangChain integration; None means the provider's own name."""
    models: Mapping[str, str] = key(mapping(kinds.text, empty=True), factory=dict)
    """Literal model names by alias."""
    api_base: str | None = key(kinds.url)
    api_key_env: str | None = key(kinds.variable)
    max_tokens: int | None = key(kinds.integer(1))
    timeout: float | None = key(kinds.number(duration=True))
    options: Mapping[str, Any] = key(kinds.free_mapping, factory=dict)
    script: str | None = key(kinds.text)


@dataclass(frozen=True, slots=True)
class Providers:
    """The section `providers:`: the providers by name, and beside them the default."""

    default: str | None = None
    specs: Mapping[str, ProviderSpec] = field(default_factory=dict)

    def over(self, below: Providers) -> Providers:
        """Lay these providers over a project's: their keys win, aliases and options are merged."""
        specs = dict(below.specs)
        for name, spec in self.specs.items():
            under = specs.get(name)
            specs[name] = spec if under is None or spec.type not in {None, under.type} else _merge(spec, under)
        return Providers(self.default or below.default, specs)


def _merge(spec: ProviderSpec, under: ProviderSpec) -> ProviderSpec:
    values: dict[str, Any] = {}
    for name in keys_of(ProviderSpec):
        own, lower = getattr(spec, name), getattr(under, name)
        values[name] = {**lower, **own} if isinstance(own, Mapping) else lower if own is None else own
    return ProviderSpec(**values)


_PROVIDER_HINTS = {
    "api_key": "write api_key_env with the name of an environment variable; keys don't belong into a file",
    "base_url": "write api_base",
    "model": "write models: {smart: …}, and `model: smart` in an agent",
}


def _read_providers(cursor: Cursor) -> Providers | Wrong:
    if not isinstance(cursor.value, Mapping) or not cursor.value:
        hint = "write `default: anthropic` and `anthropic: {models: {smart: …}}` under it"
        return cursor.wrong_type("a mapping of providers", hint)
    default: str | None = None
    specs: dict[str, ProviderSpec] = {}
    for name in cursor.value:
        child = cursor.child(name)
        if name == "default":
            read = kinds.text(child)
            default = None if isinstance(read, Wrong) else read
            continue
        if isinstance(child.value, str) and is_typo(name, ["default"]):
            reading = cursor.reading
            reading.report(
                "unknown-key", f"unknown key {name!r}", *child.path, hint="did you mean 'default'?", key=True
            )
            default = child.value
            continue
        if isinstance(kinds.provider_name(Cursor(cursor.reading, name, child.path)), Wrong):
            continue
        values = read_fields(ProviderSpec, child, extra=_PROVIDER_HINTS)
        specs[name] = ProviderSpec() if isinstance(values, Wrong) else ProviderSpec(**values)
    return Providers(default, specs)


@dataclass(frozen=True, slots=True)
class RepoSpec:
    """A git repository of the workspace."""

    path: str | None = key(kinds.text, required=True)
    """Relative to the pipeline file; None: the git repository of the current directory."""
    branch_prefix: str = key(kinds.branch_prefix, default="orchestra/")
    base: str | None = key(kinds.text)
    copy: tuple[str, ...] = key(sequence(kinds.text), default=())
    setup: str | None = key(kinds.text)
    sparse: tuple[str, ...] = key(sequence(kinds.text), default=())


@dataclass(frozen=True, slots=True)
class _ToolArgument:
    default: Any = key(kinds.anything)
    description: str | None = key(kinds.text)
    type: str | None = key(kinds.choice("string", "number", "integer", "boolean"))
    enum: tuple[Any, ...] = key(sequence(kinds.anything, empty=False), default=())


def _read_argument(cursor: Cursor) -> Mapping[str, Any] | Wrong:
    if cursor.value is None or isinstance(cursor.value, Mapping):
        return read_fields(_ToolArgument, cursor)
    written = f'"{cursor.value}"' if isinstance(cursor.value, str) else cursor.written
    return cursor.wrong_type("a mapping", f"write {cursor.path[-1]}: {{default: {written}}}")


@dataclass(frozen=True, slots=True)
class ShellTool:
    """A command that agents can run as a tool."""

    command: str = key(kinds.text, required=True)
    description: str | None = key(kinds.text)
    """What it does, for the model."""
    args: Mapping[str, Mapping[str, Any]] = key(
        mapping(_read_argument, names=kinds.argument_name, empty=True), factory=dict
    )
    timeout: float | None = key(kinds.number(duration=True))
    writes: bool = key(kinds.boolean, default=True)
    env: Mapping[str, str] = key(mapping(kinds.prose, empty=True), factory=dict)


@dataclass(frozen=True, slots=True)
class Workspace:
    """The repositories a pipeline works on, and their shell tools."""

    repos: Mapping[str, RepoSpec] = key(mapping(record(RepoSpec), names=kinds.name), factory=dict)
    """At least one: without `repos` the implicit `repo`."""
    tools: Mapping[str, Mapping[str, ShellTool]] = key(
        mapping(mapping(record(ShellTool), names=kinds.name), names=kinds.name), factory=dict
    )
    """By repo and name."""
    dirty: Literal["include", "head", "refuse"] = key(kinds.choice("include", "head", "refuse"), default="include")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A typed input of a pipeline."""

    type: Literal["string", "number", "boolean", "json"] = key(
        kinds.choice("string", "number", "boolean", "json"), default="string"
    )
    default: Any = key(kinds.anything)
    description: str | None = key(kinds.text)
    required: bool = key(kinds.boolean, default=False)
    has_default: bool = False
    """`default` was given, if only as null."""


def _read_input(cursor: Cursor) -> InputSpec | Wrong:
    if isinstance(cursor.value, str) and cursor.value in {"string", "number", "boolean", "json"}:
        return cursor.wrong_type("a mapping", f"write {cursor.path[-1]}: {{type: {cursor.value}}}")
    values = read_fields(InputSpec, cursor)
    return values if isinstance(values, Wrong) else InputSpec(**values, has_default="default" in values)


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """A configured LLM worker."""

    task: LayerSpec = key(kinds.layer, required=True)
    model: str = key(kinds.text, required=True)
    role: LayerSpec | None = key(kinds.layer)
    persona: LayerSpec | None = key(kinds.layer)
    personality: LayerSpec | None = key(kinds.layer)
    provider: str | None = key(kinds.text)
    tools: tuple[str, ...] = key(sequence(kinds.text), default=())
    mode: Literal["autonomous", "interactive"] = key(kinds.choice("autonomous", "interactive"), default="autonomous")
    when_absent: Literal["pause", "finish"] = key(kinds.choice("pause", "finish"), default="pause")
    output: OutputSpec | None = key(kinds.output)
    context: Literal["upstream", "all", "none"] = key(kinds.choice("upstream", "all", "none"), default="upstream")
    max_calls: int = key(kinds.integer(1), default=100)


_AGENT_HINTS = {
    **dict.fromkeys(("prompt", "instructions", "goal", "description"), "write task: {template: …}, or task: FILE"),
    **dict.fromkeys(("system", "system_prompt", "backstory"), "write role: {system: …}, or role: FILE"),
    **dict.fromkeys(("llm", "model_name"), "write model"),
    "temperature": "write it under `options:` of a provider",
    "max_tokens": "write it in a provider, or under `limits:` for the whole session",
    "max_iterations": "write max_calls",
}


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A node without a model: one tool call."""

    tool: str = key(kinds.text, required=True)
    args: Mapping[str, Any] = key(kinds.free_mapping, factory=dict)
    output: OutputSpec | None = key(kinds.output)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a session stops by itself; None: nowhere."""

    max_failures_per_session: int = key(kinds.integer(1), default=3)
    max_steps: int = key(kinds.integer(1), default=1000)
    max_cost_usd: float | None = key(kinds.number())
    max_tokens: int | None = key(kinds.integer(1))
    timeout: float | None = key(kinds.number(duration=True))


def _read_limits(cursor: Cursor) -> Mapping[str, Any] | Wrong:
    """Read the limits that are given; what is not comes from the project, then from the defaults."""
    return read_fields(Limits, cursor)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline file, with the project's defaults filled in."""

    name: str = key(kinds.pipeline_name, required=True)
    graph: tuple[EdgeSpec, ...] = key(sequence(read_edge, empty=False), required=True)
    description: str | None = key(kinds.prose)
    providers: Mapping[str, ProviderSpec] = key(_read_providers, factory=dict)
    default_provider: str | None = None
    """None only where there is no agent."""
    workspace: Workspace = key(record(Workspace), factory=Workspace)
    inputs: Mapping[str, InputSpec] = key(mapping(_read_input, names=kinds.input_name, empty=True), factory=dict)
    state: str | None = key(kinds.import_path)
    conditions: str = key(kinds.text, default="conditions")
    context_tools: tuple[str, ...] = key(sequence(kinds.text), default=())
    agents: Mapping[str, AgentSpec] = key(
        mapping(record(AgentSpec, extra=_AGENT_HINTS), names=kinds.name), factory=dict
    )
    steps: Mapping[str, StepSpec] = key(mapping(record(StepSpec), names=kinds.name), factory=dict)
    limits: Limits = key(_read_limits, factory=Limits)


@dataclass(frozen=True, slots=True)
class ProjectSpec:
    """An `orchestra.yaml`."""

    paths: tuple[str, ...] = key(sequence(kinds.text), default=())
    """Search paths, relative to the file."""
    pipelines: Mapping[str, str] = key(mapping(kinds.text, names=kinds.name, empty=True), factory=dict)
    """Pipeline files by name, relative to the file."""
    limits: Mapping[str, Any] = key(_read_limits, factory=dict)
    """Only those that are given."""
    providers: Providers = key(_read_providers, factory=Providers)
