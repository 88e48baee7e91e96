"""The way a session has taken through its graph, as far as a picture shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.graph.outline import Outline

State = Literal["done", "running", "waiting", "failed", "interrupted", "not-reached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What a session did at one node."""

    state: State = "not-reached"
    turns: int = 0
    """Turns that have begun; of a join how often it has started its target."""
    seconds: float = 0.0
    """How long its turns took, failed attempts included; those that go on are not in it."""
    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0
    cost_usd: float | None = 0.0
    """None: the price of a part is not known."""

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens

    def as_json(self) -> dict[str, Any]:
        """Return the node as in `orchestra graph SESSION --format json`."""
        return {
            "state": self.state,
            "turns": self.turns,
            "seconds": round(self.seconds, 3),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "model_calls": self.model_calls,
            "cost_usd": None if self.cost_usd is None else round(self.cost_usd, 6),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Where a session has left another one."""

    session_id: str
    """Of a fork: the session that has left; of `forked_from`: the one that was left."""
    checkpoint_id: str
    node: str | None = None
    """At whose turn; None where that can't be told."""
    turn: int | None = None
    status: str | None = None
    """The state of that session; None: it is not there any more."""

    def as_json(self) -> dict[str, Any]:
        """Return the fork as in `orchestra graph SESSION --format json`."""
        return {
            "session_id": self.session_id,
            "checkpoint_id": self.checkpoint_id,
            "node": self.node,
            "turn": self.turn,
            "status": self.status,
        }


NOWHERE = Visit()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a session did, laid over its graph."""

    session_id: str
    status: str
    visits: Mapping[str, Visit] = field(default_factory=dict)
    """By the names of the nodes that were reached."""
    taken: tuple[int, ...] = ()
    """How often each arrow was taken, in the order of the outline's."""
    forks: tuple[Fork, ...] = ()
    """Those that have left it."""
    forked_from: Fork | None = None

    def at(self, node: str) -> Visit:
        """Return what it did at a node."""
        return self.visits.get(node, NOWHERE)

    def along(self, edge: int) -> int:
        """Return how often it has taken an arrow, named by its place among the outline's."""
        return self.taken[edge] if edge < len(self.taken) else 0

    def as_json(self, outline: Outline) -> dict[str, Any]:
        """Return the `route` of `orchestra graph SESSION --format json`."""
        return {
            "session_id": self.session_id,
            "status": self.status,
            "nodes": {node.name: self.at(node.name).as_json() for node in outline.nodes},
            "edges": [
                {"from": edge.source, "to": edge.target, "taken": self.along(number)}
                for number, edge in enumerate(outline.edges)
            ],
            "forks": [fork.as_json() for fork in self.forks],
            "forked_from": self.forked_from.as_json() if self.forked_from else None,
        }
