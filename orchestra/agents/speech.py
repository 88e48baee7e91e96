"""What an agent writes, while it writes it: pieces of text for the event log."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackHandler

if TYPE_CHECKING:
    from langchain_core.outputs import ChatGenerationChunk, GenerationChunk

    from orchestra.agents.context import Turn

EVERY = 0.15
"""Seconds between two pieces: reading goes on smoothly, and the log is not flooded."""
_LONGEST = 2_000
"""Characters of a word that is held back until its end."""


class Speech(AsyncCallbackHandler):
    """Writes what a model streams into the session's log, in pieces that end between words.

    Secrets are taken out of each event by itself, and have no space in them: a piece must not end inside one.
    """

    run_inline = True

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._held = ""
        self._timer: asyncio.TimerHandle | None = None

    async def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        **_: Any,
    ) -> None:
        """Take a token."""
        del token  # the chunk knows what of it is text
        message = getattr(chunk, "message", None)
        self._held += str(message.text) if message is not None else ""
        if self._held and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._tell)

    async def on_llm_end(self, *_: Any, **__: Any) -> None:
        """Tell the rest."""
        self._tell(whole=True)

    async def on_llm_error(self, *_: Any, **__: Any) -> None:
        """Tell what came before the stream broke off."""
        self._tell(whole=True)

    def _tell(self, *, whole: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        spaces = [match.end() for match in re.finditer(r"\s", self._held)]
        end = len(self._held) if whole or len(self._held) > _LONGEST else (spaces[-1] if spaces else 0)
        piece, self._held = self._held[:end], self._held[end:]
        if piece:
            self._turn.emit("text_delta", text=piece)
