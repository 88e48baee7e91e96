"""The line that a person types: edited with prompt_toolkit. Imported when the first question is put, not before."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.filters import Condition, is_done
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import ConditionalContainer, HSplit, Layout, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style

from orchestra.agents.conversation import COMMANDS
from orchestra.cli.lines import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyPressEvent

_TICK = 1.0
"""Seconds after which what stands below the line is asked for again: clocks are in it."""
_STYLE = Style.from_dict({"toolbar": "ansibrightblack", "prompt": "bold"})


class LineEditor:
    """Reads what a person types at a terminal."""

    def __init__(self, keyboard: TextIO, display: TextIO) -> None:
        self.draft = ""
        """What was being typed when the last reading was cancelled."""
        self._session: PromptSession[str] = PromptSession(
            history=InMemoryHistory(),
            input=create_input(keyboard),
            output=_output(display),
            multiline=True,
            key_bindings=_keys(),
            completer=_Commands(),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            prompt_continuation=lambda width, number, wrapped: "" if wrapped else "… ".rjust(width),  # noqa: ARG005
            style=_STYLE,
            enable_suspend=True,
            interrupt_exception=Interrupted,
            eof_exception=EOFError,
        )
        self._toolbar: Callable[[], str] = str
        self._state: Callable[[], str] = str
        self._put_toolbar_below()

    async def read(self, prompt: str, *, default: str, toolbar: Callable[[], str], state: Callable[[], str]) -> str:
        """See `Lines`; a turn has one line or several."""
        self._toolbar, self._state = toolbar, state
        self._session.refresh_interval = _TICK if state() else 0.0
        app = self._session.app
        app.erase_when_done = False
        reading = asyncio.ensure_future(
            self._session.prompt_async(
                [("class:prompt", prompt)],
                default=default,
                handle_sigint=False,
                set_exception_handler=False,
            )
        )
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            self.draft = self._session.default_buffer.text
            app.erase_when_done = True
            if app.is_running and not app.is_done:
                app.exit(result="")
            else:
                reading.cancel()
            await asyncio.wait([reading])
            raise

    async def above(self, write: Callable[[], None]) -> None:
        """See `Lines`."""
        await run_in_terminal(write)

    def refresh(self) -> None:
        """See `Lines`."""
        self._session.app.invalidate()

    def _said(self) -> str:
        return self._state()

    def _put_toolbar_below(self) -> None:
        """Have the toolbar right below the line: prompt_toolkit's own one is at the bottom of the terminal."""
        toolbar = Window(
            FormattedTextControl(lambda: f"{self._toolbar()}   Alt-Enter: new line"), height=1, style="class:toolbar"
        )
        state = Window(FormattedTextControl(self._said), height=1, style="class:toolbar")
        has_state = Condition(lambda: bool(self._said()))
        line = self._session.layout
        everything = HSplit(
            [
                line.container,
                ConditionalContainer(toolbar, ~is_done),
                ConditionalContainer(state, ~is_done & has_state),
            ]
        )
        self._session.app.layout = Layout(everything, focused_element=line.current_window)


def _output(display: TextIO) -> Vt100_Output:
    output = Vt100_Output.from_pty(display, term=os.environ.get("TERM"), default_color_depth=ColorDepth.from_env())
    # The terminal is not asked where its cursor is: a slow one answers when nobody reads it any more.
    output.enable_cpr = False
    return output


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def new_line(event: KeyPressEvent) -> None:
        _insert_line(event.current_buffer)

    return keys


def _insert_line(buffer: Buffer) -> None:
    buffer.newline(copy_margin=False)


class _Commands(Completer):
    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        del complete_event
        typed = document.text
        if typed.startswith("/") and document.is_cursor_at_the_end and not typed.split("/", 1)[1].count(" "):
            for command in COMMANDS:
                if command.startswith(typed):
                    yield Completion(command, start_position=-len(typed))
