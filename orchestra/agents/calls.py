"""What a model call may end in: which failures are worth another attempt, and what each means for the turn."""

from __future__ import annotations

import email.utils
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core import exceptions

from orchestra.agents.context import TurnFailed
from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from orchestra.agents.context import Retry
    from orchestra.agents.providers import ModelRef

_REASON_KEYS = ("stop_reason", "finish_reason", "stopReason", "done_reason", "status")
_CUT = frozenset({"max_tokens", "length", "max_output_tokens", "incomplete", "model_context_window_exceeded"})
_REFUSED = frozenset({"refusal", "content_filter", "safety", "guardrail_intervened", "prohibited_content"})
_ALWAYS_NAMES_A_REASON = frozenset(
    {"anthropic", "azure_openai", "bedrock_converse", "deepseek", "google_genai", "groq", "mistralai", "ollama"}
    | {"openai", "openrouter", "scripted", "xai"}
)
_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
_TRANSPORTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp"})


class TruncatedStream(Exception):  # noqa: N818 - the word of the models reference
    """An answer ended without saying why: the connection was cut, and the client did not notice."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often a failed model call is tried again, and how long the pauses are."""

    max_retries: int = 4
    initial_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0
    """Also the most that a provider's Retry-After is obeyed for."""
    max_total: float = 180.0
    """Seconds of all pauses of one call together."""

    def delay(self, retry: int, error: Exception, waited: float, jitter: float) -> float:
        """Return the pause before a retry.

        Args:
            retry: 0 for the first.
            error: What the attempt failed with; it may bear a Retry-After.
            waited: Seconds of earlier pauses.
            jitter: Between -1 and 1: how far the pause strays, up to a quarter of it.
        """
        pause = self.initial_delay * self.factor**retry
        pause += pause * jitter / 4
        # Earlier than the provider asks would only be refused again.
        pause = min(max(pause, retry_after(error) or 0.0), self.max_delay)
        return max(0.0, min(pause, self.max_total - waited))


NO_PAUSES = Backoff(initial_delay=0.0, max_delay=0.0)
"""For the scripted provider."""


def is_retryable(error: Exception) -> bool:
    """Return whether the same model call may succeed when it is made again."""
    if isinstance(error, OrchestraError) or _is_quota(error):
        return False
    if isinstance(error, exceptions.ModelError):
        return bool(error.is_retryable)
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return status in _RETRYABLE_STATUS or status >= 500  # noqa: PLR2004 - HTTP
    # A RecursionError: the client met JSON of the model's that is nested too deep even to be read.
    if isinstance(error, TruncatedStream | TimeoutError | ConnectionError | json.JSONDecodeError | RecursionError):
        return True
    if "No generation chunks were returned" in str(error):
        return True
    return any(
        kind.__name__ in {"TransportError", "ClientConnectionError"} and kind.__module__.split(".")[0] in _TRANSPORTS
        for kind in type(error).__mro__
    )


def retry_after(error: Exception) -> float | None:
    """Return the seconds that a provider asks to wait for."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        return None
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return float(milliseconds) / 1000
        value = headers.get("retry-after")
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, AttributeError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def turn_failure(error: Exception, ref: ModelRef, attempts: int, message: str) -> TurnFailed:
    """Say what a failed model call means for the turn.

    Args:
        error: What the last attempt failed with.
        ref: The model.
        attempts: How many attempts were made.
        message: The error's text without secrets.
    """
    config = ref.provider
    code, retry, hint = _meaning(error, ref)
    tried = f" after {attempts} attempts" if attempts > 1 else ""
    text = f"model {ref.model!r} of provider {config.name!r} failed{tried}: {type(error).__name__}: {message}"
    return TurnFailed(text, code=code, retry=retry, hint=hint)


def _meaning(error: Exception, ref: ModelRef) -> tuple[str, Retry, str]:
    if _is_quota(error):
        return "model-quota", "never", "the account has no credit left: add some, or use another provider"
    if is_retryable(error):
        return "model-failed", "continue", "when the provider answers again: orchestra resume SESSION"
    variable = ref.provider.key_variable
    alias = f" (alias {ref.alias!r})" if ref.alias else ""
    request = ("model-request", "the provider refuses this request: check the provider's `options`")
    meanings: tuple[tuple[type[Exception], str, str], ...] = (
        (
            exceptions.ContextOverflowError,
            "context-overflow",
            "give the agent less at once (narrower tools, `context: none`), or a model with a larger context",
        ),
        (
            exceptions.ModelAuthenticationError,
            "model-auth",
            f"check the key in {variable}" if variable else "set `api_key_env` to the variable that holds the key",
        ),
        (
            exceptions.ModelPermissionDeniedError,
            "model-auth",
            f"this key may not use the model {ref.model!r}; choose another model or key",
        ),
        (exceptions.ModelNotFoundError, "model-not-found", f"check the name {ref.model!r}{alias} and `api_base`"),
        (exceptions.ModelInvalidRequestError, *request),
    )
    for kind, code, hint in meanings:
        if isinstance(error, kind):
            return code, "never", hint
    if isinstance(getattr(error, "status_code", None), int):
        return request[0], "never", request[1]
    return "model-failed", "never", "check the provider's `type`, `api_base` and `options`"


def stop_reason(message: AIMessage) -> str | None:
    """Return why the model stopped, in its provider's word; None when it does not say."""
    for key in _REASON_KEYS:
        value = message.response_metadata.get(key)
        if value:
            return str(value)
    return None


def was_cut(message: AIMessage) -> bool:
    """Return whether an answer was cut by a token limit."""
    return (stop_reason(message) or "").casefold() in _CUT


def was_refused(message: AIMessage) -> bool:
    """Return whether the provider refused to answer."""
    return (stop_reason(message) or "").casefold() in _REFUSED or bool(message.additional_kwargs.get("refusal"))


def require_end(message: AIMessage, provider_type: str) -> None:
    """Refuse an answer that names no reason for its end.

    Raises:
        TruncatedStream: The provider always names one, or there is nothing in the answer at all.
    """
    if stop_reason(message) is not None:
        return
    # Some integrations never pass a reason on; of theirs only an empty answer is suspicious.
    empty = not message.content and not message.tool_calls and not message.invalid_tool_calls
    if provider_type in _ALWAYS_NAMES_A_REASON or empty:
        raise TruncatedStream("the answer ended without a stop reason; the connection was cut")


def _is_quota(error: Any) -> bool:
    return getattr(error, "code", None) == "insufficient_quota"
