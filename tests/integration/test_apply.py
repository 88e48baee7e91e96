"""`apply`: the result comes into the user's checkouts as uncommitted changes, in all repos or in none."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import OrchestraError, RefusedError, SessionBusyError
from orchestra.runtime.applying import apply
from orchestra.runtime.driver_lock import DriverLock
from orchestra.runtime.store import Status, find_session
from tests.applykit import (
    FILES,
    SESSION,
    add_checkpoint,
    codes,
    edits,
    ended,
    own_side,
    refusal,
    side,
    states,
    tree_of_files,
)
from tests.gitkit import ENV, assert_sound, git, make_repo, write
from tests.session_support import agent, chain, in_a_child, says, writes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.applykit import Ended
    from tests.conftest import Workshop

HOOKS = ("post-index-change", "post-checkout", "reference-transaction", "pre-commit", "post-merge")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "app", FILES)


# --- sessions of agents, by the command line ---


async def test_a_result_in_two_repos_comes_as_uncommitted_changes_and_goes_again(
    workshop: Workshop, tmp_path: Path
) -> None:
    app, lib = workshop.repo.path, make_repo(tmp_path / "lib", {"lib.py": "y = 1\n"})
    write(app, {"docs/notes.md": "# Notes\nmine\n", "untracked.txt": "mine\n"})
    tools = [f"{repo}:{tool}" for repo in ("app", "lib") for tool in ("write-file", "delete-file")]
    replies = [
        writes("app.py", "x = 2\n", name="app:write-file"),
        writes("new/\x1b[31mfile.py", "z = 1\n", name="lib:write-file"),
        {"tools": [{"name": "lib:delete-file", "args": {"path": "lib.py"}}]},
        says("done"),
    ]
    path = workshop.pipeline(
        {
            "name": "duo",
            "agents": {"writer": agent(tools=tools), "other": agent()},
            "graph": chain("writer", "other"),
            "workspace": {"repos": {"app": {"path": str(app)}, "lib": {"path": str(lib)}}},
        },
        script={"writer": [replies], "other": [[says("hm", delay=0), says("x")]]},
    )
    session = (await workshop.run(path)).record.session_id
    before = own_side(app), own_side(lib)

    dry = await apply(find_session(app, session), dry_run=True)
    assert (git(app, "diff", "--name-only"), git(lib, "status", "--short")) == ("docs/notes.md", "")
    done = workshop.cli("apply", session)

    assert done.returncode == 0, done.stderr
    assert git(app, "status", "--short").splitlines() == [" M app.py", " M docs/notes.md", "?? untracked.txt"]
    assert git(lib, "status", "--short").splitlines() == [" D lib.py", "?? new/"]
    assert [repo.rescue for repo in dry.repos.values()] == [None, None]
    assert [os.fsdecode(change.path) for change in dry.repos["lib"].changes] == ["lib.py", "new/\x1b[31mfile.py"]
    assert "\x1b" not in done.stdout
    assert f"app: applied to {app}, not committed\n  M app.py  +1 -1\n" in done.stdout
    undo = [line.removeprefix("undo with: ") for line in done.stdout.splitlines() if line.startswith("undo with: ")]

    for command in undo:
        await asyncio.to_thread(subprocess.run, ["sh", "-c", command], env=ENV, check=True)
    assert git(app, "status", "--short").splitlines() == [" M docs/notes.md", "?? untracked.txt"]
    assert git(lib, "status", "--short") == ""
    assert (own_side(app).keys(), own_side(lib).keys()) == (before[0].keys(), before[1].keys())
    assert_sound(app)
    assert_sound(lib)


async def test_what_a_session_has_before_an_open_conflict_is_applied_without_markers(workshop: Workshop) -> None:
    from tests.integration.test_joins import CLASH, MEET, team

    human = [MEET[0], {**MEET[1], "on_conflict": "human"}, MEET[2]]
    paused = await workshop.run(team(workshop, {**CLASH, "t": [[says("done")]]}, human))
    assert paused.record.status == "paused"

    done = workshop.cli("apply", paused.record.session_id, "--json")

    assert done.returncode == 0, done.stderr
    assert "the session is paused, not completed" in done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["recovered"], document["branch"]) == ("paused", None, None)
    repo = document["repos"]["repo"]
    assert repo.keys() == {"path", "state", "commit", "changed", "rescue"}
    assert "<<<<" not in (workshop.repo.path / "app.py").read_text()


# --- the user's own work ---


def a_dirty_checkout(top: Path) -> None:
    """Uncommitted work of every kind."""
    write(top, {"staged.txt": "1\n", "both.txt": "1\n", "gone.txt": "1\n", "old-name.txt": "long enough to follow\n"})
    write(top, {"run.sh": "#!/bin/sh\n", "hidden.txt": "1\n", "link-to.txt": "1\n", ".gitignore": "*.log\n"})
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "more")
    (top / "link").symlink_to("a.txt")
    write(top, {"staged.txt": "2\n", "both.txt": "2\n"})
    git(top, "add", "staged.txt", "both.txt")
    write(top, {"both.txt": "3\n", "new.txt": "new\n", "intended.txt": "i\n", "debug.log": "ignored\n"})
    git(top, "add", "--intent-to-add", "intended.txt")
    git(top, "mv", "old-name.txt", "new-name.txt")
    (top / "gone.txt").unlink()
    (top / "run.sh").chmod(0o755)
    git(top, "update-index", "--assume-unchanged", "hidden.txt")
    write(top, {"hidden.txt": "2\n"})


async def test_uncommitted_work_of_every_kind_stays_as_it_is(app: Path, tmp_path: Path) -> None:
    a_dirty_checkout(app)

    def work(top: Path) -> None:
        write(top, {"src/c.py": "1\n2\n3\n4\n5\n6\n7\n8\nnine\n", "made/by/agents.txt": "made\n", "both.txt": "4\n"})
        (top / "b.txt").unlink()
        (top / "a.txt").chmod(0o755)
        (top / "made/link").symlink_to("b.txt")
        (top / "made/bytes").write_bytes(bytes(range(256)))

    session = await ended(tmp_path, {"app": (app, work)})
    write(app, {"src/c.py": "one\n2\n3\n4\n5\n6\n7\n8\n9\n", "later.txt": "later\n"})  # since the session started
    git(app, "add", "later.txt")
    before, files = own_side(app), await tree_of_files(app)
    for hook in HOOKS:
        (app / ".git/hooks" / hook).write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
        (app / ".git/hooks" / hook).chmod(0o755)

    applied = await apply(session.files)

    assert (app / "src/c.py").read_text() == "one\n2\n3\n4\n5\n6\n7\n8\nnine\n"
    assert not (app / "b.txt").exists()
    assert (app / "made/by/agents.txt").read_text() == "made\n"
    assert (app / "made/link").readlink().name == "b.txt"
    assert (app / "made/bytes").read_bytes() == bytes(range(256))
    assert os.access(app / "a.txt", os.X_OK)
    assert (app / "both.txt").read_text() == "4\n"
    assert (app / "debug.log").read_text() == "ignored\n"
    changed = set(git(app, "diff-tree", "-r", "--name-only", files, await tree_of_files(app)).splitlines())
    made = {"made/by/agents.txt", "made/bytes", "made/link"}
    assert changed == {os.fsdecode(change.path) for change in applied.repos["app"].changes}
    assert changed == {"a.txt", "b.txt", "both.txt", "src/c.py"} | made
    after = own_side(app)
    assert {path: after.get(path) for path in before} == before  # the index among it, byte for byte
    rescue = applied.repos["app"].rescue
    assert git(app, "rev-parse", f"{rescue}^{{tree}}") == files
    assert not (tmp_path / "hooked").exists()
    assert_sound(app)


async def test_what_is_applied_already_is_left_alone(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "two\n", ".gitignore": "*.log\n", "x.log": "x\n"}))})
    await apply(session.files)
    before, refs = side(app), git(app, "for-each-ref")

    assert states(await apply(session.files)) == {"app": "already-applied"}
    assert (side(app), git(app, "for-each-ref")) == (before, refs)


async def test_a_session_that_has_gone_on_is_applied_from_where_it_was(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "two\n", "x.txt": "1\n2\n"}))}, status=Status.PAUSED)
    await apply(session.files)
    session.goes_on("app", edits({"a.txt": "three\n"}, "x.txt"))

    assert states(await apply(session.files)) == {"app": "applied"}
    assert (app / "a.txt").read_text() == "three\n"
    assert not (app / "x.txt").exists()


async def test_what_the_user_took_back_is_brought_again(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "two\n", "x.txt": "x\n"}))})
    await apply(session.files)
    git(app, "checkout", "-q", "a.txt")
    session.goes_on("app", edits({"b.txt": "more\n"}))

    await apply(session.files)

    assert (app / "a.txt").read_text() == "two\n"
    assert (app / "b.txt").read_text() == "more\n"


async def test_line_ends_and_filters_are_those_of_the_checkout(app: Path, tmp_path: Path) -> None:
    git(app, "config", "core.autocrlf", "true")
    git(app, "config", "filter.rot.clean", "tr a-z n-za-m")
    git(app, "config", "filter.rot.smudge", "tr a-z n-za-m")
    git(app, "config", "filter.rot.required", "true")
    (app / "a.txt").write_bytes(b"one\r\ntwo\r\n")
    write(app, {".gitattributes": "*.secret filter=rot -text\n"})
    git(app, "add", "-A")
    git(app, "commit", "-q", "-m", "odd")
    session = await ended(tmp_path, {"app": (app, edits({}))})

    def raw(top: Path) -> None:
        (top / "a.txt").write_bytes(b"one\r\nTWO\r\n")
        (top / "k.secret").write_text("hello")

    session.goes_on("app", raw)
    git(app, "config", "filter.rot.smudge", 'tr a-z n-za-m; test "$GIT_LFS_SKIP_SMUDGE" = 0')

    await apply(session.files)

    assert (app / "a.txt").read_bytes() == b"one\r\nTWO\r\n"
    assert (app / "k.secret").read_text() == "hello"
    assert git(app, "status", "--short").splitlines() == [" M a.txt", "?? k.secret"]


@pytest.mark.parametrize("how", [("--cone", "--sparse-index"), ("--no-cone",)])
async def test_a_sparse_checkout_stays_sparse_and_shows_every_change(
    app: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    write(app, {"src/d.py": "d\n", "lib/e.py": "e\n", "lib/f.py": "f\n"})
    git(app, "add", "-A")
    git(app, "commit", "-q", "-m", "more")
    git(app, "sparse-checkout", "set", *how, "/src/" if "--no-cone" in how else "src")
    session = await ended(tmp_path, {"app": (app, edits({"lib/e.py": "E\n", "lib/new.py": "n\n"}))})

    await apply(session.files)

    assert git(app, "status", "--short").splitlines() == [" M lib/e.py", "?? lib/new.py"]
    assert not (app / "lib/f.py").exists()
    session.goes_on("app", edits({}, "lib/f.py"))
    assert codes(await refusal(session)) == ["apply-sparse"]


# --- where it is refused as a whole ---


async def test_every_reason_is_told_at_once_and_no_repo_is_touched(app: Path, tmp_path: Path) -> None:
    lib, moved = make_repo(tmp_path / "lib", FILES), make_repo(tmp_path / "moved", FILES)
    work = edits({"a.txt": "theirs\n", "b.txt": "B\n", "c.log": "log\n"})
    session = await ended(tmp_path, {"app": (app, work), "lib": (lib, work), "moved": (moved, work)})
    write(app, {"a.txt": "mine\n"})
    (lib / ".git/info/exclude").write_text("*.log\n/.orchestra/\n")
    write(lib, {"c.log": "mine\n"})
    shutil.move(moved, tmp_path / "elsewhere")

    assert codes(await refusal(session)) == ["repo-moved"]
    shutil.move(tmp_path / "elsewhere", moved)
    told = await refusal(session, repos=["app", "lib", "nonsense"])
    assert codes(told) == ["unknown-repo"]
    told = await refusal(session)
    assert codes(told) == ["apply-conflict", "apply-in-the-way"]
    assert "'a.txt' (content)" in told.problems[0].message
    assert "'c.log'" in told.problems[1].message

    assert states(await apply(session.files, repos=["moved"])) == {"moved": "applied"}


def an_ignored_link(top: Path, outside: Path) -> None:
    (top / "dir.log").symlink_to(outside)


def a_nested_repository(top: Path, outside: Path) -> None:
    make_repo(top / "dir.log", {"own.txt": "own\n"})


def an_ignored_file_for_a_directory(top: Path, outside: Path) -> None:
    write(top, {"dir.log": "mine\n"})


def an_ignored_file_there(top: Path, outside: Path) -> None:
    write(top, {"dir.log/made.txt": "mine\n"})


@pytest.mark.parametrize(
    "put", [an_ignored_link, a_nested_repository, an_ignored_file_for_a_directory, an_ignored_file_there]
)
async def test_what_git_does_not_track_is_never_overwritten_or_written_through(
    app: Path, tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    write(app, {".gitignore": "*.log\n"})
    outside = tmp_path / "outside"
    outside.mkdir()
    session = await ended(tmp_path, {"app": (app, edits({"dir.log/made.txt": "made\n", "a.txt": "two\n"}))})
    put(app, outside)

    assert codes(await refusal(session)) == ["apply-in-the-way"]
    assert list(outside.iterdir()) == []


async def test_ignored_files_in_a_directory_that_becomes_a_file_are_kept(app: Path, tmp_path: Path) -> None:
    write(app, {".gitignore": "*.log\n", "src/debug.log": "mine\n"})
    session = await ended(tmp_path, {"app": (app, edits({"src": "f"}, "src"))})

    assert "src/debug.log" in (await refusal(session)).message


async def test_hostile_paths_of_a_result_are_refused(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({}))})
    whole = git(app, "rev-parse", "HEAD^{tree}")
    below = git(app, "rev-parse", "HEAD:src")
    for name in (".git", ".GIT", "git~1", ".git ", ".g\u200cit", "..", ".orchestra"):
        listing = f"{git(app, 'ls-tree', whole)}\n040000 tree {below}\t{name}\n"
        command = ["git", "mktree"]
        made = await asyncio.to_thread(
            subprocess.run, command, cwd=app, env=ENV, input=listing, capture_output=True, text=True, check=True
        )
        result = git(app, "commit-tree", made.stdout.strip(), "-p", session.bases["app"], "-m", "hostile")
        add_checkpoint(session.files, {"app": result})

        assert "apply-unsafe-path" in codes(await refusal(session)), name


async def test_a_link_that_leads_out_is_told_and_nothing_is_written_through_it(app: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside, {"c.py": "outside\n"})

    def work(top: Path) -> None:
        write(top, {"src/c.py": "agents\n"})
        (top / "src/up").symlink_to("../../..")

    session = await ended(tmp_path, {"app": (app, work)})
    applied = await apply(session.files, dry_run=True)
    assert applied.repos["app"].links_out == {"src/up": "../../.."}

    shutil.rmtree(app / "src")  # the user has put a link in the place of a directory
    (app / "src").symlink_to(outside)
    assert codes(await refusal(session)) == ["apply-conflict"]
    assert (outside / "c.py").read_text() == "outside\n"


async def test_a_moved_submodule_is_refused_and_the_users_own_stays(app: Path, tmp_path: Path) -> None:
    inner = make_repo(tmp_path / "inner", {"i.txt": "i\n"})
    git(app, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "sub")
    git(app, "commit", "-q", "-m", "submodule")
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "two\n"}))})
    git(app / "sub", "commit", "-q", "--allow-empty", "-m", "the user's")
    head = git(app / "sub", "rev-parse", "HEAD")
    assert states(await apply(session.files)) == {"app": "applied"}
    assert git(app / "sub", "rev-parse", "HEAD") == head

    session.goes_on("app", edits({}, "sub"))
    assert "apply-conflict" in codes(await refusal(session))
    git(app / "sub", "reset", "-q", "--hard", "HEAD~1")
    assert codes(await refusal(session)) == ["apply-submodule"]


async def test_names_that_differ_in_case_alone_are_refused_where_they_would_be_one_file(
    app: Path, tmp_path: Path
) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"A.TXT": "other\n"}))})
    git(app, "config", "core.ignorecase", "true")

    assert codes(await refusal(session)) == ["apply-case-clash"]


async def test_a_checkout_in_the_middle_of_a_merge_is_refused(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"b.txt": "B\n"}))})
    git(app, "switch", "-q", "-c", "other")
    write(app, {"a.txt": "other\n"})
    git(app, "commit", "-q", "-a", "-m", "other")
    git(app, "switch", "-q", "main")
    write(app, {"a.txt": "main\n"})
    git(app, "commit", "-q", "-a", "-m", "main")
    git(app, "merge", "other", ok=False)

    assert codes(await refusal(session)) == ["operation-in-progress"]
    assert states(await apply(session.files, branch="result")) == {"app": "branched"}


async def test_a_result_whose_objects_are_gone_is_refused(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "two\n", "new.txt": "new\n"}))})
    blob = git(app, "rev-parse", f"{session.results['app']}:new.txt")
    (app / ".git/objects" / blob[:2] / blob[2:]).unlink()
    assert codes(await refusal(session)) == ["corrupt-object"]

    git(app, "update-ref", "-d", f"refs/orchestra/{SESSION}/turn/_session")
    git(app, "gc", "-q", "--prune=now")
    assert codes(await refusal(session)) == ["commit-missing"]


async def test_another_repository_in_the_place_of_the_sessions_is_refused(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "two\n"}))})
    shutil.move(app / ".git", tmp_path / ".git")  # the directory above is a repository now, with all the objects

    with pytest.raises(RefusedError) as caught:
        await apply(session.files)

    assert codes(caught.value) == ["repo-changed"]
    assert (app / "a.txt").read_text() == "one\n"


async def test_a_session_that_is_driven_is_left_alone(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "two\n"}))}, status=Status.RUNNING)
    code = in_a_child(lambda: _drive_for_a_while(session, tmp_path / "held", tmp_path / "done"))
    assert code == 0
    with pytest.raises(SessionBusyError):
        await apply(session.files)
    (tmp_path / "done").touch()
    with session.files.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it has ended

    assert (await apply(session.files)).record.status is Status.INTERRUPTED


def _drive_for_a_while(session: Ended, held: Path, done: Path) -> None:
    """Start a process that holds the session's lock until it is told to end."""
    if os.fork() == 0:
        lock = DriverLock(session.files)
        lock.acquire()
        held.touch()
        while not done.exists():
            signal.sigtimedwait([signal.SIGUSR1], 0.02)
        os._exit(0)
    while not held.exists():
        signal.sigtimedwait([signal.SIGUSR1], 0.02)


# --- odd repositories ---


async def test_a_repository_without_a_commit_stays_unborn(tmp_path: Path) -> None:
    top = make_repo(tmp_path / "empty", {})
    write(top, {"mine.txt": "mine\n"})
    session = await ended(tmp_path, {"repo": (top, edits({"made/new.txt": "new\n"}))})

    linked = tmp_path / "linked"
    git(top, "worktree", "add", "-q", "--detach", str(linked), session.bases["repo"])
    git(linked, "checkout", "-q", "--orphan", "other")
    for branch in ("main", "other"):  # it would move a HEAD
        assert codes(await refusal(session, branch=branch)) == ["branch-exists"]

    assert states(await apply(session.files)) == {"repo": "applied"}
    assert git(top, "status", "--short").splitlines() == ["?? made/", "?? mine.txt"]
    assert not (top / ".git/index").exists()


async def test_a_linked_worktree_with_a_detached_head_is_a_checkout_like_any_other(app: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    git(app, "worktree", "add", "-q", "--detach", str(linked))
    write(linked, {"b.txt": "mine\n"})
    session = await ended(tmp_path, {"app": (linked, edits({"a.txt": "two\n"}))})
    before = side(app)

    assert states(await apply(session.files)) == {"app": "applied"}
    assert git(linked, "status", "--short").splitlines() == [" M a.txt", " M b.txt"]
    assert side(app) == before


async def test_a_bare_repository_takes_a_branch_only(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "two\n"}))})
    git(app, "config", "core.bare", "true")

    with pytest.raises(RefusedError, match="is bare"):
        await apply(session.files)
    await apply(session.files, branch="result")

    assert git(app, "rev-parse", "result") == session.results["app"]


async def test_a_session_that_changed_nothing_has_nothing_to_apply(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({}))})
    before = side(app)

    assert states(await apply(session.files)) == {"app": "unchanged"}
    assert side(app) == before


# --- branches ---


async def test_a_branch_is_made_in_all_repos_or_in_none(app: Path, tmp_path: Path) -> None:
    lib = make_repo(tmp_path / "lib", FILES)
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "2\n"})), "lib": (lib, edits({"a.txt": "2\n"}))})
    git(lib, "branch", "taken")
    assert codes(await refusal(session, branch="taken")) == ["branch-exists"]
    assert codes(await refusal(session, branch="taken/below")) == ["branch-clash"]
    assert codes(await refusal(session, branch="MAIN")) == ["branch-clash", "branch-clash"]
    assert codes(await refusal(session, branch="-x")) == ["bad-branch-name", "bad-branch-name"]
    before = {top: (git(top, "status", "--short", "--branch"), side(top).keys()) for top in (app, lib)}

    killed = in_a_child(lambda: asyncio.run(apply(session.files, branch="mine")), failpoint="apply-branch-made")
    applied = await apply(session.files, branch="mine")

    assert killed == -signal.SIGKILL
    assert states(applied) == {"app": "already-applied", "lib": "branched"}
    assert {name: git(top, "rev-parse", "mine") for name, top in session.tops.items()} == session.results
    assert {top: git(top, "status", "--short", "--branch") for top in (app, lib)} == {
        top: status for top, (status, _) in before.items()
    }


async def test_a_copy_of_a_session_applies_nothing(app: Path, tmp_path: Path) -> None:
    session = await ended(tmp_path, {"app": (app, edits({"a.txt": "two\n"}))})
    shutil.copytree(session.files.directory, tmp_path / "copy" / SESSION)

    with pytest.raises(OrchestraError, match="this is a copy"):
        await apply(type(session.files)(tmp_path / "copy" / SESSION))
    assert find_session(tmp_path, SESSION)
    assert (app / "a.txt").read_text() == "one\n"
