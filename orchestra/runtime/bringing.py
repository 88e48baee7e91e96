"""Writing results into checkouts: in all repositories or in none, also when the process is killed meanwhile.

A journal in the session's directory says what was begun, from before the first file until after the last one. What
the checkout was and what it becomes are commits that references hold by then. So whoever comes later can tell of each
file whether it is the old one, the new one, one that git was writing, or one that somebody has changed since.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from shlex import quote
from typing import TYPE_CHECKING

from orchestra.errors import GitError, RefusedError, SessionError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import RefUpdate
from orchestra.runtime.notices import listed
from orchestra.runtime.obstacles import find_obstacles
from orchestra.runtime.reverting import Standing, look, put_back, switch
from orchestra.runtime.snapshots import scratch_directory
from orchestra.runtime.worktree import stamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.runtime.git import GitManager, Repository
    from orchestra.runtime.incoming import Incoming
    from orchestra.runtime.store import SessionFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What is written into one checkout, as the journal has it."""

    path: str
    """Where the checkout is."""
    before: str
    """The commit of its files before; `rescue` holds it."""
    after: str
    """The commit of its files after, whose parents are `before` and the result."""
    rescue: str
    last: str | None
    """Where the reference of the last `apply` was."""
    done: bool = False


class Journal:
    """What an `apply` of a session has begun.

    Args:
        files: The session's.
    """

    def __init__(self, files: SessionFiles) -> None:
        self._file = files.apply_journal
        self._session = files.session_id

    def read(self) -> dict[str, Begun]:
        """Return repo → what was begun and did not end; empty: nothing."""
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            return {name: Begun(**entry) for name, entry in content["repos"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            unreadable = SessionError(
                f"the journal {self._file} of an `apply` that was cut off can't be read",
                code="apply-unfinished",
                hint="what lay in a checkout before is kept: "
                f"git for-each-ref refs/orchestra/{self._session}/rescue; then remove it: rm {quote(str(self._file))}",
            )
            unreadable.exit_code = 2  # nothing was touched
            raise unreadable from error

    def write(self, begun: Mapping[str, Begun]) -> None:
        """Write it as one step that reaches the disk."""
        draft = self._file.with_name(self._file.name + ".new")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"repos": {name: asdict(one) for name, one in begun.items()}}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)
        self._sync()

    def clear(self) -> None:
        """Say that all has ended."""
        self._file.unlink(missing_ok=True)
        self._sync()

    def _sync(self) -> None:
        directory = os.open(self._file.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def applied_ref(session: str) -> str:
    """Return the reference of what was applied last: the files then; its parents are those before, and the result."""
    return f"refs/orchestra/{session}/applied"


async def bring(git: GitManager, journal: Journal, incoming: Mapping[str, Incoming]) -> dict[str, str]:
    """Write what comes into every checkout, or into none.

    Args:
        git: Starts git.
        journal: The session's.
        incoming: Repo → what comes; the caller has seen that nothing stands in its way.

    Returns:
        Repo → the reference that keeps what lay there before.

    Raises:
        GitError: It failed, and all is as it was; `apply-raced`: somebody changed files meanwhile.
        SessionError: `apply-unfinished`: it failed, and so did putting the files back.
    """
    begun = {name: await _begin(git, one) for name, one in incoming.items()}
    repos = {name: one.repo for name, one in incoming.items()}
    journal.write(begun)
    failpoint("apply-journaled")
    try:
        for name, one in incoming.items():
            await _pin(git, one.repo, begun[name], one.outcome.session)
            failpoint("apply-pinned")
        for name, one in incoming.items():
            await _write(git, one, begun[name])
            failpoint("apply-written")
            begun[name] = replace(begun[name], done=True)
            journal.write(begun)
            failpoint("apply-noted")
    except BaseException as error:
        await _give_up(git, journal, repos, begun, error)
        raise
    journal.clear()
    failpoint("apply-ended")
    return {name: one.rescue for name, one in begun.items()}


async def _begin(git: GitManager, one: Incoming) -> Begun:
    session, result = one.outcome.session, one.outcome.result
    message = f"The checkout with the result of the Orchestra session {session}\n"
    parents = (one.before, result)
    return Begun(
        path=str(one.repo.top),
        before=one.before,
        after=await git.commit_tree(one.repo, one.after, parents, message, author=None, date=datetime.now(UTC)),
        rescue=f"refs/orchestra/{session}/rescue/{stamp()}-checkout",
        last=await git.read_ref(one.repo, applied_ref(session)),
    )


async def _pin(git: GitManager, repo: Repository, begun: Begun, session: str) -> None:
    updates = [RefUpdate(begun.rescue, begun.before, None), RefUpdate(applied_ref(session), begun.after, begun.last)]
    await git.update_refs(repo, updates)


async def _write(git: GitManager, one: Incoming, begun: Begun) -> None:
    """Let git write the files; it refuses as a whole where one is no longer what the private index knows."""
    # Once more, since git itself would overwrite ignored files: one may have come while others were written.
    if problems := await find_obstacles(git, one.repo, one.index, one.changes, session=one.outcome.session):
        raise RefusedError(problems)
    failpoint("apply-due")
    await switch(git, one.repo, one.index, begun.before, one.after)


async def _give_up(
    git: GitManager, journal: Journal, repos: Mapping[str, Repository], begun: Mapping[str, Begun], cause: BaseException
) -> None:
    """Put back what was written before an error; where that fails, the journal stays and the next `apply` does it."""
    try:
        left = await undo(git, journal, repos, begun)
    except (GitError, OSError) as error:
        where = listed([f"'{one.path}'" for one in begun.values()])
        raise SessionError(
            f"the result could not be written ({cause}), and putting the files back failed, too: {error}",
            code="apply-unfinished",
            hint=f"mend that, then run the same `orchestra apply` again: it puts {where} back first",
        ) from cause
    if isinstance(cause, (GitError, RefusedError)):
        said = f"; {_as_they_are(left)}" if left else ""
        cause.message = f"{cause.message}; all files were put back{said}"


def _as_they_are(left: Sequence[str]) -> str:
    return f"files that were changed meanwhile stay as they are: {listed(list(left))}"


async def undo(
    git: GitManager, journal: Journal, repos: Mapping[str, Repository], begun: Mapping[str, Begun]
) -> list[str]:
    """Put every checkout back to what it was, and forget that anything was begun.

    Returns:
        The files that somebody has changed since: they stay as they are, and so do the references.
    """
    left: list[str] = []
    for name, one in begun.items():
        standing = await _look(git, repos[name], one)
        changed = list(standing.foreign) if standing else []
        if standing is not None and standing.new:
            failpoint("apply-put-back-due")
            with scratch_directory(repos[name], _session_of(one)) as scratch:
                changed = await put_back(git, repos[name], scratch, one.before, one.after)
            failpoint("apply-put-back")
        left += [f"{one.path}/{path}" for path in changed]
        if not changed:
            await _unpin(git, repos[name], one)
            failpoint("apply-unpinned")
    journal.clear()
    return left


async def _look(git: GitManager, repo: Repository, begun: Begun) -> Standing | None:
    """Tell how far writing came; None: it had not begun, since nothing was pinned yet."""
    if await git.read_ref(repo, begun.rescue) is None:
        return None
    with scratch_directory(repo, _session_of(begun)) as scratch:
        return await look(git, repo, scratch, begun.before, begun.after)


def _session_of(begun: Begun) -> str:
    return begun.rescue.split("/")[2]


async def _unpin(git: GitManager, repo: Repository, begun: Begun) -> None:
    """Let the references be what they were; somebody may have moved them since."""
    applied = applied_ref(_session_of(begun))
    updates = []
    if await git.read_ref(repo, begun.rescue) == begun.before:
        updates.append(RefUpdate(begun.rescue, None, begun.before))
    if await git.read_ref(repo, applied) == begun.after:
        updates.append(RefUpdate(applied, begun.last, begun.after))
    if updates:
        await git.update_refs(repo, updates)


async def recover(
    git: GitManager, journal: Journal, repos: Mapping[str, Repository], begun: Mapping[str, Begun]
) -> tuple[bool, list[str]]:
    """End what an `apply` began that was killed: where all is written it is done, else all is put back.

    Args:
        git: Starts git.
        journal: The session's.
        repos: The repositories that the journal names.
        begun: What it says.

    Returns:
        Whether all was written; and the files that somebody has changed since, and that stay as they are.
    """
    for name, one in begun.items():
        standing = None if one.done else await _look(git, repos[name], one)
        if not one.done and (standing is None or not standing.is_complete):
            return False, await undo(git, journal, repos, begun)
    journal.clear()
    return True, []
