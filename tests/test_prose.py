"""An agent's text, laid out piece by piece."""

from __future__ import annotations

import time

import pytest

from orchestra.cli.prose import Prose


@pytest.mark.parametrize("unit", ["x", "word ", "漢", " "])
def test_a_line_without_end_is_laid_out_in_time_that_grows_with_it(unit: str) -> None:
    text = unit * (600_000 // len(unit))
    prose = Prose(lambda: 79)
    started = time.monotonic()
    shown = "".join(prose.feed(text[start : start + 2_000]) for start in range(0, len(text), 2_000)) + prose.end()

    assert time.monotonic() - started < 6  # a copy of the line for each character took 20 s and more
    assert shown.replace("\n", "").replace(" ", "") == text.replace(" ", "")


def test_whole_lines_come_in_pieces_and_go_as_lines() -> None:
    prose = Prose(lambda: None)

    assert [prose.feed(piece) for piece in ("a", "b\nc", "d\n\n", "e")] == ["", "ab\n", "cd\n\n", ""]
    assert not prose.is_between_paragraphs
    assert prose.end() == "e\n"
