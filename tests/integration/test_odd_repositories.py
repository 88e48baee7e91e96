"""Odd repositories: each kind works in a whole session, or is refused with one message before anything is made."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError
from orchestra.runtime import staging
from orchestra.runtime.store import session_ids
from orchestra.testing import GitRepo
from tests.gitkit import assert_sound, files_of, fingerprint, git, make_repo, show, write
from tests.preloaded import COMMAND
from tests.session_support import agent, chain, says, writes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestra.runtime.result import SessionResult
    from tests.conftest import Workshop

MADE = "made.txt"
HOOKS = (
    *("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "post-checkout", "post-index-change"),
    *("reference-transaction", "pre-auto-gc", "post-rewrite", "post-merge", "pre-rebase", "pre-push", "update"),
)


def at(workshop: Workshop, top: Path) -> Workshop:
    """Stand in another repository."""
    return replace(workshop, repo=GitRepo(top))


def writer(workshop: Workshop, *more: dict[str, Any], **workspace: Any) -> Path:
    """A pipeline whose one agent writes a file, and what else it is told."""
    pipeline = {"name": "odd", "agents": {"writer": agent(tools=["write-file", "shell"])}, "graph": chain("writer")}
    if workspace:
        pipeline["workspace"] = workspace
    replies = [writes(MADE, "made\n"), *more, says("done")]
    return workshop.pipeline(pipeline, script={"writer": [replies]})


def reader(workshop: Workshop, path: str = "a.txt") -> Path:
    """A pipeline whose one agent only reads."""
    replies = [{"tools": [{"name": "read-file", "args": {"path": path}}]}, says("read")]
    pipeline = {"name": "odd", "agents": {"reader": agent(tools=["read-file"])}, "graph": chain("reader")}
    return workshop.pipeline(pipeline, script={"reader": [replies]})


def shell(command: str) -> dict[str, Any]:
    return {"tools": [{"name": "shell", "args": {"command": command}}]}


async def works(
    shop: Workshop, path: Path | None = None, top: Path | None = None, **settings: Any
) -> tuple[SessionResult, dict[str, str]]:
    """Run a session that must complete, commit what its agent wrote, and leave the user's side as it was."""
    top = top or shop.repo.path
    before = fingerprint(top)
    result = await shop.run(path or writer(shop), **settings)
    assert result.record.status == "completed", result.record.error
    assert fingerprint(top) == before
    assert_sound(top)
    (commit,) = result.commits.values()
    return result, files_of(top, commit)


async def refused(shop: Workshop, code: str, path: Path | None = None, top: Path | None = None, **settings: Any) -> str:
    """Run a session that must be refused before anything is made; returns what the user is told."""
    top = top or shop.repo.path
    before = (traces(top), fingerprint(top), session_ids(shop.repo.path))
    with pytest.raises(OrchestraError) as caught:
        await shop.run(path or writer(shop), **settings)
    assert (caught.value.code, caught.value.exit_code) == (code, 2), caught.value
    assert (traces(top), fingerprint(top), session_ids(shop.repo.path)) == before
    assert not [event for event in shop.events if event.type == "session_started"]
    return f"{caught.value.message}\n{caught.value.hint}"


def traces(top: Path) -> tuple[str, str]:
    return git(top, "for-each-ref"), git(top, "worktree", "list", "--porcelain")


def told(shop: Workshop) -> str:
    """What the session's notes and warnings say."""
    texts = [event.payload.get("text") or event.payload.get("message") for event in shop.events]
    return "\n".join(filter(None, texts))


# --- uncommitted work


def dirty_in_every_way(top: Path) -> None:
    write(top, {"staged.txt": "0\n", "both.txt": "0\n", "gone.txt": "0\n", "old.txt": "rename me\n" * 9})
    write(top, {"hidden.txt": "0\n", "run.sh": "#!/bin/sh\n", "link": "x\n", "un-cached.txt": "0\n"})
    write(top, {".gitignore": "*.log\n", "staged-gone.txt": "0\n"})
    git(top, "add", "-A")
    git(top, "commit", "-qm", "second")
    write(top, {"staged.txt": "1\n", "both.txt": "1\n", "staged-new.txt": "1\n"})
    git(top, "add", "staged.txt", "both.txt", "staged-new.txt")
    git(top, "rm", "-q", "staged-gone.txt")
    git(top, "rm", "-q", "--cached", "un-cached.txt")
    git(top, "mv", "old.txt", "new.txt")
    git(top, "update-index", "--assume-unchanged", "hidden.txt")
    write(top, {"both.txt": "2\n", "hidden.txt": "1\n", "a.txt": "1\n", "untracked.txt": "1\n", "x.log": "ignored\n"})
    (top / "gone.txt").unlink()
    (top / "run.sh").chmod(0o755)
    (top / "link").unlink()
    (top / "link").symlink_to("a.txt")
    (top / "untracked-link").symlink_to("nowhere")


async def test_a_tree_that_is_dirty_in_every_way_is_the_base_and_stays_as_it_is(
    workshop: Workshop, tmp_path: Path
) -> None:
    top = make_repo(tmp_path / "dirty")
    dirty_in_every_way(top)
    shop = at(workshop, top)
    index = (top / ".git/index").read_bytes()

    result, files = await works(shop)

    assert (top / ".git/index").read_bytes() == index
    on_disk = {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file() or path.is_symlink()}
    on_disk = {name for name in on_disk if not name.startswith((".git/", ".orchestra/"))}
    assert set(files) == on_disk - {"x.log"} | {MADE}
    assert (files["run.sh"][:6], files["link"][:6], files["untracked-link"][:6]) == ("100755", "120000", "120000")
    assert [show(top, result.commits["repo"], name) for name in ("both.txt", "hidden.txt")] == ["2", "1"]
    assert "uncommitted work (" in told(shop)


@pytest.mark.parametrize(("mode", "expected"), [("head", {"a.txt", "src/b.py", MADE}), ("refuse", None)])
async def test_uncommitted_work_can_be_left_out_or_refused(
    workshop: Workshop, tmp_path: Path, mode: str, expected: set[str] | None
) -> None:
    top = make_repo(tmp_path / "dirty")
    write(top, {"a.txt": "changed\n", "new.txt": "new\n"})
    shop = at(workshop, top)
    path = writer(shop, dirty=mode)
    if expected is None:
        assert "1 modified, 1 untracked" in await refused(shop, "dirty-checkout", path)
        return
    result, files = await works(shop, path)
    assert set(files) == expected
    assert show(top, result.commits["repo"], "a.txt") == "one"


async def test_huge_untracked_files_are_left_out_and_named(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = make_repo(tmp_path / "huge")
    with (top / "core.dump").open("wb") as file:
        file.truncate(11 << 30)  # sparse: it takes no space
    monkeypatch.setattr(staging, "TOTAL_LIMIT", 100)
    write(top, {"a-little.txt": "x" * 60, "more.txt": "x" * 60})
    os.mkfifo(top / "pipe")
    shop = at(workshop, top)

    result = await shop.run(writer(shop))

    assert result.record.status == "completed", result.record.error
    assert set(files_of(top, result.commits["repo"])) == {"a.txt", "src/b.py", "a-little.txt", MADE}
    assert "left out of the base: core.dump (too-large), more.txt (too-much)" in told(shop)


async def test_what_an_agent_makes_and_no_commit_holds_is_named_once(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "FILE_LIMIT", 1000)
    shop = at(workshop, make_repo(tmp_path / "app2"))
    path = writer(shop, shell("git init -q inner; printf %2000s x > big.bin"), writes("more.txt", "x"))
    _, files = await works(shop, path)
    assert set(files) == {"a.txt", "src/b.py", MADE, "more.txt"}
    warned = "repo: in no commit of the session: big.bin (too-large), inner/ (nested-repo)"
    assert told(shop).count("in no commit of the session") == told(shop).count(warned) == 1


# --- kinds of repositories


def empty(top: Path) -> Path:
    (make_repo(top, {}) / ".git/logs/refs/heads").mkdir(parents=True)  # git makes them with the first branch of anybody
    return top


def detached(top: Path) -> Path:
    git(make_repo(top), "checkout", "-q", "--detach")
    return top


def shallow(top: Path) -> Path:
    origin = make_repo(top.parent / "origin")
    write(origin, {"a.txt": "two\n"})
    git(origin, "commit", "-qam", "second")
    git(top.parent, "clone", "-q", "--depth=1", f"file://{origin}", str(top))
    return top


def linked(top: Path) -> Path:
    git(make_repo(top.parent / "main"), "worktree", "add", "-q", "-b", "other", str(top))
    return top


def sha256(top: Path) -> Path:
    top.mkdir()
    git(top, "init", "-q", "-b", "main", "--object-format=sha256")
    write(top, {"a.txt": "one\n"})
    git(top, "add", "-A")
    git(top, "commit", "-qm", "first")
    return top


def split_git_directory(top: Path) -> Path:
    top.mkdir()
    git(top, "init", "-q", "-b", "main", f"--separate-git-dir={top.parent / 'elsewhere.git'}")
    write(top, {"a.txt": "one\n"})
    git(top, "add", "-A")
    git(top, "commit", "-qm", "first")
    return top


def sparse(top: Path) -> Path:
    git(make_repo(top), "sparse-checkout", "set", "src")
    return top


@pytest.mark.parametrize("kind", [empty, detached, shallow, linked, sha256, split_git_directory, sparse])
async def test_a_session_works_in_a_repository_of_every_kind(
    workshop: Workshop, tmp_path: Path, kind: Callable[[Path], Path]
) -> None:
    top = kind(tmp_path / "odd")
    head = git(top, "symbolic-ref", "-q", "HEAD", ok=False), git(top, "rev-parse", "-q", "--verify", "HEAD", ok=False)

    result, files = await works(at(workshop, top))

    assert MADE in files
    assert set(files) - {MADE} == set(git(top, "ls-files").splitlines())
    assert git(top, "rev-parse", result.branches["repo"]) == result.commits["repo"]
    assert head == (
        git(top, "symbolic-ref", "-q", "HEAD", ok=False),
        git(top, "rev-parse", "-q", "--verify", "HEAD", ok=False),
    )


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    git(tmp_path, "clone", "-q", "--bare", str(make_repo(tmp_path / "origin")), "bare.git")
    return tmp_path / "bare.git"


async def test_a_bare_repository_can_be_read(workshop: Workshop, bare: Path) -> None:
    result = await workshop.run(reader(workshop), repos={"repo": str(bare)})

    assert result.record.status == "completed", result.record.error
    (read,) = [event for event in workshop.events if event.type == "tool_ended"]
    assert read.payload["ok"]
    assert git(bare, "for-each-ref", "refs/heads") == git(bare.parent / "origin", "for-each-ref", "refs/heads")


async def test_a_writer_in_a_bare_repository_is_refused_at_the_start(workshop: Workshop, bare: Path) -> None:
    refs = git(bare, "for-each-ref")
    with pytest.raises(OrchestraError) as caught:
        await workshop.run(writer(workshop), repos={"repo": str(bare)})
    assert (caught.value.code, caught.value.exit_code) == ("bare-repository", 2)
    assert "'writer' needs its files" in caught.value.message
    assert f"git clone '{bare}'" in str(caught.value.hint)
    assert git(bare, "for-each-ref") == refs
    assert session_ids(workshop.repo.path) == []


@pytest.mark.parametrize(
    ("begin", "code"),
    [
        (["merge", "other"], "operation-in-progress"),
        (["rebase", "other"], "operation-in-progress"),
        (["cherry-pick", "other"], "operation-in-progress"),
        (["stash", "pop"], "unmerged-entries"),
    ],
)
async def test_a_checkout_in_the_middle_of_something_is_refused(
    workshop: Workshop, tmp_path: Path, begin: list[str], code: str
) -> None:
    top = make_repo(tmp_path / "busy")
    write(top, {"a.txt": "stashed\n"})
    git(top, "stash")
    git(top, "checkout", "-qb", "other")
    write(top, {"a.txt": "theirs\n"})
    git(top, "commit", "-qam", "theirs")
    git(top, "checkout", "-q", "main")
    write(top, {"a.txt": "ours\n"})
    git(top, "commit", "-qam", "ours")
    git(top, *begin, ok=False)
    assert str(top) in (said := await refused(at(workshop, top), code)) or "a.txt" in said


# --- repositories in repositories


ALLOW = ("-c", "protocol.file.allow=always")


def with_submodule(tmp_path: Path) -> Path:
    make_repo(tmp_path / "library", {"lib.py": "one\n"})
    top = make_repo(tmp_path / "outer")
    git(top, *ALLOW, "submodule", "add", "-q", str(tmp_path / "library"), "lib")
    git(top, "commit", "-qm", "submodule")
    return top


@pytest.mark.parametrize("state", ["clean", "dirty", "moved", "uninitialised"])
async def test_a_submodule_keeps_the_commit_that_the_checkout_has(
    workshop: Workshop, tmp_path: Path, state: str
) -> None:
    top = with_submodule(tmp_path)
    expected = git(top, "rev-parse", "HEAD:lib")
    if state == "dirty":
        write(top, {"lib/lib.py": "changed\n", "lib/new.py": "new\n"})
    elif state == "moved":
        write(top, {"lib/lib.py": "changed\n"})
        git(top / "lib", "commit", "-qam", "moved")
        expected = git(top / "lib", "rev-parse", "HEAD")
    elif state == "uninitialised":
        git(tmp_path, *ALLOW, "clone", "-q", str(top), "clone")
        top = tmp_path / "clone"
    inside = fingerprint(top / "lib") if state != "uninitialised" else {}

    _, files = await works(at(workshop, top))

    assert files["lib"] == f"160000 commit {expected}"
    assert set(files) == {".gitmodules", "a.txt", "src/b.py", "lib", MADE}
    assert inside == (fingerprint(top / "lib") if inside else {})


@pytest.mark.parametrize("commits", [True, False], ids=["with commits", "without commits"])
async def test_a_nested_repository_is_left_out_and_named(workshop: Workshop, tmp_path: Path, commits: bool) -> None:
    top = make_repo(tmp_path / "outer")
    nested = make_repo(top / "vendor/nested", {"n.txt": "n\n"} if commits else {})
    write(nested, {"untracked.txt": "x\n"})
    shop = at(workshop, top)

    _, files = await works(shop)

    assert set(files) == {"a.txt", "src/b.py", MADE}
    assert "vendor/nested/ (nested-repo)" in told(shop)


# --- filters


@pytest.fixture
def only_git_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH without git-lfs, whatever this machine has."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for program in ("git", "sh", "cat", "sed", "tr", "false"):
        (directory / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(directory))
    return directory


def with_filter(top: Path, name: str, **commands: str) -> Path:
    """A repository in which `*.bin` has a filter that is configured after the commit, as on another machine."""
    make_repo(top, {})
    write(top, {".gitattributes": f"*.bin filter={name}\n", "a.bin": "pointer\n", "a.txt": "one\n"})
    for path in top.glob("*.*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))  # just written, git would read them again to see a change
    git(top, "add", "-A")
    git(top, "commit", "-qm", "first")
    for key, value in commands.items():
        git(top, "config", f"filter.{name}.{key}", value)
    return top


LFS = {
    "clean": "git-lfs clean -- %f",
    "smudge": "git-lfs smudge -- %f",
    "process": "git-lfs filter-process",
    "required": "true",
}


@pytest.mark.usefixtures("only_git_in_path")
async def test_lfs_files_are_pointers_where_git_lfs_is_missing(workshop: Workshop, tmp_path: Path) -> None:
    top = with_filter(tmp_path / "lfs", "lfs", **LFS)
    write(top, {"new.bin": "dirty\n"})
    shop = at(workshop, top)
    index = (top / ".git/index").read_bytes()

    result = await shop.run(writer(shop, writes("b.bin", "new\n"), shell("cat a.bin")))

    assert result.record.status == "completed", result.record.error
    assert (top / ".git/index").read_bytes() == index
    names = {"a.bin": "pointer", "new.bin": "dirty", "b.bin": "new"}
    assert {name: show(top, result.commits["repo"], name) for name in names} == names
    assert told(shop).count("git-lfs is not installed") == 1
    again = await shop.resume(result.record.session_id)
    assert again.record.status == "completed"


@pytest.mark.usefixtures("only_git_in_path")
async def test_lfs_that_nothing_uses_is_not_mentioned(workshop: Workshop, tmp_path: Path) -> None:
    top = make_repo(tmp_path / "plain")
    for key, value in LFS.items():
        git(top, "config", f"filter.lfs.{key}", value)
    shop = at(workshop, top)
    await works(shop)
    assert "lfs" not in told(shop)


@pytest.mark.parametrize("committed", ["pointer", "content"], ids=["pointers", "files that should be pointers"])
async def test_with_git_lfs_files_are_pointers_too(
    workshop: Workshop, tmp_path: Path, only_git_in_path: Path, committed: str
) -> None:
    program = only_git_in_path / "git-lfs"
    program.write_text(
        "#!/bin/sh\n"
        'case "$1$GIT_LFS_SKIP_SMUDGE" in\n'
        "smudge1) cat;; smudge) sed s/pointer/content/;; *) sed s/content/pointer/;; esac"
    )
    program.chmod(0o755)
    top = make_repo(tmp_path / "lfs", {".gitattributes": "*.bin filter=lfs\n", "a.bin": f"{committed}\n"})
    for key in ("clean", "smudge", "required"):
        git(top, "config", f"filter.lfs.{key}", LFS[key])
    os.utime(top / "a.bin", (2_000_000_000, 2_000_000_000))  # so that git looks at it again
    shop = at(workshop, top)

    result = await shop.run(writer(shop, writes("b.bin", "content\n"), shell("cat a.bin > seen.txt")))

    assert result.record.status == "completed", result.record.error
    assert show(top, result.commits["repo"], "b.bin") == "pointer"
    assert show(top, result.commits["repo"], "a.bin") == "pointer"  # as `git add -A` does
    assert show(top, result.commits["repo"], "seen.txt") == "pointer"
    assert "lfs" not in told(shop)


@pytest.mark.usefixtures("only_git_in_path")
@pytest.mark.parametrize(
    ("commands", "code", "said"),
    [
        ({"clean": "no-such-crypt clean", "smudge": "no-such-crypt smudge"}, "filter-missing", "install no-such-crypt"),
        ({"process": "tools/no-such-filter"}, "filter-missing", "tools/no-such-filter"),
        ({"clean": "cat", "smudge": "false"}, "filter-failed", "smudge filter crypt failed"),
        ({"clean": "false", "smudge": "cat"}, "filter-failed", "clean filter 'crypt' failed"),
    ],
)
async def test_a_required_filter_that_can_not_run_is_refused(
    workshop: Workshop, tmp_path: Path, commands: dict[str, str], code: str, said: str
) -> None:
    top = with_filter(tmp_path / "crypt", "crypt", **commands, required="true")
    shop = at(workshop, top)
    message = await refused(shop, code)
    assert said in message
    assert "'a.bin' has filter=crypt" in message
    result = await shop.run(reader(shop))  # reading needs no filter
    assert result.record.status == "completed", result.record.error


@pytest.mark.usefixtures("only_git_in_path")
@pytest.mark.parametrize(
    ("commands", "said"),
    [
        ({"clean": "tr a-z A-Z", "smudge": "tr A-Z a-z", "required": "true"}, ""),
        ({"clean": "f() { cat; }; f", "smudge": "cat", "required": "true"}, ""),
        ({"clean": "no-such-filter"}, "the filter 'some' needs 'no-such-filter', which is not installed"),
    ],
)
async def test_other_filters_act_as_in_git(
    workshop: Workshop, tmp_path: Path, commands: dict[str, str], said: str
) -> None:
    top = with_filter(tmp_path / "some", "some", **commands)
    shop = at(workshop, top)
    result = await shop.run(writer(shop, writes("b.bin", "new\n")))
    assert result.record.status == "completed", result.record.error
    wanted = "NEW" if "tr a-z A-Z" in commands["clean"] else "new"
    assert show(top, result.commits["repo"], "b.bin") == wanted
    assert said in told(shop)
    assert ("filter" in told(shop)) == bool(said)


# --- what must not run


async def test_no_hook_and_no_signer_runs(workshop: Workshop, tmp_path: Path) -> None:
    top = make_repo(tmp_path / "hooked")
    canaries, hooks = tmp_path / "canaries", tmp_path / "hooks"
    canaries.mkdir()
    hooks.mkdir()
    for name in (*HOOKS, "signer"):
        for directory in (hooks, top / ".git/hooks"):
            (directory / name).write_text(f'#!/bin/sh\ntouch "{canaries}/{name}"\nexit 1\n')
            (directory / name).chmod(0o755)
    write(top, {"a.txt": "dirty\n"})
    before = fingerprint(top)
    (tmp_path / "home/.gitconfig").write_text(
        f"[core]\nhooksPath = {hooks}\n[commit]\ngpgSign = true\n[gpg]\nprogram = {hooks}/signer\n"
    )

    result = await at(workshop, top).run(writer(at(workshop, top)))

    assert result.record.status == "completed", result.record.error
    assert list(canaries.iterdir()) == []
    assert fingerprint(top) == before
    # The user's own git runs them.
    git(top, "commit", "-qam", "x", ok=False, HOME=str(tmp_path / "home"))
    assert "pre-commit" in {path.name for path in canaries.iterdir()}


@pytest.mark.parametrize("home", [True, False], ids=["useConfigOnly", "no HOME"])
def test_no_identity_is_needed(workshop: Workshop, home: bool) -> None:
    (workshop.home / ".gitconfig").write_text("[user]\nuseConfigOnly = true\n")
    environment = workshop.environment()
    if not home:
        del environment["HOME"]
    done = run(workshop, [str(COMMAND), "run", str(writer(workshop)), "-q"], env=environment)
    assert done.returncode == 0, done.stderr
    assert MADE in workshop.repo.git("ls-tree", "--name-only", workshop.repo.git("branch", "--list", "orch*").strip())


def run(workshop: Workshop, command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    settings: dict[str, Any] = {"cwd": workshop.repo.path, "env": workshop.environment(), **more}
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **settings)


def test_a_session_inside_a_hook_of_a_linked_worktree_touches_only_its_own_repository(
    workshop: Workshop, tmp_path: Path
) -> None:
    """There git sets GIT_DIR, GIT_INDEX_FILE and more, for the repository of the commit that is being made."""
    other = tmp_path / "linked"
    git(make_repo(tmp_path / "main"), "worktree", "add", "-q", "-b", "other", str(other))
    hook = tmp_path / "main/.git/hooks/pre-commit"
    path = writer(workshop)
    hook.write_text(
        f"#!/bin/sh\nenv | grep '^GIT_INDEX_FILE=' > '{tmp_path}/poison' || exit 1\n"
        f"export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=core.bare GIT_CONFIG_VALUE_0=true\n"
        f"'{COMMAND}' -C '{workshop.repo.path}' run '{path}' -q\n"
    )
    hook.chmod(0o755)
    write(other, {"a.txt": "changed\n"})
    refs = git(other, "for-each-ref", "refs/heads/main", "refs/orchestra")
    identity = {
        "GIT_AUTHOR_NAME": "U",
        "GIT_AUTHOR_EMAIL": "u@x",
        "GIT_COMMITTER_NAME": "U",
        "GIT_COMMITTER_EMAIL": "u@x",
    }

    done = run(workshop, ["git", "commit", "-qam", "mine"], cwd=other, env=workshop.environment(**identity))

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "poison").read_text().startswith("GIT_INDEX_FILE=")
    assert git(other, "for-each-ref", "refs/heads/main", "refs/orchestra") == refs
    assert git(other, "show", "--format=%s", "--name-only", "HEAD").split() == ["mine", "a.txt"]
    assert git(other, "status", "--porcelain") == ""
    (branch,) = workshop.repo.git("for-each-ref", "--format=%(refname)", "refs/heads/orchestra").splitlines()
    assert set(files_of(workshop.repo.path, branch)) == {"app.py", "docs/notes.md", MADE}


# --- names


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "loose"])
@pytest.mark.parametrize(
    ("existing", "begins"),
    [("orchestra", "orchestra-odd-"), ("orchestra/odd", "orchestra/odd-"), ("Orchestra/ODD", "orchestra/odd-")],
)
async def test_a_branch_in_the_way_gives_the_session_another_name(
    workshop: Workshop, tmp_path: Path, existing: str, begins: str, packed: bool
) -> None:
    top = make_repo(tmp_path / "clash")
    git(top, "branch", existing)
    if packed:
        git(top, "pack-refs", "--all")
    mine = git(top, "rev-parse", existing)
    result = await at(workshop, top).run(writer(at(workshop, top)))
    assert result.record.status == "completed", result.record.error
    assert result.branches["repo"].removeprefix("refs/heads/").startswith(begins)
    assert git(top, "rev-parse", result.branches["repo"]) == result.commits["repo"]
    assert git(top, "rev-parse", existing) == mine


ODD_NAMES = ["with space", "quo\"te's", "new\nline", "-dash", "tab\t", "ünïcode", "back\\slash", "$(touch x)", "%41;&"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
async def test_a_repository_at_a_path_of_any_name(workshop: Workshop, tmp_path: Path, name: str) -> None:
    top = make_repo(tmp_path / name)
    _, files = await works(at(workshop, top))
    assert set(files) == {"a.txt", "src/b.py", MADE}


async def test_files_of_any_name(workshop: Workshop, tmp_path: Path) -> None:
    top = make_repo(tmp_path / "names")
    raw = [*(os.fsencode(name) for name in ODD_NAMES), b"latin\xe9", b"dir\xff/\xfe", b" ", b"*", b":(top)x"]
    names = [os.fsdecode(name) for name in raw]
    write(top, dict.fromkeys(names, "x\n"))
    git(top, "--literal-pathspecs", "add", "--", *names[::2])
    shop = at(workshop, top)
    done = await shop.run(writer(shop, shell('for f in *; do test -f "$f" && echo more >> "$f"; done; true')))
    assert done.record.status == "completed", done.record.error
    listed = at(workshop, top).repo.git("ls-tree", "-rz", "--name-only", done.commits["repo"]).split("\0")
    assert set(listed) == {*names, "a.txt", "src/b.py", MADE, ""}
    assert at(workshop, top).repo.git("show", f"{done.commits['repo']}:{names[-4]}") == "x"
    assert at(workshop, top).repo.git("show", f"{done.commits['repo']}:{names[-5]}") == "x\nmore"
    assert_sound(top)


# --- where things lie


@pytest.mark.parametrize("through", ["link", "slash", "subdirectory"])
async def test_a_repository_named_in_a_roundabout_way(workshop: Workshop, tmp_path: Path, through: str) -> None:
    top = make_repo(tmp_path / "real")
    (tmp_path / "link").symlink_to(top)
    path = {"link": f"{tmp_path}/link", "slash": f"{top}/", "subdirectory": f"{top}/src"}[through]
    result, _ = await works(workshop, top=top, repos={"repo": path})
    assert git(top, "rev-parse", result.branches["repo"]) == result.commits["repo"]


@pytest.mark.parametrize("place", ["project", "repository"])
@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
async def test_something_else_in_the_place_of_our_directory_is_refused(
    workshop: Workshop, tmp_path: Path, place: str, kind: str
) -> None:
    top = make_repo(tmp_path / "mine")
    own = top / ".orchestra"
    if kind == "file":
        own.write_text("mine\n")
    else:
        own.symlink_to(tmp_path / ("pipelines" if kind == "link" else "nowhere"))
    if place == "project":
        message = await refused(at(workshop, top), "sessions-directory-unusable", top=top)
    else:
        code = "own-directory-is-file" if kind == "file" else "own-directory-is-link"
        message = await refused(workshop, code, top=top, repos={"repo": str(top)})
    assert str(own) in message
    assert not (tmp_path / "nowhere").exists()
    assert own.is_symlink() == (kind != "file")


async def test_two_repos_that_are_one_are_refused(workshop: Workshop, tmp_path: Path) -> None:
    linked(tmp_path / "linked")
    repos = {"a": {"path": str(tmp_path / "main")}, "b": {"path": str(tmp_path / "linked")}}
    pipeline = {
        "name": "twice",
        "agents": {"writer": agent(tools=["a:write-file", "b:read-file"])},
        "workspace": {"repos": repos},
        "graph": chain("writer"),
    }
    path = workshop.pipeline(pipeline, script={"writer": [[says("no")]]})
    assert "'a' and 'b' are the same repository" in await refused(
        workshop, "same-repository", path, top=tmp_path / "main"
    )


async def test_a_project_below_a_repository_that_ignores_nothing(workshop: Workshop, tmp_path: Path) -> None:
    top = make_repo(tmp_path / "outer", {"a.txt": "one\n", "team/orchestra.yaml": "{}\n"})
    shop = at(workshop, top / "team")
    result = await shop.run(writer(shop), repos={"repo": str(top)})
    assert result.record.status == "completed", result.record.error
    assert set(files_of(top, result.commits["repo"])) == {"a.txt", "team/orchestra.yaml", MADE}
    assert git(top, "status", "--porcelain", "--untracked-files=all") == ""


def test_two_sessions_at_once_in_one_repository(workshop: Workshop) -> None:
    path = writer(workshop, shell("sleep 0.2"))
    processes = [workshop.start("run", path, "--json") for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said
    branches = workshop.repo.git("for-each-ref", "--format=%(refname)", "refs/heads/orchestra").splitlines()
    assert len(branches) == 2
    for branch in branches:
        assert MADE in files_of(workshop.repo.path, branch)
    assert_sound(workshop.repo.path)
