"""A sheet of characters on which boxes, lines and texts are drawn; lines of one net meet, others cross."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from orchestra.graph.drawing.text import width_of

if TYPE_CHECKING:
    from collections.abc import Sequence

UP, DOWN, LEFT, RIGHT = 1, 3, 9, 27
"""What a line in each direction adds to a cell's number, once where it is light and twice where it is heavy."""
_LINES = " ╵╹╷│╿╻╽┃╴┘┚┐┤┦┒┧┨╸┙┛┑┥┩┓┪┫╶└┖┌├┞┎┟┠─┴┸┬┼╀┰╁╂╾┵┹┭┽╃┱╅╉╺┕┗┍┝┡┏┢┣╼┶┺┮┾╄┲╆╊━┷┻┯┿╇┳╈╋"
_ROUND = {"┌": "╭", "┐": "╮", "└": "╰", "┘": "╯"}
_BOX = -1
"""The net of the edges of boxes."""

Cell = dict[int, int]
"""Direction → how heavy the line is that leads there: 1 or 2."""


class Canvas:
    """A sheet.

    Args:
        unicode: Whether box-drawing characters may be used.
        dotted: Whether light lines are to look different from heavy ones without them, too.
    """

    def __init__(self, *, unicode: bool, dotted: bool = False) -> None:
        self._unicode = unicode
        self._dotted = dotted
        self._cells: defaultdict[tuple[int, int], dict[int, Cell]] = defaultdict(dict)
        self._texts: dict[tuple[int, int], str] = {}
        self._round: set[tuple[int, int]] = set()

    def line(self, points: Sequence[tuple[int, int]], net: int, weight: int) -> None:
        """Draw along points that lie below or beside each other."""
        for (x, y), (to_x, to_y) in pairwise(points):
            if x == to_x:
                step = 1 if to_y > y else -1
                for here in range(y, to_y, step):
                    self._join((x, here), DOWN if step > 0 else UP, net, weight)
                    self._join((x, here + step), UP if step > 0 else DOWN, net, weight)
            else:
                step = 1 if to_x > x else -1
                for here in range(x, to_x, step):
                    self._join((here, y), RIGHT if step > 0 else LEFT, net, weight)
                    self._join((here + step, y), LEFT if step > 0 else RIGHT, net, weight)

    def box(self, x: int, y: int, width: int, height: int, weight: int, *, rounded: bool) -> None:
        """Draw the edges of a box."""
        right, bottom = x + width - 1, y + height - 1
        self.line([(x, y), (right, y), (right, bottom), (x, bottom), (x, y)], _BOX, weight)
        if rounded and weight == 1:
            self._round |= {(x, y), (right, y), (x, bottom), (right, bottom)}

    def touch(self, x: int, y: int, direction: int, net: int, weight: int) -> None:
        """Let a line reach to the edge of a cell."""
        self._join((x, y), direction, net, weight)

    def leave(self, x: int, y: int, direction: int, weight: int) -> None:
        """Let a line begin at the edge of a box, if there is one."""
        if _BOX in self._cells.get((x, y), {}):
            self._join((x, y), direction, _BOX, weight)

    def text(self, x: int, y: int, text: str) -> None:
        """Write a text over what is there."""
        for char in text:
            width = width_of(char)
            if not width:  # a combining mark belongs to what stands before it
                self._texts[x - 1, y] = self._texts.get((x - 1, y), "") + char
                continue
            self._texts[x, y] = char
            if width > 1:
                self._texts[x + 1, y] = ""
            x += width

    def is_free(self, x: int, y: int, width: int) -> bool:
        """Tell whether nothing stands at a place, and to both sides of it."""
        places = ((place, y) for place in range(x - 1, x + width + 1))
        return not any(place in self._cells or place in self._texts for place in places)

    def rows(self) -> list[str]:
        """Return the sheet as lines of text."""
        places = [*self._cells, *self._texts]
        if not places:
            return []
        right, bottom = max(x for x, _ in places), max(y for _, y in places)
        return ["".join(self._char(x, y) for x in range(right + 1)).rstrip() for y in range(bottom + 1)]

    def _join(self, place: tuple[int, int], direction: int, net: int, weight: int) -> None:
        cell = self._cells[place].setdefault(net, {})
        cell[direction] = max(cell.get(direction, 0), weight)

    def _char(self, x: int, y: int) -> str:
        if (x, y) in self._texts:
            return self._texts[x, y]
        nets = self._cells.get((x, y))
        if not nets:
            return " "
        cell = _seen(list(nets.values()))
        if not self._unicode:
            return _plain(cell, dotted=self._dotted and max(cell.values()) == 1)
        char = _LINES[sum(direction * weight for direction, weight in cell.items())]
        return _ROUND.get(char, char) if (x, y) in self._round else char


def _seen(cells: Sequence[Cell]) -> Cell:
    """Return what is seen where nets share a cell: all of it where one turns, else what goes down, over the others."""
    together: Cell = {}
    for cell in cells:
        for direction, weight in cell.items():
            together[direction] = max(together.get(direction, 0), weight)
    upright = [cell for cell in cells if not cell.keys() & {LEFT, RIGHT}]
    level = [cell for cell in cells if not cell.keys() & {UP, DOWN}]
    if upright and level and len(upright) + len(level) == len(cells):
        return {direction: weight for direction, weight in together.items() if direction in (UP, DOWN)}
    return together


def _plain(cell: Cell, *, dotted: bool) -> str:
    is_upright, is_level = cell.keys() & {UP, DOWN}, cell.keys() & {LEFT, RIGHT}
    if is_upright and is_level:
        return "+"
    if is_upright:
        return ":" if dotted else "|"
    return "." if dotted else "-"
