"""Conditions: functions that choose where an edge leads, the user's and those that come with Orchestra.

A condition belongs to the registry that loads its directory, thus to one pipeline: `@orchestra.condition("name")` may
be written in two pipelines of one process without a clash.
"""

from __future__ import annotations

import contextvars
import inspect
import linecache
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestra.errors import Location, PipelineError, Problem, SessionError, did_you_mean
from orchestra.graph.readonly import read_only
from orchestra.imports import import_file
from orchestra.tools.base import in_daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

END = "END"
LANGGRAPH_END = "__end__"
"""What a user gets who writes `from langgraph.graph import END`."""
TIME_LIMIT = 60.0
MAX_SHOWN = 200

_recording: contextvars.ContextVar[list[Condition] | None] = contextvars.ContextVar("recording", default=None)
"""Takes what the decorator finds while a registry runs a file."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition function and where it is written."""

    name: str
    function: Callable[..., Any]
    path: Path
    line: int
    of_edge: bool = False
    """It is called with the edge's source and labels, too."""

    @property
    def place(self) -> str:
        """`file:line`, for messages."""
        return f"{self.path}:{self.line}"

    @property
    def location(self) -> Location:
        """The function's place."""
        return Location(self.path, self.line, 1, linecache.getline(str(self.path), self.line).rstrip("\n"))


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a condition leads."""

    targets: tuple[str, ...]
    """Names of agents, steps or END, in the order of the edge's declaration, each once."""
    labels: tuple[str, ...] = ()
    """The labels that the condition returned, in the order of the edge's declaration."""


class ConditionRegistry:
    """The conditions of one pipeline.

    Args:
        shipped: What stands behind every directory, for names that none of them has.
        time_limit: Seconds that a condition may take.
    """

    def __init__(self, shipped: Sequence[Condition] = (), *, time_limit: float = TIME_LIMIT) -> None:
        self._shipped = {condition.name: condition for condition in shipped}
        self._conditions: dict[str, Condition] = {}
        self._directories: list[Path] = []
        self._time_limit = time_limit

    def register(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function as the condition `name`.

        In a file that a registry is loading it is registered there, otherwise here.

        Raises:
            PipelineError: The name is taken, or is no text (a decorator without its name).
        """
        if not isinstance(name, str) or not name:
            written = getattr(name, "__name__", None)
            raise PipelineError(
                f"a condition needs a name{f': {written!r} has none' if written else ''}",
                code="invalid-condition",
                hint='write @orchestra.condition("my-name")',
            )

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            condition = _condition(name, function)
            recording = _recording.get()
            if recording is not None:
                recording.append(condition)
            else:
                self._add([condition], shadowed=())
            return function

        return decorate

    def load_directory(self, path: Path) -> None:
        """Run every `*.py` of a directory (but `_*.py`) and take the conditions in it.

        A name that an earlier directory has stays with that one: the first hit wins, as for all files.

        Raises:
            PipelineError: With every file that can't be imported, and every name that is registered twice.
        """
        problems: list[Problem] = []
        found: list[Condition] = []
        for file in sorted(path.glob("*.py")):
            if file.name.startswith("_") or not file.is_file():
                continue
            try:
                found += _conditions_of(file)
            except PipelineError as error:
                problems += error.problems
        shadowed = tuple(self._conditions)
        self._directories.append(path)
        try:
            self._add(found, shadowed=shadowed)
        except PipelineError as error:
            problems += error.problems
        if problems:
            raise PipelineError.of(problems)

    def get(self, name: str) -> Condition:
        """Return a condition.

        Raises:
            PipelineError: `unknown-condition`, with near names and the directories searched.
        """
        found = self._conditions.get(name) or self._shipped.get(name)
        if found is None:
            raise self._unknown(name)
        return found

    def names(self) -> list[str]:
        """Return the names of the user's conditions, sorted."""
        return sorted(self._conditions)

    async def choose(
        self, name: str, state: Mapping[str, Any], targets: Mapping[str, str], *, source: str = ""
    ) -> Choice:
        """Call a condition and check what it returns.

        Args:
            name: The condition's name.
            state: The state; the function gets a copy that it can only read.
            targets: What may be returned, in the edge's order: label → target, or name → the same name.
            source: Where the edge begins.

        Raises:
            SessionError: `bad-condition`: it failed, took too long, or returned something else.
        """
        import asyncio

        condition = self.get(name)
        function = (
            partial(condition.function, source=source, labels=targets) if condition.of_edge else condition.function
        )
        limit = asyncio.timeout(self._time_limit)
        try:
            async with limit:
                returned = await _call(function, read_only(_public(state)))
        except Exception as error:
            if limit.expired():
                message = f"has not ended after {self._time_limit:g} seconds"
                raise _bad(condition, message, targets, hint="a condition should only look at the state") from None
            where = _line_in(condition, error)
            raise _bad(condition, f"raised {type(error).__name__}: {_short(str(error))}{where}", targets) from error
        return _choice(condition, returned, targets)

    def _add(self, conditions: list[Condition], *, shadowed: tuple[str, ...]) -> None:
        problems = []
        for condition in conditions:
            if condition.name in shadowed:
                continue
            first = self._conditions.setdefault(condition.name, condition)
            # The same function comes twice where one condition file imports another.
            if (first.path, first.line) != (condition.path, condition.line):
                message = (
                    f"the condition {condition.name!r} is registered twice: at {first.place} and {condition.place}"
                )
                hint = "give one of them another name"
                problems.append(Problem("duplicate-condition", message, condition.location, hint))
        if problems:
            raise PipelineError.of(problems)

    def _unknown(self, name: str) -> PipelineError:
        searched = "".join(f"\n  searched {directory}" for directory in self._directories)
        hint = did_you_mean(name, [*self._conditions, *self._shipped])
        if not hint and self._conditions:
            hint = "there are " + ", ".join(self.names())
        return PipelineError(
            f"there is no condition {name!r}{searched}",
            code="unknown-condition",
            hint=hint or f'write a function with @orchestra.condition("{name}") in conditions/ beside the pipeline',
        )


default_registry = ConditionRegistry()
"""Takes conditions that are registered outside of a loaded directory, by a program that embeds Orchestra."""
condition = default_registry.register


def _condition(name: str, function: Callable[..., Any]) -> Condition:
    from pathlib import Path

    inner = inspect.unwrap(function)
    inner = getattr(inner, "func", inner)  # functools.partial
    code = getattr(inner, "__code__", None) or getattr(type(inner).__dict__.get("__call__"), "__code__", None)
    path, line = (Path(code.co_filename), code.co_firstlineno) if code else (Path("<unknown>"), 1)
    found = Condition(name, function, path, line)
    try:
        inspect.signature(function).bind({})
    except TypeError:
        message = f"the condition {name!r} must take one argument, the state"
        hint = "write def choose(state): …"
        raise PipelineError(message, code="invalid-condition", hint=hint, location=found.location) from None
    except ValueError:  # a builtin without a signature
        pass
    return found


def _conditions_of(file: Path) -> list[Condition]:
    """Run a file and return its conditions; a module that was run before has kept them."""
    with _record() as recorded:
        module = import_file(file)
    if recorded:
        module.__dict__["__orchestra_conditions__"] = tuple(recorded)
    return list(_kept(module))


def _kept(module: ModuleType) -> tuple[Condition, ...]:
    kept: tuple[Condition, ...] = module.__dict__.get("__orchestra_conditions__", ())
    return kept


@contextmanager
def _record() -> Iterator[list[Condition]]:
    recorded: list[Condition] = []
    token = _recording.set(recorded)
    try:
        yield recorded
    finally:
        _recording.reset(token)


def _public(state: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out Orchestra's own bookkeeping, whose names begin with an underscore."""
    return {name: value for name, value in state.items() if not name.startswith("_")}


async def _call(function: Callable[..., Any], state: Any) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(state)
    # In a daemon thread: a condition that never ends blocks neither the session nor the program's end.
    returned = await in_daemon(lambda: function(state))
    return await returned if inspect.isawaitable(returned) else returned


def _choice(condition: Condition, returned: Any, targets: Mapping[str, str]) -> Choice:
    names = [returned] if isinstance(returned, str) else returned
    if not isinstance(names, list | tuple | set | frozenset):
        raise _bad(condition, f"returned {_short(repr(returned))}", targets, hint=_type_hint(returned))
    if not names:
        message = f"returned {_short(repr(returned))}, which chooses nothing"
        raise _bad(condition, message, targets, hint="return at least one of them")
    chosen = {END if name == LANGGRAPH_END and END in targets else name for name in names if isinstance(name, str)}
    unknown = [name for name in names if not isinstance(name, str)] + sorted(chosen - targets.keys())
    if unknown:
        first = unknown[0]
        hint: str | None = did_you_mean(first, targets) if isinstance(first, str) else _type_hint(first)
        if first in targets.values():
            label = next(label for label, target in targets.items() if target == first)
            hint = f"the edge has labels: return {label!r} to go to {first!r}"
        what = f"returned {_short(repr(returned))}"
        if not isinstance(returned, str):
            what += f", where {_short(repr(first))} is no target"
        raise _bad(condition, what, targets, hint=hint)
    labels = tuple(label for label in targets if label in chosen)
    return Choice(tuple(dict.fromkeys(targets[label] for label in labels)), labels)


def _type_hint(value: Any) -> str | None:
    if value is None:
        return "is there a `return` on every way through the function?"
    if isinstance(value, bool):
        return f"return a text, such as {str(value).lower()!r} for a label"
    return "return one name, or a list of names"


def _bad(condition: Condition, what: str, targets: Mapping[str, str], *, hint: str | None = None) -> SessionError:
    allowed = ", ".join(repr(label) for label in targets)
    return SessionError(
        f"the condition {condition.name!r} ({condition.place}) {what}; allowed: {allowed}",
        code="bad-condition",
        hint=hint,
        location=condition.location,
    )


def _line_in(condition: Condition, error: Exception) -> str:
    """Name the line of the condition's file where the error came from."""
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(condition.path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f" (at line {line})" if line else ""


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
