"""The second look at a turn: its events as a reader wants them, texts in one piece, calls with their results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestra.runtime.observability import Event

MOST_TEXT = 100_000
"""Characters of one text that are held; how many more there were is told."""
_HANDS_OVER = frozenset({"output_given", "question_asked"})
_BESIDE = frozenset({"model_ended", "snapshot_taken", "turn_committed"})
"""They stand before the text: the call before what it brought, the commit before what is handed over."""


def tell(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events of one turn, and in their place two that no log has.

    `said` is what an agent wrote in one go: `text`, `spoken`, and `more`, the characters that are left out; it is not
    told where the next event hands over the same text. `tool_called` has the payloads of `tool_started` and
    `tool_ended`, and `ended`, whether the call came to its end.
    """
    held: Event | None = None
    for event in _with_calls(_with_texts(events)):
        if held is not None and not _repeats(held, event):
            if event.type in _BESIDE:
                yield event
                continue
            yield held
            held = None
        elif held is not None:
            held = None
        if event.type == "said":
            held = event
        else:
            yield event
    if held is not None:
        yield held


def _repeats(said: Event, event: Event) -> bool:
    if event.type not in _HANDS_OVER:
        return False
    value = event.payload.get("output", event.payload.get("text"))
    if isinstance(value, dict):
        value = value.get("text")
    return isinstance(value, str) and value.strip() == str(said.payload["text"]).strip()


def _with_texts(events: Iterable[Event]) -> Iterator[Event]:
    first: Event | None = None
    pieces: list[str] = []
    room, more = MOST_TEXT, 0
    for event in events:
        if event.type == "text_delta":
            text = str(event.payload.get("text", ""))
            first = first or event
            pieces.append(text[:room])
            more += max(len(text) - room, 0)
            room = max(room - len(text), 0)
            continue
        if first is not None:
            yield _said(first, pieces, more)
            first, pieces, room, more = None, [], MOST_TEXT, 0
        yield event
    if first is not None:
        yield _said(first, pieces, more)


def _said(first: Event, pieces: list[str], more: int) -> Event:
    spoken = bool(first.payload.get("spoken", True))
    return replace(first, type="said", payload={"text": "".join(pieces), "spoken": spoken, "more": more})


def _with_calls(events: Iterable[Event]) -> Iterator[Event]:
    begun: dict[Any, Event] = {}
    for event in events:
        key = (event.payload.get("call", event.payload.get("tool")), event.attempt)
        if event.type == "tool_started":
            begun[key] = event
            continue
        if event.type == "tool_ended":
            start = begun.pop(key, None)
            called = {**(start.payload if start else {}), **event.payload, "ended": True}
            yield replace(start or event, type="tool_called", payload=called)
            continue
        if event.type in ("turn_started", "turn_failed", "turn_ended"):
            yield from _cut_off(begun)
        yield event
    yield from _cut_off(begun)


def _cut_off(begun: dict[Any, Event]) -> Iterator[Event]:
    for event in begun.values():
        yield replace(event, type="tool_called", payload={**event.payload, "ended": False})
    begun.clear()
