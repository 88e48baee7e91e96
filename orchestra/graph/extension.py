"""The user's Pydantic models: fields of the state (`state:`), merged into the base state, and outputs (`output:`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from orchestra.errors import PipelineError, Problem
from orchestra.imports import import_object

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from orchestra.agents.outputs import OutputSpec
    from orchestra.errors import Location
    from orchestra.graph.parallel import Parallelism

RESERVED = frozenset(
    {
        *("messages", "inputs", "agent_outputs", "metadata", "snapshot", "clock", "turns", "attempts", "loops"),
        *("choices", "arrivals", "joined", "rounds", "lineage", "frontier", "ended", "turn"),
    }
)
"""Fields of the base state, and what a task's template sees beside them; a test compares them with the state."""


@dataclass(frozen=True)
class Extension:
    """The fields that a pipeline adds to the state."""

    annotations: Mapping[str, Any] = field(default_factory=dict)
    """Field → type, with its reducer in `Annotated`."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Field → its first value, as JSON."""

    def has_reducer(self, name: str) -> bool:
        """Tell whether several agents may write the field in one step."""
        hint = self.annotations[name]
        return get_origin(hint) is Annotated and any(callable(part) for part in get_args(hint)[1:])


def load_extension(spec: str, search: Sequence[Path], location: Location | None) -> Extension:
    """Import the model and read its fields.

    Args:
        spec: `package.module:Model`.
        search: Directories that imports see first: the pipeline's own.
        location: Where the pipeline file names it.

    Raises:
        PipelineError: `bad-import`, `state-not-a-model`, or `state-field-clash`.
    """
    from pydantic import BaseModel

    model = import_object(spec, search=search)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise PipelineError(
            f"`state: {spec}` is {model!r:.100}, not a Pydantic model",
            code="state-not-a-model",
            hint="name a class that derives from pydantic.BaseModel",
            location=location,
        )
    clashes = sorted(RESERVED.intersection(model.model_fields))
    if clashes:
        raise PipelineError(
            f"{spec} has the field{'s' * (len(clashes) > 1)} {', '.join(map(repr, clashes))}, which the base state has",
            code="state-field-clash",
            hint="give the field another name",
            location=location,
        )
    return Extension(_annotations(model), _defaults(model))


def _annotations(model: Any) -> dict[str, Any]:
    from typing import get_type_hints

    hints = get_type_hints(model, include_extras=True)
    return {name: _reducer_last(hints[name]) for name in model.model_fields}


def _reducer_last(hint: Any) -> Any:
    """Put the reducer where LangGraph looks for it: last in `Annotated`."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, *parts = get_args(hint)
    reducers = [part for part in parts if callable(part) and not isinstance(part, type)]
    return Annotated[(kind, reducers[-1])] if reducers else kind


def _defaults(model: Any) -> dict[str, Any]:
    """Return the JSON of every field that has a default."""
    from pydantic_core import to_jsonable_python

    return {
        name: to_jsonable_python(info.get_default(call_default_factory=True))
        for name, info in model.model_fields.items()
        if not info.is_required()
    }


def check_reducers(
    extension: Extension,
    writes: Mapping[str, Collection[str]],
    parallelism: Parallelism,
    location: Location | None,
) -> list[Problem]:
    """Report fields without a reducer that two parallel agents write.

    Args:
        extension: The pipeline's fields.
        writes: Agent or step → the fields its output holds.
        parallelism: Who can be active together.
        location: Where the pipeline file names the model.
    """
    problems = []
    for name in extension.annotations:
        writers = [node for node, fields in writes.items() if name in fields]
        pair = next(
            ((one, other) for one in writers for other in writers if one < other and (one, other) in parallelism.pairs),
            None,
        )
        if pair and not extension.has_reducer(name):
            problems.append(
                Problem(
                    "missing-reducer",
                    f"{pair[0]!r} and {pair[1]!r} can write the state's field {name!r} at the same time, "
                    "and it has no reducer that says how to merge",
                    location,
                    f"annotate it, for example `{name}: Annotated[list[str], operator.add] = []`",
                )
            )
    return problems


def output_fields(output: OutputSpec | None, extension: Extension) -> tuple[str, ...]:
    """Return the fields of the extension that an output of this form writes: properties of the same name."""
    properties = output.schema.get("properties", {}) if output is not None else {}
    return tuple(name for name in extension.annotations if name in properties)


def load_output(spec: str | Mapping[str, Any], search: Sequence[Path]) -> OutputSpec:
    """Return the form of an output: an inline JSON Schema, or a Pydantic model by its import path.

    Raises:
        PipelineError: `bad-output-schema`, `bad-import`, or `output-not-a-model`.
    """
    from orchestra.agents.outputs import OutputSpec

    if not isinstance(spec, str):
        return OutputSpec.from_schema(spec)
    from pydantic import BaseModel

    model = import_object(spec, search=search)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        message = f"`output: {spec}` is {model!r:.100}, not a Pydantic model"
        raise PipelineError(message, code="output-not-a-model", hint="name a class that derives from BaseModel")
    return OutputSpec.from_model(model)
