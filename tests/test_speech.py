"""What an agent writes reaches the log in pieces that no secret is torn apart by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from orchestra.agents import speech
from orchestra.agents.speech import Speech

SECRET = "hunter2-and-more"  # noqa: S105 - a test's


async def pieces_of(*chunks: str) -> list[str]:
    """Stream chunks, as if so much time lay between them that each could become a piece."""
    pieces: list[str] = []
    turn = cast("Any", SimpleNamespace(emit=lambda _, *, text, spoken: pieces.append(text.replace(SECRET, "[KEY]"))))
    told = Speech(turn, lambda text: text.replace(SECRET, "[KEY]"), spoken=False)
    for chunk in chunks:
        await told.on_llm_new_token("", chunk=ChatGenerationChunk(message=AIMessageChunk(content=chunk)))
        told._tell()  # as the timer does
    await told.on_llm_end()
    return pieces


async def test_a_piece_ends_between_words() -> None:
    assert await pieces_of("one tw", "o thr", "ee") == ["one ", "two ", "three"]


async def test_no_piece_of_a_word_without_end_tears_a_secret_apart() -> None:
    filler = "x" * (speech._LONGEST - len(SECRET) // 2)  # the border lies in the middle of the secret
    for text in (f"{filler}{SECRET}{filler}{SECRET}{filler}", f"{SECRET}{filler}x{SECRET}"):
        pieces = await pieces_of(*(text[start : start + 700] for start in range(0, len(text), 700)))
        assert "".join(pieces) == text.replace(SECRET, "[KEY]")
        whole = await pieces_of(text, "y")
        assert "".join(whole) == text.replace(SECRET, "[KEY]") + "y"
