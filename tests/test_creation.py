"""A session is made whole or not at all: what a kill left of one is swept by the next run."""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from orchestra.runtime.creation import sweep
from orchestra.runtime.store import session_ids, sessions_directory
from tests.session_support import agent, chain, run_and_kill, says, writes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop


def small_pipeline(workshop: Workshop) -> Path:
    pipeline = {"name": "small", "agents": {"one": agent(tools=["write-file"])}, "graph": chain("one")}
    return workshop.pipeline(pipeline, script={"one": [[writes("a.txt", "1\n"), says("one")]]})


def directories(workshop: Workshop) -> set[str]:
    return {path.name for path in sessions_directory(workshop.repo.path).iterdir()} - {".git"}


def references(workshop: Workshop) -> set[str]:
    names = workshop.repo.git("for-each-ref", "--format=%(refname)", "refs/orchestra").split()
    return {name.split("/")[2] for name in names}


@pytest.mark.parametrize(
    "point", ["session-directory-made", "pipeline-frozen", "base-pinned", "session-prepared", "database-drafted"]
)
def test_what_a_kill_left_of_a_session_in_the_making_is_swept_by_the_next_run(workshop: Workshop, point: str) -> None:
    workshop.repo.write({"app.py": "x = 'draft'\n"})
    path = small_pipeline(workshop)
    killed = run_and_kill(workshop, path, point)
    assert killed.session is None
    (left,) = directories(workshop)

    result = asyncio.run(workshop.run(path))

    assert result.record.status == "completed"
    assert left != result.record.session_id
    assert directories(workshop) == references(workshop) == {result.record.session_id}


async def test_a_session_that_another_process_is_making_is_not_swept(workshop: Workshop) -> None:
    path = small_pipeline(workshop)
    await workshop.run(path)
    made = sessions_directory(workshop.repo.path) / "0123abcd"
    made.mkdir(mode=0o700)
    parent = os.open(made.parent, os.O_RDONLY)
    fcntl.flock(parent, fcntl.LOCK_SH)  # as who makes a session holds it, before there is a lock to look at

    await sweep(workshop.repo.path)
    assert made.is_dir()

    os.close(parent)
    await sweep(workshop.repo.path)
    assert not made.exists()


async def test_git_of_a_killed_process_that_still_works_keeps_its_directory(workshop: Workshop) -> None:
    left = sessions_directory(workshop.repo.path) / "0123abcd"
    left.mkdir(0o700, parents=True)
    (left / "lock").touch()
    orphan = os.open(left / "lock", os.O_RDWR)
    fcntl.flock(orphan, fcntl.LOCK_EX)

    await sweep(workshop.repo.path)
    assert left.is_dir()

    os.close(orphan)
    await sweep(workshop.repo.path)
    assert not left.exists()


async def test_what_is_no_session_in_the_making_is_let_be(workshop: Workshop) -> None:
    parent = sessions_directory(workshop.repo.path)
    for name in ("notes", "0123abcd", "0123abce", "ABCDEFGH"):
        (parent / name).mkdir(parents=True)
    (parent / "0123abcd" / "diary.txt").write_text("mine\n")  # nothing that Orchestra writes
    (parent / "0123abce" / "session.db").touch()
    for name, file in (("0123abch", "driver.log"), ("0123abcj", "inbox/talker.1.1.0.json")):
        path = parent / name / file  # of a session whose database is gone
        path.parent.mkdir(0o700, parents=True)
        path.parents[0 if path.parent.name == name else 1].chmod(0o700)
        path.touch()
    (parent / "0123abcf").symlink_to(workshop.repo.path)
    (parent / "0123abc0").write_text("a file\n")
    before = directories(workshop)

    await sweep(workshop.repo.path)

    assert directories(workshop) == before


async def test_a_broken_note_of_repositories_stops_nobody(workshop: Workshop, tmp_path: Path) -> None:
    left = sessions_directory(workshop.repo.path) / "0123abcd"
    left.mkdir(0o700, parents=True)
    (left / "making.json").write_text('{"repos": ["' + str(tmp_path / "gone") + '", 7]}')

    await sweep(workshop.repo.path)

    assert not left.exists()
    assert session_ids(workshop.repo.path) == []


async def test_git_clean_spares_sessions(workshop: Workshop) -> None:
    result = await workshop.run(small_pipeline(workshop))
    workshop.repo.write({"junk.txt": "junk\n"})

    said = workshop.repo.git("clean", "-fdx")

    assert "Removing junk.txt" in said
    assert session_ids(workshop.repo.path) == [result.record.session_id]
    assert await workshop.resume(result.record.session_id) == result
    assert workshop.repo.git("status", "--porcelain") == ""
