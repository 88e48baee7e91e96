from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import tracemalloc
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import GitError
from orchestra.runtime.conflicts import (
    Unresolved,
    adopt_submodules,
    mark_resolved,
    open_conflict,
    unmerged_paths,
    unresolved,
)
from orchestra.runtime.git import GitManager
from orchestra.runtime.merges import Conflict, merge_trees
from orchestra.runtime.restore import restore
from orchestra.runtime.snapshots import moved_head
from orchestra.runtime.staging import stage
from orchestra.runtime.worktree import WorktreeManager
from tests.gitkit import DATE, assert_sound, files_of, fingerprint, git
from tests.mergekit import CASES, LABELS, LONG, ODD, Case, Sides, case, put, sides, stages_of
from tests.session_support import in_a_child

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from orchestra.runtime.git import Worktree

CONTENT = CASES["content"]


@dataclass
class Bench:
    """A worktree whose files are those of a conflict."""

    manager: GitManager
    two: Sides
    worktree: Worktree
    conflict: Conflict
    marked: str

    @property
    def top(self) -> Path:
        return self.worktree.path

    @property
    def index(self) -> Path:
        return self.worktree.git_dir / "index"

    async def open(self, unmerged: Collection[str] | None = None) -> None:
        await restore(self.manager, self.worktree, self.marked, session="s1")
        await self.reopen(unmerged)

    async def reopen(self, unmerged: Collection[str] | None = None) -> None:
        sides = {"ours": self.two.ours, "theirs": self.two.theirs}
        await open_conflict(self.manager, self.worktree, **sides, conflict=self.conflict, unmerged=unmerged)

    async def tree(self) -> str:
        return (await stage(self.manager, self.worktree, self.worktree.index)).tree

    async def left(self) -> dict[str, str]:
        found = await unresolved(self.manager, self.worktree, self.conflict, await self.tree())
        return {one.path: one.reason for one in found}

    def git(self, *args: str, ok: bool = True, **env: str) -> str:
        return git(self.top, *args, ok=ok, **{"GIT_LITERAL_PATHSPECS": "1", **env})

    async def mark(self, *paths: str) -> None:
        await mark_resolved(self.manager, self.worktree, paths)


async def bench(tmp_path: Path, how: Case, *options: str) -> Bench:
    manager = GitManager(durable=False, session="s1")
    two = sides(tmp_path / "repo", how, *options)
    repo = await manager.open("backend", two.top)
    conflict = await merge_trees(manager, repo, two.ours, two.theirs, labels=LABELS, session="s1")
    assert isinstance(conflict, Conflict)
    worktree = await WorktreeManager(manager, "s1").ensure(repo, "w", two.ours)
    marked = await manager.commit_tree(repo, conflict.tree, [two.ours, two.theirs], "marked", author=None, date=DATE)
    made = Bench(manager, two, worktree, conflict, marked)
    await made.open()
    return made


def states(status: str) -> list[str]:
    """Git names a file that it had to move after its side."""
    return sorted(line.partition("~")[0] for line in status.split("\0"))


@pytest.mark.parametrize("name", CASES)
async def test_a_worktree_looks_as_git_merge_leaves_it(tmp_path: Path, name: str) -> None:
    here = await bench(tmp_path, CASES[name])
    before = fingerprint(here.two.top)
    await here.open()
    assert fingerprint(here.two.top) == before
    status = here.git("status", "--porcelain", "-z")
    assert stages_of(here.top) == {(one.mode, one.sha, one.number, one.path) for one in here.conflict.stages}
    assert await unmerged_paths(here.manager, here.worktree) == tuple(one.path for one in here.conflict.paths)
    assert here.git("rev-parse", "HEAD", "MERGE_HEAD").split() == [here.two.ours, here.two.theirs]
    assert await moved_head(here.manager, here.worktree) is None
    assert '(fix conflicts and run "git commit")' in here.git("status")
    here.git("commit", "-m", "too early", ok=False)
    assert here.git("rev-parse", "HEAD") == here.two.ours
    here.two.plain_merge()
    assert states(status) == states(git(here.two.top, "status", "--porcelain", "-z"))


@pytest.mark.parametrize("name", [name for name in CASES if "submodule" not in name])
async def test_plain_git_resolves_it_to_a_merge_commit(tmp_path: Path, name: str) -> None:
    here = await bench(tmp_path, CASES[name])
    away = {"f"} if name.startswith("rename/rename") else set()
    assert await here.left() == dict.fromkeys(CASES[name].kinds.keys() - away, "unmerged")
    for one in here.conflict.paths:
        path = here.top / one.path
        if path.is_symlink() or path.exists():
            path.unlink()
            path.write_text("resolved\n")
            here.git("add", "--", one.path)
        else:
            here.git("rm", "-q", "--cached", "--", one.path)
    assert await here.left() == {}
    here.git("commit", "-q", "-m", "resolved")
    assert await here.left() == {}
    assert here.git("log", "-1", "--format=%P") == f"{here.two.ours} {here.two.theirs}"
    assert here.git("status", "--porcelain") == ""
    assert_sound(here.two.top)


@pytest.mark.parametrize("name", [name for name in CASES if "submodule" not in name])
async def test_a_written_path_counts_as_resolved(tmp_path: Path, name: str) -> None:
    here = await bench(tmp_path, CASES[name])
    for one in here.conflict.paths:
        path = here.top / one.path
        if path.is_symlink() or path.exists():
            path.unlink()
            path.write_text("resolved\n")
            await here.mark(one.path)
    assert await here.left() == {}
    assert stages_of(here.top) == set()
    here.git("commit", "-q", "-m", "resolved")
    assert here.git("status", "--porcelain") == ""


@pytest.mark.parametrize("name", [name for name in CASES if "submodule" not in name])
async def test_a_deleted_path_counts_as_resolved(tmp_path: Path, name: str) -> None:
    here = await bench(tmp_path, CASES[name])
    for one in here.conflict.paths:
        (here.top / one.path).unlink(missing_ok=True)
    await here.mark(*(one.path for one in here.conflict.paths))
    assert await here.left() == {}
    here.git("commit", "-q", "-m", "resolved")
    assert not set(files_of(here.top, "HEAD")) & set(CASES[name].kinds)


async def test_the_sides_can_be_taken_with_checkout(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    here.git("checkout", "-q", "--theirs", "f")
    assert (here.top / "f").read_text() == LONG.replace("line 5", "theirs")
    assert await here.left() == {"f": "unmerged"}
    here.git("checkout", "-q", "--merge", "f")
    assert "<<<<<<<" in (here.top / "f").read_text()
    here.git("checkout", "-q", "--ours", "f")
    here.git("add", "f")
    assert await here.left() == {}


async def test_markers_that_are_left_are_not_resolved(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    await here.mark("f")
    assert await here.left() == {"f": "markers"}
    text = (here.top / "f").read_text()
    (here.top / "f").write_text(text.replace(">>>>>>> writer-b\n", "").replace("<<<<<<< writer-a\n", ""))
    await here.mark("f")
    assert await here.left() == {}, "a lone ======= underlines a heading"
    here.git("commit", "-q", "-m", "resolved")
    (here.top / "f").write_text(text.replace(">>>>>>> writer-b\n", ""))
    assert await here.left() == {"f": "markers"}, "also when it was committed"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_lines_that_look_like_markers_and_were_there_before_are_none(tmp_path: Path, end: str) -> None:
    text = f"How to read{end}<<<<<<< ours{end}a{end}||||||| base{end}=======\nb{end}>>>>>>> theirs{end}" + LONG
    ours, theirs = text.replace("line 5", "ours"), text.replace("line 5", "theirs")
    here = await bench(tmp_path, Case([put("f", text)], [put("f", ours)], [put("f", theirs)]))
    await here.mark("f")
    assert await here.left() == {"f": "markers"}
    put("f", text)(here.top)
    assert await here.left() == {}


async def test_markers_in_what_git_merged_of_two_renames_are_found(tmp_path: Path) -> None:
    here = await bench(tmp_path, CASES["rename/rename with edits"])
    await here.mark("a", "b", "f")
    assert await here.left() == {"a": "markers", "b": "markers"}
    (here.top / "b").unlink()
    put("a", LONG)(here.top)
    assert await here.left() == {}


async def test_markers_in_what_was_renamed_to_the_same_name_are_found(tmp_path: Path) -> None:
    here = await bench(tmp_path, CASES["two renamed to one with edits"])
    await here.mark("n")
    assert await here.left() == {"n": "markers"}
    theirs = here.git("show", next(one.sha for one in here.conflict.stages if one.number == 2))
    assert "<<<<<<<" in theirs, "a side's own stage has markers, which must not count as its own"
    put("n", theirs)(here.top)
    assert await here.left() == {"n": "markers"}


async def test_a_path_that_was_deleted_and_written_again_is_resolved(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    (here.top / "f").unlink()
    await here.mark("f")
    put("f", "anew\n")(here.top)
    await here.mark("f")
    assert await here.left() == {}
    assert "f" in files_of(here.top, await here.tree())


async def test_a_path_that_both_moved_away_is_settled_with_the_others(tmp_path: Path) -> None:
    here = await bench(tmp_path, CASES["rename/rename"])
    assert await here.left() == {"a": "unmerged", "b": "unmerged"}, "nobody could touch f"
    put("f", "back again\n")(here.top)
    assert await here.left() == {"a": "unmerged", "b": "unmerged", "f": "unmerged"}
    (here.top / "f").unlink()
    await here.mark("a")
    assert await unmerged_paths(here.manager, here.worktree) == ("b",)


async def test_paths_that_are_not_unmerged_are_left_alone(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    put("other", "changed\n")(here.top)
    put("new", "new\n")(here.top)
    await here.mark("other", "new", "no such", "../out", "")
    assert here.git("status", "--porcelain").splitlines() == ["UU f", " M other", "?? new"]
    put("f", "resolved\n")(here.top)
    await here.mark("f", "other", "f")
    assert here.git("status", "--porcelain").splitlines() == ["M  f", " M other", "?? new"]


async def test_what_was_moved_or_replaced_by_a_directory_is_gone(tmp_path: Path) -> None:
    here = await bench(
        tmp_path,
        Case(
            [put("f", LONG), put("g", LONG * 2)], [*CONTENT.ours, put("g", "a\n")], [*CONTENT.theirs, put("g", "b\n")]
        ),
    )
    (here.top / "f").rename(here.top / "moved")
    (here.top / "g").unlink()
    put("g/inner", "x\n")(here.top)
    await here.mark("f", "g")
    assert await here.left() == {"moved": "markers"}
    put("moved", "both\n")(here.top)
    assert await here.left() == {}
    assert stages_of(here.top) == set()
    here.git("add", "-A")
    assert here.git("ls-files").split() == ["g/inner", "moved"]


async def test_a_path_beyond_a_link_is_gone_and_what_it_leads_to_is_not_read(tmp_path: Path) -> None:
    name = "d/f"
    here = await bench(tmp_path, Case([put(name, LONG)], [put(name, "a\n")], [put(name, "b\n")]))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("secret\n")
    (here.top / name).unlink()
    (here.top / "d").rmdir()
    (here.top / "d").symlink_to(outside)
    await here.mark(name)
    assert await here.left() == {}
    assert here.git("ls-files", "-s") == ""


async def test_a_pipe_in_the_place_of_a_file_does_not_stop_anything(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    (here.top / "f").unlink()
    os.mkfifo(here.top / "f")
    await asyncio.wait_for(here.mark("f"), 30)
    assert stages_of(here.top) == set()


async def test_a_turn_goes_on_with_what_was_not_resolved_yet(tmp_path: Path) -> None:
    three = case(*([put(name, text) for name in ("f", "g")] for text in (LONG, LONG + "ours\n", LONG + "theirs\n")))
    here = await bench(tmp_path, three)
    put("f", "resolved\n")(here.top)
    await here.mark("f")
    assert await here.left() == {"g": "unmerged"}
    tree = await here.tree()
    here.marked = await here.manager.commit_tree(here.worktree, tree, [here.marked], "later", author=None, date=DATE)
    await here.open(["g", "unknown"])
    assert await unmerged_paths(here.manager, here.worktree) == ("g",)
    assert await here.left() == {"g": "unmerged"}
    assert (here.top / "f").read_text() == "resolved\n"
    await here.reopen([])
    assert await here.left() == {"g": "markers"}


async def test_opening_it_twice_is_the_same_as_once(tmp_path: Path) -> None:
    here = await bench(tmp_path, CASES["mode"])
    once = here.git("ls-files", "-s"), here.git("status", "--porcelain")
    put("f", "begun\n")(here.top)
    here.git("add", "-A")
    await here.open()
    await here.reopen()
    assert (here.git("ls-files", "-s"), here.git("status", "--porcelain")) == once


OPENING = ("conflict-head-set", "conflict-staged", "conflict-described", "conflict-opened")


@pytest.mark.parametrize("point", OPENING)
def test_opening_that_was_killed_is_done_again(tmp_path: Path, point: str) -> None:
    here = asyncio.run(bench(tmp_path, CASES["rename/rename with edits"]))
    whole = here.git("ls-files", "-s"), here.git("status")
    asyncio.run(restore(here.manager, here.worktree, here.marked, session="s1"))
    assert in_a_child(lambda: asyncio.run(here.reopen()), failpoint=point) == -signal.SIGKILL
    asyncio.run(here.open())
    assert (here.git("ls-files", "-s"), here.git("status")) == whole
    refs = git(here.two.top, "for-each-ref", "--format=%(refname)", "refs/orchestra/*/rescue")
    assert refs == "", "nothing lay there that needed to be kept"


@pytest.mark.parametrize("point", ["conflict-paths-removed", "conflict-paths-marked"])
def test_marking_that_was_killed_is_done_again(tmp_path: Path, point: str) -> None:
    here = asyncio.run(bench(tmp_path, CASES["rename/rename"]))
    (here.top / "a").unlink()
    assert in_a_child(lambda: asyncio.run(here.mark("a", "b")), failpoint=point) == -signal.SIGKILL
    asyncio.run(here.mark("a", "b"))
    assert asyncio.run(here.left()) == {}


def _delete(index: Path) -> None:
    index.unlink()


def _empty(index: Path) -> None:
    index.write_bytes(b"")


def _spoil(index: Path) -> None:
    index.write_bytes(b"DIRC" + b"\xff" * 4000)


def _cut(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:60])


def _pipe(index: Path) -> None:
    index.unlink()
    os.mkfifo(index)


def _directory(index: Path) -> None:
    index.unlink()
    index.mkdir()


def _dangle(index: Path) -> None:
    index.unlink()
    index.symlink_to("/dev/zero")


@pytest.mark.parametrize("break_it", [_delete, _empty, _spoil, _cut, _pipe, _directory, _dangle])
async def test_without_a_sound_index_nothing_is_resolved(tmp_path: Path, break_it: object) -> None:
    here = await bench(tmp_path, CASES["rename/rename"])
    put("a", "resolved\n")(here.top)
    tree = await here.tree()
    assert callable(break_it)
    break_it(here.index)
    found = await asyncio.wait_for(unresolved(here.manager, here.worktree, here.conflict, tree), 30)
    assert found == tuple(Unresolved(path, "unmerged") for path in ("a", "b", "f"))
    await asyncio.wait_for(here.mark("a"), 30)
    with pytest.raises(GitError) as caught:
        await asyncio.wait_for(unmerged_paths(here.manager, here.worktree), 30)
    assert caught.value.code == "conflict-index-broken"


@pytest.mark.parametrize("how", [("merge", "--abort"), ("reset", "-q", "--hard"), ("reset", "-q")])
async def test_a_merge_that_was_given_up_is_not_resolved(tmp_path: Path, how: tuple[str, ...]) -> None:
    here = await bench(tmp_path, CONTENT)
    here.git(*how)
    assert here.git("ls-files", "-u") == ""
    assert await here.left() == {"f": "given-up"}


async def test_a_commit_without_the_other_side_resolves_nothing(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    here.git("reset", "-q", "--hard")
    put("f", "both\n")(here.top)
    here.git("commit", "-q", "-a", "-m", "by hand")
    assert await here.left() == {"f": "given-up"}
    here.git("merge", "-q", here.two.theirs, ok=False)
    put("f", "both\n")(here.top)
    here.git("add", "f")
    assert await here.left() == {}
    here.git("commit", "-q", "-m", "merged by hand")
    assert await here.left() == {}


async def test_names_that_lead_out_make_an_index_unsound(tmp_path: Path) -> None:
    here = await bench(tmp_path, case([put("xx/f", LONG)], [put("xx/f", "a\n")], [put("xx/f", "b\n")]))
    content = here.index.read_bytes()[:-20].replace(b"xx/f", b"../f")
    here.index.write_bytes(content + hashlib.sha1(content).digest())  # noqa: S324 - git's own checksum
    assert await here.left() == {"xx/f": "unmerged"}
    await here.mark("../f", "xx/f")
    assert await here.left() == {"xx/f": "unmerged"}


async def test_an_index_that_is_locked_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    put("f", "resolved\n")(here.top)
    lock = here.index.with_name("index.lock")
    lock.touch()
    asyncio.get_running_loop().call_later(0.5, lock.unlink)
    await here.mark("f")
    assert not lock.exists()
    assert await here.left() == {}


async def test_fifty_paths_of_any_name_are_resolved_at_once(tmp_path: Path) -> None:
    names = [*ODD, *(f"d{number % 3}/{name}{number}" for number, name in enumerate(ODD * 6) if name[0] != "-")][:50]
    three = case(*([put(name, text) for name in names] for text in (LONG, LONG + "ours\n", LONG + "theirs\n")))
    here = await bench(tmp_path, three)
    assert len(here.conflict.paths) == 50
    await here.mark(*names[:49])
    assert await here.left() == dict.fromkeys(names[:49], "markers") | {names[49]: "unmerged"}
    for name in names:
        put(name, LONG)(here.top)
    await here.mark(*names)
    assert await here.left() == {}


async def test_a_large_file_costs_no_memory_and_is_searched_to_its_end(tmp_path: Path) -> None:
    body = "x" * 79 + "\n"
    texts = [f"{head}\n{body * 400_000}" for head in ("base", "ours", "theirs")]
    here = await bench(tmp_path, case(*([put("f", text)] for text in texts)))
    await here.mark("f")
    tree = await here.tree()
    tracemalloc.start()
    found = await unresolved(here.manager, here.worktree, here.conflict, tree)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == (Unresolved("f", "markers"),)
    assert peak < 4 << 20


async def test_nobodys_settings_hide_markers(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    for key, value in {
        "color.grep": "always",
        "color.ui": "always",
        "grep.patternType": "fixed",
        "grep.lineNumber": "true",
        "grep.fullName": "true",
    }.items():
        git(here.two.top, "config", key, value)
    await here.mark("f")
    assert await here.left() == {"f": "markers"}


async def test_submodules_are_resolved_in_the_index_alone(tmp_path: Path) -> None:
    here = await bench(tmp_path, CASES["submodule"])
    assert await here.left() == {"s": "unmerged"}
    await here.mark("s")
    assert await here.left() == {"s": "unmerged"}, "an empty directory says nothing"
    await adopt_submodules(here.manager, here.worktree, here.conflict)
    assert await here.left() == {"s": "unmerged"}
    here.git("reset", "-q", "MERGE_HEAD", "--", "s")
    await adopt_submodules(here.manager, here.worktree, here.conflict)
    assert await here.left() == {}
    assert files_of(here.top, await here.tree())["s"] == f"160000 commit {'3' * 40}"
    here.git("rm", "-q", "--cached", "s")
    await adopt_submodules(here.manager, here.worktree, here.conflict)
    assert await here.left() == {}
    assert "s" not in files_of(here.top, await here.tree())


async def test_a_submodule_against_a_file_is_resolved_by_the_file(tmp_path: Path) -> None:
    here = await bench(tmp_path, CASES["submodule/file"])
    (here.top / "s").rmdir()
    (here.top / "s~writer-b").rename(here.top / "s")
    await here.mark("s", "s~writer-b")
    await adopt_submodules(here.manager, here.worktree, here.conflict)
    assert await here.left() == {}
    assert files_of(here.top, await here.tree())["s"].startswith("100644 blob")


async def test_a_checked_out_submodule_is_resolved_by_its_commit(tmp_path: Path) -> None:
    here = await bench(tmp_path, CASES["submodule"])
    git(here.top / "s", "init", "-q")
    git(here.top / "s", "commit", "-q", "--allow-empty", "-m", "inner")
    await here.mark("s")
    assert await here.left() == {}
    await adopt_submodules(here.manager, here.worktree, here.conflict)
    inner = git(here.top / "s", "rev-parse", "HEAD")
    assert files_of(here.top, await here.tree())["s"] == f"160000 commit {inner}"


async def test_a_conflict_of_a_sha256_repository_is_opened_and_resolved(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT, "--object-format=sha256")
    assert await here.left() == {"f": "unmerged"}
    put("f", LONG)(here.top)
    here.git("add", "f")
    here.git("commit", "-q", "-m", "resolved")
    assert await here.left() == {}


async def test_putting_files_back_ends_the_conflict(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    await restore(here.manager, here.worktree, here.two.ours, session="s1")
    assert here.git("status", "--porcelain") == ""
    assert not list(here.worktree.git_dir.glob("MERGE_*"))
    assert not (here.worktree.git_dir / "orchestra.conflict").exists()


async def test_hooks_and_clean_filters_of_others_do_not_run(tmp_path: Path) -> None:
    here = await bench(tmp_path, CONTENT)
    mark = tmp_path / "ran"
    (here.two.top / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-index-change", "reference-transaction", "pre-commit"):
        path = here.two.top / ".git/hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
        path.chmod(0o755)
    git(here.two.top, "config", "core.fsmonitor", f"touch '{mark}'; false")
    await here.open()
    await here.mark("f")
    assert await here.left() == {"f": "markers"}
    assert not mark.exists()
