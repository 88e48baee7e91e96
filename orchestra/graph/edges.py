"""The edges of a pipeline: an entry under `graph:`, as written, in its three forms of `to`."""

# ruff: noqa: RUF009 - `key` returns a dataclass field

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestra.graph import kinds, wording
from orchestra.graph.reader import Cursor, Wrong, key, read_fields, sequence

_Conflict = Literal["agent", "human", "fail"]


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    """Who starts when who has ended."""

    sources: tuple[str, ...]
    is_list: bool
    """`from` was a list, if only of one."""
    targets: tuple[str, ...]
    labels: Mapping[str, str] | None
    """Target by label, where `to` was a map."""
    join: Literal["all", "any"] | None = None
    condition: str | None = None
    max_loops: int | None = None
    on_max_loops: str | None = None
    on_conflict: _Conflict | None = None
    index: int = 0
    """Position under `graph`, from 0."""


@dataclass(frozen=True, slots=True)
class _Ends:
    names: tuple[str, ...]
    is_list: bool = False
    labels: Mapping[str, str] | None = None


_names = sequence(kinds.text, empty=False)


def _read_sources(cursor: Cursor) -> _Ends | Wrong:
    if isinstance(cursor.value, list):
        names = _names(cursor)
        return names if isinstance(names, Wrong) else _Ends(names, is_list=True)
    if isinstance(cursor.value, str) and not _several(cursor.value):
        name = kinds.text(cursor)
        return name if isinstance(name, Wrong) else _Ends((name,))
    return cursor.wrong_type("a name or a list of names", _ends_hint(cursor.value))


def _read_targets(cursor: Cursor) -> _Ends | Wrong:
    if not isinstance(cursor.value, Mapping) or not cursor.value:
        return _read_sources(cursor)
    labels: dict[str, str] = {}
    for label in cursor.value:
        target = kinds.text(cursor.child(label))
        if not isinstance(target, Wrong):
            labels[label] = target
    return _Ends(tuple(dict.fromkeys(labels.values())), labels=labels)


def _several(text: str) -> bool:
    return any(mark in text for mark in ",;|&") or len(text.split()) > 1


def _ends_hint(value: Any) -> str:
    if isinstance(value, str) and _several(value):
        return wording.list_hint(value.replace(" and ", " ").translate(str.maketrans(";|&", ",,,")), ()) or ""
    if isinstance(value, Mapping):
        return "labels are for `to`; write the name of an agent, or [a, b]"
    return "write the name of an agent or a step, START or END, or [a, b]"


@dataclass(frozen=True, slots=True)
class _EdgeKeys:
    sources: _Ends = key(_read_sources, required=True, name="from")
    targets: _Ends = key(_read_targets, required=True, name="to")
    join: Any = key(kinds.choice("all", "any"))
    condition: str | None = key(kinds.text)
    max_loops: int | None = key(kinds.integer(0))
    on_max_loops: str | None = key(kinds.text)
    on_conflict: Any = key(kinds.choice("agent", "human", "fail"))


_HINTS = {
    "if": "write condition: NAME, the name of a function registered with @orchestra.condition",
    "when": "write condition: NAME, the name of a function registered with @orchestra.condition",
    "on": "a condition returns where to go: write condition: NAME",
    "loops": "write max_loops",
    "after": "write from",
}


def read_edge(cursor: Cursor) -> EdgeSpec | Wrong:
    """Read an edge; ends that are wrong are empty."""
    values = read_fields(_EdgeKeys, cursor, extra=_HINTS)
    if isinstance(values, Wrong):
        return values
    sources: _Ends = values.pop("sources", _Ends(()))
    targets: _Ends = values.pop("targets", _Ends(()))
    index = cursor.path[-1]
    return EdgeSpec(
        sources=sources.names,
        is_list=sources.is_list,
        targets=targets.names,
        labels=targets.labels,
        index=index if isinstance(index, int) else 0,
        **values,
    )
