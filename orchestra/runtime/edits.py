"""`replay --set path=value`: changes of a checkpoint's state, checked against the pipeline before anything is made."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.agents.outputs import InvalidOutputError
from orchestra.errors import PipelineError, Problem, did_you_mean
from orchestra.graph.inputs import read_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.runtime.forking import Newest

BASE = ("inputs", "agent_outputs")
"""Fields of the base state that may be set; the others are Orchestra's own bookkeeping."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One value to be set in the state."""

    path: tuple[str, ...]
    """The field, then keys or positions inside it."""
    value: Any

    @classmethod
    def parse(cls, text: str) -> Edit:
        """Read `path=value`; the value is JSON where it can be read so, else a text.

        Raises:
            PipelineError: `bad-option`.
        """
        path, equals, value = text.partition("=")
        parts = tuple(part.strip() for part in path.split("."))
        if not equals or not all(parts):
            hint = 'write `--set FIELD=VALUE` or `--set FIELD.KEY=VALUE`, such as `--set agent_outputs.critic="fine"`'
            raise PipelineError(f"`--set {text}` is not PATH=VALUE", code="bad-option", hint=hint)
        try:
            return cls(parts, json.loads(value))
        except (ValueError, RecursionError):
            return cls(parts, value)

    @property
    def shown(self) -> str:
        """The path as it was typed."""
        return ".".join(self.path)


def apply_edits(
    pipeline: ResolvedPipeline,
    opened: Sequence[Newest],
    inputs: Mapping[str, Any],
    given: Mapping[str, Any],
    edits: Sequence[Edit],
) -> dict[str, Any]:
    """Set values in the states of a checkpoint: that of the root and of the branches that are open.

    Args:
        pipeline: What is going to run.
        opened: Their checkpoints, which are changed; the root's is the first.
        inputs: The inputs as they were.
        given: New values of inputs, or texts of the command line.
        edits: What to set.

    Returns:
        The inputs as they are then.

    Raises:
        PipelineError: With everything that can't be set.
    """
    problems: list[Problem] = []
    kept = {name: value for name, value in inputs.items() if name in pipeline.pipeline.inputs}
    new: dict[str, Any] = {"inputs": {**kept, **given}}
    doubtful: set[str] = set()
    state = opened[0].state
    for edit in edits:
        field = edit.path[0]
        try:
            _refuse_unknown(pipeline, edit)
            new[field] = _with(new.get(field, _plain(state.get(field))), edit.path[1:], edit)
        except PipelineError as error:
            problems += error.problems
            doubtful.add(field)
    for field in new.keys() - doubtful:
        try:
            new[field] = _checked(pipeline, field, new[field], state)
        except PipelineError as error:
            problems += error.problems
    if problems:
        raise PipelineError.of(problems)
    # A field that bears the name of an input begins with it.
    begun = {name: value for name, value in new["inputs"].items() if value != inputs.get(name)}
    fields = {name: value for name, value in begun.items() if name in pipeline.extension.annotations}
    for one in opened:
        for name, value in {**fields, **new}.items():
            one.set(name, deepcopy(value))
    return dict(new["inputs"])


def decided_already(pipeline: ResolvedPipeline, ended: Sequence[Mapping[str, Any]], edits: Sequence[Edit]) -> list[str]:
    """Warn of outputs that were changed after a condition has read them: the way on is part of the checkpoint.

    Args:
        pipeline: What is going to run.
        ended: The turns that have ended at the checkpoint.
        edits: What was set.
    """
    agents = {edit.path[1] for edit in edits if edit.path[0] == "agent_outputs"} & {turn["agent"] for turn in ended}
    return [
        f"the condition {edge.condition!r} has already chosen what follows {agent!r} at this checkpoint, and is not "
        f"asked again; with `--before {agent}` its turn and the choice are made anew"
        for agent in sorted(agents)
        for edge in pipeline.topology.edges.get(agent, ())
        if edge.condition
    ]


def _refuse_unknown(pipeline: ResolvedPipeline, edit: Edit) -> None:
    field = edit.path[0]
    known = [*BASE, *pipeline.extension.annotations]
    if field not in known:
        hint = did_you_mean(field, known) or f"fields that can be set: {', '.join(known)}"
        raise _refused(edit, f"the state has no field {field!r} that can be set", hint)
    if field not in BASE:
        return
    names = list(pipeline.pipeline.inputs) if field == "inputs" else list(pipeline.nodes)
    what = "input" if field == "inputs" else "agent or step"
    if len(edit.path) == 1 or edit.path[1] not in names:
        said = f"`{field}` is set entry by entry" if len(edit.path) == 1 else f"there is no {what} {edit.path[1]!r}"
        near = did_you_mean(edit.path[1], names) if len(edit.path) > 1 else None
        raise _refused(
            edit, said, near or f"write `--set {field}.NAME=VALUE` with one of: {', '.join(names) or 'none'}"
        )


def _with(held: Any, path: tuple[str, ...], edit: Edit) -> Any:
    """Return a value with another one at a path inside it."""
    if not path:
        return edit.value
    key, *rest = path
    if isinstance(held, dict) or held is None:
        inner = dict(held or {})
        inner[key] = _with(inner.get(key), tuple(rest), edit)
        return inner
    if isinstance(held, list):
        position = int(key) if key.isdecimal() else -1
        if not 0 <= position < len(held):
            raise _refused(
                edit, f"a list of {len(held)} has no item {key!r}", f"positions go from 0 to {len(held) - 1}"
            )
        return [_with(item, tuple(rest), edit) if number == position else item for number, item in enumerate(held)]
    raise _refused(
        edit, f"there is nothing inside {held!r:.60}, where {key!r} should be", "set the whole value instead"
    )


def _checked(pipeline: ResolvedPipeline, field: str, value: Any, state: Mapping[str, Any]) -> Any:
    if field == "inputs":
        return read_inputs(pipeline, value)
    if field == "agent_outputs":
        before = _plain(state.get(field)) or {}
        return {name: _output(pipeline, name, one) if one != before.get(name) else one for name, one in value.items()}
    return check_field(pipeline, field, value)


def _output(pipeline: ResolvedPipeline, name: str, value: Any) -> Any:
    output = pipeline.nodes[name].output if name in pipeline.nodes else None
    try:
        return output.validate(value) if output is not None else value
    except InvalidOutputError as error:
        message = f"the output of {name!r} can't be that: {'; '.join(error.problems)}"
        raise PipelineError(message, code="wrong-value", hint="it must fit the agent's `output:`") from error


def check_field(pipeline: ResolvedPipeline, field: str, value: Any) -> Any:
    """Return a value of a field of the pipeline's state as JSON.

    Raises:
        PipelineError: `wrong-value`: it does not fit the field's type.
    """
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(pipeline.extension.annotations[field])
    try:
        return adapter.dump_python(adapter.validate_python(value), mode="json")
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or field}: {one['msg']}" for one in error.errors())
        message = f"the field {field!r} of the state can't be {value!r:.100}: {told}"
        raise PipelineError(
            message, code="wrong-value", hint=f"its type is in `state: {pipeline.pipeline.state}`"
        ) from error


def _plain(value: Any) -> Any:
    """Return what a field holds; in a graph's first checkpoint it may be marked as the field's start."""
    return getattr(value, "value", value)


def _refused(edit: Edit, message: str, hint: str) -> PipelineError:
    return PipelineError(f"`--set {edit.shown}=…`: {message}", code="wrong-value", hint=hint)
