"""What a session has spent, per agent and per model, as its log tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Spent:
    """What some model calls have taken."""

    calls: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    """Of the calls whose price is known."""
    unpriced: int = 0
    """Calls whose price is not known."""
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens

    def add(self, payload: Mapping[str, Any]) -> None:
        """Add a finished model call."""
        self.calls += 1
        self.input_tokens += payload.get("input_tokens") or 0
        self.cached_tokens += payload.get("cached_tokens") or 0
        self.output_tokens += payload.get("output_tokens") or 0
        self.seconds += payload.get("duration_s") or 0.0
        cost = payload.get("cost_usd")
        if cost is None:
            self.unpriced += 1
        else:
            self.cost_usd += cost


@dataclass(slots=True)
class Spending:
    """All that a session has spent."""

    total: Spent = field(default_factory=Spent)
    agents: dict[str, Spent] = field(default_factory=dict)
    models: dict[str, Spent] = field(default_factory=dict)
    """By `provider/model`."""

    def add(self, agent: str, payload: Mapping[str, Any]) -> None:
        """Add a finished model call of an agent."""
        for spent in self._of(agent, payload):
            spent.add(payload)

    def add_failed(self, agent: str, payload: Mapping[str, Any]) -> None:
        """Add a failed attempt of a model call."""
        for spent in self._of(agent, payload):
            spent.failed += 1

    def _of(self, agent: str, payload: Mapping[str, Any]) -> tuple[Spent, Spent, Spent]:
        model = f"{payload.get('provider')}/{payload.get('model')}"
        return self.total, self.agents.setdefault(agent, Spent()), self.models.setdefault(model, Spent())
