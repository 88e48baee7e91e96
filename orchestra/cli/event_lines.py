"""An event as one plain line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestra.cli.render import as_json, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def line_of(
    time: str,
    kind: str,
    node: str | None,
    turn: int | None,
    payload: Mapping[str, Any],
    *,
    full: bool = False,
    paint: Callable[[str, str], str] | None = None,
) -> str:
    """Return the line of an event; nothing in it can steer a terminal.

    Args:
        time: When it was, ISO 8601.
        kind: Its type.
        node: The agent or step.
        turn: Its turn.
        payload: What the event says.
        full: For a log that one searches, rather than a view that one follows: long texts, and what only it has.
        paint: Called with a text and a name to give it the agent's colour (`colours.painted`).
    """
    who = escape("" if node is None else node if turn in (None, 1) else f"{node} ({turn})")
    what = what_of(kind, payload, full=full)
    text = escape(" ".join(what.splitlines()))
    width = 2000 if full or kind in {"note", "warning"} else 160
    text = text if len(text) <= width else f"{text[: width - 1]}…"
    clock = escape(time[11:19])
    if not who:
        return f"{clock}  {text}"
    name = f"{who:<24}"
    return f"{clock}  {paint(name, node) if paint is not None and node else name}  {text}"


def what_of(kind: str, payload: Mapping[str, Any], *, full: bool = False) -> str:
    """Say what an event means, in words of whatever characters and length."""
    try:
        what = _what(kind, payload)
        if what is not None and full and (more := ", ".join(_more(kind, payload))):
            what = f"{what}: {more}"
    except (LookupError, TypeError, ValueError, AttributeError):  # a damaged log, or one of somebody else
        what = None
    if what is not None:
        return what
    details = ", ".join(f"{key} {value}" for key, value in payload.items() if value not in (None, "", [], {}))
    return f"{kind.replace('_', ' ')} {details}".strip()


def _what(kind: str, payload: Mapping[str, Any]) -> str | None:  # noqa: C901, PLR0911, PLR0912 - a table of kinds
    match kind:
        case "session_started" | "session_resumed":
            return f"{kind.replace('_', ' ')}: {payload['pipeline']} ({payload['file']})"
        case "session_forked":
            changes = f", with {' '.join(map(str, payload['changes']))}" if payload.get("changes") else ""
            return f"forked from the session {payload['session_id']} at {payload['checkpoint_id']}{changes}"
        case "session_completed" | "session_paused" | "session_interrupted" | "session_cancelled":
            return kind.replace("_", " ")
        case "session_stopping":
            calls = [f"{count} {call} call{'s' if count > 1 else ''}" for call, count in payload["waits_for"].items()]
            return f"waits for {' and '.join(calls)}, {payload['seconds']:g} s at the most" if calls else "stopping"
        case "note":
            return str(payload["text"])
        case "warning":
            return f"warning: {payload['message']}"
        case "checkpoint":
            return f"checkpoint {payload['id']}"
        case "prompt_given":
            return f"is told: {payload['message']}"
        case "text_delta":
            return f"writes: {payload['text']}"
        case "output_given":
            output = payload["output"]
            return f"hands over: {output if isinstance(output, str) else as_json(output, indent=None)}"
        case "snapshot_taken":
            return f"files of {payload['repo']} kept as {payload['commit'][:10]}"
        case "question_asked":
            return f"asks: {payload['text']}"
        case "human_turn":
            return f"is answered: {payload['text']}"
        case "turn_started":
            return "goes on" if payload.get("resumed") else "starts"
        case "turn_ended":
            return f"done after {payload['duration_s']:.1f} s"
        case "turn_failed":
            left = payload.get("tries_left", 0)
            return f"failed: {payload['message']}" + (
                f" ({left} {'tries' if left > 1 else 'try'} left)" if left else ""
            )
        case "turn_committed":
            return f"committed {payload['commit'][:10]} in {payload['repo']}"
        case "tool_started":
            return f"calls {payload['tool']} {_arguments(payload['args'])}".strip()
        case "tool_ended":
            return _tool(payload)
        case "model_started":
            return f"asks {payload['model']}"
        case "model_ended":
            tokens = f"{payload.get('input_tokens') or 0:,} in, {payload.get('output_tokens') or 0:,} out"
            return f"{payload.get('model')} answered ({tokens}, {payload.get('duration_s', 0):.1f} s)"
        case "model_failed":
            return f"model call failed: {payload.get('message')}"
        case "question_left":
            return "waits for an answer; the session will pause"
        case "condition_chose":
            chose = f"chose {', '.join(payload['targets'])}"
            return f"the condition at START {chose}" if str(payload.get("edge")).startswith("START#") else chose
        case "files_put_back":
            kept = f"; what lay there is kept as {payload['rescue']}" if payload.get("rescue") else ""
            return f"files of {payload['repo']} put back to {payload['commit'][:10]}{kept}"
        case "merged":
            return f"merged the work of {payload['from']} in {payload['repo']} ({payload['commit'][:10]})"
        case "conflict":
            return _conflict(payload)
        case "conflict_resolved":
            return f"the conflict in {payload['repo']} is resolved ({payload['commit'][:10]})"
        case "files_kept":
            return f"what lay in the worktree {payload['slot']} of {payload['repo']} is kept as {payload['rescue']}"
        case "setup_started":
            return f"setup of {payload['repo']}: {payload['command']}"
        case "setup_ended":
            how = "done" if payload["ok"] else f"failed with exit code {payload['exit_code']}"
            return f"setup of {payload['repo']} {how} after {payload['duration_s']:.1f} s"
        case "session_failed":
            return f"session failed: {payload['message']}"
    return None


def _more(kind: str, payload: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the short words of an event leave out."""
    match kind:
        case "model_ended":
            cost = payload.get("cost_usd")
            yield "cost unknown" if cost is None else f"${cost}"
            yield f"{payload.get('cached_tokens') or 0:,} from the cache"
            yield str(payload.get("stop_reason"))
        case "prompt_given":
            yield f"as {payload['system']}"
        case "tool_ended" if payload.get("result"):
            yield str(payload["result"])
        case "turn_failed" | "session_failed":
            yield str(payload.get("code"))
            if payload.get("hint"):
                yield f"hint: {payload['hint']}"
        case "checkpoint":
            yield ", ".join(f"{repo} {str(commit)[:10]}" for repo, commit in payload.get("repos", {}).items())


def _arguments(args: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value if isinstance(value, str) else as_json(value, indent=None)}" for name, value in args.items()
    )


def _conflict(payload: Mapping[str, Any]) -> str:
    agents = " and ".join(payload["agents"])
    paths = ", ".join(path for path, _ in payload["paths"])
    then = {
        "agent": f"{payload['target']} resolves it",
        "human": "a person has to resolve it",
        "fail": "nobody may resolve it",
    }
    return f"CONFLICT: {agents} changed {paths} in {payload['repo']}; {then[payload['resolver']]}"


def _tool(payload: Mapping[str, Any]) -> str:
    code = payload.get("exit_code")
    failed = "" if payload.get("ok") else " failed" if code is None else f" ended with exit code {code}"
    return f"{payload['tool']}{failed} ({payload.get('duration_s', 0):.1f} s)"
