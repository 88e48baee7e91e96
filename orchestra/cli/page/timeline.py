"""When who was at work: a lane for each agent and step, with its turns, and in them the calls of models and tools."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from orchestra.cli.page.html import el
from orchestra.cli.page.scale import Scale
from orchestra.cli.page.words import clock, counted, duration
from orchestra.runtime.report.overview import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestra.cli.page.html import Element, Node
    from orchestra.graph.outline import Outline
    from orchestra.runtime.observability import Event
    from orchestra.runtime.report.overview import Overview, Stretch, TurnFacts

MOST_LANES = 80
MOST_BARS = 8_000
"""What is drawn of calls; where there are more, neighbours become one."""
MOST_MARKS = 150
_LANE = 32
_TOP = 30
_LEAST = 0.3
"""Percents of the width that a bar has at least."""
_ROWS: Mapping[str, tuple[int, int]] = {"turn": (4, 24), "person": (4, 24), "model": (7, 8), "tool": (17, 8)}
"""Kind → top and height within the lane."""
_MARKS: Mapping[str, tuple[str, str]] = {
    "session_resumed": ("↻", "resumed"),
    "session_forked": ("⑂", "forked from another session"),
    "session_interrupted": ("■", "interrupted"),
    "session_paused": ("‖", "paused"),
    "session_failed": ("✗", "failed"),
    "session_cancelled": ("■", "cancelled"),
    "merged": ("◆", "merged"),
    "conflict": ("⚡", "conflict"),
    "conflict_resolved": ("✓", "conflict resolved"),
}
_BAD = frozenset({"session_failed", "session_cancelled", "session_interrupted", "conflict"})


def timeline(overview: Overview, anchors: Mapping[tuple[str, int], str]) -> Node:
    """Draw the timeline.

    Args:
        overview: The session's.
        anchors: Turn → the place in the page that tells of it.
    """
    if not any(turn.stretches for turn in overview.turns):
        return el("p", "No turn has begun.", class_="dim")
    return _Timeline(overview, anchors).nodes()


class _Timeline:
    def __init__(self, overview: Overview, anchors: Mapping[tuple[str, int], str]) -> None:
        self._overview, self._anchors = overview, anchors
        lanes = _lanes(overview.turns, overview.outline)
        self._lanes, self._untold = lanes[:MOST_LANES], len(lanes[MOST_LANES:])
        turns = [turn for lane in self._lanes for turn in lane]
        first = min(part.start for turn in turns for part in turn.stretches)
        last = max(part.end or part.start for turn in turns for part in turn.stretches)
        self._scale = Scale(first, last, _busy(turns))
        self._apart = max(_LEAST, 100 * 2 * len(self._lanes) / MOST_BARS)

    def nodes(self) -> Iterator[Node]:
        height = _TOP + _LANE * len(self._lanes)
        names = [el("div", self._name(lane), class_="lane") for lane in self._lanes]
        picture = el(
            "svg",
            self._grid(height),
            [self._lane(number, lane) for number, lane in enumerate(self._lanes)],
            self._marks(height),
            class_="bars",
            width="100%",
            height=height,
            role="img",
            aria_label="timeline of the turns",
        )
        more = counted(self._untold, "more agent") + " left out." if self._untold else ""
        yield el(
            "div",
            el("div", el("div", class_="lane-head"), names, class_="lanes"),
            el("div", picture, class_="scroll"),
            class_="timeline",
        )
        yield _legend()
        if more:
            yield el("p", more, class_="dim")

    def _name(self, lane: Sequence[TurnFacts]) -> Iterator[Node]:
        name = lane[0].agent
        branches = _branches(name, self._overview.outline)
        yield el("span", name, class_="lane-name")
        if branches and branches != (name,):
            yield el("small", f"in {' / '.join(branches)}", class_="dim")

    def _grid(self, height: int) -> Iterator[Element]:
        for number in range(len(self._lanes)):
            style = "row odd" if number % 2 else "row"
            yield el("rect", x=0, y=_TOP + number * _LANE, width="100%", height=_LANE, class_=style)
        for place, width, seconds in self._scale.pauses():
            told = f"nothing was done for {duration(seconds)}"
            yield el(
                "g",
                el("title", told),
                el("rect", x=_percent(place), y=0, width=_percent(width), height=height, class_="pause"),
                el("text", "⋯", x=_percent(place + width / 2), y=_TOP - 18, class_="tick"),
            )
        for place, seconds in self._scale.ticks():
            yield el("line", x1=_percent(place), x2=_percent(place), y1=_TOP, y2=height, class_="grid")
            anchor = "tick first" if place < 2 else "tick last" if place > 97 else "tick"  # noqa: PLR2004 - at the edges
            yield el("text", duration(seconds), x=_percent(place), y=_TOP - 18, class_=anchor)

    def _lane(self, number: int, lane: Sequence[TurnFacts]) -> Iterator[Element]:
        top = _TOP + number * _LANE
        untold = (part for turn in lane if turn.key not in self._anchors for part in turn.stretches)
        yield from self._calls(top, "turn", (part for part in untold if part.kind == "turn"))
        for turn in lane:
            if anchor := self._anchors.get(turn.key):
                bars = [self._bar(top, part, turn) for part in turn.stretches if part.kind in ("turn", "person")]
                yield el("a", bars, href=f"#{anchor}")
        for kind in ("model", "tool"):
            parts = (part for turn in lane for part in turn.stretches if part.kind == kind)
            yield from self._calls(top, kind, parts)

    def _bar(self, top: int, part: Stretch, turn: TurnFacts) -> Element:
        end = part.end or part.start
        what = "waits for a person" if part.kind == "person" else turn.state if part.ok else "failed"
        told = f"{turn.agent} (turn {turn.turn}): {what}, {duration(end - part.start)}, from {clock(part.start)}"
        state = "person" if part.kind == "person" else turn.state if part.ok else "failed"
        return self._rect(top, part.kind, part.start, end, f"bar bar-{state}", told)

    def _calls(self, top: int, kind: str, parts: Iterable[Stretch]) -> Iterator[Element]:
        """Yield the bars of calls; those that can't be told from each other are one."""
        joined: list[Stretch] = []

        for part in sorted(parts, key=lambda part: part.start):
            if joined and self._scale.at(part.start) - self._scale.at(joined[0].start) >= self._apart:
                yield self._joined(top, kind, joined)
                joined = []
            joined.append(part)
        if joined:
            yield self._joined(top, kind, joined)

    def _joined(self, top: int, kind: str, parts: Sequence[Stretch]) -> Element:
        first, last = parts[0], max(part.end or part.start for part in parts)
        what = first.name if all(part.name == first.name for part in parts) else f"{kind}s"
        many = f", {counted(len(parts), 'turn' if kind == 'turn' else 'call')}" if len(parts) > 1 else ""
        bad = not all(part.ok for part in parts)
        told = f"{what}{many}, {duration(last - first.start)}{', failed' if bad else ''}"
        return self._rect(top, kind, first.start, last, f"call call-{kind}{' bad' if bad else ''}", told)

    def _rect(self, top: int, kind: str, start: float, end: float, style: str, told: str) -> Element:
        left = self._scale.at(start)
        width = max(self._scale.at(end) - left, _LEAST)
        offset, height = _ROWS[kind]
        return el(
            "rect",
            el("title", told),
            x=_percent(min(left, 100 - width)),
            y=top + offset,
            width=_percent(width),
            height=height,
            rx=2,
            class_=style,
        )

    def _marks(self, height: int) -> Iterator[Element]:
        marked = [event for event in self._overview.happenings if event.type in _MARKS][:MOST_MARKS]
        for event in marked:
            glyph, what = _MARKS[event.type]
            place = self._scale.at(seconds_of(event.time))
            style = "mark bad" if event.type in _BAD else "mark"
            edge = " first" if place < 1 else " last" if place > 99 else ""  # noqa: PLR2004 - at the edges
            yield el(
                "g",
                el("title", _told(event, what)),
                el("line", x1=_percent(place), x2=_percent(place), y1=_TOP - 4, y2=height),
                el("text", glyph, x=_percent(place), y=_TOP - 5, class_=f"glyph{edge}"),
                class_=style,
            )


def _told(event: Event, what: str) -> str:
    payload = event.payload
    agents = payload.get("agents")
    who = " and ".join(map(str, agents)) if isinstance(agents, list) else payload.get("from")
    where = payload.get("repo")
    return what + (f" the work of {who}" if who else "") + (f" in {where}" if where else "")


def _lanes(turns: Sequence[TurnFacts], outline: Outline | None) -> list[list[TurnFacts]]:
    """Return the turns of each agent and step, those of a branch below each other, in the order in which they began."""
    lanes: defaultdict[str, list[TurnFacts]] = defaultdict(list)
    for turn in turns:
        if turn.stretches:
            lanes[turn.agent].append(turn)
    starts = {name: min(part.start for turn in lane for part in turn.stretches) for name, lane in lanes.items()}
    groups = {name: _branches(name, outline)[:1] or (name,) for name in lanes}
    firsts: dict[tuple[str, ...], float] = {}
    for name, group in groups.items():
        firsts[group] = min(firsts.get(group, starts[name]), starts[name])
    return [lanes[name] for name in sorted(lanes, key=lambda name: (firsts[groups[name]], groups[name], starts[name]))]


def _branches(name: str, outline: Outline | None) -> tuple[str, ...]:
    node = outline.by_name.get(name) if outline else None
    return node.branches if node else ()


def _busy(turns: Iterable[TurnFacts]) -> Iterator[tuple[float, float]]:
    for turn in turns:
        for part in turn.stretches:
            end = part.end or part.start
            if part.kind in ("model", "tool"):
                yield part.start, end
            else:
                yield part.start, part.start
                yield end, end


def _percent(value: float) -> str:
    return f"{value:.2f}%"


def _legend() -> Element:
    entries = (
        ("bar-done", "turn"),
        ("call-model", "model"),
        ("call-tool", "tool"),
        ("bar-person", "waits for a person"),
        ("bar-failed", "failed"),
    )
    swatches = [el("span", el("span", class_=f"swatch {style}"), text) for style, text in entries]
    return el("p", swatches, el("span", "◆ merge  ⚡ conflict  ↻ resumed"), class_="legend")
