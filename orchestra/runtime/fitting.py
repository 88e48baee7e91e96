"""Whether a session that stands at a checkpoint can go on with another pipeline (`replay --pipeline`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.errors import PipelineError, Problem
from orchestra.graph.topology import END, analyse
from orchestra.runtime.checkpoints import BRANCH_MARK
from orchestra.runtime.edits import check_field, plain
from orchestra.runtime.workspace import with_worktrees

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.graph.schema import Pipeline
    from orchestra.graph.topology import Join
    from orchestra.runtime.forking import Newest
    from orchestra.runtime.workspace import WorkspaceRepo

HINT = "fork at a checkpoint before it, or keep that part of the pipeline as it was"


def open_ones(newest: Sequence[Newest]) -> list[Newest]:
    """Return the checkpoints of graphs that have not ended, the root's first: what comes after its parent's newest."""
    by_namespace = {one.namespace: one for one in newest}
    found: dict[str, Newest] = {}
    for one in sorted(newest, key=lambda one: one.namespace.count("|") + bool(one.namespace)):
        parent = one.namespace.rpartition("|")[0]
        if not one.namespace or (parent in found and by_namespace[parent].seq < one.seq):
            found[one.namespace] = one
    return list(found.values())


def graph_states(pipeline: ResolvedPipeline, opened: Sequence[Newest]) -> list[Newest]:
    """Return those of the open checkpoints that are of the pipeline's graph and its branches, not inside a turn."""
    return [one for one in opened if all(name in pipeline.branches.by_name for name in one.names)]


def fit(
    pipeline: ResolvedPipeline, opened: Sequence[Newest], repos: Mapping[str, WorkspaceRepo], before: Pipeline
) -> None:
    """Check that a pipeline can go on from a checkpoint, and give fields that it is new to their first values.

    Args:
        pipeline: The changed one.
        opened: The open checkpoints; fields are added to their states.
        repos: Those that the session works on.
        before: What the session has run up to here.

    Raises:
        PipelineError: `does-not-fit`, with everything that does not.
    """
    joins = analyse((*before.agents, *before.steps), before.graph).joins
    problems = [
        *_repos(pipeline, repos),
        *_places(pipeline, opened),
        *_kinds(pipeline, opened, before),
        *_arrivals(pipeline, opened, joins),
        *_merges(pipeline, graph_states(pipeline, opened), joins),
        *_fields(pipeline, graph_states(pipeline, opened)),
    ]
    if problems:
        raise PipelineError.of(problems)


def _problem(message: str, hint: str = HINT) -> Problem:
    return Problem("does-not-fit", f"the pipeline does not fit the checkpoint: {message}", None, hint)


def _repos(pipeline: ResolvedPipeline, repos: Mapping[str, WorkspaceRepo]) -> Iterator[Problem]:
    for name in pipeline.pipeline.workspace.repos:
        if name not in repos:
            known = ", ".join(repos)
            yield _problem(f"its repo {name!r} is not one of the session's ({known})", "start a new session with `run`")
    for name, node in with_worktrees(pipeline).items():
        if name in repos and repos[name].repository.top is None:
            hint = f"give {node!r} tools that only read"
            yield _problem(f"the repo {name!r} is bare, and {node!r} needs its files in a worktree", hint)


def _levels(pipeline: ResolvedPipeline) -> dict[str, tuple[str, ...]]:
    """Return node of a graph → the branches around that graph, the outermost first."""
    branches = [branch for outer in pipeline.branches.lowered for branch in outer.walk()]
    joins = [name for name, join in pipeline.topology.joins.items() if join.mode == "all"]  # others have no node
    names = (*pipeline.topology.nodes, *joins)
    levels = {name: tuple(branch.name for branch in branches if name in branch.members) for name in names}
    for branch in branches:
        levels[branch.name] = levels[branch.entry][: levels[branch.entry].index(branch.name)]
    return levels


def _places(pipeline: ResolvedPipeline, opened: Sequence[Newest]) -> Iterator[Problem]:
    """Look for what is open, or about to start, and is not at the same place of the new graph."""
    levels = _levels(pipeline)
    told: set[str] = set()

    def lacks(name: str, level: tuple[str, ...], what: str) -> Iterator[Problem]:
        shown = name.removeprefix("branch.")
        if shown not in told and levels.get(name) != level:
            told.add(shown)
            why = "which it does not have" if shown not in levels else "which stands at another place of its graph"
            yield _problem(f"{shown!r} {what}, {why}")

    for one in reversed(opened):  # what is at work is about to start in the graph around it
        names = one.names
        inside = [name for name in names if name in levels or name.startswith("branch.")] or list(names[:1])
        for depth, name in enumerate(inside):
            yield from lacks(name, tuple(inside[:depth]), "is at work there")
        if all(name.startswith("branch.") for name in names):
            for channel in one.checkpoint["channel_values"]:
                name = channel.removeprefix(BRANCH_MARK)
                if name != channel and not name.startswith("route."):
                    yield from lacks(name, names, "is about to start there")


def _kinds(pipeline: ResolvedPipeline, opened: Sequence[Newest], before: Pipeline) -> Iterator[Problem]:
    """Look for agents at work that are something else in the new pipeline: their turns have other steps inside."""
    after = pipeline.pipeline
    at_work = dict.fromkeys(next((name for name in reversed(one.names) if name in before.agents), "") for one in opened)
    for name in [name for name in at_work if name in pipeline.nodes]:
        was, is_ = _kind(before, name), _kind(after, name)
        if was != is_:
            yield _problem(f"{name!r} is at work there as {was}, and is {is_} in it")
        elif _has_tools(before, name) and not _has_tools(after, name):
            yield _problem(f"{name!r} is at work there with tools, and has none in it")


def _kind(pipeline: Pipeline, name: str) -> str:
    if name in pipeline.steps:
        return "a step"
    return "an interactive agent" if pipeline.agents[name].mode == "interactive" else "an autonomous agent"


def _has_tools(pipeline: Pipeline, name: str) -> bool:
    spec = pipeline.agents.get(name)
    return spec is None or bool(spec.tools or pipeline.context_tools or spec.output)


def _merges(pipeline: ResolvedPipeline, opened: Sequence[Newest], joins: Mapping[str, Join]) -> Iterator[Problem]:
    """Look for what has to be merged yet, and can't be where it was to be."""
    told: set[str] = set()
    for one in opened:
        for target, record in (one.state.get("_merging") or {}).items():
            if record and _form(pipeline.topology.joins, record["join"]) != _form(joins, record["join"]):
                told.add(f"a conflict is open before {target!r}, whose join is another one there")
        loose = {key.partition("#")[0] for key, left in (one.state.get("_loose") or {}).items() if left}
        told |= {
            f"what {node!r} has written is not merged yet, and it has no {node!r}"
            for node in loose - set(pipeline.nodes)
        }
    yield from map(_problem, sorted(told))


def _form(joins: Mapping[str, Join], name: str) -> tuple[str, str] | None:
    return (joins[name].target, joins[name].mode) if name in joins else None


def _arrivals(pipeline: ResolvedPipeline, opened: Sequence[Newest], joins: Mapping[str, Join]) -> Iterator[Problem]:
    state = opened[0].state
    for name, arrived in (state.get("arrivals") or {}).items():
        taken = (state.get("joined") or {}).get(name, {})
        join = pipeline.topology.joins.get(name)
        # What has arrived at a join of mode `any` has started its target already, with all that is to be merged.
        is_other = join is not None and join.mode == "all" and name in joins and joins[name].mode == "any"
        for source, turn in arrived.items():
            if turn > taken.get(source, 0) and (join is None or is_other or source not in join.sources):
                target = name.removeprefix("join.")
                where = "the end" if target == END else repr(target)
                yield _problem(f"{source!r} has arrived at the join before {where}, which is another one there")


def _fields(pipeline: ResolvedPipeline, opened: Sequence[Newest]) -> Iterator[Problem]:
    for name in pipeline.extension.annotations:
        for one in opened:
            held = one.state.get(name)
            try:
                if name in one.state:
                    one.set(name, check_field(pipeline, name, plain(held)))
                elif name in pipeline.extension.defaults:
                    one.set(name, pipeline.extension.defaults[name])
            except PipelineError as error:
                yield from (
                    _problem(problem.message, "convert it with `--set`, or keep its type") for problem in error.problems
                )
                break
