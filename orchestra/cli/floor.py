"""Who may speak: one at a time, and what the others have to say waits in its order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from orchestra.runtime.channels import Bell

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(eq=False)
class Speaker:
    """Somebody who has something to say now and then."""

    keeps: bool = False
    """Whether it goes on having the floor."""
    due: list[Callable[[], None]] = field(default_factory=list)
    """What it has said and done without having the floor."""


Someone = TypeVar("Someone", bound=Speaker)


class Floor(Generic[Someone]):
    """Gives the floor to whoever began first, until it does not keep it any more.

    Args:
        free: Called whenever nobody has it.
    """

    def __init__(self, free: Callable[[], None]) -> None:
        self.holder: Someone | None = None
        self.changed = Bell()
        self._free = free
        self._queue: list[Someone] = []

    def do(self, speaker: Someone, act: Callable[[], None]) -> None:
        """Do something in a speaker's name: now where it can have the floor, else when it has it."""
        if self.holder is speaker:
            act()
        else:
            speaker.due.append(act)
            if speaker not in self._queue:
                self._queue.append(speaker)
        self.pass_on()

    def pass_on(self) -> None:
        """Give the floor to the next who waits, when nobody keeps it."""
        while self.holder is None or not self.holder.keeps:
            self._free()
            self.holder = self._queue.pop(0) if self._queue else None
            if self.holder is None:
                break
            _perform(self.holder)
        self.changed.ring()

    def clear(self, end: Callable[[Someone], None]) -> None:
        """Have everybody say what is due, and end.

        Args:
            end: Called for each of them.
        """
        speakers, self._queue = [*([self.holder] if self.holder else []), *self._queue], []
        for speaker in speakers:
            _perform(speaker)
            end(speaker)
            speaker.keeps = False
        self.pass_on()


def _perform(speaker: Speaker) -> None:
    due, speaker.due = speaker.due, []
    for act in due:
        act()
