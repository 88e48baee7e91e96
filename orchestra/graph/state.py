"""The state of a running pipeline: the base fields, their reducers, and a pipeline's own extension."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, get_args, get_origin

from langchain_core.messages import AnyMessage  # noqa: TC002 - LangGraph reads the annotations
from langgraph.channels import Topic
from langgraph.graph.message import add_messages

from orchestra.agents.context import Snapshot, newest_snapshot
from orchestra.agents.meeting import Position, Record  # noqa: TC001 - LangGraph reads the annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


def merge(old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    """Merge two mappings; the newer value of a key wins (a reducer)."""
    return {**(old or {}), **(new or {})}


def greatest(old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    """Merge two mappings of counts, also nested ones; the greater value wins (a reducer, in any order the same)."""
    merged = dict(old or {})
    for key, value in (new or {}).items():
        known = merged.get(key)
        if isinstance(value, dict):
            merged[key] = greatest(known, value)
        else:
            merged[key] = value if known is None else max(known, value)
    return merged


def latest(old: str | None, new: str | None) -> str:
    """Keep the later of two ISO 8601 times in UTC (a reducer)."""
    return max(old or "", new or "")


class OrchestraState(TypedDict, total=False):
    """What every pipeline's state holds; a pipeline adds fields of its own with `state:`."""

    messages: Annotated[list[AnyMessage], add_messages]
    """The final message of every turn, under the agent's name."""
    inputs: dict[str, Any]
    agent_outputs: Annotated[dict[str, Any], merge]
    """Agent or step → its latest output."""
    metadata: Annotated[dict[str, Any], merge]
    """`session_id`, `pipeline`, `created_at`."""
    snapshot: Annotated[Snapshot, newest_snapshot]
    """Which commit of each repo holds the files, by slot (DESIGN §5.3)."""
    clock: Annotated[str, latest]
    """When the last turn ended, ISO 8601: the date of the next turn's commit."""
    turns: Annotated[dict[str, int], greatest]
    """Agent or step → finished turns."""
    attempts: Annotated[dict[str, list[int]], greatest]
    """Agent or step → `[turn, attempt]` of an attempt that follows a failed one."""
    loops: Annotated[dict[str, int], greatest]
    """Edge → how often it chose a loop target."""
    choices: Annotated[dict[str, list[str]], merge]
    """Edge → what its condition chose last."""
    arrivals: Annotated[dict[str, dict[str, int]], greatest]
    """Join → source → the turn with which it arrived last."""
    joined: Annotated[dict[str, dict[str, int]], greatest]
    """Join → source → the turn that the join has taken up."""
    rounds: Annotated[dict[str, int], greatest]
    """Join of mode `any` → how often it has started its target."""
    lineage: Annotated[dict[str, dict[str, int]], greatest]
    """Node → join of mode `any` → the round from which the node's present turn descends."""
    frontier: Annotated[list[str], Topic(str)]
    """The nodes that were started in the step just ended: who is active beside whom."""
    ended: Annotated[list[dict[str, Any]], Topic(dict)]
    """`{"agent", "turn"}` of the turns that finished in the step just ended."""
    _positions: Annotated[dict[str, Position], merge]
    """Node, or `source>join` → where the files of the token stand that came there last."""
    _stands: Annotated[list[dict[str, Any]], Topic(dict)]
    """`{"node", "at", "from"}`: where the files stand of the nodes that finished in the step just ended, and where they
    stood before."""
    _loose: Annotated[dict[str, dict[str, Any]], merge]
    """`node#turn` → `{"late", "commits"}` of a token that has ended and is not merged yet; empty once it is."""
    _merging: Annotated[dict[str, Record], merge]
    """Node behind a join → the conflict that is open there; empty once it is resolved."""
    _conflicts: Annotated[dict[str, dict[str, Any]], merge]
    """Number → a conflict of the session as `run --json` tells it, solved ones too."""
    _given: Annotated[dict[str, dict[str, Any]], merge]
    """Agent → `{"turn", "output", "fields"}`: what a person put in the place of a turn's output (`replay --set`), and
    the names of the fields that they set, which the turn must not write."""


BASE_FIELDS = frozenset(name for name in OrchestraState.__annotations__ if not name.startswith("_"))
"""Those that users may read; no field of a Pydantic model begins with an underscore."""


def state_schema(extension: Mapping[str, Any]) -> type[Any]:
    """Return the state's type: the base fields and those of a pipeline's extension.

    Args:
        extension: Field name → annotation, with its reducer in `Annotated`.
    """
    if not extension:
        return OrchestraState
    fields = {**OrchestraState.__annotations__, **extension}
    return TypedDict("PipelineState", fields, total=False)  # type: ignore[operator,no-any-return]  # built at run time


JOURNAL = "_journal"
"""The channel of a branch's journal; no field of a Pydantic model begins so, hence it is never a pipeline's own."""


class Journal(TypedDict):
    """What a branch hands back to the graph around it."""

    _journal: Annotated[list[dict[str, Any]], operator.add]
    """What its nodes wrote, update by update; `frontier` names what they started outside."""


def journaled(schema: type[Any]) -> type[Any]:
    """Return the type of the state inside a branch, which has a journal as well."""
    fields = {**schema.__annotations__, **Journal.__annotations__}
    return TypedDict("BranchState", fields, total=False)  # type: ignore[operator,no-any-return]  # built at run time


def reducers(extension: Mapping[str, Any]) -> dict[str, Callable[[Any, Any], Any]]:
    """Return the reducer of every field that has one."""
    import typing

    hints = {**typing.get_type_hints(OrchestraState, include_extras=True), **extension}
    return {
        name: reducer
        for name, hint in hints.items()
        if get_origin(hint) is Annotated and callable(reducer := get_args(hint)[-1])
    }


def with_update(
    state: Mapping[str, Any], update: Mapping[str, Any], reduce: Mapping[str, Callable[[Any, Any], Any]]
) -> dict[str, Any]:
    """Return the state as it will be once `update` is written: what a condition after the turn must see."""
    merged = dict(state)
    for name, value in update.items():
        merged[name] = reduce[name](state[name], value) if name in reduce and name in state else value
    return merged


def without(update: Mapping[str, Any], fields: Collection[str], outputs: Collection[str]) -> dict[str, Any]:
    """Return what a node has written without some fields, and without the outputs of some agents."""
    left = {name: value for name, value in update.items() if name not in fields}
    if "agent_outputs" in left:
        left["agent_outputs"] = {name: value for name, value in left["agent_outputs"].items() if name not in outputs}
    return left
