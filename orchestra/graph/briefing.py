"""What an agent is told at the start of its turn: the inputs, what others found, and why it runs again (DESIGN §3)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from orchestra.graph.topology import START

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestra.graph.topology import Topology

NOTHING = "Begin."
"""A model's conversation must begin with a human message."""


def upstream(topology: Topology, node: str) -> tuple[str, ...]:
    """Return the agents and steps with an edge to `node`, in the order of the file; joins are looked through."""
    found: set[str] = set()
    for source, leaving in topology.edges.items():
        if any(node in edge.reachable for edge in leaving):
            found.update(topology.joins[source].sources if source in topology.joins else (source,))
    return tuple(name for name in topology.nodes if name in found)


def briefing(
    node: str,
    state: Mapping[str, Any],
    topology: Topology,
    *,
    context: Literal["upstream", "all", "none"],
    turn: int,
) -> str:
    """Write the first human message of a turn.

    Args:
        node: The agent whose turn it is.
        state: The state at the turn's start.
        topology: Who leads to whom.
        context: Whose outputs are told.
        turn: 1 for the first turn.
    """
    if context == "none":
        return "\n\n".join(_again(node, state, topology, turn)) or NOTHING
    outputs: Mapping[str, Any] = state.get("agent_outputs", {})
    inputs = {name: value for name, value in state.get("inputs", {}).items() if value not in (None, "")}
    named = topology.nodes if context == "all" else upstream(topology, node)
    parts = list(_again(node, state, topology, turn))
    if inputs:
        parts.append(_section("Inputs", inputs.items()))
    others = [(name, outputs[name]) for name in named if name in outputs and name != node]
    if others:
        parts.append(_section("What the others handed over", others))
    if turn > 1 and node in outputs:
        parts.append(_section("What you handed over in your last turn", [(node, outputs[node])]))
    return "\n\n".join(parts) or NOTHING


def _again(node: str, state: Mapping[str, Any], topology: Topology, turn: int) -> Iterable[str]:
    """Say which turn it is and who asked for it."""
    if turn == 1:
        return
    senders = [
        edge.source
        for leaving in topology.edges.values()
        for edge in leaving
        if edge.source != START and node in state.get("choices", {}).get(edge.key, ())
    ]
    why = f" {_listed(senders)} sent the work back to you; what follows says why." if senders else ""
    yield f"This is your turn {turn}.{why}"


def _listed(names: Iterable[str]) -> str:
    return " and ".join(repr(name) for name in dict.fromkeys(names))


def _section(title: str, items: Iterable[tuple[str, Any]]) -> str:
    return "\n\n".join([f"# {title}", *(f"## {name}\n\n{_text(value)}" for name, value in items)])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"```json\n{json.dumps(value, ensure_ascii=False, indent=2)}\n```"
