"""For tests of `cleanup`: a project with two repositories, its sessions, and what must be left of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from orchestra.runtime.cleaning import clean, plan_cleanup
from orchestra.runtime.store import SessionFiles, find_session, session_ids
from tests.gitkit import fingerprint
from tests.session_support import agent, chain, says, writes

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from orchestra.runtime.cleanup_plan import Report
    from orchestra.testing import GitRepo
    from tests.conftest import Workshop

TOOLS = ["repo:write-file", "lib:write-file"]


@dataclass
class Place:
    """A project with two repositories, and sessions in it."""

    workshop: Workshop
    lib: GitRepo

    PATHS: ClassVar = {"repo": "../app", "lib": "../lib"}

    @property
    def root(self) -> Path:
        return self.workshop.repo.path

    @property
    def only(self) -> str:
        """The one session that there is."""
        (session,) = session_ids(self.root)
        return session

    @property
    def tops(self) -> tuple[Path, Path]:
        return self.root, self.lib.path

    async def session(
        self,
        *replies: dict[str, Any],
        script: dict[str, Any] | None = None,
        repos: Collection[str] = ("repo", "lib"),
        **more: Any,
    ) -> str:
        """Run a session of one agent, or of several."""
        pipeline = {
            "name": "work",
            "workspace": {"repos": {name: {"path": self.PATHS[name]} for name in repos}},
            "agents": {"worker": agent(tools=TOOLS)},
            "graph": chain("worker"),
            **more,
        }
        path = self.workshop.pipeline(pipeline, script=script or {"worker": [list(replies)]})
        return (await self.workshop.run(path)).record.session_id

    async def completed(self) -> str:
        """A session that has written into both repositories."""
        return await self.session(
            writes("new.txt", "app\n", name="repo:write-file"),
            writes("new.txt", "lib\n", name="lib:write-file"),
            says("ok"),
        )

    async def failed(self, repos: Collection[str] = ("repo", "lib")) -> str:
        """A session whose second agent has written into one repository, and then failed."""
        script = {
            "worker": [[writes("new.txt", "app\n", name="repo:write-file"), says("ok")]],
            "second": [[writes("half.txt", "half\n", name="repo:write-file"), {"error": "auth"}]],
        }
        tools = [f"{name}:write-file" for name in repos]
        return await self.session(
            script=script,
            repos=repos,
            agents={"worker": agent(tools=tools), "second": agent(tools=tools)},
            graph=chain("worker", "second"),
            limits={"max_failures_per_session": 1},
        )

    def branch(self, session: str) -> str:
        return f"orchestra/work/{session}"

    def files(self, session: str) -> SessionFiles:
        return find_session(self.root, session)

    def worktree(self, session: str, slot: str = "_session") -> Path:
        return self.root / ".orchestra" / "worktrees" / session / slot

    def refs(self, *prefixes: str) -> list[str]:
        """Return the references of both repositories."""
        patterns = prefixes or ("refs/orchestra", "refs/heads/orchestra")
        return [
            line
            for repo in (self.workshop.repo, self.lib)
            for line in repo.git("for-each-ref", "--format=%(refname)", *patterns).splitlines()
        ]

    def user_side(self) -> dict[str, str]:
        """Return the fingerprint of all that is the user's."""
        return {
            path: mark
            for top in self.tops
            for path, mark in fingerprint(top).items()
            if "/refs/heads/orchestra" not in path and "/logs/" not in path and not path.endswith("/.git")
        }

    def leftovers(self) -> list[str]:
        """Return what is left under `.orchestra` of the repositories, and what git knows of worktrees."""
        found = [
            str(path.relative_to(top))
            for top in self.tops
            for name in ("worktrees", "rescue", "trash")
            for path in (top / ".orchestra" / name).glob("*")
        ]
        return found + [str(path) for top in self.tops for path in (top / ".git" / "worktrees").glob("*")]

    def change(self, session: str, sql: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.files(session).database)) as connection:
            connection.execute(sql, values)
            connection.commit()

    async def clean(self, *sessions: str, **how: Any) -> Report:
        """Clean up; the plan is checked to be what is done."""
        plan = await plan_cleanup(self.root, sessions=sessions or None, **how)
        return await clean(self.root, plan)

    def assert_nothing_left(self, *branches: str) -> None:
        assert session_ids(self.root) == []
        assert self.refs() == [f"refs/heads/{branch}" for branch in branches]
        assert self.leftovers() == []


def reasons(report: Report) -> list[tuple[str | None, str]]:
    return [(reason.repo, reason.code) for session in report.kept for reason in session.reasons]


def lost(report: Report) -> list[tuple[str | None, str]]:
    return [(reason.repo, reason.code) for session in report.removed for reason in session.discarded]


def add_rescue(place: Place, session: str) -> None:
    tree = place.workshop.repo.git("rev-parse", f"{place.branch(session)}^{{tree}}:docs")
    commit = place.workshop.repo.git("commit-tree", tree, "-p", place.branch(session), "-m", "kept")
    place.workshop.repo.git("update-ref", f"refs/orchestra/{session}/rescue/1-_session", commit)
