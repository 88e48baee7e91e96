"""The repositories of a session: opened, judged and fixed at their bases at its start, found again by a resume."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestra.errors import GitError, SessionError
from orchestra.runtime.copies import take_copies
from orchestra.runtime.filters import judge_filters, read_filters
from orchestra.runtime.git import RefUpdate, Repository
from orchestra.runtime.notices import Notice, listed
from orchestra.runtime.snapshots import Base, base_snapshot
from orchestra.runtime.store import STATE_DIRECTORY
from orchestra.runtime.turns import session_branch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.runtime.git import GitManager, Place
    from orchestra.runtime.worktree import WorktreeManager

_ENVIRONMENT = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "CI", "NO_COLOR"),
        *("VIRTUAL_ENV", "PYENV_ROOT", "CONDA_PREFIX", "PIP_CACHE_DIR", "UV_CACHE_DIR", "NODE_PATH", "NVM_DIR"),
        *("JAVA_HOME", "GOPATH", "GOROOT", "GOCACHE", "CARGO_HOME", "RUSTUP_HOME", "GEM_HOME", "DOTNET_ROOT"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "no_proxy", "LD_LIBRARY_PATH", "PKG_CONFIG_PATH", "CC", "CXX"),
    }
)
"""What agents' processes inherit: an allowlist, since the environment also holds keys. A tool's `env:` adds to it."""


@dataclass(frozen=True, slots=True)
class WorkspaceRepo:
    """A repository as a session has it."""

    repository: Repository
    base: str
    """The commit that the session started from, pinned."""
    merge_base: str | None
    """Where the user's HEAD left the default branch."""
    branch: str | None
    """The session's branch; None where no agent may write."""

    def as_json(self) -> dict[str, Any]:
        """Return what a resume needs."""
        path = self.repository.top or self.repository.git_dir
        return {"path": str(path), "base": self.base, "merge_base": self.merge_base, "branch": self.branch}


class Workspace:
    """The repositories of a running session."""

    def __init__(self, repos: Mapping[str, WorkspaceRepo]) -> None:
        self.repos = dict(repos)

    @classmethod
    async def start(
        cls,
        git: GitManager,
        worktrees: WorktreeManager,
        pipeline: ResolvedPipeline,
        opened: Mapping[str, Repository],
        *,
        session: str,
        created_at: str,
    ) -> tuple[Workspace, list[Notice]]:
        """Fix the bases of repositories that can be worked on, and choose their branches.

        The branches themselves are made when the session is driven: what a user sees belongs to a known session.

        Returns:
            The workspace, and what the user should know: uncommitted work that was included, files left out.
        """
        writable = {repo for node in pipeline.nodes.values() for repo in node.writes}
        spec = pipeline.pipeline.workspace
        date = datetime.fromisoformat(created_at)
        repos: dict[str, WorkspaceRepo] = {}
        notes: list[Notice] = []
        for name, repo in opened.items():
            await worktrees.prepare_repository(repo)
            fixed = spec.repos[name].base
            if fixed is None:
                base = await base_snapshot(git, repo, session=session, mode=spec.dirty, date=date)
                commit = base.commit
                notes += _base_notes(name, spec.dirty, base)
            else:
                commit = await _named_base(git, repo, fixed, session)
            branch = None
            if name in writable:
                branch = await session_branch(
                    git,
                    repo,
                    prefix=spec.repos[name].branch_prefix,
                    pipeline=pipeline.pipeline.name,
                    session=session,
                )
            repos[name] = WorkspaceRepo(repo, commit, await _merge_base(git, repo), branch)
        return cls(repos), notes

    @classmethod
    async def reopen(cls, git: GitManager, stored: Mapping[str, Mapping[str, Any]]) -> Workspace:
        """Find the repositories of a session again, whatever state the user's checkouts are in meanwhile."""
        repos = {}
        for name, entry in stored.items():
            path = Path(entry["path"])
            if not path.exists():  # noqa: ASYNC240 - one look at the disk
                raise SessionError(
                    f"the repo {name!r} of this session is not at {path} any more",
                    code="repo-moved",
                    hint="put it back there, then resume again",
                )
            try:
                repo = await git.open(name, path, judge=False)
            except GitError as error:
                if error.code == "not-a-repository":  # a session can't be given another one
                    error.hint = f"put the repository back at {path}, then resume again"
                raise
            await read_filters(git, repo)
            if entry["base"] not in await git.exists(repo, [entry["base"]]):
                raise SessionError(
                    f"the repo {name!r} at {path} does not have the session's base commit {entry['base']}",
                    code="repo-changed",
                    hint="it is another repository, or its refs/orchestra were deleted",
                )
            repos[name] = WorkspaceRepo(repo, entry["base"], entry["merge_base"], entry["branch"])
        return cls(repos)

    async def take_copies(self, git: GitManager, pipeline: ResolvedPipeline, directory: Path) -> list[Notice]:
        """Copy the ignored files that agents need, for the repos that will have a worktree.

        Returns:
            What was copied, and what was not.
        """
        notices = []
        for name in with_worktrees(pipeline):
            repo, spec = self.repos[name], pipeline.pipeline.workspace.repos[name]
            notices += await take_copies(git, repo.repository, spec.copy, repo.base, directory / name)
        return notices

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return what a resume needs."""
        return {name: repo.as_json() for name, repo in self.repos.items()}

    @property
    def bases(self) -> dict[str, str]:
        """The base commit of every repo."""
        return {name: repo.base for name, repo in self.repos.items()}


async def open_repositories(git: GitManager, pipeline: ResolvedPipeline) -> tuple[dict[str, Repository], list[Notice]]:
    """Open every repository of a pipeline, and refuse those that can't be worked on; nothing is written.

    Returns:
        The repositories by name, and what the user should know of them.
    """
    opened = {name: await git.open(name, path) for name, path in pipeline.repo_paths.items()}
    _refuse_twice(opened)
    needed = with_worktrees(pipeline)
    notices = []
    for name, repo in opened.items():
        if repo.top is None and name in needed:
            raise _bare(repo, needed[name])
        notices += await judge_filters(git, repo, needs_worktree=name in needed)
    return opened, notices


def moved_with(session: Path, repos: Iterable[Path]) -> tuple[Path, Path] | None:
    """Find the repository of a session that was moved or renamed with the session's own directory in it.

    Args:
        session: The session's directory.
        repos: Where its repositories were at its start.

    Returns:
        Where it is and where it was, by the session's worktrees in it; None where that can't be told.
    """
    gone = [path for path in repos if not path.exists()]
    kept = Path(STATE_DIRECTORY, "worktrees", session.name)
    found = next((top for top in session.parents if (top / ".git").exists() and (top / kept).is_dir()), None)
    if len(gone) != 1 or found is None:
        return None
    return found, gone[0]


def with_worktrees(pipeline: ResolvedPipeline) -> dict[str, str]:
    """Return the repos in which files will be needed, each with the first agent or step that needs them."""
    found: dict[str, str] = {}
    for node in pipeline.nodes.values():
        for repo in node.worktrees:
            found.setdefault(repo, node.name)
    return found


def _bare(repo: Repository, node: str) -> GitError:
    message = f"the repo {repo.name!r} ({repo.git_dir}) is bare, and {node!r} needs its files in a worktree"
    hint = f"clone it and name the clone: git clone '{repo.git_dir}'; or give {node!r} tools that only read"
    return GitError(message, code="bare-repository", hint=hint)


def process_environment(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the environment of processes that an agent starts.

    Args:
        paths: The worktree of each repo that the agent may use.
    """
    kept = {key: value for key, value in os.environ.items() if key in _ENVIRONMENT or key.startswith("LC_")}
    for name, path in paths.items():
        kept["ORCHESTRA_REPO_" + name.upper().replace("-", "_")] = str(path)
    # An agent may delete its worktree's `.git`: its git must then fail instead of finding the user's repository.
    kept["GIT_CEILING_DIRECTORIES"] = os.pathsep.join(sorted({str(path.parent) for path in paths.values()}))
    kept["GIT_TERMINAL_PROMPT"] = "0"
    return kept


def _refuse_twice(opened: Mapping[str, Repository]) -> None:
    seen: dict[Path, str] = {}
    for name, repo in opened.items():
        other = seen.setdefault(repo.common_dir, name)
        if other != name:
            raise GitError(
                f"the repos {other!r} and {name!r} are the same repository ({repo.common_dir})",
                code="same-repository",
                hint="name it once; tools may be given to several agents",
            )


def _base_notes(name: str, mode: str, base: Base) -> list[Notice]:
    notes = []
    if not base.dirty.clean and mode == "include":
        text = f"your uncommitted work ({base.dirty}) is part of the session's base; your checkout stays as it is"
        notes.append(Notice(f"{name}: {text}"))
    elif not base.dirty.clean:
        notes.append(Notice(f"{name}: your uncommitted work ({base.dirty}) is left out (`dirty: {mode}`)"))
    if base.skipped:
        shown = listed([f"{skipped.path} ({skipped.reason})" for skipped in base.skipped])
        notes.append(Notice(f"{name}: left out of the base: {shown}", "base-incomplete"))
    return notes


async def _named_base(git: GitManager, repo: Repository, revision: str, session: str) -> str:
    """Fix the commit that `workspace.repos.NAME.base` names."""
    commit = await git.read_ref(repo, f"{revision}^{{commit}}")
    if commit is None:
        raise GitError(
            f"the repo {repo.name!r} has no revision {revision!r} (`base`)",
            code="unknown-revision",
            hint="name a branch, tag or commit that `git rev-parse` knows there",
        )
    await git.update_refs(repo, [RefUpdate(f"refs/orchestra/{session}/base", commit, None)])
    return commit


async def unpin(git: GitManager, repo: Repository, session: str) -> None:
    """Let all go again that a session keeps: it could not start."""
    pinned = await git.refs(repo, f"refs/orchestra/{session}")
    if pinned:
        await git.update_refs(repo, [RefUpdate(ref, None, commit) for ref, commit in pinned.items()])


async def _merge_base(git: GitManager, repo: Repository) -> str | None:
    default = await git.default_branch(repo) if repo.head else None
    place: Place = repo
    return await git.merge_base(place, default, "HEAD") if default else None
