"""What the nodes of a pipeline do: an agent's turn, a step's tool call."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage

from orchestra.agents.context import TurnFailed
from orchestra.agents.harness import AgentHarness, Interaction
from orchestra.agents.outputs import InvalidOutputError
from orchestra.graph.briefing import briefing
from orchestra.graph.extension import output_fields
from orchestra.prompts.composer import render_template

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from orchestra.agents.context import Turn
    from orchestra.graph.resolved import ResolvedAgent, ResolvedPipeline, ResolvedStep
    from orchestra.tools.registry import ToolResult


@dataclass(frozen=True)
class Outcome:
    """What a turn gives back to the graph."""

    update: dict[str, Any]
    commit_messages: dict[str, str] = field(default_factory=dict)
    decides: bool = False
    """Whether the output is a decision, which names the commits that it was made on."""


class AgentBody:
    """An agent's turn."""

    def __init__(self, agent: ResolvedAgent, pipeline: ResolvedPipeline) -> None:
        self._agent = agent
        self._pipeline = pipeline
        self._fields = output_fields(agent.output, pipeline.extension)
        self._harness = AgentHarness(
            agent.name,
            agent.prompt,
            agent.tools,
            pipeline.resolver,
            agent.model,
            output=agent.output,
            max_calls=agent.spec.max_calls,
            interaction=Interaction(agent.spec.when_absent) if agent.spec.mode == "interactive" else None,
        )
        self.worktrees = agent.worktrees
        self.writes = agent.writes

    async def __call__(self, state: Mapping[str, Any], turn: Turn, config: RunnableConfig) -> Outcome:
        """Run the agent with its prompt and its briefing."""
        name, spec = self._agent.name, self._agent.spec
        context = briefing(name, state, self._pipeline.topology, context=spec.context, turn=turn.number)
        variables = template_variables(state, self._pipeline, turn.number)
        before = state.get("agent_outputs", {}).get(name)
        decided = before if isinstance(before, Mapping) and "decision" in before else None
        result = await self._harness.run(
            variables=variables, context=context, turn=turn, config=config, decided=decided
        )
        decides = result.decision is not None
        output = result.decision if decides else result.output
        given = state.get("_given", {}).get(name, {})
        given = given if given.get("turn") == turn.number else {}
        output = given.get("output", output)
        text = result.text or ("" if isinstance(output, str) else json.dumps(output, ensure_ascii=False))
        message = AIMessage(text, name=name, id=f"{name}-{turn.number}")
        fields = _own_fields(output, tuple(name for name in self._fields if name not in given.get("fields", ())))
        update = {"agent_outputs": {name: output}, "messages": [message], **fields}
        return Outcome(update, result.commit_messages, decides)


class StepBody:
    """A step's turn: one tool call without a model."""

    def __init__(self, step: ResolvedStep, pipeline: ResolvedPipeline) -> None:
        self._step = step
        self._pipeline = pipeline
        self._fields = output_fields(step.output, pipeline.extension)
        self.worktrees = step.worktrees
        self.writes = step.writes

    async def __call__(self, state: Mapping[str, Any], turn: Turn, config: RunnableConfig) -> Outcome:  # noqa: ARG002 - the protocol's argument
        """Call the tool: a command's exit code is a result, and so is the error of a tool that can't do its work."""
        (tool,) = self._step.tools
        variables = template_variables(state, self._pipeline, turn.number)
        args = _rendered(dict(self._step.spec.args), variables, f"step {self._step.name!r}")
        async with turn.call("tool"):
            call = {"tool": tool.name, "call": f"{self._step.name}-{turn.number}"}
            turn.emit("tool_started", **call, args=args)
            started = time.monotonic()
            result = await tool.invoke(args, turn)
        turn.emit(
            "tool_ended",
            **call,
            ok=result.ok,
            exit_code=result.exit_code,
            duration_s=round(time.monotonic() - started, 3),
            result=result.content,
        )
        output = self._output(result)
        return Outcome({"agent_outputs": {self._step.name: output}, **_own_fields(output, self._fields)})

    def _output(self, result: ToolResult) -> Any:
        if self._step.output is None:
            return result.value
        try:
            return self._step.output.validate(result.value)
        except InvalidOutputError as error:
            problems = "\n".join(f"- {problem}" for problem in error.problems)
            message = f"the output of step {self._step.name!r} is invalid:\n{problems}"
            raise TurnFailed(message, code="invalid-output", retry="restart") from error


def template_variables(state: Mapping[str, Any], pipeline: ResolvedPipeline, turn: int) -> dict[str, Any]:
    """Return what a template sees: inputs by name, fields of the extension, outputs, metadata, the turn."""
    inputs = state.get("inputs", {})
    extension = {name: state[name] for name in pipeline.extension.annotations if name in state}
    messages = [{"name": message.name, "text": str(message.text)} for message in state.get("messages", ())]
    return {
        **inputs,
        **extension,
        "inputs": inputs,
        "agent_outputs": state.get("agent_outputs", {}),
        "metadata": state.get("metadata", {}),
        "messages": messages,
        "turn": turn,
    }


def _own_fields(output: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: output[name] for name in fields if isinstance(output, dict) and name in output}


def _rendered(value: Any, variables: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, str):
        return render_template(value, variables, where=where) if "{" in value else value
    if isinstance(value, dict):
        return {key: _rendered(item, variables, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, variables, where) for item in value]
    return value
