"""The words in which the schema's problems are told: what a place is called, what was found, what to type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchestra.errors import did_you_mean

Path = tuple[str | int, ...]

_PLACES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("agents", "*"), "agent {0!r}"),
    (("steps", "*"), "step {0!r}"),
    (("providers", "*"), "provider {0!r}"),
    (("inputs", "*"), "input {0!r}"),
    (("workspace", "repos", "*"), "repo {0!r}"),
    (("workspace", "tools", "*", "*"), "shell tool '{0}:{1}'"),
    (("workspace", "tools", "*"), "the tools of repo {0!r}"),
    (("graph", "*"), "edge {1} of the graph"),
)
"""Places that have a name of their own, by the pattern of their path."""

_HOMES: dict[str, str] = {
    **dict.fromkeys(("repos", "dirty"), "`workspace:`"),
    **dict.fromkeys(("max_failures_per_session", "max_steps", "max_cost_usd"), "`limits:`"),
    **dict.fromkeys(("models", "api_base", "api_key_env", "options", "script"), "a provider"),
    **dict.fromkeys(
        ("role", "persona", "personality", "task", "model", "provider", "mode", "when_absent", "context", "max_calls"),
        "an agent",
    ),
    **dict.fromkeys(
        ("from", "to", "join", "condition", "max_loops", "on_max_loops", "on_conflict"), "an edge under `graph:`"
    ),
    **dict.fromkeys(("branch_prefix", "base", "copy", "setup", "sparse"), "a repo under `workspace.repos`"),
    **dict.fromkeys(("command", "writes", "env"), "a shell tool under `workspace.tools.REPO`"),
    **dict.fromkeys(("agents", "steps", "graph", "inputs", "limits", "workspace", "conditions"), "the pipeline itself"),
}
"""Where a key belongs that was written somewhere else."""

_EXAMPLES = {
    "name": "name: pr-review",
    "task": "task: review-pr",
    "model": "model: claude-sonnet-5-5",
    "graph": "graph: [{from: START, to: …}, {from: …, to: END}]",
    "from": "from: START",
    "to": "to: END",
    "tool": "tool: backend:run-tests",
    "path": "path: ../backend",
    "command": 'command: "pytest -q"',
}
_DURATION = re.compile(r"(?:(\d+)\s*h)?\s*(?:(\d+)\s*m(?:in)?)?\s*(?:(\d+)\s*s(?:ec)?)?", re.IGNORECASE)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d\d)")
_SHORT = 40
_LONG = 100
_TYPO = 0.8
_SYNONYMS = {
    **dict.fromkeys(("dict", "map", "mapping"), ("object", "json")),
    **dict.fromkeys(("list", "tuple"), ("array", "json")),
    **dict.fromkeys(("str", "text", "file", "path"), ("string",)),
    **dict.fromkeys(("int", "integer"), ("integer", "number")),
    **dict.fromkeys(("float", "double"), ("number",)),
    "bool": ("boolean",),
    **dict.fromkeys(("chat", "human", "manual"), ("interactive", "human")),
    **dict.fromkeys(("auto", "automatic"), ("autonomous",)),
}
"""What people write for a choice, and the choices they may mean."""


def describe(path: Path) -> str:
    """Name the value at a path: `'model' of agent 'critic'`."""
    for pattern, words in _PLACES:
        if len(path) >= len(pattern) and all(want in ("*", step) for want, step in zip(pattern, path, strict=False)):
            stars = [step for want, step in zip(pattern, path, strict=False) if want == "*"]
            number = stars[0] + 1 if isinstance(stars[0], int) else 0
            place = words.format(*stars, number) if len(stars) == 1 else words.format(*stars)
            rest = path[len(pattern) :]
            return f"{_inner(rest)} of {place}" if rest else place
    return _inner(path) if path else "the file"


def _inner(path: Path) -> str:
    """Name a value below a place: `item 2 of 'tools'`."""
    return " of ".join(f"item {step + 1}" if isinstance(step, int) else repr(step) for step in reversed(path))


def within(path: Path) -> str:
    """Say in what something lies: ` in agent 'critic'`; nothing for the file itself."""
    return f" in {describe(path)}" if path else ""


def found(value: Any) -> str:
    """Say what a value is, as the user wrote it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {'true' if value else 'false'}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {shorten(value)!r}"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "a mapping" if value else "an empty mapping"


def shorten(text: str) -> str:
    """Cut a long text for a message."""
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def slug(text: str) -> str:
    """Make a name that is allowed out of one that is not; may be empty."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", text)
    return re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-")


def seconds(text: str) -> int | None:
    """Understand a duration such as `10m`, `1h 30m` or `12:30`; None for anything else."""
    if len(text) > _SHORT:
        return None
    clock = _CLOCK.fullmatch(text.strip())
    if clock:
        hours, minutes, rest = (int(part or 0) for part in clock.groups())
        return hours * 3600 + minutes * 60 + rest
    match = _DURATION.fullmatch(text.strip())
    if not text.strip() or match is None or not any(match.groups()):
        return None
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest


def missing_hint(name: str) -> str:
    """Show how a missing key is written."""
    return f"add `{_EXAMPLES.get(name, name + ': …')}`"


def home_hint(name: str) -> str | None:
    """Say where a key belongs that was written somewhere else."""
    home = _HOMES.get(name)
    return f"{name!r} is a key of {home}; move it there" if home else None


def is_typo(name: str, near: list[str]) -> bool:
    """Tell whether a name is so close to a known one that it can't mean anything else."""
    return bool(near) and difflib.SequenceMatcher(a=name, b=near[0]).ratio() >= _TYPO


def one_of(options: Sequence[str]) -> str:
    """List choices: `a, b or c`."""
    return " or ".join([", ".join(options[:-1]), options[-1]]) if len(options) > 1 else options[0]


def choice_hint(value: str, options: Sequence[str]) -> str:
    """Say which choice was meant, or which there are."""
    for meant in _SYNONYMS.get(value.lower(), ()):
        if meant in options:
            return f"write {meant}"
    return did_you_mean(value, options) or f"write {one_of(options)}"


def text_hint(value: Any, written: str | None) -> str | None:
    """Show how a value is written as a text."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return f"write {value[0]}, without the brackets or the dash"
    if value is None or value == "":
        return "write a text after the ':', or remove the key"
    if isinstance(value, bool | int | float):
        return f'write "{written or value}", in quotes'
    return "write a single text here"


def number_hint(value: Any, *, duration: bool) -> str | None:
    """Show how a value is written as a number."""
    if isinstance(value, str):
        text = value.strip().replace("_", "").replace(",", "")
        if re.fullmatch(r"-?\d+(\.\d+)?", text):
            quoted = ", without quotes" if text == value.strip() else ""
            return f"write {text}{quoted}"
        money = re.fullmatch(r"\$?\s*(\d+(?:\.\d+)?)\s*(?:\$|usd)?", text, re.IGNORECASE)
        if money:
            return f"write {money.group(1)}"
        amount = seconds(value) if duration else None
        if amount:
            return f"write {amount}, the seconds"
    return "write the seconds as a number, such as 600" if duration else "write a number, such as 2"


def boolean_hint(value: Any) -> str:
    """Show how a value is written as a boolean."""
    meant = str(value).lower() in {"yes", "on", "y", "1", "true"}
    denied = str(value).lower() in {"no", "off", "n", "0", "false"}
    if meant or denied:
        return f"write {'true' if meant else 'false'}" + (", without quotes" if str(value) in {"true", "false"} else "")
    return "write true or false"


def list_hint(value: Any, path: Path) -> str | None:
    """Show how a value is written as a list."""
    if path == ("graph",):
        return "write each edge as `- {from: critic, to: END}`"
    if isinstance(value, str) and value:
        items = [item for item in re.split(r"[,\s]+", value) if item]
        return f"write [{', '.join(items)}]" if len(value) <= _SHORT else "put it in [ ]"
    if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
        return "begin each item with `- `"
    return "write a list: [a, b]"


def mapping_hint(value: Any, keys: list[str], path: Path) -> str | None:
    """Show how a value is written as a mapping with fixed keys."""
    allowed = ", ".join(keys)
    if not path:
        return "begin with `name:`, `agents:` and `graph:`" if "graph" in keys else f"its keys are: {allowed}"
    if isinstance(value, list):
        return (
            "remove the `- ` before the keys" if value and isinstance(value[0], Mapping) else "write `key: value` lines"
        )
    if value is None:
        return f"indent its keys below it: {allowed}"
    shorthand = _shorthand_hint(value, keys, path) if isinstance(value, str) and value else None
    if shorthand is None and path[-1] in keys:
        return f"{path[-1]!r} looks like a key of the entry above: indent it deeper than that entry's name"
    return shorthand or f"its keys are: {allowed}"


def _shorthand_hint(text: str, keys: list[str], path: Path) -> str | None:
    for name in keys:
        if text.startswith(f"{name}:"):
            return f"put a space after the ':': {name}: {shorten(text[len(name) + 1 :])}"
    if path[:1] == ("graph",):
        return _edge_hint(text)
    if path[:2] in {("workspace", "repos"), ("workspace", "tools")}:
        return f"write {{{keys[0]}: {shorten(text)}}}"
    return None


def _edge_hint(text: str) -> str:
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:->|=>|→|to)\s*([\w-]+)\s*", text[: 2 * _LONG])
    if match:
        return f"write {{from: {match.group(1)}, to: {match.group(2)}}}"
    return "write {from: START, to: critic}"


def named_hint(value: Any, path: Path) -> str | None:
    """Show how a value is written as a mapping whose keys are names."""
    last = path[-1] if path else ""
    if isinstance(value, list):
        first = value[0] if value else None
        if isinstance(first, Mapping) and isinstance(first.get("name"), str):
            return f"write the names as keys: `{first['name']}: …` instead of `- name: {first['name']}`"
        if isinstance(first, Mapping) and len(first) == 1:
            return f"remove the `- `: write `{next(iter(first))}: …`"
        if isinstance(first, str):
            return f"write the names as keys: `{shorten(first)}: …`"
        return "write the names as keys, without `- `"
    return f"put the entries under {last!r}, each as `name: …`, or remove the key"
