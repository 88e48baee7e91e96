"""The doctor: looks at the machine, the project, the repositories and the sessions, and says what to do.

It reads only, and it never fails: a check that breaks is itself a finding. A family of checks is a file here with one
function, `check(here)`, that yields findings; to add one is to name it in `CHECKS`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import OrchestraError
from orchestra.runtime.doctor.finding import Finding, State, of_error

if TYPE_CHECKING:
    from orchestra.runtime.doctor.surroundings import Surroundings

CHECKS = {
    "machine": "python",
    "sqlite": "sqlite",
    "project": "project",
    "git": "git",
    "keys": "keys",
    "traces": "traces",
    "disk": "disk",
    "locks": "locks",
    "sessions": "sessions",
    "leftovers": "leftovers",
}
"""The families in the order of the report, each with the check that stands for it where the family itself breaks."""
_WITHOUT_PLACE = ("machine", "sqlite")
_REPORT = "report it with what this prints: orchestra --debug doctor"


async def examine(pipeline: str | None = None, *, debug: bool = False) -> list[Finding]:
    """Look at everything, from the current directory.

    Args:
        pipeline: The pipeline to look at, too: its file or its name.
        debug: Let a check that breaks raise.
    """
    here = _surroundings(pipeline, debug=debug)
    found = []
    for family in CHECKS:
        if isinstance(here, Finding) and family not in _WITHOUT_PLACE:
            continue
        found += await _run(family, here, debug=debug)  # type: ignore[arg-type] # those without a place use none
    return [*found, here] if isinstance(here, Finding) else found


def _surroundings(pipeline: str | None, *, debug: bool) -> Surroundings | Finding:
    try:
        from orchestra.runtime.doctor.surroundings import Surroundings

        return Surroundings(Path.cwd(), pipeline)
    except FileNotFoundError:
        return Finding("project", State.ERROR, "the current directory was deleted", "go to one that exists: cd ~")
    except Exception as error:
        if debug:
            raise
        return _broken("project", error)


async def _run(family: str, here: Surroundings, *, debug: bool) -> list[Finding]:
    """Run one family; what it found before it broke is kept."""
    found: list[Finding] = []
    try:
        # Imported here, so that a machine on which a module can't be imported still gets a report.
        async for finding in import_module(f"{__name__}.{family}").check(here):
            found.append(finding)  # noqa: PERF401 - kept when the next one breaks
    except Exception as error:
        if debug:
            raise
        found.append(_broken(CHECKS[family], error))
    return found


def _broken(check: str, error: Exception) -> Finding:
    if isinstance(error, OrchestraError):
        return of_error(check, error, fix=_REPORT)
    details = {"exception": type(error).__name__}
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename} can't be read: {error.strerror}"
        return Finding(check, State.ERROR, message, "look at its permissions, and at the disk", details=details)
    summary = str(error).partition("\n")[0][:200]
    return Finding(check, State.ERROR, f"this check broke: {type(error).__name__}: {summary}", _REPORT, details=details)
