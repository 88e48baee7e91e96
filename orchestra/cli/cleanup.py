"""`orchestra cleanup`: remove sessions that have ended, and what they left in the repositories."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.options import JsonOption, print_json, read_age
from orchestra.cli.place import typed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.runtime.cleanup_plan import Plan, Reason, RepoPlan, Report, SessionPlan


def cleanup_command(
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="[session]...", help="Only these sessions, whatever their age.")
    ] = None,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Not what was at work since: 90m, 12h, 14d, 2w.")
    ] = "14d",
    discard: Annotated[
        bool, typer.Option("--discard", help="Also what is merged nowhere, and files that are in no commit.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove sessions that are completed, cancelled or failed, and what they left in the repositories.

    With a session go its worktrees, its references, its conversation and its checkpoints. Its branch goes where it is
    merged, and stays otherwise. A session is kept, with the reason, where more than that is merged nowhere: changes in
    a worktree, files that were kept aside, commits without a branch. Your checkout is never touched.

    Exit codes: 0 done, 1 something could not be removed, 2 none of the named sessions may go, 4 one is driven.

    Example: orchestra cleanup --dry-run
    """
    import asyncio

    from orchestra.graph.root import find_root
    from orchestra.runtime.cleaning import clean, plan_cleanup, planned_report

    age = read_age(older_than, "--older-than")
    root = find_root(Path.cwd())

    async def work() -> tuple[Plan, Report]:
        plan = await plan_cleanup(root, sessions=sessions or None, older_than=age, discard=discard)
        return plan, planned_report(plan) if dry_run else await clean(root, plan)

    plan, report = asyncio.run(work())
    if json:
        print_json({"dry_run": dry_run, **report.as_json()})
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(report, older_than, dry_run=dry_run)))
    if code := _code(plan, report, named=bool(sessions), dry_run=dry_run):
        raise typer.Exit(code)


def _code(plan: Plan, report: Report, *, named: bool, dry_run: bool) -> int:
    if dry_run:
        return 0
    if named and report.kept and not report.removed:
        codes = {reason.code for session in report.kept for reason in session.reasons}
        return 4 if "driven" in codes else 2
    planned = {session.session_id for session in plan.sessions if not session.reasons}
    return int(len(planned) > len(report.removed))


def _lines(report: Report, older_than: str, *, dry_run: bool) -> Iterator[str]:
    from orchestra.cli.render import escape
    from orchestra.runtime.disk import size

    # Names and messages come from databases and repositories of somebody: nothing in them may steer the terminal.
    for session in report.removed:
        yield f"{'would be removed' if dry_run else 'removed'}: {escape(_about(session))}"
        for repo in session.repos:
            yield from (f"  {escape(line)}" for line in _gone(repo))
        for reason in session.discarded:
            # What lay in a worktree is gone; commits can still be brought back.
            shown = reason if reason.code == "unmerged" else replace(reason, look=None)
            yield from _because(shown, "lost: ")
    for session in report.kept:
        yield f"kept: {escape(_about(session))}"
        for reason in session.reasons:
            yield from _because(reason)
    if not report.sessions and not report.trash:
        yield f"nothing to clean up: no session has ended {older_than} ago or earlier"
        return
    freed = size(sum(session.bytes for session in report.removed))
    count = len(report.removed)
    words = f"{count} session{'' if count == 1 else 's'} {'would be removed' if dry_run else 'removed'}, {freed}"
    yield words + (f"; {len(report.kept)} kept" if report.kept else "")
    stuck = [one.session_id for one in report.kept if not any(reason.final for reason in one.reasons)]
    if stuck:
        yield f"all the same, with what would be lost: {typed(f'cleanup {stuck[0]} --discard')}"


def _about(session: SessionPlan) -> str:
    from orchestra.runtime.disk import size

    if session.status is None:
        return f"session {session.session_id}"
    day = (session.updated_at or "")[:10]
    return f"session {session.session_id} ({session.pipeline}, {session.status} {day}, {size(session.bytes)})"


def _gone(repo: RepoPlan) -> Iterator[str]:
    """Say what goes in a repository, and what of it stays."""
    parts = [f"worktree {tree.slot}" for tree in repo.worktrees]
    if repo.refs:
        parts.append(f"{len(repo.refs)} reference{'' if len(repo.refs) == 1 else 's'}")
    if repo.branch is not None and repo.branch.stays is None:
        parts.append(f"branch {repo.branch.name}")
    if repo.rescued is not None:
        parts.append(f"the files in {repo.rescued}")
    if parts:
        yield f"{repo.name}: {', '.join(parts)}"
    if repo.branch is not None and repo.branch.stays is not None:
        yield f"{repo.name}: the branch {repo.branch.name} stays: {repo.branch.stays}"
        yield f"  git -C {quote(str(repo.path))} log -p {quote(repo.branch.name)}"
    for path in repo.left:
        yield f"{repo.name}: {path} stays: it is not Orchestra's"


def _because(reason: Reason, word: str = "") -> Iterator[str]:
    from orchestra.cli.render import escape

    where = f"{reason.repo}: " if reason.repo else ""
    yield f"  {escape(f'{word}{where}{reason.message}')}"
    if reason.look:
        ours = reason.look.startswith("orchestra ")
        yield f"    {escape(typed(reason.look.removeprefix('orchestra ')) if ours else reason.look)}"
