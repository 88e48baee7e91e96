"""The inputs of a run: checked against what the pipeline declares, all problems at once."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from orchestra.errors import PipelineError, Problem, did_you_mean, near_names

_KINDS = {"string": "a text", "number": "a number", "boolean": "true or false", "json": "JSON"}

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.graph.schema import InputSpec


def read_inputs(
    pipeline: ResolvedPipeline, given: Mapping[str, Any], held: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Check and complete the inputs of a run.

    Args:
        pipeline: Declares them.
        given: Input name → text from the command line, or a value.
        held: Input name → value that is not to be read as a text any more: what a session has, or what is set there.

    Raises:
        PipelineError: Unknown inputs, wrong types, required ones that lack; all at once.
    """
    declared = pipeline.pipeline.inputs
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for name, value in {**(held or {}), **given}.items():
        if name not in declared:
            known = ", ".join(declared) or "none"
            hint = did_you_mean(name, declared) or f"declared inputs: {known}"
            problems.append(Problem("unknown-input", f"the pipeline has no input {name!r}", None, hint))
            continue
        try:
            values[name] = (_typed if name in given else _fitting)(value, declared[name])
        except ValueError as error:
            problems.append(Problem("wrong-input", f"the input {name!r} {error}", None, _example(name, declared[name])))
    misspelt = {near for name in given if name not in declared for near in near_names(name, declared)}
    for name, spec in declared.items():
        if name in values or name in given or name in (held or ()) or (name in misspelt and spec.required):
            continue
        if spec.required:
            what = f": {spec.description}" if spec.description else ""
            place = pipeline.document.locate("inputs", name, key=True)
            message = f"the input {name!r} is required{what}"
            problems.append(Problem("missing-input", message, place, _example(name, spec)))
        elif spec.has_default:
            values[name] = spec.default
        else:
            values[name] = "" if spec.type == "string" else None
    if problems:
        raise PipelineError.of(problems)
    return values


def _example(name: str, spec: InputSpec) -> str:
    value = {"string": "TEXT", "number": "3", "boolean": "true", "json": "'{…}'"}[spec.type]
    return f"give it with `--input {name}={value}`, or from a file with `--input {name}=@FILE`"


def _typed(value: Any, spec: InputSpec) -> Any:
    """Read an input's text as its declared type."""
    if not isinstance(value, str) or spec.type == "string":
        return value
    text = value.strip()
    try:
        match spec.type:
            case "number":
                return _number(text)
            case "boolean":
                return {"true": True, "false": False}[text.lower()]
            case _:
                return json.loads(text, parse_constant=_no_number)
    except (ValueError, KeyError, RecursionError):
        shown = text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004 - what fits a line
        raise ValueError(f"must be {_KINDS[spec.type]}, not {shown!r}") from None


def _fitting(value: Any, spec: InputSpec) -> Any:
    """Return a value that is of the declared type; a default may be of any."""
    kinds: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float), "boolean": (bool,)}
    is_default = spec.has_default and type(value) is type(spec.default) and value == spec.default
    if is_default or (value is None and not spec.required) or type(value) in kinds.get(spec.type, (type(value),)):
        return value
    raise ValueError(f"must be {_KINDS[spec.type]}, not {json.dumps(value, ensure_ascii=False):.40}")


def _number(text: str) -> int | float:
    if "_" in text or not text.isascii():
        _no_number(text)
    try:
        return int(text)
    except ValueError:
        value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    """Refuse what Python reads as a number and JSON does not: NaN, Infinity, 1_000."""
    raise ValueError(text)
