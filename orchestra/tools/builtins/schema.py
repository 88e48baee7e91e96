"""Short ways to write the JSON Schema of a built-in tool's arguments."""

from __future__ import annotations

from typing import Any

_OPTIONAL = "x-optional"


def string(description: str, *, optional: bool = False) -> dict[str, Any]:
    """Declare a text argument."""
    return {"type": "string", "description": description, _OPTIONAL: optional}


def boolean(description: str) -> dict[str, Any]:
    """Declare an optional switch."""
    return {"type": "boolean", "description": description, _OPTIONAL: True}


def integer(
    description: str, *, optional: bool = False, minimum: int = 1, maximum: int | None = None
) -> dict[str, Any]:
    """Declare a whole number."""
    bounds = {"minimum": minimum} | ({} if maximum is None else {"maximum": maximum})
    return {"type": "integer", "description": description, **bounds, _OPTIONAL: optional}


def parameters(**properties: dict[str, Any]) -> dict[str, Any]:
    """Make the schema of an arguments object."""
    required = [name for name, part in properties.items() if not part[_OPTIONAL]]
    plain = {name: {key: value for key, value in part.items() if key != _OPTIONAL} for name, part in properties.items()}
    return {"type": "object", "properties": plain, "required": required, "additionalProperties": False}
