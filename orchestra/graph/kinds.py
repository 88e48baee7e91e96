"""The kinds of values that a pipeline file holds, each with its reader."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestra.errors import did_you_mean
from orchestra.graph import wording
from orchestra.graph.reader import WRONG, Cursor, Wrong

if TYPE_CHECKING:
    from orchestra.graph.reader import Reader

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
START = "START"
END = "END"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*|[a-z_]+")
_PREFIX = re.compile(r"(?!.*(?:\.\.|//|@\{|/\.|\.lock(?:/|$)))[A-Za-z0-9_][A-Za-z0-9_./@+-]*")
_TEMPLATE_WORDS = frozenset(
    [
        *("inputs", "agent_outputs", "metadata", "messages", "turn", "loop", "self", "true", "false", "none"),
        *("and", "or", "not", "in", "is", "if", "else", "elif", "for"),
    ]
)
_SCHEMA_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
MAX_NAME = 64
"""Names become parts of branch names and directories."""


def text(cursor: Cursor) -> str | Wrong:
    """Read a text that is not empty."""
    value = cursor.value
    if isinstance(value, str) and value.strip():
        return value
    return cursor.wrong_type("a text", wording.text_hint(value, cursor.written))


def prose(cursor: Cursor) -> str | Wrong:
    """Read a text that may be empty."""
    return cursor.value if isinstance(cursor.value, str) else text(cursor)


def name(cursor: Cursor) -> str | Wrong:
    """Read a name of a pipeline, agent, step, repo or tool."""
    value = text(cursor)
    if isinstance(value, Wrong):
        return value
    if value in {START, END} or value.startswith("join."):
        what = "joins" if value.startswith("join.") else f"the {'beginning' if value == START else 'end'} of the graph"
        return cursor.wrong("bad-name", f"the name {value!r} is reserved for {what}", "choose another name", key=True)
    if NAME.fullmatch(value) and len(value) <= MAX_NAME:
        return value
    better = wording.slug(value)[:MAX_NAME].strip("-")
    message = f"{wording.shorten(value)!r} is no name here: lower-case letters, digits and '-', at most {MAX_NAME}"
    return cursor.wrong(
        "bad-name", message, f"write {better}" if better else "write a name such as pr-review", key=True
    )


def pipeline_name(cursor: Cursor) -> str | Wrong:
    """Read a name that is a value: the place is the value's, not the key's."""
    before = len(cursor.reading.problems)
    value = name(cursor)
    if value is WRONG:
        import dataclasses

        place = cursor.reading.document.locate(*cursor.path)
        fresh = cursor.reading.problems[before:]
        cursor.reading.problems[before:] = [dataclasses.replace(problem, location=place) for problem in fresh]
    return value


def provider_name(cursor: Cursor) -> str | Wrong:
    """Read the name of a provider; integrations have underscores in theirs."""
    if _PROVIDER.fullmatch(cursor.value):
        return str(cursor.value)
    message = f"{wording.shorten(cursor.value)!r} is no name of a provider: letters, digits, '.', '_' and '-'"
    return cursor.wrong("bad-name", message, f"write {wording.slug(cursor.value) or 'anthropic'}", key=True)


def input_name(cursor: Cursor) -> str | Wrong:
    """Read the name of an input, which templates use as a variable."""
    value = str(cursor.value)
    if value in _TEMPLATE_WORDS:
        message = f"the input name {value!r} has a meaning of its own in templates"
        return cursor.wrong("bad-name", message, f"write {value}_input", key=True)
    if _IDENTIFIER.fullmatch(value):
        return value
    better = wording.slug(value).replace("-", "_")
    message = f"{wording.shorten(value)!r} can't be the name of an input: templates use it as a variable"
    return cursor.wrong("bad-name", message, f"write {better or 'base'}", key=True)


def argument_name(cursor: Cursor) -> str | Wrong:
    """Read the name of a shell tool's argument, a placeholder of its command."""
    value = str(cursor.value)
    if _IDENTIFIER.fullmatch(value):
        return value
    message = f"{wording.shorten(value)!r} can't be the name of an argument: letters, digits and '_'"
    return cursor.wrong("bad-name", message, f"write {wording.slug(value).replace('-', '_') or 'path'}", key=True)


def choice(*options: str) -> Reader[Any]:
    """Read one of a few words."""

    def read(cursor: Cursor) -> str | Wrong:
        value = cursor.value
        if isinstance(value, str) and value in options:
            return value
        allowed = wording.one_of(options)
        if not isinstance(value, str) or not value:
            return cursor.wrong_type(allowed, f"write {allowed}")
        message = f"{cursor.name} can't be {wording.shorten(value)!r}, it must be {allowed}"
        return cursor.wrong("bad-choice", message, wording.choice_hint(value, options))

    return read


def integer(minimum: int) -> Reader[int]:
    """Read a whole number."""

    def read(cursor: Cursor) -> int | Wrong:
        value = cursor.value
        if isinstance(value, bool) or not isinstance(value, int):
            hint = wording.number_hint(value, duration=False)
            if isinstance(value, float):
                hint = f"write {round(value)}"
            return cursor.wrong_type("a whole number", hint)
        if value < minimum:
            message = f"{cursor.name} is {value}, it must be {minimum} or more"
            return cursor.wrong("bad-number", message, f"write {minimum} or more, or remove the key for the default")
        return value

    return read


def number(*, duration: bool = False) -> Reader[float]:
    """Read a number greater than 0."""
    wanted = "a number of seconds" if duration else "a number"

    def read(cursor: Cursor) -> float | Wrong:
        value = cursor.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return cursor.wrong_type(wanted, wording.number_hint(value, duration=duration))
        if value <= 0:
            message = f"{cursor.name} is {value}, it must be more than 0"
            return cursor.wrong("bad-number", message, "write more than 0, or remove the key for no limit of its own")
        return value

    return read


def boolean(cursor: Cursor) -> bool | Wrong:
    """Read true or false."""
    if isinstance(cursor.value, bool):
        return cursor.value
    return cursor.wrong_type("true or false", wording.boolean_hint(cursor.value))


def anything(cursor: Cursor) -> Any:
    """Read any JSON value."""
    return cursor.value


def layer(cursor: Cursor) -> str | Mapping[str, Any] | Wrong:
    """Read a prompt layer: the name of its file, or its keys inline."""
    kind = str(cursor.path[-1])
    body = {"role": "system", "task": "template"}.get(kind, "modifiers")
    if isinstance(cursor.value, Mapping) and cursor.value:
        return _inline_layer(cursor, kind, body)
    if isinstance(cursor.value, str) and cursor.value.strip():
        if "\n" in cursor.value or "{{" in cursor.value or " " in cursor.value.strip():
            message = f"{cursor.name} is the name of a prompt file, found a text"
            hint = f"write {kind}: {{{body}: …}} to give the text here"
            return cursor.wrong("wrong-type", message, hint)
        return cursor.value
    return cursor.wrong_type(
        f"the name of a prompt file, or {{{body}: …}}", wording.text_hint(cursor.value, cursor.written)
    )


def _inline_layer(cursor: Cursor, kind: str, body: str) -> Mapping[str, Any] | Wrong:
    known = ["name", "description", body, *(["extends"] if kind == "persona" else [])]
    ok = True
    for name_ in cursor.value:
        if name_ not in known:
            hint = did_you_mean(name_, known) or f"allowed here: {', '.join(known)}"
            cursor.child(name_).wrong("unknown-key", f"unknown key {name_!r} in {cursor.name}", hint, key=True)
            ok = False
    if not ok:
        return WRONG
    if body not in cursor.value and not (kind == "persona" and "extends" in cursor.value):
        return cursor.wrong(
            "missing-key", f"the key {body!r} is missing in {cursor.name}", f"add `{body}: …`", key=True
        )
    return dict(cursor.value)


def import_path(cursor: Cursor) -> str | Wrong:
    """Read the import path of a Python object, `package.module:Name`."""
    value = text(cursor)
    if isinstance(value, Wrong) or (_IMPORT_PATH.fullmatch(value) and ".py:" not in value):
        return value
    hint = "write it as package.module:Name"
    stem, _, last = value.rpartition(".")
    if ":" not in value and _IMPORT_PATH.fullmatch(f"{stem}:{last}"):
        hint = f"write {stem}:{last}"
    elif ".py:" in value:
        hint = f"write {value.replace('.py:', ':').removeprefix('./').replace('/', '.')}"
    message = f"{cursor.name} must be an import path, package.module:Name, found {wording.shorten(value)!r}"
    return cursor.wrong("bad-import-path", message, hint)


def output(cursor: Cursor) -> str | Mapping[str, Any] | Wrong:
    """Read the form of an output: an import path of a Pydantic model, or a JSON Schema."""
    value = cursor.value
    if isinstance(value, str) and value:
        return import_path(cursor)
    if not isinstance(value, Mapping) or not value:
        return cursor.wrong_type(
            "package.module:Name or a JSON Schema", "write output: {type: object, properties: {…}}"
        )
    kind = value.get("type")
    if isinstance(kind, str) and kind not in _SCHEMA_TYPES:
        hint = wording.choice_hint(kind, _SCHEMA_TYPES)
        return cursor.child("type").wrong("bad-choice", f"{kind!r} is no type of JSON Schema", hint)
    return dict(value)


def variable(cursor: Cursor) -> str | Wrong:
    """Read the name of an environment variable; a key written here by mistake is not repeated."""
    value = text(cursor)
    if isinstance(value, Wrong) or _VARIABLE.fullmatch(value):
        return value
    message = f"{cursor.name} must be the name of an environment variable, not a key itself"
    return cursor.wrong("bad-name", message, "write a name such as ANTHROPIC_API_KEY, and put the key into it")


def url(cursor: Cursor) -> str | Wrong:
    """Read the address of a model's service."""
    value = text(cursor)
    if isinstance(value, Wrong) or re.match(r"https?://[^\s/]", value):
        return value
    message = f"{cursor.name} must be an http address, found {wording.shorten(value)!r}"
    return cursor.wrong("bad-url", message, f"write https://{value.partition('://')[2] or value}")


def branch_prefix(cursor: Cursor) -> str | Wrong:
    """Read the beginning of branch names that git accepts."""
    value = text(cursor)
    if isinstance(value, Wrong) or _PREFIX.fullmatch(value):
        return value
    message = f"{cursor.name} can't begin a branch name: {wording.shorten(value)!r}"
    return cursor.wrong("bad-name", message, "write something such as orchestra/")


def free_mapping(cursor: Cursor) -> Mapping[str, Any] | Wrong:
    """Read a mapping with any keys and values."""
    if isinstance(cursor.value, Mapping):
        return dict(cursor.value)
    return cursor.wrong_type("a mapping", wording.mapping_hint(cursor.value, ["name"], ()) and "write {name: value}")
