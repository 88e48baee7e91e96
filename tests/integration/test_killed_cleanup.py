"""A cleanup that is killed anywhere: the next one finishes it, and loses nothing that the first would not have."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import SessionError
from orchestra.runtime.applying import apply
from orchestra.testing import git_repo
from tests.cleanupkit import Place, add_rescue
from tests.gitkit import assert_sound, write
from tests.session_support import in_a_child

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop


@pytest.fixture
def place(workshop: Workshop, tmp_path: Path) -> Place:
    return Place(workshop, git_repo(tmp_path / "lib", {"lib.py": "y = 1\n"}))


class Kept:
    """A place as it was, to go back to: with links and times, at the same path."""

    def __init__(self, place: Place) -> None:
        self._top = place.root.parent
        self._copy = self._top.with_name(f"{self._top.name}-kept")
        shutil.copytree(self._top, self._copy, symlinks=True)

    def restore(self) -> None:
        for path in self._copy.iterdir():
            target = self._top / path.name
            shutil.rmtree(target)
            shutil.copytree(path, target, symlinks=True)


def points(place: Place, session: str) -> list[str]:
    """Return the failpoints that a cleanup of everything passes, each at its last pass."""
    trace = place.root.parent.with_name("trace")
    trace.unlink(missing_ok=True)
    os.environ["ORCHESTRA_FAILPOINT_TRACE"] = str(trace)
    try:
        assert kill(place, session, None, discard=True) == 0
    finally:
        del os.environ["ORCHESTRA_FAILPOINT_TRACE"]
    passed = Counter(trace.read_text().split())
    del passed["merge-prepared"]  # of looking
    return [f"{name}:{count}" for name, count in passed.items()]


def kill(place: Place, session: str, point: str | None, *, discard: bool) -> int:
    return in_a_child(lambda: asyncio.run(place.clean(session, discard=discard)), failpoint=point)


BETWEEN = (
    "worktree-away:1",
    "cleanup-worktree-removed:1",
    "cleanup-references-due:1",
    "cleanup-references-gone:1",
    "cleanup-references-gone:3",
    "cleanup-session-away:1",
)
"""Where one of two repos is done, or a part of it; in one repo a cleanup is killed at all points, below."""


async def test_a_killed_cleanup_is_finished_by_the_next_and_loses_no_branch(place: Place) -> None:
    session = await place.completed()
    place.lib.git("merge", "-q", "--squash", place.branch(session))
    place.lib.git("commit", "-qm", "squashed")
    tip = place.workshop.repo.git("rev-parse", place.branch(session))
    before, kept = place.user_side(), Kept(place)
    for point in BETWEEN:
        kept.restore()
        assert kill(place, session, point, discard=False) == -signal.SIGKILL, point
        assert place.workshop.repo.git("rev-parse", place.branch(session)) == tip, point
        assert (await place.clean()).kept == (), point  # whatever its age: it was begun
        place.assert_nothing_left(place.branch(session))
        assert place.user_side() == before, point
    for top in place.tops:
        assert_sound(top)


async def test_a_killed_discard_is_finished_by_the_next_and_never_by_one_without_it(place: Place) -> None:
    session = await place.failed(repos=["repo"])
    add_rescue(place, session)
    write(place.root / ".orchestra" / "rescue" / session, {"a.txt": "x"})
    (place.worktree(session) / "late.txt").write_text("late\n")
    before, kept = place.user_side(), Kept(place)
    for point in points(place, session):
        kept.restore()
        assert kill(place, session, point, discard=True) == -signal.SIGKILL, point
        left = place.refs("refs/orchestra")
        if point in ("cleanup-begun:1", "cleanup-references-due:1"):
            assert (await place.clean()).kept, point
            assert place.refs("refs/orchestra") == left, point
        assert (await place.clean(discard=True)).kept == (), point
        place.assert_nothing_left()
        assert place.user_side() == before, point
    for top in place.tops:
        assert_sound(top)


async def test_a_session_is_resumed_after_a_killed_cleanup_as_long_as_all_commits_are_there(place: Place) -> None:
    session = await place.failed()
    assert kill(place, session, "worktree-forgotten", discard=True) == -signal.SIGKILL
    assert not place.worktree(session).exists()
    assert (await place.workshop.resume(session)).record.status == "failed"
    assert (place.worktree(session) / "half.txt").read_text() == "half\n"
    assert (await place.clean()).sessions == ()  # it is one like others again
    assert kill(place, session, "cleanup-references-gone", discard=True) == -signal.SIGKILL
    with pytest.raises(SessionError) as refused:
        await place.workshop.resume(session)
    assert refused.value.code == "cleanup-begun"
    with pytest.raises(SessionError) as refused:
        await apply(place.files(session))
    assert refused.value.code == "cleanup-begun"
    await place.clean(session, discard=True)
    place.assert_nothing_left()
