"""What the event log says: each type of event with the keys of its payload, and the JSON Schema made of them.

The log is a contract: new types and new keys may come, and leave `VERSION` as it is; what is taken away or means
something else raises it. Keys that are not `required` are missing in the logs of older versions, or mean "not so".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
"""The first line of `orchestra log --events --json` names it."""

Fragment = dict[str, Any]
"""A part of a JSON Schema."""


def _type(*names: str) -> Fragment:
    return {"type": names[0] if len(names) == 1 else list(names)}


TEXT, NUMBER, COUNT, FLAG, OBJECT = map(_type, ("string", "number", "integer", "boolean", "object"))
TEXT_OR_NONE, NUMBER_OR_NONE, COUNT_OR_NONE = (_type(name, "null") for name in ("string", "number", "integer"))
TEXTS: Fragment = {"type": "array", "items": TEXT}
ANYTHING: Fragment = {}


@dataclass(frozen=True, slots=True)
class EventType:
    """One type of event."""

    when: str
    """When it is written, for the reference."""
    required: Mapping[str, Fragment] = field(default_factory=dict)
    optional: Mapping[str, Fragment] = field(default_factory=dict)
    in_turn: bool = False
    """Whether it always names its node, turn and attempt."""

    def schema(self) -> Fragment:
        """Return the JSON Schema of the payload."""
        return {
            "type": "object",
            "description": self.when,
            "properties": {**self.required, **self.optional},
            "required": list(self.required),
        }


_PIPELINE = {"session_id": TEXT, "pipeline": TEXT, "file": TEXT}
_GRAPH = {"graph": OBJECT}
_MODEL = {"model": TEXT, "provider": TEXT, "attempt": COUNT}
_REPO = {"repo": TEXT}
_COMMIT = {"repo": TEXT, "commit": TEXT}
_FAILURE = {"code": TEXT, "message": TEXT}
_QUESTION = {"id": TEXT, "agent": TEXT, "turn": COUNT, "text": TEXT}
_CALL = {"call": TEXT}

EVENT_TYPES: Mapping[str, EventType] = {
    "session_started": EventType(
        "a session begins; `graph` is what `orchestra graph --format json` shows", _PIPELINE, _GRAPH
    ),
    "session_resumed": EventType("a process goes on with a session", _PIPELINE, _GRAPH),
    "session_forked": EventType(
        "a session begins as a fork: what stands before is the history of the session that it has left",
        {"session_id": TEXT, "checkpoint_id": TEXT},
        {"checkpoint_ns": TEXT, "seq": COUNT, "changes": TEXTS},
    ),
    "session_paused": EventType("it waits for a person, and no process drives it", {"agent": TEXT, "text": TEXT}),
    "session_completed": EventType("it has come to its end"),
    "session_failed": EventType(
        "it has failed, and can be resumed", _FAILURE, {"hint": TEXT_OR_NONE, "agent": TEXT_OR_NONE}
    ),
    "session_cancelled": EventType("somebody has called it off"),
    "session_interrupted": EventType("whoever drove it was told to stop; it can be resumed"),
    "session_stopping": EventType(
        "it was asked to stop, and waits for calls under way, counted by kind, `seconds` at the most",
        {"seconds": NUMBER, "waits_for": {"type": "object", "additionalProperties": COUNT}},
    ),
    "note": EventType("something that you should know, such as uncommitted work", {"text": TEXT}),
    "warning": EventType(
        "something that may need mending; `code` is one of [errors](errors.md)", {"message": TEXT}, {"code": TEXT}
    ),
    "internal_error": EventType("a bug of Orchestra, or of a Python function of the pipeline", {"traceback": TEXT}),
    "setup_started": EventType("a repo's `setup` begins in a new worktree", {**_REPO, "command": TEXT}),
    "setup_ended": EventType("it has ended", {**_REPO, "ok": FLAG, "exit_code": COUNT_OR_NONE, "duration_s": NUMBER}),
    "turn_started": EventType(
        "an attempt of a turn begins, or goes on in another process (`resumed`)", {"resumed": FLAG}, in_turn=True
    ),
    "prompt_given": EventType(
        "what an agent was told at the beginning of the attempt", {"system": TEXT, "message": TEXT}, in_turn=True
    ),
    "model_started": EventType("an attempt of a model call begins", _MODEL, in_turn=True),
    "text_delta": EventType(
        "what an agent writes, piece by piece, between `model_started` and `model_ended`; after `model_failed` it "
        "begins anew; `spoken`: to a person",
        {"text": TEXT},
        {"spoken": FLAG},
        in_turn=True,
    ),
    "model_ended": EventType(
        "the model has answered; `input_tokens` counts those from the cache, too; `cost_usd` is null where the price "
        "is not known; `calls` names the tools that it asks for",
        {
            **_MODEL,
            **dict.fromkeys(("input_tokens", "output_tokens", "cached_tokens"), COUNT),
            "cost_usd": NUMBER_OR_NONE,
            "duration_s": NUMBER,
            "stop_reason": TEXT_OR_NONE,
        },
        {"cache_write_tokens": COUNT, "calls": TEXTS},
        in_turn=True,
    ),
    "model_failed": EventType(
        "the attempt has failed; the next one comes in `retry_in` seconds, null: there is none",
        {**_MODEL, "error": TEXT, "message": TEXT, "retry_in": NUMBER_OR_NONE},
        in_turn=True,
    ),
    "tool_started": EventType(
        "a tool call begins; long arguments are cut; `unknown`: the agent has no such tool",
        {"tool": TEXT, "args": OBJECT},
        {**_CALL, "unknown": FLAG},
        in_turn=True,
    ),
    "tool_ended": EventType(
        "the call of that `call` has ended; `result` is what the agent sees, cut where it is long",
        {"tool": TEXT, "ok": FLAG, "exit_code": COUNT_OR_NONE, "duration_s": NUMBER},
        {**_CALL, "result": TEXT, "unknown": FLAG},
        in_turn=True,
    ),
    "snapshot_taken": EventType(
        "files were kept after a tool call that changed them; `skipped` are too large",
        {**_COMMIT, "skipped": TEXTS},
        in_turn=True,
    ),
    "files_put_back": EventType(
        "a worktree was brought back to a checkpoint; `rescue` names the ref that keeps what lay there",
        {**_COMMIT, "rescue": TEXT_OR_NONE, "moved_aside": TEXTS},
    ),
    "files_kept": EventType(
        "a worktree was removed, and `rescue` holds what lay there beyond its commits",
        {**_REPO, "slot": TEXT, "rescue": TEXT},
    ),
    "turn_committed": EventType("the turn's commit in one repo", _COMMIT, in_turn=True),
    "output_given": EventType("what an agent or step hands over", {"output": ANYTHING}, in_turn=True),
    "condition_chose": EventType(
        "an edge's condition has chosen `targets`, by `labels` where the edge has such; at START it is of no node",
        {"edge": TEXT, "targets": TEXTS},
        {"labels": TEXTS},
    ),
    "turn_ended": EventType("the attempt has ended well", {"duration_s": NUMBER}, in_turn=True),
    "turn_failed": EventType(
        "the attempt has failed",
        {**_FAILURE, "hint": TEXT_OR_NONE, "tries_left": COUNT},
        {"duration_s": NUMBER},
        in_turn=True,
    ),
    "turn_stopped": EventType(
        "a turn ends its branch without a result; its siblings run on",
        {"agent": TEXT, "turn": COUNT_OR_NONE, **_FAILURE},
    ),
    "question_asked": EventType(
        "an interactive agent waits for an answer; again when it is asked again after a resume",
        _QUESTION,
        {"note": TEXT_OR_NONE, "files": ANYTHING, "since": ANYTHING},
        in_turn=True,
    ),
    "human_turn": EventType(
        "the answer: its `kind`, its `text`, and `by` which way it came; after a crash perhaps twice",
        {"question": TEXT, "kind": TEXT, "text": TEXT, "by": TEXT},
        in_turn=True,
    ),
    "question_left": EventType(
        "nobody is there to answer; the session pauses when the others are done", {"question": TEXT}, in_turn=True
    ),
    "merged": EventType(
        "a join has merged the work of `from` in one repo", {**_COMMIT, "join": TEXT_OR_NONE, "from": TEXT}
    ),
    "conflict": EventType(
        "two branches conflict: number `n`, `paths` with their kinds, who resolves it, the `commit` with the markers",
        {
            **_COMMIT,
            "n": COUNT,
            "join": TEXT_OR_NONE,
            "target": TEXT_OR_NONE,
            "resolver": TEXT,
            "paths": {"type": "array"},
            "agents": TEXTS,
        },
    ),
    "conflict_resolved": EventType("a person has resolved conflict `n`", {**_COMMIT, "n": COUNT}),
    "checkpoint": EventType(
        "a checkpoint was stored",
        {"id": TEXT, "namespace": TEXT, "repos": {"type": "object", "additionalProperties": TEXT}},
    ),
}


def event_schema() -> Fragment:
    """Return the JSON Schema of one line of `orchestra log --events --json`, the first line aside."""
    columns: dict[str, Fragment] = {
        "seq": {"type": "integer", "minimum": 1},
        "time": {"type": "string", "format": "date-time"},
        "node": TEXT_OR_NONE,
        "turn": COUNT_OR_NONE,
        "attempt": COUNT_OR_NONE,
        "type": {"type": "string", "description": "One of those below, or one that came later."},
        "payload": OBJECT,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Orchestra's event log, version {VERSION}",
        "type": "object",
        "properties": columns,
        "required": list(columns),
        "allOf": [
            {
                "if": {"properties": {"type": {"const": name}}},
                "then": {"properties": {"payload": {"$ref": f"#/$defs/{name}"}, **(_IN_TURN if kind.in_turn else {})}},
            }
            for name, kind in EVENT_TYPES.items()
        ],
        "$defs": {name: kind.schema() for name, kind in EVENT_TYPES.items()},
    }


_IN_TURN = {"node": TEXT, "turn": COUNT, "attempt": COUNT}
