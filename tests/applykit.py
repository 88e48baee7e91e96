"""For tests of `apply`: sessions that have ended, of a real database and real commits, without running any agent."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import RefusedError
from orchestra.runtime.applying import apply
from orchestra.runtime.database import create_database
from orchestra.runtime.git import GitManager
from orchestra.runtime.snapshots import base_snapshot, scratch_directory
from orchestra.runtime.staging import seed_index, stage
from orchestra.runtime.store import SessionFiles, SessionRecord, Status, sessions_directory
from tests.gitkit import DATE, fingerprint, git, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from orchestra.errors import OrchestraError
    from orchestra.runtime.applied import Applied

FILES = {"a.txt": "one\n", "b.txt": "b\n", "src/c.py": "1\n2\n3\n4\n5\n6\n7\n8\n9\n"}
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


def edits(files: dict[str, str], *gone: str) -> Callable[[Path], object]:
    """What agents do: remove files or directories, and write others."""

    def edit(top: Path) -> None:
        if gone:
            git(top, "rm", "-q", "-r", "-f", "--sparse", *gone)
        write(top, files)

    return edit


async def tree_of_files(top: Path) -> str:
    """The checkout's files as a tree, untracked ones included."""
    manager = GitManager(durable=False)
    repo = await manager.open("repo", top, judge=False)
    with scratch_directory(repo, "test") as scratch:
        await seed_index(manager, repo, scratch / "index")
        return (await stage(manager, repo, scratch / "index")).tree


def lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line]


def side(top: Path) -> dict[str, str]:
    """All that is the user's, but not the branches and worktrees of the session."""
    return {path: mark for path, mark in fingerprint(top).items() if "/logs/" not in path}


def own_side(top: Path) -> dict[str, str]:
    """What `apply` must never change, whatever it writes: index, HEAD, branches, configuration."""
    return {path: mark for path, mark in side(top).items() if "/.git/" in path}


async def refusal(session: Ended, **options: Any) -> RefusedError:
    """An `apply` that is refused, and has touched nothing in any repo."""
    before = {name: side(top) for name, top in session.tops.items() if top.exists()}
    refs = {name: git(top, "for-each-ref") for name, top in session.tops.items() if top.exists()}
    with pytest.raises(RefusedError) as caught:
        await apply(session.files, **options)
    assert {name: side(top) for name, top in session.tops.items() if top.exists()} == before
    assert {name: git(top, "for-each-ref") for name, top in session.tops.items() if top.exists()} == refs
    assert caught.value.exit_code == 2
    assert all(problem.hint for problem in caught.value.problems)
    return caught.value


def codes(error: OrchestraError) -> list[str]:
    return [problem.code for problem in error.problems]


def states(applied: Applied) -> dict[str, str]:
    return {name: repo.state for name, repo in applied.repos.items()}
