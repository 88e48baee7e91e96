"""A session's state as a tree of a given size, in lines for a terminal."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.color import ColorSystem
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from orchestra.cli.colours import colour_of
from orchestra.cli.live import words
from orchestra.cli.live.fitting import Count, Group, fit
from orchestra.cli.live.lane import Lane, State
from orchestra.cli.prose import Prose
from orchestra.cli.render import escape
from orchestra.runtime.spending import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.segment import Segment

    from orchestra.cli.live.board import Board
    from orchestra.cli.live.fitting import Row

_WIDEST = 140
"""Columns; on a wider screen the eye would lose the line between a name and its numbers."""
_SPOKEN = 3
"""Lines that are shown of who writes."""
_GUIDE = 4
"""Columns of a level's guides."""
_NARROW, _VERY_NARROW, _TOO_NARROW = 64, 48, 40
"""Columns below which the cost, the tokens, and the whole tree are left out."""
_LEAST_LINES = 4
_GLYPHS = {
    State.WAITING: "○",
    State.RUNNING: "●",
    State.ASKING: "?",
    State.CONFLICT: "!",
    State.DONE: "✓",
    State.FAILED: "✗",
}
_ASCII = {
    State.WAITING: ".",
    State.RUNNING: "*",
    State.ASKING: "?",
    State.CONFLICT: "!",
    State.DONE: "+",
    State.FAILED: "x",
}
_STYLES = {
    State.WAITING: "dim",
    State.RUNNING: "bold",
    State.ASKING: "bold yellow",
    State.CONFLICT: "bold red",
    State.DONE: "green",
    State.FAILED: "bold red",
}
_MATTERS = frozenset({State.ASKING, State.CONFLICT, State.FAILED})


@dataclass(frozen=True, slots=True)
class Look:
    """What a terminal can show."""

    encoding: str = "utf-8"
    has_styles: bool = True

    @property
    def is_unicode(self) -> bool:
        """Whether all characters can be shown."""
        return self.encoding.lower().replace("-", "").startswith("utf")


class _Encoded(io.StringIO):
    encoding = "utf-8"


class TreeView:
    """Draws boards."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._glyphs = _GLYPHS if look.is_unicode else _ASCII
        self._more = "…" if look.is_unicode else "~"
        file = _Encoded()
        file.encoding = look.encoding
        self._console = Console(
            file=file,
            width=80,
            force_terminal=True,
            color_system="standard" if look.has_styles else None,
            legacy_windows=False,
            emoji=False,
            markup=False,
            highlight=False,
        )

    def lines(self, board: Board, now: float, width: int, height: int) -> list[str]:
        """Return the lines of a session's state.

        Args:
            board: The state.
            now: In seconds since the epoch.
            width: The columns that a line may have.
            height: The lines that there may be.
        """
        width = min(width, _WIDEST)
        if width < _TOO_NARROW or height < _LEAST_LINES:
            return self._printed(self._header(board, now, width), width)[:height]
        spoken = self._spoken(board, width)
        rows = fit(board, height - 1 - len(spoken))
        tree = Tree(self._header(board, now, width), guide_style="dim" if self._look.has_styles else "")
        named = [_GUIDE * depth + cell_len(self._shown(words.title(lane))) for depth, lane in _lanes(rows)]
        self._add(tree, rows, board, now, width, min(max(named, default=0) + 1, width * 2 // 5) + _GUIDE)
        return [*self._printed(tree, width), *(line for text in spoken for line in self._printed(text, width))][:height]

    def _printed(self, what: Tree | Text, width: int) -> list[str]:
        options = self._console.options.update(width=width, no_wrap=True, overflow="crop")
        lines = self._console.render_lines(what, options, pad=False, new_lines=False)
        return [self._text(line) for line in lines]

    def _text(self, line: list[Segment]) -> str:
        """Return a line without the blanks at its end: a terminal that gets narrower would wrap them."""
        while line and not line[-1].text.strip():
            line.pop()
        colours = ColorSystem.STANDARD if self._look.has_styles else None
        parts = [(part.text if part is not line[-1] else part.text.rstrip(), part.style) for part in line]
        return "".join(style.render(text, color_system=colours) if style else text for text, style in parts)

    def _add(self, tree: Tree, rows: Sequence[Row], board: Board, now: float, width: int, names: int) -> None:
        """Add rows; the columns are those that are left behind the guides."""
        width, names = width - _GUIDE, max(names - _GUIDE, 1)
        for row in rows:
            if isinstance(row, Lane):
                tree.add(self._lane(row, board.state_of(row), now, width, names))
            elif isinstance(row, Count):
                states = [board.state_of(lane) for lane in row.lanes]
                what = Text().append(f"{self._more} {words.counts(states)}", "dim")
                tree.add(self._line(what, "", words.used_by(row.lanes), None, width))
            else:
                self._add(tree.add(self._group(row, board, now, width)), row.rows, board, now, width, names)

    def _header(self, board: Board, now: float, width: int) -> Text:
        left = Text().append(self._shown(escape(board.pipeline or "session")), "bold")
        left.append(f"  {escape(board.session)}")
        states = [board.state_of(lane) for lane in board.lanes.values()]
        status = "" if board.status == "running" else board.status
        about = ", ".join(part for part in (status, words.counts(states)) if part)
        if width < _TOO_NARROW:
            return Text(self._cut(f"{board.pipeline}: {about}", width))
        return self._line(left, f"  {about}", board.spending.total, board.seconds(now), width)

    def _group(self, group: Group, board: Board, now: float, width: int) -> Text:
        states = [board.state_of(lane) for lane in group.lanes]
        is_over = all(state is State.DONE for state in states)
        # A branch that is shown with its agents says only what they do not.
        counted = group.lanes if not group.rows else group.left_out
        about = words.counts(board.state_of(lane) for lane in counted)
        glyph = f"{self._glyphs[State.DONE]} " if is_over else ""
        left = Text().append(glyph, _STYLES[State.DONE]).append(self._shown(f"branch {escape(group.name)}"), "dim")
        about = f"  {about}" if about else ""
        if group.rows:
            return self._line(left, about, Usage(), None, width)
        return self._line(
            left, about, words.used_by(group.lanes), sum(lane.seconds(now) for lane in group.lanes), width
        )

    def _lane(self, lane: Lane, state: State, now: float, width: int, names: int) -> Text:
        style = _STYLES[state]
        left = Text().append(f"{self._glyphs[state]} ", style)
        name = self._cut(self._shown(words.title(lane)), names - 1)
        left.append(set_cell_size(name, names), f"{colour_of(lane.name)}{' dim' if not lane.is_at_work else ''}")
        what, lasts = words.activity(lane, state, now)
        time = lane.seconds(now) if lane.turn else None
        return self._line(left, what, lane.spent, time, width, lasts=lasts, style=style if state in _MATTERS else "")

    def _line(
        self,
        left: Text,
        what: str,
        spent: Usage,
        time: float | None,
        width: int,
        *,
        lasts: str = "",
        style: str = "",
    ) -> Text:
        """Lay out a line: what it is about, what happens there, and the numbers at its right end."""
        numbers = [f"{words.duration(time) if time is not None else '':>9}"]
        if width >= _NARROW - _GUIDE:
            numbers.insert(0, f"{words.cost(spent):>8}")
        if width >= _VERY_NARROW - _GUIDE:
            numbers.insert(0, f"{words.tokens(spent):>6}")
        right = "".join(numbers)
        left.truncate(max(width - cell_len(right) - 1, 1))
        room = width - cell_len(right) - left.cell_len - 1
        if lasts and room > cell_len(lasts):
            what = f"{self._cut(self._shown(what), room - cell_len(lasts) - 1)} {lasts}"
        what = set_cell_size(self._cut(self._shown(what), room), max(room + 1, 0))
        return left.append(what, style).append(right, "dim")

    def _spoken(self, board: Board, width: int) -> list[Text]:
        """Return the last lines of who writes."""
        lane = board.lanes.get(board.speaker or "")
        if lane is None or not lane.text.strip():
            return []
        name = self._cut(self._shown(escape(lane.name)), width // 3)
        bar = " │ " if self._look.is_unicode else " | "
        room = width - cell_len(name + bar)
        prose = Prose(lambda: room)
        written = self._shown(lane.text[-room * (_SPOKEN + 2) * 2 :].replace("\t", " "))
        lines = [line.strip() for line in (prose.feed(written) + prose.end()).splitlines()]
        wrapped = [piece for line in lines if line for piece in chop_cells(line, room)]
        shown = []
        for place, line in enumerate(wrapped[-_SPOKEN:]):
            first = Text().append(name if place == 0 else " " * cell_len(name), colour_of(lane.name))
            shown.append(first.append(bar, "dim").append(line, "italic"))
        return shown

    def _shown(self, text: str) -> str:
        """Return a text as the terminal can show it."""
        if self._look.is_unicode:
            return text
        return text.encode(self._look.encoding, "backslashreplace").decode(self._look.encoding)

    def _cut(self, text: str, width: int) -> str:
        if cell_len(text) <= width:
            return text
        return set_cell_size(text, max(width - 1, 0)).rstrip() + self._more if width > 0 else ""


def _lanes(rows: Iterable[Row], depth: int = 0) -> Iterable[tuple[int, Lane]]:
    for row in rows:
        if isinstance(row, Lane):
            yield depth, row
        elif isinstance(row, Group):
            yield from _lanes(row.rows, depth + 1)
