"""What is said of parallel writers: where their changes are merged, and who resolves what conflicts there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.errors import Problem
from orchestra.graph.checks import listed, node_place
from orchestra.graph.topology import END, join_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from orchestra.graph.checks import Locate
    from orchestra.graph.meetings import Meeting, Meetings
    from orchestra.graph.schema import EdgeSpec
    from orchestra.graph.slots import Slots
    from orchestra.graph.topology import Topology


def conflict_warnings(
    graph: Sequence[EdgeSpec],
    topology: Topology,
    slots: Slots,
    meetings: Meetings,
    steps: Collection[str],
    locate: Locate,
) -> Iterator[Problem]:
    """Yield a warning for each group of parallel writers, and where `on_conflict` can't do what it says.

    Args:
        graph: The entries under `graph`.
        topology: The same, analysed.
        slots: In which worktree each agent and step works.
        meetings: Where parallel writers meet.
        steps: Nodes that are no agents.
        locate: Gives the place of a path in the pipeline file.
    """
    for meeting in meetings.found:
        if meeting.join is None:
            yield _at_end(meeting, slots, locate)
        else:
            if topology.joins[meeting.join].mode == "all":
                yield _at_join(meeting, meeting.join, topology, slots, meetings, locate)
            yield from _needs_human(meeting, meeting.join, topology, meetings, steps, locate)
    for edge in graph:
        if edge.on_conflict and not any(meetings.at(join_name(target)) for target in edge.targets):
            yield _without_effect(edge, locate)


def _at_join(
    meeting: Meeting, join: str, topology: Topology, slots: Slots, meetings: Meetings, locate: Locate
) -> Problem:
    target = topology.joins[join].target
    happens = {
        "agent": f"where they conflict, {target!r} resolves it; `on_conflict: human` or `fail` at the edge to it would "
        "pause or stop the session there",
        "human": "where they conflict, the session pauses for a person",
        "fail": "where they conflict, the session stops; `on_conflict: agent` or `human` would go on",
    }
    return _parallel_write(
        meeting,
        slots,
        f"before {target!r} their changes are merged in the order of `from`",
        happens[meetings.resolver(join, meeting.repo)],
        locate,
    )


def _at_end(meeting: Meeting, slots: Slots, locate: Locate) -> Problem:
    return _parallel_write(
        meeting,
        slots,
        "their changes are merged at the session's end, where what conflicts stays on branches of its own",
        "to have conflicts resolved, let them lead to an agent by a list edge: `{from: [A, B], to: AGENT}`",
        locate,
    )


def _parallel_write(meeting: Meeting, slots: Slots, then: str, hint: str, locate: Locate) -> Problem:
    places = {slots.of(writer, meeting.repo) for writer in meeting.writers}
    each = "each" if len(places) == len(meeting.writers) else "each branch"
    return Problem(
        "parallel-write",
        f"{listed(meeting.writers)} may write to {meeting.repo!r} at the same time: {each} works in a worktree of its "
        f"own, and {then}",
        node_place(meeting.writers[0], locate),
        hint,
        "warning",
    )


def _needs_human(
    meeting: Meeting,
    join: str,
    topology: Topology,
    meetings: Meetings,
    steps: Collection[str],
    locate: Locate,
) -> Iterator[Problem]:
    spec = topology.joins[join]
    if spec.on_conflict != "agent" or meetings.resolver(join, meeting.repo) == "agent":
        return
    target, repo = spec.target, meeting.repo
    if target in steps:
        reason, remedy = f"{target!r} is a step", "let the list lead to an agent that may write"
    else:
        reason, remedy = (
            f"{target!r} has no tool that writes to {repo!r}",
            f"give {target!r} the tool `{repo}:edit-file`",
        )
    yield Problem(
        "conflict-needs-human",
        f"a conflict in {repo!r} before {target!r} will wait for a person, since {reason}",
        locate("graph", spec.index),
        f"{remedy}, or say `on_conflict: human` or `on_conflict: fail` at this edge",
        "warning",
    )


def _without_effect(edge: EdgeSpec, locate: Locate) -> Problem:
    if edge.targets == (END,):
        reason = "a list that leads to END is no join; what never met is merged at the session's end"
    else:
        reason = "no parallel writers of one repo meet at this edge"
    return Problem(
        "on-conflict-without-effect",
        f"`on_conflict` has no effect here: {reason}",
        locate("graph", edge.index, "on_conflict", key=True),
        "remove it, or let the list lead to an agent" if edge.targets == (END,) else "remove it",
        "warning",
    )
