"""Sends the spans of a session while it is driven, in a thread that the session never waits for.

The thread reads what earlier processes left in the log, takes the events of this one as they are written, and hands
the spans to the exporter. An event that a kill could still take back has no span: its number would be another one's.
Which spans the collector has taken is noted in a file beside the database. So what another process could not send,
since it was killed or the collector was away, is sent by the next one, and nothing twice; unless a kill came between
the collector's answer and the note.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestra.runtime.event_log import Selection, read_events
from orchestra.runtime.observability import Event
from orchestra.runtime.telemetry.fold import SpanFold
from orchestra.runtime.telemetry.switches import INSTALL, PROTOCOL, TRACE_CONTEXT, unspoken_protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from orchestra.runtime.store import SessionRecord
    from orchestra.runtime.telemetry.otel import Exporter
    from orchestra.runtime.telemetry.span import Span
    from orchestra.runtime.telemetry.telling import Subject


_AT_ONCE = 1_000
"""Events of other processes that are told in one go."""

logger = logging.getLogger(__name__)


class Sender:
    """Makes spans of a session's events and sends them.

    Args:
        record: The session.
        subject: Whose spans they are.
        tell: Called from the thread, at most once, with the code and the text of a warning.
    """

    def __init__(self, record: SessionRecord, subject: Subject, tell: Callable[[str, str], None]) -> None:
        self._record = record
        self._fold = SpanFold(subject)
        self._types = self._fold.types
        self._tell = tell
        self._told = False
        self._notes = record.files.sent_spans
        self._sent = _read_notes(self._notes)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="orchestra-traces", daemon=True)
        self._thread.start()

    def hear(self, event: Event) -> None:
        """Take an event that is in the database."""
        if event.type in self._types and self._thread.is_alive():
            self._events.put(event)

    def end(self, patience: float) -> None:
        """Send what is left; what takes longer is lost, until the session is driven again.

        Args:
            patience: Seconds to wait for it.
        """
        self._events.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._lost()

    def _work(self) -> None:
        try:
            exporter = self._exporter()
            if exporter is None:
                return
            first = self._events.get()
            if first is not None:
                for number, event in enumerate(self._earlier(first.seq), 1):
                    self._send(exporter, self._fold.feed(event))
                    if number % _AT_ONCE == 0:
                        exporter.flush()  # else they were more at once than the exporter holds
                for event in self._live(first):
                    self._send(exporter, self._fold.feed(event))
                self._send(exporter, self._fold.close())
            exporter.close()
        except Exception as error:
            logger.debug("traces", exc_info=True)
            self._say("traces-off", f"no traces are sent: {type(error).__name__}")

    def _exporter(self) -> Exporter | None:
        if asked := unspoken_protocol():
            name, protocol = asked
            self._say("traces-off", f"no traces are sent: {name} is {protocol!r}, and only {PROTOCOL!r} is spoken")
            return None
        try:
            from orchestra.runtime.telemetry.otel import Exporter
        except ImportError:
            self._say("traces-off", f"no traces are sent: OpenTelemetry is not installed; {INSTALL}")
            return None
        seed = f"{self._record.session_id} {self._record.created_at}"
        carrier = self._record.settings.get(TRACE_CONTEXT) or {}
        return Exporter(seed, carrier, self._note, self._lost)

    def _earlier(self, before: int) -> Iterator[Event]:
        """Read what happened before this process drove the session."""
        files = self._record.files
        forked = [event["seq"] for event in read_events(files, Selection(types={"session_forked"}), tail=1)]
        for event in read_events(files, Selection(types=self._types)) if before > 1 else ():
            if event["seq"] >= before:
                return
            if event["seq"] >= max(forked, default=0):  # what is older, the other session tells
                yield Event(**event)

    def _live(self, first: Event) -> Iterator[Event]:
        event: Event | None = first
        while event is not None:
            yield event
            event = self._events.get()

    def _send(self, exporter: Exporter, spans: Sequence[Span]) -> None:
        for span in spans:
            if span.key not in self._sent:
                exporter.add(span)

    def _note(self, keys: Sequence[int]) -> None:
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            notes = os.open(self._notes, flags, 0o600)
            try:
                os.write(notes, "".join(f"{key}\n" for key in keys).encode())
            finally:
                os.close(notes)

    def _lost(self) -> None:
        self._say("traces-lost", "the collector of OTEL_EXPORTER_OTLP_ENDPOINT does not take traces in time")

    def _say(self, code: str, message: str) -> None:
        if not self._told:
            self._told = True
            self._tell(code, message)


def _read_notes(notes: Path) -> frozenset[int]:
    """Read which spans were sent; the last line may be torn."""
    try:
        *lines, _ = notes.read_text(encoding="ascii", errors="replace").split("\n")
    except OSError:
        return frozenset()
    return frozenset(int(line) for line in lines if line.isascii() and line.isdigit())
