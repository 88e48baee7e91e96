"""Where the command works, where that is not where the user is: what is to be typed next then has to name it."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote

_entered: list[Path] = []


def enter(directory: Path) -> None:
    """Work in another directory from now on.

    Raises:
        OSError: It can't be entered.
    """
    os.chdir(directory)
    _entered[:] = [Path.cwd()]


def typed(rest: str) -> str:
    """Return an `orchestra` command as the user has to type it."""
    where = f"-C {quote(str(_entered[0]))} " if _entered == [Path.cwd()] else ""
    return f"orchestra {where}{rest}"
