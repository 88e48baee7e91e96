"""The turns of a session one after the other, with what happened between them."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from orchestra.cli.event_lines import what_of
from orchestra.cli.page.html import el
from orchestra.cli.page.items import items
from orchestra.cli.page.patches import changes
from orchestra.cli.page.texts import Room, block
from orchestra.cli.page.words import clock, counted, duration
from orchestra.cli.prices import price_of
from orchestra.runtime.report.overview import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestra.cli.page.html import Element, Node
    from orchestra.runtime.observability import Event
    from orchestra.runtime.report.overview import TurnFacts
    from orchestra.runtime.report.reading import Place, Report

MOST_TURNS = 1_500
"""Turns that are told; of more, the first and the last ones."""
MOST_BYTES = 9_000_000
"""That what is told of turns takes, about."""
OPEN_UP_TO = 30
"""Turns up to which all are unfolded."""
_EVENT = 350
"""Bytes that showing an event takes, beside its texts."""
_PLACES = 40
GLYPHS = {"done": "✓", "failed": "✗", "stopped": "✗", "running": "▶", "waiting": "?", "interrupted": "!"}


class Turns:
    """The turns of a report.

    Args:
        report: The session's.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        turns = report.overview.turns
        half = MOST_TURNS // 2
        self._told = turns if len(turns) <= MOST_TURNS else (*turns[:half], *turns[-half:])
        self.anchors = {turn.key: f"turn-{number}" for number, turn in enumerate(self._told, 1)}
        sizes = report.sizes()
        needs = [_EVENT * count + length for count, length in (sizes.get(turn.key, (0, 0)) for turn in self._told)]
        self._level = level(needs, MOST_BYTES)

    def nodes(self) -> Iterator[Node]:
        """Yield the turns and what lay between them, in their order."""
        report = self._report
        report.changes.prepare(
            (repo, pair) for turn in self._told for repo, pair in report.commits_around(turn).items()
        )
        happenings = [*report.overview.happenings]
        gap = report.overview.turns[len(self._told) // 2 :][:1] if len(self._told) < len(report.overview.turns) else ()
        for turn in self._told:
            before = [event for event in happenings if event.seq < turn.first]
            del happenings[: len(before)]
            yield from _between(before)
            if gap and turn.first > gap[0].first:
                left_out = len(report.overview.turns) - len(self._told)
                gap = ()
                yield _left_out(f"{counted(left_out, 'turn')} left out here", f"log {report.record.session_id}")
            yield self._turn(turn)
        yield from _between(happenings)
        if untold := report.overview.untold:
            yield _left_out(f"{counted(untold, 'event')} between turns left out", self._events())

    def _turn(self, turn: TurnFacts) -> Element:
        is_open = len(self._told) <= OPEN_UP_TO or turn.state != "done"
        return el(
            "details",
            el("summary", self._head(turn)),
            el("div", class_="anchor", id=self.anchors[turn.key]),
            el("div", self._body(turn), class_="body"),
            class_=f"turn turn-{turn.state}",
            open=is_open,
        )

    def _head(self, turn: TurnFacts) -> Iterator[Node]:
        yield el("span", GLYPHS[turn.state], class_="glyph")
        yield " "
        yield el("strong", turn.agent)
        yield " "
        yield el("span", f"turn {turn.turn}", class_="turn-number")
        for badge in _badges(turn):
            yield " "
            yield el("span", badge, class_="badge")
        yield " "
        yield el("span", " · ".join(_facts(turn)), class_="facts")

    def _body(self, turn: TurnFacts) -> Iterator[Node]:
        room = Room(self._level)
        command = self._events(turn.agent)
        untold = 0
        for item in items(self._report.story(turn), room):
            if item is None:
                untold += 1
            else:
                yield item
        found = self._report.changes.of(self._report.commits_around(turn))
        if found:
            yield changes(found, self._diff(turn))
        if untold:
            yield _left_out(f"{counted(untold, 'entry', 'entries')} left out", command)
        elif room.is_cut:
            yield _left_out("cut texts can be seen with", command)
        yield from self._places(self._report.places(turn))

    def _places(self, places: list[Place]) -> Iterator[Node]:
        if not places:
            return
        replay = f"orchestra replay {self._report.record.session_id} --checkpoint "
        end = [place for place in places if not place.is_inside]
        inside = [place for place in places if place.is_inside]
        if end:
            yield el("p", "checkpoint at its end: ", el("code", replay + end[-1].name), class_="places")
        if inside:
            shown = inside[-_PLACES:]
            more = f", the last {_PLACES}" if len(inside) > _PLACES else ""
            yield el(
                "details",
                el(
                    "summary", el("span", f"{counted(len(inside), 'checkpoint')} inside the turn{more}", class_="label")
                ),
                el("ul", [el("li", el("code", replay + place.name)) for place in shown]),
                class_="fold places",
            )

    def _events(self, agent: str | None = None) -> str:
        return f"log {self._report.record.session_id} --events --json" + (f" --agent {quote(agent)}" if agent else "")

    def _diff(self, turn: TurnFacts) -> str:
        return f"orchestra diff {self._report.record.session_id} {quote(turn.agent)} --turn {turn.turn}"


def level(needs: Iterable[int], room: int) -> int:
    """Return how much each may take at the most, so that all together take no more than there is."""
    ordered = sorted(needs)
    for place, need in enumerate(ordered):
        share = room // (len(ordered) - place)
        if need > share:
            return share
        room -= need
    return max(ordered, default=0) + room


def _badges(turn: TurnFacts) -> Iterator[str]:
    if turn.state != "done":
        yield turn.state
    if turn.attempts > 1:
        yield counted(turn.attempts, "attempt")
    if turn.is_copied:
        yield "before the fork"


def _facts(turn: TurnFacts) -> Iterator[str]:
    first = next((part.start for part in turn.stretches if part.kind == "turn"), None)
    if first is not None:
        yield clock(first)
    yield duration(turn.seconds)
    usage = turn.usage
    if usage.model_calls or turn.failed_calls:
        yield counted(usage.input_tokens + usage.output_tokens, "token")
        yield price_of(usage)
        yield counted(usage.model_calls, "model call") + (f", {turn.failed_calls} failed" if turn.failed_calls else "")
    if calls := turn.tools.total():
        yield counted(calls, "tool call") + (f", {turn.failed_tools} failed" if turn.failed_tools else "")


def _between(events: list[Event]) -> Iterator[Element]:
    if events:
        yield el("ul", [el("li", _happening(event), class_=_style(event)) for event in events], class_="between")


def _happening(event: Event) -> Iterator[Node]:
    yield el("time", clock(seconds_of(event.time)), class_="dim")
    yield " "
    room = Room(20_000)
    yield room.take(what_of(event.type, event.payload))[0]
    if event.type == "internal_error":
        yield block(str(event.payload.get("traceback", "")), room, label="traceback")
    if event.type == "session_failed" and event.payload.get("hint"):
        yield el("div", "hint: ", room.take(str(event.payload["hint"]))[0])


def _style(event: Event) -> str | None:
    if event.type in ("session_failed", "conflict", "internal_error", "turn_stopped"):
        return "bad"
    return "warn" if event.type in ("warning", "session_interrupted") else None


def _left_out(what: str, command: str) -> Element:
    return el("p", f"{what}: ", el("code", f"orchestra {command}"), class_="left-out")
