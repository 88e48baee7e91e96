"""Conflicts that people and agents treat badly: nothing may be lost, and nothing taken for resolved (DESIGN §5.9)."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

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
