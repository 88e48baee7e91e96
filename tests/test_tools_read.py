from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from orchestra.tools.globs import expand_glob, matcher
from tests.tools_support import RealGit, Workspace, git, make_repo

if TYPE_CHECKING:
    from pathlib import Path

FILES: dict[str, str | bytes] = {
    ".gitignore": "*.log\nbuild/\n",
    "README.md": "# Title\n",
    "src/app.py": "import os\n\n\ndef main():\n    return os.getcwd()\n",
    "src/deep/er/util.py": "def helper():\n    return 1  # main\n",
    "src/web/a.ts": "const main = 1\n",
    "src/web/b.tsx": "const other = 2\n",
    "data.bin": b"\x00\x01\x02",
    "latin.txt": b"caf\xe9\n",
    "crlf.txt": "one\r\ntwo\r\n",
    "empty.txt": "",
    "no-end.txt": "last",
    "long.txt": "".join(f"line {number}\n" for number in range(1, 20_001)),
}


@pytest.fixture(params=[True, False], ids=["worktree", "objects"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    root = make_repo(tmp_path / "backend", FILES)
    (root / "link.py").symlink_to("src/app.py")
    (root / "away").symlink_to("/etc")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "links")
    return Workspace(root, worktree=request.param)


async def test_a_file_is_shown_with_line_numbers(workspace: Workspace) -> None:
    text = await workspace.text("read-file", path="src/app.py", start=4, end=9)
    assert text == "src/app.py, lines 4-5 of 5\n     4\tdef main():\n     5\t    return os.getcwd()"


async def test_a_long_file_says_how_to_read_on(workspace: Workspace) -> None:
    text = await workspace.text("read-file", path="long.txt")
    assert "of 20,000" in text
    rest = int(text.rsplit("start=", 1)[1].split()[0])
    assert f"line {rest - 1}\n" in text
    assert f"{rest:>6}\tline {rest}" in await workspace.text("read-file", path="long.txt", start=rest)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("latin.txt", "not UTF-8"),
        ("crlf.txt", "CRLF"),
        ("no-end.txt", "no line break at the end"),
        ("empty.txt", "is empty"),
    ],
)
async def test_what_is_odd_about_a_file_is_said(workspace: Workspace, path: str, said: str) -> None:
    assert said in await workspace.text("read-file", path=path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data.bin", "binary file of 3 bytes"),
        ("src", "is a directory; list-files with 'src/**'"),
        ("src/ap.py", "did you mean 'app.py'?"),
        ("scr/app.py", "did you mean 'src'?"),
        ("src/app.py/x", "is a file, not a directory"),
        ("link.py", "symlink to 'src/app.py'"),
        ("away/passwd", "symlink"),
        ("", "the path is empty"),
        ("src/app.py\0", "NUL"),
    ],
)
async def test_what_cannot_be_read_is_explained(workspace: Workspace, path: str, said: str) -> None:
    assert said in await workspace.refusal("read-file", path=path)


async def test_a_range_that_is_not_there_is_explained(workspace: Workspace) -> None:
    assert "has 1 lines" in await workspace.refusal("read-file", path="README.md", start=7)
    assert "comes before" in await workspace.refusal("read-file", path="long.txt", start=7, end=3)
    assert "at least 1" in await workspace.refusal("read-file", path="long.txt", start=0)


async def test_an_absolute_path_below_the_worktree_gets_the_right_one_as_hint(tmp_path: Path) -> None:
    workspace = Workspace(make_repo(tmp_path / "backend", FILES))
    message = await workspace.refusal("read-file", path=f"{tmp_path}/backend/src/app.py")
    assert "absolute path" in message
    assert "use 'src/app.py'" in message


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.py", ["link.py", "src/app.py", "src/deep/er/util.py"]),
        ("src/*.py", ["src/app.py"]),
        ("src/**/*.py", ["src/app.py", "src/deep/er/util.py"]),
        ("**/util.py", ["src/deep/er/util.py"]),
        ("src/**/*.{ts,tsx}", ["src/web/a.ts", "src/web/b.tsx"]),
        ("src/web/", ["src/web/a.ts", "src/web/b.tsx"]),
        ("web", ["src/web/a.ts", "src/web/b.tsx"]),
        ("./src/[ab]*.py", ["src/app.py"]),
        ("src/web/?.ts", ["src/web/a.ts"]),
    ],
)
async def test_globs_choose_files(workspace: Workspace, glob: str, found: list[str]) -> None:
    assert (await workspace.call("list-files", glob=glob)).value == found


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("**", "a/b", True),
        ("**/x/**/y", "x/y", True),
        ("**/x/**/y", "a/x/b/x/c/y", True),
        ("**/x/**/y", "a/x/b/y/c", False),
        ("a/**/b/*.py", "a/b/c.py", True),
        ("a/**/b/*.py", "a/c/b/b/d.py", True),
        ("a/**", "a", False),
        ("*a*b*a", "aabaabca.d", False),
        ("*a*b*a", "aabaabca", True),
        ("a[!b]c", "abc", False),
        ("a[!b]c", "adc", True),
        ("a[b", "a[b", True),
        ("[]-a]x", "]x", True),
        ("a\\*", "a*", True),
        ("a.c", "abc", False),
    ],
)
def test_globs_mean_what_git_means(glob: str, path: str, matches: bool) -> None:
    assert bool(matcher([glob]).fullmatch(path)) is matches


def test_a_glob_full_of_stars_takes_no_time() -> None:
    began = time.process_time()
    for glob in ("*a" * 100 + "b", "**/a/" * 100 + "b", "*a**a" * 50):
        for pattern in expand_glob(glob):
            matcher([pattern]).fullmatch("a" * 250)
            matcher([pattern]).fullmatch("a/" * 120 + "c")
    assert time.process_time() - began < 2


async def test_listing_names_what_is_left_out(workspace: Workspace) -> None:
    text = await workspace.text("list-files", limit=3)
    assert text.startswith(".gitignore\nREADME.md\naway\n… and ")
    assert "no file matches '*.rs'" in await workspace.text("list-files", glob="*.rs")
    assert "refused" in await workspace.refusal("list-files", glob="../*")
    assert ".git" in await workspace.refusal("list-files", glob=".git/*")


async def test_a_worktree_lists_new_files_and_neither_ignored_nor_deleted_ones(tmp_path: Path) -> None:
    root = make_repo(tmp_path / "backend", FILES)
    (root / "new.py").write_text("x\n")
    (root / "debug.log").write_text("x\n")
    (root / "README.md").unlink()
    names = (await Workspace(root).call("list-files")).value
    assert "new.py" in names
    assert "debug.log" not in names
    assert "README.md" not in names


async def test_search_finds_lines_with_their_context(workspace: Workspace) -> None:
    text = await workspace.text("search-code", pattern=r"def \w+\(", glob="src/**", context=1)
    assert text == (
        "2 matching lines in 2 files\n"
        "src/app.py-3- \nsrc/app.py:4: def main():\nsrc/app.py-5-     return os.getcwd()\n--\n"
        "src/deep/er/util.py:1: def helper():\nsrc/deep/er/util.py-2-     return 1  # main"
    )


async def test_search_names_what_its_limit_left_out(workspace: Workspace) -> None:
    text = await workspace.text("search-code", pattern="^line", limit=2)
    assert text.startswith("20,000 matching lines in 1 file\nlong.txt:1: line 1\nlong.txt:2: line 2\n… and 19,998 more")
    assert "no line matches 'zzz'" in await workspace.text("search-code", pattern="zzz")


async def test_search_globs_mean_what_list_globs_mean(workspace: Workspace) -> None:
    for glob in ("*.py", "src/**/*.{ts,tsx}", "web", "src/*.py", "src/web/", "./src/[ab]*.py"):
        listed = [name for name in (await workspace.call("list-files", glob=glob)).value if name != "link.py"]
        text = await workspace.text("search-code", pattern=".", glob=glob, limit=1_000)
        assert sorted({line.split(":")[0] for line in text.split("\n")[1:]}) == listed, glob


@pytest.mark.parametrize("pattern", ["(", "[a", "*a", "a{2,1}", "(?<x", "\\"])
async def test_a_bad_regex_is_explained(workspace: Workspace, pattern: str) -> None:
    assert "no valid regular expression" in await workspace.refusal("search-code", pattern=pattern)


@pytest.mark.parametrize("pattern", ["-n", "--help", "-O touch", "--open-files-in-pager=touch canary", "-f/etc/passwd"])
async def test_a_pattern_that_looks_like_an_option_is_searched_for(workspace: Workspace, pattern: str) -> None:
    assert "no line matches" in await workspace.text("search-code", pattern=pattern)
    runner = workspace.contexts["backend"].git
    assert isinstance(runner, RealGit)
    assert all(pattern not in call for call in runner.calls), "never an argument of its own"


async def test_a_catastrophic_pattern_is_given_up(tmp_path: Path) -> None:
    workspace = Workspace(make_repo(tmp_path / "r", {"a.txt": ("a" * 5_000 + "!\n") * 200}))
    began = time.monotonic()
    result = await workspace.call("search-code", pattern=r"^(a|a|aa|a?a)+$")
    assert time.monotonic() - began < 40
    assert not result.ok
    assert "simpler" in result.content or "did not end" in result.content


async def test_search_sees_untracked_but_not_ignored_files(tmp_path: Path) -> None:
    root = make_repo(tmp_path / "r", FILES)
    (root / "new.py").write_text("needle\n")
    (root / "x.log").write_text("needle\n")
    assert "new.py:1" in (text := await Workspace(root).text("search-code", pattern="needle"))
    assert "x.log" not in text


async def test_search_shows_nothing_from_behind_a_link(tmp_path: Path) -> None:
    root = make_repo(tmp_path / "r", {"src/secret.txt": "needle\n"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("needle and more\n")
    (root / "src" / "secret.txt").unlink()
    (root / "src").rmdir()
    (root / "src").symlink_to(outside)
    assert "more" not in (await Workspace(root).call("search-code", pattern="needle")).content


async def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    root = make_repo(tmp_path / "r", FILES)
    os.mkfifo(root / "pipe")
    workspace = Workspace(root)
    assert "is a FIFO" in await workspace.refusal("read-file", path="pipe")
    assert "is a FIFO" in await workspace.refusal("write-file", path="pipe", content="x")
    assert "is a FIFO" in await workspace.refusal("edit-file", path="pipe", old="x", new="y")
