"""`replay --set path=value`: changes of a checkpoint's state, checked against the pipeline before anything is made."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from orchestra.agents.outputs import InvalidOutputError
from orchestra.errors import PipelineError, Problem, did_you_mean
from orchestra.graph.human_decision import DECISIONS
from orchestra.graph.inputs import read_inputs
from orchestra.graph.state import JOURNAL, reducers, with_update, without
from orchestra.graph.topology import START
from orchestra.tools.arguments import DEEPEST, too_deep

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

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
            read = json.loads(value, parse_constant=_no_json, parse_float=_finite)
        except (ValueError, RecursionError):
            read = value
        if too_deep([read]):  # in the field that takes it
            message = f"the value of `--set {'.'.join(parts)}=…` is nested more than {DEEPEST} levels deep"
            hint = "keep what is deep in a file, and its path in the state"
            raise PipelineError(message, code="bad-option", hint=hint)
        try:
            json.dumps([parts, read], ensure_ascii=False).encode()
        except UnicodeError:
            shown = text.encode("utf-8", "backslashreplace").decode()
            raise PipelineError(f"`--set {shown}` is not UTF-8 text", code="bad-option", hint="give a text") from None
        return cls(parts, read)

    @property
    def shown(self) -> str:
        """The path as it was typed."""
        return ".".join(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where the state is changed."""

    opened: Sequence[Newest]
    """The checkpoints of the graphs that have not ended, the root's first; they are changed."""
    namespace: str
    """The graph of the checkpoint that was named."""
    held: Mapping[str, Any]
    """Its state."""
    unended: Mapping[str, int]
    """Agent → turn, of those that end once more."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What has been set."""

    inputs: dict[str, Any]
    """All inputs, as they are then."""
    fields: frozenset[str]
    outputs: frozenset[str]
    """The agents and steps whose outputs have been set."""


def asked_anew(pipeline: ResolvedPipeline, ended: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return agent → turn of those that have to end once more: a condition has read the state that is changed.

    What it has chosen is part of the checkpoint, so the fork begins just before it. A step would run its command again,
    hence what follows a step stays chosen.

    Args:
        pipeline: What is going to run.
        ended: The turns that have ended at the checkpoint.
    """
    return {
        str(turn["agent"]): int(turn["turn"])
        for turn in ended
        if turn["agent"] in pipeline.agents and _conditions(pipeline, turn["agent"])
    }


def decided_already(
    pipeline: ResolvedPipeline, ended: Sequence[Mapping[str, Any]], state: Mapping[str, Any], asked: Collection[str]
) -> list[str]:
    """Warn of conditions that have chosen what follows at the checkpoint, and are not asked again.

    Args:
        pipeline: What is going to run.
        ended: The turns that have ended at the checkpoint.
        state: Its state.
        asked: The agents behind which they are asked anew.
    """
    chosen = {str(turn["agent"]): f"--before {turn['agent']}" for turn in ended if turn["agent"] not in asked}
    if not state.get("turns"):
        chosen |= {START: "--step -1"} if state.get("choices") else {}
    return [
        f"the condition {condition!r} has already chosen what follows {source!r} at this checkpoint, and is not "
        f"asked again; with `{option}` the choice is made anew"
        for source, option in sorted(chosen.items())
        for condition in _conditions(pipeline, source)
    ]


def _conditions(pipeline: ResolvedPipeline, source: str) -> list[str]:
    return [edge.condition for edge in pipeline.topology.edges.get(source, ()) if edge.condition]


def apply_edits(
    pipeline: ResolvedPipeline,
    moment: Moment,
    inputs: Mapping[str, Any],
    given: Mapping[str, Any],
    edits: Sequence[Edit],
) -> Changed:
    """Set values in the state of a checkpoint: in the root's and in those of the branches that are open.

    Args:
        pipeline: What is going to run.
        moment: Where.
        inputs: The inputs as they were.
        given: New values of inputs, or texts of the command line.
        edits: What to set.

    Raises:
        PipelineError: With everything that can't be set.
    """
    kept = {name: value for name, value in inputs.items() if name in pipeline.pipeline.inputs}
    new = _changed(pipeline, moment.held, read_inputs(pipeline, given, kept), edits)
    # A field that bears the name of an input begins with it.
    begun = {name: value for name, value in new["inputs"].items() if value != inputs.get(name)}
    fields = {name: value for name, value in begun.items() if name in pipeline.extension.annotations}
    fields |= {name: value for name, value in new.items() if name not in BASE}
    outputs = new.get("agent_outputs", {})
    for one in moment.opened:
        one.set("inputs", deepcopy(new["inputs"]))
        _set(pipeline, one, fields, outputs, moment)
    at = next((one for one in moment.opened if one.namespace == moment.namespace), None)
    if at is not None and moment.unended:
        given_anew = {
            agent: {"turn": turn, "fields": sorted(fields)} | _entry("output", outputs, agent)
            for agent, turn in moment.unended.items()
        }
        at.set("_given", given_anew)
    return Changed(dict(new["inputs"]), frozenset(fields), frozenset(outputs))


def _set(
    pipeline: ResolvedPipeline, one: Newest, fields: Mapping[str, Any], outputs: Mapping[str, Any], moment: Moment
) -> None:
    """Set values in one graph's state.

    The graph around a branch has them too, so that the branch must not hand on what it had written there before. A
    branch beside was not seen from where the values are set: what it has written comes to them.
    """
    is_around = not one.namespace or f"{moment.namespace}|".startswith(f"{one.namespace}|")
    journal = one.state.get(JOURNAL) or []
    values = deepcopy(dict(fields))
    for entry in () if is_around else journal:
        own = {name: value for name, value in entry.items() if name in fields}
        values = with_update(values, own, reducers(pipeline.extension.annotations))
    for name, value in values.items():
        one.set(name, value)
    if outputs:
        known = plain(one.state.get("agent_outputs")) or {}
        others = {name: deepcopy(value) for name, value in outputs.items() if name not in moment.unended}
        one.set("agent_outputs", {**known, **others})
    if journal:
        one.set(JOURNAL, [without(entry, fields if is_around else (), outputs) for entry in journal])


def _changed(
    pipeline: ResolvedPipeline, held: Mapping[str, Any], inputs: Mapping[str, Any], edits: Sequence[Edit]
) -> dict[str, Any]:
    """Return the fields that are set, checked; of the outputs only those that are."""
    problems: list[Problem] = []
    new: dict[str, Any] = {"inputs": dict(inputs)}
    doubtful: set[str] = set()
    for edit in edits:
        field = edit.path[0]
        try:
            _refuse_unknown(pipeline, edit)
            new[field] = _with(new.get(field, plain(held.get(field))), edit.path[1:], edit)
        except PipelineError as error:
            problems += error.problems
            doubtful.add(field)
    if "agent_outputs" in new:
        named = {edit.path[1] for edit in edits if edit.path[0] == "agent_outputs" and len(edit.path) > 1}
        new["agent_outputs"] = {name: value for name, value in new["agent_outputs"].items() if name in named}
    for field in new.keys() - doubtful:
        try:
            new[field] = _checked(pipeline, field, new[field])
        except PipelineError as error:
            problems += error.problems
    if problems:
        raise PipelineError.of(problems)
    return new


def _entry(key: str, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: deepcopy(values[name])} if name in values else {}


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


def _checked(pipeline: ResolvedPipeline, field: str, value: Any) -> Any:
    if field == "inputs":
        return read_inputs(pipeline, {}, value)
    if field == "agent_outputs":
        return {name: _output(pipeline, name, one) for name, one in value.items()}
    return check_field(pipeline, field, value)


def _output(pipeline: ResolvedPipeline, name: str, value: Any) -> Any:
    if name in pipeline.agents and pipeline.agents[name].spec.mode == "interactive":
        return _decision(name, value)
    output = pipeline.nodes[name].output if name in pipeline.nodes else None
    try:
        return output.validate(value) if output is not None else value
    except InvalidOutputError as error:
        message = f"the output of {name!r} can't be that: {'; '.join(error.problems)}"
        raise PipelineError(message, code="wrong-value", hint="it must fit the agent's `output:`") from error


def _decision(name: str, value: Any) -> Any:
    """Check what a person is to have decided."""
    if isinstance(value, dict) and value.get("decision") in DECISIONS:
        return value
    hint = f"write `--set agent_outputs.{name}.decision=…` with one of: {', '.join(DECISIONS)}"
    raise PipelineError(f"{value!r:.100} is no decision on {name!r}", code="wrong-value", hint=hint)


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


def _no_json(text: str) -> NoReturn:
    """Refuse what Python reads as JSON and nobody else does: NaN, Infinity."""
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_json(text)


def plain(value: Any) -> Any:
    """Return what a field holds; in a graph's first checkpoint it may be marked as the field's start."""
    return getattr(value, "value", value)


def _refused(edit: Edit, message: str, hint: str) -> PipelineError:
    return PipelineError(f"`--set {edit.shown}=…`: {message}", code="wrong-value", hint=hint)
