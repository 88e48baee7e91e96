"""What turns have changed in the repos, within bounds: a report is no archive of all patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.differences import Repositories

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from orchestra.runtime.store import SessionRecord
    from orchestra.tools.builtins.changes import FileChange

MOST_LINES = 1_500
"""Changed lines of one change whose patch is shown; of more, the files that come first."""
MOST_BYTES = 200_000
"""Bytes of one patch."""
MOST_IN_ALL = 3_000_000
MOST_PATCHES = 250
MOST_FILES = 200
"""Files of one change that are listed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between two commits of a repo, as far as a report shows it."""

    repo: str
    before: str
    after: str
    count: int = 0
    added: int = 0
    deleted: int = 0
    files: tuple[FileChange, ...] = ()
    """The first of them; none in a report without contents."""
    patch: bytes = b""
    left_out: int = 0
    """Files without a patch here."""
    error: str | None = None
    """Why something can't be told."""


class Changes:
    """Asks git for changes.

    Args:
        record: The session.
        runner: Where git is talked to.
        contents: Whether files are named, and patches made.
    """

    def __init__(self, record: SessionRecord, runner: asyncio.Runner, *, contents: bool) -> None:
        self._repositories = Repositories(record)
        self._runner = runner
        self._contents = contents
        self._files: dict[tuple[str, str, str], tuple[FileChange, ...] | GitError] = {}
        self._room = MOST_IN_ALL
        self._patches = MOST_PATCHES

    def prepare(self, pairs: Iterable[tuple[str, tuple[str, str]]]) -> None:
        """Ask which files differ, with one git process for a repo."""
        wanted = [*pairs]
        for repo in dict.fromkeys(repo for repo, _ in wanted):
            commits = [pair for name, pair in wanted if name == repo]
            found = self._runner.run(self._repositories.files(repo, commits))
            self._files |= {(repo, *pair): files for pair, files in found.items()}

    def of(self, changes: Mapping[str, tuple[str, str]], *, patch: bool = True) -> list[Change]:
        """Return what differs in each repo."""
        return [self._change(repo, *pair, patch=patch) for repo, pair in changes.items() if pair[0] != pair[1]]

    def _change(self, repo: str, before: str, after: str, *, patch: bool) -> Change:
        if (repo, before, after) not in self._files:
            self.prepare([(repo, (before, after))])
        files = self._files[repo, before, after]
        if isinstance(files, GitError):
            message = files.message if self._contents else f"[redacted: {files.code}]"
            return Change(repo, before, after, error=message)
        counts = len(files), sum(item.added or 0 for item in files), sum(item.deleted or 0 for item in files)
        if not self._contents:
            return Change(repo, before, after, *counts)
        text, left_out, error = self._patch(repo, before, after, files) if patch else (b"", len(files), None)
        return Change(repo, before, after, *counts, files[:MOST_FILES], text, left_out, error)

    def _patch(
        self, repo: str, before: str, after: str, files: tuple[FileChange, ...]
    ) -> tuple[bytes, int, str | None]:
        chosen, lines = [], 0
        for item in files[:MOST_FILES]:
            lines += (item.added or 0) + (item.deleted or 0)
            if lines > MOST_LINES:
                break
            chosen.append(item)
        room = min(MOST_BYTES, self._room)
        if not chosen or self._patches <= 0 or room <= 0:
            return b"", len(files), None
        self._patches -= 1
        try:
            text = self._runner.run(self._repositories.patch(repo, before, after, chosen, limit=room))
        except GitError as error:
            too_large = error.code == "git-output-too-large"
            return b"", len(files), None if too_large else error.message
        self._room -= len(text)
        return text, len(files) - len(chosen), None
