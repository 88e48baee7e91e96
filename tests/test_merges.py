from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import GitError
from orchestra.runtime.git import GitManager
from orchestra.runtime.merges import Conflict, merge_commits, merge_trees, safe_labels
from orchestra.runtime.serializer import StrictSerializer
from orchestra.runtime.snapshots import remove_scratch
from orchestra.runtime.worktree import WorktreeManager
from tests.gitkit import DATE, ENV, assert_sound, files_of, fingerprint, git, make_repo, show
from tests.mergekit import CASES, LABELS, LONG, Case, Sides, Stages, move, put, remove, sides
from tests.session_support import in_a_child

if TYPE_CHECKING:
    from orchestra.runtime.git import Repository


@pytest.fixture
def manager() -> GitManager:
    return GitManager(durable=False)


async def merged(manager: GitManager, two: Sides, labels: tuple[str, str] = LABELS) -> str | Conflict:
    repo = await manager.open("backend", two.top)
    return await merge_trees(manager, repo, two.ours, two.theirs, labels=labels, session="s1")


async def conflict_of(manager: GitManager, two: Sides, labels: tuple[str, str] = LABELS) -> Conflict:
    found = await merged(manager, two, labels)
    assert isinstance(found, Conflict)
    return found


@pytest.mark.parametrize("name", CASES)
async def test_git_and_orchestra_agree_on_what_conflicts(manager: GitManager, tmp_path: Path, name: str) -> None:
    two = sides(tmp_path / "repo", CASES[name])
    before = fingerprint(two.top)
    conflict = await conflict_of(manager, two)
    assert {one.path: one.kind for one in conflict.paths} == CASES[name].kinds
    assert [one.path for one in conflict.paths] == sorted({stage.path for stage in conflict.stages})
    assert fingerprint(two.top) == before
    found = {(one.mode, one.sha, one.number, one.path) for one in conflict.stages}
    merged = name.endswith("with edits")
    assert unlabelled(two.plain_merge(), merged=merged) == unlabelled(found, merged=merged)
    if not name.startswith("submodule"):  # their made-up commits are nowhere
        assert_sound(two.top)


def unlabelled(stages: Stages, *, merged: bool) -> Stages:
    """Git names a file that it had to move after its side; `merged`: there are markers in the stages themselves."""
    return {(mode, "" if merged else sha, number, path.partition("~")[0]) for mode, sha, number, path in stages}


async def test_markers_name_the_sides(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", CASES["content"])
    conflict = await conflict_of(manager, two, ("join of api", "writer-b"))
    text = show(two.top, conflict.tree, "f").splitlines()
    marks = [line for line in text if line[0] in "<=>|"]
    assert marks == ["<<<<<<< join-of-api", "=======", ">>>>>>> writer-b"]


@pytest.mark.parametrize(
    "label", ["HEAD", "config", "objects", "refs", "-d", "a/../../b", "", "@{-1}", "f" * 40, "é\n"]
)
async def test_no_label_leads_git_elsewhere(manager: GitManager, tmp_path: Path, label: str) -> None:
    two = sides(tmp_path / "repo", CASES["content"])
    usual = await conflict_of(manager, two)
    conflict = await conflict_of(manager, two, (label, label))
    assert conflict.stages == usual.stages
    names = safe_labels((label, label))
    assert f"<<<<<<< {names[0]}\n" in show(two.top, conflict.tree, "f")
    assert f">>>>>>> {names[1]}\n" in show(two.top, conflict.tree, "f")


async def test_a_merge_is_the_same_each_time(manager: GitManager, tmp_path: Path) -> None:
    for name in ("content", "mode", "rename/rename with edits"):
        two = sides(tmp_path / name.replace("/", "-"), CASES[name])
        assert await merged(manager, two) == await merged(GitManager(), two)


async def test_what_does_not_conflict_is_a_tree(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", Case([put("f", LONG)], [put("f", LONG + "last\n")], [put("f", "first\n" + LONG)]))
    tree = await merged(manager, two)
    assert isinstance(tree, str)
    assert show(two.top, tree, "f") == f"first\n{LONG}last"


async def test_merge_commits_have_both_parents_and_are_made_again_the_same(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", Case([put("f", LONG)], [put("a", "a\n")], [put("b", "b\n")]))
    repo = await manager.open("backend", two.top)

    async def merge(ours: str, theirs: str) -> str | Conflict:
        how = {"message": "Merge\n", "author": "joiner", "date": DATE, "labels": LABELS, "session": "s1"}
        return await merge_commits(manager, repo, ours, theirs, **how)  # type: ignore[arg-type]

    commit = await merge(two.ours, two.theirs)
    assert commit == await merge(two.ours, two.theirs)
    assert isinstance(commit, str)
    assert (
        git(two.top, "log", "-1", "--format=%P|%an|%cn|%s", commit) == f"{two.ours} {two.theirs}|joiner|orchestra|Merge"
    )
    assert sorted(files_of(two.top, commit)) == ["a", "b", "f"]
    assert await merge(two.base, two.ours) == two.ours, "a fast-forward"
    assert await merge(two.ours, two.base) == two.ours, "already up to date"
    assert await merge(two.ours, two.ours) == two.ours
    assert await merge(commit, two.theirs) == commit


async def test_unrelated_histories_are_an_error_and_no_conflict(manager: GitManager, tmp_path: Path) -> None:
    top = make_repo(tmp_path / "repo")
    ours = git(top, "rev-parse", "HEAD")
    git(top, "checkout", "-q", "--orphan", "other")
    git(top, "commit", "-q", "-m", "another beginning")
    theirs = git(top, "rev-parse", "HEAD")
    repo = await manager.open("backend", top)
    with pytest.raises(GitError, match="no common ancestor") as caught:
        await merge_trees(manager, repo, ours, theirs, labels=LABELS, session="s1")
    assert caught.value.code == "unrelated-histories"
    how = {"message": "m", "author": None, "date": DATE, "labels": LABELS, "session": "s1"}
    with pytest.raises(GitError, match="no common ancestor"):
        await merge_commits(manager, repo, ours, theirs, **how)  # type: ignore[arg-type]


async def test_a_commit_that_is_not_there_is_an_error(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", CASES["content"])
    repo = await manager.open("backend", two.top)
    with pytest.raises(GitError, match=str(two.top / ".git")) as caught:
        await merge_trees(manager, repo, two.ours, "0123456789" * 4, labels=LABELS, session="s1")
    assert caught.value.code == "commit-missing"
    blob = git(two.top, "rev-parse", f"{two.theirs}:f")
    (two.top / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(GitError, match=str(two.top)) as caught:
        await merge_trees(manager, repo, two.ours, two.theirs, labels=LABELS, session="s1")
    assert caught.value.code == "corrupt-object"


EVIL = "touch {mark}; cp %B %A; exit 0"


@pytest.mark.parametrize("place", ["repository", "global", "worktree"])
async def test_a_configured_merge_driver_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    content = CASES["content"]
    case = Case([put(".gitattributes", "* merge=evil\n"), *content.base], content.ours, content.theirs)
    two = sides(tmp_path / "repo", case)
    mark = tmp_path / "ran"
    settings = tmp_path / "gitconfig"
    where = {"repository": ("--local",), "global": ("--file", str(settings)), "worktree": ("--local",)}[place]
    for key in ("evil", "default", "text"):
        git(two.top, "config", *where, f"merge.{key}.driver", EVIL.format(mark=mark))
    git(two.top, "config", *where, "merge.default", "evil")
    (two.top / ".git/info/attributes").write_text("* merge=evil\n")
    if place == "global":
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    manager = GitManager(durable=False)
    repo = await manager.open("backend", two.top)
    at = await WorktreeManager(manager, "s1").ensure(repo, "w", two.ours) if place == "worktree" else repo
    found = await merge_trees(manager, at, two.ours, two.theirs, labels=LABELS, session="s1")
    assert isinstance(found, Conflict), "a driver that could not run took a side"
    assert not mark.exists()
    git(two.top, "checkout", "-q", "ours")
    global_settings = {"GIT_CONFIG_GLOBAL": str(settings)} if place == "global" else {}
    git(two.top, "merge", "-q", "-m", "m", "theirs", ok=False, **global_settings)
    assert mark.exists(), "the driver would not have run anyway"


async def test_hooks_and_signing_never_run(tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", Case([put("f", LONG)], [put("a", "a\n")], [put("b", "b\n")]))
    mark = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\nexit 1\n")
    program.chmod(0o755)
    for hook in ("post-merge", "pre-merge-commit", "prepare-commit-msg", "commit-msg", "reference-transaction"):
        (two.top / ".git/hooks").mkdir(exist_ok=True)
        (two.top / ".git/hooks" / hook).symlink_to(program)
    for key, value in {"commit.gpgSign": "true", "gpg.program": str(program), "core.fsmonitor": str(program)}.items():
        git(two.top, "config", key, value)
    manager = GitManager(durable=False)
    repo = await manager.open("backend", two.top)
    how = {"message": "m", "author": None, "date": DATE, "labels": LABELS, "session": "s1"}
    assert isinstance(await merge_commits(manager, repo, two.ours, two.theirs, **how), str)  # type: ignore[arg-type]
    assert not mark.exists()


SETTINGS = {
    "merge.conflictStyle": "diff3",
    "merge.renames": "false",
    "diff.renames": "false",
    "merge.renormalize": "true",
    "diff.algorithm": "patience",
    "merge.directoryRenames": "false",
    "core.quotePath": "true",
}


@pytest.mark.parametrize("name", ["content", "rename/delete", "file location", "odd names"])
async def test_nobodys_settings_change_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    two = sides(tmp_path / "repo", CASES[name])
    usual = await conflict_of(GitManager(durable=False), two)
    for key, value in SETTINGS.items():
        git(two.top, "config", key, value)
    (two.top / ".git/info/attributes").write_text("* merge=union conflict-marker-size=3\n")
    (tmp_path / "git").mkdir()
    (tmp_path / "git/attributes").write_text("* merge=union\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (two.top / ".gitattributes").write_text("* merge=union\n")  # of the checkout, which is in neither commit
    assert await conflict_of(GitManager(durable=False), two) == usual


async def test_attributes_of_the_repository_count(manager: GitManager, tmp_path: Path) -> None:
    attributes = put(
        ".gitattributes",
        "*.log merge=union\n*.lock -merge\nsize conflict-marker-size=12\nmini conflict-marker-size=2\n",
    )
    deep = put("deep/.gitattributes", "[broken\nnotes merge=union\n")
    files = ("a.log", "deep/notes", "b.lock", "size", "mini")
    two = sides(
        tmp_path / "repo",
        Case(
            [attributes, deep, *(put(name, LONG) for name in files)],
            [put(name, LONG.replace("line 5", "ours")) for name in files],
            [put(name, LONG.replace("line 5", "theirs")) for name in files],
        ),
    )
    conflict = await conflict_of(manager, two)
    assert {one.path: one.kind for one in conflict.paths} == {"b.lock": "binary", "size": "content", "mini": "content"}
    assert "ours\ntheirs\n" in show(two.top, conflict.tree, "a.log")
    assert "ours\ntheirs\n" in show(two.top, conflict.tree, "deep/notes")
    assert "<<<<" not in show(two.top, conflict.tree, "b.lock")
    assert f"\n{'<' * 12} writer-a\n" in show(two.top, conflict.tree, "size")
    assert "\n<<<<<<< writer-a\n" in show(two.top, conflict.tree, "mini"), "markers that small are no markers"


async def test_attributes_that_are_links_or_lead_out_are_not_written(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", CASES["content"])
    blob = git_reading(two.top, "* merge=union\n", "hash-object", "-w", "--stdin")
    tree = git_reading(two.top, f"100644 blob {blob}\t.gitattributes\n", "mktree")
    up = git_reading(two.top, f"040000 tree {tree}\t..\n", "mktree")
    link = f"120000 blob {blob}\t.gitattributes\n040000 tree {up}\t..\n"
    evil = git_reading(two.top, f"{link}{git(two.top, 'ls-tree', two.ours)}\n", "mktree")
    commit = git(two.top, "commit-tree", "-p", two.base, "-m", "evil", evil)
    repo = await manager.open("backend", two.top)
    found = await merge_trees(manager, repo, commit, two.theirs, labels=LABELS, session="s1")
    assert isinstance(found, Conflict), "a link is no attributes"
    assert [path.name for path in (two.top / ".orchestra").iterdir()] == [".gitignore"]


def git_reading(top: Path, text: str, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=top, env=ENV, input=text, capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def test_a_directory_renamed_to_two_places_leaves_nothing_to_resolve(manager: GitManager, tmp_path: Path) -> None:
    base = [put("d/a", LONG), put("d/b", LONG.replace("line", "row"))]
    two = sides(tmp_path / "repo", Case(base, [move("d/a", "e/a"), move("d/b", "g/b")], [put("d/c", "new\n")]))
    tree = await merged(manager, two)
    assert isinstance(tree, str)
    assert sorted(files_of(two.top, tree)) == ["d/c", "e/a", "g/b"]


@pytest.mark.parametrize("place", ["repository", "worktree"])
async def test_no_index_no_head_and_no_ref_is_touched(manager: GitManager, tmp_path: Path, place: str) -> None:
    two = sides(tmp_path / "repo", CASES["mode"])
    repo = await manager.open("backend", two.top)
    worktree = await WorktreeManager(manager, "s1").ensure(repo, "w", two.ours)
    (two.top / "f").write_text("not committed\n")
    (worktree.path / "f").write_text("not committed\n")
    before = state_of(two.top), state_of(worktree.path), git(two.top, "for-each-ref"), fingerprint(two.top)
    await merge_trees(
        manager, repo if place == "repository" else worktree, two.ours, two.theirs, labels=LABELS, session="s1"
    )
    assert (state_of(two.top), state_of(worktree.path), git(two.top, "for-each-ref"), fingerprint(two.top)) == before
    assert list((two.top / ".orchestra").glob("scratch*")) == []


def state_of(top: Path) -> dict[str, object]:
    git_dir = Path(git(top, "rev-parse", "--absolute-git-dir"))
    files = {path.name: path.read_bytes() for path in git_dir.iterdir() if path.is_file()}
    return {"status": git(top, "status", "--porcelain"), **files}


async def test_a_bare_repository_can_be_merged_in(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", CASES["content"])
    git(tmp_path, "clone", "-q", "--bare", str(two.top), "bare.git")
    repo = await manager.open("backend", tmp_path / "bare.git")
    found = await merge_trees(manager, repo, two.ours, two.theirs, labels=LABELS, session="s1")
    assert found == await merged(manager, two)


async def test_a_shallow_clone_is_merged_to_its_depth(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", CASES["content"])
    git(two.top, "checkout", "-q", "ours")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{two.top}", "shallow")
    top = tmp_path / "shallow"
    base = git(top, "rev-parse", "HEAD")
    one, other = (git(top, "commit-tree", "-p", base, "-m", "m", f"{base}^{{tree}}") for _ in range(2))
    repo = await manager.open("backend", top)
    assert await merge_trees(manager, repo, one, other, labels=LABELS, session="s1") == git(top, "rev-parse", "HEAD:")


async def test_a_sha256_repository_is_merged(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", CASES["content"], "--object-format=sha256")
    conflict = await conflict_of(manager, two)
    assert len(conflict.tree) == 64
    assert [one.kind for one in conflict.paths] == ["content"]


async def test_objects_of_a_shared_repository_can_be_written_by_its_group(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", CASES["content"], "--shared=group")
    before = set((two.top / ".git/objects").iterdir())
    conflict = await conflict_of(manager, two)
    new = set((two.top / ".git/objects").iterdir()) - before
    assert {oct(path.stat().st_mode & 0o020) for path in new} == {"0o20"}, conflict


async def test_a_conflict_survives_the_checkpoint(manager: GitManager, tmp_path: Path) -> None:
    for name in ("odd names", "rename/rename with edits"):
        conflict = await conflict_of(manager, sides(tmp_path / name.split("/")[0], CASES[name]))
        serializer = StrictSerializer()
        again = serializer.loads_typed(serializer.dumps_typed(conflict.as_json()))
        assert Conflict.from_json(again) == conflict
        assert Conflict.from_json(json.loads(json.dumps(conflict.as_json()))) == conflict


def test_what_a_killed_merge_left_is_in_nobodys_way(manager: GitManager, tmp_path: Path) -> None:
    two = sides(tmp_path / "repo", CASES["content"])
    code = in_a_child(lambda: asyncio.run(merged(manager, two)), failpoint="merge-prepared")
    assert code == -signal.SIGKILL
    assert len(list((two.top / ".orchestra").glob("scratch-s1-*"))) == 1
    again = asyncio.run(merged(manager, two))
    assert again == asyncio.run(merged(GitManager(durable=False), two))
    assert git(two.top, "status", "--porcelain") == ""
    remove_scratch(asyncio.run(manager.open("backend", two.top)), "s1")
    assert list((two.top / ".orchestra").glob("scratch*")) == []


async def test_fifty_files_conflict_at_once(manager: GitManager, tmp_path: Path) -> None:
    names = [f"d{number % 7}/f{number:02}" for number in range(50)]
    two = sides(
        tmp_path / "repo",
        Case([put(n, LONG) for n in names], [put(n, LONG + "ours\n") for n in names], [remove(n) for n in names]),
    )
    conflict = await conflict_of(manager, two)
    assert [one.path for one in conflict.paths] == sorted(names)
    assert {one.kind for one in conflict.paths} == {"modify/delete"}


async def test_the_number_of_git_processes_is_small(
    manager: GitManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = sides(tmp_path / "repo", CASES["content"])
    repo: Repository = await manager.open("backend", two.top)
    started = []
    run = GitManager.run

    async def counted(self: GitManager, *args: object, **kwargs: object) -> object:
        started.append(args[1])
        return await run(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(GitManager, "run", counted)
    await merge_trees(manager, repo, two.ours, two.theirs, labels=LABELS, session="s1")
    assert started == ["ls-tree", "merge-tree"]
