"""A user's repository: finding it, judging it, counting what is not committed. Nothing here writes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.git import Repository
from orchestra.runtime.git_errors import last_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.runtime.git import GitManager

_OPERATIONS = {
    "MERGE_HEAD": ("merge", "git merge --abort"),
    "rebase-merge": ("rebase", "git rebase --abort"),
    "rebase-apply": ("rebase or am", "git rebase --abort"),
    "CHERRY_PICK_HEAD": ("cherry-pick", "git cherry-pick --abort"),
    "REVERT_HEAD": ("revert", "git revert --abort"),
    "BISECT_LOG": ("bisect", "git bisect reset"),
    "sequencer": ("cherry-pick or revert", "git cherry-pick --abort"),
}
_DEFAULT_NAMES = ("main", "master", "trunk", "develop")
OWN_DIRECTORY = b".orchestra/"


@dataclass(frozen=True, slots=True)
class DirtyState:
    """How many files of a checkout are not committed."""

    staged: int = 0
    modified: int = 0
    untracked: int = 0

    @property
    def clean(self) -> bool:
        """Whether the checkout is exactly its HEAD."""
        return not (self.staged or self.modified or self.untracked)

    def __str__(self) -> str:
        counts = ((self.staged, "staged"), (self.modified, "modified"), (self.untracked, "untracked"))
        return ", ".join(f"{count} {word}" for count, word in counts if count) or "clean"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `git status --porcelain=v2`."""

    path: bytes
    staged: bool
    """The index differs from HEAD."""
    change: str
    """How the file differs from the index: `.` not at all, `?` untracked, else git's letter."""


def read_status(output: bytes) -> Iterator[Entry]:
    """Read `status --porcelain=v2 -z --no-renames`."""
    for line in output.split(b"\0"):
        match line[:1]:
            case b"1":
                yield Entry(line.split(b" ", 8)[8], staged=line[2:3] != b".", change=chr(line[3]))
            case b"u":
                yield Entry(line.split(b" ", 10)[10], staged=True, change="U")
            case b"?":
                yield Entry(line[2:], staged=False, change="?")


STATUS = ("status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=dirty")


def count(entries: list[Entry]) -> DirtyState:
    """Count what a status says, without Orchestra's own directory and other repositories that lie inside."""
    ours = [entry for entry in entries if not entry.path.startswith(OWN_DIRECTORY)]
    return DirtyState(
        staged=sum(entry.staged for entry in ours),
        modified=sum(entry.change not in ".?" for entry in ours),
        untracked=sum(entry.change == "?" and not entry.path.endswith(b"/") for entry in ours),
    )


async def dirty_state(git: GitManager, repo: Repository) -> DirtyState:
    """Count what is not committed in the user's checkout."""
    if repo.top is None:
        return DirtyState()
    return count(list(read_status((await git.run(repo, *STATUS)).stdout)))


async def open_repository(git: GitManager, name: str, path: Path, *, judge: bool = True) -> Repository:
    """Find the repository that a path lies in, and refuse one that can't be worked on.

    Args:
        git: Starts git.
        name: Its name in the workspace.
        path: A directory in it.
        judge: Whether to refuse a checkout in the middle of something; a session that is resumed reads it no more.

    Raises:
        GitError: `repo-path-missing`, `not-a-repository`, `dubious-ownership`, `repo-too-wide`,
            `operation-in-progress`, `unmerged-entries`.
    """
    start = _directory(name, path)
    inside, bare, shallow, git_dir = await _kind(git, name, start)
    top = await _top(git, start, git_dir, inside=inside, bare=bare)
    if top is not None and top in _too_wide():
        message = f"repository {name!r}: {top} is a repository of everything, which no agent should work in"
        raise GitError(message, code="repo-too-wide", hint="name a repository below it")
    common_dir = resolved((await git.discover(start, "rev-parse", "--path-format=absolute", "--git-common-dir")).text)
    found = Repository(name, top, git_dir, common_dir, None, None, shallow)
    repo = Repository(name, top, git_dir, common_dir, await _head(git, found), await _branch(git, found), shallow)
    if judge and top is not None:
        await judge_checkout(git, repo)
    return repo


async def judge_checkout(git: GitManager, repo: Repository) -> None:
    """Refuse a checkout in the middle of something.

    Raises:
        GitError: `operation-in-progress`, `unmerged-entries`.
    """
    _refuse_operation(repo)
    await _refuse_unmerged(git, repo)


def _directory(name: str, path: Path) -> Path:
    if not path.is_dir():
        raise GitError(f"repository {name!r}: there is no directory {path}", code="repo-path-missing")
    return path.resolve()


def resolved(path: str) -> Path:
    """Return a path without links in it: worktrees are checked against it later."""
    return Path(path).resolve()


async def _kind(git: GitManager, name: str, start: Path) -> tuple[bool, bool, bool, Path]:
    """Ask git in one process whether a directory lies in a checkout, is bare, is shallow, and where its git lies.

    The path comes last, since it may hold line ends.
    """
    asked = ("--is-inside-work-tree", "--is-bare-repository", "--is-shallow-repository", "--absolute-git-dir")
    try:
        inside, bare, shallow, git_dir = (await git.discover(start, "rev-parse", *asked)).text.split("\n", 3)
    except GitError as error:
        if error.code != "not-a-repository":
            raise
        message = f"repository {name!r}: {start} is not in a git repository ({last_line(error.stderr)})"
        hint = f"run `git init '{start}'`, or name another path"
        raise GitError(message, command=error.command, stderr=error.stderr, code=error.code, hint=hint) from error
    return inside == "true", bare == "true", shallow == "true", resolved(git_dir)


async def _top(git: GitManager, start: Path, git_dir: Path, *, inside: bool, bare: bool) -> Path | None:
    if inside:
        return resolved((await git.discover(start, "rev-parse", "--show-toplevel")).text)
    if bare:
        return None
    hint = f"name its checkout, for example {git_dir.parent}"
    raise GitError(f"{start} lies inside git's own directory {git_dir}", code="not-a-repository", hint=hint)


async def _head(git: GitManager, repo: Repository) -> str | None:
    return await git.read_ref(repo, "HEAD")


async def _branch(git: GitManager, repo: Repository) -> str | None:
    output = await git.run(repo, "symbolic-ref", "--quiet", "HEAD", ok=(0, 1))
    return output.text.removeprefix("refs/heads/") or None


def _too_wide() -> tuple[Path, ...]:
    home = os.environ.get("HOME")
    return (Path("/"), Path(home).resolve()) if home else (Path("/"),)


def _refuse_operation(repo: Repository) -> None:
    for file, (operation, way_out) in _OPERATIONS.items():
        if (repo.git_dir / file).exists():
            message = f"repository {repo.name!r}: {repo.top} is in the middle of a {operation}"
            raise GitError(message, code="operation-in-progress", hint=f"finish it, or run `{way_out}`")


async def _refuse_unmerged(git: GitManager, repo: Repository) -> None:
    output = await git.run(repo, "ls-files", "--unmerged", "-z")
    paths = sorted({os.fsdecode(line.split(b"\t", 1)[1]) for line in output.stdout.split(b"\0") if line})
    if paths:
        shown = ", ".join(map(repr, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")  # noqa: PLR2004
        message = f"repository {repo.name!r}: conflicts are not resolved in {shown}"
        raise GitError(message, code="unmerged-entries", hint="resolve them and `git add` the files")


async def default_branch(git: GitManager, repo: Repository) -> str | None:
    """Return the full name of the reference that changes are compared with.

    What the remote says is its default, else the first that exists of `init.defaultBranch` and the usual names,
    first as the remote has it, then the local branch.
    """
    output = await git.run(repo, "symbolic-ref", "--quiet", "refs/remotes/origin/HEAD", ok=(0, 1))
    if output.text and await git.read_ref(repo, output.text):
        return output.text
    configured = (await git.run(repo, "config", "--get", "init.defaultBranch", ok=(0, 1))).text
    names = dict.fromkeys(name for name in (configured, *_DEFAULT_NAMES) if name)
    candidates = [f"{where}/{name}" for name in names for where in ("refs/remotes/origin", "refs/heads")]
    known = await git.refs(repo, "refs/remotes/origin") | await git.refs(repo, "refs/heads")
    return next((ref for ref in candidates if ref in known), None)
