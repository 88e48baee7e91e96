from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import aiosqlite
import pytest

from orchestra.errors import GitError
from orchestra.runtime import staging
from orchestra.runtime.git import GitManager, RefUpdate, Repository, Worktree
from orchestra.runtime.restore import restore, stand_on
from orchestra.runtime.snapshots import Base, RepoState, Taken, WorkspaceSnapshotIndex, base_snapshot, take
from orchestra.runtime.staging import seed_index
from orchestra.runtime.turns import commit_turn, move_branch, session_branch, turn_message
from orchestra.runtime.worktree import WorktreeManager
from tests.gitkit import DATE, assert_sound, files_of, fingerprint, git, make_repo, show, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Session:
    """One session with one worktree on a repository."""

    def __init__(self, manager: GitManager, top: Path) -> None:
        self.git = manager
        self.top = top
        self.repo: Repository
        self.worktree: Worktree
        self.last = ""
        self.count = 0

    async def start(self) -> Session:
        self.repo = await self.git.open("backend", self.top)
        base = await self.base()
        self.last = base.commit
        self.worktree = await WorktreeManager(self.git, "s1").ensure(self.repo, "_session", base.commit)
        return self

    async def base(self, mode: str = "include") -> Base:
        return await base_snapshot(self.git, self.repo, session="s1", mode=mode, date=DATE)  # type: ignore[arg-type]

    @property
    def path(self) -> Path:
        return self.worktree.path

    async def take(self) -> Taken:
        self.count += 1
        taken = await take(self.git, self.worktree, previous=self.last, number=self.count, date=DATE)
        self.last = taken.commit
        return taken

    async def turn(self, parent: str, message: str | None = None, number: int = 1) -> str:
        return await commit_turn(
            *(self.git, self.worktree),
            session="s1",
            pipeline="fix",
            agent="fixer",
            turn=number,
            tree_of=self.last,
            parents=(parent,),
            message=message,
            date=DATE,
        )

    def names(self, commit: str) -> set[str]:
        return set(files_of(self.top, commit))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo")


@pytest.fixture
async def session(top: Path) -> AsyncIterator[Session]:
    """A started session; at its end the user's checkout is what it was, and git finds no fault."""
    before = fingerprint(top)
    session = await Session(GitManager(durable=False), top).start()
    yield session
    assert fingerprint(top) == before
    assert_sound(top)


@pytest.fixture
def manager() -> GitManager:
    return GitManager(durable=False)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The git commands that were started."""
    seen: list[str] = []
    real = asyncio.create_subprocess_exec

    async def spy(*args: str, **options: object) -> asyncio.subprocess.Process:
        seen.append(args[1])
        return await real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    return seen


# --- taking


async def test_a_snapshot_holds_exactly_the_files(session: Session) -> None:
    write(session.path, {"a.txt": "two\n", "new/deep.txt": "new\n", ".gitignore": "*.log\n", "x.log": "no\n"})
    (session.path / "src/b.py").unlink()
    taken = await session.take()
    assert taken.changed
    assert session.names(taken.commit) == {".gitignore", "a.txt", "new/deep.txt"}
    assert show(session.top, taken.commit, "a.txt") == "two"
    assert git(session.top, "rev-parse", "refs/orchestra/s1/wt/_session") == taken.commit


async def test_no_change_makes_no_commit_and_no_reference(session: Session, processes: list[str]) -> None:
    await session.take()
    before = git(session.top, "for-each-ref"), (session.worktree.index).read_bytes()
    processes.clear()
    taken = await session.take()
    assert not taken.changed
    assert taken.commit == session.last
    assert len(processes) <= 2
    assert (git(session.top, "for-each-ref"), session.worktree.index.read_bytes()) == before


async def test_a_new_process_needs_few_git_processes_too(session: Session, processes: list[str]) -> None:
    session.git = GitManager(durable=False)
    processes.clear()
    assert not (await session.take()).changed
    assert processes == ["status", "write-tree", "rev-parse"]
    write(session.path, {"a.txt": "two\n"})
    processes.clear()
    assert (await session.take()).changed
    assert len(processes) <= 7  # one of them looks whether what is new can be read


async def test_a_change_and_back_are_two_snapshots(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    first = await session.take()
    write(session.path, {"a.txt": "one\n"})
    second = await session.take()
    assert (first.changed, second.changed, second.tree) == (True, True, await session.git.tree_of(session.repo, start))
    assert git(session.top, "rev-parse", f"{second.commit}^1") == first.commit


async def test_a_change_within_one_clock_tick_is_seen(session: Session) -> None:
    for number in range(30):
        write(session.path, {"a.txt": f"{number % 10}\n"})
        assert (await session.take()).changed
        assert show(session.top, session.last, "a.txt") == str(number % 10)


async def test_modes_are_kept(session: Session) -> None:
    (session.path / "a.txt").chmod(0o755)
    (session.path / "src/b.py").unlink()
    (session.path / "src/b.py").symlink_to("/etc/passwd")
    files = files_of(session.top, (await session.take()).commit)
    assert (files["a.txt"][:6], files["src/b.py"][:6]) == ("100755", "120000")


async def test_a_directory_that_becomes_a_link(session: Session, tmp_path: Path) -> None:
    shutil.rmtree(session.path / "src")
    (session.path / "src").symlink_to(tmp_path)
    taken = await session.take()
    assert session.names(taken.commit) == {"a.txt", "src"}


async def test_a_file_that_becomes_a_directory_and_back(session: Session) -> None:
    (session.path / "a.txt").unlink()
    write(session.path, {"a.txt/in.txt": "in\n"})
    assert session.names((await session.take()).commit) == {"a.txt/in.txt", "src/b.py"}
    shutil.rmtree(session.path / "a.txt")
    write(session.path, {"a.txt": "file\n"})
    assert session.names((await session.take()).commit) == {"a.txt", "src/b.py"}


HOSTILE = [
    "-x",
    "--output=x",
    "a b",
    "q'\"q",
    "new\nline",
    "tab\t",
    "*",
    ":(top)x",
    "größe",
    "x" * 200,
    "\x1b[31m",
    "$HOME",
]


async def test_hostile_file_names(session: Session) -> None:
    write(session.path, dict.fromkeys(HOSTILE, "x\n"))
    (session.path / os.fsdecode(b"latin-\xe9")).write_text("x\n")
    taken = await session.take()
    assert set(HOSTILE) <= {os.fsdecode(name) for name in await listed(session, taken.commit)}
    assert b"latin-\xe9" in await listed(session, taken.commit)
    await restore(session.git, session.worktree, "HEAD", session="s1")
    assert not (session.path / "*").exists()
    assert (session.path / "a.txt").exists()
    await restore(session.git, session.worktree, taken.commit, session="s1")
    assert (session.path / "new\nline").exists()


async def listed(session: Session, commit: str) -> list[bytes]:
    output = await session.git.run(session.repo, "ls-tree", "-r", "-z", "--name-only", commit)
    return output.stdout.split(b"\0")


async def test_what_is_too_much_is_skipped_and_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "FILE_LIMIT", 100)
    monkeypatch.setattr(staging, "TOTAL_LIMIT", 150)
    write(session.path, {"big": "x" * 101, "m1": "x" * 90, "m2": "x" * 90, "a.txt": "x" * 1000})
    for _ in range(2):
        taken = await session.take()
        assert {(entry.path, entry.reason) for entry in taken.skipped} == {
            ("big", "too-large"),
            ("m2", "too-much"),
        } or (taken.changed and {entry.path for entry in taken.skipped} == {"big"})
    assert "big" not in session.names(taken.commit)
    assert show(session.top, taken.commit, "a.txt") == "x" * 1000


async def test_nested_repositories_pipes_and_sockets_are_skipped(session: Session) -> None:
    make_repo(session.path / "nested")
    make_repo(session.path / "empty-nested", {})
    os.mkfifo(session.path / "pipe")
    (session.path / "a.txt").unlink()
    os.mkfifo(session.path / "a.txt")
    taken = await session.take()
    assert {(entry.path, entry.reason) for entry in taken.skipped} == {
        ("nested/", "nested-repo"),
        ("empty-nested/", "nested-repo"),
        ("a.txt", "special-file"),
    }
    assert session.names(taken.commit) == {"src/b.py"}


async def test_a_held_lock_of_the_user_does_not_matter(session: Session) -> None:
    lock = session.top / ".git/index.lock"
    lock.touch()
    write(session.path, {"a.txt": "two\n"})
    assert (await session.take()).changed
    assert lock.exists()
    lock.unlink()


async def test_a_stale_lock_of_our_own_index_does_not_matter(session: Session) -> None:
    session.worktree.index.with_name("orchestra.index.lock").touch()
    write(session.path, {"a.txt": "two\n"})
    assert show(session.top, (await session.take()).commit, "a.txt") == "two"


async def test_a_repository_begun_among_tracked_files(session: Session) -> None:
    git(session.path / "src", "init", "-q")
    write(session.path, {"src/b.py": "y\n", "src/new.py": "new\n"})
    taken = await session.take()
    assert session.names(taken.commit) == {"a.txt", "src/b.py", "src/new.py"}
    assert show(session.top, taken.commit, "src/b.py") == "y"


async def test_a_shared_configuration_that_says_bare_does_not_matter(manager: GitManager, top: Path) -> None:
    session = await Session(manager, top).start()
    git(session.path, "config", "core.bare", "true")
    write(session.path, {"a.txt": "two\n"})
    assert (await session.take()).changed
    await restore(manager, session.worktree, str(session.repo.head), session="s1")
    assert (session.path / "a.txt").read_text() == "one\n"


async def test_repositories_with_sha256_names(manager: GitManager, tmp_path: Path) -> None:
    top = tmp_path / "long"
    git(tmp_path, "init", "-q", "--object-format=sha256", "-b", "main", str(top))
    write(top, {"a.txt": "one\n"})
    git(top, "add", "-A")
    git(top, "commit", "-qm", "first")
    session = await Session(manager, top).start()
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    assert len((await session.take()).commit) == 64
    await move_branch(manager, session.repo, "orchestra/x", await session.turn(start), None, session="s1")
    await restore(manager, session.worktree, start, session="s1")
    assert_sound(top)


async def test_pruned_blobs_are_written_again(session: Session) -> None:
    write(session.path, {"a.txt": "two\n"})
    await staging.stage(session.git, session.worktree, session.worktree.index)  # staged, not committed
    git(session.top, "prune", "--expire=now")
    session.git.index_trees.clear()
    write(session.path, {"new.txt": "new\n"})
    taken = await session.take()
    assert show(session.top, taken.commit, "a.txt") == "two"


async def test_snapshots_survive_the_users_gc(session: Session) -> None:
    commits = []
    for number in range(3):
        write(session.path, {"a.txt": f"{number}\n"})
        commits.append((await session.take()).commit)
    git(session.top, "prune", "--expire=now")
    assert await session.git.exists(session.repo, commits) == set(commits)


async def test_submodules_keep_their_commit(manager: GitManager, tmp_path: Path) -> None:
    top, inner = make_repo(tmp_path / "outer"), make_repo(tmp_path / "inner")
    git(top, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "sub")
    git(top, "commit", "-qm", "sub")
    session = await Session(manager, top).start()
    assert not (await session.take()).changed
    write(session.path, {"a.txt": "two\n"})
    assert files_of(top, (await session.take()).commit)["sub"].startswith("160000")


# --- what agents do


async def test_commits_of_the_agents_own_are_kept(session: Session) -> None:
    write(session.path, {"a.txt": "mine\n"})
    git(session.path, "commit", "-qam", "mine")
    own = git(session.path, "rev-parse", "HEAD")
    write(session.path, {"a.txt": "more\n"})
    taken = await session.take()
    assert own in git(session.top, "rev-list", taken.commit).splitlines()
    git(session.path, "reset", "-q", "--hard", "HEAD~1")
    again = await session.take()
    assert show(session.top, again.commit, "a.txt") == "one"
    git(session.top, "prune", "--expire=now")
    assert await session.git.exists(session.repo, [own])


async def test_commits_after_the_last_snapshot_are_kept(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "mine\n"})
    await session.take()
    git(session.path, "commit", "-qam", "mine")
    own = git(session.path, "rev-parse", "HEAD")
    assert not (await session.take()).changed
    commit = await session.turn(start)
    await stand_on(session.git, session.worktree, commit)
    rescued = git(session.top, "for-each-ref", "--format=%(objectname)", "refs/orchestra/s1/rescue").splitlines()
    assert rescued == [own]
    assert (git(session.path, "rev-parse", "HEAD"), git(session.path, "status", "--porcelain")) == (commit, "")


async def test_a_branch_of_the_agents_own_is_left_alone(manager: GitManager, top: Path) -> None:
    session = await Session(manager, top).start()
    start = session.last
    git(session.path, "checkout", "-q", "-b", "own")
    write(session.path, {"a.txt": "mine\n"})
    git(session.path, "commit", "-qam", "mine")
    own = git(session.path, "rev-parse", "HEAD")
    await session.take()
    await restore(manager, session.worktree, start, session="s1")
    assert git(top, "rev-parse", "own") == own
    assert git(session.path, "rev-parse", "HEAD") == start
    assert git(session.path, "status", "--porcelain") == ""


async def test_a_stash_of_the_agents_own_is_left_alone(manager: GitManager, top: Path) -> None:
    session = await Session(manager, top).start()
    write(session.path, {"a.txt": "mine\n"})
    first = await session.take()
    git(session.path, "stash", "-q")
    second = await session.take()
    assert (first.changed, second.changed) == (True, True)
    assert show(top, "stash", "a.txt") == show(top, first.commit, "a.txt") == "mine"
    assert show(top, second.commit, "a.txt") == "one"


async def test_the_agents_own_index_is_not_read_and_not_written(session: Session) -> None:
    write(session.path, {"a.txt": "staged\n", "other.txt": "x\n"})
    git(session.path, "add", "a.txt")
    git(session.path, "update-index", "--assume-unchanged", "src/b.py")
    write(session.path, {"a.txt": "later\n", "src/b.py": "hidden\n"})
    before = (session.worktree.git_dir / "index").read_bytes()
    taken = await session.take()
    assert (session.worktree.git_dir / "index").read_bytes() == before
    assert show(session.top, taken.commit, "a.txt") == "later"
    assert show(session.top, taken.commit, "src/b.py") == "hidden"


async def test_an_unfinished_merge_of_the_agents_is_ended_by_restoring(session: Session) -> None:
    write(session.path, {"a.txt": "left\n"})
    git(session.path, "commit", "-qam", "left")
    left = git(session.path, "rev-parse", "HEAD")
    git(session.path, "reset", "-q", "--hard", "HEAD~1")
    write(session.path, {"a.txt": "right\n"})
    git(session.path, "commit", "-qam", "right")
    git(session.path, "merge", left, ok=False)
    assert (session.worktree.git_dir / "MERGE_HEAD").exists()
    await session.take()
    await restore(session.git, session.worktree, str(session.repo.head), session="s1")
    assert git(session.path, "status", "--porcelain=v2") == ""
    assert not (session.worktree.git_dir / "MERGE_HEAD").exists()


async def test_tools_see_the_files_of_the_moment(session: Session) -> None:
    write(session.path, {"a.txt": "two\n", "new.py": "y = 2\n"})
    await session.take()
    read = session.git.runner(session.worktree)
    assert (await read("diff", "--name-only", str(session.repo.head))).text == "a.txt\nnew.py"
    assert (await read("grep", "-n", "y = ")).text == "new.py:1:y = 2"
    assert (await read("ls-files")).text.splitlines() == ["a.txt", "new.py", "src/b.py"]
    assert git(session.path, "status", "--porcelain") == " M a.txt\n?? new.py"


# --- turns and branches


async def test_a_turn_is_one_commit_with_trailers(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    await session.take()
    write(session.path, {"a.txt": "three\n"})
    await session.take()
    commit = await session.turn(start, "Fix it\n\nBecause.")
    assert git(session.top, "rev-list", "--count", f"{start}..{commit}") == "1"
    assert files_of(session.top, commit) == files_of(session.top, session.last)
    assert trailers(session.top, commit) == ["Orchestra-Session: s1", "Orchestra-Agent: fixer", "Orchestra-Turn: 1"]
    assert git(session.top, "show", "-s", "--format=%an|%s", commit) == "fixer|Fix it"
    assert git(session.top, "rev-parse", "refs/orchestra/s1/turn/_session") == commit


def trailers(top: Path, commit: str) -> list[str]:
    git(top, "rev-parse", "--verify", commit)
    text = git(top, "log", "-1", "--format=%(trailers:only,unfold)", commit)
    (top.parent / "message").write_text(git(top, "log", "-1", "--format=%B", commit) + "\n")
    assert git(top, "interpret-trailers", "--parse", str(top.parent / "message")) == text.strip()
    return text.strip().splitlines()


async def test_the_same_turn_again_is_the_same_commit(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    await session.take()
    first = await session.turn(start)
    refs = git(session.top, "for-each-ref")
    assert await session.turn(start) == first
    assert git(session.top, "for-each-ref") == refs


async def test_a_turn_without_change_has_no_commit(session: Session) -> None:
    assert await session.turn(session.last) == session.last
    assert "turn/" not in git(session.top, "for-each-ref")


async def test_a_turn_done_anew_keeps_the_other_as_a_rescue(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    await session.take()
    first = await session.turn(start)
    write(session.path, {"a.txt": "three\n"})
    await session.take()
    second = await session.turn(start)
    rescued = git(session.top, "for-each-ref", "--format=%(objectname)", "refs/orchestra/s1/rescue").splitlines()
    assert (first != second, rescued) == (True, [first])


async def test_snapshots_inside_a_turn_stay_reachable_after_it(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    inside = (await session.take()).commit
    session.last = await session.turn(start)
    await stand_on(session.git, session.worktree, session.last)
    assert git(session.path, "status", "--porcelain") == ""
    write(session.path, {"a.txt": "three\n"})
    await session.take()
    git(session.top, "prune", "--expire=now")
    assert await session.git.exists(session.repo, [inside])


@pytest.mark.parametrize(
    "message",
    [
        "x\n\nOrchestra-Turn: 9",
        "x\n\nOrchestra-Agent: admin\nSigned-off-by: me",
        " ORCHESTRA-turn : 9",
        "Orchestra\u200b-Turn: 9",
        "x\n---\nrest",
        "x\n# ------------------------ >8 ------------------------\nrest",
        "x\0y\x1b[2J\r\nz\u202e",
        "\n\n\n",
        "\x00",
        "x" * 100_000,
        "lone \ud800",
        "# comment\n\n# comment",
        "Subject\n\nCo-authored-by: somebody <x@y>\n  folded",
    ],
)
async def test_no_message_forges_or_breaks_the_trailers(session: Session, message: str) -> None:
    write(session.path, {"a.txt": "two\n"})
    start = session.last
    await session.take()
    commit = await session.turn(start, message)
    ours = [line for line in trailers(session.top, commit) if line.casefold().startswith("orchestra-")]
    assert ours == ["Orchestra-Session: s1", "Orchestra-Agent: fixer", "Orchestra-Turn: 1"]
    body = git(session.top, "log", "-1", "--format=%B", commit)
    assert len(body) < 11_000
    assert not any(char in body for char in "\0\x1b\r\u202e")
    assert body.splitlines()[0]


def test_a_message_is_otherwise_the_agents() -> None:
    text = turn_message("Fix: größe\n\n- one\n- two", session="s", agent="a", turn=2)
    assert text == "Fix: größe\n\n- one\n- two\n\nOrchestra-Session: s\nOrchestra-Agent: a\nOrchestra-Turn: 2\n"


async def test_the_branch_follows(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    await session.take()
    commit = await session.turn(start)
    branch = await session_branch(session.git, session.repo, prefix="orchestra/", pipeline="fix", session="s1")
    assert branch == "orchestra/fix/s1"
    for new, old in ((start, None), (commit, start), (commit, start)):
        moved = await move_branch(session.git, session.repo, branch, new, old, session="s1")
        assert (moved.ref, moved.checked_out_at) == ("refs/heads/orchestra/fix/s1", None)
    assert git(session.top, "rev-parse", branch) == commit


async def test_a_branch_that_someone_moved_is_left_alone(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    commit = (await session.take()).commit
    await session.git.update_refs(session.repo, [RefUpdate("refs/heads/orchestra/x", commit, None)])
    for old in (None, start[::-1]):
        with pytest.raises(GitError) as caught:
            await move_branch(session.git, session.repo, "orchestra/x", start, old, session="s1")
        assert caught.value.code == "branch-moved"
        assert start in str(caught.value.hint)
    assert git(session.top, "rev-parse", "orchestra/x") == commit


async def test_a_branch_that_is_checked_out_is_not_moved(session: Session, tmp_path: Path) -> None:
    start = session.last
    git(session.top, "worktree", "add", "-q", "-b", "orchestra/x", str(tmp_path / "look"), start)
    write(session.path, {"a.txt": "two\n"})
    commit = (await session.take()).commit
    moved = await move_branch(session.git, session.repo, "orchestra/x", commit, start, session="s1")
    assert (moved.ref, moved.checked_out_at) == ("refs/orchestra/s1/result", tmp_path / "look")
    assert git(session.top, "rev-parse", "refs/orchestra/s1/result") == commit
    assert git(tmp_path / "look", "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("existing", "chosen"),
    [
        ("orchestra/fix", "orchestra/fix-s1"),
        ("Orchestra/FIX", "orchestra/fix-s1"),
        ("orchestra", "orchestra-fix-s1"),
        ("orchestra/fix/s1/more", "orchestra/fix-s1"),
        ("orchestra/fix/s1", "orchestra/fix-s1"),
        ("orchestra/fix2", "orchestra/fix/s1"),
    ],
)
async def test_names_that_clash_with_a_branch(manager: GitManager, top: Path, existing: str, chosen: str) -> None:
    git(top, "branch", existing)
    git(top, "pack-refs", "--all")
    repo = await manager.open("backend", top)
    assert await session_branch(manager, repo, prefix="orchestra/", pipeline="fix", session="s1") == chosen
    await move_branch(manager, repo, chosen, str(repo.head), None, session="s1")


@pytest.mark.parametrize("prefix", ["../", "a b/", "-x", "x..y/", "x.lock/", "/"])
async def test_bad_branch_names_are_refused(manager: GitManager, top: Path, prefix: str) -> None:
    repo = await manager.open("backend", top)
    with pytest.raises(GitError) as caught:
        await session_branch(manager, repo, prefix=prefix, pipeline="fix", session="s1")
    assert caught.value.code == "bad-branch-name"


# --- the user's uncommitted work


def dirty(top: Path) -> None:
    """Make a checkout dirty in every way there is."""
    write(top, {"staged.txt": "0\n", "both.txt": "0\n", "gone.txt": "0\n", "old-name.txt": "rename me\n" * 9})
    write(
        top, {"hidden.txt": "0\n", "skipped.txt": "0\n", "run.sh": "#!/bin/sh\n", "link": "x\n", "uncached.txt": "0\n"}
    )
    write(top, {".gitignore": "*.log\n", "staged-gone.txt": "0\n"})
    git(top, "add", "-A")
    git(top, "commit", "-qm", "second")
    git(top, "stash", "push", "-q", ok=False)
    write(top, {"staged.txt": "1\n", "both.txt": "1\n", "staged-new.txt": "1\n"})
    git(top, "add", "staged.txt", "both.txt", "staged-new.txt")
    git(top, "rm", "-q", "staged-gone.txt")
    git(top, "rm", "-q", "--cached", "uncached.txt")
    git(top, "mv", "old-name.txt", "new-name.txt")
    git(top, "update-index", "--assume-unchanged", "hidden.txt")
    git(top, "update-index", "--skip-worktree", "skipped.txt")
    write(top, {"both.txt": "2\n", "hidden.txt": "1\n", "skipped.txt": "1\n", "a.txt": "1\n"})
    write(top, {"untracked.txt": "1\n", "dir/untracked.txt": "1\n", "intent.txt": "1\n", "x.log": "ignored\n"})
    git(top, "add", "--intent-to-add", "intent.txt")
    (top / "gone.txt").unlink()
    (top / "run.sh").chmod(0o755)
    (top / "link").unlink()
    (top / "link").symlink_to("a.txt")


def files_on_disk(top: Path) -> set[str]:
    paths = (path for path in top.rglob("*") if not path.is_dir() or path.is_symlink())
    names = {str(path.relative_to(top)) for path in paths}
    return {name for name in names if not name.startswith((".git/", ".orchestra/"))}


async def test_every_kind_of_uncommitted_work_is_in_the_base(manager: GitManager, top: Path) -> None:
    dirty(top)
    before = fingerprint(top)
    session = await Session(manager, top).start()
    assert fingerprint(top) == before
    files = files_of(top, session.last)
    assert set(files) == files_on_disk(top) - {"x.log"}
    contents = {name: (session.path / name).read_text() for name in files}
    assert contents == {name: (top / name).read_text() for name in files}
    assert files["run.sh"].startswith("100755")
    assert files["link"].startswith("120000")
    assert git(top, "rev-parse", f"{session.last}^1") == session.repo.head
    assert git(top, "rev-parse", "refs/orchestra/s1/base") == session.last
    assert "Uncommitted work of the user's checkout" in git(top, "log", "-1", "--format=%B", session.last)
    assert "Orchestra-" not in git(top, "log", "-1", "--format=%B", session.last)
    assert (await session.base()).commit == session.last
    assert_sound(top)


@pytest.mark.parametrize(
    "option", ["--split-index", "--untracked-cache", "--index-version=4", "--fsmonitor", "--force-untracked-cache"]
)
async def test_every_form_of_the_users_index_is_read_and_left(manager: GitManager, top: Path, option: str) -> None:
    git(top, "update-index", *option.split("="))
    if option == "--split-index":
        git(top, "config", "core.splitIndex", "true")
    write(top, {"a.txt": "changed\n", "new.txt": "new\n"})
    before = fingerprint(top)
    session = await Session(manager, top).start()
    write(session.path, {"a.txt": "again\n"})
    assert (await session.take()).changed
    assert fingerprint(top) == before
    assert show(top, "refs/orchestra/s1/base", "a.txt") == "changed"
    assert show(top, session.last, "a.txt") == "again"
    assert_sound(top)


async def test_odd_settings_of_the_user_change_nothing(manager: GitManager, top: Path) -> None:
    settings = {"status.showUntrackedFiles": "no", "core.ignoreStat": "true", "core.safecrlf": "true"}
    settings |= {"core.autocrlf": "input", "status.relativePaths": "true", "submodule.recurse": "true"}
    settings |= {"extensions.worktreeConfig": "true", "core.logAllRefUpdates": "always", "diff.noprefix": "true"}
    for key, value in settings.items():
        git(top, "config", key, value)
    write(top, {"a.txt": "dos\r\n", "new.txt": "new\n"})
    before = fingerprint(top)
    session = await Session(manager, top).start()
    assert session.names(session.last) == {"a.txt", "src/b.py", "new.txt"}
    write(session.path, {"deep/er.txt": "x\n"})
    assert "deep/er.txt" in session.names((await session.take()).commit)
    assert fingerprint(top) == before


async def test_the_same_uncommitted_work_is_the_same_commit(manager: GitManager, top: Path) -> None:
    dirty(top)
    repo = await manager.open("backend", top)
    bases = [await base_snapshot(manager, repo, session=name, mode="include", date=DATE) for name in ("s1", "s1")]
    assert bases[0].commit == bases[1].commit


async def test_a_clean_checkout_starts_from_its_head(session: Session) -> None:
    assert session.last == session.repo.head
    assert (await session.base()).dirty.clean


async def test_uncommitted_work_can_be_left_out_or_refused(manager: GitManager, top: Path) -> None:
    dirty(top)
    before = fingerprint(top)
    repo = await manager.open("backend", top)
    with pytest.raises(GitError) as caught:
        await base_snapshot(manager, repo, session="s1", mode="refuse", date=DATE)
    assert caught.value.code == "dirty-checkout"
    assert "untracked" in caught.value.message
    base = await base_snapshot(manager, repo, session="s1", mode="head", date=DATE)
    assert (base.commit, base.dirty.clean) == (repo.head, False)
    assert fingerprint(top) == before


@pytest.mark.parametrize("files", [{}, {"untracked.txt": "x\n"}])
async def test_an_empty_repository_keeps_its_unborn_branch(
    manager: GitManager, tmp_path: Path, files: dict[str, str]
) -> None:
    top = make_repo(tmp_path / "empty", {})
    write(top, files)
    session = await Session(manager, top).start()
    assert session.names(session.last) == set(files)
    write(session.path, {"made.txt": "x\n"})
    await session.take()
    await move_branch(manager, session.repo, "orchestra/fix/s1", await session.turn(session.last), None, session="s1")
    assert (await manager.open("backend", top)).head is None
    assert git(top, "symbolic-ref", "HEAD") == "refs/heads/main"


async def test_detached_and_shallow_checkouts_work(manager: GitManager, top: Path, tmp_path: Path) -> None:
    write(top, {"a.txt": "two\n"})
    git(top, "commit", "-qam", "second")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{top}", "clone")
    git(tmp_path / "clone", "checkout", "-q", "--detach")
    session = await Session(manager, tmp_path / "clone").start()
    write(session.path, {"a.txt": "three\n"})
    assert (await session.take()).changed
    assert_sound(tmp_path / "clone")


async def test_a_sparse_checkout_loses_nothing(manager: GitManager, top: Path) -> None:
    write(top, {"other/c.txt": "c\n"})
    git(top, "add", "-A")
    git(top, "commit", "-qm", "second")
    git(top, "sparse-checkout", "set", "src")
    write(top, {"src/b.py": "changed\n"})
    session = await Session(manager, top).start()
    assert session.names(session.last) == {"a.txt", "src/b.py", "other/c.txt"}
    write(session.path, {"src/b.py": "again\n"})
    assert session.names((await session.take()).commit) == {"a.txt", "src/b.py", "other/c.txt"}


# --- restoring


async def test_files_are_put_back_and_what_lay_there_is_kept(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n", "new/x.txt": "new\n", ".gitignore": "*.log\n", "x.log": "ignored\n"})
    (session.path / "src/b.py").unlink()
    done = await restore(session.git, session.worktree, start, session="s1")
    assert {path.name for path in session.path.rglob("*") if path.is_file()} == {"a.txt", "b.py", ".git"}
    assert [(path.name, path.read_text()) for path in done.moved_aside] == [("x.log", "ignored\n")]
    assert done.rescue_ref
    assert show(session.top, done.rescue_ref, "new/x.txt") == "new"
    assert git(session.path, "rev-parse", "HEAD") == start
    git(session.path, "diff", "--exit-code", "HEAD")
    again = await restore(session.git, session.worktree, start, session="s1")
    assert (again.changed, again.rescue_ref) == (False, None)


async def test_ignored_files_stay(manager: GitManager, top: Path) -> None:
    write(top, {".gitignore": "*.log\n"})
    git(top, "add", ".gitignore")
    git(top, "commit", "-qm", "ignore")
    session = await Session(manager, top).start()
    write(session.path, {"a.txt": "two\n", "x.log": "ignored\n", "src/y.log": "ignored\n"})
    done = await restore(manager, session.worktree, session.last, session="s1")
    assert (session.path / "x.log").read_text() == (session.path / "src/y.log").read_text() == "ignored\n"
    assert done.moved_aside == ()


async def test_restoring_again_after_a_kill_finishes(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n", "new.txt": "new\n"})
    await session.take()
    index = session.worktree.index
    tree = await session.git.tree_of(session.repo, session.last)
    # Killed between writing some files and the index, with the lock of the index left.
    (session.path / "new.txt").unlink()
    index.with_name(index.name + ".lock").touch()
    await WorktreeManager(session.git, "s1").ensure(session.repo, "_session", start)
    await restore(session.git, session.worktree, start, session="s1")
    assert (session.path / "a.txt").read_text() == "one\n"
    await restore(session.git, session.worktree, session.last, session="s1")
    assert (await session.take()).tree == tree


async def test_a_snapshot_that_no_checkpoint_names_is_rescued(session: Session) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    orphan = (await session.take()).commit
    done = await restore(session.git, session.worktree, start, session="s1")
    assert git(session.top, "rev-parse", str(done.rescue_ref)) == orphan
    session.last = start
    write(session.path, {"a.txt": "three\n"})
    taken = await session.take()
    assert git(session.top, "rev-parse", f"{taken.commit}^1", f"{taken.commit}^2").splitlines() == [start, orphan]


async def test_ignored_files_in_the_way_are_moved_aside(session: Session) -> None:
    write(session.path, {"build": "tracked\n", "out/x.txt": "tracked\n", "deep/er/y.txt": "tracked\n"})
    wanted = (await session.take()).commit
    await restore(session.git, session.worktree, str(session.repo.head), session="s1")
    write(session.path, {".gitignore": "build\nout\ndeep\n.gitignore\n"})
    write(session.path, {"build/a": "mine\n", "out/x.txt": "mine\n", "out/other": "mine\n", "deep": "mine\n"})
    done = await restore(session.git, session.worktree, wanted, session="s1")
    assert (session.path / "build").read_text() == "tracked\n"
    assert (session.path / "deep/er/y.txt").read_text() == "tracked\n"
    assert (session.path / "out/other").read_text() == "mine\n"
    assert sorted(path.read_text() for path in done.moved_aside) == ["mine\n"] * 3
    assert {path.name for path in done.moved_aside} == {"a", "x.txt", "deep"}


async def test_a_file_that_changes_meanwhile_stops_restoring(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    real = session.git.run

    async def racing(where: Worktree, *args: str, **options: object) -> object:
        if args[:3] == ("read-tree", "-m", "-u"):
            write(session.path, {"a.txt": "raced and longer\n"})
        return await real(where, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(session.git, "run", racing)
    with pytest.raises(GitError) as caught:
        await restore(session.git, session.worktree, start, session="s1")
    assert caught.value.code == "restore-raced"
    assert (session.path / "a.txt").read_text() == "raced and longer\n"


async def test_a_missing_commit_is_found_before_anything_moves(session: Session) -> None:
    write(session.path, {"a.txt": "two\n"})
    with pytest.raises(GitError) as caught:
        await restore(session.git, session.worktree, "1" * 40, session="s1")
    assert caught.value.code == "commit-missing"
    assert (session.path / "a.txt").read_text() == "two\n"


async def test_other_line_ends_are_put_back(manager: GitManager, top: Path) -> None:
    write(top, {"dos.txt": "a\r\nb\r\n"})
    git(top, "add", "-A")
    git(top, "commit", "-qm", "dos")
    write(top, {".gitattributes": "* text\n"})
    git(top, "add", ".gitattributes")
    git(top, "commit", "-qm", "attributes")
    session = await Session(manager, top).start()
    write(session.path, {"a.txt": "two\n"})
    await session.take()
    await restore(manager, session.worktree, str(session.repo.head), session="s1")
    assert (session.path / "a.txt").read_text() == "one\n"


KILLED = """
import asyncio, fcntl, sys
from pathlib import Path
from orchestra.runtime.git import GitManager
from orchestra.runtime.restore import restore
from orchestra.runtime.snapshots import take
from orchestra.runtime.worktree import WorktreeManager

async def main():
    lock = open(sys.argv[2], "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    git = GitManager(lock_fds=[lock.fileno()])
    repo = await git.open("backend", Path(sys.argv[1]))
    worktree = await WorktreeManager(git, "s1").ensure(repo, "_session", repo.head)
    last = repo.head
    await restore(git, worktree, last, session="s1")
    for n in range(1000):
        for name in range(20):
            (worktree.path / f"f{name}.txt").write_text(f"{n}\\n")
        before, last = last, (await take(git, worktree, previous=last, number=n)).commit
        print(n, last, flush=True)
        if n % 3 == 2:
            (worktree.path / "partial.txt").write_text("x")
            await restore(git, worktree, before, session="s1")
            await restore(git, worktree, last, session="s1")

asyncio.run(main())
"""


def killed_after(top: Path, lines: int, seconds: float) -> tuple[int, str]:
    """Take and restore snapshots, kill that a moment after some of them, return the last one that was printed."""
    command = [sys.executable, "-c", KILLED, str(top), f"{top}.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, text=True) as process:
        assert process.stdout
        seen = [process.stdout.readline() for _ in range(lines)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        seen += process.stdout.read().splitlines()
    with open(f"{top}.lock") as lock:  # noqa: PTH123
        fcntl.flock(lock, fcntl.LOCK_EX)  # held by git that outlived its parent, until it ends
    number, commit = seen[-1].split()
    return int(number), commit


async def test_killed_at_any_instant_the_last_snapshot_can_be_put_back(manager: GitManager, top: Path) -> None:
    before = fingerprint(top)
    for round_ in range(10):
        number, commit = await asyncio.to_thread(killed_after, top, 1 + round_ % 4, round_ * 0.007)
        repo = await manager.open("backend", top)
        worktree = await WorktreeManager(manager, "s1").ensure(repo, "_session", commit)
        await restore(manager, worktree, commit, session="s1")
        assert {(worktree.path / f"f{name}.txt").read_text() for name in range(20)} == {f"{number}\n"}
        assert not (worktree.path / "partial.txt").exists()
        assert git(worktree.path, "status", "--porcelain") == ""
    assert fingerprint(top) == before
    assert_sound(top)


# --- nothing of the user's runs


HOOKS = ["pre-commit", "post-checkout", "post-index-change", "reference-transaction", "commit-msg", "post-commit"]


async def whole_session(manager: GitManager, top: Path) -> None:
    session = await Session(manager, top).start()
    start = session.last
    write(session.path, {"a.txt": "two\n"})
    await session.take()
    commit = await session.turn(start)
    await move_branch(manager, session.repo, "orchestra/fix/s1", commit, None, session="s1")
    await restore(manager, session.worktree, start, session="s1")
    read = manager.runner(session.worktree)
    await read("diff", start)
    await read("log", "-p", "-1")
    await read("grep", "dirty", ok=(0, 1))


async def test_no_hook_signer_monitor_or_driver_of_the_user_runs(
    manager: GitManager, top: Path, tmp_path: Path
) -> None:
    canaries = tmp_path / "canaries"
    canaries.mkdir()
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\ntouch "{canaries}/$(basename "$0")"\n')
    program.chmod(0o755)
    for hook in HOOKS:
        shutil.copy(program, top / ".git/hooks" / hook)
    shutil.copytree(top / ".git/hooks", tmp_path / "hooks")
    tools = {"gpg": "gpg.program", "monitor": "core.fsmonitor", "edit": "core.editor", "page": "core.pager"}
    tools |= {"differ": "diff.external", "texter": "diff.y.textconv", "ask": "core.askPass", "xdiff": "diff.x.command"}
    for name, key in tools.items():
        shutil.copy(program, tmp_path / name)
        git(top, "config", key, str(tmp_path / name))
    git(top, "config", "core.hooksPath", str(tmp_path / "hooks"))
    git(top, "config", "commit.gpgSign", "true")
    git(top, "config", "log.showSignature", "true")
    (top / ".git/info/attributes").write_text("*.txt diff=x\n*.py diff=y\n")
    write(top, {"a.txt": "dirty\n", "src/b.py": "dirty\n"})
    before = fingerprint_quietly(top)
    assert not list(canaries.iterdir())
    await whole_session(manager, top)
    assert sorted(path.name for path in canaries.iterdir()) == []
    assert fingerprint_quietly(top) == before
    # All of it is run by the user's own git.
    for command in (
        ["add", "-A"],
        ["diff", "HEAD"],
        ["diff", "--no-ext-diff", "HEAD", "src"],
        ["commit"],
        ["checkout", "-b", "x"],
    ):
        git(top, *command, ok=False, GIT_OPTIONAL_LOCKS="1")
    git(top, "commit", "-m", "x", ok=False)
    run = {path.name for path in canaries.iterdir()}
    assert {"monitor", "xdiff", "texter", "edit", "gpg", "pre-commit", "post-index-change", "post-checkout"} <= run


def fingerprint_quietly(top: Path) -> dict[str, str]:
    """Without asking the user's git, which would run what is configured."""
    config = {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": "false"}
    config |= {"GIT_CONFIG_KEY_1": "core.hooksPath", "GIT_CONFIG_VALUE_1": "/dev/null"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.gitkit.ENV", __import__("tests.gitkit", fromlist=["ENV"]).ENV | config)
        return fingerprint(top)


async def test_a_whole_session_with_a_poisoned_environment(
    manager: GitManager, top: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = make_repo(tmp_path / "other")
    before = fingerprint(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    monkeypatch.delenv("HOME", raising=False)
    await whole_session(manager, top)
    assert fingerprint(other) == before
    assert "orchestra" in git(top, "for-each-ref")


# --- the index


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[WorkspaceSnapshotIndex]:
    async with aiosqlite.connect(tmp_path / "session.db") as connection:
        index = WorkspaceSnapshotIndex(connection, asyncio.Lock(), "s1")
        await index.setup()
        await index.setup()
        yield index


async def record(index: WorkspaceSnapshotIndex, checkpoint: str, *states: RepoState, ns: str = "") -> bool:
    return await index.record(checkpoint, ns, states, created_at=(DATE + timedelta(seconds=1)).isoformat())


async def test_the_index_answers_both_ways(index: WorkspaceSnapshotIndex) -> None:
    states = RepoState("back", "c1", "orchestra/x/s1", "/wt", "fixer"), RepoState("front", "d1")
    assert await record(index, "1", *states)
    assert await index.commits_of("1") == {"back": states[0], "front": states[1]}
    assert await index.checkpoints_of("c1") == [("1", "")]
    assert await index.checkpoints_of("none") == []


async def test_nothing_new_makes_no_row(index: WorkspaceSnapshotIndex) -> None:
    assert await record(index, "1", RepoState("back", "c1"))
    assert not await record(index, "2", RepoState("back", "c1"))
    assert await record(index, "3", RepoState("back", "c2"))
    assert await record(index, "4", RepoState("back", "c1"))
    assert await index.checkpoints_of("c1") == [("1", ""), ("4", "")]
    assert (await index.commits_of("2"))["back"].commit_sha == "c1"
    assert await index.commits_of("0") == {}


async def test_each_worktree_has_its_own_last_row(index: WorkspaceSnapshotIndex) -> None:
    assert await record(index, "1", RepoState("back", "c1", worktree_path="/a"), ns="a:1")
    assert await record(index, "2", RepoState("back", "c2", worktree_path="/b"), ns="b:1")
    assert not await record(index, "3", RepoState("back", "c1", worktree_path="/a"), ns="a:1")
    assert (await index.commits_of("3", "a:1"))["back"].commit_sha == "c1"


async def test_writers_at_once_do_not_mix_transactions(index: WorkspaceSnapshotIndex) -> None:
    results = await asyncio.gather(*(record(index, f"{n:02}", RepoState("back", f"c{n}")) for n in range(20)))
    assert all(results)
    assert (await index.commits_of("13"))["back"].commit_sha == "c13"


async def test_a_failed_record_leaves_nothing(index: WorkspaceSnapshotIndex) -> None:
    with pytest.raises(aiosqlite.Error):
        await record(index, "1", RepoState("back", "c1"), RepoState("front", None))  # type: ignore[arg-type]
    assert await index.commits_of("1") == {}
    assert await record(index, "1", RepoState("back", "c1"))


async def test_a_private_index_that_can_not_be_made_again_stays(session: Session) -> None:
    """Without one the worktree would be taken for half made, and what lies in it for nobody's work."""
    (session.path / "a.txt").write_text("changed\n")
    await session.take()
    before = session.worktree.index.read_bytes()
    session.worktree.known_head.write_text("0" * 40)

    with pytest.raises(GitError):
        await seed_index(session.git, session.worktree, session.worktree.index)

    assert session.worktree.index.read_bytes() == before
