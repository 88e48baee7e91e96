"""What a run shows while it goes: its conversations, a plain line for any other event, and its end."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

from orchestra.cli.event_lines import line_of
from orchestra.cli.onward import commands
from orchestra.cli.place import typed
from orchestra.cli.prices import price
from orchestra.cli.render import as_json, escape, escape_prose
from orchestra.cli.screen import Screen
from orchestra.cli.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from orchestra.runtime.observability import Event
    from orchestra.runtime.result import SessionResult
    from orchestra.runtime.store import SessionRecord

QUIET = frozenset(
    {
        *("checkpoint", "model_started", "output_given", "prompt_given", "snapshot_taken", "tool_started"),
        "turn_stopped",
    }
)
"""Events that a plain log leaves out: the one that ends the same thing says more."""


class Progress:
    """Shows the events of a session on a stream.

    Args:
        stream: Where to.
        quiet: Show only what agents and persons say to each other at this terminal.
        own: How answers are called that come from this process.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, own: Collection[str] = ("terminal", "input")) -> None:
        self._quiet = quiet
        self.transcript = Transcript(Screen(stream), own=own)

    def show(self, event: Event) -> None:
        """Show an event, if there is something to show of it."""
        if self._quiet and not self.transcript.prompts:
            return
        if self.transcript.show(event) or self._quiet or event.type in QUIET:
            return
        line = line_of(event.time, event.type, event.node, event.turn, event.payload)
        self.transcript.line(line, agent=event.node, at_once=event.type == "session_stopping")

    def outputs(self, result: SessionResult) -> str:
        """Return what the agents handed over whose edges lead to END; of a decision the text that was decided on."""
        shown = {name: result.agent_outputs[name] for name in result.final if name in result.agent_outputs}
        shown |= {name: value["text"] for name, value in _decisions(result).items()}
        if result.record.status != "completed":
            return ""
        if len(shown) == 1:
            return _text(next(iter(shown.values())))
        return "\n".join(f"## {name}\n\n{_text(value)}" for name, value in shown.items())

    def has_shown(self, result: SessionResult) -> bool:
        """Tell whether all that is handed over was read just now, in a conversation at this terminal."""
        decisions = _decisions(result)
        handed_over = {name for name in result.final if name in result.agent_outputs}
        return self.transcript.screen.is_terminal and all(
            name in decisions and self.transcript.has_shown(decisions[name]["text"]) for name in handed_over
        )

    def summary(self, result: SessionResult) -> str:
        """Return how a session that was driven ended, and what to do next."""
        return self.ending(result.record, _decisions(result), result.conflicts, result.branches)

    def ending(
        self,
        record: SessionRecord,
        decisions: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        conflicts: Sequence[Mapping[str, Any]] = (),
        branches: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Return how a session has ended or stands, and what to do next.

        Args:
            record: The session.
            decisions: What persons decided of what is handed over, by agent.
            conflicts: Those of the session.
            branches: Repo → the session's branch.
        """
        usage = record.usage
        cost = price(usage["cost_usd"])
        tokens = f"{usage['input_tokens']:,} tokens in, {usage['output_tokens']:,} out"
        session = escape(record.session_id)
        lines = [f"\n{record.status}: session {session}, {usage['model_calls']} model calls, {tokens}, {cost}"]
        lines += [_decided(name, value) for name, value in decisions.items() if _says_something(value)]
        if record.error:
            lines.append(escape(f"error[{record.error['code']}]: {record.error['message']}", keep_lines=True))
            if record.error.get("hint"):
                lines.append(f"hint: {escape(record.error['hint'], keep_lines=True)}")
        if record.waiting_for:
            agent, text = record.waiting_for["agent"], record.waiting_for["text"]
            shown = "" if self.transcript.has_shown(text) else f":\n{escape_prose(text)}"
            lines.append(f"{escape(agent)} waits for you{shown}")
        for conflict in conflicts:
            by = f"resolved by {conflict['resolved_by']}" if conflict["resolved_by"] else "not resolved by an agent"
            agents = " and ".join(conflict["agents"])
            lines.append(
                escape(f"conflict in {conflict['repo']}: {conflict['path']} ({conflict['kind']}, {agents}), {by}")
            )
        for repo, branch in branches.items():
            # The command has a line of its own: a narrow terminal would break a longer one in the branch's name.
            lines += [escape(f"branch of {repo}: {branch}"), escape(f"  git log -p {branch}")]
        if branches and record.status == "completed":
            lines.append(f"bring it into your checkout with: {typed(f'apply {session}')}")
        if onward := commands(record):
            lines.append(escape(f"go on with: {onward[0]}"))
            lines += [escape(f"or answer with: {command}") for command in onward[1:]]
        lines.append(f"look back with: {typed(f'log {session}')}")
        return "\n".join(lines) + "\n"


def _decisions(result: SessionResult) -> dict[str, dict[str, Any]]:
    """Return the decisions among what is handed over, by agent."""
    return {
        name: result.agent_outputs[name]
        for name in result.final
        if name in result.interactive and name in result.agent_outputs
    }


def _says_something(decision: Mapping[str, Any]) -> bool:
    """Tell whether somebody has decided: a bare `done` is also what an agent ends with when nobody is there."""
    return decision["decision"] != "done" or bool(decision["reason"])


def _decided(name: str, decision: Mapping[str, Any]) -> str:
    word = {"approve": "approved", "reject": "rejected"}.get(decision["decision"], decision["decision"])
    why = f": {' '.join(decision['reason'].split())}" if decision["reason"] else ""
    return escape(f"{name} {word}{why}")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return escape_prose(value) + "\n"
    return as_json(value) + "\n"
