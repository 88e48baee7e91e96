"""Conflicts that people and agents treat badly: nothing may be lost, and nothing taken for resolved (DESIGN §5.9)."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_joins import MEET, edits, team, worktree_of
from tests.session_support import contents, run_and_kill, says, writes

if TYPE_CHECKING:
    from tests.conftest import Workshop

HUMAN: list[dict[str, Any]] = [MEET[0], {**MEET[1], "on_conflict": "human"}, MEET[2]]


def runs(command: str) -> dict[str, Any]:
    return {"tools": [{"name": "shell", "args": {"command": command}}]}


async def test_a_conflict_whose_worktree_is_deleted_is_laid_out_anew(workshop: Workshop) -> None:
    script = {
        "a": [[runs("printf 'a\\0a' > bin"), says("a")]],
        "b": [[runs("printf 'b\\0b' > bin"), says("b")]],
        "t": [[says("done")]],
    }
    paused = await workshop.run(team(workshop, script, HUMAN))
    tree = worktree_of(workshop, paused.record.session_id)
    shutil.rmtree(tree.path)

    again = await workshop.resume(paused.record.session_id)

    assert again.record.status == "paused"  # a binary file has no markers
    assert tree.git("status", "--short") == "AA bin"


LOSING = {
    "a": [edits("app.py", "x = 2\n")],
    "b": [[writes("b.txt", "b\n"), *edits("app.py", "x = 3\n")]],
}
"""What `b` adds is clean, and gone with a merge that is given up."""


async def test_a_commit_of_the_agents_without_the_other_side_is_no_resolution(workshop: Workshop) -> None:
    alone = "git reset -q --hard; echo 'x = 23' > app.py; git -c user.name=t -c user.email=t@t commit -qam mine"
    failed = await workshop.run(team(workshop, {**LOSING, "t": [[runs(alone), says("done")]]}))

    error = failed.record.error
    assert error is not None, contents(workshop, failed.commits["repo"])
    assert error["code"] == "unresolved-conflict"
    assert " merge " in error["message"]
    tree = worktree_of(workshop, failed.record.session_id)
    command = error["message"].partition("`")[2].partition("`")[0]
    with pytest.raises(AssertionError):  # it conflicts, of course
        tree.git(*command.split()[3:])
    tree.write({"app.py": "x = 23\n"})
    tree.git("add", "app.py")
    done = await workshop.resume(failed.record.session_id)
    assert done.record.status == "completed", done.record.error
    assert {"app.py": "x = 23", "b.txt": "b"}.items() <= contents(workshop, done.commits["repo"]).items()


async def test_a_merge_that_the_agent_gave_up_stays_so_through_a_kill(workshop: Workshop) -> None:
    turn = [runs("git merge --abort"), runs("true"), *edits("app.py", "x = 23\n")]
    killed = run_and_kill(workshop, team(workshop, {**LOSING, "t": [turn]}), "tool-ended:5")
    assert killed.session
    assert not killed.finished

    failed = await workshop.resume(killed.session)

    assert failed.record.error is not None, contents(workshop, failed.commits["repo"])
    assert failed.record.error["code"] == "unresolved-conflict"
