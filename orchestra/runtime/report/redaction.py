"""What is left of a session in a report without contents: who did what, when, how long, and what it cost.

An allowlist: what is not known to be a structure is a content. It works on what is read, before anything is shown, so
that no place of a report can forget it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.graph.drawing.route import Route
    from orchestra.graph.outline import Outline
    from orchestra.runtime.store import SessionRecord

_NAME = re.compile(r"[\w.:/@+~*#-]{1,120}")
"""Names of agents, tools, models, repos; commits and ids. A model may ask for a tool with any name it likes."""

_MODEL = frozenset({"model", "provider", "attempt"})
_TURN = frozenset({"agent", "turn", "code", "tries_left", "duration_s", "resumed"})
_TOOL = frozenset({"tool", "call", "ok", "exit_code", "duration_s", "ended"})
KEPT: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("session_started", "session_resumed"), frozenset({"session_id", "pipeline"})),
    "session_forked": frozenset({"session_id", "checkpoint_id"}),
    "session_paused": frozenset({"agent"}),
    "session_failed": frozenset({"code", "agent"}),
    "session_stopping": frozenset({"seconds"}),
    "warning": frozenset({"code"}),
    "setup_started": frozenset({"repo"}),
    "setup_ended": frozenset({"repo", "ok", "exit_code", "duration_s"}),
    **dict.fromkeys(("turn_started", "turn_ended", "turn_failed", "turn_stopped"), _TURN),
    "said": frozenset({"spoken", "more"}),
    "model_started": _MODEL,
    "model_ended": _MODEL
    | {"input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "cost_usd", "duration_s"}
    | {"stop_reason", "calls"},
    "model_failed": _MODEL | {"error", "retry_in"},
    **dict.fromkeys(("tool_started", "tool_ended", "tool_called"), _TOOL),
    "snapshot_taken": frozenset({"repo", "commit"}),
    "files_put_back": frozenset({"repo", "commit"}),
    "files_kept": frozenset({"repo"}),
    "turn_committed": frozenset({"repo", "commit"}),
    "condition_chose": frozenset({"edge", "targets"}),
    "question_asked": frozenset({"id", "agent", "turn"}),
    "human_turn": frozenset({"question", "kind", "by"}),
    "question_left": frozenset({"question"}),
    "merged": frozenset({"repo", "commit", "join", "from"}),
    "conflict": frozenset({"repo", "commit", "n", "join", "target", "resolver", "agents"}),
    "conflict_resolved": frozenset({"repo", "commit", "n"}),
    "checkpoint": frozenset({"id", "namespace"}),
}
"""Type of event → the keys of its payload that are no contents; of other types none. `story` has two of its own."""


def without_contents(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload of an event with its contents hidden."""
    kept = KEPT.get(kind, frozenset())
    return {key: named(value) if key in kept else hidden(value) for key, value in payload.items()}


def record_without_contents(record: SessionRecord) -> SessionRecord:
    """Return what the database says of a session, without contents; branches and paths are such."""
    origin = record.forked_from
    forked = {key: named(origin.get(key)) for key in ("session_id", "checkpoint_id", "seq")} if origin else None
    return replace(
        record,
        pipeline=named(record.pipeline),
        inputs={named(name): hidden(value) for name, value in record.inputs.items()},
        workspace={
            named(name): {"path": "", "branch": None, "base": repo["base"]} for name, repo in record.workspace.items()
        },
        settings={"forked_from": forked} if forked else {},
        waiting_for=_only(record.waiting_for, "agent"),
        error=_only(record.error, "code", "agent"),
    )


def outline_without_contents(outline: Outline) -> Outline:
    """Return a graph with its names, without its description and the labels of its arrows."""
    nodes = [
        replace(
            node,
            **{key: named(getattr(node, key)) for key in ("mode", "model", "tool")},
            writes=tuple(map(named, node.writes)),
            branches=tuple(map(named, node.branches)),
        )
        for node in outline.nodes
    ]
    edges = [replace(edge, label=None, condition=named(edge.condition)) for edge in outline.edges]
    return replace(outline, pipeline=named(outline.pipeline), description="", nodes=tuple(nodes), edges=tuple(edges))


def route_without_contents(route: Route) -> Route:
    """Return the way that a session took, without what is no name."""
    origin = route.forked_from
    ids = {key: named(getattr(origin, key)) for key in ("session_id", "checkpoint_id")} if origin else {}
    return replace(route, forked_from=origin and replace(origin, **ids))


def conflict_without_contents(conflict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a path that conflicted, without the path."""
    return {key: hidden(value) if key == "path" else named(value) for key, value in conflict.items()}


def hidden(value: object) -> Any:
    """Return what stands for a content: how much of it there is."""
    if value is None or isinstance(value, bool) or value in ("", [], {}):
        return value
    if isinstance(value, str):
        return f"[redacted: {len(value):,} character{'s' * (len(value) != 1)}]"
    if isinstance(value, list | dict):
        return f"[redacted: {len(value):,} {'entries' if len(value) != 1 else 'entry'}]"
    return "[redacted]"


def named(value: object) -> Any:
    """Return names and numbers as they are; what does not look like one is hidden."""
    if isinstance(value, list):
        return [named(item) for item in value]
    if value is None or isinstance(value, int | float):
        return value
    return value if isinstance(value, str) and _NAME.fullmatch(value) else hidden(value)


def _only(about: dict[str, Any] | None, *keys: str) -> dict[str, Any] | None:
    return about and {key: named(value) if key in keys else hidden(value) for key, value in about.items()}
