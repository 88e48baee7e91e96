"""What differs between commits of a session's repos: the files, and the patches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from orchestra.errors import GitError
from orchestra.runtime.git import OWN_LIMIT, GitManager
from orchestra.tools.builtins.changes import SAFE, FileChange, numstat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestra.runtime.git import Repository
    from orchestra.runtime.store import SessionRecord

    Pair: TypeAlias = tuple[str, str]
    """The commits before and after."""

MOST_LINES = 50_000
"""Changed lines of one file; a patch with more is not made."""
_LISTS = tuple(option for option in SAFE if option != "-U3")
"""The number of lines around a change makes git write patches."""
_HEAD = re.compile(rb"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What differs between two commits of one repo."""

    repo: str
    before: str
    after: str
    files: tuple[FileChange, ...] = ()
    patch: bytes = b""
    too_large: tuple[str, ...] = ()
    """The files whose patches are not made."""
    error: GitError | None = None
    """Why nothing, or no patch, can be told."""

    def as_json(self, *, patch: bool) -> dict[str, object]:
        """Return the JSON of `orchestra diff --json`."""
        files = [
            {"path": item.path, "before": item.before, "added": item.added, "deleted": item.deleted}
            for item in self.files
        ]
        error = self.error and {"code": self.error.code, "message": self.error.message}
        text = {"patch": self.patch.decode("utf-8", "backslashreplace")} if patch else {}
        return {"before": self.before, "after": self.after, "files": files, "error": error, **text}


class Repositories:
    """The repositories of a session, for looking at their commits; each is opened once."""

    def __init__(self, record: SessionRecord) -> None:
        self._workspace = record.workspace
        self._git = GitManager()
        self._opened: dict[str, Repository | GitError] = {}

    async def files(self, repo: str, pairs: Iterable[Pair]) -> dict[Pair, tuple[FileChange, ...] | GitError]:
        """Return which files differ between commits, by one git process where all of them are there."""
        wanted = list(dict.fromkeys(pairs))
        try:
            opened = await self._open(repo)
            known = await self._git.exists(opened, [commit for pair in wanted for commit in pair])
        except GitError as error:
            return dict.fromkeys(wanted, error)
        there = [pair for pair in wanted if known.issuperset(pair)]
        found: dict[Pair, tuple[FileChange, ...] | GitError] = {
            pair: _gone(repo, next(commit for commit in pair if commit not in known))
            for pair in wanted
            if pair not in there
        }
        try:
            return found | await self._listed(opened, there)
        except GitError:
            for pair in there:  # one of them lacks an object; the others are told
                try:
                    found |= await self._listed(opened, [pair])
                except GitError as error:
                    found[pair] = error
            return found

    async def difference(self, repo: str, before: str, after: str, *, patch: bool) -> Difference:
        """Return what differs between two commits of a repo."""
        (files,) = (await self.files(repo, [(before, after)])).values()
        if isinstance(files, GitError):
            return Difference(repo=repo, before=before, after=after, error=files)
        large = tuple(item.path for item in files if (item.added or 0) + (item.deleted or 0) > MOST_LINES)
        text, error = b"", None
        if patch and len(large) < len(files):
            without = [f":(top,literal,exclude){path}" for path in large]
            try:
                text = await self._patch(await self._open(repo), before, after, [":(top)", *without] if without else [])
            except GitError as failed:
                error = failed
        return Difference(repo=repo, before=before, after=after, files=files, patch=text, too_large=large, error=error)

    async def patch(self, repo: str, before: str, after: str, files: Iterable[FileChange], *, limit: int) -> bytes:
        """Return the patch of some of the files that differ between two commits.

        Raises:
            GitError: It can't be made, or has more than `limit` bytes.
        """
        names = dict.fromkeys(name for item in files for name in (item.before, item.path) if name)
        scope = [f":(top,literal){name}" for name in names]
        return await self._patch(await self._open(repo), before, after, scope, limit=limit)

    async def _open(self, name: str) -> Repository:
        if name not in self._opened:
            path = Path(self._workspace[name]["path"])
            try:
                self._opened[name] = await self._git.open(name, path, judge=False)
            except GitError as error:
                self._opened[name] = error
        opened = self._opened[name]
        if isinstance(opened, GitError):
            raise opened
        return opened

    async def _listed(self, repo: Repository, pairs: Sequence[Pair]) -> dict[Pair, tuple[FileChange, ...] | GitError]:
        if not pairs:
            return {}
        asked = "".join(f"{after} {before}\n" for before, after in pairs).encode()
        options = ("--stdin", "--always", "-r", "--numstat", "-z")
        output = await self._git.run(repo, "diff-tree", *_LISTS, *options, input=asked)
        parts = _parts(output.stdout)
        return {pair: tuple(numstat(part)) for pair, part in zip(pairs, parts, strict=True)}

    async def _patch(
        self, repo: Repository, before: str, after: str, scope: Iterable[str], limit: int = OWN_LIMIT
    ) -> bytes:
        return (await self._git.run(repo, "diff", *SAFE, "-p", before, after, "--", *scope, limit=limit)).stdout


def _parts(output: bytes) -> list[bytes]:
    """Divide what `diff-tree --stdin` says at the commits that it names before each difference."""
    parts: list[list[bytes]] = []
    names = 0
    for field in output.split(b"\0"):
        if names:
            names -= 1
        elif _HEAD.fullmatch(field):
            parts.append([])
            continue
        elif field.endswith(b"\t"):
            names = 2  # a renamed file: both names follow, whatever they look like
        if parts:
            parts[-1].append(field)
    return [b"\0".join(part) for part in parts]


def _gone(repo: str, commit: str) -> GitError:
    message = f"the commit {commit} is not in {repo!r} any more: somebody has pruned it, or the repository is another"
    return GitError(message, code="commit-missing", hint="what else the session has is still shown")


async def differences(record: SessionRecord, changes: Mapping[str, Pair], *, patch: bool) -> list[Difference]:
    """Return what differs in each repo, of those in which something may."""
    repositories = Repositories(record)
    return [
        await repositories.difference(repo, before, after, patch=patch)
        for repo, (before, after) in changes.items()
        if before != after
    ]
