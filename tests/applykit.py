"""Sessions that have ended, for tests of `apply`: a real database and real commits, without running any agent."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.runtime.database import create_database
from orchestra.runtime.git import GitManager
from orchestra.runtime.snapshots import base_snapshot
from orchestra.runtime.store import SessionFiles, SessionRecord, Status, sessions_directory
from tests.gitkit import DATE, git

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SESSION = "abcd2345"
WHEN = DATE.isoformat()


@dataclass
class Ended:
    """A session that has ended, and what it has for each repo."""

    files: SessionFiles
    tops: dict[str, Path]
    bases: dict[str, str]
    results: dict[str, str]

    def goes_on(self, repo: str, edit: Callable[[Path], object]) -> None:
        """Let the session change more."""
        self.results[repo] = commit_on(self.tops[repo], self.results[repo], edit, self.files.session_id)
        add_checkpoint(self.files, self.results)


async def ended(
    root: Path,
    repos: Mapping[str, tuple[Path, Callable[[Path], object]]],
    *,
    session: str = SESSION,
    status: Status = Status.COMPLETED,
) -> Ended:
    """Make a session that started from the checkouts as they are, uncommitted work included.

    Args:
        root: The project.
        repos: Repo → its checkout, and what the session did in a worktree of it.
        session: Its id.
        status: How it has ended.
    """
    manager = GitManager(durable=False)
    bases, results = {}, {}
    for name, (top, edit) in repos.items():
        repo = await manager.open(name, top, judge=False)
        base = await base_snapshot(manager, repo, session=session, mode="include", date=DATE)
        bases[name] = base.commit
        results[name] = commit_on(top, base.commit, edit, session)
    files = SessionFiles(sessions_directory(root) / session)
    files.inbox.mkdir(parents=True)
    workspace = {
        name: {"path": str(top), "base": bases[name], "merge_base": None, "branch": f"orchestra/p/{session}"}
        for name, (top, _) in repos.items()
    }
    settings = {"directory": str(files.directory), "file": "p.yaml", "shipped": False, "imports": "", "notices": []}
    await create_database(SessionRecord(session, "p", status, WHEN, WHEN, {}, workspace, settings, {}, files=files))
    with closing(sqlite3.connect(files.database)) as connection:
        connection.execute("CREATE TABLE checkpoints (checkpoint_ns TEXT, checkpoint_id TEXT, metadata BLOB)")
    add_checkpoint(files, results)
    return Ended(files, {name: top for name, (top, _) in repos.items()}, bases, results)


def add_checkpoint(files: SessionFiles, integrated: Mapping[str, str]) -> None:
    with closing(sqlite3.connect(files.database)) as connection:
        (seq,) = connection.execute("SELECT COUNT(*) + 1 FROM checkpoints").fetchone()
        metadata = json.dumps({"orchestra": {"seq": seq, "integrated": dict(integrated), "in_conflict": False}})
        connection.execute("INSERT INTO checkpoints VALUES ('', ?, ?)", (f"{seq:08}", metadata))
        connection.commit()


def commit_on(top: Path, base: str, edit: Callable[[Path], object], session: str) -> str:
    """Commit what a function does to the files of a commit; it may return a tree of its own making instead."""
    work = top.parent / f"{top.name}-work"
    git(top, "worktree", "add", "-q", "--detach", str(work), base)
    try:
        tree = edit(work)
        git(work, "add", "-A", "--force", "--sparse")
        tree = tree if isinstance(tree, str) else git(work, "write-tree")
        result = git(work, "commit-tree", tree, "-p", base, "-m", "what the agents did")
    finally:
        git(top, "worktree", "remove", "--force", str(work))
    git(top, "update-ref", f"refs/orchestra/{session}/turn/_session", result)
    return result
