"""What a graph asks of the runtime where branches meet: which commits to bring together, and what came of it.

Files move through a graph as values: a token stands, in each repo, on the newest commit of some slot. Its position says
which one; the commits are in the snapshot channel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestra.agents.context import Snapshot

Position = dict[str, str]
"""Repo → the slot whose newest commit a token stands on; a repo that lacks stands on the session's own."""

Resolver = Literal["agent", "human", "fail"]
"""Who resolves a conflict: the agent behind the join, a person, or nobody."""

Record = dict[str, Any]
"""An open conflict as the state holds it: `n`, `join`, `target`, `repo`, `slot`, `side`, `ours`, `theirs`, `commit`,
`resolver`, `conflict` (its paths, stages and marker tree), `who` (`[[agents], [agents]]`), `sides`, and `reached` (repo
→ the first side that is not merged yet)."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one branch brings to a meeting."""

    name: str
    """The agent or step that arrived."""
    commits: Mapping[str, str]
    """Repo → its commit; a repo that lacks is as on the first side."""
    position: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> list[Any]:
        """Return it as a record holds it."""
        return [self.name, dict(self.commits), dict(self.position)]


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """Which commits to bring together, in order."""

    join: str
    """The join's name, or END at the session's end."""
    target: str
    """The agent or step behind it."""
    sides: tuple[Side, ...]
    into: Mapping[str, str]
    """Repo → the slot that the merged files belong to."""
    resolvers: Mapping[str, Resolver]
    """By repo."""
    snapshot: Snapshot
    """The snapshot channel."""
    date: str
    """ISO 8601 time from the state: that of the commits, the same on every resume."""
    after: Record | None = None
    """The conflict that has just been resolved: merging goes on behind it."""
    position: Mapping[str, str] = field(default_factory=dict)
    """Where the resolving turn left the files."""
    retired: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Repo → the slots that are done with once this is merged: no token stays there."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of a merge."""

    snapshot: Snapshot
    """The channel's update."""
    position: Position
    record: Record | None = None
    """The conflict at which merging stopped."""
    conflicts: dict[str, Any] = field(default_factory=dict)
    """Number → what `run --json` says of the new conflict."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How far a person has come with a conflict."""

    snapshot: Snapshot
    """The channel's update, with the resolved files; empty while something is left."""
    left: str = ""
    """What is still to be done, with the commands for it; empty: all is resolved."""
    hint: str = ""
