"""T-PATH and T-RACE: no path that a model writes leads out of the worktree or into .git. Each with its control."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from orchestra.tools.base import ToolFailureError
from orchestra.tools.confinement import is_git_name, parse_path, read_bytes, write_bytes
from tests.tools_support import Workspace, git, make_repo, tree_hash

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-of-the-outside"


def hostile_paths(outside: Path, root: Path) -> list[str]:
    """Paths that lead, or may be taken to lead, to the outside or into .git; `secret.txt` and `sub/` exist there."""
    ups = [
        f"{up}outside/{name}"
        for up in ("../", "../../", "./../", "src/../../", "src/./.././../", "//../")
        for name in ("secret.txt", "new.txt", "sub/secret.txt")
    ]
    absolute = [f"{lead}{outside}/secret.txt" for lead in ("", "/", "//", "/.", "/proc/self/root", "/proc/self/cwd/..")]
    absolute += ["/etc/passwd", "/dev/null", "/proc/self/environ", f"{root}/src/app.py", f"{root}-evil/secret.txt"]
    links = [
        f"{link}{rest}"
        for link in ("away", "src/away", "chain", "updir", "src/../away", "./away", "away/.", "away/")
        for rest in ("/secret.txt", "/sub/secret.txt", "/new.txt", "/sub/../secret.txt")
    ]
    links += ["file-link", "src/file-link", "dangling", "loop", "loop/x", "proc-link/cwd", "proc-link/root/etc/passwd"]
    names: tuple[str, ...] = (
        ".git",
        ".GIT",
        ".Git",
        ".git.",
        ".git ",
        ".git...",
        ".git. .",
        "git~1",
        "GIT~1",
        "git~2",
        ".git::$INDEX_ALLOCATION",
        ".git:stream",
        ".g\u200cit",
        "\u200b.git",
        ".gi\ufefft",
        "\uff0egit",
        ".g\u0131t",
        ".\uff27\uff29\uff34",
        ".git\\hooks",
        "x\\.git",
        ".\u2066git",
    )
    dotgit = [f"{where}{name}{rest}" for name in names for where in ("", "src/", "nested/") for rest in ("", "/config")]
    dotgit += [".git/hooks/post-commit", ".git/HEAD", "src/../.git/config", "./.git/config", ".git//config"]
    nul = ["src/app.py\0", "\0", "src\0/../../outside/secret.txt", "../outside/secret.txt\0.py"]
    specials = [name for name in ("fifo", "socket", "device") if (root / name).exists()]
    long = ["a/" * 3_000 + "x", "n" * 5_000, "../" * 500 + "etc/passwd", "/" * 4_096 + "etc/passwd"]
    odd = ["", ".", "..", "./", "../", "/", "//", "...//..", "..\n/outside/secret.txt\0", "src/..", "src/../.."]
    return ups + absolute + links + dotgit + nul + specials + long + odd


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for file in (outside / "secret.txt", outside / "sub" / "secret.txt"):
        file.write_text(f"{CANARY}\n")
    evil = tmp_path / "backend-evil"
    evil.mkdir()
    (evil / "secret.txt").write_text(f"{CANARY}\n")
    root = make_repo(tmp_path / "backend", {"src/app.py": "x = 1\n", "README.md": "# hi\n"})
    links: dict[str, str | Path] = {
        "away": outside,
        "src/away": outside,
        "chain": "away",
        "updir": "..",
        "file-link": outside / "secret.txt",
        "src/file-link": "../../outside/secret.txt",
        "dangling": outside / "new.txt",
        "loop": "loop",
        "proc-link": "/proc/self",
        "nested": ".git",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(root):
        server.bind("socket")
    with contextlib.suppress(PermissionError):
        os.mknod(root / "device", 0o600 | 0o020000, os.makedev(1, 3))
    return root, outside


def calls_for(path: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("read-file", {"path": path}),
        ("write-file", {"path": path, "content": "pwned"}),
        ("edit-file", {"path": path, "old": CANARY, "new": "pwned"}),
        ("delete-file", {"path": path}),
        ("move-file", {"path": path, "to": "taken.txt"}),
        ("move-file", {"path": "README.md", "to": path}),
        ("list-files", {"glob": path}),
        ("search-code", {"pattern": "canary-of", "glob": path}),
        ("git-diff", {"path": path}),
        ("git-log", {"path": path}),
        ("git-show", {"rev": "HEAD", "path": path}),
        ("local:get-git-diff", {"base": "HEAD", "path": path}),
    ]


async def test_no_hostile_path_escapes_from_any_file_tool(place: tuple[Path, Path]) -> None:
    root, outside = place
    paths = hostile_paths(outside, root)
    assert len(set(paths)) >= 200
    workspace = Workspace(root)
    before = tree_hash(outside), tree_hash(root / ".git"), tree_hash(root.parent / "backend-evil")
    for path in dict.fromkeys(paths):
        for tool, args in calls_for(path)[:6]:
            result = await workspace.call(tool, **args)
            assert not result.ok, (tool, path, result.content)
            assert CANARY not in result.content
            assert "pwned" not in result.content
            assert len(result.content) < 2_000
    assert (tree_hash(outside), tree_hash(root / ".git"), tree_hash(root.parent / "backend-evil")) == before
    assert (root / "README.md").read_text() == "# hi\n"


async def test_no_hostile_path_leaks_through_git_tools(place: tuple[Path, Path]) -> None:
    root, outside = place
    workspace = Workspace(root)
    before = tree_hash(outside)
    # Each call costs processes: every kind of path, not every spelling.
    for path in hostile_paths(outside, root)[::7]:
        for tool, args in calls_for(path)[6:]:
            assert CANARY not in (await workspace.call(tool, **args)).content, (tool, path)
    assert tree_hash(outside) == before


async def test_no_hostile_path_reads_from_objects(place: tuple[Path, Path]) -> None:
    root, outside = place
    git(root, "add", "-A", "--", "src", "away", "chain", "file-link")
    git(root, "commit", "-qm", "links")
    workspace = Workspace(root, worktree=False)
    for path in hostile_paths(outside, root)[::3]:
        assert CANARY not in await workspace.refusal("read-file", path=path), path


def test_control_without_confinement_the_same_paths_escape(place: tuple[Path, Path]) -> None:
    root, outside = place
    escaped = 0
    for path in hostile_paths(outside, root):
        with contextlib.suppress(OSError, ValueError):
            target = root / path
            if target.is_file() and CANARY in target.read_text(errors="replace"):
                escaped += 1
    assert escaped >= 20


@pytest.mark.parametrize(
    "path",
    [
        "src/new.py",
        "a b/c'd.py",
        "-rf",
        "--help",
        "*.py",
        ":(top)x",
        "naïve/été.py",
        "$(x)",
        "~/x",
        ".gitignore",
        ".github/ci.yml",
        "git.py",
        "a\nb",
        ".gitx",
        "x.git",
        "dir.git/a",
    ],
)
async def test_odd_but_harmless_paths_work(place: tuple[Path, Path], path: str) -> None:
    workspace = Workspace(place[0])
    await workspace.text("write-file", path=path, content="one\n")
    await workspace.text("edit-file", path=path, old="one", new="two")
    assert "two" in await workspace.text("read-file", path=path)
    assert path in (await workspace.call("list-files", limit=100)).value
    await workspace.text("git-diff", path=path)
    await workspace.text("move-file", path=path, to="moved")
    await workspace.text("delete-file", path="moved")


@pytest.mark.parametrize(
    "name", [".gitignore", ".gitattributes", "git", "gitk", ".gi", "a.git", "git~", "git~x", ".git-x"]
)
def test_names_that_only_look_like_git_are_not_refused(name: str) -> None:
    assert not is_git_name(name)


class Swapper:
    """A thread that swaps a directory of the worktree for a link to the outside and back, as fast as it can."""

    def __init__(self, root: Path, outside: Path) -> None:
        self.count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(root, outside))

    def _run(self, root: Path, outside: Path) -> None:
        real, link, victim = root / "real", root / "link", root / "victim"
        link.symlink_to(outside)
        while not self._over.is_set():
            for source, target in ((victim, real), (link, victim), (victim, link), (real, victim)):
                # A write may create `victim` in the instant when it is missing.
                with contextlib.suppress(OSError):
                    source.rename(target)
            while real.exists():
                shutil.rmtree(victim, ignore_errors=True)
                with contextlib.suppress(OSError):
                    real.rename(victim)
            self.count += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def race_place(tmp_path: Path) -> tuple[Path, Path]:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for directory, text in ((root / "victim", "inside"), (outside, CANARY)):
        directory.mkdir(parents=True)
        (directory / "file.txt").write_text(text)
    return root, outside


def test_swapping_a_directory_for_a_link_never_leads_out(tmp_path: Path) -> None:
    root, outside = race_place(tmp_path)
    parts = parse_path("victim/file.txt")
    before = tree_hash(outside)
    done = refused = 0
    with Swapper(root, outside) as swapper:
        while swapper.count < 2_000 or done < 50 or not refused:
            try:
                assert CANARY.encode() not in read_bytes(root, parts, 1_000)[0]
                write_bytes(root, parts, b"inside")
                done += 1
            except ToolFailureError:
                refused += 1
    assert tree_hash(outside) == before


def test_control_checking_the_path_first_loses_the_race(tmp_path: Path) -> None:
    root, outside = race_place(tmp_path)
    path = root / "victim" / "file.txt"
    with Swapper(root, outside) as swapper:
        while swapper.count < 200_000:
            with contextlib.suppress(OSError):
                if path.resolve().is_relative_to(root) and path.read_text() == CANARY:
                    return
    pytest.fail("the check of the whole path was never fooled, so the race test proves nothing")
