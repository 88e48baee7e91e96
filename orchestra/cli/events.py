"""The event log on standard output: as lines for people, or one JSON object a line."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from orchestra.cli.render import as_json
from orchestra.runtime.event_log import ALL, Selection
from orchestra.runtime.event_types import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestra.runtime.store import SessionFiles


def print_events(files: SessionFiles, selection: Selection = ALL, *, tail: int | None = None, json: bool) -> None:
    """Print the events that a session has now.

    Args:
        files: The session's.
        selection: Which of them.
        tail: Only so many of these, the last ones.
        json: One JSON object a line, the version of the log first.
    """
    from orchestra.runtime.event_log import read_events

    put = _printer(json=json)
    for event in read_events(files, selection, tail=tail):
        put(event)


def follow_events(files: SessionFiles, selection: Selection = ALL, *, tail: int | None = None, json: bool) -> int:
    """Print the same, and go on with what comes until nobody drives the session; returns the exit code."""
    from orchestra.cli.attaching import until_left
    from orchestra.runtime.event_log import before_last
    from orchestra.runtime.following import follow
    from orchestra.runtime.store import open_readonly

    with open_readonly(files) as connection:
        after = before_last(connection, selection, tail)

    async def print_all() -> bool:
        async with aclosing(follow(files, after, selection)) as looks:
            async for events in looks:
                for event in events:
                    put(event.as_json())
                sys.stdout.flush()
        return True

    put = _printer(json=json)
    return until_left(print_all) or 0


def _printer(*, json: bool) -> Callable[[Mapping[str, Any]], None]:
    """Begin to print, and return what prints an event."""
    if json:
        sys.stdout.write(as_json({"version": VERSION}, indent=None) + "\n")
        return lambda event: _put(as_json(event, indent=None))
    from orchestra.cli.colours import painted
    from orchestra.cli.event_lines import line_of
    from orchestra.cli.styles import styles

    paint = painted if styles().is_on else None
    columns = ("time", "type", "node", "turn", "payload")
    return lambda event: _put(line_of(*(event[name] for name in columns), full=True, paint=paint))


def _put(line: str) -> None:
    sys.stdout.write(line + "\n")
