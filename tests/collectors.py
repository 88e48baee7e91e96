"""Servers that traces are sent to, for tests: a collector of OpenTelemetry's protocol, and LangSmith's interface."""

from __future__ import annotations

import gzip
import json
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A server that notes what it is asked, and answers as it is told to."""

    status: int = 200
    answer: bytes = b""
    hangs: bool = False
    """Take requests and never answer."""
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def text(self) -> str:
        """All that was sent."""
        return "\n".join(request.body.decode("utf-8", "replace") for request in self.requests)


@dataclass
class Told:
    """A span as it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    kind: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    status: tuple[int, str]
    resource: dict[str, Any]


class Collector(Server):
    """A collector of OpenTelemetry's protocol."""

    @property
    def spans(self) -> list[Told]:
        return [span for request in self.requests for span in _spans(request)]

    def named(self, name: str) -> list[Told]:
        return [span for span in self.spans if span.name == name]

    def assert_one_tree(self, *, killed: bool = False) -> None:
        """One trace, one root, nothing doubled, nothing without its parent, nothing outside its time but drives.

        Args:
            killed: A sender was: what was under way just then may come twice, and is the same both times.
        """
        by_id = {span.id: span for span in self.spans}
        if killed:
            told = [replace(span, resource={}) for span in self.spans]  # which names the process
            assert all(replace(by_id[span.id], resource={}) == span for span in told), "a span came twice, and differs"
        else:
            assert len(by_id) == len(self.spans), "a span was sent twice"
        spans = [*by_id.values()]
        assert len({span.trace for span in spans}) == 1
        assert [span.name.split()[0] for span in spans if not span.parent] == ["invoke_workflow"]
        for span in spans:
            assert span.start <= span.end
            assert not span.parent or span.parent in by_id, f"{span.name} is an orphan"
            if span.parent and not span.name.startswith("invoke_workflow"):
                around = by_id[span.parent]
                assert around.start <= span.start, (around.name, span.name)
                assert span.end <= around.end, (around.name, span.name)

    def children(self, span: Told) -> list[str]:
        """The names of the spans right inside one, in the order in which they began."""
        inside = [one for one in self.spans if one.parent == span.id]
        return [one.name for one in sorted(inside, key=lambda one: one.attributes["orchestra.event"])]


class LangSmith(Server):
    """LangSmith's interface."""

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """The runs by their ids, as the parts of their beginnings and ends make them."""
        found: dict[str, dict[str, Any]] = {}
        for request in self.requests:
            for name, body in _parts(request):
                _, run, *rest = name.split(".")
                value = json.loads(body)
                known = found.setdefault(run, {})
                for key, item in (value if not rest else {rest[0]: value}).items():
                    if item is not None:
                        known[key] = item
        return found

    def named(self, name: str) -> list[dict[str, Any]]:
        return [run for run in self.runs.values() if run.get("name") == name]


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Have a server answer at its `url` as long as the body runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = _chunks(self.rfile)
            server.requests.append(Request(self.path, dict(self.headers), body))
            if server.hangs:
                server.over.wait(60)
                return
            self.send_response(server.status)
            self.send_header("Content-Length", str(len(server.answer)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked was killed, or does not wait any longer
                self.wfile.write(server.answer)

        do_GET = do_PATCH = do_POST  # noqa: N815 - the names of http.server

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        http.shutdown()
        http.server_close()
        thread.join()


def _chunks(stream: Any) -> bytes:
    body = b""
    while size := int(stream.readline(), 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body


def _spans(request: Request) -> Iterator[Told]:
    body = gzip.decompress(request.body) if request.headers.get("Content-Encoding") == "gzip" else request.body
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(group.resource.attributes)
        for span in (span for scope in group.scope_spans for span in scope.spans):
            yield Told(
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                span.kind,
                _attributes(span.attributes),
                [(event.name, _attributes(event.attributes)) for event in span.events],
                (span.status.code, span.status.message),
                resource,
            )


def _attributes(pairs: Any) -> dict[str, Any]:
    def plain(value: AnyValue) -> Any:
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [plain(item) for item in value.array_value.values]
        return getattr(value, kind) if kind else None

    def pair(one: KeyValue) -> tuple[str, Any]:
        return one.key, plain(one.value)

    return dict(map(pair, pairs))


def _parts(request: Request) -> Iterator[tuple[str, bytes]]:
    found = re.search(r"boundary=([^;]+)", request.headers.get("Content-Type", ""))
    if found is None:
        return
    for part in request.body.split(b"--" + found[1].strip('"').encode())[1:-1]:
        head, _, body = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        assert name is not None
        yield name[1].decode(), body.removesuffix(b"\r\n")
