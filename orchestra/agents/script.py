"""Scripts: recorded model replies in a YAML file, read strictly and without LangChain.

agents:
  critic:
    - [{output: {verdict: revise}}]          # turn 1: its replies
    - [{output: {verdict: approve}}]         # turn 2
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from orchestra.documents import Document, read_document
from orchestra.errors import Location, PipelineError, Problem, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

ErrorKind = Literal[
    "rate_limit",
    "overloaded",
    "timeout",
    "server",
    "auth",
    "connection",
    "not_found",
    "invalid_request",
    "context_overflow",
    "truncated",
]
"""The failures that a script can play; `truncated` is an answer that stops without a stop reason."""

ERROR_KINDS: tuple[str, ...] = get_args(ErrorKind)

_SHAPE = "agents: {NAME: [[REPLY, …], …]}: agent → its turns; a turn is a list of replies"
_CONTENT = ("text", "tools", "output", "error")
_REPLY_KEYS = (*_CONTENT, "times", "usage", "delay", "stop_reason")
_USAGE_KEYS = ("input_tokens", "output_tokens", "cached_tokens", "cost_usd")


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """A tool call of a reply, with the name that users write."""

    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """One recorded reply of a model, or an error in its place."""

    text: str = ""
    tools: tuple[ScriptedCall, ...] = ()
    output: Any = None
    has_output: bool = False
    error: str | None = None
    times: int = 1
    """How many attempts of the running process the error meets; then the next reply comes."""
    usage: Mapping[str, float] = field(default_factory=dict)
    delay: float = 0.0
    stop_reason: str | None = None
    index: int = 0
    """Where it stands among the entries of its turn."""


@dataclass(slots=True)
class Script:
    """A script that was read, and how often each of its errors has been met by this process."""

    document: Document
    agents: Mapping[str, tuple[tuple[Reply, ...], ...]]
    _met: Counter[tuple[str, int, int]] = field(default_factory=Counter)

    def next_reply(self, agent: str, turn: int, replies: int) -> Reply | None:
        """Return the reply that comes after `replies` earlier ones of a turn; None where the script ends.

        Args:
            agent: The agent's name.
            turn: Its turn, from 1.
            replies: How many replies this turn has had, errors not counted.
        """
        turns = self.agents.get(agent, ())
        seen = 0
        for reply in turns[turn - 1] if 0 < turn <= len(turns) else ():
            if reply.error is not None:
                if seen == replies and self._meet(agent, turn, reply):
                    return reply
                continue
            if seen == replies:
                return reply
            seen += 1
        return None

    def place_to_add(self, agent: str, turn: int) -> Location:
        """Return the place in the file after which a missing turn or reply belongs."""
        turns = self.agents.get(agent, ())
        if not 0 < turn <= len(turns):
            steps: tuple[str | int, ...] = ("agents", agent, len(turns) - 1) if turns else ("agents", agent)
        else:
            steps = ("agents", agent, turn - 1, len(turns[turn - 1]) - 1)
        return self.document.locate(*steps)

    def _meet(self, agent: str, turn: int, reply: Reply) -> bool:
        key = (agent, turn, reply.index)
        if self._met[key] >= reply.times:
            return False
        self._met[key] += 1
        return True


def load_script(path: Path) -> Script:
    """Read a script.

    Raises:
        PipelineError: With all problems of the file, each with its place.
    """
    reader = _Reader(read_document(path))
    agents = reader.read()
    if reader.problems:
        raise PipelineError.of(reader.problems)
    return Script(reader.document, agents)


def check_script(script: Script, agents: Collection[str]) -> list[Problem]:
    """Compare a script with the agents that are to be played from it; what does not fit is a warning.

    An agent without turns may be one that is never started, and a script may serve several pipelines.
    """
    problems = []
    document = script.document
    for name in sorted(set(agents) - set(script.agents)):
        hint = did_you_mean(name, set(script.agents) - set(agents))
        message = f"the script has no turns for the agent {name!r}"
        hint = f"rename the entry: {hint}" if hint else f"add `{name}: [[{{text: …}}]]` under `agents`"
        problems.append(Problem("script-missing-agent", message, document.locate("agents"), hint, "warning"))
    for name in script.agents:
        if name not in agents:
            message = f"the script has turns for {name!r}, which is no agent of this pipeline with this provider"
            hint = did_you_mean(name, agents)
            location = document.locate("agents", name, key=True)
            problems.append(Problem("script-unknown-agent", message, location, hint, "warning"))
    return problems


class _Reader:
    """Reads the values of a script and collects what is wrong with them."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def read(self) -> dict[str, tuple[tuple[Reply, ...], ...]]:
        root = self._mapping(self.document.value, (), ("agents",), "a script", hint=_SHAPE)
        if root is None:
            return {}
        if not isinstance(root.get("agents"), dict):
            if set(root) <= {"agents"}:  # else the unknown key says it
                self._wrong("a script maps agents to their turns under `agents`", ("agents",), _SHAPE)
            return {}
        return {name: self._turns(name, turns) for name, turns in root["agents"].items()}

    def _turns(self, agent: str, value: Any) -> tuple[tuple[Reply, ...], ...]:
        here = ("agents", agent)
        if not isinstance(value, list):
            self._wrong(f"the turns of {agent!r} must be a list", here, _SHAPE)
            return ()
        turns = []
        for number, replies in enumerate(value):
            if not isinstance(replies, list) or not replies:
                hint = "put its replies in brackets: - [{text: …}]"
                self._wrong(f"turn {number + 1} of {agent!r} must be a list of replies", (*here, number), hint)
                continue
            turns.append(tuple(self._reply(reply, (*here, number, i), i) for i, reply in enumerate(replies)))
        return tuple(turns)

    def _reply(self, value: Any, here: tuple[str | int, ...], index: int) -> Reply:
        reply = self._mapping(value, here, _REPLY_KEYS, "a reply", hint="a reply is a mapping such as {text: Done.}")
        if reply is None:
            return Reply(index=index)
        given = [key for key in _CONTENT if key in reply]
        if not given and set(reply) <= set(_REPLY_KEYS):
            self._wrong("a reply needs one of: " + ", ".join(_CONTENT), here, "write {text: …}")
        if "error" in given and len(given) > 1:
            self._wrong("an error stands alone: the reply after it is an entry of its own", (*here, "error"))
        if "output" in given and "tools" in given:
            self._wrong("a reply has either `tools` or `output`: the output ends the turn", (*here, "output"))
        if "times" in reply and "error" not in given:
            self._wrong("`times` belongs to an error", (*here, "times"))
        text = reply.get("text", "")
        if not isinstance(text, str):
            self._wrong("`text` must be a string", (*here, "text"), "quote it")
            text = ""
        stop = reply.get("stop_reason")
        if stop is not None and not isinstance(stop, str):
            self._wrong("`stop_reason` must be a string such as max_tokens", (*here, "stop_reason"))
        return Reply(
            text=text,
            tools=self._tools(reply.get("tools", []), (*here, "tools")),
            output=reply.get("output"),
            has_output="output" in reply,
            error=self._error(reply.get("error"), (*here, "error")) if "error" in reply else None,
            times=int(self._number(reply.get("times", 1), (*here, "times"), least=1, whole=True)),
            usage=self._usage(reply.get("usage", {}), (*here, "usage")),
            delay=self._number(reply.get("delay", 0), (*here, "delay")),
            stop_reason=stop if isinstance(stop, str) else None,
            index=index,
        )

    def _tools(self, value: Any, here: tuple[str | int, ...]) -> tuple[ScriptedCall, ...]:
        if not isinstance(value, list):
            self._wrong("`tools` must be a list of calls", here, 'write [{name: "repo:tool", args: {…}}]')
            return ()
        calls = []
        for number, item in enumerate(value):
            call = self._mapping(item, (*here, number), ("name", "args"), "a tool call", hint='{name: "repo:tool"}')
            if call is None:
                continue
            name, args = call.get("name"), call.get("args", {})
            if not set(call) <= {"name", "args"}:
                continue  # reported
            if not isinstance(name, str) or not name:
                self._wrong("a tool call needs the `name` of a tool", (*here, number, "name"))
            elif not isinstance(args, dict):
                self._wrong("`args` must be a mapping of arguments", (*here, number, "args"))
            else:
                calls.append(ScriptedCall(name, args))
        return tuple(calls)

    def _usage(self, value: Any, here: tuple[str | int, ...]) -> dict[str, float]:
        usage = self._mapping(value, here, _USAGE_KEYS, "`usage`", hint="write {input_tokens: 900, output_tokens: 40}")
        return {
            key: self._number(amount, (*here, key), whole=key != "cost_usd")
            for key, amount in (usage or {}).items()
            if key in _USAGE_KEYS
        }

    def _error(self, value: Any, here: tuple[str | int, ...]) -> str:
        if value in ERROR_KINDS:
            return str(value)
        hint = did_you_mean(value, ERROR_KINDS) if isinstance(value, str) else None
        self._wrong(f"unknown error kind {value!r}", here, hint or "one of: " + ", ".join(ERROR_KINDS))
        return ERROR_KINDS[0]

    def _number(self, value: Any, here: tuple[str | int, ...], *, least: int = 0, whole: bool = False) -> float:
        wanted: tuple[type, ...] = (int,) if whole else (int, float)
        number: Any = value
        if isinstance(value, wanted) and not isinstance(value, bool) and least <= number < float("inf"):
            return number if whole else float(number)
        kind = "whole number" if whole else "number"
        self._wrong(f"`{here[-1]}` must be a {kind} of at least {least}", here)
        return least

    def _mapping(
        self, value: Any, here: tuple[str | int, ...], known: tuple[str, ...], what: str, *, hint: str
    ) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            self._wrong(f"{what} must be a mapping", here, hint)
            return None
        for key in value:
            if key not in known:
                near = did_you_mean(key, known) or "known keys: " + ", ".join(known)
                location = self.document.locate(*here, key, key=True)
                self.problems.append(Problem("unknown-key", f"unknown key {key!r} in {what}", location, near))
        return value

    def _wrong(self, message: str, here: tuple[str | int, ...], hint: str | None = None) -> None:
        self.problems.append(Problem("invalid-script", message, self.document.locate(*here), hint))
