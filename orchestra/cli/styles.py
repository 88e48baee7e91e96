"""Colours and marks on a terminal; nothing of them elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Styles:
    """Makes texts stand out where that is possible; what comes from outside in them must have been escaped."""

    is_on: bool = False

    def bold(self, text: str) -> str:
        """Return a heading."""
        return self._styled("1", text)

    def dim(self, text: str) -> str:
        """Return something of less weight."""
        return self._styled("2", text)

    def added(self, text: str) -> str:
        """Return what is new."""
        return self._styled("32", text)

    def removed(self, text: str) -> str:
        """Return what is gone."""
        return self._styled("31", text)

    def place(self, text: str) -> str:
        """Return where in a file something is."""
        return self._styled("36", text)

    def name(self, text: str) -> str:
        """Return the id of a checkpoint or a commit."""
        return self._styled("33", text)

    def _styled(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.is_on and text else text


def styles() -> Styles:
    """Return those that standard output allows."""
    if not sys.stdout.isatty():
        return Styles()
    from orchestra.cli.screen import Screen

    return Styles(Screen(sys.stdout).has_styles)


def show(text: str) -> None:
    """Print a result on standard output: on a terminal, a long one through the user's pager.

    Args:
        text: In which nothing from outside can steer the terminal.
    """
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    import asyncio

    from orchestra.cli.pager import page
    from orchestra.cli.screen import Screen

    asyncio.run(page(Screen(sys.stdout), text))
