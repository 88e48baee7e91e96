"""Many writers at once on one repository: none fails, and no more checkouts run at a time than there are cores."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from orchestra.runtime.git import GitManager
from orchestra.runtime.worktree import WorktreeManager
from tests.session_support import agent, assert_consistent, contents, says, turn_commits, writes

if TYPE_CHECKING:
    import pytest

    from orchestra.runtime.git_process import GitOutput
    from tests.conftest import Workshop

WRITERS = [f"w{number}" for number in range(32)]


async def test_32_worktrees_are_made_at_once_and_no_more_are_filled_at_a_time_than_there_are_cores(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.repo.commit({f"d{number % 10}/f{number}.txt": f"{number}\n" for number in range(300)})
    running, most = 0, 0
    original = GitManager.run

    async def counting(self: GitManager, where: Any, *args: str, **more: Any) -> GitOutput:
        nonlocal running, most
        if args[0] != "read-tree":
            return await original(self, where, *args, **more)
        running += 1
        most = max(most, running)
        try:
            return await original(self, where, *args, **more)
        finally:
            running -= 1

    monkeypatch.setattr(GitManager, "run", counting)
    git = GitManager()
    repo = await git.open("repo", workshop.repo.path)
    worktrees = WorktreeManager(git, "s1")

    made = await asyncio.gather(*(worktrees.ensure(repo, name, workshop.repo.head) for name in WRITERS))

    assert len({tree.path for tree in made}) == len(WRITERS)
    for tree in made:
        assert len(list(tree.path.glob("d*/f*.txt"))) == 300
        assert worktrees.is_fresh(tree, workshop.repo.head)
    assert 1 <= most <= (os.cpu_count() or 1)


async def test_32_writers_at_once_are_merged_at_one_join(workshop: Workshop) -> None:
    script = {name: [[writes(f"{name}.txt", f"{name}\n"), says("done")]] for name in WRITERS}
    script["t"] = [[writes("t.txt", "t\n"), says("done")]]
    graph = [{"from": "START", "to": WRITERS}, {"from": WRITERS, "to": "t"}, {"from": "t", "to": "END"}]
    agents = {name: agent(tools=["write-file"]) for name in script}

    result = await workshop.run(
        workshop.pipeline({"name": "crowd", "agents": agents, "graph": graph}, script=script),
    )

    assert result.record.status == "completed", result.record.error
    assert_consistent(workshop, result)
    assert sorted(turn_commits(workshop, result.branches["repo"])) == sorted(f"{name}:1" for name in script)
    files = contents(workshop, result.commits["repo"])
    assert {name: files[f"{name}.txt"] for name in script} == {name: name for name in script}
    places = workshop.repo.path / ".orchestra" / "worktrees" / result.record.session_id
    assert [path.name for path in places.iterdir()] == ["_session"]
