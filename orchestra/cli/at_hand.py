"""Who can be asked from the process that drives a session: the person at the terminal, or what is piped in."""

from __future__ import annotations

import os
import signal
import stat
import sys
from functools import partial
from typing import TYPE_CHECKING

from orchestra.cli.prompt import TerminalChannel
from orchestra.cli.render import escape_prose
from orchestra.runtime.channels import PipedLines

if TYPE_CHECKING:
    from orchestra.cli.transcript import Transcript
    from orchestra.runtime.people import Channel


def people_at_hand(transcript: Transcript, *, name: str = "terminal") -> tuple[Channel, ...]:
    """Return the ways to a person that this process has.

    Standard input is one when it is a terminal that the questions can be read on too, or a pipe, a socket or a file:
    one line a turn. Nobody is there when it is closed or `/dev/null`.

    Args:
        transcript: Shows the conversations.
        name: How an answer is called that was typed at the terminal.
    """
    descriptor = _standard_input()
    if descriptor is None:
        return ()
    if os.isatty(descriptor):
        if not transcript.screen.is_terminal:
            return ()
        interrupt = partial(signal.raise_signal, signal.SIGINT)
        return (TerminalChannel(transcript, sys.stdin, sys.stderr, on_interrupt=interrupt, name=name),)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode):
        return (PipedLines(descriptor, show=lambda text: transcript.line(escape_prose(text))),)
    return ()


def _standard_input() -> int | None:
    try:
        descriptor = sys.stdin.fileno() if sys.stdin else None
        if descriptor is not None:
            os.fstat(descriptor)
    except (OSError, ValueError):  # closed
        return None
    return descriptor
