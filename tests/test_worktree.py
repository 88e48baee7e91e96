from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import GitError
from orchestra.runtime.git import GitManager, Repository, Worktree
from orchestra.runtime.snapshots import take
from orchestra.runtime.worktree import WorktreeManager
from tests.gitkit import assert_sound, fingerprint, git, make_repo, write

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    top = make_repo(tmp_path / "repo")
    before = fingerprint(top)
    yield top
    assert fingerprint(top) == before
    assert_sound(top)


@pytest.fixture
def manager() -> GitManager:
    return GitManager(durable=False)


async def made(manager: GitManager, top: Path, slot: str = "fixer", session: str = "s1") -> Worktree:
    repo = await manager.open("backend", top)
    return await WorktreeManager(manager, session).ensure(repo, slot, head_of(repo))


def head_of(repo: Repository) -> str:
    assert repo.head
    return repo.head


async def unchanged(manager: GitManager, worktree: Worktree) -> bool:
    return not (await take(manager, worktree, previous=head_of(worktree.repository), number=1)).changed


async def test_a_worktree_has_the_files_of_its_commit(manager: GitManager, top: Path) -> None:
    worktree = await made(manager, top)
    assert worktree.path == top / ".orchestra/worktrees/s1/fixer"
    assert (worktree.path / "src/b.py").read_text() == "x = 1\n"
    assert git(worktree.path, "status", "--porcelain=v2", "--branch").splitlines()[1] == "# branch.head (detached)"
    assert "locked orchestra:s1:fixer" in git(top, "worktree", "list", "--porcelain")
    assert await unchanged(manager, worktree)


async def test_the_users_git_does_not_see_it(manager: GitManager, top: Path) -> None:
    await made(manager, top)
    assert git(top, "status", "--porcelain") == ""
    (top / ".orchestra/.gitignore").unlink()
    assert git(top, "status", "--porcelain") == ""
    assert git(top, "branch", "-a") == "* main"


async def test_preparing_twice_writes_once(manager: GitManager, top: Path) -> None:
    exclude = top / ".git/info/exclude"
    exclude.write_text("*.log")
    repo = await manager.open("backend", top)
    worktrees = WorktreeManager(manager, "s1")
    await worktrees.prepare_repository(repo)
    await worktrees.prepare_repository(repo)
    assert exclude.read_text() == "*.log\n/.orchestra/\n"
    assert (top / ".orchestra/.gitignore").read_text() == "*\n"


async def test_a_dangling_link_in_place_of_our_gitignore_makes_no_file_elsewhere(
    manager: GitManager, top: Path, tmp_path: Path
) -> None:
    (top / ".orchestra").mkdir()
    (top / ".orchestra/.gitignore").symlink_to(tmp_path / "elsewhere")
    repo = await manager.open("backend", top)
    await WorktreeManager(manager, "s1").prepare_repository(repo)
    assert not (tmp_path / "elsewhere").exists()
    assert (top / ".orchestra/.gitignore").is_symlink()


async def test_an_existing_worktree_keeps_its_files(manager: GitManager, top: Path) -> None:
    worktree = await made(manager, top)
    write(worktree.path, {"a.txt": "mine\n"})
    assert await made(manager, top) == worktree
    assert (worktree.path / "a.txt").read_text() == "mine\n"


async def test_a_worktree_is_fresh_only_for_who_made_it_and_until_setup_has_run(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    worktrees, commit = WorktreeManager(manager, "s1"), head_of(repo)
    worktree = await worktrees.ensure(repo, "a", commit)
    assert worktrees.is_fresh(worktree, commit)
    assert not worktrees.is_fresh(worktree, "0" * 40)
    worktree.setup_mark.touch()
    assert not worktrees.is_fresh(worktree, commit)
    worktree.setup_mark.unlink()
    assert not worktrees.is_fresh(await worktrees.ensure(repo, "a", commit), commit)


async def test_a_worktree_that_is_finished_is_not_fresh(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    worktrees = WorktreeManager(manager, "s1")
    worktree = await worktrees.ensure(repo, "a", head_of(repo))
    worktree.index.unlink()
    write(worktree.path, {"left.txt": "by whom?\n"})
    assert not worktrees.is_fresh(await worktrees.ensure(repo, "a", head_of(repo)), head_of(repo))


async def test_16_at_once_in_one_repository(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    worktrees = WorktreeManager(manager, "s1")
    made = await asyncio.gather(*(worktrees.ensure(repo, f"a{n}", head_of(repo)) for n in range(16)))
    assert len({worktree.git_dir for worktree in made}) == 16
    assert all([await unchanged(manager, worktree) for worktree in made])


async def test_the_same_one_16_times_at_once(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    worktrees = WorktreeManager(manager, "s1")
    made = await asyncio.gather(*(worktrees.ensure(repo, "a", head_of(repo)) for n in range(16)))
    assert len(set(made)) == 1


async def test_two_sessions_use_the_same_slot(manager: GitManager, top: Path) -> None:
    first, second = await made(manager, top, session="s1"), await made(manager, top, session="s2")
    assert first.git_dir != second.git_dir
    assert await made(manager, top, session="s2") == second


async def test_from_a_linked_worktree(manager: GitManager, top: Path, tmp_path: Path) -> None:
    git(top, "worktree", "add", "-q", "--detach", str(tmp_path / "side"))
    worktree = await made(manager, tmp_path / "side")
    assert worktree.path == tmp_path / "side/.orchestra/worktrees/s1/fixer"
    assert worktree.git_dir.parent == top / ".git/worktrees"
    assert git(tmp_path / "side", "status", "--porcelain") == ""


# --- what agents do to their worktree


async def test_a_deleted_git_file_is_written_again(manager: GitManager, top: Path) -> None:
    worktree = await made(manager, top)
    (worktree.path / ".git").unlink()
    assert await unchanged(manager, worktree)
    await made(manager, top)
    assert git(worktree.path, "rev-parse", "--absolute-git-dir") == str(worktree.git_dir)


@pytest.mark.parametrize("key", ["core.fsmonitor", "core.hooksPath"])
async def test_a_rewritten_git_file_runs_nothing(manager: GitManager, top: Path, tmp_path: Path, key: str) -> None:
    worktree = await made(manager, top)
    canary = tmp_path / "canary"
    hook = worktree.path / "fake-hooks"
    write(worktree.path, {"fake-hooks/post-index-change": f"#!/bin/sh\ntouch {canary}\n"})
    (hook / "post-index-change").chmod(0o755)
    (worktree.path / ".git").unlink()
    git(worktree.path, "init", "-q", "--separate-git-dir", "fake")
    git(worktree.path, "config", key, str(hook if key == "core.hooksPath" else hook / "post-index-change"))
    git(worktree.path, "status", GIT_OPTIONAL_LOCKS="1")
    git(worktree.path, "add", "a.txt")
    assert canary.exists()  # the agent's own git runs it
    canary.unlink()
    await made(manager, top)
    await take(manager, worktree, previous=head_of(worktree.repository), number=1)
    assert not canary.exists()
    assert git(worktree.path, "rev-parse", "--absolute-git-dir") == str(worktree.git_dir)


async def test_a_repository_made_in_its_place_is_kept_aside(manager: GitManager, top: Path) -> None:
    worktree = await made(manager, top)
    (worktree.path / ".git").unlink()
    git(worktree.path, "init", "-q")
    await made(manager, top)
    assert (worktree.path / ".git").is_file()
    assert [path.name for path in (top / ".orchestra/rescue/s1").glob("*/*")] == [".git"]


async def test_a_deleted_directory_is_filled_again(manager: GitManager, top: Path) -> None:
    worktree = await made(manager, top)
    shutil.rmtree(worktree.path)
    with pytest.raises(GitError) as caught:
        await take(manager, worktree, previous=head_of(worktree.repository), number=1)
    assert caught.value.code == "worktree-gone"
    await made(manager, top)
    assert (worktree.path / "a.txt").read_text() == "one\n"
    assert await unchanged(manager, worktree)


async def test_a_link_in_its_place_is_never_followed(manager: GitManager, top: Path) -> None:
    worktree = await made(manager, top)
    shutil.rmtree(worktree.path)
    worktree.path.symlink_to(top)
    with pytest.raises(GitError, match="leads elsewhere"):
        await take(manager, worktree, previous=head_of(worktree.repository), number=1)
    await made(manager, top)
    assert not worktree.path.is_symlink()
    assert await unchanged(manager, worktree)


async def test_broken_administrative_files_are_mended(manager: GitManager, top: Path) -> None:
    worktree = await made(manager, top)
    (worktree.git_dir / "HEAD").write_text("rubbish")
    (worktree.git_dir / "commondir").unlink()
    (worktree.git_dir / "gitdir").write_text("/elsewhere\n")
    (worktree.git_dir / "index.lock").write_text("")
    (worktree.git_dir / "orchestra.index.lock").write_text("")
    await made(manager, top)
    assert git(worktree.path, "status", "--porcelain") == ""
    assert await unchanged(manager, worktree)


async def test_unknown_files_in_its_place_are_moved_aside(manager: GitManager, top: Path) -> None:
    write(top, {".orchestra/worktrees/s1/fixer/precious.txt": "keep\n"})
    worktree = await made(manager, top)
    assert not (worktree.path / "precious.txt").exists()
    (kept,) = (top / ".orchestra/rescue/s1").glob("*/fixer/precious.txt")
    assert kept.read_text() == "keep\n"


@pytest.mark.parametrize("link", [".orchestra", ".orchestra/worktrees", ".orchestra/worktrees/s1"])
async def test_a_link_in_the_place_of_our_directories_is_refused(
    manager: GitManager, tmp_path: Path, link: str
) -> None:
    top = make_repo(tmp_path / "hostile")
    (top / link).parent.mkdir(parents=True, exist_ok=True)
    (top / link).symlink_to(tmp_path)
    with pytest.raises(GitError) as caught:
        await made(manager, top)
    assert caught.value.code == "own-directory-is-link"
    assert not (tmp_path / "worktrees").exists()


async def test_a_bare_repository_gets_no_worktree(manager: GitManager, top: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(top), "bare.git")
    with pytest.raises(GitError) as caught:
        await made(manager, tmp_path / "bare.git")
    assert caught.value.code == "bare-repository"


@pytest.mark.parametrize("name", ["../x", "", "A", "a/b", "-x", "a.lock"])
async def test_names_that_lead_elsewhere_are_refused(manager: GitManager, top: Path, name: str) -> None:
    with pytest.raises(GitError):
        WorktreeManager(manager, name)
    with pytest.raises(GitError):
        await made(manager, top, slot=name)


# --- kills

KILLED = """
import asyncio, fcntl, sys
from pathlib import Path
from orchestra.runtime.git import GitManager
from orchestra.runtime.worktree import WorktreeManager

async def main():
    lock = open(sys.argv[2], "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    git = GitManager(lock_fds=[lock.fileno()])
    repo = await git.open("backend", Path(sys.argv[1]))
    print("ready", flush=True)
    for n in range(50):
        await WorktreeManager(git, "s1").ensure(repo, f"a{n}", repo.head)
        print(n, flush=True)

asyncio.run(main())
"""


def killed_after(top: Path, lines: int, seconds: float) -> None:
    """Start making worktrees and kill the process and its git a moment after it printed some lines."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(top), f"{top}.lock"], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout
        for _ in range(lines):
            process.stdout.readline()
        with_timeout(process, seconds)
        os.killpg(process.pid, signal.SIGKILL)
    with Path(f"{top}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held by git that outlived its parent, until it ends


def with_timeout(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


@pytest.mark.parametrize("milliseconds", [0, 2, 5, 8, 12, 17, 23, 30, 40, 55])
async def test_killed_while_making_one_it_is_finished(manager: GitManager, tmp_path: Path, milliseconds: int) -> None:
    top = make_repo(tmp_path / "big", {f"d{n % 10}/f{n}.txt": f"{n}\n" for n in range(300)})
    before = fingerprint(top)
    await asyncio.to_thread(killed_after, top, 1 + milliseconds % 3, milliseconds / 1000)
    repo = await manager.open("backend", top)
    worktrees = WorktreeManager(manager, "s1")
    for n in range(4):
        worktree = await worktrees.ensure(repo, f"a{n}", head_of(repo))
        assert await unchanged(manager, worktree)
        assert git(worktree.path, "status", "--porcelain") == ""
    assert fingerprint(top) == before
    assert_sound(top)


async def test_every_half_made_state_is_finished(manager: GitManager, top: Path) -> None:
    worktree = await made(manager, top)
    states = [worktree.index, worktree.path / ".git", worktree.git_dir / "HEAD", worktree.git_dir / "gitdir"]
    for number in range(len(states)):
        for file in states[: number + 1]:
            file.unlink()
        (worktree.path / "a.txt").unlink()
        assert await made(manager, top) == worktree
        assert await unchanged(manager, worktree)
