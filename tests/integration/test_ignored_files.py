"""Ignored files in worktrees: `copy`, `.worktreeinclude` and `setup`, in whole sessions."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import GitError
from orchestra.runtime import copies
from orchestra.runtime.store import find_session, session_ids
from orchestra.testing import GitRepo
from tests.gitkit import assert_sound, files_of, fingerprint, git, make_repo, show, write
from tests.session_support import agent, chain, events, in_a_child, run_and_kill, says, writes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

IGNORE = ".env*\n*.key\ncache/\nnode_modules/\n"


@pytest.fixture
def top(workshop: Workshop) -> Path:
    """The repository, in which much is ignored."""
    workshop.repo.commit({".gitignore": IGNORE}, "ignore")
    write(
        workshop.repo.path, {".env": "SECRET=1\n", "config/tls.key": "key\n", "cache/a/b.bin": "b\n", "new.txt": "n\n"}
    )
    return workshop.repo.path


def shell(command: str) -> dict[str, Any]:
    return {"tools": [{"name": "shell", "args": {"command": command}}]}


def pipeline(workshop: Workshop, *replies: dict[str, Any], **repo: Any) -> Path:
    """A pipeline of one agent with a shell."""
    content = {
        "name": "copies",
        "agents": {"writer": agent(tools=["shell", "write-file"])},
        "workspace": {"repos": {"repo": {"path": "../app", **repo}}},
        "graph": chain("writer"),
    }
    return workshop.pipeline(content, script={"writer": [[*replies, says("done")]]})


def worktree(workshop: Workshop, session: str) -> Path:
    return workshop.repo.path / ".orchestra/worktrees" / session / "_session"


def told(workshop: Workshop) -> str:
    texts = [event.payload.get("text") or event.payload.get("message") for event in workshop.events]
    return "\n".join(filter(None, texts))


def secrets_in_git(top: Path, text: str) -> bool:
    """Whether any object holds a text, reachable or not."""
    listed = git(top, "cat-file", "--batch-all-objects", "--batch-check").splitlines()
    blobs = [line.split()[0] for line in listed if " blob " in line]
    return any(text in git(top, "cat-file", "blob", blob) for blob in blobs)


async def test_ignored_files_that_copy_names_are_in_the_worktree_and_in_no_commit(
    workshop: Workshop, top: Path
) -> None:
    before = fingerprint(top)
    path = pipeline(workshop, shell("cat .env config/tls.key > made.txt; test ! -e cache"), copy=[".env", "config/"])

    result = await workshop.run(path)

    assert result.record.status == "completed", result.record.error
    assert show(top, result.commits["repo"], "made.txt") == "SECRET=1\nkey"
    assert set(files_of(top, result.commits["repo"])) == {
        ".gitignore",
        "app.py",
        "docs/notes.md",
        "made.txt",
        "new.txt",
    }
    assert "repo: 2 ignored files are copied into its worktrees (13 bytes): .env, config/tls.key" in told(workshop)
    assert fingerprint(top) == before
    place = worktree(workshop, result.record.session_id)
    assert stat.S_IMODE((place / ".env").stat().st_mode) == 0o600
    assert (place / ".env").stat().st_ino != (top / ".env").stat().st_ino


@pytest.mark.parametrize(
    ("include", "copy", "expected"),
    [
        (".env*\n!.env.local\n", [], {".env", ".env.more"}),
        ("# all of it\n*\n", [], {".env", ".env.local", ".env.more", "config/tls.key", "cache/a/b.bin"}),
        ("/tls.key\n**/a/*.bin\n", [], {"cache/a/b.bin"}),
        ("*.key\n", ["!tls.key", ".env"], {".env"}),
        ("new.txt\napp.py\n", ["docs/notes.md"], set()),
    ],
)
async def test_patterns_mean_what_they_mean_in_gitignore(
    workshop: Workshop, top: Path, include: str, copy: list[str], expected: set[str]
) -> None:
    write(top, {".worktreeinclude": include, ".env.local": "l\n", ".env.more": "m\n"})
    result = await workshop.run(pipeline(workshop, writes("made.txt", "x"), copy=copy))
    assert result.record.status == "completed", result.record.error
    place = worktree(workshop, result.record.session_id)
    ignored = git(place, "ls-files", "--others", "--ignored", "--exclude-standard").splitlines()
    assert set(ignored) == expected
    kept = find_session(top, result.record.session_id).copies
    assert {stat.S_IMODE(path.lstat().st_mode) for path in (kept, *kept.rglob("*"))} <= {0o700, 0o600}


async def test_a_copy_is_of_the_start_and_the_checkout_is_never_read_again(workshop: Workshop, top: Path) -> None:
    path = pipeline(workshop, writes("a.txt", "a"), copy=[".env"])
    killed = run_and_kill(workshop, path, "session-created")
    assert killed.session is not None
    (top / ".env").write_text("SECRET=2\n")

    result = await workshop.resume(killed.session)

    assert result.record.status == "completed", result.record.error
    assert (worktree(workshop, killed.session) / ".env").read_text() == "SECRET=1\n"


async def test_a_copy_enters_no_object_also_when_an_agent_stops_ignoring_it(workshop: Workshop, top: Path) -> None:
    path = pipeline(
        workshop, writes(".gitignore", "cache/\n"), shell("echo SECRET=3 >> .env"), writes("a.txt", "a"), copy=[".env"]
    )
    result = await workshop.run(path)
    assert result.record.status == "completed", result.record.error
    assert set(files_of(top, result.commits["repo"])) == {".gitignore", "app.py", "docs/notes.md", "a.txt", "new.txt"}
    assert not secrets_in_git(top, "SECRET")
    skipped = [event.payload["skipped"] for event in workshop.events if event.type == "snapshot_taken"]
    assert ".env (copied)" in skipped[-1]
    assert told(workshop).count("repo: in no commit of the session: .env (copied)") == 1


async def test_a_copy_stays_where_it_is_when_files_are_put_back(workshop: Workshop, top: Path) -> None:
    """Also where the files that are put back ignore it and those that lie there don't."""
    path = pipeline(workshop, writes(".gitignore", "cache/\n"), writes("a.txt", "a"), copy=[".env"])
    killed = run_and_kill(workshop, path, "snapshot-taken:1")
    assert killed.session is not None
    result = await workshop.resume(killed.session)
    assert result.record.status == "completed", result.record.error
    assert events(workshop, killed.session, "files_put_back")
    assert (worktree(workshop, killed.session) / ".env").read_text() == "SECRET=1\n"
    assert not secrets_in_git(top, "SECRET")
    assert_sound(top)


async def test_a_worktree_that_was_deleted_gets_its_copies_again(workshop: Workshop, top: Path) -> None:
    content = {
        "name": "again",
        "agents": {name: agent(tools=["shell"]) for name in ("first", "second")},
        "workspace": {"repos": {"repo": {"path": "../app", "copy": [".env", "cache/"], "setup": "touch cache/ready"}}},
        "graph": chain("first", "second"),
    }
    script = {
        "first": [[writes("made.txt", "x"), says("made")]],
        "second": [[shell("cat .env cache/a/b.bin && test -e cache/ready && echo back > back.txt"), says("back")]],
    }
    killed = run_and_kill(workshop, workshop.pipeline(content, script=script), "turn-committed:1")
    assert killed.session is not None
    shutil.rmtree(worktree(workshop, killed.session))
    result = await workshop.resume(killed.session)
    assert result.record.status == "completed", result.record.error
    assert show(top, result.commits["repo"], "back.txt") == "back"


async def test_links_stay_links_and_what_can_not_be_copied_is_named(
    workshop: Workshop, top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    write(outside, {"secret": "no\n"})
    make_repo(top / "cache/nested", {"n.txt": "n\n"})
    (top / "cache/out").symlink_to(outside)
    (top / "cache/dangling").symlink_to("nowhere")
    write(top, {"cache/big.bin": "x" * 2000, "cache/run.sh": "#!/bin/sh\n"})
    (top / "cache/run.sh").chmod(0o755)
    monkeypatch.setattr(copies, "FILE_LIMIT", 1000)

    result = await workshop.run(pipeline(workshop, writes("made.txt", "x"), copy=["cache/"]))

    assert result.record.status == "completed", result.record.error
    place = worktree(workshop, result.record.session_id) / "cache"
    found = {str(path.relative_to(place)) for path in place.rglob("*")}
    assert found == {"a", "a/b.bin", "out", "dangling", "run.sh"}
    assert (place / "out").readlink() == outside
    assert os.access(place / "run.sh", os.X_OK)
    assert "not copied: cache/big.bin (too-large)" in told(workshop)


@pytest.mark.parametrize(("limit", "reason"), [("COUNT_LIMIT", "too-many"), ("TOTAL_LIMIT", "too-much")])
async def test_what_is_copied_is_bounded(
    workshop: Workshop, top: Path, monkeypatch: pytest.MonkeyPatch, limit: str, reason: str
) -> None:
    write(top, {f"cache/{number}.txt": "x" for number in range(8)})
    monkeypatch.setattr(copies, limit, 2)
    await workshop.run(pipeline(workshop, writes("made.txt", "x"), copy=["cache/?.txt"]))
    assert "2 ignored files are copied" in told(workshop)
    names = ", ".join(f"cache/{number}.txt ({reason})" for number in range(2, 7))
    assert f"not copied: {names} and 1 more" in told(workshop)


@pytest.mark.parametrize("tracked", ["link", "file"])
async def test_a_commit_with_a_link_in_the_way_leads_no_copy_out(
    workshop: Workshop, top: Path, tmp_path: Path, tracked: str
) -> None:
    """The base is another commit than the checkout's, so a directory here may be a link there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    git(top, "checkout", "-q", "-b", "trap")
    if tracked == "link":
        (top / "cache-of-theirs").symlink_to(outside)
        (top / ".env").unlink()
        (top / ".env").symlink_to(outside / "env")
    else:
        write(top, {"cache-of-theirs": "a file\n", ".env": "theirs\n"})
    git(top, "add", "-Af", "cache-of-theirs", ".env")
    git(top, "commit", "-qm", "trap")
    git(top, "checkout", "-q", "main")
    write(top, {".env": "SECRET=1\n", "cache-of-theirs/x.key": "key\n"})

    result = await workshop.run(pipeline(workshop, writes("made.txt", "x"), copy=[".env", "*.key"], base="trap"))

    assert result.record.status == "completed", result.record.error
    assert list(outside.iterdir()) == []
    assert "not copied: .env (the commit has something there), cache-of-theirs/x.key (the" in told(workshop)
    assert (worktree(workshop, result.record.session_id) / "config/tls.key").read_text() == "key\n"


async def test_an_agents_link_leads_no_copy_out_when_its_worktree_is_made_again(
    workshop: Workshop, top: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    content = {
        "name": "trap",
        "agents": {name: agent(tools=["shell"]) for name in ("first", "second")},
        "workspace": {"repos": {"repo": {"path": "../app", "copy": ["*.key", ".env"]}}},
        "graph": chain("first", "second"),
    }
    script = {
        "first": [[shell(f"rm -r config; ln -s {outside} config"), says("trapped")]],
        "second": [[shell("ls -A > seen.txt"), says("seen")]],
    }
    killed = run_and_kill(workshop, workshop.pipeline(content, script=script), "snapshot-taken:2")
    assert killed.session is not None
    shutil.rmtree(worktree(workshop, killed.session))
    result = await workshop.resume(killed.session)
    assert result.record.status == "completed", result.record.error
    assert list(outside.iterdir()) == []
    assert {".env", "config"} <= set(show(top, result.commits["repo"], "seen.txt").split())
    assert (worktree(workshop, killed.session) / "config").is_symlink()


@pytest.mark.usefixtures("top")
async def test_a_glob_that_matches_nothing_is_a_warning(workshop: Workshop) -> None:
    await workshop.run(pipeline(workshop, writes("made.txt", "x"), copy=[".env", ".evn", "new.txt", "!x"]))
    warned = [event.payload["message"] for event in workshop.events if event.type == "warning"]
    assert warned == [
        "repo: `copy: .evn` matches no file that git ignores",
        "repo: `copy: new.txt` matches no file that git ignores",
    ]


async def test_an_ignored_env_file_that_nobody_asked_for_is_mentioned(workshop: Workshop, top: Path) -> None:
    result = await workshop.run(pipeline(workshop, writes("made.txt", "x")))
    assert "git ignores .env, so agents don't have it" in told(workshop)
    assert not (worktree(workshop, result.record.session_id) / ".env").exists()
    assert not find_session(top, result.record.session_id).copies.exists()


@pytest.mark.parametrize("kind", ["link", "directory", "large"])
async def test_an_include_file_that_is_none_is_not_read(
    workshop: Workshop, top: Path, tmp_path: Path, kind: str
) -> None:
    include = top / ".worktreeinclude"
    if kind == "link":
        write(tmp_path, {"patterns": ".env\n"})
        include.symlink_to(tmp_path / "patterns")
    elif kind == "directory":
        write(include, {"x.key": "x\n"})
    else:
        include.write_text(".env\n" + "#" * (1 << 20))
    result = await workshop.run(pipeline(workshop, writes("made.txt", "x")))
    assert result.record.status == "completed", result.record.error
    assert ".worktreeinclude is not read" in told(workshop)
    assert not (worktree(workshop, result.record.session_id) / ".env").exists()


async def test_a_session_that_can_not_copy_leaves_nothing(
    workshop: Workshop, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = git(top, "for-each-ref")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(top))

    monkeypatch.setattr(copies, "_take_all", full)
    with pytest.raises(GitError) as caught:
        await workshop.run(pipeline(workshop, writes("made.txt", "x"), copy=[".env"]))
    assert (caught.value.code, caught.value.exit_code) == ("copy-failed", 2)
    assert session_ids(top) == []
    assert git(top, "for-each-ref") == refs


# --- setup


SETUP = "mkdir -p cache && cp .env cache/from-setup && echo once >> cache/count"


async def test_setup_runs_once_in_a_new_worktree_before_any_agent(workshop: Workshop, top: Path) -> None:
    content = {
        "name": "setup",
        "agents": {name: agent(tools=["shell"]) for name in ("first", "second")},
        "workspace": {"repos": {"repo": {"path": "../app", "copy": [".env"], "setup": SETUP}}},
        "graph": chain("first", "second"),
    }
    command = shell("cat cache/count cache/from-setup >> seen.txt")
    path = workshop.pipeline(content, script={name: [[command, says("seen")]] for name in ("first", "second")})

    result = await workshop.run(path)

    assert result.record.status == "completed", result.record.error
    assert show(top, result.commits["repo"], "seen.txt") == "once\nSECRET=1\nonce\nSECRET=1"
    kinds = [event.type for event in workshop.events if event.type.startswith(("setup", "turn_st", "warning"))]
    assert kinds == ["setup_started", "setup_ended", "turn_started", "turn_started"]


async def test_setup_sees_no_key_and_finds_its_repo(
    workshop: Workshop, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    path = pipeline(workshop, shell("cp cache/env seen.txt"), setup="mkdir -p cache; env > cache/env")
    result = await workshop.run(path)
    seen = show(top, result.commits["repo"], "seen.txt")
    assert "sk-secret" not in seen
    assert f"ORCHESTRA_REPO_REPO={worktree(workshop, result.record.session_id)}" in seen


async def test_a_failed_setup_stops_the_session_and_can_be_mended(
    workshop: Workshop, top: Path, tmp_path: Path
) -> None:
    command = f"echo some output; echo began >> cache.key; test -e '{tmp_path}/mended'"
    path = pipeline(workshop, writes("made.txt", "x"), setup=command)

    result = await workshop.run(path)

    assert result.record.status == "failed"
    error = result.record.error or {}
    assert (error["code"], error["agent"]) == ("setup-failed", "writer")
    assert f"`{command}`\nexit code 1\nstdout:\nsome output" in error["message"]
    assert result.record.usage["model_calls"] == 0
    place = worktree(workshop, result.record.session_id)
    assert (place / "cache.key").read_text() == "began\n"
    (tmp_path / "mended").touch()

    result = await workshop.resume(result.record.session_id)

    assert result.record.status == "completed", result.record.error
    assert (place / "cache.key").read_text() == "began\nbegan\n"
    assert_sound(top)


async def test_a_setup_that_takes_too_long_is_stopped(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestra.runtime.setup.TIME_LIMIT", 0.2)
    result = await workshop.run(pipeline(workshop, writes("made.txt", "x"), setup="sleep 60"))
    error = result.record.error or {}
    assert error["code"] == "setup-failed"
    assert "stopped after 0.2 s (the limit)" in error["message"]


async def test_what_setup_changes_in_files_of_the_repository_is_put_back_and_kept(
    workshop: Workshop, top: Path
) -> None:
    command = "echo changed > app.py; rm docs/notes.md; echo lock > package.lock; echo fine > cache.key"
    result = await workshop.run(pipeline(workshop, writes("made.txt", "x"), setup=command))
    assert result.record.status == "completed", result.record.error
    commit = result.commits["repo"]
    assert show(top, commit, "app.py") == "x = 1"
    assert set(files_of(top, commit)) == {".gitignore", "app.py", "docs/notes.md", "made.txt", "new.txt"}
    (warned,) = [event.payload for event in workshop.events if event.type == "warning"]
    assert warned["code"] == "setup-changed-files"
    assert warned["message"].endswith("app.py, docs/notes.md, package.lock")
    (rescue,) = git(
        top, "for-each-ref", "--format=%(refname)", f"refs/orchestra/{result.record.session_id}/rescue"
    ).split()
    assert show(top, rescue, "package.lock") == "lock"
    assert (worktree(workshop, result.record.session_id) / "cache.key").read_text() == "fine\n"


@pytest.mark.parametrize(("failpoint", "runs"), [("copies-placed", "ran"), ("setup-run", "ran\nran")])
async def test_a_worktree_that_was_half_prepared_is_finished(
    workshop: Workshop, top: Path, failpoint: str, runs: str
) -> None:
    command = "test -e .env && echo ran >> count.key; echo changed >> app.py"
    path = pipeline(workshop, shell("cp count.key seen.txt"), setup=command, copy=[".env"])
    killed = run_and_kill(workshop, path, failpoint)
    assert killed.session is not None
    code = in_a_child(lambda: asyncio.run(workshop.resume(str(killed.session))), failpoint="turn-committed")
    assert code == -9
    result = await workshop.resume(killed.session)
    assert result.record.status == "completed", result.record.error
    assert show(top, result.commits["repo"], "seen.txt") == runs
    assert show(top, result.commits["repo"], "app.py") == "x = 1"


async def test_readers_at_the_same_time_wait_for_one_setup(workshop: Workshop, top: Path) -> None:
    names = ("left", "right")
    content = {
        "name": "readers",
        "agents": {name: agent(tools=["repo:look"]) for name in names},
        "workspace": {
            "repos": {"repo": {"path": "../app", "setup": "sleep 0.2; echo once >> count.key"}},
            "tools": {"repo": {"look": {"command": "cat count.key", "writes": False}}},
        },
        "graph": [{"from": "START", "to": list(names)}, {"from": list(names), "to": "END"}],
    }
    look = {"tools": [{"name": "look", "args": {}}]}
    result = await workshop.run(workshop.pipeline(content, script={name: [[look, says(name)]] for name in names}))
    assert result.record.status == "completed", result.record.error
    assert [event.type for event in workshop.events].count("setup_started") == 1
    assert (worktree(workshop, result.record.session_id) / "count.key").read_text() == "once\n"
    assert git(top, "status", "--porcelain") == "?? new.txt"


def test_the_command_line_shows_setup_and_copies(workshop: Workshop, top: Path) -> None:
    done = workshop.cli("run", pipeline(workshop, writes("made.txt", "x"), copy=[".env"], setup="true"))
    assert done.returncode == 0, done.stderr
    assert "repo: 1 ignored file is copied into its worktrees (9 bytes): .env" in done.stderr
    assert "setup of repo: true" in done.stderr
    assert "setup of repo done after" in done.stderr
    assert "no effect" not in done.stderr
    assert GitRepo(top).git("status", "--porcelain") == "?? new.txt"
