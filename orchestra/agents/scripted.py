"""The scripted model: plays recorded replies, so that a pipeline can be tested, shown and reproduced with no key.

Which reply comes next depends on the state alone (the agent's turn number, the replies already in the messages), so
that resume and replay give the same. Only `times` of an error counts the attempts of the running process.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any

from langchain_core import exceptions
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from orchestra.agents.context import TurnFailed
from orchestra.agents.outputs import OUTPUT_TOOL, wire_value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool

    from orchestra.agents.script import Reply

_ERRORS: dict[str, tuple[type[Exception], str]] = {
    "rate_limit": (exceptions.ModelRateLimitError, "429: rate limit reached"),
    "overloaded": (exceptions.ModelAPIError, "529: overloaded"),
    "timeout": (exceptions.ModelTimeoutError, "the request timed out"),
    "server": (exceptions.ModelAPIError, "500: internal server error"),
    "auth": (exceptions.ModelAuthenticationError, "401: invalid API key"),
    "connection": (exceptions.ModelConnectionError, "connection refused"),
    "not_found": (exceptions.ModelNotFoundError, "404: no such model"),
    "invalid_request": (exceptions.ModelInvalidRequestError, "400: invalid request"),
    "context_overflow": (exceptions.ContextOverflowError, "400: prompt is too long"),
}


class ScriptedChatModel(BaseChatModel):
    """A LangChain chat model whose replies come from a script."""

    script: Any = Field(exclude=True, repr=False)
    """The `Script`; Any, since a script counts and must not be copied by validation."""
    agent: str
    turn: int = 1
    model_name: str = "scripted"
    provider: str = "scripted"
    streaming: bool = True
    """LangChain streams where this was given when the model was made."""

    @property
    def _llm_type(self) -> str:
        return "orchestra-scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools: the script decides what is called, an `output` goes to the structured-output tool."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - LangChain's signature
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._reply(messages)
        time.sleep(reply.delay)
        return ChatResult(generations=[ChatGeneration(message=self._message(reply, messages, kwargs))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._reply(messages)
        await asyncio.sleep(reply.delay)
        return ChatResult(generations=[ChatGeneration(message=self._message(reply, messages, kwargs))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages)
        time.sleep(reply.delay)
        yield from _chunks(self._message(reply, messages, kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = self._reply(messages)
        await asyncio.sleep(reply.delay)
        for chunk in _chunks(self._message(reply, messages, kwargs)):
            yield chunk

    def _reply(self, messages: list[BaseMessage]) -> Reply:
        replies = sum(isinstance(message, AIMessage) for message in messages)
        reply: Reply | None = self.script.next_reply(self.agent, self.turn, replies)
        if reply is None:
            raise self._exhausted(replies)
        return reply

    def _message(self, reply: Reply, messages: list[BaseMessage], bound: dict[str, Any]) -> AIMessage:
        if reply.error is not None and reply.error != "truncated":
            kind, problem = _ERRORS[reply.error]
            raise kind(f"{problem} (scripted)")
        replies = sum(isinstance(message, AIMessage) for message in messages)
        text, calls = reply.text, [(_wire_name(call.name, bound), dict(call.args)) for call in reply.tools]
        if reply.has_output:
            tool = _output_tool(bound)
            if tool is None:
                text = text or json.dumps(reply.output, ensure_ascii=False)
            else:
                calls = [(tool["name"], wire_value(tool.get("parameters", {}), reply.output))]
        message = AIMessage(
            content=text,
            tool_calls=[
                {"name": name, "args": args, "id": f"call-{self.turn}-{replies + 1}-{index + 1}"}
                for index, (name, args) in enumerate(calls)
            ],
            usage_metadata=_usage(reply),
            response_metadata={"model_name": self.model_name, "model_provider": self.provider},
        )
        if reply.error is None:
            usual = "tool_use" if calls else "end_turn"
            message.response_metadata["stop_reason"] = reply.stop_reason or usual
        if "cost_usd" in reply.usage:
            message.response_metadata["cost_usd"] = reply.usage["cost_usd"]
        return message

    def _exhausted(self, replies: int) -> TurnFailed:
        place = self.script.place_to_add(self.agent, self.turn)
        turns = len(self.script.agents.get(self.agent, ()))
        if turns < self.turn:
            missing = f"no turn {self.turn} for the agent {self.agent!r} (it has {turns})"
            hint = f"add a turn for {self.agent!r} in {place.path}, after line {place.line}: - [{{text: …}}]"
        else:
            missing = f"no reply {replies + 1} in turn {self.turn} of the agent {self.agent!r}"
            hint = f"add a reply in {place.path}, after line {place.line}: {{text: …}}"
        error = TurnFailed(f"the script has {missing}", code="script-exhausted", retry="never", hint=hint)
        error.location = place
        return error


def _wire_name(name: str, bound: dict[str, Any]) -> str:
    """Return the name under which a tool of a script travels; as in a pipeline, a bare name is enough for one repo."""
    from orchestra.tools.wire import wire_name

    full = wire_name(name)
    offered = [tool["function"]["name"] for tool in bound.get("tools") or [] if "function" in tool]
    same = [known for known in offered if known.endswith(f"__{full}")]
    return same[0] if full not in offered and len(same) == 1 else full


def _output_tool(bound: dict[str, Any]) -> dict[str, Any] | None:
    """Return the tool that takes the structured output: ours, or the only one where one must be called."""
    tools = [tool["function"] for tool in bound.get("tools") or [] if "function" in tool]
    for tool in tools:
        if tool["name"] == OUTPUT_TOOL:
            return dict(tool)
    return dict(tools[0]) if len(tools) == 1 and bound.get("tool_choice") else None


def _usage(reply: Reply) -> Any:
    given = reply.usage
    read, written = int(given.get("input_tokens", 0)), int(given.get("output_tokens", 0))
    return {
        "input_tokens": read,
        "output_tokens": written,
        "total_tokens": read + written,
        "input_token_details": {"cache_read": int(given.get("cached_tokens", 0))},
    }


def _chunks(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    """Cut a message as a provider streams it: words, then tool calls, then usage and the stop reason."""
    for word in re.findall(r"\s*\S+\s*$|\s*\S+|\s+", message.text):
        yield ChatGenerationChunk(message=AIMessageChunk(content=word))
    for index, call in enumerate(message.tool_calls):
        chunk: Any = {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": index}
        yield ChatGenerationChunk(
            message=AIMessageChunk(content="", tool_call_chunks=[{**chunk, "type": "tool_call_chunk"}])
        )
    last = AIMessageChunk(
        content="", usage_metadata=message.usage_metadata, response_metadata=message.response_metadata
    )
    last.chunk_position = "last"
    yield ChatGenerationChunk(message=last)
