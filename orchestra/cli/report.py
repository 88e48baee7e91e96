"""What a bug leaves behind: one line for the user, a file with versions and traceback for us."""

from __future__ import annotations

import platform
import sys
import tempfile
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestra.cli.render import escape

_PACKAGES = ("orchestra-agents", "langgraph", "langgraph-checkpoint-sqlite", "langchain", "langchain-core", "pydantic")


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
