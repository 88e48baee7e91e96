"""`orchestra apply`: bring a session's result into the checkout."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestra.runtime.applied import Applied, AppliedRepo
    from orchestra.runtime.tree_changes import Change


def apply_command(
    session: Annotated[str, typer.Argument(help="The session's id, or a unique beginning of it.")],
    repo: Annotated[
        list[str] | None, typer.Option("--repo", metavar="NAME", help="Only this repo; may be repeated.")
    ] = None,
    branch: Annotated[
        str | None,
        typer.Option("--branch", metavar="NAME", help="Make a branch of the result; the checkout is not touched."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Bring the result of a session into your checkout, as uncommitted changes.

    Your own uncommitted work is kept: the result is merged into it. Where the two conflict, or a file that git does not
    track would be overwritten, nothing is changed in any repo. Index, HEAD and branches stay as they are.

    Exit codes: 0 done, or there was nothing to do; 1 it failed, and all files were put back; 2 refused, nothing was
    touched; 4 another process drives the session.

    Example: orchestra apply 3f
    """
    import asyncio

    from orchestra.graph.root import find_root
    from orchestra.runtime.applying import apply
    from orchestra.runtime.store import find_session

    files = find_session(find_root(Path.cwd()), session)
    applied = asyncio.run(apply(files, repos=repo, branch=branch, dry_run=dry_run))
    sys.stderr.write(_text(_notes(applied)))
    if json:
        print_json(applied.as_json())
    else:
        sys.stdout.write(_text(_lines(applied)))


def _text(lines: Iterator[str]) -> str:
    from orchestra.cli.render import escape

    return "".join(f"{escape(line)}\n" for line in lines)


def _notes(applied: Applied) -> Iterator[str]:
    record = applied.record
    if applied.recovered == "undone":
        yield "an earlier `apply` of this session was cut off; its changes were put back first"
    elif applied.recovered == "finished":
        yield "an earlier `apply` of this session was cut off after its last file; it is finished"
    yield from (f"changed since, and left as it is: {path}" for path in applied.left)
    if record.status != "completed":
        yield f"the session is {record.status}, not completed: this is its result so far"
    for repo in applied.repos.values():
        for path, target in (repo.links_out or {}).items():
            yield f"warning: {path} is a link that leads out of the repository, to {target}"


def _lines(applied: Applied) -> Iterator[str]:
    for name, repo in applied.repos.items():
        yield f"{name}: {_outcome(applied, repo)}"
        yield from _stat(repo.changes)
        if repo.rescue:
            yield f"  what lay there before is kept as {repo.rescue}"
    undo = [_undo(applied, repo) for repo in applied.repos.values() if repo.rescue]
    yield from (f"undo with: {command}" for command in undo)


def _outcome(applied: Applied, repo: AppliedRepo) -> str:
    from orchestra.runtime.store import ENDED

    would = "would be " if applied.dry_run else ""
    match repo.state:
        case "applied":
            return f"{would}applied to {repo.path}, not committed"
        case "branched":
            return f"the branch {applied.branch} {would or 'was '}made at {repo.commit[:10]}"
        case "already-applied" if applied.branch:
            return f"the branch {applied.branch} is there already"
        case "already-applied":
            return f"applied already to {repo.path}; nothing was done"
        case _ if applied.record.status in ENDED:
            return "the session has changed nothing there"
        case _:
            return "no change of an agent is in the session's result there yet"


def _stat(changes: Sequence[Change]) -> Iterator[str]:
    from orchestra.cli.history import MOST_PADDED
    from orchestra.cli.render import escape

    names = [escape(change.path.decode("utf-8", "backslashreplace")) for change in changes]
    width = min(max(map(len, names), default=0), MOST_PADDED)
    for change, name in zip(changes, names, strict=True):
        counts = "binary" if change.added is None else f"+{change.added} -{change.deleted}"
        yield f"  {change.kind} {name:<{width}}  {counts}"


def _undo(applied: Applied, repo: AppliedRepo) -> str:
    """Return the command that takes the changes back; git refuses it where a file has changed since."""
    ref = f"refs/orchestra/{applied.record.session_id}/applied"
    git = f"git -C {quote(repo.path)}"
    return f"{git} diff-tree -p --binary {ref} {quote(f'{ref}^')} | {git} apply"
