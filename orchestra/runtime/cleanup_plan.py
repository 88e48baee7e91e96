"""What a cleanup does, as data: it is shown by `--dry-run`, and done from the same values by the real run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a session is kept."""

    code: str
    """Stable, for programs: `unmerged`, `worktree-dirty`, …"""
    message: str
    look: str | None = None
    """A command that shows it, or that leads on."""
    repo: str | None = None
    final: bool = False
    """`--discard` changes nothing about it."""

    def as_json(self) -> dict[str, Any]:
        """Return its JSON."""
        about = {"code": self.code, "repo": self.repo, "message": self.message, "command": self.look}
        return {**about, "discardable": not self.final}


@dataclass(frozen=True, slots=True)
class WorktreePlan:
    """A worktree that goes."""

    slot: str
    path: Path
    commit: str
    """What its files are, and kept or merged as."""


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """What becomes of the session's branch."""

    name: str
    commit: str
    stays: str | None
    """Why it stays; None: it goes."""

    def as_json(self) -> dict[str, Any]:
        """Return its JSON."""
        return {"name": self.name, "commit": self.commit, "removed": self.stays is None, "stays": self.stays}


@dataclass(frozen=True, slots=True)
class RepoPlan:
    """What goes in one repository."""

    name: str
    path: Path
    worktrees: tuple[WorktreePlan, ...] = ()
    refs: tuple[tuple[str, str], ...] = ()
    """References below `refs/orchestra` and what they hold, sorted."""
    branch: BranchPlan | None = None
    rescued: Path | None = None
    """The directory of files that stood in Orchestra's way."""
    left: tuple[Path, ...] = ()
    """What lies among the session's worktrees and is not Orchestra's: it stays."""

    def as_json(self) -> dict[str, Any]:
        """Return its JSON."""
        return {
            "path": str(self.path),
            "worktrees": [str(tree.path) for tree in self.worktrees],
            "refs": dict(self.refs),
            "branch": self.branch and self.branch.as_json(),
            "rescued_files": None if self.rescued is None else str(self.rescued),
            "left": [str(path) for path in self.left],
        }


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What becomes of a session: it goes as a whole, or, where there is a reason, it is kept as a whole."""

    session_id: str
    pipeline: str | None = None
    status: str | None = None
    """None: its database can't be read."""
    updated_at: str | None = None
    repos: tuple[RepoPlan, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """Why it is kept; none: it goes."""
    discarded: tuple[Reason, ...] = ()
    """What would be a reason without `--discard`: it is lost."""
    session_bytes: int = field(default=0, compare=False)
    worktree_bytes: int = field(default=0, compare=False)
    """Sizes of files, as `ls -l` shows them; git's objects are shared, and not counted."""

    @property
    def bytes(self) -> int:
        """What its files take."""
        return self.session_bytes + self.worktree_bytes

    def as_json(self) -> dict[str, Any]:
        """Return its JSON."""
        about: dict[str, Any] = {
            "session_id": self.session_id,
            "pipeline": self.pipeline,
            "status": self.status,
            "updated_at": self.updated_at,
            "bytes": {"session": self.session_bytes, "worktrees": self.worktree_bytes},
        }
        if self.reasons:
            return {**about, "reasons": [reason.as_json() for reason in self.reasons]}
        lost = [reason.as_json() for reason in self.discarded]
        return {**about, "repos": {repo.name: repo.as_json() for repo in self.repos}, "discarded": lost}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cleanup of a project does, in this order."""

    sessions: tuple[SessionPlan, ...]
    trash: tuple[Path, ...] = ()
    """Directories that a cleanup which was killed had on their way out."""
    discard: bool = False
    branches: frozenset[str] = frozenset()
    """The branches of all these sessions: that one holds the commits of another does not count as merged."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a cleanup has done, or, of a plan, will do."""

    sessions: tuple[SessionPlan, ...]
    """As planned; one that could not be removed has the reason."""
    trash: tuple[Path, ...] = ()

    @property
    def removed(self) -> tuple[SessionPlan, ...]:
        """The sessions that are gone."""
        return tuple(one for one in self.sessions if not one.reasons)

    @property
    def kept(self) -> tuple[SessionPlan, ...]:
        """The sessions that stay, each with its reasons."""
        return tuple(one for one in self.sessions if one.reasons)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of `orchestra cleanup --json`, without what tells a dry run."""
        return {
            "removed": [one.as_json() for one in self.removed],
            "kept": [one.as_json() for one in self.kept],
            "trash": [str(path) for path in self.trash],
            "bytes": sum(one.bytes for one in self.removed),
        }
