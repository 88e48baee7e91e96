"""How much of the disk sessions take: their directories, their worktrees, and how many references they have."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestra.errors import GitError
from orchestra.runtime.git import GitManager
from orchestra.runtime.worktree import worktree_place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.runtime.store import SessionRecord


@dataclass(frozen=True, slots=True)
class Usage:
    """What one session takes."""

    session_id: str
    status: str
    updated_at: str
    session_bytes: int
    worktree_bytes: int
    refs: dict[str, int | None]
    """Repo → how many references are below `refs/orchestra`; None: the repository can't be read."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of `orchestra status --disk --json`."""
        return {
            "session_id": self.session_id,
            "status": self.status,
            "updated_at": self.updated_at,
            "bytes": {"session": self.session_bytes, "worktrees": self.worktree_bytes},
            "refs": dict(self.refs),
        }


async def disk_usage(records: Iterable[SessionRecord]) -> list[Usage]:
    """Measure sessions; git is asked once for each repository, however many there are."""
    git = GitManager()
    counts: dict[str, Counter[str] | None] = {}
    found = []
    for record in records:
        refs, taken = {}, 0
        for name, entry in record.workspace.items():
            path = str(entry["path"])
            if path not in counts:
                counts[path] = await _count(git, Path(path))
            count = counts[path]
            refs[name] = None if count is None else count[record.session_id]
            taken += worktree_bytes(Path(path), record.session_id)
        size = bytes_below(record.files.directory)
        found.append(Usage(record.session_id, str(record.status), record.updated_at, size, taken, refs))
    return found


async def _count(git: GitManager, path: Path) -> Counter[str] | None:
    try:
        repo = await git.open("repo", path, judge=False)
        return Counter(ref.split("/")[2] for ref in await git.refs(repo, "refs/orchestra"))
    except (GitError, OSError):
        return None


def worktree_bytes(top: Path, session: str) -> int:
    """Return the size of a session's worktrees in one repository."""
    directory = (top / worktree_place(session, "any")).parent
    if any(path.is_symlink() for path in (directory, directory.parent, directory.parent.parent)):
        return 0
    return bytes_below(directory)


def bytes_below(directory: Path) -> int:
    """Return the sizes of all files below a directory, as `ls -l` shows them; no link is followed."""
    taken = 0
    for base, _, files in os.walk(directory):
        for name in files:
            try:
                taken += os.lstat(os.path.join(base, name)).st_size  # noqa: PTH118 - many of them
            except OSError:
                continue  # gone meanwhile
    return taken


def size(count: int) -> str:
    """Show a number of bytes."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004 - the step between units
            return f"{amount:.0f} {unit}" if unit in ("B", "KiB") else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
