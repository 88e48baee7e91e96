"""The one place that knows LangSmith: LangChain's own tracer is switched on, and tells no more than it may.

LangChain calls the tracer of each run, and the tracer the client, which is ours: it drops contents before anything is
put together to be sent, and takes secrets out of what is left.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from langsmith import Client
from langsmith.run_helpers import get_tracing_context, tracing_context
from langsmith.schemas import LangSmithInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_METADATA = frozenset(
    {"session_id", "pipeline", "agent", "turn", "attempt", "thread_id", "checkpoint_ns", "usage_metadata"}
    | {f"langgraph_{name}" for name in ("step", "node", "triggers", "path", "checkpoint_ns")}
    | {f"ls_{name}" for name in ("provider", "model_name", "model_type", "temperature", "max_tokens", "integration")}
)
"""What runs may say of themselves. Integrations add what they like, so only what is known goes out."""
_REMEMBERED = 256
"""Texts."""
_ERROR = re.compile(r"[A-Za-z_][\w.]*")
_client: ContextVar[_Client | None] = ContextVar("orchestra_langsmith", default=None)

# That LangSmith is not there is said once, as a warning of the session; see `otel`.
for _name in ("langsmith", "langchain_core.tracers", "langchain_core.callbacks"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


class _Client(Client):
    """LangSmith's client without contents.

    Args:
        redact: Takes secrets out of a text.
        hide_inputs: Send no prompts and no arguments.
        hide_outputs: Send no texts and no results.
        failed: Called when LangSmith has not taken something.
    """

    def __init__(
        self, *, redact: Callable[[str], str], hide_inputs: bool, hide_outputs: bool, failed: Callable[[], None]
    ) -> None:
        self._redact = lru_cache(_REMEMBERED)(redact)  # each run has the whole conversation once more
        self._shows_inputs = not hide_inputs
        self._shows_all = not hide_inputs and not hide_outputs
        super().__init__(
            anonymizer=None if hide_inputs and hide_outputs else self._redacted,
            hide_inputs=hide_inputs,
            hide_outputs=hide_outputs,
            omit_traced_runtime_info=True,
            tracing_mode="langsmith",  # never by way of a program's OpenTelemetry
            # Asked of a server that hangs it would hold up the end; compression uses threads that an exit waits for.
            info=LangSmithInfo(instance_flags={}),
            tracing_error_callback=lambda _: failed(),
        )

    @property
    def _use_daemon_threads(self) -> bool:
        """A server that hangs must not keep the process."""
        return True

    @_use_daemon_threads.setter
    def _use_daemon_threads(self, value: bool) -> None:
        """Whatever the environment says."""

    def create_run(self, name: str, inputs: dict[str, Any], run_type: Any, **run: Any) -> None:
        """Send the beginning of a run."""
        super().create_run(name, inputs, run_type, **self._told(run))

    def update_run(self, run_id: Any, **run: Any) -> None:
        """Send the end of a run."""
        super().update_run(run_id, **self._told(run))

    def _told(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is told of a run beside its inputs and outputs, which the client hides itself."""
        told = {key: value for key, value in run.items() if key not in ("serialized", "attachments")}
        extra = run.get("extra") or {}
        metadata = {key: value for key, value in (extra.get("metadata") or {}).items() if key in _METADATA}
        told["extra"] = {"metadata": metadata}
        if self._shows_inputs and "invocation_params" in extra:
            told["extra"]["invocation_params"] = self._redacted(_as_json(extra["invocation_params"]))
        if (error := run.get("error")) and not self._shows_all:
            kind = _ERROR.match(error)
            told["error"] = kind[0] if kind else "Error"
        events = run.get("events")
        if events is not None:
            told["events"] = [{key: event[key] for key in ("name", "time") if key in event} for event in events]
        return told

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redact(value)
        if isinstance(value, dict):
            return {self._redact(str(key)): self._redacted(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._redacted(item) for item in value]
        return value


@contextmanager
def session_traced(
    session: str,
    pipeline: str,
    *,
    redact: Callable[[str], str],
    hide_inputs: bool,
    hide_outputs: bool,
    failed: Callable[[], None],
) -> Iterator[Callable[[float], None]]:
    """Trace what LangChain does inside the body; yields what sends the rest, within so many seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a key that lacks shows when nothing is taken
        client = _Client(redact=redact, hide_inputs=hide_inputs, hide_outputs=hide_outputs, failed=failed)

    def end(patience: float) -> None:
        client.flush(timeout=patience)
        if client.tracing_queue is not None and client.tracing_queue.unfinished_tasks:
            failed()
        client.close(timeout=0)

    metadata = {"session_id": session, "pipeline": pipeline}
    token = _client.set(client)
    try:
        # Without a parent: the program's own run would bring its own client.
        with tracing_context(
            parent=False, enabled=True, client=client, metadata=metadata, tags=[f"pipeline:{pipeline}"]
        ):
            yield end
    finally:
        _client.reset(token)


@contextmanager
def turn_traced(agent: str, turn: int, attempt: int) -> Iterator[None]:
    """Name the turn in whatever is traced inside the body."""
    around = get_tracing_context()
    metadata = {**(around["metadata"] or {}), "agent": agent, "turn": turn, "attempt": attempt}
    tags = [*(around["tags"] or ()), f"agent:{agent}"]
    with tracing_context(parent=False, enabled=True, client=_client.get(), metadata=metadata, tags=tags):
        yield


@contextmanager
def untraced() -> Iterator[None]:
    """Have LangChain trace nothing inside the body, whatever the environment says."""
    with tracing_context(parent=False, enabled=False):
        yield


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
