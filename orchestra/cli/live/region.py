"""The lines at the lower end of what a terminal shows that are drawn again and again, below those that stay.

What is drawn is told as text to write: who writes it is the screen, in one piece with what it has to say above.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_TO_END_OF_LINE, _TO_END_OF_SCREEN = "\x1b[K", "\x1b[J"
_CLEAR = f"\x1b[2K {_TO_END_OF_SCREEN}\r"
"""Clears the screen from the cursor's line on. The blank is for tmux, which keeps what is cleared for those who scroll
back where that is all of the screen; cleared lines are no longer taken for wrapped ones when it gets wider again."""
_STYLING = re.compile(r"\x1b\[[\d;]*m")
_FREE = 6
"""Rows that are left to the lines above."""
_MOST = 30
"""Rows of the region on a screen however high."""


class Region:
    """The region and what stands in it.

    Args:
        size: Returns the columns and rows of the terminal now.
        lines: Returns the lines to show, of so many columns and rows at the most.
    """

    def __init__(
        self, size: Callable[[], tuple[int, int]], lines: Callable[[int, int], Sequence[str]], *, wraps: bool = True
    ) -> None:
        self._size = size
        self._lines = lines
        self._wraps = wraps
        self._drawn: list[int] = []
        """The columns of each line that stands there."""
        self._shown: tuple[tuple[int, int], list[str]] | None = None
        self._unfinished = ""
        """The beginning of a line that is not ended: it stays in the region until then."""
        self.is_on = False

    def begin(self) -> str:
        """Have the region from now on; the cursor stands at the beginning of a line."""
        self.is_on = True
        return self.draw()

    def end(self) -> str:
        """Take the region away; what is written next stands where it stood."""
        if not self.is_on:
            return ""
        self.is_on = False
        return self._away()

    def aside(self) -> str:
        """Take it away until it is drawn again; somebody else writes meanwhile."""
        begun = bool(self._unfinished)
        return self._away() + "\n" * begun if self.is_on else ""

    def draw(self) -> str:
        """Draw what has changed."""
        return self._draw("") if self.is_on else ""

    def above(self, text: str) -> str:
        """Write a text above the region."""
        if not self.is_on:
            return text
        whole, newline, self._unfinished = (self._unfinished + text).rpartition("\n")
        return self._draw(whole + newline)

    def forget(self) -> None:
        """Take what is drawn for gone: somebody else has written since."""
        self._drawn, self._shown = [], None

    def _draw(self, above: str) -> str:
        columns, rows = self._size()
        lines = self._fitting(columns, rows)
        if not above and self._shown == ((columns, rows), lines):
            return ""
        start = self._top(columns, rows)
        if above or (self._shown is not None and self._shown[0] != (columns, rows)):
            start += _CLEAR + above
        self._shown = ((columns, rows), lines)
        self._drawn = [cell_len(_STYLING.sub("", line)) for line in lines]
        body = "\n".join(f"{line}{_TO_END_OF_LINE}" for line in lines)
        return f"{_HIDE}{start}{body}{_TO_END_OF_SCREEN}"

    def _fitting(self, columns: int, rows: int) -> list[str]:
        """Return the lines to draw: none is as long as to be wrapped, and all fit on the screen."""
        width = max(columns - 1, 1)
        most = max(min(rows - _FREE, _MOST), 1)
        unfinished = self._broken(width, max(most // 2, 1))
        return [*unfinished, *self._lines(width, max(most - len(unfinished), 1))]

    def _broken(self, width: int, most: int) -> list[str]:
        """Return the end of the unfinished line, broken as the terminal would."""
        text = _STYLING.sub("", self._unfinished[-(width + 1) * most :]).expandtabs()
        return chop_cells(text, width)[-most:] if text else []

    def _away(self) -> str:
        unfinished, self._unfinished = self._unfinished, ""
        top = self._top(*self._size()) + _CLEAR if self._drawn else ""
        self.forget()
        return f"{top}{unfinished}{_SHOW}"

    def _top(self, columns: int, rows: int) -> str:
        """Return what moves the cursor to the beginning of what is drawn.

        A terminal that has become narrower has wrapped its lines again, or cut them off.
        """
        if not self._drawn:
            return "\r"
        wide = max(columns, 1)
        taken = sum(max(-(-cells // wide), 1) if self._wraps else 1 for cells in self._drawn)
        up = min(taken, rows) - 1
        return f"\r\x1b[{up}A" if up > 0 else "\r"


def wraps_again() -> bool:
    """Tell whether this terminal wraps lines again when it gets narrower, as nearly all do, or cuts them off."""
    terminal = os.environ.get("TERM", "")
    if os.environ.get("TMUX"):
        return True
    return not (os.environ.get("XTERM_VERSION") or terminal.startswith(("linux", "screen", "rxvt", "vt")))
