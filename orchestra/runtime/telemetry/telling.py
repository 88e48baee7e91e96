"""What is told of events in spans, by the names of OpenTelemetry's GenAI semantic conventions, release v0.1.0.

Those conventions are no stable standard yet, hence one release is kept to:
https://github.com/open-telemetry/semantic-conventions-genai/blob/main/CHANGELOG.md. What they have no name for is told
as `orchestra.*`. Contents (prompts, texts, arguments, results, paths, messages of errors) are told only where the user
has said so; all else here is a name out of the pipeline file, a number, an id, or one of a few known words.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestra.runtime.observability import Event
    from orchestra.runtime.telemetry.span import Attributes, Value

_PROVIDERS = {
    "azure_ai": "azure.ai.inference",
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "google_anthropic_vertex": "gcp.vertex_ai",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "ibm": "ibm.watsonx.ai",
    "mistralai": "mistral_ai",
    "xai": "x_ai",
}
"""LangChain's names → those of the conventions; the others are the same."""

MOMENTS: dict[str, tuple[str, ...]] = {
    "checkpoint": ("id",),
    "condition_chose": ("edge", "targets", "labels"),
    "conflict": ("n", "repo", "resolver", "commit", "agents"),
    "conflict_resolved": ("n", "repo", "commit"),
    "files_kept": ("repo", "slot"),
    "files_put_back": ("repo",),
    "human_turn": ("question", "kind", "by"),
    "internal_error": (),
    "merged": ("repo", "join", "from", "commit"),
    "question_asked": ("id",),
    "question_left": ("question",),
    "session_stopping": ("seconds",),
    "setup_ended": ("repo", "ok", "exit_code", "duration_s"),
    "setup_started": ("repo",),
    "snapshot_taken": ("repo", "commit"),
    "turn_committed": ("repo", "commit"),
    "warning": ("code",),
}
"""Type of an event → the fields that are told of it, as a moment in a span."""
_CONTENT: dict[str, tuple[str, ...]] = {
    "conflict": ("paths",),
    "human_turn": ("text",),
    "question_asked": ("text",),
    "setup_started": ("command",),
    "warning": ("message",),
}
_NAME = re.compile(r"[\w:./@-]{1,128}", re.ASCII)
_LONGEST = 256
"""Characters of a name."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose spans they are, and what may be told."""

    session: str
    pipeline: str
    agents: Collection[str]
    """The names of agents; other nodes are steps."""
    providers: Mapping[str, str]
    """Name of a provider → the integration."""
    contents: bool
    """Whether contents are told."""

    def about(self, **more: Value | None) -> Attributes:
        """Return what each span has, and more."""
        common = {
            "gen_ai.conversation.id": self.session,
            "orchestra.session.id": self.session,
            "orchestra.pipeline": self.pipeline,
        }
        return present({**common, **more})

    def provider(self, name: str) -> str:
        """Return the conventions' name of a provider."""
        kind = self.providers.get(name, name)
        return _PROVIDERS.get(kind, kind)

    def moment(self, event: Event) -> Attributes:
        """Return what is told of an event that is a moment in a span."""
        payload = event.payload
        told = {f"orchestra.{name}": _plain(payload.get(name)) for name in MOMENTS[event.type]}
        if event.type == "conflict" and isinstance(payload.get("paths"), list):
            told["orchestra.conflicts"] = len(payload["paths"])
        if self.contents:
            told |= {f"orchestra.{name}": as_json(payload.get(name)) for name in _CONTENT.get(event.type, ())}
        return present(told)

    def message(self, text: Any) -> str | None:
        """Return the words of a failure: what went wrong may quote anything, thus it is a content."""
        return str(text) if self.contents and text else None

    def content(self, **values: Any) -> Attributes:
        """Return attributes that are contents; none, where they are not told. `__` in a name stands for a dot."""
        if not self.contents:
            return {}
        return present({name.replace("__", "."): as_json(value) for name, value in values.items()})


def spoken(role: str, text: Any, **more: Any) -> list[dict[str, Any]] | None:
    """Return a message in the conventions' form."""
    return [{"role": role, "parts": [part(text)], **more}] if text else None


def part(text: Any) -> dict[str, Any]:
    """Return a piece of a message in the conventions' form."""
    return {"type": "text", "content": text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)}


def as_json(value: Any) -> str | None:
    """Return a text as it is, all else as JSON: an attribute can't hold a mapping."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def name_or_none(text: Any) -> str | None:
    """Return what looks like a name: models make up names of tools and ids of calls, which could hold anything."""
    return text if isinstance(text, str) and _NAME.fullmatch(text) else None


def number(value: Any) -> int | float | None:
    """Return a number, if it is one."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def present(values: Mapping[str, Value | None]) -> Attributes:
    """Leave out what is not known."""
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> Value | None:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:_LONGEST]
    if isinstance(value, list):
        return [str(item)[:_LONGEST] for item in value]
    return None
