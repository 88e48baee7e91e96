"""Model replies, before they enter the state: JSON only, every tool call with an id of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, ToolMessage

from orchestra.agents.calls import was_cut
from orchestra.tools.arguments import DEEPEST, too_deep

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_core.messages import BaseMessage

_TOO_DEEP = f"the arguments are nested more than {DEEPEST} levels deep"


def settled(message: AIMessage, earlier: Iterable[BaseMessage]) -> AIMessage:
    """Return a reply as it may be stored and answered.

    What an integration leaves in the metadata is made JSON, lone surrogates go (they can't be stored), and each tool
    call has an id that no other call of the turn has: some servers number the calls of each reply anew. A call whose
    arguments are nested deeper than they could be stored becomes an invalid one.
    """
    taken = {call["id"] for other in earlier if isinstance(other, AIMessage) for call in _calls(other)}
    number = sum(isinstance(other, AIMessage) for other in earlier) + 1
    changes: dict[str, Any] = {
        "additional_kwargs": _plain(message.additional_kwargs),
        "response_metadata": _plain(message.response_metadata),
        "content": _plain(message.content),
    }
    for kind in ("tool_calls", "invalid_tool_calls"):
        calls = []
        for index, call in enumerate(getattr(message, kind)):
            known = call["id"] if call["id"] and call["id"] not in taken else None
            unique = known or _unused(f"{call['id'] or 'call'}-{number}-{index + 1}", taken)
            taken.add(unique)
            calls.append({**_plain(call), "id": unique})
        changes[kind] = calls
    _rename_blocks(changes["content"], [call["id"] for call in changes["tool_calls"]])
    deep = [too_deep(call["args"]) for call in message.tool_calls]
    changes["invalid_tool_calls"] += [
        {"name": call["name"], "args": "{}", "id": call["id"], "error": _TOO_DEEP, "type": "invalid_tool_call"}
        for call, is_deep in zip(changes["tool_calls"], deep, strict=True)
        if is_deep
    ]
    changes["tool_calls"] = [call for call, is_deep in zip(changes["tool_calls"], deep, strict=True) if not is_deep]
    return message.model_copy(update=changes)


def refusals(message: AIMessage, offered: Sequence[str]) -> list[ToolMessage]:
    """Answer the calls of a reply that can't be run: malformed arguments, and the last one of a reply that was cut."""
    known = ", ".join(offered) or "none"
    answers = [
        _refuse(call, f"{_reason(call)}; nothing was run. Call it again. Tools: {known}")
        for call in message.invalid_tool_calls
    ]
    # Clients complete a cut call's JSON: half a file's content would look like all of it.
    if was_cut(message) and message.tool_calls:
        reason = "your reply reached the token limit inside this call, so it was not run; do it in smaller pieces"
        answers.append(_refuse(message.tool_calls[-1], reason))
    return answers


def _rename_blocks(content: Any, ids: list[str]) -> None:
    """Give the calls inside the content, as Claude writes them, the ids of the calls beside it."""
    blocks = [block for block in content if isinstance(block, dict) and block.get("type") == "tool_use"]
    if len(blocks) == len(ids):
        for block, identity in zip(blocks, ids, strict=True):
            block["id"] = identity


def _reason(call: Any) -> str:
    return _TOO_DEEP if call.get("error") == _TOO_DEEP else "the arguments are not valid JSON"


def _refuse(call: Any, reason: str) -> ToolMessage:
    return ToolMessage(reason, name=call["name"] or "unknown", tool_call_id=call["id"], status="error")


def _calls(message: AIMessage) -> Iterable[Any]:
    return [*message.tool_calls, *message.invalid_tool_calls]


def _unused(name: str, taken: set[Any]) -> str:
    while name in taken:
        name += "-again"
    return name


def _plain(value: Any) -> Any:
    """Return a value as JSON, without lone surrogates, and cut where it is nested too deep to be stored."""
    text = json.dumps(_flattened(value) if too_deep(value) else value, default=str, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _flattened(value: Any, levels: int = DEEPEST) -> Any:
    if not isinstance(value, dict | list | tuple):
        return value
    if levels == 0:
        return None
    if isinstance(value, dict):
        return {key: _flattened(part, levels - 1) for key, part in value.items()}
    return [_flattened(part, levels - 1) for part in value]
