"""What the environment says about traces: where they go, and whether contents may go with them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENTS = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The variable of OpenTelemetry's GenAI conventions that lets contents be sent."""
TRACE_CONTEXT = "trace_context"
"""Where a session's settings hold the trace context that it was started in."""
_WITH_CONTENTS = frozenset({"true", "1", "span_only", "span_and_event"})
_ON, _OFF = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
_CARRIED = {"traceparent": "TRACEPARENT", "tracestate": "TRACESTATE"}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_LONGEST_STATE = 512
_OTLP = "OTEL_EXPORTER_OTLP"
PROTOCOL = "http/protobuf"
INSTALL = "pip install 'orchestra-agents[otel]'"


def otel_is_wanted(environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether spans are to be sent: an endpoint is named, and nothing switches them off."""
    env = os.environ if environment is None else environment
    if env.get("OTEL_SDK_DISABLED", "").strip().casefold() == "true":
        return False
    exporters = {name.strip().casefold() for name in env.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()}
    if exporters and "otlp" not in exporters:
        return False
    return any(env.get(f"{_OTLP}{kind}_ENDPOINT", "").strip() for kind in ("", "_TRACES"))


def unspoken_protocol(environment: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """Return the variable that asks for a protocol which is not spoken here, and the protocol."""
    env = os.environ if environment is None else environment
    for name in (f"{_OTLP}_TRACES_PROTOCOL", f"{_OTLP}_PROTOCOL"):
        if asked := env.get(name, "").strip():
            return None if asked.casefold() == PROTOCOL else (name, asked)
    return None


def contents_are_wanted(environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether prompts, texts, arguments and results may leave the machine."""
    env = os.environ if environment is None else environment
    return env.get(CONTENTS, "").strip().casefold() in _WITH_CONTENTS


def langsmith_is_wanted(environment: Mapping[str, str] | None = None) -> bool | None:
    """Tell whether LangSmith gets traces: False where the user has switched them off, None where nothing is said."""
    env = os.environ if environment is None else environment
    names = [f"{space}_{name}" for space in ("LANGSMITH", "LANGCHAIN") for name in ("TRACING", "TRACING_V2")]
    said = {env.get(name, "").strip().casefold() for name in names}
    if said & _OFF:
        return False
    return True if said & _ON or env.get("LANGSMITH_API_KEY", "").strip() else None


def langsmith_hides(what: str, environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether LangSmith gets no `INPUTS` or `OUTPUTS`; its own variable counts more than the common one."""
    env = os.environ if environment is None else environment
    said = {env.get(f"{space}_HIDE_{what}", "").strip().casefold() for space in ("LANGSMITH", "LANGCHAIN")}
    if said & _ON:
        return True
    return not said & _OFF and not contents_are_wanted(env)


def carrier(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the W3C trace context that this process was started in, where spans are sent.

    It is kept with the session: a resume in another environment goes on in the same trace.
    """
    env = os.environ if environment is None else environment
    found = {name: env.get(variable, "").strip() for name, variable in _CARRIED.items()}
    if not otel_is_wanted(env) or not _TRACEPARENT.fullmatch(found["traceparent"]):
        return {}
    if not found["tracestate"] or len(found["tracestate"]) > _LONGEST_STATE:
        del found["tracestate"]
    return found
