"""Rows of a session's database that make no sense: damaged ones, or such as somebody else has written.

What is read of a session is checked where it is read, so that one damaged session is an error of its own everywhere.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestra.errors import SessionError
from orchestra.runtime.machine import database_error, is_full

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestra.runtime.store import SessionFiles


@contextmanager
def damage_told(files: SessionFiles) -> Iterator[None]:
    """Say of a session that its database can't be read where what the body reads of it makes no sense.

    Raises:
        SessionError: `database-unreadable`.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or is_full(files.directory):
            raise database_error(files.database, error) from None
        raise _unreadable(files, error) from error
    except (sqlite3.Error, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # Other than SQLite's own are of damaged rows: no JSON, an unknown status, a field that is not there.
        raise _unreadable(files, error) from error


def _unreadable(files: SessionFiles, error: Exception) -> SessionError:
    return SessionError(
        f"the session's database {files.database} can't be read: {str(error) or type(error).__name__}",
        code="database-unreadable",
        hint="run `orchestra doctor`; the session branch in your repository is not affected",
    )


def text(row: sqlite3.Row, column: str) -> str:
    """Return a column that holds a text."""
    value = row[column]
    _check(isinstance(value, str), f"`{column}` is no text")
    return str(value)


def json_object(row: sqlite3.Row, column: str) -> dict[str, Any]:
    """Return a column that holds a JSON object."""
    value = json.loads(text(row, column))
    _check(isinstance(value, dict), f"`{column}` is no JSON object")
    return dict(value)


def check_session(workspace: Mapping[str, Any], settings: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
    """Check what others take for granted of a session's row.

    Raises:
        TypeError, LookupError: It is not so.
    """
    for repo in workspace.values():
        _check(isinstance(repo["path"], str) and isinstance(repo["base"], str), "a repo has no path or no base")
    _check(isinstance(settings.get("directory", ""), str), "`directory` is no text")
    _check(isinstance(settings.get("forked_from", {}), dict), "`forked_from` is no JSON object")
    numbers = [number for name, number in usage.items() if name != "cost_usd" or number is not None]
    _check(all(isinstance(number, int | float) for number in numbers), "`usage` holds no numbers")


def check_checkpoint(shown: Mapping[str, Any]) -> None:
    """Check the shape of a row of `log --json`.

    Raises:
        TypeError, LookupError: It is another one.
    """
    repos, coming, changed = shown["repos"], shown["next"], shown["changed"]
    _check(isinstance(shown["created_at"], str), "`created_at` is no text")
    _check(isinstance(shown["agent"], str | None), "`agent` is no text")
    _check(isinstance(repos, dict) and all(isinstance(commit, str) for commit in repos.values()), "`repos` is no map")
    _check(isinstance(coming, list) and all(isinstance(name, str) for name in coming), "`next` is no list of names")
    _check(isinstance(changed, list) and all(repo in repos for repo in changed), "`changed` is no list of repos")
    turns = [(entry["agent"], entry["turn"]) for entry in shown["ended"]]
    _check(all(isinstance(agent, str) and isinstance(turn, int) for agent, turn in turns), "`ended` holds no turns")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise TypeError(otherwise)
