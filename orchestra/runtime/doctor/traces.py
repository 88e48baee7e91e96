"""Where traces go, if anywhere: nothing is said of what is not switched on."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestra.runtime.doctor.finding import Finding, State
from orchestra.runtime.telemetry import switches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestra.runtime.doctor.surroundings import Surroundings

_LANGSMITH = "https://api.smith.langchain.com"


async def check(here: Surroundings) -> AsyncIterator[Finding]:  # noqa: ARG001 - a family's argument
    """Say where traces go, and whether contents go with them."""
    contents = switches.contents_are_wanted()
    if switches.otel_is_wanted():
        yield _spans(contents=contents)
    if switches.langsmith_is_wanted():
        shows = not (switches.langsmith_hides("INPUTS") and switches.langsmith_hides("OUTPUTS"))
        place = _host(os.environ.get("LANGSMITH_ENDPOINT") or os.environ.get("LANGCHAIN_ENDPOINT") or _LANGSMITH)
        yield _sent("LangSmith", place, contents=shows)


def _spans(*, contents: bool) -> Finding:
    url = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    if asked := switches.unspoken_protocol():
        name, protocol = asked
        message = f"no spans are sent: {name} is {protocol!r}, and only {switches.PROTOCOL!r} is spoken"
        return Finding("traces", State.WARNING, message, None, (f"export {name}={switches.PROTOCOL}",))
    if not all(map(_is_there, ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"))):
        return Finding(
            "traces", State.WARNING, "no spans are sent: OpenTelemetry is not installed", None, (switches.INSTALL,)
        )
    return _sent("OpenTelemetry", _host(url), contents=contents)


def _sent(what: str, place: str, *, contents: bool) -> Finding:
    how = "with contents" if contents else "without contents"
    details = {"to": what, "host": place, "contents": contents}
    return Finding("traces", State.OK, f"{what}: traces go to {place}, {how}", details=details)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # what it lies in is not there
        return False


def _host(url: str) -> str:
    """Return where a URL leads, without what else it may hold."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    except ValueError:
        return "a URL that can't be read"
