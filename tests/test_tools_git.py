# ruff: noqa: ASYNC221, ASYNC240  a test may block its own loop
from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.tools_support import ENV, RealGit, Workspace, commit, git, make_repo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_repo(tmp_path / "backend", {"a.py": "x = 1\n", "old.py": "".join(f"{n}\n" for n in range(20))})
    git(root, "switch", "-qc", "feature")
    commit(root, {"a.py": "x = 2\n", "dir/b.py": "b\n"}, "change a\n\nbecause")
    return root


@pytest.fixture
def workspace(root: Path) -> Workspace:
    return Workspace(root)


async def test_the_diff_shows_edits_new_files_deletions_and_renames(workspace: Workspace, root: Path) -> None:
    (root / "a.py").write_text("x = 3\n")
    (root / "new.py").write_text("n = 1\nend")
    (root / "dir/b.py").unlink()
    text = await workspace.text("git-diff")
    assert text.startswith("3 files changed, +3 -2 lines\n  a.py | +1 -1\n  dir/b.py | +0 -1\n  new.py | +2 -0\n")
    assert "-x = 2\n+x = 3" in text
    assert "+++ b/new.py\n@@ -0,0 +1,2 @@\n+n = 1\n+end\n\\ No newline at end of file" in text
    assert "new.py" not in await workspace.text("git-diff", path="a.py")
    assert (await workspace.text("git-diff", path="old.py")).startswith("no change since the session's start")


async def test_without_a_worktree_the_diff_ends_at_head(root: Path) -> None:
    workspace = Workspace(root, worktree=False)
    workspace.change("backend", base=git(root, "rev-parse", "main"))
    (root / "a.py").write_text("x = 99\n")
    text = await workspace.text("git-diff")
    assert "+x = 2" in text
    assert "99" not in text


async def test_the_diff_against_another_revision(workspace: Workspace) -> None:
    for base in ("main", "HEAD~1", "HEAD^", "@~1"):
        assert "-x = 1\n+x = 2" in await workspace.text("git-diff", base=base)
    assert "did you mean 'main'?" in await workspace.refusal("git-diff", base="mian")
    assert "`git fetch origin zzz`" in await workspace.refusal("git-diff", base="zzz")


async def test_head_is_the_agents_commit_not_the_users(workspace: Workspace, root: Path) -> None:
    workspace.change("backend", head=git(root, "rev-parse", "main"))
    assert "first" in await workspace.text("git-show", rev="HEAD")
    assert "change a" not in await workspace.text("git-log")


async def test_one_huge_file_leaves_room_for_the_others(workspace: Workspace, root: Path) -> None:
    files: dict[str, str | bytes] = {f"src/m{n}.py": f"value = {n}\n" * 3 for n in range(20)}
    commit(root, files | {"package-lock.json": "".join(f'  "dep{n}": "1.0",\n' for n in range(30_000))}, "lock")
    text = await workspace.text("git-diff", base="HEAD")
    assert len(text) < 30_000
    assert all(f"+value = {n}\n" in text for n in range(20))
    assert "more lines of this file's patch; ask with `path`" in text
    commit(root, {"huge.json": "x\n" * 60_000}, "huge")
    assert "the patch of huge.json is too large to show" in await workspace.text("git-show", rev="feature")


async def test_many_files_are_counted(workspace: Workspace, root: Path) -> None:
    commit(root, {f"d/f{n}.txt": "one line of text\n" * 50 for n in range(500)}, "many")
    text = await workspace.text("git-show", rev="feature")
    assert len(text) <= 30_000
    assert "500 files changed" in text
    assert "… and 420 more files" in text
    assert "more files are not shown" in text


async def test_the_log_and_a_commit(workspace: Workspace) -> None:
    assert (await workspace.text("git-log", limit=1)).endswith(
        "A: change a\n… and older commits; raise the limit to see more"
    )
    assert (await workspace.text("git-log", path="old.py")).endswith("first")
    assert await workspace.text("git-log", path="none.py") == "no commit in 'none.py'"
    text = await workspace.text("git-show", rev="feature")
    assert "author A" in text
    assert "because" in text
    assert "+x = 2" in text
    assert "the commit did not change old.py" in await workspace.text("git-show", rev="feature", path="old.py")
    assert "did you mean 'old.py'" in await workspace.refusal("git-show", rev="feature", path="odl.py")


async def test_a_merge_is_shown_as_what_it_brought(workspace: Workspace, root: Path) -> None:
    git(root, "switch", "-qc", "other", "main")
    commit(root, {"c.py": "c\n"}, "c")
    git(root, "switch", "-q", "feature")
    git(root, "merge", "-q", "--no-ff", "-m", "merge other", "other")
    text = await workspace.text("git-show", rev="feature")
    assert "merge other" in text
    assert "1 file changed" in text
    assert "+c" in text


async def test_the_message_of_the_turns_commit_is_only_noted(workspace: Workspace, root: Path) -> None:
    before = git(root, "rev-parse", "HEAD")
    assert "noted" in await workspace.text("git-commit", message="fix: a")
    assert git(root, "rev-parse", "HEAD") == before
    assert not workspace.tools.get("git-commit").writes
    assert "empty" in await workspace.refusal("git-commit", message=" \n")
    assert "Orchestra alone" in await workspace.refusal("git-commit", message="x\n\nOrchestra-Session: abc")


async def test_the_change_under_review_is_from_merge_base_to_base(workspace: Workspace, root: Path) -> None:
    workspace.change("backend", merge_base=git(root, "rev-parse", "main"))
    (root / "later.py").write_text("not reviewed\n")
    text = await workspace.text("local:get-git-diff")
    assert "-x = 1\n+x = 2" in text
    assert "later.py" not in text
    assert "does not touch 'old.py'" in await workspace.text("local:get-git-diff", path="old.py")


async def test_the_change_under_review_against_a_branch_starts_where_it_left(workspace: Workspace, root: Path) -> None:
    git(root, "switch", "-q", "main")
    commit(root, {"main.py": "later on main\n"}, "main moves")
    assert "main.py" not in (text := await workspace.text("local:get-git-diff", base="main"))
    assert "+x = 2" in text


async def test_nothing_to_review_is_said(workspace: Workspace, root: Path) -> None:
    workspace.change("backend", merge_base=git(root, "rev-parse", "HEAD"))
    assert "pass `base`" in await workspace.text("local:get-git-diff")


async def test_a_remote_branch_is_found_by_its_short_name(tmp_path: Path, root: Path) -> None:
    git(root, "switch", "-q", "feature")
    git(tmp_path, "clone", "-q", f"file://{root}", "clone")
    assert "+x = 2" in await Workspace(tmp_path / "clone").text("local:get-git-diff", base="main")


async def test_a_shallow_clone_is_told_what_to_fetch(tmp_path: Path, root: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{root}", "clone")
    workspace = Workspace(tmp_path / "clone")
    assert "git fetch --unshallow" in await workspace.refusal("local:get-git-diff")
    assert "git fetch --unshallow" in await workspace.refusal("local:get-git-diff", base="main")
    assert "git fetch origin main" in await Workspace(root).refusal("local:get-git-diff")


async def test_with_several_repositories_the_repo_is_asked_for(tmp_path: Path, root: Path) -> None:
    other = make_repo(tmp_path / "frontend", {"a.ts": "1\n"})
    workspace = Workspace(root, other)
    message = await workspace.refusal("local:get-git-diff", base="HEAD")
    assert "argument 'repo' is missing" in message
    assert 'one of "backend", "frontend"' in message
    assert "+x = 2" in await workspace.text("local:get-git-diff", repo="backend", base="main")
    assert "did you mean 'frontend'?" in await workspace.refusal("local:get-git-diff", repo="fronted")


def hostile_revisions(canary: Path) -> list[str]:
    options = [
        f"--output={canary}",
        f"--upload-pack=touch {canary}",
        "--ext-diff",
        "--textconv",
        "-p",
        "-O",
        "--help",
        "--",
        "-",
        f"--exec=touch {canary}",
        "--no-index",
        "--git-dir=/",
        "-c",
        "--all",
        "--not",
        "--stdin",
        "--branches",
        "--glob=*",
        "--end-of-options",
        f"-o{canary}",
        "--open-files-in-pager",
        "--contents=/etc/passwd",
        "--since=1",
        "--reflog",
    ]
    addresses = [
        f"ext::sh -c touch% {canary}",
        "file:///etc",
        "https://example.org/x",
        "git@host:x",
        "/etc/passwd",
        "fd::1",
    ]
    ranges = [
        "main..feature",
        "main...feature",
        "^main",
        "main..",
        "..",
        ":/first",
        ":0:a.py",
        "main:a.py",
        "HEAD:.git",
    ]
    odd = [
        "",
        " ",
        "\n",
        "main\n--output=x",
        "main\0",
        "main\t",
        "a" * 5_000,
        f"$(touch {canary})",
        f"`touch {canary}`",
        f"; touch {canary}",
        f"| touch {canary}",
        "main@{upstream}",
        "@{-1}",
        "main@{1000}",
        "refs/../../x",
        "\u2028main",
        "m\u0430in",
        "main^{blob}",
        "main^{/x}",
        "main~99999999999999999999",
        "main^{commit}^{tree}",
        "*",
        "refs/heads/*",
        "\\",
        "main ",
        " main",
        "'",
        '"',
        "%s",
        "{}",
        "HEAD@{1 day ago}",
        "main^-",
        "main^!",
        "main^@",
        "../../etc/passwd",
    ]
    shas = ["0" * 40, "f" * 40, "deadbeef", "0", "1e5"]
    doubled = [
        f"--{end}" for end in ("output", "format=%H", "diff-filter=A", "src-prefix=x", "ignore-revs-file=/etc/passwd")
    ]
    dashed = [
        f"-{rev}"
        for rev in ("main", "HEAD", "n1", "S", "G.", "L1,2:a.py", "w", "z", "1", "U0", "M", "C", "R", "i", "E")
    ]
    return options + addresses + ranges + odd + shas + doubled + dashed


async def test_no_revision_becomes_an_option_or_runs_anything(tmp_path: Path, root: Path) -> None:
    canary = tmp_path / "canary"
    workspace = Workspace(root)
    revisions = hostile_revisions(canary)
    assert len(set(revisions)) >= 90
    before = git(root, "for-each-ref"), sorted(root.iterdir())
    for rev in revisions:
        for tool, args in (
            ("git-diff", {"base": rev}),
            ("git-show", {"rev": rev}),
            ("local:get-git-diff", {"base": rev}),
        ):
            result = await workspace.call(tool, **args)
            # `main^!` and the like name a commit, too; what counts is that nothing else happens.
            assert not result.ok or rev.startswith("main"), (tool, rev, result.content)
            assert "root:" not in result.content
    assert not canary.exists()
    assert (git(root, "for-each-ref"), sorted(root.iterdir())) == before
    runner = workspace.contexts["backend"].git
    assert isinstance(runner, RealGit)
    for call in runner.calls:
        data = call.index("--end-of-options") if call[0] == "rev-parse" and "--verify" in call else len(call)
        assert not any(str(canary) in argument for argument in call[:data])


def test_control_git_itself_obeys_such_a_revision(tmp_path: Path, root: Path) -> None:
    canary = tmp_path / "canary"
    subprocess.run(["git", "diff", f"--output={canary}", "main"], cwd=root, env=ENV, check=True)
    assert canary.exists()


async def test_no_diff_driver_of_the_repository_runs(tmp_path: Path, root: Path) -> None:
    canary = tmp_path / "canary"
    commit(root, {".gitattributes": "*.py diff=evil\n"}, "attributes")
    git(root, "config", "diff.evil.textconv", f"touch {canary};cat")
    git(root, "config", "diff.evil.command", f"touch {canary};true")
    git(root, "config", "diff.external", f"touch {canary};true")
    git(root, "config", "log.showSignature", "true")
    git(root, "config", "gpg.program", f"touch {canary};true")
    (root / "a.py").write_text("x = 5\n")
    workspace = Workspace(root)
    for tool, args in (
        ("git-diff", {}),
        ("git-diff", {"base": "main"}),
        ("git-show", {"rev": "feature~1"}),
        ("git-log", {}),
        ("local:get-git-diff", {"base": "main"}),
        ("search-code", {"pattern": "x"}),
        ("git-show", {"rev": "HEAD", "path": "a.py"}),
    ):
        await workspace.text(tool, **args)
    assert not canary.exists()
    subprocess.run(["git", "diff"], cwd=root, env=ENV, check=True, capture_output=True)
    assert canary.exists(), "the control: plain git runs the driver"


async def test_the_configuration_of_a_nested_repository_runs_nothing(tmp_path: Path, root: Path) -> None:
    canary = tmp_path / "canary"
    nested = make_repo(root / "nested", {"n.py": "1\n"})
    git(root, "add", "nested")
    git(root, "commit", "-qm", "a submodule")
    git(nested, "config", "core.fsmonitor", f"touch {canary};false")
    (nested / "n.py").write_text("2\n")
    workspace = Workspace(root)
    for tool, args in (
        ("git-diff", {}),
        ("git-diff", {"base": "main"}),
        ("git-show", {"rev": "HEAD"}),
        ("list-files", {}),
        ("search-code", {"pattern": "."}),
        ("local:get-git-diff", {"base": "main"}),
    ):
        await workspace.text(tool, **args)
    assert not canary.exists()
    subprocess.run(["git", "diff"], cwd=root, env=ENV, check=True, capture_output=True)
    assert canary.exists(), "the control: plain git looks into the nested repository"
