"""Orchestra itself, Python, and what keeps commands of agents in their place."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.runtime.doctor.finding import Finding, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestra.runtime.doctor.surroundings import Surroundings

PYTHON = (3, 11)
_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_CONTAINER = 'docker run --rm -it -v "$PWD:$PWD" -w "$PWD" IMAGE'


async def check(here: Surroundings) -> AsyncIterator[Finding]:
    """Name the versions of Orchestra and Python, and say that there is no sandbox."""
    del here
    yield Finding("orchestra", State.OK, version("orchestra-agents"))
    yield python(sys.version_info[:3])
    yield sandbox(shutil.which("bwrap"), container=_in_container())


def python(found: tuple[int, ...]) -> Finding:
    """Judge a version of Python."""
    shown = ".".join(map(str, found))
    details = {"version": shown, "path": sys.executable, "system": platform.platform()}
    if found < PYTHON:
        message = f"{shown} at {sys.executable} is too old: Orchestra needs {'.'.join(map(str, PYTHON))} or newer"
        return Finding("python", State.ERROR, message, "uv tool install --python 3.13 .", details=details)
    return Finding("python", State.OK, f"{shown} at {sys.executable}", details=details)


def sandbox(bubblewrap: str | None, *, container: bool) -> Finding:
    """Say what stands between the commands of agents and the machine."""
    about = f"bubblewrap is at {bubblewrap}, but not used yet" if bubblewrap else "bubblewrap is not installed either"
    details = {"sandbox": None, "bubblewrap": bubblewrap, "container": container}
    if container:
        message = f"none in this release, but this is a container, which bounds what agents' commands reach ({about})"
        return Finding("sandbox", State.OK, message, details=details)
    message = f"none in this release: commands and Python tools of agents run with your rights ({about})"
    fix = "give agents no such tools, or run Orchestra in a container or a virtual machine, for example:"
    return Finding("sandbox", State.WARNING, message, fix, (_CONTAINER,), details)


def _in_container() -> bool:
    # Podman and systemd-nspawn set the variable, Docker makes the file.
    return "container" in os.environ or any(mark.exists() for mark in _CONTAINER_MARKS)
