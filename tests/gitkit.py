"""Real repositories for tests: no user configuration, fixed dates, a fingerprint of all that is the user's."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENV = {
    "PATH": os.environ["PATH"],
    "LC_ALL": "C",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_AUTHOR_NAME": "User",
    "GIT_AUTHOR_EMAIL": "user@localhost",
    "GIT_AUTHOR_DATE": "@1700000000 +0000",
    "GIT_COMMITTER_NAME": "User",
    "GIT_COMMITTER_EMAIL": "user@localhost",
    "GIT_COMMITTER_DATE": "@1700000000 +0000",
}


def git(directory: Path, *args: str, ok: bool = True, **env: str) -> str:
    """Run the user's (or the agent's) own git."""
    command = ["git", *args]
    done = subprocess.run(
        command, cwd=directory, env=ENV | env, capture_output=True, check=False, text=True, errors="surrogateescape"
    )
    assert not ok or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.removesuffix("\n")


def write(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_repo(top: Path, files: dict[str, str] | None = None) -> Path:
    """Make a repository with one commit of the files; `{}` makes an empty one."""
    top.mkdir(parents=True)
    git(top, "init", "-q", "-b", "main")
    files = {"a.txt": "one\n", "src/b.py": "x = 1\n"} if files is None else files
    if files:
        write(top, files)
        git(top, "add", "-A")
        git(top, "commit", "-q", "-m", "first")
    return top


def fingerprint(top: Path) -> dict[str, str]:
    """Return what must never change: each file of the user's, and all of `.git` that is not Orchestra's."""
    git_dir = Path(git(top, "rev-parse", "--absolute-git-dir"))
    seen = {"status": git(top, "status", "--porcelain=v2", "--branch", "--untracked-files=all")}
    for root, skipped in ((top, {".git", ".orchestra"}), (git_dir, {"objects", "worktrees"})):
        for path in sorted(root.rglob("*")):
            parts = path.relative_to(root).parts
            if parts[0] in skipped or {"orchestra"} & set(parts) or parts == ("info", "exclude"):
                continue
            seen[str(path)] = _print(path)
    return seen


def _print(path: Path) -> str:
    info = path.lstat()
    if path.is_symlink():
        return f"link {path.readlink()}"
    if not path.is_file():
        return "other"
    # Git touches a shared index whenever it reads it, so that it is not taken for garbage.
    time = 0 if path.name.startswith("sharedindex.") else info.st_mtime_ns
    return f"{oct(info.st_mode)} {time} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def files_of(top: Path, commit: str) -> dict[str, str]:
    """Return `{path: mode and blob}` of a commit."""
    lines = git(top, "ls-tree", "-r", "-z", commit).split("\0")
    return {name: about for about, name in (line.split("\t", 1) for line in lines if line)}


def show(top: Path, commit: str, path: str) -> str:
    return git(top, "show", f"{commit}:{path}")


HALF_MADE = re.compile(r"error: worktrees/[^/]+/HEAD: detached HEAD points at nothing")
"""What fsck says of a worktree whose making was killed: git gives it a HEAD of zeros before the real one."""


def assert_sound(top: Path, *, killed: bool = False) -> None:
    """Check that git finds nothing wrong; `killed`: git itself was, and may have been making a worktree."""
    done = subprocess.run(
        ["git", "fsck", "--strict", "--full"], cwd=top, env=ENV, capture_output=True, check=False, text=True
    )
    complaints = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if not line.startswith(("dangling", "notice")) and not (killed and HALF_MADE.fullmatch(line))
    ]
    assert complaints == [], f"git fsck: {complaints}"
    assert killed or done.returncode == 0
