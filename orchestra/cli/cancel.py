"""`orchestra cancel`: end a session for good."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from orchestra.runtime.remains import Kept
    from orchestra.runtime.store import SessionFiles


def cancel_command(
    session: Annotated[str, typer.Argument(help="The session's id, or a unique beginning of it.")],
    json: JsonOption = False,
) -> None:
    """End a session for good, wherever it runs: in another terminal, in the background, or nowhere any more.

    Whatever drives it stops at the next safe point. Its branches, commits and worktrees stay; it can't be resumed.

    Exit codes: 0 cancelled, 2 it has completed already, 4 whatever drives it does not stop.

    Example: orchestra cancel 3f
    """
    import asyncio

    from orchestra.graph.root import find_root
    from orchestra.runtime.store import find_session

    root = find_root(Path.cwd())
    files = find_session(root, session)
    is_new, kept = asyncio.run(_cancel(root, files))
    if json:
        document = {"session_id": files.session_id, "status": "cancelled"}
        print_json({**document, "branches": kept.branches, "worktrees": kept.worktrees})
    else:
        sys.stdout.write(_text(files.session_id, kept, is_new=is_new))


async def _cancel(root: Path, files: SessionFiles) -> tuple[bool, Kept]:
    from orchestra.graph.project import Project
    from orchestra.runtime.remains import kept_by
    from orchestra.runtime.session import SessionManager
    from orchestra.runtime.store import read_session

    is_new = await SessionManager(Project(root)).cancel(files)
    return is_new, await kept_by(read_session(files))


def _text(session: str, kept: Kept, *, is_new: bool) -> str:
    from orchestra.cli.render import escape

    lines = [f"cancelled: session {session}" if is_new else f"the session {session} was cancelled already"]
    for repo, branch in kept.branches.items():
        lines += [f"branch of {repo}: {branch}", f"  git log -p {branch}"]
    lines += [f"worktree of {repo}: {path}" for repo, paths in kept.worktrees.items() for path in paths]
    lines += [
        f"{repo} is not at {path} any more; what the session has made there stays" for repo, path in kept.unseen.items()
    ]
    has_left = bool(kept.branches or kept.worktrees)
    what = "; these stay" if has_left else "" if kept.unseen else "; it has left nothing"
    lines.append(f"it can't be resumed{what}")
    return "".join(f"{escape(line)}\n" for line in lines)
