"""What an agent writes, while it writes it: pieces of text for the event log."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackHandler

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult

    from orchestra.agents.context import Turn

SPOKEN_EVERY = 0.15
"""Seconds between two pieces for a person, who reads on smoothly."""
WRITTEN_EVERY = 0.5
"""Seconds between two pieces for nobody in particular: the log is not flooded."""
_LONGEST = 2_000
"""Characters of an unfinished word that are held back."""


class Speech(AsyncCallbackHandler):
    """Writes what a model streams into the session's log, in pieces that end between words.

    Secrets are taken out of each event by itself: a piece must not end inside one.

    Args:
        turn: Whose events they are.
        redact: Takes secrets out of a text.
        untorn: Tells where a text can be parted, at some place or before, without tearing such a secret apart.
        spoken: The agent speaks to a person.
    """

    run_inline = True

    def __init__(
        self, turn: Turn, redact: Callable[[str], str], untorn: Callable[[str, int], int], *, spoken: bool
    ) -> None:
        self._turn = turn
        self._redact = redact
        self._untorn = untorn
        self._spoken = spoken
        self._every = SPOKEN_EVERY if spoken else WRITTEN_EVERY
        self._held = ""
        self._streams = False
        """Whether the model streams its answer."""
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
        self._streams = True
        self._held += _written(chunk)
        if self._held and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every, self._tell)

    async def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Tell the rest, or the whole answer of a model that does not stream."""
        if not self._streams:
            self._held += "".join(_written(one) for answers in response.generations for one in answers[:1])
        self._tell(whole=True)
        self._streams = False

    async def on_llm_error(self, *_: Any, **__: Any) -> None:
        """Tell what came before the stream broke off."""
        self._tell(whole=True)
        self._streams = False

    def _tell(self, *, whole: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        end = len(self._held) if whole else self._last_end()
        if len(self._held) - end > _LONGEST and self._untorn(self._held, len(self._held)) == len(self._held):
            # Part of a word without end is told: secrets that are whole are taken out of it before, and so much of its
            # end stays that one which has only begun is whole later.
            self._held = self._redact(self._held)
            end = max(len(self._held) - _LONGEST, 0)
        piece, self._held = self._held[:end], self._held[end:]
        if piece:
            self._turn.emit("text_delta", text=piece, spoken=self._spoken)

    def _last_end(self) -> int:
        """Return where what is held can be parted: behind a word, and not within a secret of several words."""
        bound = len(self._held)
        for space in reversed([match.end() for match in re.finditer(r"\s", self._held)]):
            if space <= bound and (bound := self._untorn(self._held, space)) == space:
                return space
        return 0


def _written(generation: object) -> str:
    message = getattr(generation, "message", None)
    return "" if message is None else str(message.text)
