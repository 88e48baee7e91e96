"""What a person and an agent say to each other inside an interactive agent's turn (DESIGN §6).

An agent's reply without tool calls is a question to the person. What the person says is one line of text: a message to
the agent, or one of the commands that end the turn or take a message back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from orchestra.errors import AgentError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

DECISIONS = {"/done": "done", "/approve": "approve", "/reject": "reject"}
"""What ends the turn → the decision that it stands for."""
UNDO = "/undo"
LOOKING = ("/diff", "/help")
"""Commands that only show something; whoever takes the person's words answers them himself."""
COMMANDS = (*DECISIONS, UNDO, *LOOKING)

Kind = Literal["message", "done", "approve", "reject", "undo"]


@dataclass(frozen=True, slots=True)
class Changes:
    """Two states of the files: repo → the commits before and after, of the repos in which they differ."""

    repos: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Since:
    """What has happened since the person decided the last time."""

    decision: str
    reason: str | None
    text: str
    """What the agent had said."""
    turns: tuple[tuple[str, int], ...] = ()
    """The turns of agents and steps that have ended meanwhile."""
    files: Changes = field(default_factory=Changes)
    """What changed in the files between the commits of that decision and those that the agent shows now."""


@dataclass(frozen=True, slots=True)
class Question:
    """What an agent has said and waits for an answer to."""

    id: str
    """Names it for good: a question that is asked again after a crash has the same id, any other one another."""
    agent: str
    turn: int
    text: str
    note: str | None = None
    """What Orchestra has to say about it: that there was nothing to undo, or that no model call is left."""
    files: Changes = field(default_factory=Changes)
    """What the agent has changed in its turn so far."""
    since: Since | None = None
    """In a later turn of the agent."""

    def as_json(self) -> dict[str, Any]:
        """Return the payload of its event, and what `respond --json` shows."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Question:
        """Read what `as_json` wrote.

        Raises:
            TypeError: It is something else.
            LookupError: It is something else.
        """
        since = value.get("since")
        return cls(
            id=str(value["id"]),
            agent=str(value["agent"]),
            turn=int(value["turn"]),
            text=str(value["text"]),
            note=value.get("note"),
            files=_changes(value.get("files")),
            since=None
            if since is None
            else Since(
                decision=str(since["decision"]),
                reason=since["reason"],
                text=str(since["text"]),
                turns=tuple((str(agent), int(turn)) for agent, turn in since["turns"]),
                files=_changes(since["files"]),
            ),
        )


def _changes(value: Mapping[str, Any] | None) -> Changes:
    repos = (value or {}).get("repos", {})
    return Changes({str(repo): (str(before), str(after)) for repo, (before, after) in repos.items()})


def attempt_id(agent: str, turn: int, attempt: int) -> str:
    """Return what the ids of all questions of an attempt begin with: a turn that starts anew has a new conversation."""
    return f"{agent}.{turn}.{attempt}"


@dataclass(frozen=True, slots=True)
class Said:
    """What a person has said, understood."""

    kind: Kind
    text: str
    """The message, or the reason of a decision; empty where there is none."""


class UnknownCommandError(AgentError):
    """A line begins like a command and is none."""


def understand(line: str) -> Said | None:
    """Read a person's line; a message that begins with a slash is written with two.

    Args:
        line: What was typed, perhaps of several lines.

    Returns:
        None for a command that only looks (`/diff`, `/help`), and for an empty line.

    Raises:
        UnknownCommandError: `unknown-command`: a word with a slash that is no command, or a command with too much.
    """
    text = line.strip()
    if not text.startswith("/"):
        return Said("message", text) if text else None
    if text.startswith("//"):
        return Said("message", text[1:])
    word, *others = text.split(maxsplit=1)
    rest = "".join(others)
    if word in LOOKING:
        return None
    if word == UNDO and not rest:
        return Said("undo", "")
    if word in DECISIONS:
        return Said(DECISIONS[word], rest)  # type: ignore[arg-type]  # the values are kinds
    raise _unknown(word, rest)


def meant(line: str) -> Said:
    """Read an answer, whatever way it came: what a program has put there and is no command is a message."""
    try:
        return understand(line) or Said("message", line)
    except UnknownCommandError:
        return Said("message", line)


def _unknown(word: str, rest: str) -> UnknownCommandError:
    if word == UNDO:
        return UnknownCommandError(
            f"`{UNDO}` takes nothing with it, and {rest[:40]!r} stands behind it",
            code="unknown-command",
            hint="it takes back your last message; send the new one afterwards",
        )
    near = did_you_mean(word, COMMANDS) or f"there are {', '.join(COMMANDS)}."
    return UnknownCommandError(
        f"there is no command {word[:40]!r}",
        code="unknown-command",
        hint=f"{near} A message that begins with a slash is written with two: //…",
    )


def decision(said: Said, question: Question) -> dict[str, Any]:
    """Return the output of an interactive agent (DESIGN §4); its commits are known once its turn has ended."""
    return {"decision": said.kind, "reason": said.text or None, "text": question.text, "commits": {}}
