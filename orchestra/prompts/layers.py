"""One layer of a prompt: its file or inline mapping, checked key by key, and the place of its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.documents import Document, read_document
from orchestra.documents.places import make_location, split_lines
from orchestra.errors import Location, PipelineError, Problem, did_you_mean
from orchestra.prompts.discovery import FOLDERS, FileDiscovery, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

LAYERS: tuple[Kind, ...] = ("role", "persona", "personality", "task")
TEXT_KEYS: dict[Kind, str] = {"role": "system", "persona": "modifiers", "personality": "modifiers", "task": "template"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value of the user's YAML stands; the place of a text's lines follows from it."""

    document: Document | None = None
    loc: tuple[str | int, ...] = ()

    def at(self, *steps: str | int, key: bool = False) -> Location | None:
        """Return the location of a value below this one."""
        return self.document.locate(*self.loc, *steps, key=key) if self.document else None

    def below(self, *steps: str | int) -> Place:
        """Return the place of a value below this one."""
        return Place(self.document, (*self.loc, *steps))

    def line(self, number: int, name: str | None = None) -> Location | None:
        """Return the location of a line (1-based) of the text that stands here, at `name` if the line has it.

        Exact for block scalars (`|`) and one-line texts; for folded texts it is where the text starts.
        """
        start = self.at()
        if start is None or self.document is None:
            return None
        lines = split_lines(self.document.text)
        line, text = start.line, start.text
        if re.match(r"(?:[&!]\S+\s+)*\|", text[start.column - 1 :]):
            line = min(start.line + number, len(lines))
            text = lines[line - 1]
            column = len(text) - len(text.lstrip()) + 1
        elif number == 1:
            column = start.column
        else:
            return start
        found = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text[column - 1 :]) if name else None
        return make_location(start.path, lines, line, column + (found.start() if found else 0))


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is right."""

    text: str
    place: Place
    extends: str | None = None


def load_layer(discovery: FileDiscovery, kind: Kind, name: str, place: Place) -> tuple[Layer | None, list[Problem]]:
    """Find, read and check the file of a layer."""
    try:
        path = discovery.find(kind, name)
    except PipelineError as error:
        return None, [Problem(error.code, error.message, place.at(), error.hint)]
    try:
        document = read_document(path)
    except PipelineError as error:
        return None, list(error.problems)
    content = document.value
    root = Place(document)
    if not isinstance(content, dict) or kind not in content:
        return None, [_wrong_kind(kind, content, root)]
    extra = [key for key in content if key != kind]
    if extra:
        hint = f"a prompt file has one top-level key, here `{kind}:`"
        return None, [Problem("unknown-key", f"unknown key {key!r}", root.at(key, key=True), hint) for key in extra]
    if not isinstance(content[kind], dict):
        keys = "`name` and `" + TEXT_KEYS[kind] + "`"
        message = f"`{kind}` must be a mapping with {keys}, not {kind_of(content[kind])}"
        return None, [Problem("wrong-type", message, root.at(kind))]
    return read_layer(kind, content[kind], root.below(kind), name=name)


def read_layer(
    kind: Kind, content: Mapping[str, Any], place: Place, *, name: str | None
) -> tuple[Layer | None, list[Problem]]:
    """Check the keys of a layer; `name` is the one it was found by, None for an inline layer."""
    text_key = TEXT_KEYS[kind]
    known = ["name", text_key, *(["extends"] if kind == "persona" else [])]
    problems = []
    for key in content:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"a {kind} has {', '.join(known)}"
            problems.append(Problem("unknown-key", f"unknown key {key!r} in a {kind}", place.at(key, key=True), hint))
    problems += _name_problems(kind, content, place, name)
    extends = content.get("extends")
    if extends is not None and (kind != "persona" or not isinstance(extends, str)):
        if kind == "persona":
            problems.append(
                Problem("wrong-type", f"`extends` must name a role, not {kind_of(extends)}", place.at("extends"))
            )
        extends = None
    value = content.get(text_key)
    if kind in {"persona", "personality"} and isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(line.strip("\n") for line in value)
    if text_key not in content:
        # A near miss of the key was reported above; saying that it is missing as well would be noise.
        if not any(did_you_mean(str(key), [text_key]) for key in content if key not in known):
            hint = f"add `{text_key}: |` with the text"
            problems.append(Problem("missing-key", f"the {kind} has no `{text_key}`", place.at(key=True), hint))
    elif not isinstance(value, str):
        allowed = "a text or a list of texts" if text_key == "modifiers" else "a text"
        message = f"`{text_key}` must be {allowed}, not {kind_of(value)}"
        problems.append(Problem("wrong-type", message, place.at(text_key), "write it as a block: `|`"))
    elif not value.strip():
        problems.append(Problem("empty-text", f"`{text_key}` is empty", place.at(text_key), f"write the {kind}'s text"))
    return (None if problems else Layer(str(value), place, extends)), problems


def _name_problems(kind: Kind, content: Mapping[str, Any], place: Place, name: str | None) -> list[Problem]:
    written = content.get("name")
    if "name" not in content:
        if name is None:
            return []
        hint = f"add `name: {name}`"
        return [Problem("missing-key", f"the {kind} has no `name`", place.at(key=True), hint)]
    if not isinstance(written, str):
        return [Problem("wrong-type", f"`name` must be a text, not {kind_of(written)}", place.at("name"))]
    if name is not None and written != name:
        message = f"the {kind} is named {written!r}, its file {name!r}"
        hint = f"write `name: {name}`, or rename the file to {written}.yaml"
        return [Problem("name-mismatch", message, place.at("name"), hint)]
    return []


def _wrong_kind(kind: Kind, content: Any, root: Place) -> Problem:
    if not isinstance(content, dict) or not content:
        message = f"the file holds no {kind}"
        return Problem("wrong-kind", message, root.at(), f"it needs the top-level key `{kind}:`")
    other = next((other for other in FOLDERS if other in content), None)
    if other:
        message, hint = f"the file holds a {other}, not a {kind}", f"it belongs in prompts/{FOLDERS[other]}/"
        return Problem("wrong-kind", message, root.at(other, key=True), hint)
    first = str(next(iter(content)))
    message = f"the file has no top-level key `{kind}`, but {first!r}"
    hint = did_you_mean(first, [kind]) or f"put the {kind}'s keys below `{kind}:`"
    return Problem("wrong-kind", message, root.at(first, key=True), hint)


def kind_of(value: Any) -> str:
    """Name a value's kind in the words of the file's author."""
    names = {str: "a text", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
