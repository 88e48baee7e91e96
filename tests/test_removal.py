"""The worktree of a branch that is merged goes; what lies in it beyond its commits is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestra.runtime import removal
from orchestra.runtime.git import GitManager, Repository, Worktree
from orchestra.runtime.removal import empty_trash, remove_worktree
from orchestra.runtime.staging import FILE_LIMIT
from orchestra.runtime.worktree import WorktreeManager
from tests.gitkit import assert_sound, fingerprint, git, make_repo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOT = "fixer"


class Place:
    """A repository with one worktree of a session."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.git = GitManager(durable=False)
        self.worktrees = WorktreeManager(self.git, "s1")
        self.path = top / ".orchestra" / "worktrees" / "s1" / SLOT

    async def make(self) -> tuple[Repository, Worktree]:
        repo = await self.git.open("backend", self.top)
        return repo, await self.worktrees.ensure(repo, SLOT, str(repo.head))

    async def remove(self, repo: Repository) -> str | None:
        return await remove_worktree(self.git, self.worktrees, repo, SLOT, str(repo.head))

    def listed(self) -> list[str]:
        listed = git(self.top, "worktree", "list", "--porcelain").splitlines()
        return [line for line in listed if line.startswith("worktree ") and SLOT in line]

    def rescued(self) -> list[Path]:
        return sorted(path for path in (self.top / ".orchestra" / "rescue").rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    top = make_repo(tmp_path / "repo")
    before = fingerprint(top)
    yield Place(top)
    assert fingerprint(top) == before
    assert_sound(top)


async def test_a_clean_worktree_goes_with_all_that_git_knows_of_it(place: Place) -> None:
    repo, tree = await place.make()

    assert await place.remove(repo) is None
    assert not place.path.exists()
    assert place.listed() == []
    assert not tree.git_dir.exists()
    assert not (place.top / ".orchestra" / "trash").exists()
    assert await place.remove(repo) is None  # there is none any more


async def test_what_was_changed_since_its_commit_is_a_rescue(place: Place) -> None:
    repo, tree = await place.make()
    (tree.path / "late.txt").write_text("late\n")

    rescue = await place.remove(repo)

    assert rescue is not None
    assert git(place.top, "show", f"{rescue}:late.txt") == "late"
    assert not place.path.exists()


async def test_commits_of_the_agents_own_are_a_rescue(place: Place) -> None:
    repo, tree = await place.make()
    (tree.path / "own.txt").write_text("own\n")
    git(tree.path, "add", "own.txt")
    git(tree.path, "commit", "-qm", "mine")
    git(tree.path, "checkout", "-q", "--detach", str(repo.head))
    git(tree.path, "reset", "-q", "--hard", "HEAD@{1}")

    rescue = await place.remove(repo)

    assert rescue is not None
    assert git(place.top, "show", f"{rescue}:own.txt") == "own"


async def test_files_that_no_commit_takes_are_moved_and_not_deleted(place: Place) -> None:
    repo, tree = await place.make()
    with (tree.path / "huge.bin").open("wb") as file:
        file.truncate(FILE_LIMIT + 1)

    await place.remove(repo)

    assert [path.name for path in place.rescued() if path.name == "huge.bin"] == ["huge.bin"]
    assert not place.path.exists()
    assert place.listed() == []


async def test_what_somebody_writes_at_the_last_moment_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, tree = await place.make()

    def write(point: str) -> None:
        if point == "removal-due":
            (tree.path / "late.txt").write_text("late\n")

    monkeypatch.setattr(removal, "failpoint", write)
    await place.remove(repo)

    assert [path.read_text() for path in place.rescued() if path.name == "late.txt"] == ["late\n"]
    assert place.listed() == []
    assert not place.path.exists()


async def test_submodules_are_kept_with_their_repositories(tmp_path: Path) -> None:
    inner = make_repo(tmp_path / "inner", {"i.txt": "i\n"})
    top = make_repo(tmp_path / "outer")
    for name in ("one", "two"):
        git(top, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), name)
    git(top, "commit", "-q", "-m", "submodules")
    place = Place(top)
    repo, tree = await place.make()
    git(tree.path, "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "one")
    git(tree.path, "clone", "-q", str(inner), "two")
    for name in ("one", "two"):
        (tree.path / name / "late.txt").write_text("late\n")
    git(tree.path / "one", "add", "late.txt")
    git(tree.path / "one", "commit", "-qm", "own")
    git(tree.path, "submodule", "--quiet", "deinit", "-f", "one")  # its commit is in git's own directory alone

    await place.remove(repo)

    (modules,) = (top / ".orchestra" / "rescue").glob(f"s1/*/{SLOT}.modules")
    assert git(modules / "one", "--git-dir=.", "--work-tree=.", "log", "--format=%s", "-1") == "own"
    assert (modules.with_name(SLOT) / "two" / "late.txt").read_text() == "late\n"
    assert place.listed() == []


async def test_a_link_in_the_place_of_the_directory_is_not_followed(place: Place, tmp_path: Path) -> None:
    repo, tree = await place.make()
    elsewhere = tmp_path / "elsewhere"
    tree.path.rename(elsewhere)
    tree.path.symlink_to(elsewhere)

    await place.remove(repo)

    assert (elsewhere / "src/b.py").exists()
    assert place.listed() == []


async def test_a_directory_that_is_gone_is_forgotten(place: Place) -> None:
    import shutil

    repo, tree = await place.make()
    shutil.rmtree(tree.path)

    assert await place.remove(repo) is None
    assert place.listed() == []


async def test_what_a_kill_left_in_the_trash_is_deleted_of_this_session_only(place: Place) -> None:
    repo, _ = await place.make()
    trash = place.top / ".orchestra" / "trash"
    for name in ("s1-fixer-1", "s10-fixer-1"):
        (trash / name).mkdir(parents=True)
        (trash / name / "file").write_text("x")

    await empty_trash(repo, "s1")

    assert [path.name for path in trash.iterdir()] == ["s10-fixer-1"]
