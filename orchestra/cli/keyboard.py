"""What is typed at a terminal while nobody reads it: not shown, since it would tear what is drawn there, and kept."""

from __future__ import annotations

import os
import sys
import termios
from contextlib import suppress
from typing import Any

_INPUT, _LOCAL = 0, 3
"""Where in a terminal's attributes the modes of its input stand, and its local modes."""


class Echo:
    """Whether the terminal shows what is typed."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def off(self) -> None:
        """Show nothing of it."""
        if self._before is not None or not self.is_in_front():
            return
        with suppress(termios.error, OSError, ValueError):
            before = termios.tcgetattr(0)
            quiet = [*before]
            quiet[_LOCAL] &= ~termios.ECHO
            # As at a prompt, where Enter sends and Ctrl-J does not: who types ahead means the prompt that comes.
            quiet[_INPUT] &= ~termios.ICRNL
            termios.tcsetattr(0, termios.TCSANOW, quiet)
            self._before = before

    def on(self) -> None:
        """Have it as it was."""
        before, self._before = self._before, None
        if before is not None and self.is_in_front():
            with suppress(termios.error, OSError):
                termios.tcsetattr(0, termios.TCSANOW, before)

    def is_in_front(self) -> bool:
        """Tell whether this process may use its terminal: one in the background would be stopped, or be in the way."""
        with suppress(OSError, ValueError):
            return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
        return True
