"""Costs in words: what is not known is never shown as nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestra.runtime.spending import Usage


def price(cost_usd: float | None) -> str:
    """Return a cost in US dollars as shown to people."""
    return "cost unknown" if cost_usd is None else f"${cost_usd:.4f}"


def price_of(usage: Usage) -> str:
    """Return what model calls have cost, as far as it is known."""
    if usage.unpriced_calls and usage.cost_usd:
        return f"at least {price(usage.cost_usd)}"
    return price(usage.whole_cost)
