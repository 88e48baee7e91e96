"""Git, called in one place: explicit places, a clean environment, no hooks, no helpers, checked exit codes."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from orchestra.errors import GitError
from orchestra.runtime.git_errors import explain
from orchestra.runtime.git_locks import LockWait
from orchestra.runtime.git_process import Call, GitOutput, environment, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from orchestra.runtime.repository import DirtyState

MINIMUM = (2, 38)
IDENTITY = "orchestra"
MAIL = "orchestra@localhost"
OWN_LIMIT = 1 << 30
TOOL_LIMIT = 32 << 20
"""How many bytes of git's output are held, for Orchestra's own calls and for those of tools."""

_LISTINGS = 50
"""How often the worktrees are listed while others of them come and go."""

_READS = frozenset(
    (
        *("blame", "cat-file", "check-ignore", "diff", "diff-tree", "for-each-ref", "grep", "log", "ls-files"),
        *("ls-tree", "merge-base", "rev-list", "rev-parse", "shortlog", "show", "status"),
    )
)
_QUIETED = {
    **dict.fromkeys(("diff", "diff-tree", "log", "show"), ("--no-ext-diff", "--no-textconv")),
    "grep": ("--no-textconv",),
}
_REFUSED = re.compile(r"--(?:ou|op|ext|textc|filt|content|exec|upload|path=)|--no-(?:i|in|ind|inde|index)$|-O")
"""Options, also abbreviated, that write files, run programs or leave the repository, whatever a tool passes on."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A user's repository, as `GitManager.open` found it."""

    name: str
    top: Path | None
    """The user's checkout; None: the repository is bare."""
    git_dir: Path
    common_dir: Path
    head: str | None
    """None: no commit yet."""
    branch: str | None
    """The name below `refs/heads/`; None: detached."""
    shallow: bool


@dataclass(frozen=True, slots=True)
class Worktree:
    """A worktree of a session, in which agents write."""

    repository: Repository
    session: str
    slot: str
    path: Path
    git_dir: Path
    """Its administrative directory, under `worktrees/` of the common directory."""

    @property
    def known_head(self) -> Path:
        """The file that names the HEAD which is known to be kept."""
        return self.git_dir / "orchestra.head"

    @property
    def index(self) -> Path:
        """Orchestra's own index of these files; the agent's git never sees it."""
        return self.git_dir / "orchestra.index"

    @property
    def setup_mark(self) -> Path:
        """Exists when `setup` has run here to its end."""
        return self.git_dir / "orchestra.setup"

    @property
    def handed_mark(self) -> Path:
        """The file that names the commit of a conflict which was handed to a person here."""
        return self.git_dir / "orchestra.handed"

    @property
    def lent_mark(self) -> Path:
        """The file that names the commit at which an agent asked a person who may work here meanwhile."""
        return self.git_dir / "orchestra.lent"


Place: TypeAlias = Repository | Worktree


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """One change of a reference, by compare and swap."""

    ref: str
    new: str | None
    """None deletes it."""
    old: str | None
    """What it must be now; None: it must not exist."""


def repository_of(where: Place) -> Repository:
    """Return the repository of a place."""
    return where.repository if isinstance(where, Worktree) else where


class GitManager:
    """Starts git; nothing else in Orchestra does.

    Args:
        lock_fds: Descriptors of held locks, inherited by every git process: a lock lives as long as the last of them.
        session: The session whose lock is held: what a killed git left locked of its own may be removed.
        timeout: Seconds that one command may take.
        durable: Whether objects and references reach the disk before a command returns.
    """

    def __init__(
        self,
        *,
        lock_fds: Sequence[int] = (),
        session: str | None = None,
        timeout: float = 120.0,
        durable: bool = True,
    ) -> None:
        self._lock_fds = tuple(lock_fds)
        self._session = session
        self._timeout = timeout
        self._durable = durable
        self._trees: dict[str, str] = {}
        self._exclusive: dict[Path, asyncio.Lock] = {}
        self.overrides: dict[Path, Mapping[str, str]] = {}
        """Settings for one repository only, by its common directory: filters that can't run on this machine."""
        self.index_trees: dict[Path, tuple[str, object]] = {}
        """The tree that each private index held when it was last written, and the look of its file then."""
        self.tips: dict[tuple[Path, str], str | None] = {}
        """References as this process last saw them: a first guess, that compare and swap proves."""

    async def run(
        self,
        where: Place,
        *args: str,
        input: bytes | None = None,  # noqa: A002 - the name of the contract with tools
        ok: tuple[int, ...] = (0,),
        index: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a process is killed, not only awaited
        limit: int = OWN_LIMIT,
        fds: Sequence[int] = (),
    ) -> GitOutput:
        """Run a git command in a repository or a worktree.

        Args:
            where: The place, passed to git explicitly.
            args: The command and its arguments.
            input: What it reads.
            ok: Exit codes that are answers, not errors.
            index: The index it works on; by default the place's own.
            env: More environment.
            timeout: Seconds; by default the manager's.
            limit: Bytes of output that are accepted.
            fds: More lock descriptors to inherit.

        Raises:
            GitError: It failed, took too long, or gave too much.
        """
        variables, cwd = self._place(where)
        if index is not None:
            variables["GIT_INDEX_FILE"] = str(index)
        call = Call(args, variables | dict(env or {}), cwd, input, timeout or self._timeout, limit, tuple(fds))
        return await self._checked(call, ok, self.overrides.get(repository_of(where).common_dir))

    async def discover(self, path: Path, *args: str, ok: tuple[int, ...] = (0,)) -> GitOutput:
        """Run a git command that finds the repository of a user's path itself; only to open repositories."""
        return await self._checked(Call(args, {}, path, None, self._timeout, OWN_LIMIT, ()), ok)

    def runner(self, where: Place) -> Callable[..., Coroutine[None, None, GitOutput]]:
        """Return git for tools: commands that read, bound to one place.

        In a worktree they read through Orchestra's index, so that new files count as files as soon as a snapshot
        was taken, and the agent's own index is left alone. A repository without worktree is read as if bare: its
        objects, never the user's checkout.
        """
        index = where.index if isinstance(where, Worktree) else where.git_dir / "orchestra-no-index"
        place = where if isinstance(where, Worktree) else _as_bare(where)

        async def read(*args: str, input: bytes | None = None, ok: tuple[int, ...] = (0,)) -> GitOutput:  # noqa: A002
            refuse_unsafe(args)
            safe = (args[0], *_QUIETED.get(args[0], ()), *args[1:])
            return await self.run(place, *safe, input=input, ok=ok, index=index, limit=TOOL_LIMIT)

        return read

    async def version(self) -> tuple[int, ...]:
        """Return git's version; refuse one that can't do what Orchestra needs."""
        output = await self.discover(Path("/"), "version")
        match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", output.text)
        if match is None:
            raise GitError(f"git calls itself {output.text!r}, which is no version", code="git-too-old")
        found = tuple(int(part) for part in match.groups(default="0"))
        if found[:2] < MINIMUM:
            raise GitError(
                f"git {'.'.join(map(str, found))} is too old: Orchestra needs {MINIMUM[0]}.{MINIMUM[1]} or newer",
                code="git-too-old",
                hint="install a newer git, for example from https://git-scm.com/downloads",
            )
        return found

    async def open(self, name: str, path: Path, *, judge: bool = True) -> Repository:
        """Find the repository at a user's path, and judge whether a session may start there now."""
        from orchestra.runtime.repository import open_repository

        return await open_repository(self, name, path, judge=judge)

    async def dirty(self, repo: Repository) -> DirtyState:
        """Count what is not committed in the user's checkout, without writing anything."""
        from orchestra.runtime.repository import dirty_state

        return await dirty_state(self, repo)

    async def default_branch(self, repo: Repository) -> str | None:
        """Return the full name of the reference that changes are compared with, or None."""
        from orchestra.runtime.repository import default_branch

        return await default_branch(self, repo)

    async def merge_base(self, where: Place, first: str, second: str) -> str | None:
        """Return the best common ancestor, or None (unrelated, or cut off in a shallow clone)."""
        output = await self.run(where, "merge-base", "--end-of-options", first, second, ok=(0, 1))
        return output.text or None

    async def holds(self, where: Place, head: str, commits: Iterable[str]) -> bool:
        """Tell whether the history of a commit has all of these."""
        for commit in commits:
            if (await self.run(where, "merge-base", "--is-ancestor", commit, head, ok=(0, 1))).returncode:
                return False
        return True

    async def commit_tree(
        self, where: Place, tree: str, parents: Sequence[str], message: str, *, author: str | None, date: datetime
    ) -> str:
        """Make a commit from a tree: the same arguments always give the same commit."""
        links = [part for parent in parents for part in ("-p", parent)]
        env = identity(author, date)
        text = message.encode(errors="replace")
        commit = (await self.run(where, "commit-tree", tree, *links, input=text, env=env)).text
        self.remember_tree(commit, tree)
        return commit

    async def tree_of(self, where: Place, commit: str) -> str:
        """Return the tree of a commit; asked once for each commit."""
        if commit not in self._trees:
            output = await self.run(where, "rev-parse", "--verify", "--end-of-options", f"{commit}^{{tree}}")
            self.remember_tree(commit, output.text)
        return self._trees[commit]

    def remember_tree(self, commit: str, tree: str) -> None:
        """Keep the tree of a commit, which never changes."""
        if len(self._trees) > 10_000:  # noqa: PLR2004 - a bound, not a setting
            self._trees.clear()
        self._trees[commit] = tree

    async def read_ref(self, where: Place, ref: str) -> str | None:
        """Return what a reference points at, or None."""
        output = await self.run(where, "rev-parse", "--quiet", "--verify", "--end-of-options", ref, ok=(0, 1))
        return output.text or None

    async def refs(self, where: Place, prefix: str) -> dict[str, str]:
        """Return the references below a prefix, or the one of that name."""
        output = await self.run(where, "for-each-ref", "--format=%(objectname) %(refname)", prefix)
        return {name: sha for sha, name in (line.split(" ", 1) for line in output.text.splitlines())}

    async def exists(self, where: Place, objects: Iterable[str]) -> frozenset[str]:
        """Return those of the objects that the repository has."""
        asked = list(dict.fromkeys(objects))
        output = await self.run(where, "cat-file", "--batch-check", input="".join(f"{sha}\n" for sha in asked).encode())
        answers = output.text.splitlines()
        return frozenset(sha for sha, answer in zip(asked, answers, strict=True) if not answer.endswith(" missing"))

    async def checked_out_at(self, repo: Repository, ref: str) -> Path | None:
        """Return the worktree in which a branch is checked out, or None.

        Git lists all worktrees for that, and gives up when one is removed meanwhile, by Orchestra or by the user; with
        the last of them goes the directory `worktrees` itself.
        """
        left = _LISTINGS
        while True:
            try:
                output = await self.run(repo, "for-each-ref", "--format=%(worktreepath)", ref)
            except GitError as error:
                left -= 1
                if not left or "/worktrees" not in error.stderr:
                    raise
                await asyncio.sleep(0.01)
            else:
                return Path(output.text) if output.text else None

    async def update_refs(self, where: Place, updates: Sequence[RefUpdate]) -> None:
        """Change references in one transaction, each by compare and swap.

        Raises:
            GitError: `ref-moved` when one is not what was expected; then none was changed.
        """
        script = b"".join(_instruction(update) for update in updates)
        try:
            await self.run(where, "update-ref", "--stdin", "-z", input=script, env=identity(None, datetime.now(UTC)))
        except GitError as error:
            await self._blame_moved_ref(where, updates, error)
            raise

    def exclusive(self, path: Path) -> asyncio.Lock:
        """Return this process's lock for an index: two snapshots of one worktree never overlap."""
        return self._exclusive.setdefault(path, asyncio.Lock())

    async def _blame_moved_ref(self, where: Place, updates: Sequence[RefUpdate], error: GitError) -> None:
        for update in updates:
            found = await self.read_ref(where, update.ref)
            if found != update.old:
                message = f"{update.ref} was moved by someone else: expected {update.old or 'nothing'}, found {found}"
                raise GitError(message, command=error.command, stderr=error.stderr, code="ref-moved") from error

    def _place(self, where: Place) -> tuple[dict[str, str], Path]:
        repo = repository_of(where)
        variables = {"GIT_DIR": str(where.git_dir), "GIT_COMMON_DIR": str(repo.common_dir)}
        top = where.path if isinstance(where, Worktree) else where.top
        if top is None:
            return variables | {"GIT_IMPLICIT_WORK_TREE": "0"}, where.git_dir
        # An agent may have put a link to somewhere else in the place of its directory.
        if not top.is_dir() or (isinstance(where, Worktree) and os.path.realpath(top) != str(top)):
            mine = isinstance(where, Worktree)
            hint = "`orchestra resume` makes it again, with the files of the last checkpoint" if mine else None
            raise GitError(f"the directory {top} is gone or leads elsewhere", code="worktree-gone", hint=hint)
        return variables | {"GIT_WORK_TREE": str(top)}, top

    async def _checked(self, call: Call, ok: tuple[int, ...], overrides: Mapping[str, str] | None = None) -> GitOutput:
        variables = environment(overrides or {}, durable=self._durable)
        patience = LockWait(self._session, call.cwd)
        while True:
            output = await execute(call, variables, (*self._lock_fds, *call.fds))
            if output.returncode in ok:
                return output
            said, store = output.stderr.decode(errors="replace"), call.env.get("GIT_COMMON_DIR")
            error = explain(call.args, output.returncode, said, call.cwd, store=Path(store) if store else None)
            if not await patience.again(error):
                raise error


def _as_bare(repo: Repository) -> Repository:
    return Repository(repo.name, None, repo.git_dir, repo.common_dir, repo.head, repo.branch, repo.shallow)


def identity(author: str | None, date: datetime) -> dict[str, str]:
    """Return the environment that names who commits and when; the user's own identity is never needed."""
    name = re.sub(r"[^\w. -]", "", author or "").strip(" .-") or IDENTITY
    stamp = f"@{int(date.timestamp())} +0000"
    return {
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": MAIL,
        "GIT_AUTHOR_DATE": stamp,
        "GIT_COMMITTER_NAME": IDENTITY,
        "GIT_COMMITTER_EMAIL": MAIL,
        "GIT_COMMITTER_DATE": stamp,
    }


def refuse_unsafe(args: Sequence[str]) -> None:
    """Refuse what a tool may not ask git: to write, to run programs, to read outside the repository."""
    if not args or args[0] not in _READS:
        raise GitError(f"tools may not run 'git {args[0] if args else ''}'", command=args, code="git-refused")
    for arg in args[1:]:
        if arg in {"--", "--end-of-options"}:
            return
        if _REFUSED.match(arg):
            raise GitError(f"tools may not give git the option {arg!r}", command=args, code="git-refused")


def _instruction(update: RefUpdate) -> bytes:
    if update.new is None:
        return f"delete {update.ref}\0{update.old or ''}\0".encode()
    if update.old is None:
        return f"create {update.ref}\0{update.new}\0".encode()
    return f"update {update.ref}\0{update.new}\0{update.old}\0".encode()
