"""What a bug leaves behind: one line for the user, a file with versions and traceback for us."""

from __future__ import annotations

import errno
import platform
import sys
import tempfile
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestra.cli.render import escape

_PACKAGES = ("orchestra-agents", "langgraph", "langgraph-checkpoint-sqlite", "langchain", "langchain-core", "pydantic")


_MACHINE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "work in a directory that can be written",
    errno.EACCES: "look at the permissions of the file and its directory",
    errno.EPERM: "look at the permissions of the file and its directory",
}


def report_machine(error: OSError) -> bool:
    """Say what the machine refuses, where that is not for us to mend: a full disk, missing permissions."""
    hint = _MACHINE.get(error.errno or 0)
    if hint is not None:
        where = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"error[system]: {escape(f'{error.strerror}{where}')}\nhint: {hint}\n")
    return hint is not None


def report_bug(error: Exception) -> None:
    """Write the report and name it on stderr."""
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    for name in _PACKAGES:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is not installed")
    lines += ["", *traceback.format_exception(error)]
    with tempfile.NamedTemporaryFile("w", prefix="orchestra-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write("\n".join(lines))
    summary = escape(str(error).partition("\n")[0][:200])
    sys.stderr.write(
        f"error[bug]: {type(error).__name__}: {summary}\n"
        f"This is a bug of Orchestra; sessions are kept and can be resumed. Report: {Path(file.name)}\n"
    )
