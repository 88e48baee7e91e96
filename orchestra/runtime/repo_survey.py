"""What a session leaves in one repository: its worktrees, references, branch, and files that were moved aside.

A session's database may be somebody else's, in a repository that was cloned. So what it says is believed only where the
repository itself says the same: by references below `refs/orchestra/{session}`, which no clone brings along, and by the
lock of a worktree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.cleanup_plan import BranchPlan, Reason, RepoPlan
from orchestra.runtime.filters import read_filters
from orchestra.runtime.unmerged import Commits, judge, targets
from orchestra.runtime.worktree_survey import find_worktrees, link_above

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Repository

_GONE = frozenset({"repo-path-missing", "not-a-repository"})
_WHAT = {
    "conflict": "is of a conflict that was not resolved",
    "wt": "holds files that are in no commit of a branch",
    "rescue": "holds files that were kept aside, and are in no commit of a branch",
}


@dataclass(frozen=True, slots=True)
class SessionRepo:
    """A repository as a session's database names it."""

    name: str
    path: Path
    base: str
    branch: str | None


@dataclass(slots=True)
class RepoSurvey:
    """Looks at repositories.

    Args:
        git: Starts git.
        branches: The branches of all sessions that may go in this cleanup.
        discard: The user wants nothing kept.
        opened: The repositories found so far, by their paths.
        cwds: The current directories of processes.
    """

    git: GitManager
    branches: frozenset[str]
    discard: bool
    opened: dict[Path, Repository | GitError] = field(default_factory=dict)
    cwds: Iterable[tuple[int, Path]] = ()
    targets: dict[Path, list[str]] = field(default_factory=dict)
    """By the repository's common directory, the commits into which the user merges."""

    async def look(self, known: SessionRepo, session: str, *, begun: bool) -> tuple[RepoPlan | None, list[Reason]]:
        """Return what goes in a repository, and why the session may not go.

        Args:
            known: Which one.
            session: The session's id.
            begun: A cleanup had begun on the session, and may be done here.
        """
        try:
            plan, reasons = await self._look(known, session, begun=begun)
        except (GitError, OSError) as error:
            gone = isinstance(error, GitError) and error.code in _GONE
            said = error.message if isinstance(error, GitError) else f"{error.filename or ''}: {error.strerror}"
            message = f"it is not at {known.path} any more" if gone else f"it can't be looked at: {said}"
            look = f"ls -ld {quote(str(known.path))}"
            plan, reasons = None, [Reason("repo-gone" if gone else "repo-unreadable", message, look)]
        return plan, [replace(reason, repo=known.name) for reason in reasons]

    async def open(self, path: Path) -> Repository:
        """Find the repository at a path, once."""
        if path not in self.opened:
            try:
                self.opened[path] = await self.git.open("repo", path, judge=False)
            except GitError as error:
                self.opened[path] = error
        found = self.opened[path]
        if isinstance(found, GitError):
            raise found
        if found.common_dir not in self.git.overrides:
            self.git.overrides[found.common_dir] = await _without_filters(self.git, found)
        return found

    async def _look(self, known: SessionRepo, session: str, *, begun: bool) -> tuple[RepoPlan, list[Reason]]:
        repo = await self.open(known.path)
        users = await _references(self.git, repo)
        refs = {ref: sha for ref, sha in users.items() if ref.startswith(f"refs/orchestra/{session}/")}
        top = repo.top or repo.git_dir
        found = await find_worktrees(self.git, repo, session, refs, self.cwds)
        reasons = found.reasons
        if not refs and not begun and not await self.git.exists(repo, [known.base]):
            message = f"{top} does not have the commit {known.base[:10]} at which the session began"
            reasons.append(Reason("repo-changed", message, f"{_git(repo)} log --oneline -3"))
        rescued, kept = _rescued(repo, session)
        reasons += kept
        commit = users.get(f"refs/heads/{known.branch}") if known.branch else None
        branch = None
        if commit is not None and known.branch is not None:
            branch = BranchPlan(
                known.branch, commit, await self._why_stays(repo, known.branch, session, proven=bool(refs))
            )
        commits = Commits(session, refs, commit, found.heads)
        branch, lost = await self._judged(repo, branch, commits, users)
        left = list(found.left)
        if rescued is not None and kept and not refs:  # only the session's database says that it is the session's
            left.append(rescued)
            rescued = None
        hidden = tuple(sorted(refs.items()))
        plan = RepoPlan(known.name, top, tuple(found.plans), hidden, branch, rescued, tuple(left))
        return plan, [*reasons, *lost]

    async def _why_stays(self, repo: Repository, branch: str, session: str, *, proven: bool) -> str | None:
        """Say why a branch stays whatever it holds."""
        if not proven or not re.search(rf"[/-]{session}$", branch):
            return "nothing in the repository says that it is the session's"
        at = await self.git.checked_out_at(repo, f"refs/heads/{branch}")
        return f"it is checked out at {at}" if at else None

    async def _judged(
        self, repo: Repository, branch: BranchPlan | None, commits: Commits, users: Mapping[str, str]
    ) -> tuple[BranchPlan | None, list[Reason]]:
        """Judge what no branch of the user's has, and with it what becomes of the session's own branch."""
        try:
            if repo.common_dir not in self.targets:
                self.targets[repo.common_dir] = await targets(self.git, repo)
            into = self.targets[repo.common_dir]
            verdict = await judge(self.git, repo, commits, users, into=into, branches=self.branches)
        except GitError as error:
            message = f"what is merged of its commits can't be told: {error.message}"
            reasons = [Reason("unjudged", message, f"{_git(repo)} fsck --full")]
        else:
            reasons = [_unmerged(repo, name, sha) for name, sha in verdict.unmerged]
            if branch and not branch.stays and not verdict.branch_merged:
                if not self.discard:
                    return replace(branch, stays="it is merged nowhere"), reasons
                message = f"the branch {branch.name} is merged nowhere; it was at {branch.commit[:10]}"
                back = f"{_git(repo)} branch {quote(branch.name)} {branch.commit}"
                reasons.insert(0, Reason("unmerged", message, back))
        return branch, reasons


async def _without_filters(git: GitManager, repo: Repository) -> dict[str, str]:
    """Return settings by which git runs no filter: they are programs that a repository names."""
    settings = {}
    for one in await read_filters(git, repo):
        for key, value in (("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")):
            settings[f"filter.{one.name}.{key}"] = value
    return settings


async def _references(git: GitManager, repo: Repository) -> dict[str, str]:
    """Return all references that hold commits; of an annotated tag its commit."""
    form = "--format=%(objectname) %(objecttype) %(*objectname) %(*objecttype) %(refname)"
    found = {}
    for line in (await git.run(repo, "for-each-ref", form)).text.splitlines():
        sha, kind, of, of_kind, ref = line.split(" ", 4)
        if kind == "commit" or of_kind == "commit":
            found[ref] = sha if kind == "commit" else of
    return found


def _rescued(repo: Repository, session: str) -> tuple[Path | None, list[Reason]]:
    """Look for files that stood in Orchestra's way, and were moved aside."""
    if repo.top is None:
        return None, []
    directory = repo.top / ".orchestra" / "rescue" / session
    shown = quote(str(directory))
    if not directory.exists():
        return None, []
    if link := link_above(directory):
        look = f"ls -ld {quote(str(link))}"
        return None, [Reason("linked", f"{link} is a link, and is not followed", look, final=True)]
    count = sum(path.is_symlink() or not path.is_dir() for path in directory.rglob("*"))
    if not count:
        return directory, []
    words = "1 file was" if count == 1 else f"{count} files were"
    return directory, [Reason("rescued-files", f"{words} moved aside to {directory}", f"ls -lR {shown}")]


def _unmerged(repo: Repository, name: str, sha: str) -> Reason:
    kind = name.split("/")[3] if name.startswith("refs/orchestra/") else ""
    command = "show" if kind in {"wt", "rescue"} else "log -p"
    what = _WHAT.get(kind, "has commits that are merged nowhere")
    return Reason("unmerged", f"{name} {what}", f"{_git(repo)} {command} {sha[:10]}")


def _git(repo: Repository) -> str:
    return f"git -C {quote(str(repo.top or repo.git_dir))}"
