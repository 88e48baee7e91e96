"""Forks: new sessions from any checkpoint of another one, with its state and its files, that run on to the same end."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestra.errors import GitError, SessionError
from orchestra.runtime.forking import Draft
from orchestra.runtime.store import (
    SessionFiles,
    read_checkpoints,
    read_session,
    session_ids,
)
from orchestra.testing import git_repo
from tests.forkkit import (
    Forks,
    assert_ended_well,
    blobs_at,
    blobs_in,
    counted_session,
    files_in,
    note,
    pinned,
    rich_session,
    state_at,
    workshop_at,
)
from tests.gitkit import assert_sound, fingerprint, git
from tests.session_support import agent, chain, in_a_child, says, writes


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """A session with a fan-out, a conflict, a conversation and a loop over two repositories, at its end."""
    return rich_session(tmp_path_factory.mktemp("forks"))


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """A session that has counted once."""
    return counted_session(tmp_path_factory.mktemp("counted"))


async def test_a_fork_of_any_checkpoint_has_its_state_and_its_files_and_runs_on_to_the_same_end(forks: Forks) -> None:
    before = {name: fingerprint(repo.path) for name, repo in forks.repos.items()}
    own = {path: path.read_bytes() for path in forks.files.directory.rglob("*") if path.is_file()}
    for number, row in enumerate(forks.rows):
        stands = await forks.fork(row, run=False)
        session = forks.named(stands.record.session_id)

        rows = read_checkpoints(session)
        assert rows == forks.rows[: number + 1], "its history is the source's up to there"
        assert state_at(session) == state_at(forks.files, row)
        for name, repo in forks.repos.items():
            assert blobs_in(Path(stands.worktrees[name])) == blobs_at(repo.path, row["repos"][name])
        if number % 7 == 0:
            result = await forks.manager().resume(session)
            assert_ended_well(forks, result)
            assert result.record.usage["model_calls"] <= 15
    assert {name: fingerprint(repo.path) for name, repo in forks.repos.items()} == before
    assert {path: path.read_bytes() for path in own} == own, "the source was changed"
    for repo in forks.repos.values():
        assert_sound(repo.path)


async def test_a_fork_of_a_fork_of_a_fork_is_one(forks: Forks) -> None:
    first = await forks.fork(forks.row(agent="talker", turn=1))
    middle = next(row for row in reversed(forks.rows) if row["agent"] == "talker" and row["checkpoint_ns"])
    assert_ended_well(forks, first)
    second = await forks.fork(middle, of=forks.session, run=False)
    third = await forks.fork(middle, of=second.record.session_id)
    assert_ended_well(forks, third)
    assert third.as_json()["forked_from"] == {
        "session_id": second.record.session_id,
        "checkpoint_id": middle["checkpoint_id"],
    }
    own = await forks.fork(read_checkpoints(first.record.files)[-4], of=first.record.session_id)
    assert_ended_well(forks, own)


@pytest.mark.parametrize(
    "point",
    [
        *("session-directory-made", "fork-copied", "fork-cut", "fork-files-copied", "fork-base-pinned:2"),
        *("fork-commits-gathered", "fork-commits-kept", "fork-commits-kept:2", "database-drafted"),
    ],
)
def test_a_fork_that_was_killed_while_it_was_made_leaves_nothing(forks: Forks, point: str) -> None:
    known, before = session_ids(forks.root), {name: pinned(repo.path) for name, repo in forks.repos.items()}
    row = forks.row(before="talker")
    assert in_a_child(lambda: asyncio.run(forks.fork(row, run=False)), failpoint=point) == -signal.SIGKILL
    assert session_ids(forks.root) == known
    stands = asyncio.run(forks.fork(row, run=False))  # the next one sweeps
    (made,) = set(session_ids(forks.root)) - set(known)
    assert [entry.name for entry in (forks.root / ".orchestra" / "sessions").iterdir() if entry.name != ".git"] != known
    assert stands.record.session_id == made
    for name, repo in forks.repos.items():
        new = set(pinned(repo.path).split("\n")) - set(before[name].split("\n"))
        assert {line.split("refs/")[1] for line in new} == {
            f"orchestra/{made}/base",
            f"orchestra/{made}/fork",
            f"heads/orchestra/rich/{made}",
        }
    left = {entry.name for entry in (forks.root / ".orchestra" / "sessions").iterdir()} - {".git"}
    assert left == {*known, made}


@pytest.mark.parametrize(
    "point", ["fork-there", "fork-made", "fork-branch-made:1", "fork-worktree-made:1", "session-reopened"]
)
def test_a_fork_that_was_killed_once_it_was_there_is_resumed(forks: Forks, point: str) -> None:
    known = session_ids(forks.root)
    inside = next(row for row in forks.rows if row["agent"] == "left" and row["changed"] == ["front"])
    assert in_a_child(lambda: asyncio.run(forks.fork(inside, run=False)), failpoint=point) == -signal.SIGKILL
    (made,) = set(session_ids(forks.root)) - set(known)
    assert read_session(forks.named(made)).status == "interrupted"
    assert_ended_well(forks, asyncio.run(forks.manager().resume(forks.named(made))))


async def test_a_checkpoint_whose_objects_were_pruned_is_named_and_nothing_is_made(forks: Forks) -> None:
    row = forks.row(agent="merger", turn=2)
    top = forks.repos["back"].path
    blob = git(top, "rev-parse", f"{row['repos']['back']}:more.txt")
    place = top / ".git" / "objects" / blob[:2] / blob[2:]
    known, before, kept = session_ids(forks.root), pinned(top), place.read_bytes()
    mode = place.stat().st_mode
    for content in (None, b""):
        place.unlink()
        if content is not None:
            place.write_bytes(content)
        with pytest.raises(GitError, match=blob) as caught:
            await forks.fork(row)
        assert (caught.value.code, caught.value.exit_code) == ("objects-missing", 2)
        assert row["checkpoint_id"] in caught.value.message
        assert (session_ids(forks.root), pinned(top)) == (known, before)
        place.unlink(missing_ok=True)
        place.write_bytes(kept)
        place.chmod(mode)
    assert_ended_well(forks, await forks.fork(row))


# --- sources of every kind


def test_a_session_that_is_running_is_forked_while_it_runs(tmp_path: Path) -> None:
    workshop = workshop_at(tmp_path)
    path = workshop.pipeline(
        {"name": "slow", "agents": {"one": agent(tools=["write-file"]), "two": agent()}, "graph": chain("one", "two")},
        script={"one": [[writes("a.txt", "a\n"), says("One.")]], "two": [[says("Two.", delay=30)]]},
    )
    process = workshop.start("run", path)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "two" in line and "starts" in line:
                break
        (session,) = session_ids(workshop.repo.path)
        forked = workshop.json("replay", session, "--agent", "one", "--no-run")
        assert forked["forked_from"]["session_id"] == session
        assert files_in(Path(forked["worktrees"]["repo"]))["a.txt"] == "a\n"
        assert workshop.json("status", session)[0]["status"] == "running"
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_the_command_says_what_it_made_and_what_to_type_next(counted: Forks) -> None:
    workshop = counted.workshop
    stays = workshop.cli("replay", counted.session, "--agent", "writer", "--no-run")
    assert stays.returncode == 0
    (made,) = [name for name in session_ids(counted.root) if name in stays.stderr and name != counted.session]
    assert stays.stdout == f"{counted.root}/.orchestra/worktrees/{made}/_session\n"
    assert f"forked from the session {counted.session}" in stays.stderr
    assert f"go on with: orchestra resume {made}" in stays.stderr
    goes_on = workshop.json("replay", counted.session, "--before", "closer", "--model", "closer=big", "-q")
    assert list(goes_on)[-2:] == ["forked_from", "worktrees"]
    assert goes_on["status"] == "completed"
    assert goes_on["forked_from"]["session_id"] == counted.session
    refused = workshop.cli("replay", counted.session, "--step", "1", "--set", "limit", "--model", "closer")
    assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
    assert "is not PATH=VALUE" in refused.stderr


async def test_a_repository_that_is_gone_and_a_newer_session_are_named(tmp_path: Path) -> None:
    workshop = workshop_at(tmp_path)
    extra = git_repo(tmp_path / "extra", {"README.md": "extra\n"})
    content = {
        "name": "both",
        "workspace": {"repos": {"app": {"path": "../app"}, "extra": {"path": "../extra"}}},
        "agents": {"one": agent(tools=["extra:write-file"])},
        "graph": chain("one"),
    }
    script = {"one": [[note("extra", "a.txt", "a\n"), says("One.")]]}
    result = await workshop.run(workshop.pipeline(content, script=script))
    forks = Forks(workshop, result.record.session_id, {"app": workshop.repo, "extra": extra})
    row = forks.row(agent="one")
    extra.path.rename(tmp_path / "elsewhere")
    with pytest.raises(SessionError, match=r"is not at .*extra any more") as moved:
        await forks.fork(row)
    assert (moved.value.code, moved.value.exit_code) == ("repo-moved", 2)
    (tmp_path / "elsewhere").rename(extra.path)
    with closing(sqlite3.connect(forks.files.database)) as connection, connection:
        connection.execute("UPDATE sessions SET version = 99")
    with pytest.raises(SessionError, match="newer Orchestra") as newer:
        await forks.fork(row)
    assert newer.value.code == "newer-session"
    assert session_ids(forks.root) == [forks.session]


async def test_a_session_that_did_not_note_its_order_is_forked_too(counted: Forks, tmp_path: Path) -> None:
    """As it is of an Orchestra that did not know of forks: what hangs on the newest checkpoints is done once more."""
    old = SessionFiles(tmp_path / counted.session)
    old.directory.mkdir()
    old.database.write_bytes(counted.files.database.read_bytes())
    with closing(sqlite3.connect(old.database)) as connection, connection:
        for kind, name in connection.execute(
            "SELECT type, name FROM sqlite_master WHERE name LIKE '%order%'"
        ).fetchall():
            if kind in {"table", "trigger"}:
                connection.execute(f"DROP {kind} IF EXISTS {name}")
    row = counted.row(agent="writer")
    draft = Draft(tmp_path / "draft.db")
    about, _ = draft.take(old, row["checkpoint_ns"], row["checkpoint_id"])
    assert about["repos"] == row["repos"]
    assert max(one.seq for one in draft.newest()) == about["seq"]
    with closing(sqlite3.connect(tmp_path / "draft.db")) as connection:
        (last,) = connection.execute("SELECT type FROM events ORDER BY seq DESC LIMIT 1").fetchone()
    assert last == "checkpoint"
