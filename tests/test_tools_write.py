# ruff: noqa: ASYNC240  a test may block its own loop
from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from tests.tools_support import Workspace, make_repo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repo(
        tmp_path / "backend",
        {
            "a.py": "x = 1\ny = 2\nx = 3\n",
            "crlf.txt": "one\r\ntwo\r\nthree\r\n",
            "mixed.txt": "one\r\ntwo\nthree\n",
            "latin.txt": b"caf\xe9 one\n",
            "data.bin": b"\x00one",
            "dir/b.py": "b\n",
        },
    )


@pytest.fixture
def workspace(root: Path) -> Workspace:
    return Workspace(root)


async def test_writing_creates_the_directories(workspace: Workspace, root: Path) -> None:
    assert await workspace.text("write-file", path="new/deep/c.py", content="a\nb") == "created new/deep/c.py (2 lines)"
    assert (root / "new/deep/c.py").read_text() == "a\nb"


async def test_writing_keeps_the_mode_and_leaves_nothing_else(workspace: Workspace, root: Path) -> None:
    (root / "a.py").chmod(0o755)
    before = set(root.rglob("*"))
    assert "replaced" in await workspace.text("write-file", path="./a.py", content="z\n")
    assert stat.S_IMODE((root / "a.py").stat().st_mode) == 0o755
    assert set(root.rglob("*")) == before


async def test_a_failed_write_removes_its_temporary_file(workspace: Workspace, root: Path) -> None:
    before = set((root / "dir").iterdir())
    assert "too long" in await workspace.refusal("write-file", path=f"dir/{'n' * 256}", content="x")
    assert set((root / "dir").iterdir()) == before


async def test_a_write_does_not_change_a_file_linked_outside(workspace: Workspace, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (root / "hard").hardlink_to(outside)
    await workspace.text("write-file", path="hard", content="agent")
    assert outside.read_text() == "mine"


async def test_writing_over_a_directory_is_refused(workspace: Workspace) -> None:
    assert "is a directory" in await workspace.refusal("write-file", path="dir", content="x")
    assert "is a file, not a directory" in await workspace.refusal("write-file", path="a.py/b", content="x")


async def test_text_that_is_no_unicode_is_refused(workspace: Workspace) -> None:
    assert "lone surrogate" in await workspace.refusal("write-file", path="a.py", content="\ud800")


async def test_an_edit_replaces_what_occurs_once(workspace: Workspace, root: Path) -> None:
    assert await workspace.text("edit-file", path="a.py", old="y = 2", new="y = 5") == (
        "edited a.py: 1 replacement at line 2"
    )
    assert (root / "a.py").read_text() == "x = 1\ny = 5\nx = 3\n"


async def test_an_ambiguous_edit_names_the_lines(workspace: Workspace, root: Path) -> None:
    assert "occurs 2 times in 'a.py' (lines 1, 3)" in await workspace.refusal(
        "edit-file", path="a.py", old="x", new="z"
    )
    await workspace.text("edit-file", path="a.py", old="x", new="z", all=True)
    assert (root / "a.py").read_text() == "z = 1\ny = 2\nz = 3\n"


async def test_an_edit_that_matches_nothing_shows_the_nearest_lines(workspace: Workspace) -> None:
    assert "     2\ty = 2" in await workspace.refusal("edit-file", path="a.py", old="y = 22", new="")
    assert "white space" in await workspace.refusal("edit-file", path="a.py", old="y  =  2", new="")
    assert "empty" in await workspace.refusal("edit-file", path="a.py", old="", new="x")
    assert "the same" in await workspace.refusal("edit-file", path="a.py", old="x", new="x")
    assert "binary" in await workspace.refusal("edit-file", path="data.bin", old="one", new="x")


@pytest.mark.parametrize(
    ("path", "old", "new", "after"),
    [
        ("crlf.txt", "one\ntwo", "1\n2", b"1\r\n2\r\nthree\r\n"),
        ("crlf.txt", "one\r\ntwo", "1\r\n2", b"1\r\n2\r\nthree\r\n"),
        ("crlf.txt", "two", "2\n2b", b"one\r\n2\r\n2b\r\nthree\r\n"),
        ("mixed.txt", "two\nthree", "2\n3", b"one\r\n2\n3\n"),
        ("mixed.txt", "one\ntwo", "1\n2", b"1\r\n2\nthree\n"),
        ("a.py", "x = 1\r\ny = 2", "q", b"q\nx = 3\n"),
        ("latin.txt", "one", "two", b"caf\xe9 two\n"),
    ],
)
async def test_edits_keep_line_ends_and_bytes(root: Path, path: str, old: str, new: str, after: bytes) -> None:
    await Workspace(root).text("edit-file", path=path, old=old, new=new)
    assert (root / path).read_bytes() == after


async def test_new_text_is_taken_literally(workspace: Workspace, root: Path) -> None:
    await workspace.text("edit-file", path="a.py", old="y = 2", new=r"\1 \g<0> {x} $1")
    assert r"\1 \g<0> {x} $1" in (root / "a.py").read_text()


async def test_deleting_and_moving(workspace: Workspace, root: Path) -> None:
    await workspace.text("move-file", path="a.py", to="pkg/sub/a.py")
    assert (root / "pkg/sub/a.py").exists()
    assert not (root / "a.py").exists()
    assert "does not overwrite" in await workspace.refusal("move-file", path="dir/b.py", to="crlf.txt")
    await workspace.text("delete-file", path="dir/b.py")
    assert not (root / "dir/b.py").exists()
    assert "there is no file" in await workspace.refusal("delete-file", path="dir/b.py")
    assert "is a directory" in await workspace.refusal("delete-file", path="pkg")


async def test_without_a_worktree_writing_is_explained(root: Path) -> None:
    workspace = Workspace(root, worktree=False)
    for tool, args in {
        "write-file": {"path": "a", "content": "x"},
        "edit-file": {"path": "a.py", "old": "x", "new": "y"},
        "delete-file": {"path": "a.py"},
        "move-file": {"path": "a.py", "to": "b.py"},
        "shell": {"command": "touch canary"},
    }.items():
        assert "has no worktree" in await workspace.refusal(tool, **args)
    assert not (root / "canary").exists()
