"""The errors of Orchestra: what is wrong, where, and what to do.

    OrchestraError          something the user can fix           exit 1
    ├── PipelineError       a file or the command line is wrong  exit 2
    ├── GitError            git refused or failed                exit 1
    ├── SessionError        a session can't be started or driven exit 1
    │   ├── SessionBusyError another process drives it           exit 4
    │   └── RefusedError     it would harm; nothing was touched  exit 2
    └── AgentError          a turn failed                        exit 1

Anything else that escapes is a bug.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a file that a user wrote."""

    path: Path
    line: int
    """1-based."""
    column: int
    """1-based, in characters."""
    text: str = field(default="", compare=False)
    """The whole line, without its line break, for the snippet; empty when it is not known."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or looks wrong, in what the user wrote."""

    code: str
    """Stable and greppable: `unknown-agent`."""
    message: str
    location: Location | None = None
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"


class OrchestraError(Exception):
    """Something the user can fix.

    Args:
        message: What is wrong, in one or more lines; without a trailing full stop.
        code: Stable name of the kind of error.
        hint: What to do, best something to type.
        location: The place in the user's file, where there is one.
    """

    exit_code = 1
    code = "error"
    session_id: str | None = None
    """The session that goes on with `orchestra resume`, where there is one."""

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, location: Location | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.hint = hint
        self.location = location

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong, one entry a problem, in the order of the files' lines."""
        return (Problem(self.code, self.message, self.location, self.hint),)


class PipelineError(OrchestraError):
    """The pipeline, a file that it names, the project or the command line is wrong; nothing was started."""

    exit_code = 2
    code = "invalid-pipeline"

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> PipelineError:
        """Make one error of all problems found, sorted by place."""
        ordered = sort_problems(problems)
        first = next((problem for problem in ordered if problem.severity == "error"), ordered[0])
        error = cls(first.message, code=first.code, hint=first.hint, location=first.location)
        error._problems = tuple(ordered)
        return error

    _problems: tuple[Problem, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every problem found at once, sorted by file and line."""
        return self._problems or super().problems


class GitError(OrchestraError):
    """Git refused or failed.

    Args:
        message: What could not be done.
        command: The git arguments, without configuration overrides.
        stderr: What git said.
    """

    code = "git-failed"

    def __init__(
        self,
        message: str,
        *,
        command: Sequence[str] = (),
        stderr: str = "",
        code: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.command = tuple(command)
        self.stderr = stderr


class SessionError(OrchestraError):
    """A session can't be found, started or driven."""

    code = "session-failed"


class SessionBusyError(SessionError):
    """Another process drives the session."""

    exit_code = 4
    code = "session-busy"


class RefusedError(SessionError):
    """What was asked would harm something or can't be done; nothing was touched.

    Args:
        problems: All the reasons.
    """

    exit_code = 2
    code = "refused"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._problems = tuple(sort_problems(problems))
        first = self._problems[0]
        super().__init__(first.message, code=first.code, hint=first.hint)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every reason at once."""
        return self._problems


class AgentError(OrchestraError):
    """A turn of an agent or a step failed."""

    code = "turn-failed"


def sort_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by file, line and column; those without a place come last."""

    def key(problem: Problem) -> tuple[bool, str, int, int, str]:
        place = problem.location
        if place is None:
            return (True, "", 0, 0, problem.code)
        return (False, str(place.path), place.line, place.column, problem.code)

    return sorted(problems, key=key)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Give the hint for a misspelt name: `did you mean 'critic'?`, or None when nothing is near."""
    near = near_names(name, known)
    if not near:
        return None
    return "did you mean " + " or ".join(repr(match) for match in near) + "?"


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to two known names that look like `name`, the nearest first."""
    by_folded = {candidate.casefold().replace("_", "-"): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold().replace("_", "-"), by_folded, n=2, cutoff=0.6)
    return [by_folded[match] for match in matches]
