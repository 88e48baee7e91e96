"""How a drive of a session ended, as whoever started it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.runtime.store import SessionRecord


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How driving a session ended."""

    record: SessionRecord
    agent_outputs: dict[str, Any] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    final: tuple[str, ...] = ()
    """The agents whose edges lead to END: their outputs are the result."""
    interactive: tuple[str, ...] = ()
    """The agents whose outputs are decisions of a person."""
    forked_from: Mapping[str, str] | None = None
    """`{session_id, checkpoint_id}` of a replay."""
    worktrees: Mapping[str, str] | None = None
    """Repo → the absolute path of its worktree, of a replay."""

    @property
    def decisions(self) -> dict[str, dict[str, Any]]:
        """What persons have decided of what is handed over, by agent."""
        deciding = (name for name in self.final if name in self.interactive and name in self.agent_outputs)
        return {name: self.agent_outputs[name] for name in deciding}

    def as_json(self) -> dict[str, Any]:
        """Return the one JSON object of `run`, `resume` and their like, and of `replay` (DESIGN §8)."""
        record = self.record
        fork = {"forked_from": self.forked_from, "worktrees": self.worktrees or {}} if self.forked_from else {}
        error = record.error and {key: record.error.get(key) for key in ("code", "message", "agent")}
        return {
            "session_id": record.session_id,
            "status": str(record.status),
            "pipeline": record.pipeline,
            "agent_outputs": self.agent_outputs,
            "branches": self.branches,
            "commits": self.commits,
            "checkpoints": record.checkpoints,
            "usage": record.usage,
            "conflicts": self.conflicts,
            "waiting_for": record.waiting_for,
            "error": error,
            **fork,
        }


def why_failed(failures: list[dict[str, Any]], counted: int, most: int) -> dict[str, Any]:
    """Return why a session failed: the one cause, or that turns failed too often."""
    last = failures[-1]
    if counted <= 1 or counted < most or last["code"] in _LIMITS:
        return {key: last.get(key) for key in ("code", "message", "hint", "agent")}
    return {
        "code": "too-many-failures",
        "message": f"{counted} turns failed, as many as `limits.max_failures_per_session` allows; "
        f"the last one, of {last['agent']!r}: {last['message']} ({last['code']})",
        "hint": last.get("hint") or "`orchestra resume` tries again",
        "agent": last["agent"],
    }


_LIMITS = frozenset({"max-steps", "max-tokens", "max-cost"})
