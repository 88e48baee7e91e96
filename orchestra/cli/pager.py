"""Texts that are longer than the screen."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from orchestra.cli.screen import is_dumb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.cli.screen import Screen

MOST = 200
"""Lines of a text that are shown where there is no pager."""
_MARGIN = 4
"""Lines of the screen that a text leaves to what stands around it."""


async def page(screen: Screen, text: str) -> None:
    """Show a text of any length: a long one through the user's pager, while other output waits.

    The pager is the one in `PAGER`, else `less`. What git's configuration names is not run: a repository may set it.

    Args:
        screen: Where.
        text: In which nothing can steer the terminal.
    """
    lines = text.rstrip("\n").split("\n")
    if not screen.is_terminal or len(lines) <= screen.height - _MARGIN:
        screen.finish_line()
        screen.write("\n".join(lines) + "\n")
        return
    pager = _pager()
    if not pager or not await _run(pager, screen, "\n".join(lines) + "\n"):
        screen.finish_line()
        screen.write("\n".join(lines[:MOST]) + "\n")
        if len(lines) > MOST:
            screen.write(f"… {len(lines) - MOST:,} more lines are left out; with a pager (`less`) all would be shown\n")


def _pager() -> list[str]:
    if is_dumb():
        return []
    try:
        command = shlex.split(os.environ.get("PAGER", "")) or ["less"]
    except ValueError:  # quotes that are not closed
        command = ["less"]
    return command if shutil.which(command[0]) else []


async def _run(pager: list[str], screen: Screen, text: str) -> bool:
    """Run a pager on a text; False: it can't be run."""
    with screen.lent() as stream:
        if stream is None:
            return True
        try:
            process = await asyncio.create_subprocess_exec(
                *pager, stdin=asyncio.subprocess.PIPE, stdout=stream, env={"LESS": "FRX", **os.environ}
            )
        except OSError:
            return False
        with _ctrl_c_is_the_pagers():
            try:
                await process.communicate(text.encode("utf-8", "replace"))
            finally:
                if process.returncode is None:  # somebody else has answered meanwhile
                    with suppress(ProcessLookupError):
                        process.terminate()
                    await process.wait()
    return True


@contextmanager
def _ctrl_c_is_the_pagers() -> Iterator[None]:
    """Ignore Ctrl-C, which the terminal sends to both."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
