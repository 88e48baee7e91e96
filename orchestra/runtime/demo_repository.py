"""The demo's repository: a main branch, and a feature branch with real faults that is checked out."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from orchestra.runtime.git import GitManager

if TYPE_CHECKING:
    from pathlib import Path

FEATURE = "feature/backup"
_IDENTITY = ("-c", "user.name=Orchestra demo", "-c", "user.email=demo@localhost")


async def make_demo_repository(files: Path, top: Path) -> None:
    """Make the repository.

    Args:
        files: Holds `main/` and, laid over it, `feature/`.
        top: An empty directory.
    """
    git = GitManager()
    await git.discover(top, "init", "--quiet", "--initial-branch=main", "--template=")
    await _commit(git, files / "main", top, "An address book")
    await git.discover(top, "switch", "--quiet", "--create", FEATURE)
    await _commit(git, files / "feature", top, "Back up the address book, find people by name")


async def _commit(git: GitManager, files: Path, top: Path, message: str) -> None:
    shutil.copytree(files, top, dirs_exist_ok=True)
    await git.discover(top, "add", "--all")
    await git.discover(top, *_IDENTITY, "commit", "--quiet", "--no-verify", "--message", message)
