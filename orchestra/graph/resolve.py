"""From a loaded pipeline to one that can run: prompts, tools, models, conditions and the graph, all checked at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestra.agents.providers import ModelRef, ProviderResolver
from orchestra.errors import PipelineError, Problem, did_you_mean, sort_problems
from orchestra.graph.checks import check_topology, templates_in, wrong_arguments
from orchestra.graph.conditions import ConditionRegistry
from orchestra.graph.conflict_checks import conflict_warnings
from orchestra.graph.extension import RESERVED, Extension, check_reducers, load_extension, load_output, output_fields
from orchestra.graph.human_decision import HUMAN_DECISION, check_decision
from orchestra.graph.loader import read_pipeline
from orchestra.graph.meetings import find_meetings
from orchestra.graph.models import (
    model_problems,
    played_from_scripts,
    price_warnings,
    provider_config,
    unknown_agents,
)
from orchestra.graph.notyet import not_yet
from orchestra.graph.parallel import Parallelism, find_parallelism
from orchestra.graph.project import is_shipped
from orchestra.graph.regions import find_branches
from orchestra.graph.repos import RepoPaths
from orchestra.graph.resolved import Node, ResolvedAgent, ResolvedPipeline, ResolvedStep
from orchestra.graph.rules import shell_tool_spec
from orchestra.graph.slots import assign_slots
from orchestra.graph.topology import END, START, analyse
from orchestra.prompts.composer import Layers, PromptComposer, check_template
from orchestra.prompts.discovery import FileDiscovery
from orchestra.tools.registry import ToolRegistry, ToolSet, tool_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestra.agents.outputs import OutputSpec
    from orchestra.documents import Document
    from orchestra.errors import Location
    from orchestra.graph.loader import LoadedPipeline
    from orchestra.graph.project import Project
    from orchestra.graph.schema import AgentSpec, Pipeline
    from orchestra.tools.registry import Tool

T = TypeVar("T")

BASE_NAMES = frozenset({"inputs", "agent_outputs", "metadata", "messages", "turn"})
"""What every template sees beside the inputs and the fields of the extension."""


def resolve(
    loaded: LoadedPipeline,
    project: Project,
    *,
    provider: str | None = None,
    models: Mapping[str, str] | None = None,
    imports: Sequence[Path] = (),
    discovery: FileDiscovery | None = None,
) -> ResolvedPipeline:
    """Find everything that a pipeline names.

    Args:
        loaded: The checked file.
        project: Whose search paths apply.
        provider: Used by agents that name none, in place of the file's default.
        models: Agent → the model that it uses in place of its own.
        imports: More directories for Python imports: the original one, where `loaded` is a session's copy.
        discovery: Where files are looked for, when not beside the pipeline.

    Raises:
        PipelineError: With every problem found.
    """
    found = discovery or FileDiscovery(loaded.document.path.parent, project.search_paths)
    resolution = _Resolution(loaded.pipeline, loaded.document, found, provider, imports)
    resolution.models = dict(models or {})
    resolution.problems += loaded.warnings
    return resolution.run()


def load_and_resolve(
    path: Path, project: Project, *, provider: str | None = None, repos: Mapping[str, Path], cwd: Path
) -> ResolvedPipeline:
    """Read a pipeline file and find everything that it names; what is wrong is reported all at once.

    Args:
        path: The file.
        project: Its defaults and search paths.
        provider: Used by agents that name none, in place of the file's default.
        repos: Paths that the command line set.
        cwd: Where the implicit repo is looked for.

    Raises:
        PipelineError: With every problem found.
    """
    if is_shipped(path):
        project = project.for_shipped()
    pipeline, document, problems = read_pipeline(path, project=project)
    if pipeline is None:
        raise PipelineError.of(problems)
    discovery = FileDiscovery(document.path.parent, project.search_paths)
    resolution = _Resolution(pipeline, document, discovery, provider, ())
    resolution.problems += problems
    resolution.repo_paths = RepoPaths(pipeline, document, repos, cwd)
    if any(problem.severity == "error" for problem in problems):
        resolution.look_at_the_rest()
        raise PipelineError.of(_without_cascades(problems, resolution.problems))
    return resolution.run()


def _without_cascades(first: Sequence[Problem], found: Sequence[Problem]) -> list[Problem]:
    """Drop what was found at a place of which something was said already."""
    said = {p.location for p in first if p.location is not None}
    later = [p for p in found[len(first) :] if p.location is None or p.location not in said]
    return [*first, *later]


class _Resolution:
    """Collects problems while it goes on, so that all are reported at once."""

    def __init__(
        self,
        pipeline: Pipeline,
        document: Document,
        discovery: FileDiscovery,
        provider: str | None,
        imports: Sequence[Path],
    ) -> None:
        self.pipeline = pipeline
        self.document = document
        self.discovery = discovery
        self.provider = provider
        self.imports = (document.path.parent, *imports)
        self.repos = tuple(pipeline.workspace.repos)
        self.models: dict[str, str] = {}
        self.problems: list[Problem] = []
        self.repo_paths: RepoPaths | None = None
        self._tools_complete = True

    def run(self) -> ResolvedPipeline:
        topology = analyse((*self.pipeline.agents, *self.pipeline.steps), self.pipeline.graph)
        parallelism = find_parallelism(topology)
        self.problems += check_topology(topology, parallelism, self.document.locate)
        resolver = self._resolver()
        toolset = self._toolset()
        conditions = self._conditions()
        extension = self._extension()
        agents = dict(self._agents(toolset, resolver))
        steps = dict(self._steps(toolset))
        nodes: dict[str, Node] = {**agents, **steps}
        self._check_fields(extension, nodes, parallelism)
        self.problems += not_yet(self.pipeline, self.document)
        uses = {name: (*node.reads, *node.worktrees) for name, node in nodes.items()}
        writes = {name: node.writes for name, node in nodes.items()}
        if self.repo_paths is not None:
            self.problems += self.repo_paths.check({repo for used in uses.values() for repo in used})
        branches = find_branches(topology, parallelism)
        slots = assign_slots(topology, parallelism, branches, uses, writes)
        meetings = find_meetings(topology, parallelism, branches, writes, agents)
        self.problems += conflict_warnings(self.pipeline.graph, topology, slots, meetings, steps, self.document.locate)
        if not self._failed:
            self._check_templates(agents, steps, extension)
            self.problems += price_warnings(self.pipeline, self.document, agents)
        self._check_scripts(agents, resolver)
        if self._failed:
            raise PipelineError.of(self.problems)
        return ResolvedPipeline(
            pipeline=self.pipeline,
            document=self.document,
            discovery=self.discovery,
            topology=topology,
            parallelism=parallelism,
            branches=branches,
            slots=slots,
            meetings=meetings,
            agents=agents,
            steps=steps,
            conditions=conditions,
            toolset=toolset,
            resolver=resolver,
            extension=extension,
            repo_paths=self.repo_paths.found if self.repo_paths else {},
            warnings=tuple(sort_problems(self.problems)),
            model_problems=(
                *(self.repo_paths.missing if self.repo_paths else ()),
                *model_problems(self.pipeline, self.document, agents, resolver),
            ),
        )

    def look_at_the_rest(self) -> None:
        """Look for what else is wrong in a file that is wrong already, as far as that can be told."""
        for name, provider in self.pipeline.providers.items():
            if provider.script:
                place = self.document.locate("providers", name, "script")
                self._try(partial(self._script, provider.script), place)
        toolset = self._toolset()
        self._conditions()
        for name, spec in self.pipeline.agents.items():
            self._tools(toolset, spec.tools, ("agents", name))
            for kind in ("role", "persona", "personality", "task"):
                layer = getattr(spec, kind)
                if isinstance(layer, str):
                    place = self.document.locate("agents", name, kind)
                    self._try(partial(self.discovery.find, kind, layer), place)
        for name, step in self.pipeline.steps.items():
            self._tool(toolset, step.tool, self.document.locate("steps", name, "tool"))
        if self._is_graph_whole():
            topology = analyse((*self.pipeline.agents, *self.pipeline.steps), self.pipeline.graph)
            self.problems += check_topology(topology, find_parallelism(topology), self.document.locate)

    def _is_graph_whole(self) -> bool:
        """Tell whether what is wrong has left the graph as it was written, so that it can be analysed."""
        written = self.document.value
        parts = {"agents": self.pipeline.agents, "steps": self.pipeline.steps, "graph": self.pipeline.graph}
        if any(len(written.get(key) or ()) != len(part) for key, part in parts.items()):
            return False
        names = {*self.pipeline.agents, *self.pipeline.steps, START, END}
        ends = (
            name
            for edge in self.pipeline.graph
            for name in (*edge.sources, *edge.targets, *((edge.on_max_loops,) if edge.on_max_loops else ()))
        )
        lines = [self.document.locate(key, key=True).line for key in written]
        begin = self.document.locate("graph", key=True).line
        end = min((line for line in lines if line > begin), default=begin + len(self.document.text))
        errors = [problem.location for problem in self.problems if problem.severity == "error"]
        return names.issuperset(ends) and not any(place and begin <= place.line < end for place in errors)

    @property
    def _failed(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)

    def _try(self, attempt: Callable[[], T], place: Location | None = None) -> T | None:
        """Collect the problems of one attempt; those without a place get the one that asked for it."""
        try:
            return attempt()
        except PipelineError as error:
            self.problems += [
                problem
                if problem.location or place is None
                else Problem(problem.code, problem.message, place, problem.hint, problem.severity)
                for problem in error.problems
            ]
            return None

    def _load(self, registry: ToolRegistry | ConditionRegistry, folder: str) -> bool:
        """Load every directory of that name; tells whether all went well."""
        told = len(self.problems)
        for directory in self.discovery.find_dirs(folder):
            self._try(partial(registry.load_directory, directory))
        return len(self.problems) == told

    def _resolver(self) -> ProviderResolver:
        configs = {}
        for name, spec in self.pipeline.providers.items():
            place = self.document.locate("providers", name, "script")
            script = self._try(partial(self._script, spec.script), place) if spec.script else None
            configs[name] = provider_config(name, spec, script)
        default = self.provider or self.pipeline.default_provider
        if self.provider and self.provider not in configs:
            known = ", ".join(sorted(configs)) or "none"
            self.problems.append(
                Problem(
                    "unknown-provider",
                    f"the pipeline has no provider {self.provider!r}",
                    None,
                    did_you_mean(self.provider, configs) or f"use `--provider` with one of: {known}",
                )
            )
        return ProviderResolver(configs, default)

    def _script(self, name: str) -> Path:
        """Find a script; unlike prompts it may also be named by an absolute path."""
        path = Path(name)
        return path if path.is_absolute() and path.is_file() else self.discovery.find_file(name)

    def _toolset(self) -> ToolSet:
        registry = ToolRegistry(parent=tool_registry)
        self._tools_complete = self._load(registry, "tools")
        specs = [
            shell_tool_spec(repo, name, tool)
            for repo, tools in self.pipeline.workspace.tools.items()
            for name, tool in tools.items()
        ]
        good = []
        for spec in specs:
            place = self.document.locate("workspace", "tools", spec.repo, spec.name)
            if self._try(partial(registry.toolset, self.repos, [spec]), place) is not None:
                good.append(spec)
        return registry.toolset(self.repos, good)

    def _conditions(self) -> ConditionRegistry:
        registry = ConditionRegistry([HUMAN_DECISION])
        complete = self._load(registry, self.pipeline.conditions)
        said = {problem.location for problem in self.problems if problem.severity == "error"}
        for edge in self.pipeline.graph:
            if edge.condition and complete:  # else it may stand in the file that could not be read
                place = self.document.locate("graph", edge.index, "condition")
                found = self._try(partial(registry.get, edge.condition), place)
                if found is HUMAN_DECISION:
                    self.problems += check_decision(edge, self.pipeline, self.document, said)
        return registry

    def _extension(self) -> Extension:
        spec = self.pipeline.state
        if spec is None:
            return Extension()
        place = self.document.locate("state")
        return self._try(lambda: load_extension(spec, self.imports, place), place) or Extension()

    def _agents(self, toolset: ToolSet, resolver: ProviderResolver) -> Iterator[tuple[str, ResolvedAgent]]:
        composer = PromptComposer(self.discovery)
        self.problems += unknown_agents(self.models, self.pipeline.agents)
        for name, spec in self.pipeline.agents.items():
            layers = Layers(spec.role, spec.persona, spec.personality, spec.task)
            loc = ("agents", name)
            compose = partial(composer.compose, layers, agent=name, document=self.document, loc=loc, analyse=False)
            prompt = self._try(compose)
            tools = self._tools(toolset, spec.tools, loc)
            model = self._model(resolver, name, spec)
            output = self._output(spec.output, loc)
            if prompt is not None and model is not None:
                yield name, ResolvedAgent(name, tools, output, self.repos, spec, prompt, model)

    def _steps(self, toolset: ToolSet) -> Iterator[tuple[str, ResolvedStep]]:
        for name, spec in self.pipeline.steps.items():
            place = self.document.locate("steps", name, "tool")
            tool = self._tool(toolset, spec.tool, place)
            output = self._output(spec.output, ("steps", name))
            if tool is not None:
                self.problems += wrong_arguments(name, spec, tool, self.document.locate)
                yield name, ResolvedStep(name, (tool,), output, self.repos, spec)

    def _tools(self, toolset: ToolSet, names: Sequence[str], loc: tuple[str, ...]) -> tuple[Tool, ...]:
        """Find an agent's tools: its own and those that every agent has, each once."""
        found: dict[str, Tool] = {}
        wanted: list[tuple[str, tuple[str | int, ...]]]
        wanted = [(name, (*loc, "tools", position)) for position, name in enumerate(names)]
        wanted += [(name, ("context_tools", position)) for position, name in enumerate(self.pipeline.context_tools)]
        for name, at in wanted:
            place = self.document.locate(*at)
            known = at[0] == "context_tools" and any(p.location == place for p in self.problems)
            tool = None if known else self._tool(toolset, name, place)
            if tool is not None:
                found.setdefault(tool.name, tool)
        return tuple(found.values())

    def _tool(self, toolset: ToolSet, name: str, place: Location) -> Tool | None:
        """Find a tool; where a file of tools could not be read, a name that is not found may stand in it."""
        told = len(self.problems)
        tool = self._try(partial(toolset.get, name), place)
        if not self._tools_complete:
            self.problems[told:] = [problem for problem in self.problems[told:] if problem.code != "unknown-tool"]
        return tool

    def _model(self, resolver: ProviderResolver, name: str, spec: AgentSpec) -> ModelRef | None:
        if self.provider is not None and spec.provider is None and self.provider not in self.pipeline.providers:
            return None  # said once, for `--provider`
        model = self.models.get(name, spec.model)
        place = None if name in self.models else self.document.locate("agents", name, "model")
        ref = self._try(lambda: resolver.resolve(model, spec.provider), place)
        near = resolver.near_alias(model, spec.provider) if ref is not None else None
        if near is not None:
            message = f"{model!r} is no alias, so it is taken as the literal name of a model"
            self.problems.append(Problem("near-alias", message, place, f"did you mean {near!r}?", "warning"))
        return ref

    def _output(self, spec: str | Mapping[str, Any] | None, loc: tuple[str, ...]) -> OutputSpec | None:
        if spec is None:
            return None
        return self._try(lambda: load_output(spec, self.imports), self.document.locate(*loc, "output"))

    def _check_fields(self, extension: Extension, nodes: Mapping[str, Node], parallelism: Parallelism) -> None:
        fields = {name: output_fields(node.output, extension) for name, node in nodes.items()}
        place = self.document.locate("state")
        self.problems += check_reducers(extension, fields, parallelism, place)
        for name in self.pipeline.inputs:
            if name in RESERVED:
                place = self.document.locate("inputs", name, key=True)
                message = f"the input {name!r} has the name of a field of the base state"
                self.problems.append(Problem("input-clash", message, place, "give the input another name"))

    def _check_templates(
        self, agents: Mapping[str, ResolvedAgent], steps: Mapping[str, ResolvedStep], extension: Extension
    ) -> None:
        known = BASE_NAMES | set(self.pipeline.inputs) | set(extension.annotations)
        for agent in agents.values():
            self.problems += agent.prompt.check(known)
        for name, step in steps.items():
            for argument, value in step.spec.args.items():
                place = self.document.locate("steps", name, "args", argument)
                for text in templates_in(value):
                    found = check_template(text, known)
                    self.problems += [Problem(p.code, p.message, place, p.hint, p.severity) for p in found]

    def _check_scripts(self, agents: Mapping[str, ResolvedAgent], resolver: ProviderResolver) -> None:
        """Read the scripts that will be played, and compare them with the agents that they are played for."""
        from orchestra.agents.script import check_script

        for name, players in played_from_scripts(agents).items():
            provider = agents[players[0]].model.provider
            script = self._try(partial(resolver.script, provider), self.document.locate("providers", name, "script"))
            if script is not None:
                self.problems += check_script(script, players)
