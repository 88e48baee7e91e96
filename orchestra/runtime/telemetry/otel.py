"""The one place that knows OpenTelemetry: spans become the SDK's, and go to the collector in the background.

Everything that the SDK reads from the environment holds: endpoint, headers, certificates, timeouts, compression,
batches, sampler, limits, resource, propagators.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from orchestra.runtime.telemetry.span import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from orchestra.runtime.telemetry.span import Span

_NAME = "orchestra"
_KEY = "orchestra.event"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What the SDK has to say of a collector that is not there is said once, as a warning of the session. A program that
# embeds Orchestra and configures logging gets it nevertheless.
logging.getLogger("opentelemetry").addHandler(logging.NullHandler())


class Exporter:
    """Sends the spans of one session.

    Args:
        seed: What the ids of the trace and of its spans are made from, the same in every process.
        carrier: The W3C trace context that the session was started in.
        sent: Called with the keys of spans that the collector has taken.
        failed: Called when it has not taken some.
    """

    def __init__(
        self,
        seed: str,
        carrier: Mapping[str, str],
        sent: Callable[[Sequence[int]], None],
        failed: Callable[[], None],
    ) -> None:
        self._ids = _Ids(seed)
        self._provider = TracerProvider(resource=_resource(), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Telling(OTLPSpanExporter(), sent, failed)))
        self._tracer = self._provider.get_tracer(_NAME, version("orchestra-agents"))
        self._outside = propagate.extract(dict(carrier))
        outside = trace.get_current_span(self._outside).get_span_context()
        self._trace = outside.trace_id if outside.is_valid else self._ids.generate_trace_id()
        # A span is made when it has ended, the root thus last: whether the trace is sampled is asked beforehand.
        sampled = self._provider.sampler.should_sample(self._outside, self._trace, _NAME)
        is_sampled = sampled.decision is Decision.RECORD_AND_SAMPLE
        self._flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
        self._state = outside.trace_state

    def add(self, span: Span) -> None:
        """Send a span that has ended, some time soon."""
        context = self._outside
        if span.parent is not None:
            around = SpanContext(self._trace, self._ids.of(span.parent), False, self._flags, self._state)
            context = trace.set_span_in_context(NonRecordingSpan(around))
        self._ids.next = span.key
        made = self._tracer.start_span(
            span.name,
            context,
            SpanKind.CLIENT if span.kind is Kind.MODEL else SpanKind.INTERNAL,
            {**span.attributes, _KEY: span.key},
            start_time=_nanoseconds(span.start),
        )
        for moment in span.moments:
            made.add_event(moment.name, moment.attributes, _nanoseconds(moment.time))
        if span.error is not None:
            made.set_attribute("error.type", span.error)
            made.set_status(Status(StatusCode.ERROR, span.message or span.error))
        made.end(_nanoseconds(span.end))

    def flush(self) -> None:
        """Send what there is now; takes as long as the collector lets it."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what is left; may take as long as the collector lets it."""
        self._provider.shutdown()


class _Ids(IdGenerator):
    """Makes the ids of a trace from what every process knows of the session."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self.next = 0
        """The key of the span that is made next."""

    def of(self, key: int) -> int:
        """Return the id of a span."""
        return self._hash(f"span {key}", 8)

    def generate_span_id(self) -> int:
        """Return the id of the next span."""
        return self.of(self.next)

    def generate_trace_id(self) -> int:
        """Return the id of the trace."""
        return self._hash("trace", 16)

    def _hash(self, what: str, size: int) -> int:
        digest = hashlib.sha256(f"orchestra {self._seed} {what}".encode()).digest()
        return int.from_bytes(digest[:size], "big") or 1  # zero is no id


class _Telling(SpanExporter):
    """Notes what was sent, and tells what was not."""

    def __init__(
        self, exporter: SpanExporter, sent: Callable[[Sequence[int]], None], failed: Callable[[], None]
    ) -> None:
        self._exporter = exporter
        self._sent = sent
        self._failed = failed

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        try:
            result = self._exporter.export(spans)
        except Exception:  # noqa: BLE001 - whatever a proxy, a certificate or a URL makes of it
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            keys = [(span.attributes or {}).get(_KEY) for span in spans]
            self._sent([key for key in keys if isinstance(key, int)])
        else:
            self._failed()
        return result

    def shutdown(self) -> None:
        """Give up what is under way."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back here."""
        return self._exporter.force_flush(timeout_millis)


def _resource() -> Resource:
    resource = Resource.create()
    ours = {SERVICE_NAME: _NAME, SERVICE_VERSION: version("orchestra-agents")}
    if not str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        return resource
    return resource.merge(Resource(ours))


def _nanoseconds(time: str) -> int:
    return (datetime.fromisoformat(time) - _EPOCH) // timedelta(microseconds=1) * 1_000
