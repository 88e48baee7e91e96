"""A resolved pipeline as a plain LangGraph graph, and the state that a run of it starts with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph.types import Overwrite

from orchestra.graph.bodies import AgentBody, StepBody
from orchestra.graph.lowering import lower
from orchestra.graph.routing import Router
from orchestra.graph.topology import START

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

    from orchestra.graph.nodes import Body
    from orchestra.graph.resolved import ResolvedPipeline

RECURSION_LIMIT = 10**9
"""LangGraph's own bound would end long runs; `limits.max_steps` is Orchestra's."""


class GraphCompiler:
    """Compiles a pipeline to a `CompiledStateGraph` that can be run, streamed, drawn and embedded."""

    def __init__(self, pipeline: ResolvedPipeline) -> None:
        self._pipeline = pipeline

    def compile(self, checkpointer: BaseCheckpointSaver[Any] | None = None) -> CompiledStateGraph[Any, Any, Any, Any]:
        """Build the graph.

        Args:
            checkpointer: Where checkpoints go; with `orchestra run` the session's saver.
        """
        pipeline = self._pipeline
        bodies: dict[str, Body] = {name: AgentBody(agent, pipeline) for name, agent in pipeline.agents.items()}
        bodies |= {name: StepBody(step, pipeline) for name, step in pipeline.steps.items()}
        router = Router(pipeline.topology, pipeline.parallelism, pipeline.conditions)
        graph = lower(
            pipeline.topology,
            router,
            bodies,
            pipeline.extension.annotations,
            branches=pipeline.branches.lowered,
            layout=pipeline.slots,
            resolvers=pipeline.meetings,
            max_steps=pipeline.pipeline.limits.max_steps,
        )
        compiled = graph.compile(checkpointer=checkpointer, name=pipeline.pipeline.name)
        return compiled.with_config(recursion_limit=RECURSION_LIMIT)

    def initial_state(self, inputs: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
        """Return the state to invoke the graph with.

        Args:
            inputs: The values of the declared inputs.
            metadata: Such as `session_id` and `created_at`.
        """
        fields = self._pipeline.extension
        given = {name: value for name, value in inputs.items() if name in fields.annotations}
        first = {**fields.defaults, **given}
        return {
            # A first value is the field's start: it is not folded into LangGraph's own, which is 0 or empty.
            **{name: Overwrite(value) if fields.has_reducer(name) else value for name, value in first.items()},
            "inputs": dict(inputs),
            "metadata": {"pipeline": self._pipeline.pipeline.name, **metadata},
        }


def entries(pipeline: ResolvedPipeline) -> list[str]:
    """Return what may start first."""
    leaving = pipeline.topology.edges.get(START, ())
    return list(dict.fromkeys(target for edge in leaving for target in edge.reachable))
