"""What happened in a turn, event by event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestra.cli.page.html import el
from orchestra.cli.page.texts import arguments, block, gist, value_block
from orchestra.cli.page.words import counted, duration
from orchestra.cli.prices import price

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestra.cli.page.html import Element, Node
    from orchestra.cli.page.texts import Room
    from orchestra.runtime.observability import Event

_ENTRY = 200
"""Bytes that an entry takes beside its texts, about."""


def items(events: Iterable[Event], room: Room) -> Iterator[Element | None]:
    """Yield what a page shows of the events of a turn (`story.tell`); None: there is no room left for it."""
    attempt = 1
    for event in events:
        show = _SHOWN.get(event.type)
        if room.left <= 0:
            if show is not None:
                yield None
            continue
        if (event.attempt or 1) != attempt:
            attempt = event.attempt or 1
            yield el("h4", f"Attempt {attempt}")
        if show is not None:
            room.left -= _ENTRY
            yield el("div", show(event.payload, room), class_=f"item item-{_STYLES.get(event.type, 'plain')}")


def _prompt(payload: Any, room: Room) -> Iterator[Node]:
    yield block(str(payload.get("system", "")), room, label="system prompt", style="prose", fold=True)
    yield block(str(payload.get("message", "")), room, label="message", style="prose", fold=True)


def _said(payload: Any, room: Room) -> Node:
    return block(str(payload["text"]), room, style="prose", left_out=payload["more"])


def _model(payload: Any, room: Room) -> Node:
    del room
    cached = payload.get("cached_tokens") or 0
    facts = [
        f"{payload.get('provider')}/{payload.get('model')}",
        f"{payload.get('input_tokens') or 0:,} in" + (f" ({cached:,} cached)" if cached else ""),
        f"{payload.get('output_tokens') or 0:,} out",
        price(payload.get("cost_usd")),
        duration(payload.get("duration_s") or 0.0),
        str(payload.get("stop_reason") or ""),
    ]
    return " · ".join(fact for fact in facts if fact)


def _model_failed(payload: Any, room: Room) -> Node:
    pause = payload.get("retry_in")
    then = "no further try" if pause is None else f"tried again after {duration(pause)}"
    head = f"model call failed, attempt {payload.get('attempt')}: {payload.get('error')}"
    return [el("span", head, class_="bad"), f" ({then})", block(str(payload.get("message", "")), room)]


def _tool(payload: Any, room: Room) -> Node:
    args = payload.get("args")
    summary = el(
        "summary",
        el("span", _glyph(payload), class_="glyph"),
        " ",
        el("code", str(payload.get("tool")), class_="tool"),
        " ",
        el("span", gist(args) if args else "", class_="gist"),
        " ",
        el("small", _how(payload), class_="dim"),
    )
    shown = arguments(args, room) if isinstance(args, dict) else block(str(args), room) if args else ""
    result = payload.get("result")
    answer = block(str(result), room, label="result") if result else ""
    failed = payload["ended"] and not payload.get("ok")
    return el("details", summary, shown, answer, class_="call failed" if failed else "call")


def _glyph(payload: Any) -> str:
    return "…" if not payload["ended"] else "✓" if payload.get("ok") else "✗"


def _how(payload: Any) -> str:
    if not payload["ended"]:
        return "was cut off"
    code = payload.get("exit_code")
    how = f"exit code {code}" if code is not None else "" if payload.get("ok") else "failed"
    return ", ".join(filter(None, [how, duration(payload.get("duration_s") or 0.0)]))


def _question(payload: Any, room: Room) -> Iterator[Node]:
    yield el("div", f"{payload.get('agent')} says", class_="label")
    yield block(str(payload.get("text", "")), room, style="prose")


def _answer(payload: Any, room: Room) -> Iterator[Node]:
    kind = str(payload.get("kind"))
    what = {"approve": "approves", "reject": "rejects", "done": "is done"}.get(kind, "answers")
    yield el("div", f"the person {what}", class_="label")
    yield block(str(payload.get("text", "")), room, style="prose")


def _left(payload: Any, room: Room) -> Node:
    del payload, room
    return "nobody was there to answer"


def _output(payload: Any, room: Room) -> Node:
    return value_block(payload.get("output"), room, label="handed over", style="prose")


def _chose(payload: Any, room: Room) -> Node:
    chosen = ", ".join(map(str, payload.get("targets") or ())) or "nothing"
    labels = payload.get("labels")
    said = f" ({', '.join(map(str, labels))})" if isinstance(labels, list) and labels else ""
    shown, _ = room.take(chosen + said)
    return ["→ the condition chose ", el("strong", shown)]


def _failed(payload: Any, room: Room) -> Iterator[Node]:
    left = payload.get("tries_left")
    tries = f", {counted(left, 'try', 'tries')} left" if isinstance(left, int) and left else ""
    yield el("div", el("span", f"failed: {payload.get('code')}", class_="bad"), tries)
    yield block(str(payload.get("message", "")), room)
    if payload.get("hint"):
        yield el("p", "hint: ", room.take(str(payload["hint"]))[0])


def _warning(payload: Any, room: Room) -> Node:
    code = payload.get("code")
    return [
        el("span", f"warning{f' {code}' if code else ''}: ", class_="warn"),
        room.take(str(payload.get("message")))[0],
    ]


def _committed(payload: Any, room: Room) -> Node:
    del room
    return ["committed ", el("code", str(payload.get("commit"))[:10]), f" in {payload.get('repo')}"]


def _kept(payload: Any, room: Room) -> Node:
    skipped = payload.get("skipped")
    if not isinstance(skipped, list) or not skipped:
        return ""
    return room.take(f"not kept, too large: {', '.join(map(str, skipped))}")[0]


def _started(payload: Any, room: Room) -> Node:
    del room
    return "goes on after it was interrupted" if payload.get("resumed") else ""


_SHOWN: dict[str, Callable[[Any, Room], Node]] = {
    "turn_started": _started,
    "prompt_given": _prompt,
    "said": _said,
    "model_ended": _model,
    "model_failed": _model_failed,
    "tool_called": _tool,
    "question_asked": _question,
    "human_turn": _answer,
    "question_left": _left,
    "output_given": _output,
    "condition_chose": _chose,
    "turn_failed": _failed,
    "warning": _warning,
    "turn_committed": _committed,
    "snapshot_taken": _kept,
}
_STYLES = {
    "prompt_given": "prompt",
    "said": "said",
    "model_ended": "model",
    "model_failed": "failure",
    "tool_called": "tool",
    "question_asked": "question",
    "human_turn": "answer",
    "output_given": "output",
    "condition_chose": "choice",
    "turn_failed": "failure",
    "warning": "warning",
}
