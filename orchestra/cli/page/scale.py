"""The time axis of a timeline: times as percents of its width, with long pauses cut short."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LONG = 0.15
"""A pause is long from that part of the time in which something was done."""
_LEAST = 2.0
"""Seconds; less is no long pause."""
_PAUSE = 4.0
"""Percents that a long pause takes."""
_PAUSES = 30.0
"""Percents that all of them take."""
_TICKS = 7
_APART = 7.0
"""Percents between two ticks."""
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200)
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class _Segment:
    start: float
    end: float
    left: float
    width: float
    is_pause: bool


class Scale:
    """Maps times to percents.

    Args:
        start: The first time of the axis.
        end: The last one.
        busy: When something was done, in any order.
    """

    def __init__(self, start: float, end: float, busy: Iterable[tuple[float, float]]) -> None:
        self.start, self.end = start, max(end, start + 0.001)
        self._segments = self._lay_out([*_union(self.start, self.end, busy)])
        self._starts = [segment.start for segment in self._segments]

    def at(self, time: float) -> float:
        """Return where a time lies, in percents."""
        segment = self._segments[max(bisect_right(self._starts, time) - 1, 0)]
        part = (time - segment.start) / (segment.end - segment.start)
        return segment.left + segment.width * min(max(part, 0.0), 1.0)

    def pauses(self) -> Iterator[tuple[float, float, float]]:
        """Yield where each long pause begins, how wide it is, and how many seconds it took."""
        return (
            (segment.left, segment.width, segment.end - segment.start) for segment in self._segments if segment.is_pause
        )

    def ticks(self) -> Iterator[tuple[float, float]]:
        """Yield where ticks stand, and how many seconds after the start."""
        worked = sum(segment.end - segment.start for segment in self._segments if not segment.is_pause)
        step = next((step for step in _STEPS if worked / step <= _TICKS), None) or _DAY * (worked // _DAY // _TICKS + 1)
        last = -_APART
        for segment in self._segments:
            if segment.is_pause:
                continue
            number = -((self.start - segment.start) // step)
            while self.start + number * step <= segment.end:
                place = self.at(self.start + number * step)
                if number >= 0 and place - last >= _APART:
                    last = place
                    yield place, number * step
                number += 1

    def _lay_out(self, busy: list[tuple[float, float]]) -> list[_Segment]:
        worked = sum(end - start for start, end in busy)
        long = max(_LEAST, _LONG * worked) if worked else self.end - self.start
        parts: list[tuple[float, float, bool]] = []
        for start, end in busy:
            if parts and start - parts[-1][1] <= long:
                parts[-1] = (parts[-1][0], end, False)
                continue
            if parts:
                parts.append((parts[-1][1], start, True))
            parts.append((start, end, False))
        pauses = sum(is_pause for *_, is_pause in parts)
        pause = min(_PAUSE, _PAUSES / pauses) if pauses else 0.0
        active = sum(end - start for start, end, is_pause in parts if not is_pause) or 1.0
        segments, left = [], 0.0
        for start, end, is_pause in parts:
            width = pause if is_pause else (100.0 - pauses * pause) * (end - start) / active
            segments.append(_Segment(start, end if end > start else start + 1e-6, left, width, is_pause))
            left += width
        return segments


def _union(start: float, end: float, busy: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield when something was done, in order; the ends of the axis count, too."""
    known: tuple[float, float] | None = None
    for first, last in sorted([(start, start), (end, end), *busy]):
        if known is None:
            known = first, last
        elif first <= known[1]:
            known = known[0], max(known[1], last)
        else:
            yield known
            known = first, last
    if known is not None:
        yield known
