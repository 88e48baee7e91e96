"""Structured output: an agent's last answer as a checked JSON value.

The model hands the value in by calling a tool, `submit_output`: each model that can call tools can do that, with any
schema. What a model writes as text instead is taken too, where it is the JSON that was asked for.

LangChain's `response_format` is not used: its tool strategy forces a tool call in each reply, which several of Claude's
models refuse (those that always think), and it does not check JSON Schemas; its provider strategy knows fewer schemas.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.errors import PipelineError
from orchestra.tools.arguments import DEEPEST, too_deep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langchain_core.messages import AIMessage
    from pydantic import BaseModel

OUTPUT_TOOL = "submit_output"
"""No tool of a pipeline has this wire name: theirs hold no single underscore before a word."""

MISSING: Any = object()
"""What `OutputSpec.read` gives for a message without a value."""

INSTRUCTION = (
    f"When your work is done, hand in your final answer by calling the tool `{OUTPUT_TOOL}`, once. "
    "Only what you hand in there is passed on."
)
"""Ends the system prompt of an agent with a structured output."""
_MAX_PROBLEMS = 10


class InvalidOutputError(Exception):
    """A value is not what `output` asks for.

    Args:
        problems: What is wrong, one line each, in words that model and user can act on.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What an agent has to hand in; made by `from_schema` or `from_model`."""

    schema: Mapping[str, Any]
    """The JSON Schema of the value."""
    _validate: Callable[[Any], Any] = field(repr=False)

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any]) -> OutputSpec:
        """Take an inline JSON Schema (draft 2020-12).

        Raises:
            PipelineError: The schema is invalid or refers to something outside itself.
        """
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
        from referencing import Registry
        from referencing.exceptions import Unresolvable

        plain = json.loads(json.dumps(schema))
        try:
            Draft202012Validator.check_schema(plain)
        except SchemaError as error:
            raise _bad_schema(f"{_path(error.absolute_path) or 'the schema'}: {error.message[:300]}") from error
        for ref in _refs(plain):
            if not ref.startswith("#"):
                raise _bad_schema(f"it refers to {ref!r}: only references inside the schema (#/…) are followed")
        # An empty registry, so that nothing is ever fetched.
        validator = Draft202012Validator(plain, registry=Registry())

        def validate(value: Any) -> Any:
            try:
                errors = sorted(validator.iter_errors(value), key=lambda error: str(error.absolute_path))
            except Unresolvable as error:
                raise InvalidOutputError([f"the schema has a reference that leads nowhere: {error.ref}"]) from error
            if errors:
                raise InvalidOutputError([_line(error.absolute_path, error.message) for error in errors])
            return value

        return cls(plain, validate)

    @classmethod
    def from_model(cls, model: type[BaseModel]) -> OutputSpec:
        """Take a Pydantic model; the value is stored as its JSON form.

        Raises:
            PipelineError: The model has no JSON Schema.
        """
        from pydantic import ValidationError
        from pydantic.errors import PydanticUserError

        try:
            schema = model.model_json_schema()
        except PydanticUserError as error:
            raise _bad_schema(f"{model.__name__} has no JSON Schema: {error.message}") from error

        def validate(value: Any) -> Any:
            try:
                checked = model.model_validate_json(json.dumps(value))
                return json.loads(checked.model_dump_json())
            except ValidationError as error:
                items = error.errors(include_url=False, include_input=False, include_context=False)
                lines = [_line(item["loc"], item["msg"].removeprefix("Value error, ")) for item in items]
                raise InvalidOutputError(lines) from error
            except Exception as error:
                # A validator of the user's own may raise anything.
                raise InvalidOutputError([f"{model.__name__}: {type(error).__name__}: {error}"]) from error

        return cls(schema, validate)

    def validate(self, value: Any) -> Any:
        """Return the value as JSON.

        Raises:
            InvalidOutputError: It is not what was asked for.
        """
        if too_deep(value):
            raise InvalidOutputError([f"the answer is nested more than {DEEPEST} levels deep: make it flatter"])
        try:
            return self._validate(value)
        except InvalidOutputError as error:
            extra = len(error.problems) - _MAX_PROBLEMS
            if extra <= 0:
                raise
            raise InvalidOutputError([*error.problems[:_MAX_PROBLEMS], f"and {extra} more"]) from error

    def check(self, message: AIMessage) -> Any:
        """Return the validated value that a message hands in.

        Raises:
            InvalidOutputError: There is no value in it, or it is not what was asked for.
        """
        from orchestra.agents.calls import was_cut

        value = self.read(message)
        if was_cut(message) and message.tool_calls and message.tool_calls[-1]["name"] == OUTPUT_TOOL:
            raise InvalidOutputError(["the answer reached the token limit and was cut: make it shorter"])
        if sum(call["name"] == OUTPUT_TOOL for call in message.tool_calls) > 1:
            raise InvalidOutputError([f"there is more than one answer: call {OUTPUT_TOOL} once"])
        if value is MISSING:
            raise InvalidOutputError([f"there is no answer: hand it in by calling {OUTPUT_TOOL}"])
        return self.validate(value)

    def read(self, message: AIMessage) -> Any:
        """Return the value that a message hands in, not validated; `MISSING` where there is none."""
        calls = [call for call in message.tool_calls if call["name"] == OUTPUT_TOOL]
        if len(calls) == 1:
            args = calls[0]["args"]
            return args if _is_object(self.schema) else args.get("value", MISSING)
        if calls or message.tool_calls:
            return MISSING
        return _json_in(message.text)

    @property
    def wire_schema(self) -> dict[str, Any]:
        """The schema of the arguments of the tool that takes the value; they must be an object."""
        if _is_object(self.schema):
            return dict(self.schema)
        value = _moved(dict(self.schema), "#/properties/value")
        return {"type": "object", "properties": {"value": value}, "required": ["value"]}


def wire_value(parameters: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """Return the arguments with which a value is handed in to a tool with these parameters."""
    wrapped = set(parameters.get("properties", {})) == {"value"}
    if isinstance(value, dict) and not (wrapped and set(value) != {"value"}):
        return value
    return {"value": value}


def _is_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object" and not {"oneOf", "anyOf", "allOf", "$ref"} & set(schema)


def _moved(schema: Any, to: str) -> Any:
    """Rewrite the references of a schema that moves to another place of a document."""
    if isinstance(schema, list):
        return [_moved(item, to) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: to + value[1:] if key == "$ref" and isinstance(value, str) and value.startswith("#") else _moved(value, to)
        for key, value in schema.items()
    }


def _refs(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [ref for item in schema for ref in _refs(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema[key] for key in ("$ref", "$dynamicRef") if isinstance(schema.get(key), str)]
    return own + [ref for value in schema.values() for ref in _refs(value)]


def _json_in(text: str) -> Any:
    """Read a text that is one JSON value, perhaps in a fence; `MISSING` for anything else."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", text, flags=re.DOTALL)
    try:
        return json.loads(fenced.group(1) if fenced else text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return MISSING


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _path(steps: Any) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _line(steps: Any, message: str) -> str:
    place = _path(steps)
    return f"{place}: {message[:300]}" if place else message[:300]


def _bad_schema(reason: str) -> PipelineError:
    return PipelineError(f"`output` is no usable schema: {reason}", code="bad-output-schema")
