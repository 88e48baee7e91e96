"""Read YAML documents strictly: YAML 1.2's meaning, every value with its place, hostile input refused early.

YAML 1.1 traps are closed: `on` and `yes` stay strings, `12:30` is no number, `012` is twelve, dates stay strings,
keys are always strings and may occur once. What the user wrote wrong is reported with line and column.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.documents.parsing import Node, parse_nodes
from orchestra.documents.places import make_location, split_lines
from orchestra.errors import Location, PipelineError, Problem, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

MAX_SIZE = 1_000_000
"""Bytes of a document; a pipeline is a few thousand."""


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML document: its plain values, and where in the file each of them stands."""

    path: Path
    text: str
    value: Any
    """Plain dict, list, str, int, float, bool or None; treat it as read-only, aliases share their value."""
    _root: Node | None = field(default=None, repr=False, compare=False)
    _lines: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def locate(self, *loc: str | int, key: bool = False) -> Location:
        """Find the place of the value at a path of keys and list indexes.

        Steps that the document does not have are skipped, so that a missing key is found at its mapping.

        Args:
            loc: Keys and indexes, from the root.
            key: Point at the key of the last step found instead of at its value.
        """
        node = self._root
        place = (1, 1) if node is None else node.place
        for step in loc:
            child = None if node is None else node.children.get(step)
            if node is None or child is None:
                continue
            place = node.keys.get(step, child.place) if key else child.place
            node = child
        return make_location(self.path, self._lines, *place)

    def written(self, *loc: str | int) -> str | None:
        """Return the scalar at a path as the user typed it (`012`, not 12); None where there is none."""
        node = self._root
        for step in loc:
            node = None if node is None else node.children.get(step)
        return None if node is None else node.written


def read_document(path: Path, text: str | None = None) -> Document:
    """Read a YAML file, or `text` in its place.

    Raises:
        PipelineError: With every problem found: `yaml-syntax`, `duplicate-key`, `yaml-key`, `yaml-tag`, `yaml-number`,
            `yaml-alias`, `too-deep`, `too-large`, `not-utf8`, `file-not-found`, `unreadable-file`.
    """
    document, problems = parse_document(path, text)
    if problems:
        raise PipelineError.of(problems)
    return document


def parse_document(path: Path, text: str | None = None) -> tuple[Document, list[Problem]]:
    """Read as `read_document` does, but return problems that leave the rest readable, such as duplicate keys.

    Whoever checks the values further can so report everything at once.
    """
    if text is None:
        text = _read_text(path)
    elif len(text) > MAX_SIZE:
        raise PipelineError.of([_too_large(path)])
    text = text.removeprefix("\ufeff")
    lines = split_lines(text)

    def place(line: int, column: int) -> Location:
        return make_location(path, lines, line, column)

    root, problems = parse_nodes(text, lines, place)
    return Document(path, text, None if root is None else root.value, root, lines), problems


def _read_text(path: Path) -> str:
    try:
        if not path.is_file():
            raise PipelineError.of([_not_found(path)])
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        message = f"can't read {path}: {error.strerror}"
        hint = f"check the permissions of {str(path)!r}"
        raise PipelineError(message, code="unreadable-file", hint=hint) from error
    if len(data) > MAX_SIZE:
        raise PipelineError.of([_too_large(path)])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        lines = split_lines(before)
        location = Location(path, len(lines), len(lines[-1]) + 1)
        message = f"the file is not UTF-8: byte 0x{data[error.start]:02x} at line {location.line}"
        hint = "save it as UTF-8"
        raise PipelineError(message, code="not-utf8", hint=hint, location=location) from error


def _not_found(path: Path) -> Problem:
    if path.is_dir():
        return Problem("file-not-found", f"{path} is a directory", hint="name a YAML file in it")
    if path.exists():
        return Problem("file-not-found", f"{path} is no regular file", hint="name a YAML file")
    near = None
    if path.parent.is_dir():
        near = did_you_mean(path.name, [entry.name for entry in path.parent.iterdir() if entry.is_file()])
    return Problem("file-not-found", f"there is no file {path}", hint=near or "check the path")


def _too_large(path: Path) -> Problem:
    message = f"the file is larger than {MAX_SIZE:,} bytes, too large for a YAML file of Orchestra"
    return Problem("too-large", message, Location(path, 1, 1), hint="move long texts into files of their own")
