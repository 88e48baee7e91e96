from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import GitError
from orchestra.runtime import git_locks
from orchestra.runtime.git import GitManager, RefUpdate, Repository
from orchestra.runtime.git_errors import explain
from tests.gitkit import DATE, assert_sound, fingerprint, git, make_repo, write

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    top = make_repo(tmp_path / "repo")
    yield top
    assert_sound(top)


@pytest.fixture
def manager() -> GitManager:
    return GitManager(durable=False)


async def refused(manager: GitManager, path: Path) -> GitError:
    with pytest.raises(GitError) as caught:
        await manager.open("backend", path)
    return caught.value


# --- finding a repository


async def test_a_path_inside_a_repository_gives_its_top(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top / "src")
    assert (repo.top, repo.branch, repo.head) == (top, "main", git(top, "rev-parse", "HEAD"))
    assert repo.git_dir == repo.common_dir == top / ".git"
    assert not repo.shallow


async def test_an_empty_repository_has_a_branch_and_no_head(manager: GitManager, tmp_path: Path) -> None:
    repo = await manager.open("backend", make_repo(tmp_path / "empty", {}))
    assert (repo.head, repo.branch) == (None, "main")


async def test_a_detached_head_has_no_branch(manager: GitManager, top: Path) -> None:
    git(top, "checkout", "-q", "--detach")
    repo = await manager.open("backend", top)
    assert repo.branch is None
    assert repo.head


async def test_a_shallow_clone_says_so(manager: GitManager, top: Path, tmp_path: Path) -> None:
    write(top, {"a.txt": "two\n"})
    git(top, "commit", "-qam", "second")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{top}", "clone")
    assert (await manager.open("backend", tmp_path / "clone")).shallow


async def test_a_bare_repository_has_no_top(manager: GitManager, top: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(top), "bare.git")
    assert (await manager.open("backend", tmp_path / "bare.git")).top is None


async def test_a_linked_worktree_shares_the_common_directory(manager: GitManager, top: Path, tmp_path: Path) -> None:
    git(top, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    repo = await manager.open("backend", tmp_path / "side")
    assert (repo.top, repo.common_dir, repo.branch) == (tmp_path / "side", top / ".git", "side")
    assert repo.git_dir == top / ".git/worktrees/side"


async def test_a_submodule_checkout_is_a_repository_of_its_own(manager: GitManager, top: Path, tmp_path: Path) -> None:
    inner = make_repo(tmp_path / "inner", {"in.txt": "in\n"})
    git(top, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "sub")
    git(top, "commit", "-qm", "sub")
    repo = await manager.open("sub", top / "sub")
    assert (repo.top, repo.git_dir) == (top / "sub", top / ".git/modules/sub")


async def test_no_repository_is_refused(manager: GitManager, tmp_path: Path) -> None:
    assert (await refused(manager, tmp_path)).code == "not-a-repository"
    assert (await refused(manager, tmp_path / "nowhere")).code == "repo-path-missing"


async def test_gits_own_directory_is_refused(manager: GitManager, top: Path) -> None:
    error = await refused(manager, top / ".git/objects")
    assert error.code == "not-a-repository"
    assert str(top) in str(error.hint)


async def test_a_home_directory_is_refused(manager: GitManager, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(top))
    assert (await refused(manager, top / "src")).code == "repo-too-wide"


@pytest.mark.parametrize(
    ("command", "word"), [(["merge"], "merge"), (["rebase"], "rebase"), (["cherry-pick"], "cherry-pick")]
)
async def test_an_operation_in_progress_is_refused(
    manager: GitManager, top: Path, command: list[str], word: str
) -> None:
    git(top, "checkout", "-qb", "side")
    write(top, {"a.txt": "side\n"})
    git(top, "commit", "-qam", "side")
    git(top, "checkout", "-q", "main")
    write(top, {"a.txt": "main\n"})
    git(top, "commit", "-qam", "main")
    git(top, *command, "side", ok=False)
    error = await refused(manager, top)
    assert (error.code, word in error.message, f"{word} --abort" in str(error.hint)) == (
        "operation-in-progress",
        True,
        True,
    )


async def test_a_resumed_session_opens_a_checkout_in_any_state(manager: GitManager, top: Path) -> None:
    git(top, "bisect", "start")
    assert (await manager.open("backend", top, judge=False)).top == top


async def test_a_bisect_is_an_operation(manager: GitManager, top: Path) -> None:
    git(top, "bisect", "start")
    assert (await refused(manager, top)).hint == "finish it, or run `git bisect reset`"


async def test_unmerged_entries_are_refused(manager: GitManager, top: Path) -> None:
    blob = git(top, "rev-parse", "HEAD:a.txt")
    lines = "".join(f"100644 {blob} {stage}\tclash.txt\n" for stage in (1, 2, 3))
    (top / "lines").write_text(lines)
    git(top, "-c", "alias.unmerge=!git update-index --index-info <lines", "unmerge")
    error = await refused(manager, top)
    assert error.code == "unmerged-entries"
    assert "'clash.txt'" in error.message


async def test_another_owner_is_refused_with_the_line_to_type(
    manager: GitManager, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = "orchestra.runtime.git.environment"
    real = __import__("orchestra.runtime.git_process", fromlist=["environment"]).environment
    monkeypatch.setattr(
        execute, lambda *more, durable: real(*more, durable=durable) | {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    )
    error = await refused(manager, top)
    assert error.code == "dubious-ownership"
    assert f"git config --global --add safe.directory '{top}'" in str(error.hint)


# --- environment


POISON = {
    "GIT_DIR": "/nonexistent",
    "GIT_WORK_TREE": "/",
    "GIT_INDEX_FILE": "/nonexistent/index",
    "GIT_OBJECT_DIRECTORY": "/nonexistent",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "core.bare",
    "GIT_CONFIG_VALUE_0": "true",
    "GIT_CONFIG_PARAMETERS": "'core.bare=true'",
    "GIT_EXTERNAL_DIFF": "false",
    "GIT_AUTHOR_DATE": "rubbish",
    "GIT_EXEC_PATH": "/nonexistent",
    "GIT_NAMESPACE": "elsewhere",
}


async def test_a_poisoned_environment_changes_nothing(
    manager: GitManager, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in POISON.items():
        monkeypatch.setenv(name, value)
    repo = await manager.open("backend", top)
    assert repo.top == top
    assert (await manager.dirty(repo)).clean
    tree = await manager.tree_of(repo, str(repo.head))
    await manager.commit_tree(repo, tree, [], "m", author="fixer", date=DATE)


async def test_no_identity_and_no_home_are_needed(
    manager: GitManager, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    git(top, "config", "user.useConfigOnly", "true")
    repo = await manager.open("backend", top)
    tree = await manager.tree_of(repo, str(repo.head))
    commit = await manager.commit_tree(repo, tree, [], "m", author="fixer", date=DATE)
    about = git(top, "show", "-s", "--format=%an <%ae> %ai|%cn", commit)
    assert about == "fixer <orchestra@localhost> 2026-01-02 03:04:05 +0000|orchestra"


async def test_secrets_do_not_reach_git(
    manager: GitManager, top: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    git(top, "config", "filter.spy.clean", f"env > {tmp_path}/seen; cat")
    write(top, {".gitattributes": "*.txt filter=spy\n", "a.txt": "changed\n"})
    repo = await manager.open("backend", top)
    await manager.run(repo, "hash-object", "--path=a.txt", str(top / "a.txt"))
    seen = (tmp_path / "seen").read_text()
    assert "PATH=" in seen
    assert "sk-secret" not in seen


async def test_the_same_commit_twice_is_the_same(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    tree = await manager.tree_of(repo, str(repo.head))
    first = await manager.commit_tree(repo, tree, [str(repo.head)], "Größe\n", author="a", date=DATE)
    git(top, "config", "i18n.commitEncoding", "latin1")
    second = await manager.commit_tree(repo, tree, [str(repo.head)], "Größe\n", author="a", date=DATE)
    assert first == second


# --- references


async def test_references_move_together_or_not_at_all(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    head = str(repo.head)
    await manager.update_refs(repo, [RefUpdate("refs/orchestra/s/base", head, None)])
    with pytest.raises(GitError) as caught:
        await manager.update_refs(
            repo,
            [RefUpdate("refs/orchestra/s/other", head, None), RefUpdate("refs/orchestra/s/base", head, "0" * 39 + "1")],
        )
    assert caught.value.code == "ref-moved"
    assert "refs/orchestra/s/base" in caught.value.message
    assert head in caught.value.message
    assert await manager.read_ref(repo, "refs/orchestra/s/other") is None
    await manager.update_refs(repo, [RefUpdate("refs/orchestra/s/base", None, head)])
    assert await manager.refs(repo, "refs/orchestra") == {}


async def test_of_32_writers_at_once_one_wins(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    tree = await manager.tree_of(repo, str(repo.head))
    commits = [
        await manager.commit_tree(repo, tree, [str(repo.head)], f"{n}", author=None, date=DATE) for n in range(32)
    ]
    moves = [manager.update_refs(repo, [RefUpdate("refs/orchestra/s/x", commit, None)]) for commit in commits]
    results = await asyncio.gather(*moves, return_exceptions=True)
    lost = [result for result in results if isinstance(result, GitError)]
    assert (len(lost), {error.code for error in lost}) == (31, {"ref-moved"})
    assert await manager.read_ref(repo, "refs/orchestra/s/x") == commits[results.index(None)]


async def test_which_objects_exist(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    missing = "1" * 40
    assert await manager.exists(repo, [str(repo.head), missing]) == {repo.head}


async def test_the_default_branch_is_what_the_remote_says(manager: GitManager, top: Path, tmp_path: Path) -> None:
    repo = await manager.open("backend", top)
    assert await manager.default_branch(repo) == "refs/heads/main"
    git(top, "branch", "-m", "stable")
    assert await manager.default_branch(repo) is None
    git(tmp_path, "clone", "-q", str(top), "clone")
    clone = await manager.open("backend", tmp_path / "clone")
    assert await manager.default_branch(clone) == "refs/remotes/origin/stable"
    assert await manager.merge_base(clone, "HEAD", "refs/remotes/origin/stable") == clone.head


async def test_unrelated_commits_have_no_merge_base(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    other = await manager.commit_tree(repo, await manager.tree_of(repo, "HEAD"), [], "root", author=None, date=DATE)
    assert await manager.merge_base(repo, "HEAD", other) is None


async def test_where_a_branch_is_checked_out(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    git(top, "branch", "free")
    assert await manager.checked_out_at(repo, "refs/heads/main") == top
    assert await manager.checked_out_at(repo, "refs/heads/free") is None


@pytest.mark.parametrize(
    ("common", "said"),
    [("", "halfway"), ("{gone}/worktrees/halfway", "Invalid path '.*/worktrees': No such file")],
    ids=["one is half removed", "the last one is removed with their directory"],
)
async def test_where_a_branch_is_checked_out_is_found_while_worktrees_come_and_go(
    manager: GitManager, tmp_path: Path, common: str, said: str
) -> None:
    top = make_repo(tmp_path / "repo")
    repo = await manager.open("backend", top)
    halfway = top / ".git" / "worktrees" / "halfway"
    halfway.mkdir(parents=True)
    (halfway / "gitdir").write_text(f"{tmp_path}/halfway/.git\n")
    (halfway / "HEAD").write_text("ref: refs/heads/none\n")
    (halfway / "commondir").write_text(common.format(gone=tmp_path))

    with pytest.raises(GitError, match=said):
        await manager.checked_out_at(repo, "refs/heads/main")
    asking = asyncio.create_task(manager.checked_out_at(repo, "refs/heads/main"))
    await asyncio.sleep(0.05)
    shutil.rmtree(halfway)
    assert await asking == top


# --- what may run


async def test_tools_read_objects_and_never_the_checkout(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    write(top, {"a.txt": "live\n"})
    read = manager.runner(repo)
    assert (await read("show", "HEAD:a.txt")).text == "one"
    assert (await read("grep", "-n", "x = ", "HEAD")).text == "HEAD:src/b.py:1:x = 1"
    with pytest.raises(GitError):
        await read("diff", "HEAD")


@pytest.mark.parametrize(
    "args",
    [
        ("commit", "-m", "x"),
        (),
        ("-c", "core.pager=x", "log"),
        ("log", "--output=/tmp/x"),
        ("log", "--outp=/tmp/x"),
        ("grep", "-O", "x"),
        ("grep", "-Oless", "x"),
        ("diff", "--no-index", "/etc/passwd", "/dev/null"),
        ("show", "--ext-diff"),
        ("cat-file", "--filters", "HEAD:a.txt"),
        ("grep", "--open-files-in-pager=touch", "x"),
    ],
)
async def test_tools_may_only_read(manager: GitManager, top: Path, args: tuple[str, ...]) -> None:
    read = manager.runner(await manager.open("backend", top))
    with pytest.raises(GitError) as caught:
        await read(*args)
    assert caught.value.code == "git-refused"


async def test_a_command_that_takes_too_long_is_stopped(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    with pytest.raises(GitError) as caught:
        await slow(manager, repo, top, timeout=0.3)
    assert caught.value.code == "git-timeout"
    assert_dead(int((top.parent / "pid").read_text()))


async def test_a_cancelled_command_is_stopped(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    task = asyncio.create_task(slow(manager, repo, top, timeout=60))
    await asyncio.to_thread(await_line, top.parent / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_dead(int((top.parent / "pid").read_text()))


def await_line(pipe: Path) -> None:
    while not pipe.exists() or not pipe.read_text().endswith("\n"):
        time.sleep(0.01)


async def slow(manager: GitManager, repo: Repository, top: Path, timeout: float) -> None:  # noqa: ASYNC109
    git(top, "config", "filter.slow.clean", f"echo $$ > {top.parent}/pid; exec sleep 60")
    write(top, {".gitattributes": "*.txt filter=slow\n"})
    await manager.run(repo, "hash-object", "--path=a.txt", str(top / "a.txt"), timeout=timeout)


def assert_dead(pid: int) -> None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        assert "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()


async def test_locks_are_inherited_by_git(top: Path, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        manager = GitManager(lock_fds=[lock.fileno()], durable=False)
        repo = await manager.open("backend", top)
        git(top, "config", "filter.spy.clean", f"readlink /proc/self/fd/{lock.fileno()} > {tmp_path}/seen; cat")
        write(top, {".gitattributes": "*.txt filter=spy\n"})
        await manager.run(repo, "hash-object", "--path=a.txt", str(top / "a.txt"))
    assert (tmp_path / "seen").read_text().strip() == str(tmp_path / "lock")


async def test_too_much_output_is_an_error(manager: GitManager, top: Path) -> None:
    repo = await manager.open("backend", top)
    with pytest.raises(GitError) as caught:
        await manager.run(repo, "cat-file", "-p", "HEAD", limit=10)
    assert caught.value.code == "git-output-too-large"


async def test_opening_and_reading_touch_nothing(manager: GitManager, top: Path) -> None:
    write(top, {"a.txt": "changed\n", "new.txt": "new\n"})
    os.utime(top / "src/b.py", (1, 1))
    before = fingerprint(top)
    repo = await manager.open("backend", top)
    dirty = await manager.dirty(repo)
    assert (dirty.staged, dirty.modified, dirty.untracked, dirty.clean) == (0, 1, 1, False)
    assert str(dirty) == "1 modified, 1 untracked"
    assert fingerprint(top) == before


# --- versions and errors


async def test_the_version_is_known(manager: GitManager) -> None:
    assert await manager.version() >= (2, 38)


@pytest.mark.parametrize(
    ("script", "code"), [("echo git version 2.34.1", "git-too-old"), (None, "git-missing"), ("echo hm", "git-too-old")]
)
async def test_an_unfit_git_is_refused(
    manager: GitManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, code: str
) -> None:
    if script:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError) as caught:
        await manager.version()
    assert caught.value.code == code
    assert "\n" not in caught.value.message


async def test_a_held_index_lock_names_its_file_and_holder(
    manager: GitManager, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_locks, "WAIT", 0.5)
    repo = await manager.open("backend", top)
    with (top / ".git/index.lock").open("w"):
        with pytest.raises(GitError) as caught:
            await manager.run(repo, "read-tree", "HEAD")
        assert caught.value.code == "git-locked"
        assert str(top / ".git/index.lock") in caught.value.message
        assert f"held by process {os.getpid()} (" in caught.value.message
    with pytest.raises(GitError) as caught:
        await manager.run(repo, "read-tree", "HEAD")
    assert caught.value.hint == f"if no git runs there: rm '{top}/.git/index.lock'"
    (top / ".git/index.lock").unlink()


async def test_a_corrupt_object_is_named(manager: GitManager, tmp_path: Path) -> None:
    top = make_repo(tmp_path / "broken")
    repo = await manager.open("backend", top)
    blob = git(top, "rev-parse", "HEAD:a.txt")
    path = top / ".git/objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    path.write_bytes(b"")
    with pytest.raises(GitError) as caught:
        await manager.run(repo, "cat-file", "blob", blob)
    assert caught.value.code == "corrupt-object"
    assert "fsck" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        ("error: unable to write file x: No space left on device", "no-space"),
        ("fatal: clean filter 'lfs' failed", "filter-failed"),
        ("error: insufficient permission for adding an object", "git-permission"),
        ("fatal: something new\nadvice", "git-failed"),
    ],
)
def test_known_failures_have_codes(stderr: str, code: str) -> None:
    error = explain(("add",), 128, stderr, Path("/repo"))
    assert error.code == code
    assert error.command == ("add",)
    assert code != "git-failed" or error.message == "git add failed with status 128: something new"


@pytest.mark.parametrize(
    ("stderr", "place"),
    [
        ("error: unable to create temporary file: Read-only file system", "/repo/.git"),
        ("fatal: cannot lock ref 'refs/x': unable to create '.git/refs/x.lock': Read-only file system", "/repo/.git"),
        ("fatal: Unable to create '/repo/.git/worktrees/w/index.lock': Read-only file system", "/repo/.git"),
        ("error: unable to write loose object file: No space left on device", "/repo/.git"),
        ("error: insufficient permission for adding an object to repository database", "/repo/.git"),
        ("error: unable to create file a.txt: Read-only file system", "/tree"),
    ],
)
def test_a_write_that_is_refused_names_where_it_went(stderr: str, place: str) -> None:
    """Objects and references lie in the repository, though the call runs in a worktree on another file system."""
    error = explain(("commit-tree",), 128, stderr, Path("/tree"), store=Path("/repo/.git"))
    assert f" in {place}: " in error.message or f" of {place}: " in error.message
    assert f"'{place}'" in str(error.hint)
