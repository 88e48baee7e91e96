"""What git said, turned into an error that says what to do."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.machine import is_full, is_readonly
from orchestra.runtime.processes import holder_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCKED = re.compile(
    r"(?:Unable to create|cannot lock ref .*) '(?P<path>[^'\n]+\.lock)': File exists"
    r"|could not lock config file (?P<config>[^\n]+): File exists"
)
_MACHINE = (
    (
        ("No space left on device", "Out of diskspace", "quota exceeded"),
        "no-space",
        "no space left on the file system of {place}",
        "free some space there (look: `df -h '{place}'`)",
    ),
    (
        ("Read-only file system",),
        "read-only",
        "git can't write in {place}",
        "make the file system writable (look: `findmnt -T '{place}'`)",
    ),
    (
        ("Permission denied", "insufficient permission"),
        "git-permission",
        "git may not write or read in {place}",
        "look at the owner and the mode of what lies there: ls -la '{place}'",
    ),
    (
        ("Too many open files",),
        "open-files",
        "git can't open more files in {place}",
        "raise the limit of open files (`ulimit -n 1024`)",
    ),
    (
        ("File too large",),
        "file-size-limit",
        "git may not write a file as large as it has to in {place}",
        "raise the limit of a file's size (`ulimit -f unlimited`)",
    ),
    (
        ("Input/output error",),
        "disk-failed",
        "the disk under {place} failed",
        "look at the disk: the system's log (`dmesg`) says more",
    ),
)
"""What git says when the machine refuses; its code, what it means, what to do."""
_DUBIOUS = re.compile(r"dubious ownership in repository at '(?P<path>[^'\n]+)'")
_FILTER = re.compile(
    r"(?:clean|smudge|process) filter '?(?P<name>[^'\n]*?)'? failed|external filter '(?P<command>[^\n]*)'"
)
_CORRUPT = re.compile(
    r"(?P<what>object file \S+ is empty|loose object \S+[^\n]* is corrupt|inflate: [^\n]*|unable to read "
    r"(?:sha1 file of [^\n]*|tree|(?:blob object )?[0-9a-f]{40,64})[^\n]*|"
    r"missing (?:blob|tree|commit)[^\n]*|bad object[^\n]*|invalid object[^\n]*|could not parse commit[^\n]*|"
    r"bad tree object[^\n]*|[^\n]*packfile [^\n]*"
    r" (?:corrupt|is far)[^\n]*)"
)


_INTO_STORE = re.compile(
    r"unable to create temporary file|insufficient permission for adding an object|cannot lock ref"
    r"|unable to write [^\n]*object"
)
"""What git says of objects and references: they lie in the repository, wherever the call runs."""


def explain(
    command: Sequence[str], returncode: int, stderr: str, place: Path, *, store: Path | None = None
) -> GitError:
    """Make the error of a git command that failed.

    Args:
        command: The git arguments.
        returncode: How it ended; below zero when a signal ended it.
        stderr: What it said.
        place: The repository or worktree it ran in.
        store: The repository's common directory, with the objects and references; None where it is not known.
    """
    wrote = _wrote_in(stderr, place, store)
    found = (
        _of_the_machine(stderr, place, wrote)
        or _of_the_repository(stderr, place)
        or _guessed(returncode, stderr, place, wrote)
    )
    code, message, hint = found or ("git-failed", _plain(command, returncode, stderr), None)
    return GitError(message, command=command, stderr=stderr, code=code, hint=hint)


def _wrote_in(stderr: str, place: Path, store: Path | None) -> Path:
    """Return the directory in which git could not write; never the worktree where that was an object or a reference."""
    if store is None:
        return place
    named = any(Path(path).is_relative_to(store) for path in re.findall(r"/[^'\n:]+", stderr))
    return store if named or _INTO_STORE.search(stderr) else place


def _guessed(returncode: int, stderr: str, place: Path, wrote: Path) -> tuple[str, str, str | None] | None:
    """Find the cause where git does not name it: of an index that it could not write it says only that."""
    if returncode == -signal.SIGXFSZ:
        return _of_the_machine("File too large", place, wrote)
    said = last_line(stderr)
    for path in (_existing(match[0]) for match in re.finditer(r"/[^'\n:]+", said)):
        if is_readonly(path):
            return _of_the_machine(f"{said}: Read-only file system", place, wrote)
        if not os.access(path, os.W_OK):
            return _of_the_machine(f"{said}: Permission denied", place, wrote)
    if (re.search(r"write|create|unable to", said) or returncode == -signal.SIGBUS) and is_full(wrote):
        return _of_the_machine(f"{said}: No space left on device", place, wrote)
    return None


def _existing(path: str) -> Path:
    """Return the nearest directory above a path that is there, or the path itself."""
    return next(found for found in (Path(path), *Path(path).parents) if found.exists())


def _of_the_machine(stderr: str, place: Path, wrote: Path) -> tuple[str, str, str | None] | None:
    if lock := lock_in(stderr, place):
        return _locked(lock)
    if match := _DUBIOUS.search(stderr):
        path = match["path"]
        hint = f"if you trust it: git config --global --add safe.directory '{path}'"
        return "dubious-ownership", f"the repository {path} belongs to another user, so git refuses it", hint
    for marks, code, message, hint in _MACHINE:
        if mark := next((mark for mark in marks if mark in stderr), None):
            said = _reason(stderr, mark)
            return code, f"{message.format(place=wrote)}: {said}", hint.format(place=wrote)
    return None


def _reason(stderr: str, mark: str) -> str:
    """Return the line that holds a mark, which names the file; else the line that names the cause."""
    lines = (line.strip() for line in stderr.splitlines())
    found = next((line for line in lines if mark in line), None) or last_line(stderr)
    return re.sub(r"^(?:fatal|error): ", "", found)


def lock_in(stderr: str, place: Path) -> Path | None:
    """Return the lock file that kept a git command from its work, if that is what it said."""
    match = _LOCKED.search(stderr)
    if match is None:
        return None
    path = match["path"] or f"{match['config']}.lock"
    return place / path  # git names some of them relative to where it runs


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
