"""A session in a terminal that does not drive it, or not yet: shown, answered, left, and driven when nobody does."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from orchestra.cli.place import typed
from orchestra.errors import SessionBusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from orchestra.cli.displays import Display
    from orchestra.cli.progress import Progress
    from orchestra.runtime.people import Channel
    from orchestra.runtime.store import SessionFiles, SessionRecord

_LINES = 20
"""Events of the past that are shown, beside the conversations."""
_TALKS = 10
"""Questions of the past that are shown, with their answers."""
_ALL_SAID = 1.0
"""Seconds in which what is piped in must say something, not to be taken for a person who thinks."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def attach(root: Path, files: SessionFiles, *, read_only: bool, display: Display) -> int:
    """Stay with a session until it ends or the person leaves, whoever drives it; returns the exit code."""
    from orchestra.cli.progress import Progress
    from orchestra.runtime.watching import WAY

    # What is typed stands on the screen already; what is piped in does not.
    own = () if sys.stdin and sys.stdin.isatty() else (WAY, "input")
    with closing(Progress(sys.stderr, display=display, own=own)) as progress:
        return _stay(root, files, progress, read_only=read_only)


def _stay(root: Path, files: SessionFiles, progress: Progress, *, read_only: bool) -> int:
    from orchestra.cli.at_hand import people_at_hand
    from orchestra.runtime.driver_lock import held
    from orchestra.runtime.store import Status, read_session
    from orchestra.runtime.watching import WAY, Watch

    channels = () if read_only else people_at_hand(progress.transcript, name=WAY)
    after = _show_history(files, progress)
    watch = Watch(files, progress.show, channels[0] if channels else None, after=after)
    while True:
        driver = held(files)
        if driver is not None and driver.alive:
            who = driver.holder or "another process"
            # Where an agent is just speaking it waits for the end of the paragraph.
            _say(progress, f"{who} drives the session; Ctrl-C detaches, and it goes on", at_once=False)
        left = until_left(watch.until_nobody_drives)
        if left is not None:
            _say(progress, f"detached; come back with: {typed(f'attach {files.session_id}')}")
            return left
        record = read_session(files)
        if record.status in (Status.CREATED, Status.RUNNING):
            continue  # somebody else drives it now
        was_killed = record.status is Status.INTERRUPTED and driver is not None and driver.alive
        goes_on = record.status in (Status.PAUSED, Status.INTERRUPTED) and not was_killed
        if was_killed:
            _say(progress, "the process that drove the session is gone")
        is_read_only = not _is_anybody_there(channels)
        if is_read_only or not goes_on:
            _tell_end(record, progress)
            return 0 if is_read_only or record.status is Status.COMPLETED else 1
        _say(progress, "nobody drives the session, so this process does; Ctrl-C pauses it")
        with suppress(SessionBusyError):  # another one was faster
            _drive(root, files, progress, channels)
            return 0


def _tell_end(record: SessionRecord, progress: Progress) -> None:
    from orchestra.cli.displays import Display
    from orchestra.cli.summary import ending
    from orchestra.runtime.outcome import read_result
    from orchestra.runtime.remains import kept_by

    progress.close()
    if progress.display is not Display.JSON:
        branches = asyncio.run(kept_by(record)).branches
        commits = read_result(record.files) if branches else {}
        screen = progress.transcript.screen
        screen.write(ending(record, progress.transcript, branches=branches, commits=commits))


def _show_history(files: SessionFiles, progress: Progress) -> int:
    """Show what has happened; returns the number of the last event."""
    from orchestra.cli.displays import Display
    from orchestra.cli.live.board import LASTING, PASSING
    from orchestra.cli.progress import IN_TREE, QUIET
    from orchestra.runtime.following import read_history, read_state

    if progress.display is Display.JSON:
        return 0  # all of them come
    quiet = QUIET | IN_TREE if progress.display is Display.RICH else QUIET
    history = read_history(files, quiet=quiet, lines=_LINES, talks=_TALKS)
    progress.recall(read_state(files, lasting=LASTING, passing=PASSING, before=history.last + 1))
    if history.left_out:
        all_of_it = typed(f"log {files.session_id} --events")
        _say(progress, f"… {history.left_out} earlier events are left out; all of them: {all_of_it}")
    for event in history.events:
        progress.show_past(event)
    progress.watch()
    return history.last


def until_left(watch: Callable[[], Coroutine[None, None, bool]]) -> int | None:
    """Watch; returns the exit code where the person has left, by Ctrl-C or the end of what is typed, or a signal."""
    caught: list[int] = []

    async def watched() -> bool:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(watch())

        def leave(number: int) -> None:
            caught.append(number)
            task.cancel()

        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, leave, number)
        await asyncio.wait([task])
        return False if task.cancelled() else task.result()

    stays = asyncio.run(watched())
    if caught:
        return 0 if caught[0] == signal.SIGINT else 128 + caught[0]
    return None if stays else 0


def _is_anybody_there(channels: Sequence[Channel]) -> bool:
    async def is_open(channel: Channel) -> bool:
        with suppress(TimeoutError):
            return await asyncio.wait_for(channel.is_open(), _ALL_SAID)
        return True

    return any(asyncio.run(is_open(channel)) for channel in channels)


def _drive(root: Path, files: SessionFiles, progress: Progress, channels: Sequence[Channel]) -> None:
    from orchestra.cli.driving import drive
    from orchestra.cli.resume import resuming

    drive(
        lambda: resuming(root, files),
        json=False,
        display=progress.display,
        shown=progress,
        people=lambda _: channels,
    )


def _say(progress: Progress, text: str, *, at_once: bool = True) -> None:
    from orchestra.cli.render import escape

    progress.transcript.line(escape(text), at_once=at_once)
