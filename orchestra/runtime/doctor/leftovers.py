"""Worktrees and references of Orchestra in the repositories that belong to no session of the project."""

from __future__ import annotations

from dataclasses import dataclass, field
from shlex import quote
from typing import TYPE_CHECKING

from orchestra.runtime.doctor.finding import Finding, State
from orchestra.runtime.store import STATE_DIRECTORY, sessions_directory
from orchestra.runtime.worktree import place_of_admin, session_of_admin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from orchestra.runtime.doctor.surroundings import Surroundings
    from orchestra.runtime.git import Repository

PREFIX = "refs/orchestra"


@dataclass(slots=True)
class _Left:
    """What one session left in one repository."""

    refs: list[str] = field(default_factory=list)
    worktrees: list[Path] = field(default_factory=list)
    """Those that git knows, be the directory there or not."""
    directory: Path | None = None
    """Where the session's worktrees lie."""

    def __str__(self) -> str:
        counts = ((len(self.refs), "reference"), (len(self.worktrees), "worktree"))
        parts = [f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count]
        if self.directory is not None:
            parts.append(f"the directory {self.directory}")
        return " and ".join(parts)


async def check(here: Surroundings) -> AsyncIterator[Finding]:
    """Name what belongs to no session; another project that works on the same repository may own it."""
    if here.sessions_error is not None:
        message = "not looked at, since nobody knows which sessions there are"
        yield Finding("leftovers", State.WARNING, message, "mend the directory of the sessions first, see above")
        return
    found = False
    for repo in await here.repositories():
        if repo.repository is not None:
            for session, left in sorted((await _left_in(here, repo.repository)).items()):
                found = True
                yield _finding(here, repo.repository, session, left)
    if not found:
        yield Finding("leftovers", State.OK, "every worktree and reference of Orchestra belongs to a session")


async def _left_in(here: Surroundings, repo: Repository) -> dict[str, _Left]:
    left: dict[str, _Left] = {}

    def of(session: str) -> _Left | None:
        return None if session in here.session_ids else left.setdefault(session, _Left())

    for ref in await here.git.refs(repo, PREFIX):
        if entry := of(ref.removeprefix(f"{PREFIX}/").partition("/")[0]):
            entry.refs.append(ref)
    for admin in _entries(repo.common_dir / "worktrees"):
        session = session_of_admin(admin)
        place = place_of_admin(admin)
        if session and place and (entry := of(session)):
            entry.worktrees.append(place)
    for directory in _entries(repo.top / STATE_DIRECTORY / "worktrees") if repo.top else ():
        if entry := of(directory.name):
            entry.directory = directory
    return left


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(entry for entry in directory.iterdir() if entry.is_dir() and not entry.is_symlink())
    except OSError:
        return []


def _finding(here: Surroundings, repo: Repository, session: str, left: _Left) -> Finding:
    place = repo.top or repo.git_dir
    missing = sessions_directory(here.root) / session
    message = f"{place} holds {left} of the session {session}, which this project does not have (no {missing})"
    fix = "if it is no session of another project, and you need none of its files, remove them:"
    details = {
        "session_id": session,
        "repo": str(place),
        "refs": left.refs,
        "worktrees": [str(path) for path in left.worktrees],
        "directory": None if left.directory is None else str(left.directory),
    }
    return Finding("leftovers", State.WARNING, message, fix, tuple(_commands(place, session, left)), details)


def _commands(place: Path, session: str, left: _Left) -> list[str]:
    git = f"git -C {quote(str(place))}"
    # Twice, since Orchestra locks its worktrees.
    commands = [f"{git} worktree remove --force --force {quote(str(path))}" for path in left.worktrees]
    if left.refs:
        prefix = quote(f"{PREFIX}/{session}")
        commands.append(f"{git} for-each-ref --format='delete %(refname)' {prefix} | {git} update-ref --stdin")
    if left.directory is not None:
        commands.append(f"rm -r {quote(str(left.directory))}")
    return commands
