"""A drive of a session with its traces: what is switched on is made ready, fed, and ended within a few seconds."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from orchestra.runtime.stopping import in_full
from orchestra.runtime.telemetry.switches import (
    contents_are_wanted,
    langsmith_hides,
    langsmith_is_wanted,
    otel_is_wanted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.runtime.observability import Event, ObservabilityLogger
    from orchestra.runtime.store import SessionRecord

PATIENCE = 3.0
"""Seconds that the end of a drive waits for what is not sent yet."""
STOPPED = 0.5
"""The same, when somebody has asked the session to stop."""
_STOPS = frozenset({"session_stopping", "session_interrupted", "session_cancelled"})

logger = logging.getLogger(__name__)
_langsmith: ContextVar[bool] = ContextVar("orchestra_langsmith_on", default=False)


@asynccontextmanager
async def traced(record: SessionRecord, pipeline: ResolvedPipeline, log: ObservabilityLogger) -> AsyncIterator[None]:
    """Send traces of what the body does, to where the environment says; without such a word nothing is loaded.

    Args:
        record: The session.
        pipeline: What it runs.
        log: Its event log, which spans are made from, and which says once what could not be sent.
    """
    if not otel_is_wanted() and langsmith_is_wanted() is None:
        yield
        return
    traces = _Traces(log)
    log.when_written(traces.hear)
    with ExitStack() as stack:
        if otel_is_wanted():
            traces.send_spans(record, pipeline)
        stack.enter_context(traces.langsmith(record, pipeline))
        try:
            yield
        finally:
            await in_full(traces.end())


def turn_traced(agent: str, turn: int, attempt: int) -> AbstractContextManager[None]:
    """Name the turn in the traces of LangChain that the body makes, if there are any."""
    if not _langsmith.get():
        return nullcontext()
    from orchestra.runtime.telemetry import smith

    return smith.turn_traced(agent, turn, attempt)


class _Traces:
    """What is sent of one drive, and what of it has gone wrong."""

    def __init__(self, log: ObservabilityLogger) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._ends: list[Callable[[float], None]] = []
        self._stops = False
        self._open = True
        self._warned: set[str] = set()

    def hear(self, event: Event) -> None:
        """Note that the session is to stop."""
        self._stops = self._stops or event.type in _STOPS

    def send_spans(self, record: SessionRecord, pipeline: ResolvedPipeline) -> None:
        """Have spans made of the events, and sent."""
        from orchestra.runtime.telemetry.sending import Sender
        from orchestra.runtime.telemetry.telling import Subject

        providers = [agent.model.provider for agent in pipeline.agents.values()]
        subject = Subject(
            session=record.session_id,
            pipeline=record.pipeline,
            agents=frozenset(pipeline.agents),
            providers={provider.name: provider.type for provider in providers},
            contents=contents_are_wanted(),
        )
        sender = Sender(record, subject, self.tell)
        self._log.when_written(sender.hear)
        self._ends.append(sender.end)

    @contextmanager
    def langsmith(self, record: SessionRecord, pipeline: ResolvedPipeline) -> Iterator[None]:
        """Have LangChain trace what it does, or not, as the user says."""
        wanted = langsmith_is_wanted()
        if wanted is None:
            yield
            return
        from orchestra.runtime.telemetry import smith

        with ExitStack() as stack:
            try:
                if wanted:
                    end = stack.enter_context(
                        smith.session_traced(
                            record.session_id,
                            record.pipeline,
                            redact=pipeline.resolver.redact,
                            hide_inputs=langsmith_hides("INPUTS"),
                            hide_outputs=langsmith_hides("OUTPUTS"),
                            failed=lambda: self.tell("traces-lost", "LangSmith does not take traces in time"),
                        )
                    )
                    self._ends.append(end)
            except Exception as error:
                logger.debug("LangSmith", exc_info=True)
                self.tell("traces-off", f"LangSmith gets no traces: {type(error).__name__}")
                wanted = False
            if not wanted:
                stack.enter_context(smith.untraced())
            token = _langsmith.set(wanted)
            try:
                yield
            finally:
                _langsmith.reset(token)

    def tell(self, code: str, message: str) -> None:
        """Warn, once of a kind, from any thread."""
        with suppress(RuntimeError):  # the loop is closed, and nobody listens any more
            self._loop.call_soon_threadsafe(self._warn, code, message)

    def _warn(self, code: str, message: str) -> None:
        if self._open and message not in self._warned:
            self._warned.add(message)
            self._log.emit("warning", {"code": code, "message": message})

    async def end(self) -> None:
        """Send what is left, without waiting for long."""
        with suppress(sqlite3.Error):  # the session says so itself
            await self._log.flush()
        patience = STOPPED if self._stops else PATIENCE
        await asyncio.gather(*(asyncio.to_thread(end, patience) for end in self._ends), return_exceptions=True)
        await asyncio.sleep(0)  # what the threads have told
        self._open = False
