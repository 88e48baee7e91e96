"""One attempt of a model call: what is checked before it, logged around it, and waited for before the next one."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage

from orchestra.agents import calls
from orchestra.agents.context import TurnFailed
from orchestra.agents.providers import DEFAULT_TIMEOUT
from orchestra.agents.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from langchain.agents.middleware import ModelRequest, ModelResponse

    from orchestra.agents.context import Turn
    from orchestra.agents.providers import ModelRef

    Handler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]

_MESSAGE_CAP = 500
_ANSWER_TIMEOUTS = 15
"""A whole answer may take this many times the provider's timeout, which bounds only its silences."""


class AttemptMiddleware(AgentMiddleware[Any, Any, Any]):
    """One attempt of a model call: budget before it, events around it, a pause after a failure.

    LangChain's retry middleware around it makes the attempts and waits for nothing itself: its pauses know no
    Retry-After, and the event of a failure must name the pause that follows.
    """

    def __init__(
        self,
        turn: Turn,
        ref: ModelRef,
        backoff: calls.Backoff,
        redact: Callable[[str], str],
        names: Mapping[str, str],
    ) -> None:
        super().__init__()
        self._turn = turn
        self._ref = ref
        self._backoff = backoff
        self._redact = redact
        self._names = names
        """Of tools: as the model knows them → as users write them."""
        self._timeout = _ANSWER_TIMEOUTS * (ref.provider.timeout or DEFAULT_TIMEOUT)
        self._made = 0
        self._waited = 0.0
        self._pause = 0.0
        """Seconds before the next attempt."""

    def begin(self) -> None:
        """Start to count the attempts of a call."""
        self._made = 0
        self._waited = self._pause = 0.0

    def failure(self, error: Exception) -> TurnFailed:
        """Say what the last attempt's error means for the turn."""
        return calls.turn_failure(error, self._ref, self._made, self._text(error))

    async def awrap_model_call(self, request: ModelRequest[Any], handler: Handler) -> ModelResponse[Any]:
        """Make one attempt."""
        pause, self._pause = self._pause, 0.0
        async with self._turn.call("model", after=pause):
            return await self._attempt(request, handler)

    async def _attempt(self, request: ModelRequest[Any], handler: Handler) -> ModelResponse[Any]:
        self._turn.check_budget()
        self._made += 1
        names = {"model": self._ref.model, "provider": self._ref.provider.name, "attempt": self._made}
        self._turn.emit("model_started", **names)
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                response = await handler(request)
            reply = next(message for message in response.result if isinstance(message, AIMessage))
            calls.require_end(reply, self._ref.provider.type)
        except Exception as error:
            self._failed(error)
            if calls.is_retryable(error) or isinstance(error, TurnFailed):
                raise
            raise self.failure(error) from error
        usage = Usage.of(reply.usage_metadata, ref=self._ref, reported=reply.response_metadata.get("cost_usd"))
        self._turn.emit(
            "model_ended",
            **names,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cost_usd=usage.cost_usd,
            duration_s=round(time.monotonic() - started, 3),
            stop_reason=calls.stop_reason(reply),
            calls=[self._names.get(call["name"], call["name"][:_MESSAGE_CAP]) for call in reply.tool_calls],
        )
        return response

    def _failed(self, error: Exception) -> None:
        pause = None
        if calls.is_retryable(error) and self._made <= self._backoff.max_retries:
            jitter = random.uniform(-1, 1)  # noqa: S311 - spreads load, guards nothing
            pause = self._backoff.delay(self._made - 1, error, self._waited, jitter)
        self._turn.emit(
            "model_failed",
            model=self._ref.model,
            provider=self._ref.provider.name,
            attempt=self._made,
            error=type(error).__name__,
            message=self._text(error),
            retry_in=None if pause is None else round(pause, 3),
        )
        self._pause = pause or 0.0
        self._waited += self._pause

    def _text(self, error: Exception) -> str:
        text = self._redact(str(error) or type(error).__name__)  # before it is cut, maybe within a secret
        return text if len(text) <= _MESSAGE_CAP else text[:_MESSAGE_CAP] + "…"
