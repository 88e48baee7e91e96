"""What an agent is told at the start of its turn: the inputs, what others found, and why it runs again (DESIGN §3)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from orchestra.graph.merging import open_record
from orchestra.graph.topology import START

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

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
    conflict = list(conflict_section(node, state, told=() if context == "none" else upstream(topology, node)))
    if context == "none":
        return "\n\n".join([*_again(node, state, topology, turn), *conflict]) or NOTHING
    outputs: Mapping[str, Any] = state.get("agent_outputs", {})
    inputs = {name: value for name, value in state.get("inputs", {}).items() if value not in (None, "")}
    named = topology.nodes if context == "all" else upstream(topology, node)
    parts = [*_again(node, state, topology, turn), *conflict]
    if inputs:
        parts.append(_section("Inputs", inputs.items()))
    others = [(name, outputs[name]) for name in named if name in outputs and name != node]
    if others:
        parts.append(_section("What the others handed over", others))
    if turn > 1 and node in outputs:
        parts.append(_section("What you handed over in your last turn", [(node, outputs[node])]))
    return "\n\n".join(parts) or NOTHING


def conflict_section(node: str, state: Mapping[str, Any], told: Collection[str]) -> Iterable[str]:
    """Say what an agent has to resolve, who changed what, and why: their outputs.

    Args:
        node: The agent.
        state: The state at the turn's start.
        told: The agents whose outputs the message holds anyway.
    """
    record = open_record(state, node)
    if record is None:
        return
    repo, (ours, theirs) = record["repo"], record["who"]
    paths = "\n".join(
        f"- {json.dumps(path, ensure_ascii=False)} ({kind})" for path, kind in record["conflict"]["paths"]
    )
    yield (
        f"# A conflict to resolve\n\nThe changes of {_listed(ours)} and of {_listed(theirs)} in the repository "
        f"{repo!r} conflict. Your files there are the result of the merge, with git's conflict markers where both "
        f"changed the same lines: first what {_listed(ours)} wrote, then what {_listed(theirs)} wrote.\n\n{paths}\n\n"
        "Bring these files into the state that serves what both wanted, and leave no marker. A file counts as resolved "
        f"once you have written, edited, deleted or moved it with a tool of {repo!r}, or staged it with `git add`. "
        "Resolve all of them in this turn, then do the rest of your task."
    )
    outputs = state.get("agent_outputs", {})
    why = [(name, outputs[name]) for name in (*ours, *theirs) if name in outputs and name not in told]
    if why:
        yield _section("What they said of their changes", why)


def _again(node: str, state: Mapping[str, Any], topology: Topology, turn: int) -> Iterable[str]:
    """Say which turn it is and who asked for it."""
    if turn == 1:
        return
    if open_record(state, node) is not None and not _sent_back(node, state, topology):
        yield f"This is your turn {turn}: merging went on after your last one, and met a further conflict."
        return
    senders = _sent_back(node, state, topology)
    why = f" {_listed(senders)} sent the work back to you; what follows says why." if senders else ""
    yield f"This is your turn {turn}.{why}"


def _sent_back(node: str, state: Mapping[str, Any], topology: Topology) -> list[str]:
    return [
        edge.source
        for leaving in topology.edges.values()
        for edge in leaving
        if edge.source != START and node in state.get("choices", {}).get(edge.key, ())
    ]


def _listed(names: Iterable[str]) -> str:
    return " and ".join(repr(name) for name in dict.fromkeys(names))


def _section(title: str, items: Iterable[tuple[str, Any]]) -> str:
    return "\n\n".join([f"# {title}", *(f"## {name}\n\n{_text(value)}" for name, value in items)])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"```json\n{json.dumps(value, ensure_ascii=False, indent=2)}\n```"
