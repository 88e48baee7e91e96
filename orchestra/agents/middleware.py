"""What Orchestra adds to LangChain's agent loop, as middleware.

From the outside in: `TurnMiddleware` (limits, failed models, what a reply means, tool calls), LangChain's
`ModelRetryMiddleware` (attempts), `AttemptMiddleware` (one attempt: budget, events, pauses, truncated answers).
All of it hangs on the model and tool nodes that are there anyway, so that a model call costs one checkpoint.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from langchain.agents import AgentState
from langchain.agents.middleware import AgentMiddleware, ExtendedModelResponse, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.types import Command

from orchestra.agents import calls
from orchestra.agents.context import Snapshot, TurnFailed, newest_snapshot
from orchestra.agents.ordering import CallOrder
from orchestra.agents.outputs import OUTPUT_TOOL, InvalidOutputError, OutputSpec
from orchestra.agents.replies import refusals, settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from langchain.agents.middleware import ModelRequest, ToolCallRequest

    from orchestra.agents.attempts import AttemptMiddleware
    from orchestra.agents.context import Turn
    from orchestra.agents.providers import ModelRef
    from orchestra.tools.base import Tool, ToolResult

    Handler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ToolHandler = Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]

MAX_REPAIRS = 1
"""How often an agent may mend an invalid output inside a turn."""

_TEXT_CAP = 500


class TurnState(AgentState[Any]):
    """The state of the agent inside a turn; JSON and messages only."""

    snapshot: Annotated[Snapshot, newest_snapshot]
    repairs: NotRequired[Annotated[int, PrivateStateAttr]]


class TurnMiddleware(AgentMiddleware[Any, Any, Any]):
    """Holds an agent to its turn: how many calls, what its replies mean, in which order its tools run.

    Args:
        turn: The attempt of the turn.
        ref: The model.
        tools: The agent's tools by wire name.
        output: What the agent has to hand in, if anything.
        max_calls: Model calls a turn.
        attempts: The innermost middleware, which counts.
        redact: Takes secrets out of a text.
        answered: Ids of tool calls whose results a killed process left in the checkpoint's pending writes.
    """

    state_schema = TurnState

    def __init__(
        self,
        turn: Turn,
        ref: ModelRef,
        *,
        tools: Mapping[str, Tool],
        output: OutputSpec | None,
        max_calls: int,
        attempts: AttemptMiddleware,
        redact: Callable[[str], str],
        answered: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._turn = turn
        self._ref = ref
        self._tools = tools
        self._output = output
        self._max_calls = max_calls
        self._attempts = attempts
        self._redact = redact
        self._answered = frozenset(answered)
        self._order: tuple[str | None, CallOrder] | None = None
        """The id of a reply, and the order of its calls."""

    async def awrap_model_call(self, request: ModelRequest[Any], handler: Handler) -> Any:
        """Call the model within the turn's limits, and settle what its reply leads to."""
        if self._output is not None and _is_handed_in(request.messages):
            # The other calls of the reply that handed it in are done now.
            return ExtendedModelResponse(ModelResponse(result=[]), Command(update={"jump_to": "end"}))
        # Counted from the messages, thus the same after a resume, with no checkpoint of its own.
        made = sum(isinstance(message, AIMessage) for message in request.messages)
        if made >= self._max_calls:
            raise TurnFailed(
                f"agent {self._turn.agent!r} made {made} model calls in one turn and was not done",
                code="max-calls",
                retry="restart",
                hint=f"raise `max_calls` of {self._turn.agent!r}, or give it a smaller task",
            )
        response = await self._call(request, handler)
        self._answered = frozenset()  # the calls of this reply are all to come
        reply = next(message for message in response.result if isinstance(message, AIMessage))
        if calls.was_refused(reply):
            raise TurnFailed(
                f"model {self._ref.model!r} refused to answer ({calls.stop_reason(reply)})",
                code="model-refused",
                retry="never",
                hint="change the task or the model",
            )
        return self._settle(settled(reply, request.messages), request)

    async def awrap_tool_call(self, request: ToolCallRequest, handler: ToolHandler) -> ToolMessage | Command[Any]:
        """Run a tool call in its place, and take a snapshot after it."""
        call = request.tool_call
        identity = str(call["id"])
        async with self._calls_of(request).place_of(identity):
            tool = self._tools.get(call["name"])
            if tool is None:
                return self._unknown(call["name"], identity)
            result, content = await self._run(tool, request, handler)
            message = ToolMessage(
                content, name=call["name"], tool_call_id=identity, status="success" if result.ok else "error"
            )
            snapshot = await self._turn.after_tool() if tool.writes else {}
            if not snapshot:
                return message
            return Command(update={"messages": [message], "snapshot": snapshot})

    async def _call(self, request: ModelRequest[Any], handler: Handler) -> ModelResponse[Any]:
        while True:
            self._attempts.begin()
            try:
                return await handler(request)
            except Exception as error:
                if not calls.is_retryable(error):
                    raise
                failure = self._attempts.failure(error)
                if not await self._turn.model_failed(failure):
                    raise failure from error

    def _settle(self, reply: AIMessage, request: ModelRequest[Any]) -> Any:
        offered = [*self._tools, *([OUTPUT_TOOL] if self._output else [])]
        answers: list[Any] = list(refusals(reply, offered))
        refused = {answer.tool_call_id for answer in answers}
        update: dict[str, Any] = {}
        if self._output is not None:
            update = self._settle_output(self._output, reply, request, answers, refused)
        if reply.invalid_tool_calls and not reply.tool_calls:
            # Without a call that can be run LangChain would take the reply for the last one.
            update.setdefault("jump_to", "model")
        if calls.was_cut(reply) and not reply.tool_calls and not reply.invalid_tool_calls:
            self._turn.emit(
                "warning",
                code="answer-cut",
                message=f"the answer of {self._turn.agent!r} was cut at the token limit; raise `max_tokens`",
            )
        response: ModelResponse[Any] = ModelResponse(result=[reply, *answers])
        return ExtendedModelResponse(response, Command(update=update)) if update else response

    def _settle_output(
        self,
        output: OutputSpec,
        reply: AIMessage,
        request: ModelRequest[Any],
        answers: list[Any],
        refused: Collection[str],
    ) -> dict[str, Any]:
        """Answer what a reply hands in; return how the loop goes on."""
        handed = [call for call in reply.tool_calls if call["name"] == OUTPUT_TOOL]
        others = [call for call in reply.tool_calls if call["name"] != OUTPUT_TOOL]
        if (others or reply.invalid_tool_calls) and not handed:
            return {}
        try:
            output.check(reply)
        except InvalidOutputError as error:
            done = int(request.state.get("repairs", 0))  # type: ignore[call-overload]  # our own state field
            if done >= MAX_REPAIRS:
                return {"jump_to": "end"}  # the harness finds it invalid once more, also after a resume
            text = _repair_text(error.problems)
            answers.extend(
                ToolMessage(text, name=OUTPUT_TOOL, tool_call_id=call["id"], status="error")
                for call in handed
                if call["id"] not in refused
            )
            if not handed:
                if not reply.text.strip():
                    reply.content = "(no answer)"  # providers refuse an empty message in the middle
                answers.append(HumanMessage(text))
            self._turn.emit(
                "warning", code="output-repair", message=self._redact("; ".join(error.problems))[:_TEXT_CAP]
            )
            return {"repairs": done + 1, **({} if others else {"jump_to": "model"})}
        answers.extend(ToolMessage("Taken.", name=OUTPUT_TOOL, tool_call_id=call["id"]) for call in handed)
        # Other calls of the reply are run first; the loop ends when it comes back to the model.
        return {} if others else {"jump_to": "end"}

    def _calls_of(self, request: ToolCallRequest) -> CallOrder:
        messages = request.state["messages"]
        replies = [message for message in messages if isinstance(message, AIMessage)]
        if self._order is None or self._order[0] != replies[-1].id:
            given = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
            order = [(str(call["id"]), self._writes(call["name"])) for call in replies[-1].tool_calls]
            self._order = (replies[-1].id, CallOrder(order, self._answered | given))
        return self._order[1]

    def _writes(self, name: str) -> bool:
        tool = self._tools.get(name)
        return tool is not None and tool.writes

    async def _run(self, tool: Tool, request: ToolCallRequest, handler: ToolHandler) -> tuple[ToolResult, str]:
        async with self._turn.call("tool"):
            identity = str(request.tool_call["id"])
            args = _capped(request.tool_call["args"], self._redact)
            self._turn.emit("tool_started", tool=tool.name, call=identity, args=args)
            started = time.monotonic()
            message = await handler(request)
        result: ToolResult = message.artifact  # type: ignore[union-attr]  # `AgentTool` always answers with one
        self._turn.emit(
            "tool_ended",
            tool=tool.name,
            call=identity,
            ok=result.ok,
            duration_s=round(time.monotonic() - started, 3),
            exit_code=result.exit_code,
            result=result.content,
        )
        return result, result.content

    def _unknown(self, name: str, identity: str) -> ToolMessage:
        known = ", ".join(self._tools) or "none"
        text = f"there is no tool {name[:_TEXT_CAP]!r}; the tools are: {known}"
        call: dict[str, Any] = {"tool": name[:_TEXT_CAP], "call": identity, "unknown": True}
        self._turn.emit("tool_started", **call, args={})
        self._turn.emit("tool_ended", **call, ok=False, duration_s=0.0, exit_code=None, result=text)
        return ToolMessage(text, name=name, tool_call_id=identity, status="error")


def _is_handed_in(messages: Sequence[Any]) -> bool:
    """Return whether the last reply handed in an output that was taken."""
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            return False
        if isinstance(message, ToolMessage) and message.name == OUTPUT_TOOL and message.status == "success":
            return True
    return False


def _repair_text(problems: list[str]) -> str:
    listed = "\n".join(f"- {problem}" for problem in problems)
    return f"Your answer is not what was asked for:\n{listed}\nCall {OUTPUT_TOOL} again with the whole answer, mended."


def _capped(args: Any, redact: Callable[[str], str]) -> dict[str, Any]:
    """Return a call's arguments for the log: long texts cut, but not within a secret, everything JSON."""
    capped = {}
    for name, value in args.items():
        text = redact(value if isinstance(value, str) else repr(value))
        keep = isinstance(value, bool | int | float | None) or len(text) <= _TEXT_CAP
        capped[str(name)[:_TEXT_CAP]] = value if keep else f"{text[:_TEXT_CAP]}… ({len(text)} characters)"
    return capped
