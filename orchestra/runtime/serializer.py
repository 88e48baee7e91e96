"""The strict serializer of the checkpoint database.

LangGraph's default imports and calls whatever a database row names. This one knows JSON, LangChain messages,
LangGraph's control types and errors as text; anything else is an error when it is written, and nothing in a row can
name code.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.types import Command, Interrupt, Overwrite, Send

from orchestra.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FORMAT = "orchestra-json"
"""The only row type that is written or read."""

TAG = "$"
"""The key that marks an encoded value; a user's mapping that has this key is itself encoded."""

MESSAGES: dict[str, type[BaseMessage]] = {
    "human": HumanMessage,
    "ai": AIMessage,
    "system": SystemMessage,
    "tool": ToolMessage,
    "remove": RemoveMessage,
}


class StrictSerializer:
    """Serializes a checkpoint's values to JSON and back, and refuses what it does not know."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Encode a value.

        Raises:
            SessionError: The value holds a type that has no place in a checkpoint; the message names it and its path.
        """
        try:
            text = json.dumps(_encode(obj, ""), ensure_ascii=False, separators=(",", ":"))
        except RecursionError:
            raise SessionError(
                "a value that is nested too deeply, or holds itself, can't be kept in a checkpoint",
                code="unserializable-state",
                hint="keep what is deep in a file, and its path in the state",
            ) from None
        return FORMAT, text.encode("utf-8", "surrogatepass")

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decode a value.

        Raises:
            SessionError: The row is not of this format; nothing of it has been evaluated.
        """
        kind, content = data
        if kind != FORMAT:
            raise SessionError(
                f"the session's database holds a row of the type {kind!r}, which Orchestra never writes",
                code="untrusted-checkpoint",
                hint="the database was changed or made by another program: don't resume it",
            )
        try:
            return _decode(json.loads(content.decode("utf-8", "surrogatepass")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SessionError(
                f"the session's database holds a row that can't be read: {type(error).__name__}: {error}",
                code="untrusted-checkpoint",
                hint="run `orchestra doctor`; the repositories and their session branches are not affected",
            ) from None


def _encode(value: Any, path: str) -> Any:
    kind = type(value)
    if value is None or kind in _PLAIN:
        return value
    if encode := _ENCODERS.get(kind):
        return encode(value, path)
    if isinstance(value, BaseMessage):
        return _encode_message(value, path)
    if isinstance(value, BaseException):
        return {TAG: "error", "type": kind.__name__, "message": str(value)}
    raise SessionError(
        f"a value of the type {kind.__module__}.{kind.__qualname__} can't be kept in a checkpoint "
        f"(at {path or 'the top'})",
        code="unserializable-state",
        hint="the state holds JSON values and messages only: convert it, with Pydantic's `model_dump(mode='json')`",
    )


def _encode_list(value: Iterable[Any], path: str) -> list[Any]:
    return [_encode(item, f"{path}[{index}]") for index, item in enumerate(value)]


def _encode_mapping(value: dict[Any, Any], path: str) -> dict[str, Any]:
    for key in value:
        if type(key) is not str:
            raise SessionError(
                f"a mapping with the key {key!r} can't be kept in a checkpoint (at {path or 'the top'})",
                code="unserializable-state",
                hint="use text keys",
            )
    encoded = {key: _encode(item, f"{path}.{key}") for key, item in value.items()}
    return {TAG: "mapping", "items": encoded} if TAG in encoded else encoded


def _encode_message(message: BaseMessage, path: str) -> dict[str, Any]:
    if MESSAGES.get(message.type) is not type(message):
        message = _plain(message, path)
    data = {key: value for key, value in message.model_dump().items() if key != "type"}
    return {TAG: "message", "kind": message.type, "data": _encode(data, path)}


def _plain(message: BaseMessage, path: str) -> BaseMessage:
    """Turn a streamed chunk into the message that it makes up."""
    from langchain_core.messages import BaseMessageChunk
    from langchain_core.messages.utils import message_chunk_to_message

    plain = message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message
    if MESSAGES.get(plain.type) is not type(plain):
        raise SessionError(
            f"a message of the type {type(message).__qualname__} can't be kept in a checkpoint "
            f"(at {path or 'the top'})",
            code="unserializable-state",
            hint="use human, ai, system or tool messages",
        )
    return plain


def _encode_command(value: Command[Any], path: str) -> dict[str, Any]:
    fields = {"graph": value.graph, "update": value.update, "resume": value.resume, "goto": value.goto}
    return {TAG: "command", **{key: _encode(item, f"{path}.{key}") for key, item in fields.items()}}


_PLAIN = frozenset({bool, int, float, str})
_ENCODERS: dict[type, Callable[[Any, str], Any]] = {
    list: _encode_list,
    dict: _encode_mapping,
    tuple: lambda value, path: {TAG: "tuple", "items": _encode_list(value, path)},
    Send: lambda value, path: {TAG: "send", "node": value.node, "arg": _encode(value.arg, f"{path}.arg")},
    Interrupt: lambda value, path: {TAG: "interrupt", "id": value.id, "value": _encode(value.value, f"{path}.value")},
    Overwrite: lambda value, path: {TAG: "overwrite", "value": _encode(value.value, f"{path}.value")},
    Command: _encode_command,
}


def _decode(value: Any) -> Any:
    if type(value) is list:
        return [_decode(item) for item in value]
    if type(value) is not dict:
        return value
    tag = value.get(TAG)
    if tag is None:
        return {key: _decode(item) for key, item in value.items()}
    if tag not in _DECODERS:
        raise SessionError(f"unknown mark {tag!r} in a checkpoint", code="untrusted-checkpoint")
    return _DECODERS[tag](value)


_DECODERS: dict[Any, Callable[[dict[str, Any]], Any]] = {
    "mapping": lambda value: {key: _decode(item) for key, item in value["items"].items()},
    "tuple": lambda value: tuple(_decode(item) for item in value["items"]),
    "message": lambda value: MESSAGES[value["kind"]](**_decode(value["data"])),
    "send": lambda value: Send(value["node"], _decode(value["arg"])),
    "interrupt": lambda value: Interrupt(value=_decode(value["value"]), id=value["id"]),
    "overwrite": lambda value: Overwrite(_decode(value["value"])),
    "command": lambda value: Command(**{key: _decode(value[key]) for key in ("graph", "update", "resume", "goto")}),
    "error": lambda value: RecordedError(f"{value['type']}: {value['message']}"),
}


class RecordedError(Exception):
    """An error that was stored with a checkpoint, as type name and text."""
