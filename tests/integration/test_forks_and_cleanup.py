"""Forks and the cleanup of the sessions that they left: neither takes anything from the other."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError
from orchestra.graph.project import find_project
from orchestra.runtime import forking, replaying
from orchestra.runtime.cleaning import clean, plan_cleanup
from orchestra.runtime.replaying import Changes
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import find_session, read_checkpoints, session_ids
from tests.gitkit import git
from tests.session_support import agent, chain, query, says, writes

if TYPE_CHECKING:
    from tests.conftest import Workshop

TOOLS = ["move-file", "edit-file", "write-file"]


def _moves(source: str, word: str, other: str, other_word: str) -> list[dict[str, Any]]:
    """Move a file to `x.txt`, and change a line of both."""
    return [
        {"tools": [{"name": "move-file", "args": {"path": source, "to": "x.txt"}}]},
        {"tools": [{"name": "edit-file", "args": {"path": "x.txt", "old": f"{word} 3\n", "new": "3\n"}}]},
        {"tools": [{"name": "edit-file", "args": {"path": other, "old": f"{other_word} 9\n", "new": "9\n"}}]},
        says("moved"),
    ]


async def _cleaned(workshop: Workshop, session: str) -> None:
    root = workshop.repo.path
    report = await clean(root, await plan_cleanup(root, sessions=[session], discard=True))
    assert [one.session_id for one in report.removed] == [session]


async def test_a_fork_keeps_what_only_the_index_of_a_conflict_names(workshop: Workshop) -> None:
    """Where both sides moved a file to one place, the stages of the conflict are merges that no commit has."""
    content = {word: "".join(f"{word} {number}\n" for number in range(20)) for word in ("line", "row")}
    workshop.repo.write({"a.txt": content["line"], "b.txt": content["row"]})
    workshop.repo.git("add", "-A")
    workshop.repo.git("commit", "-qm", "two files")
    path = workshop.pipeline(
        {
            "name": "moves",
            "agents": {name: agent(tools=TOOLS) for name in ("left", "right", "merger")},
            "graph": [
                {"from": "START", "to": ["left", "right"]},
                {"from": ["left", "right"], "to": "merger"},
                {"from": "merger", "to": "END"},
            ],
        },
        script={
            "left": [_moves("a.txt", "line", "b.txt", "row")],
            "right": [_moves("b.txt", "row", "a.txt", "line")],
            "merger": [[writes("x.txt", "both\n"), says("merged")]],
        },
    )
    source = (await workshop.run(path)).record
    assert source.status == "completed", source.error
    row = next(row for row in read_checkpoints(source.files) if row["next"] == ["merger"])
    manager = SessionManager(find_project(workshop.repo.path))
    fork = (await manager.replay(source.files, row, Changes(), goes_on=False)).record.session_id

    await _cleaned(workshop, source.session_id)
    workshop.repo.git("reflog", "expire", "--expire=now", "--all")
    workshop.repo.git("prune", "--expire=now")

    named = query(
        workshop,
        fork,
        "SELECT DISTINCT stage.value ->> 1 FROM checkpoints, json_tree(CAST(checkpoint AS TEXT)) AS node,"
        " json_each(node.value) AS stage WHERE node.key = 'stages'",
    )
    assert len(named) == 2
    assert [git(workshop.repo.path, "cat-file", "-t", sha) for (sha,) in named] == ["blob", "blob"]


@pytest.mark.parametrize(
    ("point", "code"),
    [("fork-copied", "session-removed"), ("fork-files-copied", "objects-missing"), ("fork-made", None)],
)
async def test_a_session_that_is_removed_while_it_is_forked_leaves_a_whole_fork_or_none(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, point: str, code: str | None
) -> None:
    root = workshop.repo.path
    path = workshop.pipeline(
        {"name": "one", "agents": {"one": agent(tools=TOOLS)}, "graph": chain("one")},
        script={"one": [[writes("new.txt", "new\n"), says("ok")]]},
    )
    source = (await workshop.run(path)).record
    before = workshop.repo.git("for-each-ref", "refs/heads/main")

    def remove_and_prune() -> None:
        asyncio.run(_cleaned(workshop, source.session_id))
        if code != "session-removed":
            workshop.repo.git("prune", "--expire=now")

    def pass_by(name: str) -> None:
        if name == point:
            cleanup = threading.Thread(target=remove_and_prune)
            cleanup.start()
            cleanup.join()

    for module in (forking, replaying):
        monkeypatch.setattr(module, "failpoint", pass_by)
    manager = SessionManager(find_project(root))
    row = read_checkpoints(source.files)[-1]

    if code is not None:
        with pytest.raises(OrchestraError) as refused:
            await manager.replay(source.files, row, Changes(), goes_on=False)
        assert (refused.value.code, refused.value.exit_code) == (code, 2)
        assert session_ids(root) == []
        assert workshop.repo.git("for-each-ref") == before
        assert not list((root / ".orchestra" / "worktrees").glob("*"))
    else:
        fork = await manager.replay(source.files, row, Changes(), goes_on=False)
        assert (root / ".orchestra" / "worktrees" / fork.record.session_id / "_session" / "new.txt").exists()
        assert (await manager.resume(find_session(root, fork.record.session_id))).record.status == "completed"
