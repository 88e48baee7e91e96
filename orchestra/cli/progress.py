"""What a run shows while it goes: its conversations, and of any other event a plain line, a live tree, or its JSON."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from orchestra.cli.colours import painted
from orchestra.cli.displays import Display
from orchestra.cli.event_lines import line_of
from orchestra.cli.heartbeat import EVERY, Heartbeat
from orchestra.cli.live.board import Board
from orchestra.cli.render import as_json, escape_prose
from orchestra.cli.screen import Screen
from orchestra.cli.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from orchestra.cli.live.view import LiveView
    from orchestra.runtime.observability import Event
    from orchestra.runtime.result import SessionResult

QUIET = frozenset(
    {
        *("checkpoint", "model_started", "tool_started", "snapshot_taken", "turn_stopped"),
        *("prompt_given", "output_given", "text_delta"),
    }
)
"""Events that a plain log leaves out: the one that ends the same thing says more."""
IN_TREE = frozenset({"turn_started", "model_ended", "tool_ended", "turn_committed", "merged", "setup_started"})
"""Events that need no line where a live tree shows them."""
_STANDS_OUT = {
    "warning": "33",
    "model_failed": "33",
    "conflict": "1;31",
    "turn_failed": "31",
    "session_failed": "1;31",
    "question_left": "33",
    "conflict_resolved": "1",
    "internal_error": "31",
}


class Progress:
    """Shows the events of a session on a stream.

    Args:
        stream: Where to.
        display: How; not `auto`.
        own: How answers are called that come from this process.
        heartbeat: Seconds of silence after which a plain log says what is going on.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        display: Display = Display.PLAIN,
        own: Collection[str] = ("terminal", "input"),
        heartbeat: float = EVERY,
    ) -> None:
        self._stream = stream
        self.display = display
        self.board = Board()
        # Between lines of JSON nothing else may stand, so that nobody can be asked there.
        self._json = Screen(stream) if display is Display.JSON else None
        self.transcript = Transcript(Screen(None if display is Display.JSON else stream), own=own)
        self._heartbeat = None
        if display is Display.PLAIN:
            # In the middle of a paragraph, too: a model that has begun to speak may be silent for long.
            say = partial(self.transcript.line, at_once=True)
            self._heartbeat = Heartbeat(self.transcript.screen, self.board, say, every=heartbeat)
        self._view: LiveView | None = None
        self._is_over = False
        self._has_version = False

    @property
    def is_quiet(self) -> bool:
        """Whether only conversations are shown."""
        return self.display is Display.QUIET

    def recall(self, events: Iterable[Event]) -> None:
        """Take what has happened before, and is not shown."""
        for event in events:
            self.board.take(event)

    def show(self, event: Event) -> None:
        """Show an event, if there is something to show of it."""
        if self._json is not None:
            self._print(self._json, event)
            return
        self.board.take(event)
        self._show(event)
        self.watch()

    def show_past(self, event: Event) -> None:
        """Show an event that has been recalled."""
        if self._json is not None:
            self._print(self._json, event)
        else:
            self._show(event)

    def watch(self) -> None:
        """Show the state of what was recalled, and that nothing happens."""
        if self.display is Display.RICH and not self._is_over:
            self._draw()
        elif self._heartbeat is not None:
            self._heartbeat.begin()

    def close(self) -> None:
        """Draw nothing any more: how the session ended is told next."""
        self._is_over = True
        if self._view is not None:
            self._view.end()
            self._view = None
        if self._heartbeat is not None:
            self._heartbeat.end()

    def _show(self, event: Event) -> None:
        if self.is_quiet and not self.transcript.prompts:
            return
        if self.transcript.show(event) or self.is_quiet or event.type in QUIET:
            return
        if self.display is Display.RICH and event.type in IN_TREE:
            return
        style = _STANDS_OUT.get(event.type, "") if self.transcript.screen.has_styles else ""
        paint = painted if self.transcript.screen.has_styles and not style else None
        line = line_of(event.time, event.type, event.node, event.turn, event.payload, paint=paint)
        line = f"\x1b[{style}m{line}\x1b[0m" if style else line
        self.transcript.line(line, agent=event.node, at_once=event.type == "session_stopping")

    def _draw(self) -> None:
        if self._view is None:
            from orchestra.cli.live.view import LiveView

            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            self._view = LiveView(self.transcript.screen, self.board, encoding)
            self._view.begin()
        self._view.changed()

    def _print(self, screen: Screen, event: Event) -> None:
        from orchestra.runtime.event_types import VERSION

        if not self._has_version:
            self._has_version = True
            screen.write(as_json({"version": VERSION}, indent=None) + "\n")
        screen.write(as_json(event.as_json(), indent=None) + "\n")

    def outputs(self, result: SessionResult) -> str:
        """Return what the agents handed over whose edges lead to END; of a decision the text that was decided on."""
        shown = {name: result.agent_outputs[name] for name in result.final if name in result.agent_outputs}
        shown |= {name: value["text"] for name, value in result.decisions.items()}
        if result.record.status != "completed":
            return ""
        if len(shown) == 1:
            return _text(next(iter(shown.values())))
        return "\n".join(f"## {name}\n\n{_text(value)}" for name, value in shown.items())

    def has_shown(self, result: SessionResult) -> bool:
        """Tell whether all that is handed over was read just now, in a conversation at this terminal."""
        handed_over = {name for name in result.final if name in result.agent_outputs}
        return self.transcript.screen.is_terminal and all(
            name in result.decisions and self.transcript.has_shown(result.decisions[name]["text"])
            for name in handed_over
        )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return escape_prose(value) + "\n"
    return as_json(value) + "\n"
