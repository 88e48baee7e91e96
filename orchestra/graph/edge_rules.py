"""The rules of single edges and of edges beside each other; the graph as a whole is judged in `checks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestra.errors import did_you_mean
from orchestra.graph.kinds import END, START

if TYPE_CHECKING:
    from orchestra.graph.edges import EdgeSpec
    from orchestra.graph.reader import Reading


def check_edges(reading: Reading, edges: tuple[EdgeSpec, ...]) -> None:
    """Report every edge that names what is not there, or joins keys that don't go together."""
    nodes = _known_nodes(reading)
    for edge in edges:
        if nodes:
            _check_names(reading, edge, nodes)
        _check_form(reading, edge)
    _check_repetition(reading, edges)


def _known_nodes(reading: Reading) -> list[str]:
    """List agents and steps as written; none where one of the two could not be read, so that any name may be right."""
    document = reading.written()
    if any(key in document and not reading.written(key) for key in ("agents", "steps")) or reading.meant("agents"):
        return []
    return [*reading.written("agents"), *reading.written("steps")]


def _check_names(reading: Reading, edge: EdgeSpec, nodes: list[str]) -> None:
    raw = reading.document.value["graph"][edge.index]
    for place, name in _ends(raw, "from"):
        if name == END:
            hint = "write it under `to`, or remove this edge"
            reading.report(
                "end-as-source", "END can't be a source, nothing comes after it", *_at(edge, place), hint=hint
            )
        elif name == START and len(edge.sources) > 1:
            message = "START can't be waited for, it stands alone in 'from'"
            reading.report(
                "start-in-list", message, *_at(edge, place), hint="write an edge of its own: {from: START, to: …}"
            )
        else:
            _check_node(reading, edge, place, name, [*nodes, START])
    targets = [*_ends(raw, "to"), *_ends(raw, "on_max_loops")]
    for place, name in targets:
        if name == START:
            hint = "name the agent that begins the round instead"
            reading.report(
                "start-as-target", "START can't be a target, nothing leads back to it", *_at(edge, place), hint=hint
            )
        else:
            _check_node(reading, edge, place, name, [*nodes, END])


def _at(edge: EdgeSpec, place: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return ("graph", edge.index, *place)


def _ends(raw: Mapping[str, Any], key: str) -> list[tuple[tuple[str | int, ...], str]]:
    """List the names in an end of an edge, each with its place below the edge; what is no name is reported already."""
    value = raw.get(key)
    if isinstance(value, str):
        return [] if " " in value or "," in value else [((key,), value)]
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, Mapping) else ()
    seen: dict[str, tuple[str | int, ...]] = {}
    for step, name in items:
        if isinstance(name, str) and name:
            seen.setdefault(name, (key, step))
    return [(place, name) for name, place in seen.items()]


def _check_node(reading: Reading, edge: EdgeSpec, place: tuple[str | int, ...], name: str, known: list[str]) -> None:
    if name in known:
        return
    if name.startswith("join."):
        hint = f"name the agent behind the join: {name.removeprefix('join.')}"
    else:
        hint = did_you_mean(name, known) or f"the agents and steps are: {', '.join(known[:-1]) or 'none'}"
    reading.report("unknown-agent", f"there is no agent or step {name!r}", *_at(edge, place), hint=hint)


def _check_form(reading: Reading, edge: EdgeSpec) -> None:
    path = ("graph", edge.index)
    if len(edge.sources) > 1:
        if len(edge.targets) > 1 or edge.labels is not None:
            message = "an edge from a list waits for all of it and has one target"
            hint = "let it lead to one agent, or write one edge for each target"
            reading.report("list-edge-one-target", message, *path, "to", hint=hint, key=True)
        if edge.condition is not None:
            message = "an edge from a list can't have a condition"
            hint = f"put the condition on the edge that leaves {edge.targets[0] if edge.targets else 'its target'!r}"
            reading.report("condition-on-list-edge", message, *path, "condition", hint=hint, key=True)
        if edge.max_loops is not None:
            message = "an edge from a list can't have 'max_loops'"
            hint = "put it on the edge that leads back"
            reading.report("max-loops-on-list-edge", message, *path, "max_loops", hint=hint, key=True)
    elif edge.sources and not edge.is_list:
        for name in ("join", "on_conflict"):
            if getattr(edge, name) is not None:
                message = f"{name!r} is for an edge from a list, this one has one source"
                hint = f"remove it, or write from: [{edge.sources[0]}, …]"
                reading.report("unexpected-key", message, *path, name, hint=hint, key=True)
    raw = reading.document.value["graph"][edge.index]
    if edge.labels is not None and "condition" not in raw and not _typo_in(reading, edge, "condition"):
        message = "labels in 'to' need a condition that returns one of them"
        reading.report(
            "labels-without-condition", message, *path, "to", hint="add `condition: NAME`, or write a list", key=True
        )
    if edge.on_max_loops is not None and "max_loops" not in raw and not _typo_in(reading, edge, "max_loops"):
        message = "'on_max_loops' has no effect without 'max_loops'"
        reading.report("unexpected-key", message, *path, "on_max_loops", hint="add `max_loops: 2`", key=True)


def _typo_in(reading: Reading, edge: EdgeSpec, key: str) -> bool:
    raw = reading.document.value["graph"][edge.index]
    places = {reading.document.locate("graph", edge.index, name, key=True) for name in raw}
    return any(problem.location in places and repr(key) in (problem.hint or "") for problem in reading.problems)


def _check_repetition(reading: Reading, edges: tuple[EdgeSpec, ...]) -> None:
    known: dict[tuple[Any, ...], int] = {}
    joined: dict[str, int] = {}
    for edge in edges:
        if len(edge.sources) > 1:
            for target in edge.targets[:1]:
                if target == END:
                    continue
                first = joined.setdefault(target, edge.index)
                if first != edge.index:
                    line = reading.document.locate("graph", first).line
                    message = f"{target!r} has an edge from a list already, at line {line}"
                    hint = "put all sources into one list"
                    reading.report("second-list-edge", message, "graph", edge.index, "to", hint=hint)
            continue
        for source in edge.sources:
            _check_pairs(reading, edge, source, known)


def _check_pairs(reading: Reading, edge: EdgeSpec, source: str, known: dict[tuple[Any, ...], int]) -> None:
    """Report an edge that says what an earlier one from the same source says already."""
    labels = tuple((edge.labels or {}).items())
    choice = (source, edge.condition, edge.targets, labels)
    keys: list[tuple[Any, ...]] = [choice] if edge.condition else [(source, target) for target in edge.targets]
    for key in keys:
        first = known.setdefault(key, edge.index)
        if first != edge.index:
            line = reading.document.locate("graph", first).line
            what = f"with the condition {edge.condition!r} and these targets" if edge.condition else f"to {key[1]!r}"
            message = f"an edge from {source!r} {what} stands at line {line} already"
            reading.report("duplicate-edge", message, "graph", edge.index, hint="remove one of the two")
            return
