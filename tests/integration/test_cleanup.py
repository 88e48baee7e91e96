"""`orchestra cleanup`: what has ended goes, and nothing that is nowhere else goes unasked."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.runtime import git_process, store
from orchestra.runtime.applying import apply
from orchestra.runtime.cleaning import clean, plan_cleanup, planned_report
from orchestra.runtime.disk import disk_usage
from orchestra.runtime.driver_lock import DriverLock
from orchestra.runtime.store import (
    SessionRecord,
    list_sessions,
    session_ids,
    sessions_directory,
)
from orchestra.testing import git_repo
from tests.cleanupkit import Place, add_rescue, lost, reasons
from tests.conftest import Workshop
from tests.gitkit import assert_sound, git, make_repo, write
from tests.session_support import agent, says, writes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with one completed session, for tests that leave it as it is."""
    top = tmp_path_factory.mktemp("lasting")
    for name in ("home", "pipelines"):
        (top / name).mkdir()
    repo = git_repo(top / "app", {"app.py": "x = 1\n", "docs/notes.md": "# Notes\n"})
    place = Place(Workshop(repo, top / "pipelines", top / "home"), git_repo(top / "lib", {"lib.py": "y = 1\n"}))
    session = asyncio.run(place.completed())
    refs, before = place.refs("refs"), place.user_side()
    yield place
    assert session_ids(place.root) == [session]
    assert place.refs("refs") == refs
    assert place.user_side() == before
    assert place.worktree(session).is_dir()


@pytest.fixture
def place(workshop: Workshop, tmp_path: Path) -> Place:
    return Place(workshop, git_repo(tmp_path / "lib", {"lib.py": "y = 1\n"}))


def fingerprint_of(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory, whatever made it."""
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


async def test_an_unmerged_branch_stays_and_all_else_of_the_session_goes(place: Place) -> None:
    session = await place.completed()
    before = place.user_side()
    tips = [repo.git("rev-parse", place.branch(session)) for repo in (place.workshop.repo, place.lib)]

    plan = await plan_cleanup(place.root, sessions=[session[:4]])
    assert session_ids(place.root) == [session]  # nothing has happened yet
    report = await clean(place.root, plan)

    assert report.as_json() == planned_report(plan).as_json()
    assert [one.branch and one.branch.stays for one in report.removed[0].repos] == ["it is merged nowhere"] * 2
    assert report.removed[0].session_bytes > 10_000
    assert report.removed[0].worktree_bytes > 0
    place.assert_nothing_left(place.branch(session), place.branch(session))
    assert [repo.git("rev-parse", place.branch(session)) for repo in (place.workshop.repo, place.lib)] == tips
    assert place.user_side() == before
    for top in place.tops:
        assert_sound(top)
    assert (await place.clean()).as_json() == {"removed": [], "kept": [], "trash": [], "bytes": 0}


async def test_a_merged_branch_goes_also_after_a_squash(place: Place) -> None:
    session = await place.completed()
    place.workshop.repo.git("merge", "-q", "--no-ff", "-m", "merge", place.branch(session))
    place.lib.git("merge", "-q", "--squash", place.branch(session))
    place.lib.git("commit", "-qm", "squashed")
    place.lib.write({"lib.py": "y = 2\n"})
    place.lib.git("commit", "-qam", "and on")

    report = await place.clean(session)

    assert reasons(report) == []
    place.assert_nothing_left()


async def test_a_result_that_was_applied_and_committed_is_merged(place: Place) -> None:
    session = await place.completed()
    place.lib.write({"lib.py": "y = 3\n"})  # the user's own, before
    await apply(place.files(session))
    place.workshop.repo.git("add", "-A")
    place.workshop.repo.git("commit", "-qm", "the agent's")
    place.files(session).apply_journal.write_text("{}")
    assert reasons(await place.clean(session, discard=True)) == [(None, "apply-unfinished")]
    place.files(session).apply_journal.unlink()
    before = place.user_side()
    assert reasons(await place.clean(session)) == [("lib", "unmerged")]  # how the checkout was before
    assert place.user_side() == before
    place.lib.git("add", "-A")
    place.lib.git("commit", "-qm", "both")

    assert reasons(await place.clean(session)) == []
    place.assert_nothing_left()


async def test_a_squash_that_was_reverted_is_not_merged(place: Place) -> None:
    session = await place.completed()
    place.lib.git("merge", "-q", "--squash", place.branch(session))
    place.lib.git("commit", "-qm", "squashed")
    place.lib.git("revert", "--no-edit", "HEAD")
    place.workshop.repo.git("branch", "mine", place.branch(session))
    # Checked out, it can't go though another branch has its commits.
    place.workshop.repo.git("checkout", "-q", place.branch(session))
    before = place.user_side()

    report = await place.clean(session)

    stays = [repo.branch and repo.branch.stays for repo in report.removed[0].repos]
    assert stays == [f"it is checked out at {place.root}", "it is merged nowhere"]
    place.assert_nothing_left(place.branch(session), place.branch(session))
    assert place.user_side() == before


async def test_branches_of_two_sessions_do_not_count_for_each_other(place: Place) -> None:
    first, second = await place.completed(), await place.completed()
    place.workshop.repo.git("branch", "-f", place.branch(second), place.branch(first))

    report = await place.clean(first, second)

    found = {repo.branch.stays for one in report.removed for repo in one.repos if repo.branch}
    assert found == {"it is merged nowhere"}
    assert len(place.refs("refs/heads/orchestra")) == 4


async def test_a_repository_in_the_place_of_a_submodule_keeps_the_session(place: Place, tmp_path: Path) -> None:
    """What is not committed in it, git's status of the worktree does not show."""
    inner = make_repo(tmp_path / "inner", {"i.txt": "i\n"})
    head = git(inner, "rev-parse", "HEAD")
    place.workshop.repo.git("update-index", "--add", "--cacheinfo", f"160000,{head},sub")
    place.workshop.repo.git("commit", "-qm", "a submodule")
    (place.root / "sub").mkdir()
    session = await place.completed()
    git(place.worktree(session), "clone", "-q", str(inner), "sub")  # what an agent's command may do
    (place.worktree(session) / "sub" / "late.txt").write_text("late\n")

    assert reasons(await place.clean(session)) == [("repo", "submodules")]
    shutil.rmtree(place.worktree(session) / "sub")
    (place.worktree(session) / "sub").mkdir()
    assert reasons(await place.clean(session)) == []


async def test_of_two_cleanups_at_once_neither_takes_the_others_branch_for_a_keeper(place: Place) -> None:
    first, second = await place.completed(), await place.completed()  # as a session and its fork have the same commits
    tip = place.workshop.repo.git("rev-parse", place.branch(first))
    place.workshop.repo.git("branch", "-f", place.branch(second), tip)
    plans = [await plan_cleanup(place.root, sessions=[session]) for session in (first, second)]
    assert [plan.sessions[0].repos[0].branch.stays for plan in plans if plan.sessions[0].repos[0].branch] == [None] * 2

    reports = await asyncio.gather(*(clean(place.root, plan) for plan in plans))

    assert session_ids(place.root) == []
    (left,) = place.workshop.repo.git("for-each-ref", "--format=%(refname:short)", "refs/heads/orchestra").split()
    assert place.workshop.repo.git("rev-parse", left) == tip
    told = {
        branch.name for report in reports for one in report.removed if (branch := one.repos[0].branch) and branch.stays
    }
    assert told == {left}


async def test_a_deleted_branch_leaves_its_commits_to_the_session(place: Place) -> None:
    session = await place.completed()
    commit = place.lib.git("rev-parse", place.branch(session))
    place.lib.git("branch", "-qD", place.branch(session))

    report = await place.clean(session)

    assert reasons(report) == [("lib", "unmerged")]
    assert place.lib.git("cat-file", "-t", commit) == "commit"
    place.lib.git("branch", "mine", commit)
    assert reasons(await place.clean(session)) == []


async def test_partial_work_of_a_failed_turn_keeps_the_session_until_it_is_discarded(place: Place) -> None:
    session = await place.failed()
    before, refs = place.user_side(), place.refs()

    kept = await place.clean(session)

    assert reasons(kept) == [("repo", "unmerged")]
    assert "wt/_session" in kept.kept[0].reasons[0].message
    assert place.refs() == refs
    assert (place.worktree(session) / "half.txt").read_text() == "half\n"
    assert (await place.workshop.resume(session)).record.status == "failed"  # it is as it was

    gone = await place.clean(session, discard=True)

    assert lost(gone) == [("repo", "unmerged"), ("repo", "unmerged")]  # the branch, the files of the failed turn
    place.assert_nothing_left()
    assert place.user_side() == before
    again = gone.removed[0].discarded[0].look
    assert again is not None
    assert os.system(again) == 0  # noqa: S605, ASYNC221 - the command that is shown brings the branch back
    assert place.workshop.repo.git("show", f"{place.branch(session)}:new.txt") == "app"


@pytest.mark.parametrize("resolved", [True, False])
async def test_a_conflict_keeps_the_session_until_it_is_resolved(place: Place, *, resolved: bool) -> None:
    tools = ["repo:write-file"]
    script = {
        name: [[writes("new.txt", f"{name}\n", name="repo:write-file"), says("ok")]]
        for name in ("left", "right", "last")
    }
    session = await place.session(
        script=script,
        agents={name: agent(tools=tools) for name in script},
        graph=[
            {"from": "START", "to": ["left", "right"]},
            {"from": ["left", "right"], "to": "last", "on_conflict": "agent" if resolved else "fail"},
            {"from": "last", "to": "END"},
        ],
    )

    report = await place.clean(session)

    said = [reason.message for one in report.kept for reason in one.reasons]
    if resolved:
        assert said == []
        place.assert_nothing_left(place.branch(session))
    else:
        assert any("is of a conflict that was not resolved" in message for message in said)
        assert f"{place.worktree(session)} has changes that are in no commit" in said  # the markers
        assert any("/turn/right has commits that are merged nowhere" in message for message in said)


@dataclass
class Change:
    """Something that somebody does to what a session left, and what comes of it."""

    code: str
    do: Callable[[Place, str], object]
    undo: Callable[[Place, str], object]
    final: bool = False


def _write(name: str, text: str = "x\n") -> Callable[[Place, str], object]:
    return lambda place, session: (place.worktree(session) / name).write_text(text)


def _remove(name: str) -> Callable[[Place, str], None]:
    return lambda place, session: (place.worktree(session) / name).unlink()


def _own_commit(place: Place, session: str) -> None:
    tree = place.worktree(session)
    git(tree, "commit", "-q", "--allow-empty", "-m", "mine")
    (tree / "own.txt").write_text("own\n")
    git(tree, "add", "own.txt")
    git(tree, "commit", "-qm", "mine")


def _link(place: Place, session: str) -> None:
    directory = place.worktree(session).parent
    directory.rename(place.root / "elsewhere")
    directory.symlink_to(place.root / "elsewhere")


def _unlink(place: Place, session: str) -> None:
    directory = place.worktree(session).parent
    directory.unlink()
    (place.root / "elsewhere").rename(directory)


def _admin(place: Place, session: str) -> Path:
    return next(
        path for path in (place.root / ".git" / "worktrees").iterdir() if session in (path / "locked").read_text()
    )


def _moved(old: str, new: str) -> Callable[[Place, str], None]:
    def move(place: Place, session: str) -> None:
        link = _admin(place, session) / "gitdir"
        link.write_text(link.read_text().replace(old, new))

    return move


CHANGES = {
    "a new file": Change("worktree-dirty", _write("late.txt"), _remove("late.txt")),
    "a changed file": Change("worktree-dirty", _write("new.txt", "late\n"), _write("new.txt", "app\n")),
    "a commit of the agent's own": Change(
        "unmerged",
        _own_commit,
        lambda place, session: git(place.worktree(session), "reset", "-q", "--hard", "HEAD~2"),
    ),
    "a rescue": Change(
        "unmerged",
        add_rescue,
        lambda place, session: place.workshop.repo.git(
            "update-ref", "-d", f"refs/orchestra/{session}/rescue/1-_session"
        ),
    ),
    "files that stood in the way": Change(
        "rescued-files",
        lambda place, session: write(place.root / ".orchestra" / "rescue" / session / "1", {"a.txt": "x"}),
        lambda place, session: shutil.rmtree(place.root / ".orchestra" / "rescue" / session),
    ),
    "a submodule with commits": Change(
        "submodules",
        lambda place, session: (_admin(place, session) / "modules" / "sub").mkdir(parents=True),
        lambda place, session: shutil.rmtree(_admin(place, session) / "modules"),
    ),
    "a half-made worktree": Change(
        "worktree-half-made",
        lambda place, session: (_admin(place, session) / "orchestra.index").rename(place.root / "index.away"),
        lambda place, session: (place.root / "index.away").rename(_admin(place, session) / "orchestra.index"),
    ),
    "a note of the user's": Change(
        "foreign-files",
        lambda place, session: (place.files(session).directory / "note.md").write_text("x"),
        lambda place, session: (place.files(session).directory / "note.md").unlink(),
    ),
    "a link in place of the root": Change("linked", _link, _unlink, final=True),
    "a worktree that was moved": Change(
        "worktree-moved", _moved("_session", "elsewhere"), _moved("elsewhere", "_session"), final=True
    ),
}


TOGETHER = (
    ("a new file", "a rescue", "files that stood in the way", "a submodule with commits", "a note of the user's"),
    ("a changed file", "a commit of the agent's own"),
    ("a half-made worktree",),
    ("a link in place of the root",),
    ("a worktree that was moved",),
)
"""Changes that are made at the same time, each with a reason of its own."""


async def test_whatever_is_in_no_commit_keeps_the_session(lasting: Place) -> None:
    place, session = lasting, lasting.only
    before = place.user_side()
    assert sorted(itertools.chain(*TOGETHER)) == sorted(CHANGES)
    for names in TOGETHER:
        changes = [CHANGES[name] for name in names]
        for change in changes:
            change.do(place, session)
        try:
            wanted, final = {change.code for change in changes}, any(change.final for change in changes)
            assert len(wanted) == len(names)
            plan = await plan_cleanup(place.root, sessions=[session])
            assert {reason.code for reason in plan.sessions[0].reasons} == wanted, names
            plan = await plan_cleanup(place.root, sessions=[session], discard=True)
            shown = plan.sessions[0].reasons if final else plan.sessions[0].discarded
            assert wanted <= {reason.code for reason in shown}, names
            assert final or not plan.sessions[0].reasons, names
        finally:
            for change in reversed(changes):
                change.undo(place, session)
    plan = await plan_cleanup(place.root, sessions=[session])
    assert plan.sessions[0].reasons == ()
    assert place.user_side() == before


async def test_nothing_goes_in_which_somebody_works(lasting: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place, session = lasting, lasting.only
    monkeypatch.chdir(place.worktree(session))  # of this process, as of any other
    assert reasons(await place.clean(session, discard=True)) == [("repo", "in-use")]
    monkeypatch.chdir(place.files(session).directory)
    assert reasons(await place.clean(session, discard=True)) == [(None, "in-use")]


async def test_what_is_not_ours_among_the_worktrees_stays_and_is_named(place: Place) -> None:
    session = await place.completed()
    strange = place.worktree(session).parent / "notes"
    write(strange, {"mine.txt": "mine\n"})
    unlocked = place.lib.path / ".orchestra" / "worktrees" / session / "_session"
    place.lib.git("worktree", "unlock", str(unlocked))  # the user has taken it over
    (place.worktree(session) / "cache.pyc").write_text("x")
    write(place.root / ".git" / "info", {"exclude": (place.root / ".git/info/exclude").read_text() + "*.pyc\n"})
    os.chmod(place.worktree(session), 0o500)  # noqa: PTH101 - what an agent's command may do

    report = await place.clean(session)

    assert reasons(report) == []
    assert [path for repo in report.removed[0].repos for path in repo.left] == [strange, unlocked]
    assert (strange / "mine.txt").read_text() == "mine\n"
    assert (unlocked / "new.txt").exists()
    assert not place.worktree(session).exists()  # with the file that git ignores
    assert not (place.root / ".orchestra" / "trash").exists()


async def test_only_sessions_that_have_ended_long_ago_go(place: Place) -> None:
    session = await place.completed()
    assert (await place.clean()).sessions == ()
    place.change(session, "UPDATE sessions SET updated_at = '2026-01-01T00:00:00+00:00'")
    place.change(session, "UPDATE sessions SET status = 'paused'")
    assert (await place.clean()).sessions == ()
    assert reasons(await place.clean(session, discard=True)) == [(None, "not-ended")]
    place.change(session, "UPDATE sessions SET status = 'running'")
    assert reasons(await place.clean(session)) == [(None, "not-ended")]
    place.change(session, "UPDATE sessions SET status = 'cancelled'")
    lock = DriverLock(place.files(session))
    lock.acquire()
    try:
        assert reasons(await place.clean()) == [(None, "driven")]
    finally:
        lock.release()
    assert [one.session_id for one in (await place.clean()).removed] == [session]


async def test_databases_that_are_broken_newer_or_somebody_elses_are_left_alone(lasting: Place) -> None:
    place, session = lasting, lasting.only
    original = place.files(session).directory
    parent = sessions_directory(place.root)
    for name in ("brknabcd", "newerabc", "x;rm -rf"):
        shutil.copytree(original, parent / name)
    (parent / "brknabcd" / "session.db").write_bytes(b"no database" * 100)
    place.change("newerabc", "UPDATE sessions SET version = 99, session_id = 'newerabc'")
    (parent / "abcdefgh").symlink_to(original)
    before = fingerprint_of(parent)

    report = await place.clean("brknabcd", "newerabc", "x;rm -rf", "abcdefgh", discard=True)

    codes = [(None, code) for code in ("database-unreadable", "newer-session", "foreign", "linked")]
    assert reasons(report) == codes
    assert sorted(reasons(await place.clean(discard=True))) == sorted(codes)  # they are told of every time
    assert fingerprint_of(parent) == before
    for name in ("brknabcd", "newerabc", "x;rm -rf"):
        shutil.rmtree(parent / name)
    (parent / "abcdefgh").unlink()


async def test_a_hostile_database_removes_nothing_outside(lasting: Place) -> None:
    place, session = lasting, lasting.only
    evil = sessions_directory(place.root) / "evzabcd1"
    shutil.copytree(place.files(session).directory, evil)
    place.lib.git("branch", "release-evzabcd1", "main")
    workspace = {
        "lib": {"path": str(place.lib.path), "base": place.lib.git("rev-parse", "main"), "branch": "release-evzabcd1"},
        "top": {"path": "/", "base": "0" * 40, "branch": "main"},
        "../..": {
            "path": str(place.root / ".." / "app"),
            "base": place.workshop.repo.git("rev-parse", "main"),
            "branch": "main",
        },
    }
    write(place.lib.path / ".orchestra" / "rescue" / "evzabcd1", {"mine.txt": "mine\n"})
    settings = json.dumps({"directory": str(evil)})
    place.change(
        "evzabcd1",
        "UPDATE sessions SET session_id = 'evzabcd1', workspace = ?, settings = ?, pipeline = ?",
        json.dumps(workspace),
        settings,
        "\x1b[2J../../..",
    )
    before, refs = place.user_side(), place.refs("refs")

    report = await place.clean("evzabcd1", discard=True)

    assert [one.session_id for one in report.removed] == ["evzabcd1"]  # no more than its own directory
    assert place.user_side() == before
    assert place.refs("refs") == refs
    assert (place.lib.path / ".orchestra" / "rescue" / "evzabcd1" / "mine.txt").exists()
    place.lib.git("update-ref", "-d", "refs/heads/release-evzabcd1")  # leaves `packed-refs` and `config` alone
    assert place.worktree(session).exists()


async def test_a_copy_of_a_session_leaves_branches_and_worktrees_to_the_session_itself(
    lasting: Place, tmp_path: Path
) -> None:
    place, session = lasting, lasting.only
    copy = tmp_path / "copy"
    shutil.copytree(place.root / ".orchestra" / "sessions", copy / ".orchestra" / "sessions")
    refs = place.refs()

    await clean(copy, await plan_cleanup(copy, sessions=[session], discard=True))

    assert session_ids(copy) == []
    assert place.refs() == refs
    assert place.worktree(session).exists()


async def test_a_repo_that_is_gone_keeps_the_session(place: Place) -> None:
    session = await place.completed()
    away = place.lib.path.rename(place.lib.path.with_name("away"))
    assert reasons(await place.clean(session)) == [("lib", "repo-gone")]
    git_repo(place.lib.path, {"other.py": "z = 1\n"})
    assert reasons(await place.clean(session)) == [("lib", "repo-changed")]
    assert lost(await place.clean(session, discard=True)) == [
        ("repo", "unmerged"),
        ("lib", "repo-changed"),
    ]
    assert session_ids(place.root) == []
    assert git(away, "for-each-ref", "refs/orchestra")  # not looked for elsewhere


async def test_two_cleanups_at_once_remove_a_session_once(place: Place) -> None:
    session = await place.completed()
    plan = await plan_cleanup(place.root, sessions=[session])

    reports = await asyncio.gather(clean(place.root, plan), clean(place.root, plan))

    assert all(set(reasons(report)) <= {(None, "driven")} for report in reports)
    place.assert_nothing_left(place.branch(session), place.branch(session))


async def test_a_session_that_has_changed_since_the_plan_is_kept(lasting: Place) -> None:
    place, session = lasting, lasting.only
    plan = await plan_cleanup(place.root, sessions=[session])
    (place.worktree(session) / "late.txt").write_text("late\n")

    assert reasons(await clean(place.root, plan)) == [("repo", "worktree-dirty")]
    (place.worktree(session) / "late.txt").unlink()


async def test_of_many_sessions_git_is_asked_only_about_those_that_may_go(
    lasting: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, session = lasting, lasting.only
    for number in range(150):
        shutil.copytree(place.files(session).directory, sessions_directory(place.root) / f"{number:08d}")
    calls: list[str] = []
    real = git_process.execute

    async def counted(call: Any, *args: Any) -> Any:
        calls.append(call.args[0])
        return await real(call, *args)

    monkeypatch.setattr("orchestra.runtime.git.execute", counted)
    assert (await place.clean()).sessions == ()
    assert calls == []
    usages = await disk_usage(record for record in list_sessions(place.root) if isinstance(record, SessionRecord))
    for number in range(150):
        shutil.rmtree(sessions_directory(place.root) / f"{number:08d}")
    assert len(usages) == 151
    assert len(calls) < 30  # for two repositories
    here = next(usage for usage in usages if usage.session_bytes and usage.session_id == session)
    assert here.refs == {"repo": 3, "lib": 3}
    assert here.worktree_bytes == sum(
        len((place.worktree(session) / name).read_bytes()) for name in ("app.py", "new.txt", "docs/notes.md", ".git")
    ) + sum(
        len(path.read_bytes())
        for path in (place.lib.path / ".orchestra" / "worktrees" / session / "_session").iterdir()
    )


def test_a_session_that_vanishes_while_status_looks_is_no_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "session_ids", lambda root: ["vanished"])
    assert list(list_sessions(place.root)) == []


def test_the_command_says_what_it_does_and_why_not(place: Place) -> None:
    session = asyncio.run(place.failed())
    disk = place.workshop.json("status", "--disk")
    assert [(one["session_id"], one["refs"]) for one in disk] == [(session, {"repo": 3, "lib": 1})]
    kept = place.workshop.json("cleanup", session, code=2)
    assert [reason["code"] for one in kept["kept"] for reason in one["reasons"]] == ["unmerged"]
    dry = place.workshop.json("cleanup", session, "--discard", "--dry-run")
    assert session_ids(place.root) == [session]
    assert {**place.workshop.json("cleanup", session, "--discard"), "dry_run": True} == dry
    place.assert_nothing_left()
    wrong = place.workshop.cli("cleanup", "--older-than", "2 moons")
    assert (wrong.returncode, "error[bad-option]" in wrong.stderr) == (2, True)
