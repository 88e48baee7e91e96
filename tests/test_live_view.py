"""The live view as it stands on a screen: the tree in every width, and what is left behind when it is drawn again."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pyte
import pytest
from rich.cells import cell_len

from orchestra.cli.live.region import Region
from orchestra.cli.live.tree import Look, TreeView
from tests.livekit import Told, busy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PLAIN = Look(has_styles=False)


def lines(told: Told, width: int, height: int = 20, look: Look = PLAIN) -> list[str]:
    return TreeView(look).lines(told.board, told.now, width, height)


class TestTheTree:
    def test_at_80_columns_it_has_a_line_for_each_agent_and_the_last_words(self) -> None:
        assert lines(busy(), 79, 22) == [
            "review  7kq2mfzd  3 running, 7 waiting, 2 done            2.4k  >$0.01      5 s",
            "├── ✓ planner                                             1.2k   $0.01      2 s",
            "├── branch security",
            "│   ├── ● security      writing                                             3 s",
            "│   ├── ○ security-fix",
            "│   └── ○ security-test",
            "├── branch style",
            "│   ├── ✓ style                                           1.2k      $?      0 s",
            "│   ├── ● style-fix     runs make check 3 s                                 3 s",
            "│   └── ○ style-test",
            "├── branch docs",
            "│   ├── ● docs          retries in 3 s (rate limit)                         3 s",
            "│   ├── ○ docs-fix",
            "│   └── ○ docs-test",
            "├── ○ merger",
            "└── ○ reporter",
            "security │ I have read the change. 平均値の計算に誤りがあります。",
            r"         │ I will \x1b[31mmend it.",
        ]

    def test_at_60_columns_the_cost_is_left_out_and_long_texts_are_cut(self) -> None:
        told = busy()
        told.tell("tool_started", "security", tool="repo:read-file", args={"path": "tests/" * 20}, call="1")
        told.after(2)
        shown = lines(told, 59, 14)
        assert shown[:3] == [
            "review  7kq2mfzd  3 running, 7 waiting, 2…    2.4k      7 s",
            "├── branch security",
            "│   ├── ● security      reads tests/te… 2 s             5 s",
        ]
        assert shown[-4] == "└── … 2 waiting, 1 done                       1.2k"

    def test_on_a_wide_screen_the_numbers_stay_near(self) -> None:
        for width in (120, 250):
            shown = lines(busy(), width - 1, 22)
            assert max(map(cell_len, shown)) == min(width - 1, 140)
            assert shown[8].rstrip().endswith("3 s")

    @pytest.mark.parametrize("width", [1, 5, 19, 39])
    def test_on_a_very_narrow_one_a_line_is_left(self, width: int) -> None:
        (shown,) = lines(busy(), width)
        assert cell_len(shown) <= width
        assert shown.startswith("review: 3 running"[: width - 1])

    @pytest.mark.parametrize(("width", "height"), [*itertools.product((40, 47, 48, 64, 80, 139), (1, 3, 4, 5, 9, 18))])
    def test_it_never_is_larger_than_its_place(self, width: int, height: int) -> None:
        told = busy()
        told.board.lanes["docs"].name = "名前" * 40
        told.writes("security", "語" * 500)
        shown = lines(told, width, height)
        assert len(shown) <= height
        assert max(map(cell_len, shown)) <= width

    def test_nothing_of_a_model_or_a_log_steers_the_terminal(self) -> None:
        told = Told((("evil\x1b]0;x\x07", ("b\x9b2J",)), ("other\r\n", ("b\x9b2J",))))
        told.board.pipeline, told.board.session = "p\x1b[2J", "\x1b[31m"
        told.starts(*told.board.lanes)
        told.tell("tool_started", "other\r\n", tool="\x1b[2Jshell", args={"command": "a\r\n\x1b[H"}, call="1")
        told.writes("evil\x1b]0;x\x07", "text\x1b[2J\x07\x9b\u202e")
        shown = "".join(lines(told, 79))
        assert shown.isprintable(), shown

    def test_where_characters_are_missing_others_stand_in(self) -> None:
        shown = lines(busy(), 79, 22, Look("ascii", has_styles=False))
        assert all(line.isascii() for line in shown)
        assert shown[1].startswith("+-- + planner")
        assert r"\u5e73" in shown[-3]

    def test_colours_are_there_where_they_are_wanted_and_only_there(self) -> None:
        assert not [line for line in lines(busy(), 79) if "\x1b" in line]
        styled = lines(busy(), 79, look=Look())
        assert "\x1b[2;" in "".join(styled)

    def test_a_question_a_conflict_and_a_failure_stand_out(self) -> None:
        told = busy()
        told.tell("question_asked", "security", id="q", agent="security", turn=1, text="?")
        told.tell("conflict", n=1, repo="r", target="merger", resolver="agent", agents=["a"], paths=[])
        told.tell("turn_failed", "docs", message="out of money")
        shown = lines(told, 79, look=Look())
        for text in ("33mwaits for you", "31mhas a conflict to resolve", "31mfailed: out of money"):
            assert [line for line in shown if f"\x1b[1;{text}" in line], text


class Shown:
    """A screen with a region at its end."""

    def __init__(self, columns: int, rows: int, *, wraps: bool = False) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=1_000)
        self._stream = pyte.Stream(self.screen)
        self.lines: list[str] = []
        self.region = Region(lambda: (self.screen.columns, self.screen.lines), self._fitting, wraps=wraps)

    def _fitting(self, width: int, height: int) -> Sequence[str]:
        return [line[:width] for line in self.lines[:height]]

    def put(self, text: str) -> None:
        self._stream.feed(text.replace("\n", "\r\n"))

    def show(self, *texts: str) -> None:
        self.lines = [*texts]
        self.put(self.region.draw())

    def whole(self) -> list[str]:
        gone = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return [line.rstrip() for line in [*gone, *self.screen.display] if line.strip()]


def is_hidden(shown: Shown) -> bool:
    return bool(shown.screen.cursor.hidden)


class TestTheRegion:
    def test_it_stays_below_what_scrolls_and_goes_without_a_trace(self) -> None:
        shown = Shown(60, 10)
        shown.put("$ orchestra run\n")
        shown.lines = ["one", "two", "three"]
        shown.put(shown.region.begin())
        assert is_hidden(shown)
        for number in range(20):
            shown.put(shown.region.above(f"line {number}\n"))
            shown.show("one", f"two {number}", "three")
        said = ["$ orchestra run", *(f"line {number}" for number in range(20))]
        assert shown.whole() == [*said, "one", "two 19", "three"]
        shown.put(shown.region.end())
        assert shown.whole() == said
        assert not is_hidden(shown)
        shown.put("$ ")
        assert shown.whole() == [*said, "$"]

    def test_it_gets_larger_and_smaller(self) -> None:
        shown = Shown(60, 12)
        shown.put(shown.region.begin() + shown.region.above("above\n"))
        for count in (1, 5, 2, 6, 0, 3):
            shown.show(*(f"line {number}" for number in range(count)))
            assert shown.whole() == ["above", *(f"line {number}" for number in range(count))]

    def test_what_has_not_changed_is_not_drawn(self) -> None:
        shown = Shown(60, 10)
        shown.lines = ["one"]
        assert "one" in shown.region.begin()
        assert shown.region.draw() == ""
        assert "one" in shown.region.above("above\n")

    def test_a_line_that_is_not_ended_is_in_the_region_until_it_is(self) -> None:
        shown = Shown(20, 16)
        shown.lines = ["region"]
        shown.put(shown.region.begin())
        for word in ("some ", "words of a line that is longer than ", "the screen"):
            shown.put(shown.region.above(word))
        assert shown.whole() == ["some words of a lin", "e that is longer th", "an the screen", "region"]
        shown.put(shown.region.above("\nnext"))
        assert shown.whole() == ["some words of a line", " that is longer than", " the screen", "next", "region"]
        shown.put(shown.region.end())
        shown.put(" one\n")
        assert shown.whole()[-1] == "next one"

    @pytest.mark.parametrize("wraps", [True, False])
    def test_when_the_terminal_gets_another_size_nothing_of_the_old_one_is_left(self, wraps: bool) -> None:
        shown = Shown(100, 20, wraps=wraps)
        resize = wrapped_again if wraps else pyte.Screen.resize
        shown.put("above\n")
        shown.lines = ["x" * 99, "y" * 70, "z" * 10]
        shown.put(shown.region.begin())
        for columns in (60, 100, 250, 80, 61):
            resize(shown.screen, 20, columns)
            shown.put(shown.region.draw())
            assert shown.whole() == ["above", "x" * min(99, columns - 1), "y" * min(70, columns - 1), "z" * 10]

    def test_no_terminal_keeps_it_for_those_who_scroll_back(self) -> None:
        """Tmux does where all of the screen is cleared, and a wrapped line is one for it until it is cleared."""
        columns = 60
        region = Region(lambda: (columns, 24), lambda *_: ["one", "two"])
        written = [region.begin(), region.above("above\n")]
        columns = 40
        written += [region.draw(), region.above("above\n"), region.end()]
        for text in written[1:]:
            before, _, after = text.partition("\x1b[2K ")
            assert "\x1b[J" not in before
            assert after.startswith("\x1b[J\r")

    def test_it_leaves_rows_to_what_scrolls(self) -> None:
        shown = Shown(60, 10)
        shown.lines = [f"line {number}" for number in range(50)]
        shown.put(shown.region.begin())
        assert len(shown.whole()) == 4

    def test_what_somebody_else_writes_meanwhile_stays(self) -> None:
        shown = Shown(60, 10)
        shown.lines = ["one", "two"]
        shown.put(shown.region.begin())
        shown.put(shown.region.aside() + "[1]+ Stopped\n$ fg\n")
        assert not is_hidden(shown)
        shown.put(shown.region.draw())
        assert shown.whole() == ["[1]+ Stopped", "$ fg", "one", "two"]


def wrapped_again(screen: pyte.Screen, rows: int, columns: int) -> None:
    """Resize a screen as most terminals do, which pyte does not: lines that are too long now are wrapped."""
    before = [line.rstrip() for line in screen.display][: screen.cursor.y + 1]
    screen.resize(rows, columns)
    screen.reset()
    pieces = [line[start : start + columns] for line in before for start in range(0, max(len(line), 1), columns)]
    screen.cursor.hidden = True
    feed: Callable[[str], None] = pyte.Stream(screen).feed
    feed("\r\n".join(pieces))
