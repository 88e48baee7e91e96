"""The end of a session: the work of writers that never met is merged, or left where the user can merge it."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestra.graph.merging import end_request, end_update
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import RefUpdate
from orchestra.runtime.notices import listed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from orchestra.agents.meeting import MergeRequest, Record
    from orchestra.runtime.git import GitManager
    from orchestra.runtime.running import SessionRun
    from orchestra.runtime.workspace import Workspace


async def merge_at_end(
    state: Mapping[str, Any],
    nodes: Iterable[str],
    run: SessionRun,
    update: Callable[[dict[str, Any]], Awaitable[object]],
) -> Record | None:
    """Merge what is left of branches when a session has ended, as the session's last checkpoint.

    What the user has merged into the session branch since a conflict there is taken.

    Args:
        state: The state at the end.
        nodes: Agents and steps in the order of the file.
        run: Does the merging.
        update: Writes an update of the state as a checkpoint.

    Returns:
        The conflict that stopped it; then nothing is merged.
    """
    request = end_request(state, nodes)
    if request is None:
        return None
    merged = await run.merge(await _with_merges_by_hand(run.git, run.workspace, request))
    if merged.record is None or str(merged.record["n"]) not in state.get("_conflicts", {}):
        await update(end_update(state, merged))
    if merged.record is None:
        run.adopt(merged.snapshot)
    return merged.record


async def _with_merges_by_hand(git: GitManager, workspace: Workspace, request: MergeRequest) -> MergeRequest:
    """Begin on the tip of a session branch that holds all that was left beside it."""
    session, *others = request.sides
    commits = dict(session.commits)
    for name, commit in session.commits.items():
        repo, left = workspace.repos[name], [side.commits[name] for side in others if name in side.commits]
        tip = await git.read_ref(repo.repository, f"refs/heads/{repo.branch}") if repo.branch and left else None
        if tip is not None and await git.holds(repo.repository, tip, [commit, *left]):
            commits[name] = tip
    return replace(request, sides=(replace(session, commits=commits), *others))


async def leave_on_branches(git: GitManager, workspace: Workspace, record: Record) -> dict[str, Any]:
    """Put what could not be merged on branches of its own, beside the session's; gives the cause of the failure."""
    names: list[str] = []
    turns: Counter[str] = Counter()
    for name, commits, _ in record["sides"][1:]:
        turns[name] += 1
        # In a loop a branch may have ended several times; no agent's name has a dot.
        own = name if turns[name] == 1 else f"{name}.{turns[name]}"
        for repo, commit in commits.items():
            known = workspace.repos[repo]
            if known.branch is None:
                continue
            branch = f"{known.branch}--{own}"
            ref = f"refs/heads/{branch}"
            found = await git.read_ref(known.repository, ref)
            if found is None:
                await git.update_refs(known.repository, [RefUpdate(ref, commit, None)])
                failpoint("branch-left")
            names.append(branch if found in (None, commit) else commit)
    repo = workspace.repos[record["repo"]]
    paths = listed([path for path, _ in record["conflict"]["paths"]])
    top = shlex.quote(str(repo.repository.top or repo.repository.git_dir))
    return {
        "code": "merge-conflict",
        "message": f"the work of {' and '.join(map(repr, _names(record)))} conflicts in {record['repo']!r}: {paths}; "
        f"nothing of it was merged, it is on {listed(list(dict.fromkeys(names)))}",
        "hint": f"merge it yourself: `git -C {top} switch {repo.branch}`, then `git merge` with each of these, go back "
        "to your branch and resume; or join the agents with a list edge, so that an agent resolves it",
        "agent": None,
    }


def _names(record: Record) -> list[str]:
    return list(dict.fromkeys((*record["who"][0], *record["who"][1])))
