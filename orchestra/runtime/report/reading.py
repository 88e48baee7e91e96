"""Reads what a report of a session tells: its turns, with what each has said, done and changed."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestra.runtime.damage import damage_told
from orchestra.runtime.event_log import Selection, last_event, next_events
from orchestra.runtime.history import read_history
from orchestra.runtime.naming import short_ids
from orchestra.runtime.observability import Event
from orchestra.runtime.outcome import read_conflicts, read_outputs, read_result
from orchestra.runtime.report.changes import Change, Changes
from orchestra.runtime.report.overview import OVERVIEW_TYPES, fold_overview
from orchestra.runtime.report.redaction import (
    conflict_without_contents,
    hidden,
    outline_without_contents,
    record_without_contents,
    route_without_contents,
    without_contents,
)
from orchestra.runtime.report.story import tell
from orchestra.runtime.route import read_route
from orchestra.runtime.spans import is_inside
from orchestra.runtime.store import Status, open_readonly

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestra.graph.drawing.route import Route
    from orchestra.graph.outline import Outline
    from orchestra.runtime.history import History, Turn
    from orchestra.runtime.report.overview import Overview, TurnFacts
    from orchestra.runtime.store import SessionFiles, SessionRecord


@dataclass(frozen=True, slots=True)
class Place:
    """A checkpoint that a turn has left behind."""

    name: str
    """As much of its id as names it."""
    is_inside: bool
    """Whether it lies inside the turn, else at its end."""


class Report:
    """What is told of one session; see `open_report`."""

    def __init__(
        self, files: SessionFiles, root: Path, connection: sqlite3.Connection, runner: asyncio.Runner, *, redact: bool
    ) -> None:
        self._files, self._connection, self.redact = files, connection, redact
        self._last = last_event(connection)
        self._history: History = read_history(files, root)
        self.record: SessionRecord = self._history.record
        self.overview: Overview = self._overview()
        self.route: Route | None = self._route(root)
        self.changes = Changes(self.record, runner, contents=not redact)
        if redact:
            self.record = record_without_contents(self.record)
        self._turns = {(turn.agent, turn.turn): turn for turn in self._known_turns()}
        self._places = self._read_places()

    @property
    def outline(self) -> Outline | None:
        """The graph; None: the log does not tell it."""
        return self.overview.outline

    def sizes(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Return for each turn the number of its events, and of the characters in them."""
        rows = self._connection.execute(
            "SELECT node, turn, COUNT(*), SUM(LENGTH(payload)) FROM events"
            " WHERE node IS NOT NULL AND turn IS NOT NULL AND seq <= ? GROUP BY node, turn",
            (self._last,),
        )
        return {(row[0], row[1]): (int(row[2]), int(row[3])) for row in rows}

    def story(self, turn: TurnFacts) -> Iterator[Event]:
        """Yield what happened in a turn (`story.tell`)."""
        with damage_told(self._files):
            for event in tell(self._events(Selection(agents=[turn.agent], turn=turn.turn))):
                yield self._shown(event)

    def commits_around(self, turn: TurnFacts) -> Mapping[str, tuple[str, str]]:
        """Return repo → the commits before and after a turn, of the repos that it has changed."""
        known = self._turns.get(turn.key)
        return known.changes if known else {}

    def places(self, turn: TurnFacts) -> list[Place]:
        """Return the checkpoints of a turn."""
        return self._places.get(turn.key, [])

    def result(self) -> list[tuple[str, dict[str, Any], str, Change | None]]:
        """Return for each repo its name, what the session says of it, its commit, and how it differs from the base."""
        commits = read_result(self._files)
        found = []
        for repo, stored in self.record.workspace.items():
            commit = commits.get(repo, stored["base"])
            (change,) = self.changes.of({repo: (stored["base"], commit)}, patch=False) or (None,)
            found.append((repo, stored, commit, change))
        return found

    def outputs(self) -> dict[str, Any]:
        """Return what the agents and steps have handed over that lead to the end."""
        outline = self.outline
        last = {edge.source for edge in outline.edges if edge.target == "END"} if outline else set()
        outputs = {name: output for name, output in read_outputs(self._files).items() if name in last}
        return {name: hidden(output) for name, output in outputs.items()} if self.redact else outputs

    def conflicts(self) -> list[dict[str, Any]]:
        """Return every conflict, path by path: `repo`, `path`, `kind`, `agents`, `resolved_by`."""
        found = read_conflicts(self._files)
        return [*map(conflict_without_contents, found)] if self.redact else found

    def _overview(self) -> Overview:
        events = (self._told_first(event) for event in self._events(Selection(OVERVIEW_TYPES)))
        found = fold_overview(events, is_driven=self.record.status in (Status.CREATED, Status.RUNNING))
        outline = found.outline
        return replace(found, outline=outline_without_contents(outline)) if outline and self.redact else found

    def _told_first(self, event: Event) -> Event:
        shown = self._shown(event)
        return replace(shown, payload={**shown.payload, "graph": event.payload.get("graph")}) if self.redact else shown

    def _shown(self, event: Event) -> Event:
        return replace(event, payload=without_contents(event.type, event.payload)) if self.redact else event

    def _events(self, selection: Selection) -> Iterator[Event]:
        """Yield events up to the last one that there was at the beginning, so that all of a report is of one moment."""
        after = 0
        while after < self._last:
            events, after = next_events(self._connection, selection, after, self._last)
            yield from (Event(**event) for event in events)

    def _route(self, root: Path) -> Route | None:
        if self.outline is None:
            return None
        route = read_route(self._files, self.outline, root)
        return route_without_contents(route) if self.redact else route

    def _known_turns(self) -> Iterator[Turn]:
        for entry in self._history.entries:
            yield from entry.turns
        yield from self._history.unfinished

    def _read_places(self) -> dict[tuple[str, int], list[Place]]:
        rows = self._history.rows
        short = short_ids(rows)
        found: dict[tuple[str, int], list[Place]] = {}
        inside: dict[str, list[Place]] = {}
        for row in rows:
            name = short[row["checkpoint_id"]]
            if is_inside(row):
                inside.setdefault(row["agent"], []).append(Place(name, is_inside=True))
            for entry in row["ended"]:
                earlier = inside.pop(entry["agent"], [])
                found[entry["agent"], entry["turn"]] = [*earlier, Place(name, is_inside=False)]
        for turn in self._history.unfinished:
            found[turn.agent, turn.turn] = inside.get(turn.agent, [])
        return found


@contextmanager
def open_report(files: SessionFiles, root: Path, *, redact: bool) -> Iterator[Report]:
    """Read a session for its report, as long as the body runs.

    Args:
        files: The session's.
        root: The project that it belongs to.
        redact: Whether contents are hidden.

    Raises:
        SessionError: The session can't be read.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(open_readonly(files, lasting=True))
        runner = stack.enter_context(asyncio.Runner())
        with damage_told(files):
            report = Report(files, root, connection, runner, redact=redact)
        yield report
