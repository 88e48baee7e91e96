"""Where a project begins: found by looking, without reading YAML, so that `status` and `log` stay light."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROJECT_FILE = "orchestra.yaml"
INTERNAL_DIRECTORY = ".orchestra"


def find_root(start: Path) -> Path:
    """Return the directory of the project that `start` belongs to.

    It is the nearest directory upwards with an `orchestra.yaml`, else the git root, else the directory itself.
    What lies in an internal `.orchestra` directory, such as an agent's worktree, belongs to the project around it.
    """
    start = _outside_internal(start.resolve())
    upwards = [start, *start.parents]
    for mark in (PROJECT_FILE, ".git"):
        for directory in upwards:
            if (directory / mark).exists():
                return directory
    return start


def _outside_internal(start: Path) -> Path:
    parts = start.parts
    if INTERNAL_DIRECTORY not in parts:
        return start
    return type(start)(*parts[: parts.index(INTERNAL_DIRECTORY)])
