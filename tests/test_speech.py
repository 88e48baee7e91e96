"""What an agent writes reaches the log in pieces that no secret is torn apart by."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from orchestra.agents import speech
from orchestra.agents.speech import Speech
from orchestra.tools.output import untorn

SECRET = "hunter2-and-more"  # noqa: S105 - a test's
PASSPHRASE = f"correct horse\n{'battery staple ' * 200}end"


def redacted(text: str) -> str:
    return text.replace(SECRET, "[KEY]").replace(PASSPHRASE, "[PASSPHRASE]")


def listening() -> tuple[Speech, list[str]]:
    """Make what listens to a model, and the list that its pieces come into."""
    pieces: list[str] = []
    turn = cast("Any", SimpleNamespace(emit=lambda _, *, text, spoken: pieces.append(redacted(text))))
    environment = {"PASSPHRASE_KEY": PASSPHRASE}
    untorn_ = functools.partial(untorn, environment=environment)
    return Speech(turn, redacted, untorn_, spoken=False), pieces


async def pieces_of(*chunks: str) -> list[str]:
    """Stream chunks, as if so much time lay between them that each could become a piece."""
    told, pieces = listening()
    for chunk in chunks:
        await told.on_llm_new_token("", chunk=ChatGenerationChunk(message=AIMessageChunk(content=chunk)))
        told._tell()  # as the timer does
    await told.on_llm_end(LLMResult(generations=[]))
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


async def test_the_answer_of_a_model_that_does_not_stream_is_told_whole() -> None:
    told, pieces = listening()
    blocks: list[str | dict[str, Any]] = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "I look. "},
        {"type": "tool_use", "id": "1", "name": "read", "input": {}},
    ]
    for answer in (AIMessage(content=blocks), AIMessage(content="Done.")):
        await told.on_llm_end(LLMResult(generations=[[ChatGeneration(message=answer)]]))
    assert pieces == ["I look. ", "Done."]


async def test_a_streamed_answer_is_told_once() -> None:
    told, pieces = listening()
    for attempt in range(2):
        await told.on_llm_new_token("", chunk=ChatGenerationChunk(message=AIMessageChunk(content="Do")))
        if attempt == 0:
            await told.on_llm_error(ConnectionError())
    await told.on_llm_end(LLMResult(generations=[[ChatGeneration(message=AIMessage(content="Do"))]]))
    assert pieces == ["Do", "Do"]


async def test_a_secret_of_several_words_is_in_one_piece() -> None:
    text = f"It is {PASSPHRASE}xyz or so, the correct horse is none."
    pieces = await pieces_of(*(text[start : start + 7] for start in range(0, len(text), 7)))
    assert "".join(pieces) == redacted(text)
    assert len(pieces) > 5
