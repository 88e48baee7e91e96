"""A command as a user gives it, run in this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from orchestra.cli.main import app
from orchestra.cli.render import render_problems
from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from pathlib import Path


class Said:
    """What a command said, run in this process."""

    def __init__(self, *args: str | Path, cwd: Path, stdin: str = "") -> None:
        before = os.getcwd()  # noqa: PTH109 - put back below
        os.chdir(cwd)
        try:
            result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)
        finally:
            os.chdir(before)
        self.out, self.err, self.code = result.stdout, result.stderr, result.exit_code
        error = result.exception
        if isinstance(error, OrchestraError):
            self.code = error.exit_code
            self.err += render_problems(error.problems)
        elif error is not None and not isinstance(error, SystemExit):
            raise error
