"""Faults of the machine: a clear error that names the place, nothing lost, and `resume` ends as if nothing had been."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError, SessionError
from orchestra.graph import lowering
from orchestra.runtime import database as session_database
from orchestra.runtime import git_locks, observability, restore, session, snapshots, store, worktree
from orchestra.runtime.creation import sweep
from orchestra.runtime.store import find_session, list_sessions, read_checkpoints, read_session, session_ids
from tests.conftest import Workshop
from tests.gitkit import assert_sound
from tests.session_support import (
    COMMITS,
    FILES,
    OUTPUTS,
    PAID,
    assert_consistent,
    assert_done,
    contents,
    crash_pipeline,
    database,
    events,
    model_calls,
    query,
    run_and_kill,
    turn_commits,
    user_side,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestra.runtime.observability import Event

KB = 1024
mounts = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting a file system needs root on Linux"
)


class At(list[Any]):
    """A listener that does something when an event of a kind comes for the n-th time, of one node or of any."""

    def __init__(self, moment: str, act: Callable[[], object], *, node: str | None = None) -> None:
        super().__init__()
        self._node = node
        self._kind, _, count = moment.partition(":")
        self._left = int(count or 1)
        self._act = act

    def append(self, event: Event) -> None:
        if event.type == self._kind and self._node in (None, event.node):
            self._left -= 1
            if self._left == 0:
                self._act()


@dataclass
class Outcome:
    """How a drive in a process of its own ended."""

    status: str | None
    code: str | None
    message: str
    hint: str
    exit_code: int
    trace: str = ""

    @property
    def said(self) -> str:
        return f"{self.message}\n{self.hint}"


def drive(workshop: Workshop, path: Path | str, first: Callable[[], object] | None = None) -> Outcome:
    """Run a pipeline, or resume a session, in a forked process: limits and clocks that it gets end with it."""
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiver)
        os.setsid()
        try:
            if first is not None:
                first()
            result = asyncio.run(workshop.resume(path) if isinstance(path, str) else workshop.run(path))
            error = result.record.error or {"code": None, "message": "", "hint": ""}
            found = [str(result.record.status), error["code"], error["message"], error["hint"] or "", 0, ""]
        except OrchestraError as failed:
            found = [None, failed.code, failed.message, failed.hint or "", failed.exit_code, ""]
        except BaseException:  # noqa: BLE001 - nothing of the test may go on here
            found = [None, "bug", "", "", 1, traceback.format_exc()]
        with suppress(OSError):
            os.write(sender, json.dumps(found).encode()[: 1 << 16])
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    assert text, "the process died"
    return Outcome(*json.loads(text))


def assert_told(workshop: Workshop, outcome: Outcome, *codes: str, names: str = "app") -> str | None:
    """Check that the fault was told as what it is, once; returns the session, if there is one."""
    assert outcome.code in codes, outcome
    assert names in outcome.message, outcome
    assert outcome.hint, outcome
    if outcome.exit_code == 2:
        assert_nothing_left(workshop)
        return None
    (made,) = session_ids(workshop.repo.path)
    return made


def assert_nothing_left(workshop: Workshop) -> None:
    sessions = workshop.repo.path / ".orchestra" / "sessions"
    assert not sessions.exists() or [path for path in sessions.iterdir() if path.name != ".git"] == []
    assert workshop.repo.git("for-each-ref", "refs/orchestra") == ""
    assert workshop.repo.git("branch", "--list", "orchestra/*") == ""


def assert_goes_on(workshop: Workshop, made: str, before: dict[str, str], *, paid_twice: bool = False) -> None:
    """The cause is gone: resume ends with the outcome of an undisturbed run, and all that is stored is sound."""
    types = {event["type"] for event in events(workshop, made)}
    assert not {"internal_error", "turn_failed"} & types, "a turn was blamed for the machine"
    outcome = drive(workshop, made)
    assert outcome.status == "completed", outcome
    result = asyncio.run(workshop.resume(made))
    if paid_twice:  # of calls that were at work when nothing could be stored, each may be made once more
        assert all(PAID[turn] <= calls <= PAID[turn] + 1 for turn, calls in model_calls(workshop, made).items())
        assert result.agent_outputs == OUTPUTS
        assert contents(workshop, result.commits["repo"]) == FILES
        assert sorted(turn_commits(workshop, result.branches["repo"])) == COMMITS
        assert_consistent(workshop, result)
    else:
        assert_done(workshop, result)
    assert user_side(workshop) == before


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    subprocess.run(["mount", *options, str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def small(place: Path) -> Any:
    place.mkdir(parents=True, exist_ok=True)
    return mounted(place, "-t", "tmpfs", "-o", "size=20m", "tmpfs")


def fill(place: Path, left: int) -> None:
    info = os.statvfs(place)
    with (place / "filler").open("wb") as file:
        file.write(b"x" * max(0, info.f_bavail * info.f_frsize - left))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    """A workshop on a file system of its own, which can be filled."""
    from orchestra.testing import git_repo

    base = tmp_path / "disk"
    with small(base):
        home, pipelines = base / "home", base / "pipelines"
        home.mkdir()
        pipelines.mkdir()
        monkeypatch.setenv("HOME", str(home))
        yield Workshop(git_repo(base / "app", {"app.py": "x = 1\n", "docs/notes.md": "# Notes\n"}), pipelines, home)


@mounts
class TestFullDisk:
    @pytest.mark.parametrize("left", [0, 4, 16, 40, 64, 76, 84, 96, 140, 280])
    def test_whatever_the_disk_has_room_for_the_session_goes_on_when_there_is_space(
        self, disk: Workshop, left: int
    ) -> None:
        path, base = crash_pipeline(disk), disk.repo.path.parent
        before = user_side(disk)
        fill(base, left * KB)

        outcome = drive(disk, path)

        made = assert_told(disk, outcome, "no-space", "sessions-directory-unusable")
        assert "space" in outcome.message
        assert "free some space" in outcome.hint
        assert user_side(disk) == before
        (base / "filler").unlink()
        if made is None:
            assert drive(disk, path).status == "completed"
        else:
            assert made in outcome.said
            assert_goes_on(disk, made, before, paid_twice=True)

    @pytest.mark.parametrize(
        ("moment", "left"),
        [
            ("session_started", 0),
            ("turn_started", 0),
            ("tool_ended:3", 24),
            ("model_ended:2", 8),
            ("snapshot_taken:3", 0),
            ("turn_committed:2", 8),
        ],
    )
    def test_git_that_finds_no_space_stops_the_session_once(self, disk: Workshop, moment: str, left: int) -> None:
        """The database lies on another disk, so that git alone meets the full one."""
        sessions = disk.repo.path / ".orchestra" / "sessions"
        with small(sessions):
            (sessions.parent / ".gitignore").write_text("*\n")
            path = crash_pipeline(disk)
            before = user_side(disk)
            disk.events = At(moment, lambda: fill(disk.repo.path.parent, left * KB))

            outcome = drive(disk, path)

            assert outcome.status == "failed", outcome
            made = assert_told(disk, outcome, "no-space")
            assert made is not None
            assert user_side(disk) == before
            (disk.repo.path.parent / "filler").unlink()
            disk.events = []
            assert_goes_on(disk, made, before)

    def test_the_command_gives_its_one_document_and_names_the_session(self, disk: Workshop) -> None:
        path, base = crash_pipeline(disk), disk.repo.path.parent
        before = user_side(disk)
        fill(base, 280 * KB)
        done = disk.cli("run", path, "--json")

        document = json.loads(done.stdout)
        (made,) = session_ids(disk.repo.path)
        assert (done.returncode, document["session_id"], document["status"]) == (1, made, "failed")
        assert document["error"]["code"] == "no-space"
        assert f"orchestra resume {made}" in done.stderr
        assert "Traceback" not in done.stderr
        assert "bug" not in done.stderr
        (base / "filler").unlink()
        assert_goes_on(disk, made, before, paid_twice=True)


@mounts
class TestReadOnly:
    @pytest.mark.parametrize("what", [".git", "."])
    def test_it_is_refused_before_anything_is_made(self, workshop: Workshop, what: str) -> None:
        path, place = crash_pipeline(workshop), workshop.repo.path / what
        before = user_side(workshop)
        with read_only(place):
            outcome = drive(workshop, path)

            assert outcome.exit_code == 2
            assert "Read-only file system" in outcome.message
            assert_told(workshop, outcome, "read-only", "sessions-directory-unusable")
        assert user_side(workshop) == before

    @pytest.mark.parametrize(
        ("what", "moment"), [(".git", "session_started"), (".git", "turn_committed"), (".", "tool_ended:4")]
    )
    def test_what_becomes_so_in_the_middle_is_told_and_gone_on_with(
        self, workshop: Workshop, what: str, moment: str
    ) -> None:
        path, place = crash_pipeline(workshop), workshop.repo.path / what
        before = user_side(workshop)
        workshop.events = At(moment, lambda: make_read_only(place))
        try:
            outcome = drive(workshop, path)
            made = assert_told(workshop, outcome, "read-only")
            assert f"in {place}: " in outcome.message or what == "."
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
        assert made is not None
        workshop.events = []
        assert_goes_on(workshop, made, before)


def make_read_only(place: Path) -> None:
    """Lay the same files over themselves, read-only: what is open already stays as it is."""
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    make_read_only(place)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def as_plain_owner() -> None:
    """Give up root's right to read and write what nobody may; for this process and all that it starts."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        assert libc.prctl(24, capability, 0, 0, 0) == 0
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for part in range(3):
        data[part] &= ~0b110
    assert libc.capset(header, data) == 0


class TestPermissions:
    def test_a_git_directory_that_may_not_be_written_is_refused_at_the_start(self, workshop: Workshop) -> None:
        path = crash_pipeline(workshop)
        git_dir = workshop.repo.path / ".git"
        (git_dir / "info").chmod(0o500)
        git_dir.chmod(0o500)
        try:
            outcome = drive(workshop, path, as_plain_owner)
        finally:
            git_dir.chmod(0o700)
            (git_dir / "info").chmod(0o700)

        assert (outcome.exit_code, assert_told(workshop, outcome, "permission-denied", "git-permission")) == (2, None)
        assert "ermission denied" in outcome.message

    def test_a_worktree_that_may_not_be_entered_is_told_and_gone_on_with(self, workshop: Workshop) -> None:
        path = crash_pipeline(workshop)
        before = user_side(workshop)
        workshop.events = At("tool_ended:2", lambda: tree(workshop).chmod(0), node="left")
        outcome = drive(workshop, path, as_plain_owner)
        tree(workshop).chmod(0o700)

        made = assert_told(workshop, outcome, "permission-denied", "git-permission")
        assert made is not None
        workshop.events = []
        assert_goes_on(workshop, made, before)


def tree(workshop: Workshop) -> Path:
    (made,) = session_ids(workshop.repo.path)
    return workshop.repo.path / ".orchestra" / "worktrees" / made / "left"


class TestDeleted:
    @pytest.mark.parametrize("moment", ["tool_ended:2", "model_ended:3"])
    def test_a_worktree_deleted_while_it_is_used_is_made_again_by_resume(self, workshop: Workshop, moment: str) -> None:
        path = crash_pipeline(workshop)
        before = user_side(workshop)
        # Of the agent whose worktree it is: which of two ends a call first is chance.
        workshop.events = At(moment, lambda: shutil.rmtree(tree(workshop)), node="left")
        outcome = drive(workshop, path)

        made = assert_told(workshop, outcome, "worktree-gone")
        assert made is not None
        assert "orchestra resume" in outcome.hint
        workshop.events = []
        assert_goes_on(workshop, made, before)

    def test_a_session_deleted_while_it_runs_says_where_its_commits_are(self, workshop: Workshop) -> None:
        workshop.events = At("snapshot_taken:1", lambda: shutil.rmtree(workshop.repo.path / ".orchestra"))
        outcome = drive(workshop, crash_pipeline(workshop))

        assert (outcome.code, outcome.exit_code) == ("session-deleted", 1)
        refs = workshop.repo.git("for-each-ref", "--format=%(refname)", "refs/orchestra/*/wt/*").split()
        assert refs
        for ref in refs:
            assert ref in outcome.message
            name = ref.rpartition("/")[2]
            assert workshop.repo.git("show", f"{ref}:{name}.txt") == "1"

    def test_a_session_deleted_while_it_rests_is_found_by_its_commits(self, workshop: Workshop) -> None:
        killed = run_and_kill(workshop, crash_pipeline(workshop), "turn-committed:2")
        assert killed.session is not None
        before = user_side(workshop)
        workshop.repo.git("clean", "-ffdxq")

        done = workshop.cli("resume", killed.session[:4])
        other = workshop.cli("resume", "nothere")

        assert done.returncode == 1
        assert "session-deleted" in done.stderr
        assert f"refs/orchestra/{killed.session}/turn/left" in done.stderr
        assert (other.returncode, "unknown-session" in other.stderr) == (2, True)
        assert user_side(workshop) == before
        assert_sound(workshop.repo.path)


def hold(workshop: Workshop, seconds: float = 3600, then: Callable[[], object] = lambda: None) -> None:
    """Lock the session's database from a thread, as soon as its writer lets go for a moment."""

    def work() -> None:
        (made,) = session_ids(workshop.repo.path)
        with closing(sqlite3.connect(database(workshop, made), timeout=0)) as foreign:
            while not foreign.in_transaction:
                with suppress(sqlite3.OperationalError):
                    foreign.execute("BEGIN EXCLUSIVE")
                time.sleep(0.001)
            time.sleep(seconds)
        then()

    threading.Thread(target=work, daemon=True).start()


class TestDatabase:
    async def test_a_lock_held_for_a_while_delays_the_session_and_blocks_nothing_else(self, workshop: Workshop) -> None:
        seconds = 1.5
        gaps: list[float] = []

        async def beat() -> None:
            last = time.monotonic()
            while True:
                await asyncio.sleep(0.02)
                gaps.append(time.monotonic() - last)
                last = time.monotonic()

        workshop.events = At("model_ended:2", lambda: hold(workshop, seconds))
        path = crash_pipeline(workshop)
        heart = asyncio.ensure_future(beat())
        started = time.monotonic()
        result = await workshop.run(path)
        heart.cancel()

        assert time.monotonic() - started > seconds
        assert max(gaps) < seconds / 2, "the event loop was blocked"
        workshop.events = []
        assert_done(workshop, result)

    @pytest.mark.parametrize("moment", ["session_started", "model_ended:1", "turn_committed:1"])
    def test_a_lock_held_too_long_is_told_and_gone_on_with(self, workshop: Workshop, moment: str) -> None:
        path = crash_pipeline(workshop)
        before = user_side(workshop)
        workshop.events = At(moment, lambda: hold(workshop))
        outcome = drive(workshop, path, lambda: setattr(session_database, "BUSY_TIMEOUT", 0.1))

        made = assert_told(workshop, outcome, "database-failed")
        assert made is not None
        assert "session.db" in outcome.message
        assert "locked" in outcome.message
        assert f"orchestra resume {made}" in outcome.hint
        workshop.events = []
        assert_goes_on(workshop, made, before, paid_twice=True)

    def test_an_event_that_could_not_be_written_in_time_is_written_later(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The log's own writer meets the lock while a tool runs; the session itself has nothing to write then."""
        pipeline = {
            "name": "slow",
            "agents": {"worker": {"task": {"template": "Work."}, "model": "m", "tools": ["shell"]}},
            "graph": [{"from": "START", "to": "worker"}, {"from": "worker", "to": "END"}],
        }
        flag = workshop.home / "free"
        command = f"until test -e {flag}; do sleep 0.02; done"
        script = {"worker": [[{"tools": [{"name": "shell", "args": {"command": command}}]}, {"text": "worked"}]]}
        monkeypatch.setattr(session_database, "BUSY_TIMEOUT", 0.1)

        workshop.events = At("tool_started", lambda: hold(workshop, 0.5, flag.touch))
        result = asyncio.run(workshop.run(workshop.pipeline(pipeline, script=script)))

        assert result.record.status == "completed", result.record.error
        numbers = [event["seq"] for event in events(workshop, result.record.session_id)]
        assert numbers == list(range(1, len(numbers) + 1))

    def test_readers_are_not_kept_out_by_a_writer(self, workshop: Workshop) -> None:
        result = asyncio.run(workshop.run(crash_pipeline(workshop)))
        files = find_session(workshop.repo.path, result.record.session_id)
        with closing(sqlite3.connect(files.database)) as foreign:
            foreign.execute("BEGIN EXCLUSIVE")
            assert read_session(files).status == "completed"
            assert len(read_checkpoints(files)) == result.record.checkpoints

    def test_a_database_kept_by_another_program_is_told_to_readers(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed = run_and_kill(workshop, crash_pipeline(workshop), "checkpoint-written:4")
        assert killed.session is not None
        files = find_session(workshop.repo.path, killed.session)
        monkeypatch.setattr(store, "READ_TIMEOUT", 0.1)
        with closing(sqlite3.connect(files.database)) as foreign:
            foreign.execute("PRAGMA locking_mode = EXCLUSIVE")
            foreign.execute("BEGIN EXCLUSIVE")
            foreign.execute("UPDATE sessions SET updated_at = updated_at")
            with pytest.raises(SessionError) as caught:
                read_session(files)
            foreign.rollback()
        assert caught.value.code == "database-failed"
        assert "another program" in str(caught.value.hint)
        assert read_session(files).status == "interrupted"

    @pytest.mark.parametrize("damage", ["empty", "text", "cut"])
    def test_a_damaged_database_is_named_and_hides_no_other_session(self, workshop: Workshop, damage: str) -> None:
        path = crash_pipeline(workshop)
        good = asyncio.run(workshop.run(path)).record.session_id
        bad = asyncio.run(workshop.run(path)).record.session_id
        file = database(workshop, bad)
        content = {"empty": b"", "text": b"hello\n" * 1000, "cut": file.read_bytes()[:5000]}[damage]
        file.write_bytes(content)

        outcome = drive(workshop, bad)

        assert outcome.code == "database-unreadable"
        assert str(file) in outcome.message
        found = list(list_sessions(workshop.repo.path))
        assert [one.session_id for one in found if not isinstance(one, SessionError)] == [good]
        assert file.read_bytes() == content


def lock_files(workshop: Workshop, *names: str) -> list[Path]:
    """Make lock files in the user's repository; SID stands for the session."""
    made = []
    for name in names:
        sid = session_ids(workshop.repo.path)[0] if "SID" in name else ""
        path = workshop.repo.path / ".git" / name.replace("SID", sid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        made.append(path)
    return made


def impatient() -> None:
    git_locks.WAIT = 1.5
    git_locks.GRACE = 0.3


class TestGitLocks:
    def test_locks_of_the_user_disturb_no_session_and_stay(self, workshop: Workshop) -> None:
        path = crash_pipeline(workshop)
        locks = lock_files(
            workshop, "index.lock", "HEAD.lock", "packed-refs.lock", "config.lock", "refs/heads/main.lock"
        )
        before = user_side(workshop)
        outcome = drive(workshop, path)

        assert outcome.status == "completed", outcome
        assert user_side(workshop) == before
        for lock in locks:
            lock.unlink()
        assert_done(workshop, asyncio.run(workshop.resume(session_ids(workshop.repo.path)[0])))

    @pytest.mark.parametrize(
        "name",
        [
            "refs/heads/orchestra/crash/SID.lock",
            "refs/orchestra/SID/wt/_session.lock",
            "worktrees/_session/HEAD.lock",
            "worktrees/_session/orchestra.index.lock",
        ],
    )
    def test_what_a_killed_git_left_locked_of_ours_is_cleared_in_the_middle(
        self, workshop: Workshop, name: str
    ) -> None:
        path = crash_pipeline(workshop)
        before = user_side(workshop)
        workshop.events = At("tool_ended:1", lambda: lock_files(workshop, name))
        outcome = drive(workshop, path, impatient)

        assert outcome.status == "completed", outcome
        workshop.events = []
        assert_done(workshop, asyncio.run(workshop.resume(session_ids(workshop.repo.path)[0])))
        assert user_side(workshop) == before

    def test_a_lock_on_our_branch_left_by_a_killed_driver_is_cleared_by_resume(self, workshop: Workshop) -> None:
        killed = run_and_kill(workshop, crash_pipeline(workshop), "turn-committed:2")
        before = user_side(workshop)
        assert killed.session is not None
        lock_files(workshop, "refs/heads/orchestra/crash/SID.lock", "refs/orchestra/SID/turn/_session.lock")

        assert drive(workshop, killed.session, impatient).status == "completed"
        assert_goes_on(workshop, killed.session, before)

    @pytest.mark.parametrize("name", ["refs/orchestra/SID/wt/_session.lock", "refs/heads/orchestra/crash/SID.lock"])
    def test_a_lock_that_a_process_holds_is_waited_for_and_then_told(self, workshop: Workshop, name: str) -> None:
        path = crash_pipeline(workshop)
        before = user_side(workshop)
        holders: list[int] = []

        def hold() -> None:
            (lock,) = lock_files(workshop, name)
            with lock.open("a") as file:
                process = subprocess.Popen(["sleep", "60"], stdout=file, start_new_session=True)
            (workshop.home / "holder").write_text(f"{process.pid}\n{lock}")

        workshop.events = At("tool_ended:1", hold)
        started = time.monotonic()
        outcome = drive(workshop, path, impatient)
        pid, lock = (workshop.home / "holder").read_text().split("\n")
        holders.append(int(pid))

        try:
            assert time.monotonic() - started >= 1.5
            made = assert_told(workshop, outcome, "git-locked")
            assert made is not None
            assert lock in outcome.message
            assert f"held by process {pid} (sleep)" in outcome.message
            assert " s old" in outcome.message
            assert os.path.exists(lock)  # noqa: PTH110 - a text
        finally:
            os.kill(holders[0], signal.SIGKILL)
        workshop.events = []
        assert drive(workshop, made, impatient).status == "completed"
        assert_goes_on(workshop, made, before)

    def test_a_lock_that_goes_in_time_is_not_even_told(self, workshop: Workshop) -> None:
        """`config.lock` and the like are the user's: waited for, never removed."""
        path = crash_pipeline(workshop)

        def hold() -> None:
            (lock,) = lock_files(workshop, "worktrees/_session/HEAD.lock")
            file = lock.open("a")

            def release() -> None:
                lock.unlink()
                file.close()

            threading.Timer(0.8, release).start()

        workshop.events = At("tool_ended:1", hold)
        outcome = drive(workshop, path, impatient)

        assert outcome.status == "completed", outcome
        assert list(events(workshop, session_ids(workshop.repo.path)[0], "turn_failed", "turn_stopped")) == []


def loose(workshop: Workshop, sha: str) -> Path:
    return workshop.repo.path / ".git" / "objects" / sha[:2] / sha[2:]


def spoil(file: Path, how: str) -> bytes:
    content = file.read_bytes()
    file.chmod(0o600)
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if how == "empty" else content[:8])
    return content


def blob(workshop: Workshop, content: str) -> Path:
    """Write an object of the user's own."""
    (workshop.home / "content").write_text(content)
    return loose(workshop, workshop.repo.git("hash-object", "-w", str(workshop.home / "content")))


class TestObjects:
    @pytest.mark.parametrize(("content", "how"), [("1\n", "empty"), ("x = 2\n", "cut")])
    def test_an_object_that_git_takes_for_written_is_made_again(
        self, workshop: Workshop, content: str, how: str
    ) -> None:
        path = crash_pipeline(workshop)
        file = blob(workshop, content)
        broken = spoil(file, how) and file.read_bytes()
        outcome = drive(workshop, path)

        assert outcome.status == "completed", outcome
        made = session_ids(workshop.repo.path)[0]
        assert_done(workshop, asyncio.run(workshop.resume(made)))
        (warning,) = events(workshop, made, "warning")
        assert warning["payload"]["code"] == "object-mended"
        (aside,) = (workshop.repo.path / ".orchestra" / "rescue" / made).rglob(file.parent.name + file.name)
        assert aside.read_bytes() == broken

    def test_a_broken_tree_is_made_again(self, workshop: Workshop) -> None:
        first = asyncio.run(workshop.run(crash_pipeline(workshop)))
        top = workshop.repo.git("rev-parse", f"{first.commits['repo']}^{{tree}}")
        spoil(loose(workshop, top), "empty")
        outcome = drive(workshop, crash_pipeline(workshop))

        assert outcome.status == "completed", outcome
        assert_sound(workshop.repo.path)

    def test_the_uncommitted_work_that_a_session_starts_from_is_sound_too(self, workshop: Workshop) -> None:
        path = crash_pipeline(workshop)
        workshop.repo.write({"draft.txt": "draft\n"})
        spoil(blob(workshop, "draft\n"), "empty")
        outcome = drive(workshop, path)

        assert outcome.status == "completed", outcome
        result = asyncio.run(workshop.resume(session_ids(workshop.repo.path)[0]))
        assert contents(workshop, result.commits["repo"])["draft.txt"] == "draft"
        assert_sound(workshop.repo.path)

    @pytest.mark.parametrize("how", ["empty", "cut", "missing"])
    def test_a_broken_object_of_the_user_is_named_and_the_session_goes_on_when_it_is_mended(
        self, workshop: Workshop, how: str
    ) -> None:
        path = crash_pipeline(workshop)
        before = user_side(workshop)
        file = loose(workshop, workshop.repo.git("rev-parse", "HEAD:app.py"))
        content = spoil(file, how)
        outcome = drive(workshop, path)

        made = assert_told(workshop, outcome, "corrupt-object")
        assert made is not None
        assert file.name in outcome.message
        assert "fsck" in outcome.hint
        assert workshop.repo.git("rev-parse", f"orchestra/crash/{made}") == workshop.repo.head
        file.write_bytes(content)
        assert_goes_on(workshop, made, before)

    def test_a_broken_head_is_refused_before_anything_is_made(self, workshop: Workshop) -> None:
        path = crash_pipeline(workshop)
        file = loose(workshop, workshop.repo.git("rev-parse", "HEAD^{tree}"))
        content = spoil(file, "empty")
        outcome = drive(workshop, path)
        file.write_bytes(content)

        assert (outcome.exit_code, assert_told(workshop, outcome, "corrupt-object")) == (2, None)


class TestLimits:
    @pytest.mark.parametrize("files", [16, 20, 24])
    def test_too_many_open_files_are_told_as_such(self, workshop: Workshop, files: int) -> None:
        path = crash_pipeline(workshop)
        before = user_side(workshop)
        opened = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 8  # noqa: PTH208 - names only
        limit = files + max(0, opened - 8)
        outcome = drive(workshop, path, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))

        if outcome.status != "completed":
            asyncio.run(sweep(workshop.repo.path))  # with so few files not even git can undo what was begun
            made = assert_told(workshop, outcome, "open-files", "database-failed", names="")
            if made is not None:
                assert_goes_on(workshop, made, before, paid_twice=True)

    @pytest.mark.parametrize("size", [2_000, 40_000, 150_000])
    def test_a_limit_on_the_size_of_files_is_told_as_such(self, workshop: Workshop, size: int) -> None:
        path = crash_pipeline(workshop)
        before = user_side(workshop)
        outcome = drive(workshop, path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))

        made = assert_told(workshop, outcome, "file-size-limit")
        assert "ulimit -f" in outcome.hint
        if made is not None:
            assert_goes_on(workshop, made, before, paid_twice=True)


class Clock:
    """What a process takes for the time, moved by a number of seconds."""

    def __init__(self) -> None:
        self.shift = 0.0

    def install(self) -> None:
        nanoseconds, seconds, clock = time.time_ns, time.time, self
        time.time_ns = lambda: nanoseconds() + int(clock.shift * 10**9)
        time.time = lambda: seconds() + clock.shift

        class Shifted(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # a plain datetime is meant
                return datetime.now(tz) + timedelta(seconds=clock.shift)

        for module in (lowering, snapshots, restore, worktree, store):
            module.datetime = Shifted  # type: ignore[attr-defined]  # the module's own name for it
        for module in (store, session, observability):
            module.now = lambda: Shifted.now(UTC).isoformat(timespec="microseconds")  # type: ignore[attr-defined]  # as above


DAY = 86_400.0


class TestClock:
    @pytest.mark.parametrize("shift", [DAY, -DAY])
    def test_a_day_between_a_kill_and_the_resume_changes_nothing(self, workshop: Workshop, shift: float) -> None:
        killed = run_and_kill(workshop, crash_pipeline(workshop), "snapshot-taken:3")
        before = user_side(workshop)
        assert killed.session is not None
        clock = Clock()
        clock.shift = shift

        assert drive(workshop, killed.session, clock.install).status == "completed"
        assert_goes_on(workshop, killed.session, before)
        assert_in_order(workshop, killed.session)

    @pytest.mark.parametrize("shift", [DAY, -DAY])
    def test_a_clock_that_jumps_in_the_middle_changes_nothing(self, workshop: Workshop, shift: float) -> None:
        path = crash_pipeline(workshop)
        before = user_side(workshop)
        clock = Clock()
        workshop.events = At("tool_ended:2", lambda: setattr(clock, "shift", shift))
        assert drive(workshop, path, clock.install).status == "completed"

        workshop.events = []
        (made,) = session_ids(workshop.repo.path)
        assert_goes_on(workshop, made, before)
        assert_in_order(workshop, made)

    def test_another_time_zone_changes_nothing(self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        killed = run_and_kill(workshop, crash_pipeline(workshop), "snapshot-taken:3")
        before = user_side(workshop)
        monkeypatch.setenv("TZ", "America/Adak")
        time.tzset()
        assert killed.session is not None
        assert_goes_on(workshop, killed.session, before)
        assert_in_order(workshop, killed.session)
        monkeypatch.undo()
        time.tzset()

    def test_names_made_at_the_same_instant_differ(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Still(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # as above
                return datetime(2026, 1, 2, tzinfo=tz)

        monkeypatch.setattr(worktree, "datetime", Still)
        assert len({worktree.stamp() for _ in range(50)}) == 50


def assert_in_order(workshop: Workshop, made: str) -> None:
    """The order is the session's own sequence, and nothing took less than no time."""
    rows = workshop.checkpoints(made)
    roots = [row for row in rows if not row["checkpoint_ns"]]
    assert [row["step"] for row in roots] == sorted(row["step"] for row in roots)
    ended = [(entry["agent"], entry["turn"]) for row in roots for entry in row["ended"]]
    assert ended[-1] == ("critic", 2)
    assert ended.index(("count", 1)) < ended.index(("critic", 1)) < ended.index(("left", 2))
    durations = [event["payload"].get("duration_s") for event in events(workshop, made)]
    assert all(duration >= 0 for duration in durations if duration is not None)
    assert all(row[0] >= 0 for row in query(workshop, made, "SELECT duration_s FROM turns"))
