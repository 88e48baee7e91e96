"""What a session publishes: one commit a turn, and the branch that follows the checkpoints."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestra.agents.context import SESSION_SLOT
from orchestra.errors import GitError
from orchestra.graph.topology import END
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import RefUpdate, Worktree
from orchestra.runtime.worktree import safe_name, stamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Place, Repository

SUBJECT_LIMIT = 200
MESSAGE_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Moved:
    """Where a session's result is to be found."""

    ref: str
    """The branch, or the reference that stands in for it."""
    checked_out_at: Path | None = None
    """Why the branch was not moved: it is checked out there."""


async def commit_turn(
    git: GitManager,
    where: Place,
    *,
    session: str,
    pipeline: str,
    agent: str,
    turn: int,
    tree_of: str,
    parents: Sequence[str],
    message: str | None,
    date: datetime,
) -> str:
    """Make the one commit of a turn, and keep it under `refs/orchestra`; a turn without a change gives its parent.

    The same arguments always give the same commit, so doing it again after a crash doubles nothing.

    Args:
        git: Starts git.
        where: The worktree of the turn, or the repository.
        session: The session's id.
        pipeline: The pipeline's name.
        agent: Who made the change.
        turn: The agent's turn, from 1.
        tree_of: The snapshot that holds the files at the turn's end.
        parents: The commit of the turn before; or the two sides of a conflict that the turn has resolved.
        message: What the agent says about it.
        date: The commit's date.
    """
    tree = await git.tree_of(where, tree_of)
    first, *others = parents
    if not others and tree == await git.tree_of(where, first):
        return first
    text = turn_message(message or f"{agent}: turn {turn} of {pipeline}", session=session, agent=agent, turn=turn)
    commit = await git.commit_tree(where, tree, parents, text, author=agent, date=date)
    failpoint("turn-commit-made")
    await pin(git, where, f"refs/orchestra/{safe_name(session)}/turn/{slot_of(where)}", commit, expected=first)
    return commit


def slot_of(where: Place) -> str:
    """Return the slot of a place; a repository without worktree stands for the session's."""
    return where.slot if isinstance(where, Worktree) else SESSION_SLOT


def turn_message(message: str, *, session: str, agent: str, turn: int) -> str:
    """Put together a commit message whose trailers are ours alone, whatever the agent wrote."""
    trailers = f"Orchestra-Session: {session}\nOrchestra-Agent: {agent}\nOrchestra-Turn: {turn}\n"
    return f"{_tame(message) or f'{agent}: turn {turn}'}\n\n{trailers}"


def merge_message(name: str, *, join: str, pipeline: str, session: str) -> str:
    """Return the message of the commit that merges what one branch brings.

    It has no trailer of an agent: those are for the one commit of a turn.
    """
    where = "at the session's end" if join == END else f"at {join}"
    trailers = f"Orchestra-Session: {session}\nOrchestra-Join: {join}\nOrchestra-Merges: {name}\n"
    return f"Merge the work of {name} {where} of {pipeline}\n\n{trailers}"


def _tame(message: str) -> str:
    text = message.replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(char for char in text if char == "\n" or unicodedata.category(char) not in {"Cc", "Cf", "Cs"})
    lines = [_defused(line.rstrip()) for line in text.strip()[:MESSAGE_LIMIT].split("\n")]
    lines[0] = lines[0][:SUBJECT_LIMIT]
    return "\n".join(lines).strip("\n")


def _defused(line: str) -> str:
    """Make a line harmless that git or a reader could take for our trailer, a divider or a scissors line."""
    folded = unicodedata.normalize("NFKC", line).casefold().lstrip()
    if folded.startswith("orchestra-"):
        return f"> {line.lstrip()}"
    return f" {line}" if line.startswith("---") or ">8" in line else line


async def pin(git: GitManager, where: Place, ref: str, new: str, *, expected: str | None) -> None:
    """Let a reference of ours hold a commit; what it held and the commit does not lead to is kept as a rescue."""
    found = await git.read_ref(where, ref)
    if found == new:
        return
    updates = [RefUpdate(ref, new, found)]
    if found is not None and found != expected and not await git.holds(where, new, [found]):
        session = ref.split("/")[2]
        updates.append(RefUpdate(f"refs/orchestra/{session}/rescue/{stamp()}-{slot_of(where)}", found, None))
    await git.update_refs(where, updates)


async def move_branch(
    git: GitManager, repo: Repository, branch: str, new: str, old: str | None, *, session: str
) -> Moved:
    """Let the session's branch follow a checkpoint, by compare and swap.

    A branch that is checked out somewhere is not moved, because the files there would no longer be those of its
    HEAD: `refs/orchestra/{session}/result` holds the commit instead.

    Args:
        git: Starts git.
        repo: The repository.
        branch: The branch's name, without `refs/heads/`.
        new: The commit.
        old: Where Orchestra left the branch; None: it is not there yet.
        session: The session's id.

    Raises:
        GitError: `branch-moved` when someone else moved the branch; it is left alone.
    """
    ref = f"refs/heads/{branch}"
    place = await git.checked_out_at(repo, ref)
    if place is not None:
        result = f"refs/orchestra/{safe_name(session)}/result"
        await pin(git, repo, result, new, expected=old)
        return Moved(result, place)
    found = await git.read_ref(repo, ref)
    if found != new:
        try:
            await git.update_refs(repo, [RefUpdate(ref, new, old)])
        except GitError as error:
            raise _branch_moved(error, repo, branch, new) from error
    return Moved(ref)


def _branch_moved(error: GitError, repo: Repository, branch: str, new: str) -> GitError:
    if error.code != "ref-moved":
        return error
    message = f"the branch {branch} of {repo.name!r} was moved by someone else and is left alone ({error.message})"
    hint = f"the session's commit is {new}: git -C '{repo.top or repo.git_dir}' log {new}"
    return GitError(message, command=error.command, stderr=error.stderr, code="branch-moved", hint=hint)


async def session_branch(git: GitManager, repo: Repository, *, prefix: str, pipeline: str, session: str) -> str:
    """Choose the session's branch: `{prefix}{pipeline}/{session}`, or the nearest name that the repository allows.

    A branch can't lie below another one (`a` and `a/b`), and on some file systems names differ by more than case.

    Raises:
        GitError: `bad-branch-name` when git takes none of the names, `branch-clash` when all are taken.
    """
    wanted = [f"{prefix}{pipeline}/{session}", f"{prefix}{pipeline}-{session}"]
    wanted.append(re.sub("/+", "-", wanted[0]))
    refs = await git.refs(repo, "refs/heads")
    taken = {name.removeprefix("refs/heads/").casefold() for name in refs}
    for name in wanted:
        await check_branch_name(git, repo, name)
        if not clashes(name.casefold(), taken):
            return name
    message = f"no branch for the session in {repo.name!r}: {', '.join(map(repr, wanted))} clash with branches there"
    raise GitError(message, code="branch-clash", hint=f"set another `branch_prefix` for the repository {repo.name!r}")


async def check_branch_name(git: GitManager, repo: Repository, name: str) -> None:
    """Refuse what git takes for no branch's name (`bad-branch-name`)."""
    # `git branch` takes a name that begins with a dash for an option, and HEAD for a place.
    answer = await git.run(repo, "check-ref-format", f"refs/heads/{name}", ok=(0, 1))
    if answer.returncode or name.startswith("-"):
        hint = "branch_prefix is a name like `orchestra/`"
        raise GitError(f"git takes no branch of the name {name!r}", code="bad-branch-name", hint=hint)


def clashes(name: str, taken: set[str]) -> bool:
    """Tell whether a branch can't lie beside others, all with their case folded."""
    parts = name.split("/")
    above = {"/".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return bool(above & taken) or any(other.startswith(name + "/") for other in taken)


def date_of(text: str) -> datetime:
    """Return the time that the state names, as the date of a commit."""
    return datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)
