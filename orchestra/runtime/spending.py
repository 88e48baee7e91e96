"""What model calls have cost: a session's tokens and US dollars, also by agent and by model.

It is added up from the events, so that it can't disagree with them. A price that is not known is never taken for none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Usage:
    """What some model calls have used."""

    model_calls: int = 0
    input_tokens: int = 0
    """Those from the provider's cache included."""
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    """Of the calls whose price is known."""
    unpriced_calls: int = 0

    def add(self, payload: Mapping[str, Any]) -> None:
        """Add a finished model call, given its event's payload."""
        self.model_calls += 1
        self.input_tokens += payload.get("input_tokens") or 0
        self.cached_tokens += payload.get("cached_tokens") or 0
        self.output_tokens += payload.get("output_tokens") or 0
        cost = payload.get("cost_usd")
        if cost is None:
            self.unpriced_calls += 1
        else:
            self.cost_usd += cost

    @property
    def whole_cost(self) -> float | None:
        """US dollars; None where a part of it is not known."""
        return None if self.unpriced_calls else round(self.cost_usd, 6)

    def as_json(self) -> dict[str, Any]:
        """Return the `usage` of DESIGN §8."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "model_calls": self.model_calls,
            "cost_usd": self.whole_cost,
        }

    def in_detail(self) -> dict[str, Any]:
        """Return the same with the tokens from the cache, and what is known of a cost that is not known in full."""
        known = {"known_cost_usd": round(self.cost_usd, 6), "unpriced_calls": self.unpriced_calls}
        return {**self.as_json(), "cached_tokens": self.cached_tokens, **known}


@dataclass
class Spending:
    """What the agents of a session have used, and which models they used it with."""

    total: Usage = field(default_factory=Usage)
    agents: dict[str, Usage] = field(default_factory=dict)
    models: dict[str, Usage] = field(default_factory=dict)
    """By `provider/model`."""

    def add(self, agent: str, payload: Mapping[str, Any]) -> None:
        """Add a finished model call of an agent, given its event's payload."""
        model = f"{payload.get('provider')}/{payload.get('model')}"
        for usage in (
            self.total,
            self.agents.setdefault(agent, Usage()),
            self.models.setdefault(model, Usage()),
        ):
            usage.add(payload)

    def as_json(self) -> dict[str, Any]:
        """Return what `orchestra status SESSION --json` has under `spending`."""
        return {
            "agents": [{"agent": name, **usage.in_detail()} for name, usage in self.agents.items()],
            "models": [{"model": name, **usage.in_detail()} for name, usage in self.models.items()],
        }
