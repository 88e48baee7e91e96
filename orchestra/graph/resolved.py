"""A pipeline whose every name has been found: what the compiler lowers and the runtime drives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from orchestra.agents.outputs import OutputSpec
    from orchestra.agents.providers import ModelRef, ProviderResolver
    from orchestra.documents import Document
    from orchestra.errors import Problem
    from orchestra.graph.conditions import ConditionRegistry
    from orchestra.graph.extension import Extension
    from orchestra.graph.meetings import Meetings
    from orchestra.graph.parallel import Parallelism
    from orchestra.graph.regions import Branches
    from orchestra.graph.schema import AgentSpec, Pipeline, StepSpec
    from orchestra.graph.slots import Slots
    from orchestra.graph.topology import Topology
    from orchestra.prompts.composer import ComposedPrompt
    from orchestra.prompts.discovery import FileDiscovery
    from orchestra.tools.registry import Tool, ToolSet


@dataclass(frozen=True)
class Node:
    """What agents and steps have in common: their tools and what these touch."""

    name: str
    tools: tuple[Tool, ...]
    output: OutputSpec | None
    repos: tuple[str, ...]
    """Of the workspace."""

    @property
    def writes(self) -> tuple[str, ...]:
        """Repos that a tool of this node may change."""
        return self._touched(lambda tool: tool.writes)

    @property
    def worktrees(self) -> tuple[str, ...]:
        """Repos in which this node needs a worktree."""
        return self._touched(lambda tool: tool.writes or tool.needs_worktree)

    @property
    def reads(self) -> tuple[str, ...]:
        """Repos whose objects suffice."""
        return tuple(repo for repo in self._touched(lambda _: True) if repo not in self.worktrees)

    def _touched(self, which: Callable[[Tool], bool]) -> tuple[str, ...]:
        chosen = [tool for tool in self.tools if which(tool)]
        everywhere = any(tool.repo is None for tool in chosen)
        return tuple(repo for repo in self.repos if everywhere or any(tool.repo == repo for tool in chosen))


@dataclass(frozen=True)
class ResolvedAgent(Node):
    """An agent with everything that it names."""

    spec: AgentSpec
    prompt: ComposedPrompt
    model: ModelRef


@dataclass(frozen=True)
class ResolvedStep(Node):
    """A step with its tool."""

    spec: StepSpec


@dataclass(frozen=True)
class ResolvedPipeline:
    """A pipeline whose every name has been found."""

    pipeline: Pipeline
    document: Document
    discovery: FileDiscovery
    topology: Topology
    parallelism: Parallelism
    branches: Branches
    slots: Slots
    meetings: Meetings
    agents: Mapping[str, ResolvedAgent]
    steps: Mapping[str, ResolvedStep]
    conditions: ConditionRegistry
    toolset: ToolSet
    resolver: ProviderResolver
    extension: Extension
    repo_paths: Mapping[str, Path]
    """The directory of each repo that is used; empty where a session knows them already."""
    warnings: tuple[Problem, ...] = ()
    model_problems: tuple[Problem, ...] = ()
    """Missing keys, integrations and the implicit repo: warnings when compiling, errors when running."""

    @property
    def nodes(self) -> dict[str, Node]:
        """Agents and steps by name."""
        return {**self.agents, **self.steps}
