"""The way that a session has taken, in one short line."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestra.cli.live.board import Board, Turn

_ARROW = " → "
_TIMES = "\N{MULTIPLICATION SIGN}"


def route(board: Board) -> str:
    """Return the turns in their order, those at the same time beside each other: `plan → (a → b, c) → fix → END`."""
    steps = [_step(board, wave) for wave in _in_waves(board)]
    if steps and board.status == "completed":
        steps.append("END")
    return _ARROW.join(_without_repeats(steps))


def _in_waves(board: Board) -> Iterator[list[Turn]]:
    """Yield the turns, those together that overlap or lie in the same branch."""
    wave: list[Turn] = []
    ways: set[str] = set()
    last = -1.0
    for turn in board.turns.values():
        way = _way(board, turn)
        if wave and turn.began > last and (way == turn.agent or way not in ways):
            yield wave
            wave, ways, last = [], set(), -1.0
        wave.append(turn)
        ways.add(way)
        last = max(last, inf if turn.ended is None else turn.ended)
    if wave:
        yield wave


def _step(board: Board, wave: Sequence[Turn]) -> str:
    ways: dict[str, list[str]] = {}
    for turn in wave:
        ways.setdefault(_way(board, turn), []).append(turn.agent)
    shown = [_ARROW.join(_without_repeats(names)) for names in ways.values()]
    return f"({', '.join(shown)})" if len(shown) > 1 else shown[0]


def _way(board: Board, turn: Turn) -> str:
    """Return the outermost branch of a turn, or the agent itself."""
    around = board.lanes[turn.agent].branches if turn.agent in board.lanes else ()
    return f"branch {around[0]}" if around else turn.agent


def _without_repeats(steps: Sequence[str]) -> list[str]:
    """Write what comes again right after itself once, with how often."""
    shown: list[str] = []
    place = 0
    while place < len(steps):
        length, times = max(
            ((length, _times(steps, place, length)) for length in range(1, min((len(steps) - place) // 2, 8) + 1)),
            key=lambda found: (found[0] * found[1] if found[1] > 1 else 0, -found[0]),
            default=(1, 1),
        )
        if times == 1:
            shown.append(steps[place])
            place += 1
            continue
        part = _ARROW.join(steps[place : place + length])
        shown.append(f"({part}) {_TIMES}{times}" if length > 1 else f"{part} {_TIMES}{times}")
        place += length * times
    return shown


def _times(steps: Sequence[str], place: int, length: int) -> int:
    part = steps[place : place + length]
    times = 1
    while steps[place + times * length : place + (times + 1) * length] == part:
        times += 1
    return times
