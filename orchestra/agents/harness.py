"""Runs one agent for one turn: LangChain's agent loop inside the graph's node, resumable between any two steps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestra.agents.context import TurnFailed
from orchestra.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import RunnableConfig

    from orchestra.agents.calls import Backoff
    from orchestra.agents.context import Snapshot, Turn
    from orchestra.agents.outputs import OutputSpec
    from orchestra.agents.providers import ModelRef, ProviderResolver
    from orchestra.prompts.composer import ComposedPrompt
    from orchestra.tools.base import Tool

DEFAULT_MAX_CALLS = 100
"""Model calls a turn."""

COMMIT_TOOL = "git-commit"

_NO_BOUND = 1_000_000_000
"""Steps of LangGraph's."""


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What a turn gave."""

    output: Any
    """The final text, or with `output:` the validated JSON value."""
    text: str
    """The text of the last reply."""
    messages: list[BaseMessage]
    """The conversation inside the turn; private to it."""
    commit_messages: dict[str, str]
    """Repo → the message of the turn's last git-commit call there."""
    snapshot: Snapshot
    calls: int
    """Model calls."""
    decision: dict[str, Any] | None = None
    """How a person ended the turn of an interactive agent: its output, without the commits."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """How an interactive agent talks with a person."""

    when_absent: Literal["pause", "finish"]


class AgentHarness:
    """An agent, ready to run its turns.

    Args:
        name: The agent's name.
        prompt: Its composed prompt.
        tools: The tools it may call.
        resolver: Builds the model.
        ref: The model.
        output: What it has to hand in; None for plain text.
        max_calls: Model calls a turn.
        interaction: How it talks with a person; None: it works alone.
        backoff: How failed model calls are tried again; the scripted provider never waits.
    """

    def __init__(
        self,
        name: str,
        prompt: ComposedPrompt,
        tools: Sequence[Tool],
        resolver: ProviderResolver,
        ref: ModelRef,
        *,
        output: OutputSpec | None = None,
        max_calls: int = DEFAULT_MAX_CALLS,
        interaction: Interaction | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self._prompt = prompt
        self._tools = tuple(tools)
        self._resolver = resolver
        self._ref = ref
        self._output = output
        self._max_calls = max_calls
        self._interaction = interaction
        self._backoff = backoff

    async def run(
        self,
        *,
        variables: Mapping[str, Any],
        context: str,
        turn: Turn,
        config: RunnableConfig,
        decided: Mapping[str, Any] | None = None,
    ) -> TurnResult:
        """Run a turn, or go on with it from its last checkpoint.

        Args:
            variables: What the task's template sees.
            context: The first human message: inputs, outputs of others.
            turn: The attempt of the turn.
            config: The config of the node; the agent's checkpoints are stored under its namespace.
            decided: What a person decided in the agent's turn before.

        Raises:
            TurnFailed: The turn failed; its `retry` says how it may go on.
            AgentError: A limit of the session is reached.
        """
        from langchain_core.messages import HumanMessage

        from orchestra.agents.speech import Speech

        # A person may ask for ever; who counts then is the person.
        steps = _NO_BOUND if self._interaction else 2 * self._max_calls + 10
        inner = turn_config(config, turn.attempt, steps=steps)
        past = await _past(inner)
        prompt, message = self._system_prompt(variables), context if context.strip() else "Begin."
        agent = self._agent(prompt, turn, frozenset() if past is None else past, decided)
        if past is None:
            turn.emit("prompt_given", system=prompt, message=message)
        spoken = self._interaction is not None
        speech = Speech(turn, self._resolver.redact, self._resolver.untorn, spoken=spoken)
        first = {"messages": [HumanMessage(message)], "snapshot": turn.start}
        named: RunnableConfig = {**_with_callback(inner, speech), "run_name": f"{self.name} (turn {turn.number})"}
        result = self._result(await agent.ainvoke(first, named))
        if self._output is None and not result.text.strip():
            text = f"agent {self.name!r} ended its turn without an answer; say in its task what the answer has to hold"
            turn.emit("warning", code="empty-answer", message=text)
        return result

    def _system_prompt(self, variables: Mapping[str, Any]) -> str:
        from orchestra.agents.chat import INSTRUCTION as CONVERSATION
        from orchestra.agents.outputs import INSTRUCTION

        parts = [self._prompt.render(variables)]
        parts += [INSTRUCTION] if self._output is not None else []
        parts += [CONVERSATION] if self._interaction is not None else []
        return "\n\n".join(parts)

    def _agent(
        self,
        prompt: str,
        turn: Turn,
        answered: frozenset[str],
        decided: Mapping[str, Any] | None,
    ) -> Any:
        from langchain.agents import create_agent
        from langchain.agents.middleware import ModelRetryMiddleware

        from orchestra.agents.attempts import AttemptMiddleware
        from orchestra.agents.calls import NO_PAUSES, Backoff, is_retryable
        from orchestra.agents.chat import ChatMiddleware
        from orchestra.agents.middleware import TurnMiddleware, TurnState
        from orchestra.agents.toolbox import AgentTool, OutputTool

        try:
            model = self._resolver.build(self._ref, agent=self.name, turn=turn.number)
        except PipelineError as error:
            # A key, a package or an option was there when the session started.
            raise TurnFailed(error.message, code=error.code, retry="never", hint=error.hint) from error
        tools = [AgentTool.of(tool, turn) for tool in self._tools]
        scripted = self._ref.provider.type == "scripted"
        backoff = self._backoff or (NO_PAUSES if scripted else Backoff())
        by_wire_name = {wrapped.name: tool for wrapped, tool in zip(tools, self._tools, strict=True)}
        names = {wire: tool.name for wire, tool in by_wire_name.items()}
        attempts = AttemptMiddleware(turn, self._ref, backoff, self._resolver.redact, names)
        retries = ModelRetryMiddleware(
            max_retries=backoff.max_retries, retry_on=is_retryable, on_failure="error", initial_delay=0.0
        )
        limits = TurnMiddleware(
            turn,
            self._ref,
            tools=by_wire_name,
            output=self._output,
            max_calls=self._max_calls,
            attempts=attempts,
            redact=self._resolver.redact,
            answered=answered,
        )
        middleware: list[Any] = [limits, retries, attempts]
        if self._interaction is not None:
            chat = ChatMiddleware(
                turn, when_absent=self._interaction.when_absent, max_calls=self._max_calls, decided=decided
            )
            middleware.insert(0, chat)
        return create_agent(
            model,
            [*tools, OutputTool.of(self._output)] if self._output else tools,
            system_prompt=prompt or None,
            middleware=middleware,
            state_schema=TurnState,
        )

    def _result(self, state: Mapping[str, Any]) -> TurnResult:
        from langchain_core.messages import AIMessage

        messages: list[BaseMessage] = state["messages"]
        replies = [message for message in messages if isinstance(message, AIMessage)]
        last = replies[-1]
        text = str(last.text)
        output = self._validated(last) if self._output else text
        commit_messages = _commit_messages(messages, {tool.name for tool in self._tools})
        decision = (state.get("chat") or {}).get("decision")
        snapshot = state.get("snapshot") or {}
        return TurnResult(output, text, messages, commit_messages, snapshot, len(replies), decision)

    def _validated(self, reply: AIMessage) -> Any:
        from orchestra.agents.outputs import InvalidOutputError

        assert self._output is not None  # noqa: S101 - the caller looked
        try:
            return self._output.check(reply)
        except InvalidOutputError as error:
            raise TurnFailed(
                f"the output of agent {self.name!r} is invalid, also after a repair:\n"
                + "\n".join(f"- {problem}" for problem in error.problems),
                code="invalid-output",
                retry="restart",
                hint="make the `output` schema simpler, or say in the task what each field holds",
            ) from error


def turn_namespace(checkpoint_ns: str, attempt: int) -> str:
    """Return the namespace of the checkpoints inside an attempt of a turn.

    A further attempt has a namespace of its own in LangGraph's form for a node's further subgraphs: after a resume
    the node has the same task and with it the same namespace, where the failed attempt would be found and gone on with.

    Args:
        checkpoint_ns: The namespace of the node's task.
        attempt: 1 for the first.
    """
    return checkpoint_ns if attempt == 1 else f"{checkpoint_ns}|{attempt - 1}"


def turn_config(config: RunnableConfig, attempt: int, *, steps: int) -> RunnableConfig:
    """Return the config under which the agent inside a turn runs."""
    from langgraph._internal._constants import CONFIG_KEY_SCRATCHPAD

    inside: dict[str, Any] = dict(config.get("configurable", {}))
    if "checkpoint_ns" in inside:
        inside["checkpoint_ns"] = turn_namespace(inside["checkpoint_ns"], attempt)
    if scratchpad := inside.get(CONFIG_KEY_SCRATCHPAD):
        # LangGraph appends a count of the node's subgraphs in this process; which attempt this is must not hang on it.
        inside[CONFIG_KEY_SCRATCHPAD] = dataclasses.replace(scratchpad, subgraph_counter=lambda: 0)
    return {**config, "configurable": inside, "recursion_limit": steps}


def _with_callback(config: RunnableConfig, handler: BaseCallbackHandler) -> RunnableConfig:
    """Return a config with one more callback handler.

    LangChain's `merge_configs` would bring back the config of the node around it, with the first attempt's namespace.
    """
    callbacks = config.get("callbacks")
    if callbacks is None or isinstance(callbacks, list):
        return {**config, "callbacks": [*(callbacks or ()), handler]}
    callbacks = callbacks.copy()
    callbacks.add_handler(handler, inherit=True)
    return {**config, "callbacks": callbacks}


async def _past(config: RunnableConfig) -> frozenset[str] | None:
    """Return the tool calls whose results lie in the last checkpoint's pending writes: they won't run again.

    None: there is no checkpoint, the turn begins.
    """
    from langchain_core.messages import ToolMessage
    from langgraph._internal._constants import CONFIG_KEY_CHECKPOINTER

    inside = config.get("configurable", {})
    saver = inside.get(CONFIG_KEY_CHECKPOINTER)
    if saver is None or saver is True or "thread_id" not in inside:
        return None
    place = {"thread_id": inside["thread_id"], "checkpoint_ns": inside.get("checkpoint_ns", "")}
    saved = await saver.aget_tuple({"configurable": place})
    if saved is None:
        return None
    written = [value for _, _, value in saved.pending_writes or ()]
    messages = [item for value in written for item in (value if isinstance(value, list | tuple) else [value])]
    return frozenset(message.tool_call_id for message in messages if isinstance(message, ToolMessage))


def _commit_messages(messages: Sequence[BaseMessage], tools: set[str]) -> dict[str, str]:
    from langchain_core.messages import AIMessage, ToolMessage

    from orchestra.tools.wire import wire_name

    split = {name: name.partition(":") for name in tools}
    repos = {wire_name(name): repo for name, (repo, _, tool) in split.items() if tool == COMMIT_TOOL}
    done = {item.tool_call_id for item in messages if isinstance(item, ToolMessage) and item.status == "success"}
    asked: dict[str, str] = {}
    for reply in messages:
        for call in reply.tool_calls if isinstance(reply, AIMessage) else ():
            message = str(call["args"].get("message", "")).strip()
            if message and call["name"] in repos and call["id"] in done:
                asked[repos[call["name"]]] = message
    return asked
