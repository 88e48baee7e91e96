"""The arguments of a tool call, as models write them: checked, put right where the meaning is clear, else explained."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from orchestra.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

DEEPEST = 100
"""Levels of nesting that are taken from a model: far more than any tool needs, far fewer than Python can walk."""

_MISSING = object()
_KINDS: dict[str, str] = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def read_arguments(schema: Mapping[str, Any], args: Any) -> tuple[dict[str, Any], list[str]]:
    """Check arguments against a tool's schema.

    Returns:
        The values, with `"3"` read as 3 where a number is wanted and with nulls of optional arguments left out, and
        what is wrong, one sentence each.
    """
    if not hasattr(args, "items"):
        return {}, [f"the arguments must be an object, not {_describe(args)}"]
    if too_deep(args):
        return {}, [f"the arguments are nested more than {DEEPEST} levels deep; make them flatter"]
    known: Mapping[str, Any] = schema.get("properties", {})
    required = schema.get("required", ())
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in args.items():
        if name not in known:
            hint = did_you_mean(str(name), known)
            problems.append(f"there is no argument {str(name)[:80]!r}" + (f"; {hint}" if hint else ""))
        elif value is not None or name in required or _allows_null(known[name]):
            values[name] = _read(known[name], value, repr(name), problems)
    problems.extend(f"argument {name!r} is missing" for name in required if name not in args)
    return values, problems


def too_deep(value: Any, deepest: int = DEEPEST) -> bool:
    """Return whether lists and objects are nested in more than so many levels."""
    level = [value] if isinstance(value, dict | list | tuple) else []
    for _ in range(deepest):
        parts = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
        level = [part for part in parts if isinstance(part, dict | list | tuple)]
        if not level:
            return False
    return True


def explain_arguments(schema: Mapping[str, Any], problems: list[str]) -> str:
    """Say what is wrong with a call, then what the tool takes."""
    required = schema.get("required", ())
    takes = ", ".join(
        f"{name} ({_wanted(part)}{'' if name in required else ', optional'})"
        for name, part in schema.get("properties", {}).items()
    )
    return f"{'; '.join(problems)}. Arguments: {takes or 'none'}."


def _read(schema: Mapping[str, Any], value: Any, where: str, problems: list[str]) -> Any:
    if "anyOf" in schema:
        return _read_any(schema, value, where, problems)
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if kinds:
        value, fits = _coerce(value, kinds)
        if not fits:
            problems.append(f"{where} must be {_wanted(schema)}, not {_describe(value)}")
            return value
    if "enum" in schema and value not in schema["enum"]:
        hint = did_you_mean(str(value), map(str, schema["enum"]))
        problems.append(f"{where} must be {_wanted(schema)}, not {_describe(value)}" + (f"; {hint}" if hint else ""))
    elif isinstance(value, str):
        _check_text(value, where, problems)
    elif isinstance(value, list):
        return [_read(schema.get("items", {}), part, f"{where}[{at}]", problems) for at, part in enumerate(value)]
    elif isinstance(value, dict):
        return _read_object(schema, value, where, problems)
    elif value is not None and not isinstance(value, bool):
        _check_range(schema, value, where, problems)
    return value


def _read_any(schema: Mapping[str, Any], value: Any, where: str, problems: list[str]) -> Any:
    for choice in schema["anyOf"]:
        found: list[str] = []
        result = _read(choice, value, where, found)
        if not found:
            return result
    problems.append(f"{where} must be {_wanted(schema)}, not {_describe(value)}")
    return value


def _read_object(schema: Mapping[str, Any], value: dict[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    parts: Mapping[str, Any] = schema.get("properties", {})
    rest = schema.get("additionalProperties", {})
    rest = rest if isinstance(rest, dict) else {}
    return {key: _read(parts.get(key, rest), part, f"{where}.{key}", problems) for key, part in value.items()}


def _check_text(value: str, where: str, problems: list[str]) -> None:
    # A lone surrogate can be neither written to a file nor stored.
    if re.search(r"[\ud800-\udfff]", value):
        problems.append(f"{where} holds a lone surrogate, which is not text; leave it out")


def _check_range(schema: Mapping[str, Any], value: float, where: str, problems: list[str]) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and value < low:
        problems.append(f"{where} must be at least {low}, not {value}")
    if high is not None and value > high:
        problems.append(f"{where} must be at most {high:,}, not {value}")


def _coerce(value: Any, kinds: list[str]) -> tuple[Any, bool]:
    if any(_is(value, kind) for kind in kinds):
        return value, True
    for kind in kinds:
        result = _convert(value, kind)
        if result is not _MISSING:
            return result, True
    return value, False


def _convert(value: Any, kind: str) -> Any:
    """Read what a model plainly meant: `"3"` for 3, `3.0` for 3, `"true"`, a list as JSON text, a number as text."""
    if isinstance(value, str) and kind in {"integer", "number", "array", "object"}:
        return _parse(value, kind)
    if kind == "boolean" and isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind == "string" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _MISSING


def _parse(text: str, kind: str) -> Any:
    longest_number = 100
    if len(text) > longest_number and kind in {"integer", "number"}:
        return _MISSING
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _MISSING
    return value if _is(value, kind) and not too_deep(value) else _MISSING


def _is(value: Any, kind: str) -> bool:
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    types: dict[str, type] = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}
    return isinstance(value, types[kind])


def _allows_null(schema: Mapping[str, Any]) -> bool:
    return "null" in schema.get("type", ()) or any(_allows_null(choice) for choice in schema.get("anyOf", ()))


def _wanted(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(choice, ensure_ascii=False) for choice in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_wanted(choice) for choice in schema["anyOf"])
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(_KINDS[kind] for kind in kinds) or "any value"


def _describe(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 80 else f"{text[:80]}…"  # noqa: PLR2004 - one line of a terminal
