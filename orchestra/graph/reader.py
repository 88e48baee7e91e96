"""Turn the plain values of a document into frozen dataclasses, and report all that does not fit.

A dataclass names the reader of each key in its field (`key(text, required=True)`); a reader takes a `Cursor`, a value
with its path, and returns what it read, or `WRONG` after it reported a problem. A wrong part is reported once: it reads
as its default, so that checks which depend on it find nothing more to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from orchestra.documents.places import clip
from orchestra.errors import PipelineError, Problem, did_you_mean, near_names
from orchestra.graph import wording

if TYPE_CHECKING:
    from orchestra.documents import Document

T = TypeVar("T")

MAX_PROBLEMS = 100
"""More are not reported."""


class Wrong:
    """What a reader returns for a value that it reported."""


WRONG: Final = Wrong()


class Reading:
    """The document being read, and the problems found in it so far."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def report(
        self,
        code: str,
        message: str,
        *loc: str | int,
        hint: str | None = None,
        key: bool = False,
        warning: bool = False,
    ) -> None:
        """Add a problem at a path of the document."""
        if len(self.problems) >= MAX_PROBLEMS:
            # Each costs a search for near names; a hostile file could have tens of thousands.
            first = self.problems[0].location
            note = Problem(
                "too-many-problems", f"the file has more than {MAX_PROBLEMS} problems", first, "begin with these"
            )
            raise PipelineError.of([*self.problems, note])
        place = self.document.locate(*loc, key=key)
        message = clip(message)
        if any(problem.location == place and self._covers(problem, code, message) for problem in self.problems):
            return
        hint = None if hint is None else clip(hint)
        self.problems.append(Problem(code, message, place, hint, "warning" if warning else "error"))

    def written(self, *path: str) -> dict[str, Any]:
        """Give a mapping as written, {} for anything else: a broken agent is an agent all the same."""
        value = self.document.value
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return dict(value) if isinstance(value, Mapping) else {}

    def meant(self, key: str) -> bool:
        """Tell whether an unknown key that was reported is probably a misspelling of this one."""
        return any(problem.code == "unknown-key" and repr(key) in (problem.hint or "") for problem in self.problems)

    def wrong_keys(self, *path: str) -> set[str]:
        """Name the keys of a mapping whose values were reported already."""
        places = {problem.location for problem in self.problems}
        return {key for key in self.written(*path) if self.document.locate(*path, key) in places}

    @staticmethod
    def _covers(earlier: Problem, code: str, message: str) -> bool:
        """Tell whether a problem at the same place says it already; aliases bring the same place up again."""
        same = earlier.code == code and (code in {"unknown-key", "wrong-type"} or earlier.message == message)
        return same or earlier.code.startswith("yaml-")

    @property
    def cursor(self) -> Cursor:
        """The document's root."""
        return Cursor(self, self.document.value, ())


@dataclasses.dataclass(frozen=True, slots=True)
class Cursor:
    """A value of the document and the path to it."""

    reading: Reading
    value: Any
    path: tuple[str | int, ...]

    def child(self, step: str | int) -> Cursor:
        """Step into a mapping or a list."""
        return Cursor(self.reading, self.value[step], (*self.path, step))

    @property
    def name(self) -> str:
        """How messages call this value: `'model' of agent 'critic'`."""
        return wording.describe(self.path)

    @property
    def written(self) -> str | None:
        """The scalar as the user typed it."""
        return self.reading.document.written(*self.path)

    def wrong(self, code: str, message: str, hint: str | None = None, *, key: bool = False) -> Wrong:
        """Report a problem with this value, or with its key."""
        self.reading.report(code, message, *self.path, hint=hint, key=key)
        return WRONG

    def wrong_type(self, wanted: str, hint: str | None) -> Wrong:
        """Report that this value is of another type than wanted."""
        if not self.path and self.value is None:
            return self.wrong("empty", "the file is empty", hint)
        if self.value is None or self.value in ("", [], {}):
            return self.wrong("empty", f"{self.name} is empty, it must be {wanted}", hint, key=self.value is None)
        return self.wrong("wrong-type", f"{self.name} must be {wanted}, found {wording.found(self.value)}", hint)


Reader = Callable[[Cursor], T | Wrong]


def key(
    reader: Reader[Any],
    *,
    required: bool = False,
    default: Any = None,
    factory: Callable[[], Any] | None = None,
    name: str | None = None,
) -> Any:
    """Declare a key of a mapping as a dataclass field.

    Args:
        reader: Reads the key's value.
        required: The key must be there.
        default: The value of a key that is not there, or wrong.
        factory: Makes that value, for one that can change.
        name: The key in the file, where it differs from the field's name.
    """
    metadata = {"reader": reader, "required": required, "key": name}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def keys_of(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a schema class by their key in the file."""
    return {field.metadata["key"] or field.name: field for field in dataclasses.fields(cls) if field.metadata}


def read_fields(cls: type[Any], cursor: Cursor, *, extra: Mapping[str, str] = {}) -> dict[str, Any] | Wrong:
    """Read a mapping with the keys of `cls`; return the fields that are there and right.

    Args:
        cls: The schema class.
        cursor: The mapping.
        extra: Hints for keys that people write here and that are none, by key.
    """
    fields = keys_of(cls)
    required = {name for name, field in fields.items() if field.metadata["required"]}
    if cursor.value is None and not required:
        return {}
    if not isinstance(cursor.value, Mapping):
        return cursor.wrong_type("a mapping", wording.mapping_hint(cursor.value, list(fields), cursor.path))
    values: dict[str, Any] = {}
    meant: set[str] = set()
    for name in cursor.value:
        field = fields.get(name)
        if field is None:
            meant.update(_report_unknown(cursor, name, fields, extra))
            continue
        value = field.metadata["reader"](cursor.child(name))
        if value is not WRONG:
            values[field.name] = value
    for name in fields:
        if name in required and name not in cursor.value and name not in meant:
            hint = wording.missing_hint(name)
            where = wording.within(cursor.path)
            cursor.wrong("missing-key", f"the key {name!r} is missing{where}", hint, key=True)
    return values


def _report_unknown(cursor: Cursor, name: str, fields: Mapping[str, Any], extra: Mapping[str, str]) -> list[str]:
    """Report an unknown key; return the known ones that were probably meant, whose absence is no news then."""
    # Of two near keys the one that is missing was meant: `modle` is `model`, not `mode`.
    near = sorted(
        near_names(name, fields), key=lambda known: not fields[known].metadata["required"] or known in cursor.value
    )[:1]
    home = wording.home_hint(name)
    if near and near[0] in cursor.value:
        near, hint = [], home or f"{near[0]!r} is there already; put both into one, or remove this one"
    else:
        likely = near if home is None or wording.is_typo(name, near) else []
        hint = did_you_mean(name, likely) or home or "allowed here: " + ", ".join(fields)
    hint = extra.get(name, hint)
    where = wording.within(cursor.path)
    cursor.reading.report("unknown-key", f"unknown key {name!r}{where}", *cursor.path, name, hint=hint, key=True)
    return near


def record(cls: type[T], *, extra: Mapping[str, str] = {}) -> Reader[T]:
    """Read a mapping with fixed keys into a dataclass."""

    def read(cursor: Cursor) -> T | Wrong:
        values = read_fields(cls, cursor, extra=extra)
        return values if isinstance(values, Wrong) else cls(**values)

    return read


def mapping(reader: Reader[T], *, names: Reader[str] | None = None, empty: bool = False) -> Reader[dict[str, T]]:
    """Read a mapping whose keys the user chooses; entries that are wrong are left out.

    Args:
        reader: Reads each value.
        names: Checks each key; its cursor holds the key as value.
        empty: Allow a mapping without entries.
    """

    def read(cursor: Cursor) -> dict[str, T] | Wrong:
        value = cursor.value
        if not isinstance(value, Mapping) or (not value and not empty):
            hint = wording.named_hint(value, cursor.path)
            return cursor.wrong_type("a mapping of names", hint)
        read_values: dict[str, T] = {}
        for name in value:
            child = cursor.child(name)
            named = name if names is None else names(Cursor(cursor.reading, name, child.path))
            entry = reader(child)
            if not isinstance(entry, Wrong) and not isinstance(named, Wrong):
                read_values[name] = entry
        return read_values

    return read


def sequence(reader: Reader[T], *, empty: bool = True) -> Reader[tuple[T, ...]]:
    """Read a list; items that are wrong are left out, repeated ones reported."""

    def read(cursor: Cursor) -> tuple[T, ...] | Wrong:
        if not isinstance(cursor.value, list) or (not cursor.value and not empty):
            return cursor.wrong_type("a list", wording.list_hint(cursor.value, cursor.path))
        items: list[T] = []
        seen: set[str] = set()
        for index, raw in enumerate(cursor.value):
            item = cursor.child(index)
            if isinstance(raw, str) and raw in seen:
                item.wrong("duplicate-item", f"{raw!r} stands twice in {cursor.name}", "remove one of the two")
                continue
            if isinstance(raw, str):
                seen.add(raw)
            value = reader(item)
            if not isinstance(value, Wrong):
                items.append(value)
        return tuple(items)

    return read
