"""What git said, turned into an error that says what to do."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.processes import holder_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCKED = re.compile(r"(?:Unable to create|cannot lock ref .*) '(?P<path>[^'\n]+\.lock)': File exists")
_DUBIOUS = re.compile(r"dubious ownership in repository at '(?P<path>[^'\n]+)'")
_FILTER = re.compile(
    r"(?:clean|smudge|process) filter '?(?P<name>[^'\n]*?)'? failed|external filter '(?P<command>[^\n]*)'"
)
_CORRUPT = re.compile(
    r"(?P<what>object file \S+ is empty|loose object \S+[^\n]* is corrupt|inflate: [^\n]*|unable to read "
    r"(?:sha1 file of [^\n]*|tree|[0-9a-f]{40,64})[^\n]*|missing (?:blob|tree|commit)[^\n]*|bad object[^\n]*|"
    r"invalid object[^\n]*|could not parse commit[^\n]*|bad tree object[^\n]*|[^\n]*packfile [^\n]*"
    r" (?:corrupt|is far)[^\n]*)"
)


def explain(command: Sequence[str], returncode: int, stderr: str, place: Path) -> GitError:
    """Make the error of a git command that failed.

    Args:
        command: The git arguments.
        returncode: How it ended; below zero when a signal ended it.
        stderr: What it said.
        place: The repository or worktree it ran in.
    """
    code, message, hint = _known(stderr, place) or ("git-failed", _plain(command, returncode, stderr), None)
    return GitError(message, command=command, stderr=stderr, code=code, hint=hint)


def _known(stderr: str, place: Path) -> tuple[str, str, str | None] | None:
    return _of_the_machine(stderr, place) or _of_the_repository(stderr, place)


def _of_the_machine(stderr: str, place: Path) -> tuple[str, str, str | None] | None:
    if match := _LOCKED.search(stderr):
        return _locked(Path(match["path"]))
    if "No space left on device" in stderr or "quota exceeded" in stderr.casefold():
        return "no-space", f"no space left on the file system of {place}", "free some space, then run it again"
    if match := _DUBIOUS.search(stderr):
        path = match["path"]
        hint = f"if you trust it: git config --global --add safe.directory '{path}'"
        return "dubious-ownership", f"the repository {path} belongs to another user, so git refuses it", hint
    if "Read-only file system" in stderr or "Permission denied" in stderr or "insufficient permission" in stderr:
        return "git-permission", f"git may not write or read in {place}: {last_line(stderr)}", None
    return None


def _of_the_repository(stderr: str, place: Path) -> tuple[str, str, str | None] | None:
    if match := _FILTER.search(stderr):
        return _filter_failed(match["name"] or match["command"] or "", place)
    if match := _CORRUPT.search(stderr):
        hint = f"look at it with: git -C '{place}' fsck --full"
        return "corrupt-object", f"the repository {place} lacks or can't read an object: {match['what']}", hint
    if "not a git repository" in stderr:
        return "not-a-repository", f"{place} is not a git repository", "run `git init` there, or name another path"
    return None


def _plain(command: Sequence[str], returncode: int, stderr: str) -> str:
    ended = f"was ended by signal {-returncode}" if returncode < 0 else f"failed with status {returncode}"
    said = last_line(stderr)
    return f"git {command[0] if command else ''} {ended}" + (f": {said}" if said else "")


def _locked(lock: Path) -> tuple[str, str, str]:
    """Never removed by us: the lock may be the user's own git at work."""
    try:
        age = f", {max(0, round(time.time() - lock.stat().st_mtime))} s old"
    except OSError:
        age = ""
    holder = holder_of(lock)
    who = f", held by process {holder}" if holder else ", no process holds it open"
    hint = "wait for that process" if holder else f"if no git runs there: rm '{lock}'"
    return "git-locked", f"git's lock {lock} is taken{age}{who}", hint


def _filter_failed(name: str, place: Path) -> tuple[str, str, str]:
    lfs = "lfs" in name
    hint = "install git-lfs" if lfs else f"see `git -C '{place}' config --get-regexp ^filter`"
    return "filter-failed", f"the filter {name!r} that {place} asks for failed", hint


def last_line(stderr: str) -> str:
    """Return the line that names the cause: the first `fatal:`, else the first `error:`, else the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for mark in ("fatal: ", "error: "):
        for line in lines:
            if line.startswith(mark):
                return line.removeprefix(mark)
    return lines[-1] if lines else ""
