"""From the event log to spans: session → turn → model call or tool call.

A span is known by the number of the event that it began with. So whichever process reads the log, it makes of it the
same spans with the same keys, of what another process did, too: of one that was killed it ends what stood open, at
the time of its last event. A turn that several processes worked on has a span for each: every span lies within one
drive, and no process has to wait for another one to end what it began.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.runtime.telemetry.span import Kind, Moment, Span
from orchestra.runtime.telemetry.telling import MOMENTS, Subject, name_or_none, number, part, present, spoken

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.runtime.observability import Event
    from orchestra.runtime.telemetry.span import Value

_ENDS = {
    "session_completed": "completed",
    "session_failed": "failed",
    "session_paused": "paused",
    "session_interrupted": "interrupted",
    "session_cancelled": "cancelled",
}
OUTCOME = "orchestra.outcome"


@dataclass(slots=True)
class _Turn:
    """A turn that is under way."""

    span: Span
    last: str
    """The time of its last event."""
    model: Span | None = None
    text: list[str] = field(default_factory=list)
    """What the model has written in this call."""
    tools: dict[str, Span] = field(default_factory=dict)


class SpanFold:
    """Makes spans of events, which come in their order; a span is handed out once it has ended."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._root: int | None = None
        self._drives = 0
        self._drive: Span | None = None
        self._turns: dict[tuple[str, int], _Turn] = {}
        self._forked_from: dict[str, Any] = {}
        self._last = ""
        self._ended: list[Span] = []
        self._handlers: dict[str, Callable[[Event], None]] = {
            "session_started": self._drive_begins,
            "session_resumed": self._drive_begins,
            "session_forked": self._forked,
            "turn_started": self._turn_begins,
            "turn_ended": self._turn_ends,
            "turn_failed": self._turn_fails,
            "turn_stopped": self._turn_fails,
            "prompt_given": self._prompt,
            "output_given": self._output,
            "model_started": self._model_begins,
            "model_ended": self._model_ends,
            "model_failed": self._model_fails,
            "text_delta": self._writes,
            "tool_started": self._tool_begins,
            "tool_ended": self._tool_ends,
            **dict.fromkeys(_ENDS, self._drive_ends),
            **dict.fromkeys(MOMENTS, self._moment),
        }
        if not subject.contents:
            for name in ("prompt_given", "output_given", "text_delta"):
                del self._handlers[name]

    @property
    def types(self) -> frozenset[str]:
        """The types of events that make a difference."""
        return frozenset(self._handlers)

    def feed(self, event: Event) -> list[Span]:
        """Take the next event; returns the spans that have ended."""
        handler = self._handlers.get(event.type)
        if handler is not None:
            handler(event)
            self._last = event.time
            if turn := self._turn(event):
                turn.last = event.time
        return self._take()

    def close(self, outcome: str = "interrupted") -> list[Span]:
        """End whatever stands open, at the time of the last event."""
        self._close(outcome, self._last)
        return self._take()

    def _take(self) -> list[Span]:
        ended, self._ended = self._ended, []
        return ended

    def _end(self, span: Span, time: str, outcome: str | None = None) -> None:
        span.end = time
        if outcome:
            span.attributes[OUTCOME] = outcome
        self._ended.append(span)

    # --- the session

    def _forked(self, event: Event) -> None:
        """Begin anew: what was before are the other session's events, and its spans."""
        self._root, self._drive, self._drives = None, None, 0
        self._turns.clear()
        self._ended.clear()
        self._forked_from = {
            "orchestra.forked_from.session.id": name_or_none(event.payload.get("session_id")),
            "orchestra.forked_from.checkpoint": name_or_none(event.payload.get("checkpoint_id")),
        }

    def _drive_begins(self, event: Event) -> None:
        self._close("killed", self._last)
        self._drives += 1
        pipeline = self._subject.pipeline
        names = {"gen_ai.operation.name": "invoke_workflow", "gen_ai.agent.name": pipeline}
        about = self._subject.about(**names, **{"orchestra.drive": self._drives}, **self._forked_from)
        name = f"invoke_workflow {pipeline}"
        self._drive = Span(event.seq, self._root, Kind.SESSION, name, event.time, about)
        if self._root is None:
            self._root = event.seq

    def _drive_ends(self, event: Event) -> None:
        if self._drive is not None and event.type == "session_failed":
            self._fail(self._drive, event)
        self._close(_ENDS[event.type], event.time)

    def _close(self, outcome: str, time: str) -> None:
        for place in list(self._turns):
            self._close_turn(place, outcome, time)
        if self._drive is not None:
            self._end(self._drive, time, outcome)
            self._drive = None

    def _fail(self, span: Span, event: Event) -> None:
        span.error = name_or_none(event.payload.get("code")) or "_OTHER"
        span.message = self._subject.message(event.payload.get("message"))

    def _moment(self, event: Event) -> None:
        turn = self._turn(event)
        span = turn.span if turn else self._drive
        if span is None or (event.type == "checkpoint" and event.payload.get("namespace")):
            return  # those inside turns and branches are many, and a span holds only so many moments
        span.moments.append(Moment(f"orchestra.{event.type}", event.time, self._subject.moment(event)))
        if turn and event.type == "turn_committed" and (repo := name_or_none(event.payload.get("repo"))):
            span.attributes |= present({f"orchestra.commit.{repo}": name_or_none(event.payload.get("commit"))})

    # --- turns

    def _turn(self, event: Event) -> _Turn | None:
        number_ = event.turn if event.turn is not None else event.payload.get("turn")
        return self._turns.get((event.node, number_)) if event.node and isinstance(number_, int) else None

    def _turn_begins(self, event: Event) -> None:
        if event.node is None or event.turn is None or self._drive is None:
            return
        place = (event.node, event.turn)
        if place in self._turns:  # the attempt before
            self._close_turn(place, "failed", self._turns[place].last)
        is_agent = event.node in self._subject.agents
        about: dict[str, Value | None] = {
            "gen_ai.operation.name": "invoke_agent" if is_agent else None,
            "gen_ai.agent.name": event.node if is_agent else None,
            "orchestra.node": event.node,
            "orchestra.turn": event.turn,
            "orchestra.attempt": event.attempt,
            "orchestra.resumed": bool(event.payload.get("resumed")),
        }
        name = f"{'invoke_agent' if is_agent else 'step'} {event.node}"
        self._turns[place] = _Turn(
            Span(event.seq, self._drive.key, Kind.TURN, name, event.time, self._subject.about(**about)), event.time
        )

    def _turn_ends(self, event: Event) -> None:
        if turn := self._turn(event):
            turn.span.error = turn.span.message = None
            self._close_turn((event.node or "", turn_number(event)), "ended", event.time)

    def _turn_fails(self, event: Event) -> None:
        """Note why it failed: it ends when the next attempt begins or the session stops, and may also just go on."""
        if turn := self._turn(event):
            self._fail(turn.span, event)
            name = f"orchestra.{event.type}"
            turn.span.moments.append(Moment(name, event.time, present({"error.type": turn.span.error})))

    def _close_turn(self, place: tuple[str, int], outcome: str, time: str) -> None:
        turn = self._turns.pop(place)
        if turn.span.error is not None:
            outcome, time = "failed", turn.last
        for call in [*([turn.model] if turn.model else []), *turn.tools.values()]:
            self._end(call, time, outcome)
        self._end(turn.span, time, outcome)

    def _prompt(self, event: Event) -> None:
        if turn := self._turn(event):
            payload = event.payload
            turn.span.attributes |= self._subject.content(
                gen_ai__system_instructions=[part(payload["system"])] if payload.get("system") else None,
                gen_ai__input__messages=spoken("user", payload.get("message")),
            )

    def _output(self, event: Event) -> None:
        if turn := self._turn(event):
            answer = spoken("assistant", event.payload.get("output"), finish_reason="stop")
            turn.span.attributes |= self._subject.content(gen_ai__output__messages=answer)

    # --- model calls

    def _model_begins(self, event: Event) -> None:
        turn = self._turn(event)
        if turn is None or turn.model is not None:  # another attempt of the same call
            return
        turn.span.error = turn.span.message = None
        turn.text.clear()
        model, provider = name_or_none(event.payload.get("model")), str(event.payload.get("provider"))
        about = self._subject.about(
            **{
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": name_or_none(self._subject.provider(provider)),
                "gen_ai.request.model": model,
                "gen_ai.agent.name": event.node,
                "orchestra.provider": name_or_none(provider),
            }
        )
        turn.model = Span(event.seq, turn.span.key, Kind.MODEL, f"chat {model or ''}".strip(), event.time, about)

    def _model_ends(self, event: Event) -> None:
        turn = self._turn(event)
        if turn is None or turn.model is None:
            return
        span, turn.model, payload = turn.model, None, event.payload
        stop = name_or_none(payload.get("stop_reason"))
        span.attributes |= present(
            {
                "gen_ai.usage.input_tokens": number(payload.get("input_tokens")),
                "gen_ai.usage.output_tokens": number(payload.get("output_tokens")),
                "gen_ai.usage.cache_read.input_tokens": number(payload.get("cached_tokens")),
                "gen_ai.usage.cache_creation.input_tokens": number(payload.get("cache_write_tokens")),
                "gen_ai.response.finish_reasons": [stop] if stop else None,
                "orchestra.attempts": number(payload.get("attempt")),
                "orchestra.cost_usd": number(payload.get("cost_usd")),
            }
        )
        answer = spoken("assistant", "".join(turn.text), finish_reason=stop or "")
        span.attributes |= self._subject.content(gen_ai__output__messages=answer)
        self._end(span, event.time)

    def _model_fails(self, event: Event) -> None:
        turn = self._turn(event)
        if turn is None or turn.model is None:
            return
        turn.text.clear()
        span, payload = turn.model, event.payload
        error = name_or_none(payload.get("error")) or "_OTHER"
        told = {"error.type": error, "orchestra.attempt": number(payload.get("attempt"))}
        told |= {"orchestra.retry_in": number(payload.get("retry_in"))}
        told |= {"orchestra.message": self._subject.message(payload.get("message"))}
        span.moments.append(Moment("orchestra.model_failed", event.time, present(told)))
        if payload.get("retry_in") is None:
            turn.model, span.error = None, error
            span.message = self._subject.message(payload.get("message"))
            self._end(span, event.time)

    def _writes(self, event: Event) -> None:
        if turn := self._turn(event):
            turn.text.append(str(event.payload.get("text", "")))

    # --- tool calls

    def _tool_begins(self, event: Event) -> None:
        turn = self._turn(event)
        if turn is None:
            return
        tool, call = name_or_none(event.payload.get("tool")), event.payload.get("call")
        about = self._subject.about(
            **{
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": tool or "_OTHER",
                "gen_ai.tool.call.id": name_or_none(call),
                "gen_ai.tool.type": "function",
                "gen_ai.agent.name": event.node if event.node in self._subject.agents else None,
            },
            **self._subject.content(gen_ai__tool__call__arguments=event.payload.get("args")),
        )
        span = Span(event.seq, turn.span.key, Kind.TOOL, f"execute_tool {tool or '_OTHER'}", event.time, about)
        turn.tools[_call(event)] = span

    def _tool_ends(self, event: Event) -> None:
        turn = self._turn(event)
        span = turn.tools.pop(_call(event), None) if turn else None
        if span is None:
            return
        payload = event.payload
        span.attributes |= present({"orchestra.exit_code": number(payload.get("exit_code"))})
        span.attributes |= self._subject.content(gen_ai__tool__call__result=payload.get("result"))
        if not payload.get("ok"):
            span.error = "tool_error"
            span.message = self._subject.message(payload.get("result"))
        self._end(span, event.time)


def turn_number(event: Event) -> int:
    """Return the turn that an event is of."""
    return event.turn if event.turn is not None else int(event.payload["turn"])


def _call(event: Event) -> str:
    """Return what pairs the two events of a tool call; in old logs nothing but the tool does."""
    return str(event.payload.get("call") or event.payload.get("tool"))
