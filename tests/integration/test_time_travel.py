"""Random sequences of runs, kills, resumes, forks, applies and cleanups: nothing is lost, and nothing moves unasked.

`ORCHESTRA_WALKS=40 pytest tests/integration/test_time_travel.py` walks more often; a failure names its seed and steps.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError
from orchestra.graph.project import find_project
from orchestra.runtime.applying import apply
from orchestra.runtime.cleaning import clean, plan_cleanup
from orchestra.runtime.replaying import Changes
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import SessionFiles, find_session, read_checkpoints, read_session, session_ids
from orchestra.testing import GitRepo, git_repo
from tests.conftest import Workshop
from tests.gitkit import assert_sound, fingerprint, git, write
from tests.session_support import agent, in_a_child, says

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

WALKS = int(os.environ.get("ORCHESTRA_WALKS", "1"))
STEPS = 10
NAMES = ("app", "lib")
PIPELINE = {
    "name": "walk",
    "workspace": {"repos": {name: {"path": f"../{name}"} for name in NAMES}},
    "agents": {
        "left": agent(tools=["app:write-file", "lib:write-file"]),
        "right": agent(tools=["app:write-file"]),
        "last": agent(tools=["app:write-file"]),
    },
    "graph": [
        {"from": "START", "to": ["left", "right"]},
        {"from": ["left", "right"], "to": "last"},
        {"from": "last", "to": "END"},
    ],
}


def call(repo: str, path: str, content: str) -> dict[str, Any]:
    return {"tools": [{"name": f"{repo}:write-file", "args": {"path": path, "content": content}}]}


SCRIPT = {
    "left": [[call("app", "left.txt", "left\n"), call("lib", "lib.txt", "lib\n"), says("Left.")]],
    "right": [[call("app", "right.txt", "right\n"), says("Right.")]],
    "last": [[call("app", "left.txt", "both\n"), says("Last.")]],
}
OUTCOME = {"app": {"left.txt": "both", "right.txt": "right"}, "lib": {"lib.txt": "lib"}}
POINTS = {
    "run": [
        "checkpoint-written",
        "writes-stored",
        "snapshot-pinned",
        "turn-commit-made",
        "branch-moved",
        "event-merged",
    ],
    "resume": ["session-reopened", "checkpoint-written", "writes-stored", "restored", "status-due"],
    "replay": [
        *("session-directory-made", "fork-copied", "fork-cut", "fork-base-pinned", "fork-commits-kept"),
        *("database-drafted", "fork-there", "fork-branch-made", "checkpoint-written"),
    ],
    "apply": [
        *("apply-planned", "apply-noted", "apply-pinned", "apply-journaled", "apply-due", "apply-written"),
        *("apply-unpinned", "apply-ended", "apply-branch-made"),
    ],
    "cleanup": [
        *("cleanup-begun", "removal-due", "worktree-away", "worktree-forgotten", "cleanup-worktree-removed"),
        *("cleanup-references-due", "cleanup-references-gone", "cleanup-session-away", "cleanup-done"),
    ],
}
"""Where a walk is killed; a name that is not passed kills nothing."""


@dataclass
class Walk:
    """A project, and what somebody does with it."""

    workshop: Workshop
    lib: GitRepo
    path: Path
    dice: random.Random
    steps: list[str] = field(default_factory=list)
    users: dict[str, dict[str, str]] = field(default_factory=dict)
    """What must be as it was, but after an `apply`."""
    kept: dict[str, set[str]] = field(default_factory=dict)
    """Repo → commits of sessions that no cleanup has touched, and of branches that stay."""

    @property
    def root(self) -> Path:
        return self.workshop.repo.path

    @property
    def tops(self) -> dict[str, Path]:
        return {"app": self.root, "lib": self.lib.path}

    @property
    def told(self) -> str:
        """What was done so far."""
        return "\n".join(self.steps)

    def sessions(self) -> list[SessionFiles]:
        """Return the sessions in the order in which they were made: their ids are others each time."""
        found = [find_session(self.root, name) for name in session_ids(self.root)]
        return sorted(found, key=lambda files: read_session(files).created_at)

    def manager(self) -> SessionManager:
        return SessionManager(find_project(self.root))

    def do(self, what: str, work: Callable[[], Coroutine[Any, Any, Any]], *, about: str = "") -> Any:
        """Do something, at times until a kill; errors that are told are an answer."""
        point = f"{self.dice.choice(POINTS[what])}:{self.dice.randint(1, 3)}" if self.dice.random() < 0.45 else None
        self.steps.append(f"{what} {about}{f' killed at {point}' if point else ''}")
        if point:
            code = in_a_child(lambda: asyncio.run(work()), failpoint=point)
            assert code in (0, 99, -signal.SIGKILL), self.told
            return None
        try:
            return asyncio.run(work())
        except OrchestraError as error:
            self.steps[-1] += f": {error.code}"
            return error

    def step(self) -> None:
        known = self.sessions()
        what = self.dice.choice(
            ["run", "resume", "replay", "replay", "replay", "apply", "cleanup"] if known else ["run"]
        )
        getattr(self, what)(*([self.dice.choice(known)] if known and what != "run" else []))
        self.check(touched=what == "apply")

    def run(self) -> None:
        self.do("run", lambda: self.workshop.run(self.path))

    def resume(self, files: SessionFiles) -> None:
        result = self.do("resume", lambda: self.manager().resume(files), about=files.session_id)
        if result is not None and not isinstance(result, OrchestraError):
            assert result.record.status == "completed", (self.steps, result.record.error)
            for name, top in self.tops.items():
                names = git(top, "ls-tree", "-r", "--name-only", result.commits[name]).split("\n")
                for path, content in OUTCOME[name].items():
                    assert path in names, self.told
                    assert git(top, "show", f"{result.commits[name]}:{path}") == content, self.told

    def replay(self, files: SessionFiles) -> None:
        rows = read_checkpoints(files)
        if rows:
            row, goes_on = self.dice.choice(rows), self.dice.random() < 0.4
            about = f"{files.session_id} at {row['checkpoint_id'][:13]}"
            self.do("replay", lambda: self.manager().replay(files, row, Changes(), goes_on=goes_on), about=about)

    def apply(self, files: SessionFiles) -> None:
        branch = f"mine-{len(self.steps)}" if self.dice.random() < 0.2 else None
        before = self.prints()
        done = self.do("apply", lambda: apply(files, branch=branch), about=files.session_id)
        if done is None:  # it may have been killed: the next one finishes it, or puts all back
            done = self.do_surely(lambda: apply(files, branch=branch))
        if isinstance(done, OrchestraError):
            assert self.prints() == before, f"{done}: {self.told}"
        elif branch is None:
            for name, top in self.tops.items():
                for change in done.repos[name].changes if name in done.repos else ():
                    shown = top / os.fsdecode(change.path)
                    assert shown.exists() == (change.kind != "deleted"), self.told

    def do_surely(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        try:
            return asyncio.run(work())
        except OrchestraError as error:
            return error

    def cleanup(self, files: SessionFiles) -> None:
        discard = self.dice.random() < 0.4
        named = [files.session_id] if self.dice.random() < 0.7 else None

        async def work() -> Any:
            plan = await plan_cleanup(self.root, sessions=named, older_than=timedelta(0), discard=discard)
            return await clean(self.root, plan)

        before = {one.session_id for one in self.sessions()}
        self.do("cleanup", work, about=f"{named or 'all'}{' --discard' if discard else ''}")
        self.do_surely(work)
        gone = before - {one.session_id for one in self.sessions()}
        self.steps[-1] += f" removed {sorted(gone)}"
        if gone and discard:
            self.kept.clear()  # what was theirs alone may go; what others stand on is noted again

    def prints(self) -> dict[str, dict[str, str]]:
        return {name: fingerprint(top) for name, top in self.tops.items()}

    def check(self, *, touched: bool) -> None:
        """Check what must always hold."""
        now = self.prints()
        assert touched or now == self.users, self.told
        self.users = now
        reachable = {name: set(git(top, "rev-list", "--glob=refs/*").split()) for name, top in self.tops.items()}
        for name, commits in self.kept.items():
            lost = commits - reachable[name]
            assert not lost, f"lost in {name}: {lost} after\n{self.told}"
        for files in self.sessions():
            for row in read_checkpoints(files):
                for name, commit in row["repos"].items():
                    assert commit in reachable[name], f"a checkpoint's commit was lost: {row} after\n{self.told}"
        for name, top in self.tops.items():
            # A branch that is still at its base, which holds the user's own uncommitted work, goes with its session.
            tips = git(top, "log", "--no-walk", "--branches", "--format=%H %(trailers:key=Orchestra-Session)").split(
                "\n"
            )
            self.kept[name] = self.kept.get(name, set()) | {tip[:40] for tip in tips if "Orchestra-Session" in tip}

    def end(self) -> None:
        """Restore a checkpoint of every session that is left, without what nothing keeps; then fork and end each."""
        for top in self.tops.values():
            git(top, "-c", "gc.reflogExpire=now", "gc", "-q", "--prune=now")
        for files in self.sessions():
            if rows := read_checkpoints(files):
                row = self.dice.choice(rows)
                self.steps.append(f"end: {files.session_id} at {row['checkpoint_id']}")
                stands = asyncio.run(self.manager().replay(files, row, Changes(), goes_on=False))
                for name, top in self.tops.items():
                    tree = Path((stands.worktrees or {})[name])
                    git(tree, "add", "-A")
                    wanted = git(top, "rev-parse", f"{row['repos'][name]}^{{tree}}")
                    assert git(tree, "write-tree") == wanted, self.told
        for files in self.sessions()[:3]:
            self.resume(files)
        for top in self.tops.values():
            assert_sound(top, killed=True)


@pytest.mark.parametrize("seed", range(WALKS))
def test_whatever_is_done_with_sessions_nothing_is_lost_and_nothing_moves_unasked(tmp_path: Path, seed: int) -> None:
    repos = {name: git_repo(tmp_path / name, {"README.md": f"{name}\n"}) for name in NAMES}
    (tmp_path / "home").mkdir()
    (tmp_path / "pipelines").mkdir()
    write(repos["app"].path, {"mine.txt": "uncommitted\n"})
    workshop = Workshop(repos["app"], tmp_path / "pipelines", tmp_path / "home")
    walk = Walk(workshop, repos["lib"], workshop.pipeline(PIPELINE, script=SCRIPT), random.Random(seed))  # noqa: S311
    walk.users = walk.prints()
    for _ in range(STEPS):
        walk.step()
    walk.end()
