"""Tokens and what they cost, from the prices that genai-prices ships (no network)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.agents.providers import ModelRef

_FREE = frozenset({"scripted", "llama-cpp", "ollama"})
_PRICE_LIST = {
    "anthropic": "anthropic",
    "anthropic_bedrock": "aws",
    "azure_ai": "azure",
    "azure_openai": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "google_anthropic_vertex": "google",
    "google_genai": "google",
    "google_vertexai": "google",
    "groq": "groq",
    "mistralai": "mistral",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "together": "together",
    "xai": "x-ai",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one model call."""

    input_tokens: int = 0
    """All tokens read, cached ones included."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """The part of the input that came from the provider's cache."""
    cache_write_tokens: int = 0
    long_cache_write_tokens: int = 0
    """The part of these that is kept for an hour, at a price of its own."""
    cost_usd: float | None = None
    """None where the price is not known."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any] | None, *, ref: ModelRef, reported: float | None = None) -> Usage:
        """Read LangChain's `usage_metadata`, None or partly filled as it may be, and price it.

        Args:
            metadata: The tokens of a reply.
            ref: The model that gave it.
            reported: A cost that came with the reply.
        """
        config = ref.provider
        values = metadata or {}
        details = values.get("input_token_details") or {}
        # Anthropic's integration splits cache writes by lifetime and then leaves `cache_creation` at 0.
        short, long = (_count(details, f"ephemeral_{lifetime}_input_tokens") for lifetime in ("5m", "1h"))
        written = _count(details, "cache_creation") or short + long
        read = _count(values, "input_tokens")
        usage = cls(read, _count(values, "output_tokens"), _count(details, "cache_read"), written, min(long, written))
        price = reported
        # No call reads nothing: servers that don't count say 0.
        if price is None and (read or config.type in _FREE):
            price = cost(config.type, ref.model, usage, api_base=config.api_base if config.is_own_server else None)
        return replace(usage, cost_usd=price)


def price_known(ref: ModelRef) -> bool:
    """Return whether the calls of a model are priced; those of others never count towards `max_cost_usd`."""
    config = ref.provider
    api_base = config.api_base if config.is_own_server else None
    return cost(config.type, ref.model, Usage(), api_base=api_base) is not None


def cost(provider_type: str, model: str, usage: Usage, *, api_base: str | None = None) -> float | None:
    """Return the price of a call in US dollars; None where the model's price is not known.

    Args:
        provider_type: The provider's type.
        model: The literal model name.
        usage: The tokens.
        api_base: Another server than the type's usual one: priced only where the price list knows that server.
    """
    if provider_type in _FREE:
        return 0.0
    provider = _PRICE_LIST.get(provider_type)
    if provider is None and api_base is None:
        return None
    import genai_prices

    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        **({"cache_write_1h_tokens": usage.long_cache_write_tokens} if usage.long_cache_write_tokens else {}),
    )
    try:
        if api_base is not None:
            return float(genai_prices.calc_price(tokens, model, provider_api_url=api_base).total_price)
        return float(genai_prices.calc_price(tokens, model, provider_id=provider).total_price)
    except (LookupError, ValueError):
        return None


def _count(values: Mapping[str, Any], key: str) -> int:
    value = values.get(key)
    return value if isinstance(value, int) and value > 0 else 0
