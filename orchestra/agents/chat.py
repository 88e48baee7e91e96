"""The conversation inside an interactive agent's turn, as middleware of LangChain's agent loop (DESIGN §6).

What an agent says without calling a tool is handed to a person, in a node of its own behind the model's: so each human
turn is a checkpoint boundary, and no model call is repeated when the answer comes days later in another process. What a
person takes back goes by a step forward, too: the messages are removed, the files put back, and history keeps both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from langchain.agents.middleware import AgentMiddleware, ModelResponse, hook_config
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.types import interrupt

from orchestra.agents.context import Snapshot  # noqa: TC001 - LangGraph reads the annotations of states
from orchestra.agents.conversation import Question, Said, attempt_id, decision, meant
from orchestra.agents.middleware import TurnState
from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from langchain.agents.middleware import ModelRequest
    from langgraph.runtime import Runtime

    from orchestra.agents.context import Turn

    Handler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]

INSTRUCTION = (
    "You talk with a person. Whatever you answer without calling a tool is shown to them, and they answer you, or end "
    "the conversation with a decision. Use your tools first, where you need them to answer well. What you say last is "
    "handed on as your result: after a question beside it, repeat the result as a whole."
)
"""What an interactive agent's prompt says of the conversation, behind the user's own layers."""

NOTHING_TO_UNDO = "there is nothing to take back: you have said nothing in this turn yet"
TAKEN_BACK = "your last message is taken back, with what was done on it"


class HumanTurn(TypedDict):
    """One message of the person, and where the turn stood before it."""

    message: str
    """The id of the message."""
    snapshot: Snapshot


class Chat(TypedDict):
    """How a conversation stands."""

    asked: int
    """How many questions have been answered; it never goes back, so that no id of a question comes twice."""
    turns: list[HumanTurn]
    """The messages that count, those that were taken back left out."""
    note: str | None
    """What the next question has to say beside the agent's words."""
    decision: dict[str, Any] | None
    """How the person ended the turn: the agent's output, without the commits."""


class ChatState(TurnState):
    """The state of an interactive agent inside its turn."""

    chat: NotRequired[Chat]


class ChatMiddleware(AgentMiddleware[Any, Any, Any]):
    """Hands over to the person whenever the agent has spoken.

    Args:
        turn: The attempt of the turn.
        when_absent: What happens at the first answer when nobody is there.
        max_calls: Model calls a turn.
        decided: The agent's output of its turn before, which a person decided; None in its first.
    """

    state_schema = ChatState

    def __init__(
        self,
        turn: Turn,
        *,
        when_absent: Literal["pause", "finish"],
        max_calls: int,
        decided: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        self._turn = turn
        self._when_absent = when_absent
        self._max_calls = max_calls
        self._decided = decided

    async def awrap_model_call(self, request: ModelRequest[Any], handler: Handler) -> Any:
        """Call the model, unless it has spoken already, or may not any more: then the person's turn comes."""
        if _has_spoken(request.messages) or self._spent(request.messages):
            return ModelResponse(result=[])
        return await handler(request)

    @hook_config(can_jump_to=["model", "end"])
    async def aafter_model(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Hand over to the person, where it is the person's turn."""
        del runtime
        messages: Sequence[AnyMessage] = state["messages"]
        if jump := state.get("jump_to"):
            return {"jump_to": jump}  # the model's node has set it, and it lives for one step
        if _open_calls(messages):
            return None
        if not _has_spoken(messages) and not self._spent(messages):
            return {"jump_to": "model"}
        chat: Chat = state.get("chat") or Chat(asked=0, turns=[], note=None, decision=None)
        question = self._question(messages, chat)
        said = await self._hear(question, first=chat["asked"] == 0)
        return await self._take(said, question, chat, state)

    def _question(self, messages: Sequence[AnyMessage], chat: Chat) -> Question:
        turn, note = self._turn, chat["note"]
        if not _has_spoken(messages):
            spent = f"{turn.agent} can't answer any more: {self._spent(messages)}"
            note = f"{note}; {spent}" if note else spent
        identity = f"{attempt_id(turn.agent, turn.number, turn.attempt)}.{chat['asked']}"
        return Question(identity, turn.agent, turn.number, _last_words(messages), note)

    def _spent(self, messages: Sequence[AnyMessage]) -> str | None:
        """Say why the model may not be called any more; a conversation is not thrown away for that.

        Before the person has said anything there is none, and limits are those of other agents.
        """
        if _calls(messages) >= self._max_calls:
            return f"it has made its {self._max_calls} model calls (`max_calls`)"
        if any(isinstance(message, HumanMessage) for message in messages[1:]):
            try:
                self._turn.check_budget()
            except OrchestraError as error:
                return error.message
        return None

    async def _hear(self, question: Question, *, first: bool) -> Said:
        if first and self._when_absent == "finish" and not await self._turn.is_heard(question.id):
            return Said("done", "")
        line = await self._turn.ask(question, self._decided)
        if line is None:
            line = str(interrupt({"question": {"agent": question.agent, "text": question.text}}))
        return meant(line)

    async def _take(self, said: Said, question: Question, chat: Chat, state: Mapping[str, Any]) -> dict[str, Any]:
        messages: Sequence[AnyMessage] = state["messages"]
        after: Chat = {**chat, "asked": chat["asked"] + 1, "note": None}
        if said.kind == "undo":
            return await self._undo(after, messages)
        # A person may have changed files meanwhile, too: the next checkpoint names what is there.
        snapshot = await self._turn.after_tool()
        files: dict[str, Any] = {"snapshot": snapshot} if snapshot else {}
        if said.kind != "message":
            after["decision"] = decision(said, question)
            return {"chat": after, "jump_to": "end", **files}
        message = HumanMessage(said.text, id=f"human.{question.id}")
        after["turns"] = [*chat["turns"], {"message": f"human.{question.id}", "snapshot": state["snapshot"]}]
        return {"chat": after, "messages": [*_filled(messages[-1]), message], "jump_to": "model", **files}

    async def _undo(self, after: Chat, messages: Sequence[AnyMessage]) -> dict[str, Any]:
        if not after["turns"]:
            after["note"] = NOTHING_TO_UNDO
            return {"chat": after, "jump_to": "model"}
        last = after["turns"][-1]
        identities = [message.id for message in messages]
        since = identities[identities.index(last["message"]) :]
        snapshot = await self._turn.rewind(last["snapshot"])
        after["turns"] = after["turns"][:-1]
        after["note"] = TAKEN_BACK
        update = {"chat": after, "messages": [RemoveMessage(str(one)) for one in since], "jump_to": "model"}
        return {**update, "snapshot": snapshot} if snapshot else update


def _filled(reply: AnyMessage) -> list[AnyMessage]:
    """Give an empty reply a text: providers refuse an empty message in the middle."""
    is_empty = isinstance(reply, AIMessage) and not reply.tool_calls and not reply.text.strip()
    return [reply.model_copy(update={"content": "(no answer)"})] if is_empty else []


def _has_spoken(messages: Sequence[AnyMessage]) -> bool:
    """Tell whether the last message is a reply of the agent without a call of a tool."""
    last = messages[-1]
    return isinstance(last, AIMessage) and not last.tool_calls and not last.invalid_tool_calls


def _calls(messages: Sequence[AnyMessage]) -> int:
    return sum(isinstance(message, AIMessage) for message in messages)


def _open_calls(messages: Sequence[AnyMessage]) -> bool:
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    replies = [message for message in messages if isinstance(message, AIMessage)]
    return bool(replies) and any(call["id"] not in answered for call in replies[-1].tool_calls)


def _last_words(messages: Sequence[AnyMessage]) -> str:
    replies = [message for message in messages if isinstance(message, AIMessage)]
    return str(replies[-1].text) if replies else ""
