"""What an `apply` did, or would do, as whoever asked for it is told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.runtime.store import SessionRecord
    from orchestra.runtime.tree_changes import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRepo:
    """What came of one repository."""

    path: str
    state: str
    """`applied`, `branched`, `already-applied`, or `unchanged`: the session has changed nothing there."""
    commit: str
    """The session's result."""
    changes: tuple[Change, ...] = ()
    rescue: str | None = None
    """The reference that keeps the files as they were before."""
    links_out: Mapping[str, str] | None = None
    """Links among the changes that lead out of the checkout, with their targets."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        changed = [
            {
                "path": os.fsdecode(change.path),
                "change": change.kind,
                "added": change.added,
                "deleted": change.deleted,
            }
            for change in self.changes
        ]
        return {
            "path": self.path,
            "state": self.state,
            "commit": self.commit,
            "changed": changed,
            "rescue": self.rescue,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What `apply` did, or with `dry_run` would do."""

    record: SessionRecord
    repos: Mapping[str, AppliedRepo]
    branch: str | None
    dry_run: bool
    recovered: str | None = None
    """What an earlier `apply` had left that was killed: `finished` or `undone`."""
    left: tuple[str, ...] = ()
    """Files that somebody has changed after that, and that were not undone."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of `orchestra apply --json`."""
        return {
            "session_id": self.record.session_id,
            "status": str(self.record.status),
            "branch": self.branch,
            "dry_run": self.dry_run,
            "recovered": self.recovered,
            "repos": {name: repo.as_json() for name, repo in self.repos.items()},
        }
