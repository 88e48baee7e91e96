"""Worktrees of sessions: made in two phases, mended when an agent or a kill left them broken."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.copies import place_copies
from orchestra.runtime.driver_lock import try_flock
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import Repository, Worktree
from orchestra.runtime.machine import is_readonly
from orchestra.runtime.processes import gits_in, holder_of
from orchestra.runtime.staging import copy_index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from orchestra.runtime.git import GitManager

EXCLUDE_LINE = "/.orchestra/"
CONFLICT_NOTE = "orchestra.conflict"
"""Names, in a worktree's administrative directory, the commit at which a conflict was opened there."""
_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]*")
_CHECKOUT_TIMEOUT = 3600.0


class WorktreeManager:
    """Gives each writer of a session its own directory of files.

    The caller holds the session's lock, which every git process inherits: so no git of an earlier run of this
    session is at work any more.

    Args:
        git: Starts git.
        session: The session's id.
        copies: Where the session keeps ignored files for new worktrees, by the name of the repo.
    """

    def __init__(self, git: GitManager, session: str, copies: Path | None = None) -> None:
        self._git = git
        self._session = safe_name(session)
        self._copies = copies
        self._checkouts = asyncio.Semaphore(os.cpu_count() or 1)
        self._slots: dict[tuple[Path, str], asyncio.Lock] = {}
        self._fresh: dict[Path, str] = {}

    async def prepare_repository(self, repo: Repository) -> None:
        """Have git ignore `.orchestra/`, twice: `git clean -fdx` deletes the first, a new clone lacks the second."""
        _refuse_unwritable(repo)
        async with repository_lock(repo):
            ignore_own_directory(repo)

    async def ensure(self, repo: Repository, slot: str, commit: str) -> Worktree:
        """Return the worktree of a slot, made at `commit` if there is none.

        One that exists keeps its files as they are. A `.git` file that was deleted or rewritten is written anew, a
        directory that is gone is filled from `commit`, one that a kill left half-made is finished.
        """
        path = self.path_of(repo, slot)
        async with self._slots.setdefault((repo.common_dir, slot), asyncio.Lock()):
            async with repository_lock(repo) as lock:
                ignore_own_directory(repo)
                make_parents(repo, path)
                admin = known = find_admin(repo, self._reason(slot), path)
                if admin is None:
                    admin = await self._add(repo, slot, path, commit, lock)
                clear_stale_locks(repo, self._session, admin)
            worktree = Worktree(repo, self._session, slot, path, admin)
            self._fresh.pop(admin, None)
            if not mend(worktree, commit):
                await self._fill(worktree, commit)
                if known is None:  # else something may have lain there
                    self._fresh[admin] = commit
            return worktree

    def is_fresh(self, worktree: Worktree, commit: str) -> bool:
        """Tell whether the last `ensure` made the worktree, at that commit, and no setup has run there since.

        Only who has had the worktree alone since then may ask.
        """
        return self._fresh.get(worktree.git_dir) == commit and not worktree.setup_mark.exists()

    def note_use(self, worktree: Worktree) -> None:
        """Note that somebody has worked in a worktree since it was made."""
        self._fresh.pop(worktree.git_dir, None)

    def find(self, repo: Repository, slot: str) -> Worktree | None:
        """Return the worktree of a slot as it is; None: there is none."""
        path = self.path_of(repo, slot)
        admin = find_admin(repo, self._reason(slot), path)
        return Worktree(repo, self._session, slot, path, admin) if admin else None

    def is_half_made(self, worktree: Worktree) -> bool:
        """Tell whether a kill came while a worktree was being made: nobody has worked there; `ensure` finishes it."""
        return worktree.path.is_dir() and not worktree.path.is_symlink() and not worktree.index.exists()

    async def forget(self, worktree: Worktree) -> None:
        """Have git forget a worktree whose directory is not there any more."""
        async with repository_lock(worktree.repository) as lock:
            self._git.index_trees.pop(worktree.index, None)
            # The first -f is for a lock, which is ours.
            args = ("worktree", "remove", "-f", "-f", "--", str(worktree.path))
            await self._git.run(worktree.repository, *args, fds=(lock,))

    def path_of(self, repo: Repository, slot: str) -> Path:
        """Return where the worktree of a slot is, or would be."""
        if repo.top is None:
            message = f"repository {repo.name!r} is bare, and agents that write need a checkout beside their worktrees"
            raise GitError(message, code="bare-repository", hint=f"git clone '{repo.git_dir}' and name the clone")
        return repo.top / worktree_place(self._session, slot)

    def _reason(self, slot: str) -> str:
        return f"orchestra:{self._session}:{slot}"

    async def _add(self, repo: Repository, slot: str, path: Path, commit: str, lock: int) -> Path:
        """Register the worktree without its files; that takes milliseconds, however large the repository is."""
        move_aside(repo, self._session, path)
        options = ("--no-checkout", "--detach", "--lock", "--reason", self._reason(slot))
        await self._git.run(repo, "worktree", "add", *options, "--", str(path), commit, fds=(lock,))
        failpoint("worktree-registered")
        admin = find_admin(repo, self._reason(slot), path)
        if admin is None:
            raise GitError(f"git made no worktree at {path}", code="worktree-failed")
        return admin

    async def _fill(self, worktree: Worktree, commit: str) -> None:
        """Write the files; only where no agent has worked since the directory was made."""
        worktree.index.unlink(missing_ok=True)
        worktree.setup_mark.unlink(missing_ok=True)
        for mark in (worktree.handed_mark, worktree.lent_mark):
            mark.unlink(missing_ok=True)  # what a person had here is gone, too
        self._git.index_trees.pop(worktree.index, None)
        point_head(worktree, commit)
        async with self._checkouts:
            await self._git.run(worktree, "read-tree", "-u", "--reset", commit, timeout=_CHECKOUT_TIMEOUT)
        head = await self._git.read_ref(worktree, "HEAD")
        if head != commit:
            raise GitError(f"the worktree {worktree.path} stands on {head} and not on {commit}", code="worktree-failed")
        failpoint("worktree-filled")
        await self._place_copies(worktree)
        # The private index comes last: that it is there says that the worktree is complete.
        copy_index(worktree.git_dir / "index", worktree.index)
        failpoint("worktree-ready")

    async def _place_copies(self, worktree: Worktree) -> None:
        directory = self._copies / worktree.repository.name if self._copies else None
        if directory is None or not directory.is_dir():
            return
        tracked = frozenset((await self._git.run(worktree, "ls-files", "-z")).stdout.split(b"\0"))
        await place_copies(worktree.repository, directory, worktree, tracked)
        failpoint("copies-placed")


def worktree_place(session: str, slot: str) -> Path:
    """Return where the worktree of a slot lies, below the repository's top."""
    return Path(".orchestra", "worktrees", safe_name(session), safe_name(slot))


def is_safe_name(name: object) -> bool:
    """Tell whether a name may be part of paths and references."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def safe_name(name: str) -> str:
    """Return a name that may be part of paths and references, or refuse it."""
    if not is_safe_name(name):
        raise GitError(f"{name!r} can't be part of a reference: use a-z, 0-9 and -", code="bad-name")
    return name


@contextlib.asynccontextmanager
async def repository_lock(repo: Repository) -> AsyncIterator[int]:
    """Hold the lock of all Orchestra's processes on a repository; gives its descriptor, for git to inherit.

    It is taken on git's own directory, so that no file is added there. Asked for again and again, because a thread
    that waits in the kernel can't be cancelled.
    """
    descriptor = os.open(repo.common_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pause = 0.002
        while not try_flock(descriptor, fcntl.LOCK_EX):
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
        yield descriptor
    finally:
        # Closing lets go, once a git process that inherited it has ended too.
        os.close(descriptor)


async def repository_locks(stack: contextlib.AsyncExitStack, repos: Iterable[Repository]) -> list[int]:
    """Hold the locks of several repositories, in an order in which no two processes wait for each other."""
    in_order = sorted(repos, key=lambda repo: repo.common_dir)
    return [await stack.enter_async_context(repository_lock(repo)) for repo in in_order]


def _refuse_unwritable(repo: Repository) -> None:
    """Refuse a repository in which the session could write nothing, before anything is made."""
    for place in (repo.common_dir, repo.common_dir / "objects", repo.common_dir / "refs"):
        if place.is_dir() and not os.access(place, os.W_OK):
            number = errno.EROFS if is_readonly(place) else errno.EACCES
            raise OSError(number, os.strerror(number), str(place))


def ignore_own_directory(repo: Repository) -> None:
    """Write `.orchestra/.gitignore` and the line in `info/exclude`, where they lack."""
    if repo.top is not None:
        own = repo.top / ".orchestra"
        _refuse_foreign(own)
        own.mkdir(mode=0o700, exist_ok=True)
        ignore_all(own)
    exclude = repo.common_dir / "info" / "exclude"
    text = exclude.read_text(errors="surrogateescape") if exclude.exists() else ""
    if EXCLUDE_LINE not in text.splitlines():
        exclude.parent.mkdir(exist_ok=True)
        gap = "" if not text or text.endswith("\n") else "\n"
        # In one write: half a line would ignore something else.
        with exclude.open("ab", buffering=0) as file:
            file.write(os.fsencode(f"{gap}{EXCLUDE_LINE}\n"))


def ignore_all(directory: Path) -> None:
    """Have git ignore all of a directory of ours.

    What is there already stays as it is: a repository may hold a link in its place, to lead us elsewhere.
    """
    if os.path.lexists(directory / ".gitignore"):
        return
    # In one step: one that a kill left empty would ignore nothing, and never be written again.
    descriptor, draft = tempfile.mkstemp(prefix=".gitignore.", dir=directory)
    try:
        with contextlib.closing(os.fdopen(descriptor, "w", encoding="utf-8")) as file:
            file.write("*\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, directory / ".gitignore")
    finally:
        Path(draft).unlink()


def make_parents(repo: Repository, path: Path) -> None:
    """Make the directories above a worktree; a repository may hold a link in their place, to lead us elsewhere."""
    parents = [parent for parent in reversed(path.parents) if repo.top in parent.parents]
    for parent in parents:
        _refuse_foreign(parent)
        parent.mkdir(mode=0o700, exist_ok=True)


def _refuse_foreign(path: Path) -> None:
    if path.is_symlink():
        hint = f"remove the link: rm '{path}'"
        raise GitError(
            f"{path} is a link, and worktrees must not lie elsewhere", code="own-directory-is-link", hint=hint
        )
    if path.exists() and not path.is_dir():
        hint = f"move it: mv '{path}' '{path}.old'"
        raise GitError(f"{path} is a file where Orchestra needs a directory", code="own-directory-is-file", hint=hint)


def find_admin(repo: Repository, reason: str, path: Path) -> Path | None:
    """Find the administrative directory of a worktree: by our lock's reason, which agents have no business with."""
    root = repo.common_dir / "worktrees"
    candidates = sorted(root.iterdir()) if root.is_dir() else []
    for admin in candidates:
        if content_of(admin / "locked") == reason:
            return admin
    return next((admin for admin in candidates if content_of(admin / "gitdir") == str(path / ".git")), None)


def session_of_admin(admin: Path) -> str | None:
    """Return the session that a worktree's administrative directory belongs to; None: it is not Orchestra's."""
    match = re.fullmatch(r"orchestra:([^:]+):.*", content_of(admin / "locked") or "")
    return match[1] if match else None


def slot_of_admin(admin: Path) -> str:
    """Return the slot that a worktree's administrative directory of ours belongs to."""
    return (content_of(admin / "locked") or "").rpartition(":")[2]


def place_of_admin(admin: Path) -> Path | None:
    """Return the directory of the worktree that an administrative directory stands for, be it there or not."""
    link = content_of(admin / "gitdir")
    return Path(link).parent if link else None


def content_of(file: Path) -> str | None:
    """Return what a small file says; None where there is none, or something else: a pipe would be waited for."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, errors="surrogateescape") as opened:  # noqa: PTH123 - a descriptor
            return opened.read().strip("\n") if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None


def clear_stale_locks(repo: Repository, session: str, admin: Path) -> None:
    """Remove lock files that a killed git left, of our own only: this worktree's and this session's references.

    One that a process has open (a git that an agent's command left at work) stays: it is waited for.
    """
    own = repo.common_dir / "refs" / "orchestra" / session
    locks = [*admin.glob("*.lock"), *own.rglob("*.lock")]
    # A git that waits for its editor or a hook has its lock not open.
    if locks and not gits_in([worktree_of_admin(admin)]):
        for lock in locks:
            if holder_of(lock) is None:
                lock.unlink(missing_ok=True)


def worktree_of_admin(admin: Path) -> Path:
    """Return where the worktree of an administrative directory lies."""
    return Path(content_of(admin / "gitdir") or admin).parent


def mend(worktree: Worktree, commit: str) -> bool:
    """Put right what git needs to know the worktree; returns whether its files are there already."""
    path, admin = worktree.path, worktree.git_dir
    if path.is_symlink():
        path.unlink()
    elif path.exists() and not path.is_dir():
        move_aside(worktree.repository, worktree.session, path)
    complete = worktree.index.exists() and path.is_dir()
    path.mkdir(exist_ok=True)
    rewrite(admin / "gitdir", f"{path / '.git'}\n")
    rewrite(admin / "commondir", f"{os.path.relpath(worktree.repository.common_dir, admin)}\n")
    rewrite(admin / "locked", f"orchestra:{worktree.session}:{worktree.slot}")
    link = path / ".git"
    foreign = link.is_symlink() or (link.exists() and not link.is_file())
    # An agent made a repository of its own here, or something else; what it holds is kept.
    if foreign and move_aside(worktree.repository, worktree.session, link) is None:
        link.rmdir()
    rewrite(link, f"gitdir: {admin}\n")
    head = content_of(admin / "HEAD") or ""
    if not re.fullmatch(r"ref: refs/\S+|[0-9a-f]{40,64}", head):
        point_head(worktree, commit)
    return complete


def rewrite(file: Path, text: str) -> None:
    """Write a small file as one step, unless it is so already."""
    if content_of(file) != text.strip("\n") or file.is_symlink():
        draft = file.with_name(file.name + ".orchestra")
        draft.write_text(text, errors="surrogateescape")
        draft.replace(file)


def point_head(worktree: Worktree, commit: str) -> None:
    """Write the worktree's HEAD, detached, and remember that it was Orchestra who did."""
    rewrite(worktree.git_dir / "HEAD", f"{commit}\n")
    remember_head(worktree, commit)


def remember_head(worktree: Worktree, commit: str) -> None:
    """Note the HEAD that is known to be kept, so that commits of the agent's own are noticed."""
    rewrite(worktree.known_head, f"{commit}\n")


def known_head(worktree: Worktree) -> str | None:
    """Return the HEAD that is known to be kept."""
    return content_of(worktree.known_head)


def raw_head(worktree: Worktree) -> str | None:
    """Return what the worktree's HEAD file says: a commit, or `ref: …`."""
    return content_of(worktree.git_dir / "HEAD")


def rescue_directory(repo: Repository, session: str) -> Path:
    """Return a directory, made now, for files that stood in the way and are in no snapshot."""
    if repo.top is None:
        raise GitError(f"repository {repo.name!r} is bare", code="bare-repository")
    path = repo.top / ".orchestra" / "rescue" / session / stamp()
    make_parents(repo, path)
    path.mkdir(mode=0o700)
    return path


def stamp() -> str:
    """Return the time as part of a name, which is never given twice: a clock may stand still or go back."""
    return f"{datetime.now(UTC).strftime('%Y%m%dt%H%M%S%fz')}{secrets.token_hex(4)}"


def move_aside(repo: Repository, session: str, path: Path) -> Path | None:
    """Move what lies at a path out of the way, if anything does; nothing is ever deleted."""
    if not path.is_symlink() and (not path.exists() or (path.is_dir() and not any(path.iterdir()))):
        return None
    target = rescue_directory(repo, session) / path.name
    path.rename(target)
    return target
