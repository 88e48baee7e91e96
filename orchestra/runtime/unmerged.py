"""What of a session's commits is nowhere else: neither on a branch, remote branch or tag, nor merged in other words.

A commit counts as kept where such a reference leads to it, and as merged where merging it into the user's HEAD, into
the default branch or into the session's own branch would change nothing there: so a squash, a rebase, and a change that
was applied and committed by hand are recognised. Snapshots are no history; of them the files count alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.merges import merge_trees

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from orchestra.runtime.git import GitManager, Repository

_USERS = ("refs/heads/", "refs/remotes/", "refs/tags/")
_STARTS = frozenset({"base", "fork"})
"""What the session started from."""
_DERIVED = frozenset({"stages", "applied"})
"""What git makes of other commits: of a conflict, and of a checkout with the result applied to it."""
_OFFLINE = {"GIT_NO_LAZY_FETCH": "1"}
"""In a partial clone nothing is fetched: that would run what its configuration names."""
_MOST = 20_000
"""Commits of a session whose files are compared."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What would be lost of a session's commits in one repository."""

    branch_merged: bool
    unmerged: tuple[tuple[str, str], ...]
    """What is kept nowhere else: the name of its reference, or of what holds it, and the commit."""


@dataclass(frozen=True, slots=True)
class Commits:
    """The commits of a session in one repository."""

    session: str
    refs: Mapping[str, str]
    """Its references below `refs/orchestra`."""
    branch: str | None
    """The commit of its branch, if that is there."""
    heads: Mapping[str, str]
    """Of worktrees whose HEAD Orchestra did not put there: what to call it → its commit."""


async def judge(
    git: GitManager,
    repo: Repository,
    commits: Commits,
    users: Mapping[str, str],
    *,
    into: Collection[str],
    branches: Collection[str],
) -> Judgement:
    """Tell which commits of a session are kept nowhere else.

    Args:
        git: Starts git.
        repo: The repository.
        commits: What the session has there.
        users: The references of the repository.
        into: The commits into which the user merges (`targets`).
        branches: Branches that may go, too, and keep nothing.
    """
    own = {f"refs/heads/{branch}" for branch in branches}
    roots = {sha for ref, sha in users.items() if ref.startswith(_USERS) and ref not in own}
    if repo.head is not None and repo.branch is None:
        roots.add(repo.head)
    results, snapshots = await _sorted(git, repo, commits)
    branch = [commits.branch] if commits.branch else []
    base = commits.refs.get(f"refs/orchestra/{commits.session}/base")
    asked = {*branch, *results.values(), *snapshots.values()}
    single = await _beyond(git, repo, asked, roots)
    lost = await _beyond(git, repo, asked, {*roots, *branch}) if branch and single else single
    merged = not branch or branch[0] == base or not single.intersection(branch)
    merged = merged or await _adds_nothing(git, repo, branch[0], into, commits.session)
    settled: set[str] = set()
    if any(sha in lost for sha in snapshots.values()):
        settled = await _files_of(git, repo, {*branch, *results.values()}, base)
    unmerged = []
    for name, sha in [*results.items(), *snapshots.items()]:
        if sha not in lost or (name in snapshots and await git.tree_of(repo, sha) in settled):
            continue
        if not await _adds_nothing(git, repo, sha, [*branch, *into], commits.session):
            unmerged.append((name, sha))
    return Judgement(merged, tuple(unmerged))


async def _sorted(git: GitManager, repo: Repository, commits: Commits) -> tuple[dict[str, str], dict[str, str]]:
    """Tell commits that are history, of turns and merges, from those that are only files of a moment."""
    results, snapshots = dict(commits.heads), {}
    for ref, sha in sorted(commits.refs.items()):
        kind = ref.split("/")[3]
        if kind in _STARTS or kind in _DERIVED:
            continue
        if kind == "conflict":
            # The markers can be made again; what counts are the two sides.
            parents = (await git.run(repo, "rev-list", "--no-walk", "--parents", sha, env=_OFFLINE)).text.split()[1:]
            results |= {f"{ref}^{number}": parent for number, parent in enumerate(parents, 1)}
        elif kind in {"turn", "result"}:
            results[ref] = sha
        else:
            snapshots[ref] = sha
    return results, snapshots


async def _beyond(git: GitManager, repo: Repository, commits: Iterable[str], roots: Iterable[str]) -> set[str]:
    """Return those of the commits to which no root leads."""
    wanted = set(commits)
    if not wanted:
        return set()
    lines = "".join([*(f"{sha}\n" for sha in sorted(wanted)), *(f"^{sha}\n" for sha in sorted(roots))])
    output = await git.run(repo, "rev-list", "--stdin", input=lines.encode(), env=_OFFLINE)
    return wanted & set(output.text.splitlines())


async def _files_of(git: GitManager, repo: Repository, tips: Iterable[str], base: str | None) -> set[str]:
    """Return the trees of the session's history: of its base, and of each commit since."""
    args = ["rev-list", f"--max-count={_MOST}", "--no-commit-header", "--format=%T", "--stdin"]
    lines = "".join([*(f"{sha}\n" for sha in sorted(set(tips))), *([f"^{base}\n"] if base else [])])
    found = set((await git.run(repo, *args, input=lines.encode(), env=_OFFLINE)).text.split()) if lines else set()
    return found | ({await git.tree_of(repo, base)} if base else set())


async def targets(git: GitManager, repo: Repository) -> list[str]:
    """Return the commits into which a user merges: that of the checkout, and of the default branch."""
    default = await git.default_branch(repo) if repo.head else None
    found = [repo.head, await git.read_ref(repo, f"{default}^{{commit}}") if default else None]
    return list(dict.fromkeys(filter(None, found)))


async def _adds_nothing(git: GitManager, repo: Repository, commit: str, into: Iterable[str], session: str) -> bool:
    """Tell whether one of the commits has all that this one has changed since the two parted."""
    for target in dict.fromkeys(into):
        if target == commit:
            continue
        try:
            merged = await merge_trees(git, repo, target, commit, labels=("ours", "theirs"), session=session)
        except GitError as error:
            if error.code == "unrelated-histories":
                continue
            raise
        if merged == await git.tree_of(repo, target):
            return True
    return False
