"""From YAML events to values with places; the guards act on the events, before anything is built.

Built on PyYAML's event stream alone: its constructor and resolver speak YAML 1.1 and let duplicate keys win silently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamStartEvent,
)

from orchestra.documents.places import clip, hide_secrets
from orchestra.documents.scalars import is_null, resolve_plain
from orchestra.documents.syntax import explain, find_control_character
from orchestra.errors import PipelineError, Problem, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestra.errors import Location

MAX_DEPTH = 40
MAX_EVENTS = 50_000
MAX_ALIASES = 50

Place = tuple[int, int]

_STRING_TAGS = frozenset({"!", "tag:yaml.org,2002:str"})


class Node:
    """A value, where it stands, and the nodes inside it."""

    __slots__ = ("children", "height", "keys", "place", "size", "value", "written")

    def __init__(self, value: Any, place: Place, written: str | None = None) -> None:
        self.value = value
        self.place = place
        self.written = written
        self.children: dict[str | int, Node] = {}
        self.keys: dict[str | int, Place] = {}
        self.size = 1
        """Nodes in it, aliases counted as often as they are used."""
        self.height = 1

    def add(self, step: str | int, child: Node, key_place: Place | None = None) -> None:
        """Put a child under a key or index."""
        self.children[step] = child
        if key_place is not None:
            self.keys[step] = key_place
        self.size += child.size
        self.height = max(self.height, child.height + 1)


def parse_nodes(
    text: str, lines: tuple[str, ...], place: Callable[[int, int], Location]
) -> tuple[Node | None, list[Problem]]:
    """Parse a document into nodes, together with the problems that did not stop the parsing.

    Raises:
        PipelineError: The text is no YAML or passes a guard; holds the problems found before it, too.
    """
    return _Builder(text, lines, place).build()


class _Builder:
    def __init__(self, text: str, lines: tuple[str, ...], place: Callable[[int, int], Location]) -> None:
        self.text = text
        self.lines = lines
        self.place = place
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node] = {}
        self.open_anchors: set[str] = set()
        self.aliases = 0
        self.size = 0
        self.events = self._events()

    def build(self) -> tuple[Node | None, list[Problem]]:
        control = find_control_character(self.lines)
        if control is not None:
            line, column, message, hint = control
            self._stop("yaml-syntax", message, (line, column), hint)
        root: Node | None = None
        documents = 0
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    hint = "keep one document in a file: remove the `---`, or move the rest into another file"
                    self._stop("yaml-syntax", "the file holds a second YAML document", _place(event), hint)
            elif not isinstance(event, StreamStartEvent | DocumentEndEvent | yaml.StreamEndEvent):
                root = self._node(event, 1)
        return root, self.problems

    def _events(self) -> Iterator[Any]:
        # The C parser is ten times faster; wheels of PyYAML have it, its sources need not.
        loader = getattr(yaml, "CLoader", yaml.Loader)
        try:
            for count, event in enumerate(yaml.parse(self.text, Loader=loader)):
                if count > MAX_EVENTS:
                    message = f"the file holds more than {MAX_EVENTS:,} values and brackets"
                    self._stop("too-large", message, _place(event), "split it, or move data into files of their own")
                yield event
        except yaml.YAMLError as error:
            found = explain(error, tuple(hide_secrets(line) for line in self.lines))
            self._stop("yaml-syntax", found.message, found.place, found.hint)

    def _node(self, event: Any, depth: int) -> Node:
        if depth > MAX_DEPTH:
            self._too_deep(_place(event))
        if isinstance(event, AliasEvent):
            return self._alias(event, depth)
        if event.anchor:
            self.open_anchors.add(event.anchor)
        if isinstance(event, ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(event, depth)
        else:
            node = self._mapping(event, depth)
        self.size += 1
        if event.anchor:
            self.open_anchors.discard(event.anchor)
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, depth: int) -> Node:
        name = event.anchor
        place = _place(event)
        if name in self.open_anchors:
            self._stop("yaml-alias", f"the alias '*{name}' lies inside its own anchor '&{name}'", place, "write it out")
        if name not in self.anchors:
            hint = did_you_mean(name, self.anchors) or f'a text that begins with * needs quotes: "*{name}"'
            self._stop("yaml-alias", f"there is no anchor '&{name}' before the alias '*{name}'", place, hint)
        self.aliases += 1
        node = self.anchors[name]
        self.size += node.size
        if self.aliases > MAX_ALIASES or self.size > MAX_EVENTS:
            what = f"more than {MAX_ALIASES} aliases" if self.aliases > MAX_ALIASES else "aliases that grow too large"
            self._stop("yaml-alias", f"the file uses {what}", place, "write the values out")
        if depth + node.height - 1 > MAX_DEPTH:
            self._too_deep(place)
        return node

    def _scalar(self, event: Any) -> Node:
        self._check_tag(event)
        if not event.implicit[0] or event.style:
            return Node(event.value, _place(event))
        try:
            return Node(resolve_plain(event.value), _place(event), event.value)
        except ValueError:
            shown = event.value if len(event.value) <= 20 else event.value[:20] + "…"  # noqa: PLR2004  a short sample
            self._note(
                "yaml-number", f"{shown!r} is no finite number", _place(event), "put it in quotes to mean a text"
            )
            return Node(event.value, _place(event), event.value)

    def _sequence(self, event: Any, depth: int) -> Node:
        self._check_tag(event)
        node = Node([], _place(event))
        for item in self.events:
            if isinstance(item, SequenceEndEvent):
                break
            child = self._node(item, depth + 1)
            node.add(len(node.value), child)
            node.value.append(child.value)
        return node

    def _mapping(self, event: Any, depth: int) -> Node:
        self._check_tag(event)
        node = Node({}, _place(event))
        merged: list[Node] = []
        for key_event in self.events:
            if isinstance(key_event, MappingEndEvent):
                break
            key = self._key(key_event, event)
            value = self._node(next(self.events), depth + 1)
            if key == "<<" and not key_event.style:
                merged.extend(self._merge_sources(value, _place(key_event)))
            elif key in node.children:
                first = node.keys[key]
                message = f"the key {key!r} is given twice, first at line {first[0]}"
                self._note("duplicate-key", message, _place(key_event), "remove or rename one of the two")
            elif key is not None:
                node.add(key, value, _place(key_event))
                node.value[key] = value.value
        for source in merged:
            for inherited, child in source.children.items():
                if inherited not in node.children:
                    node.add(inherited, child, source.keys[inherited])
                    node.value[inherited] = child.value
        return node

    def _key(self, event: Any, mapping: Any) -> str | None:
        """Give a key as text; None for one that is refused, whose value is read all the same."""
        if not isinstance(event, ScalarEvent):
            self._refuse_key(event, mapping)
        self._check_tag(event)
        if event.style or not is_null(event.value):
            return str(event.value)
        self._note("yaml-key", "a key is empty", _place(event), "write a name before the ':'")
        return None

    def _refuse_key(self, event: Any, mapping: Any) -> NoReturn:
        place = _place(event)
        if isinstance(event, AliasEvent):
            self._stop("yaml-key", "an alias can't be a key", place, "write the key out")
        if isinstance(event, MappingStartEvent) and event.flow_style and mapping.flow_style:
            line = hide_secrets(self.lines[place[0] - 1])
            hint = "a text that begins with {{ needs quotes: " + _quoted_template(line, _place(mapping)[1] - 1)
            self._stop("yaml-key", "a mapping can't be a key", _place(mapping), hint)
        kind = "list" if isinstance(event, SequenceStartEvent) else "mapping"
        self._stop("yaml-key", f"a {kind} can't be a key", place, "a key is a plain name, such as `critic:`")

    def _merge_sources(self, value: Node, place: Place) -> list[Node]:
        sources = list(value.children.values()) if isinstance(value.value, list) else [value]
        if all(isinstance(source.value, dict) for source in sources):
            return sources
        self._note("yaml-key", "'<<' merges a mapping, found something else", place, "write `<<: *anchor`")
        return []

    def _check_tag(self, event: Any) -> None:
        if event.tag is None or (isinstance(event, ScalarEvent) and event.tag in _STRING_TAGS):
            return
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        self._note("yaml-tag", f"the tag {tag!r} is not supported", _place(event), "write the value without a tag")

    def _too_deep(self, place: Place) -> NoReturn:
        self._stop("too-deep", f"values are nested deeper than {MAX_DEPTH} levels", place, "flatten it")

    def _note(self, code: str, message: str, place: Place, hint: str) -> None:
        self.problems.append(Problem(code, clip(message), self.place(*place), clip(hint)))

    def _stop(self, code: str, message: str, place: Place, hint: str | None) -> NoReturn:
        problem = Problem(code, clip(message), self.place(*place), None if hint is None else clip(hint))
        raise PipelineError.of([*self.problems, problem])


def _quoted_template(line: str, start: int) -> str:
    end = line.find("}}", start)
    return f'"{line[start : end + 2]}"' if end > start else '"{{ name }}"'


def _place(event: Any) -> Place:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1)
