"""An agent's text on the screen, however it is cut into pieces."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from orchestra.cli.prose import Prose
from orchestra.cli.render import escape_prose


def laid_out(text: str, width: int | None, *cuts: int) -> str:
    prose = Prose(lambda: width)
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    return "".join(prose.feed(text[start:end]) for start, end in pairwise(borders)) + prose.end()


WORDS = ["word", "longer-word", " ", "  ", "漢字", "。", "é", "👩\u200d👧", "1", ".", "x" * 30]
LAYOUT = ["\n", "\n\n", "\r\n", "\t", "- ", "12. ", "> ", "```", "```py\n", "~~~", "| cell |", "    ", "`"]
HOSTILE = ["\x1b", "[31m", "\r", "\u202e"]
PIECES = st.lists(st.sampled_from([*WORDS, *LAYOUT, *HOSTILE]), max_size=40)


@given(PIECES, st.sampled_from([None, 20, 33, 79]), st.lists(st.integers(0, 200), max_size=8))
def test_where_a_text_is_cut_makes_no_difference(pieces: list[str], width: int | None, cuts: list[int]) -> None:
    text = "".join(pieces)
    assert laid_out(text, width, *cuts) == laid_out(text, width)


@given(PIECES, st.sampled_from([20, 33, 79]))
def test_nothing_is_lost_and_nothing_steers_the_terminal(pieces: list[str], width: int) -> None:
    text = "".join(pieces)
    shown = laid_out(text, width)
    whole = escape_prose(text.removesuffix("\r").replace("\r\n", "\n"))
    assert "".join(shown.split()) == "".join(whole.split())
    assert not any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in shown)


@given(st.lists(st.sampled_from(["word", "longer-word", "漢字", "a", "-", "*"]), min_size=1, max_size=60))
def test_no_line_of_words_is_longer_than_the_terminal(words: list[str]) -> None:
    lines = laid_out(" ".join(words), 24).splitlines()
    assert max(map(cell_len, lines)) <= 24
    # As much as fits stands on a line, but for a script that is broken anywhere.
    for line, following in pairwise(lines):
        assert cell_len(line) + 1 + cell_len(following.split()[0]) > 24 or following[0] == "漢"


@pytest.mark.parametrize("block", ["```python\n{}\n```", "~~~\n{}\n~~~", "   ```\n{}\n   ```", "    {}", "| {} |"])
def test_code_and_tables_are_not_wrapped(block: str) -> None:
    code = "a_long_call(with_arguments, and_more, and_even_more)"
    text = block.format(code)
    assert laid_out(text, 20) == text + "\n"


def test_text_behind_a_block_of_code_is_wrapped_again() -> None:
    shown = laid_out("```\n``\nx y z\n```\nsome words that go on and on\n", 20)
    assert shown == "```\n``\nx y z\n```\nsome words that go\non and on\n"


def test_code_in_a_line_opens_no_block() -> None:
    assert laid_out("```x``` is some code in a line\n", 20) == "```x``` is some code in a line\n"
    assert laid_out("```x``` some code\nwords that are wrapped here", 20).endswith("words that are\nwrapped here\n")


@pytest.mark.parametrize(
    ("marker", "indent"), [("- ", 2), ("* ", 2), ("12. ", 4), ("3) ", 3), ("> ", 2), ("  - ", 4), ("1 ", 0), ("-", 0)]
)
def test_a_list_item_goes_on_below_its_text(marker: str, indent: int) -> None:
    first, second = laid_out(f"{marker}some words that go on", 20).splitlines()
    assert first.startswith(marker)
    assert len(second) - len(second.lstrip()) == indent


def test_a_script_without_spaces_is_broken_between_characters_but_not_before_a_full_stop() -> None:
    shown = laid_out("漢" * 10 + "。" + "字" * 9, 20)
    assert shown == "漢" * 9 + "\n漢。" + "字" * 8 + "\n字\n"


def test_a_word_longer_than_a_line_stays_whole() -> None:
    address = "https://example.com/" + "x" * 24  # 44 columns: two on the third line of 21
    assert laid_out(f"see {address} there", 20) == f"see\n{address} there\n"


def test_without_a_terminal_only_whole_lines_are_handed_on() -> None:
    prose = Prose(lambda: None)
    assert prose.feed("a long line " * 20) == ""
    assert prose.feed("end\nand ") == "a long line " * 20 + "end\n"
    assert prose.end() == "and \n"


def test_the_width_may_change_in_the_middle() -> None:
    widths = iter([40, 40, 20])
    last = [40]

    def width() -> int:
        last[0] = next(widths, 20)
        return last[0]

    prose = Prose(width)
    shown = prose.feed("words words words words words words words words\n")
    assert max(map(len, shown.splitlines())) <= 40
    assert len(shown.splitlines()[-1]) <= 20


def test_whole_lines_come_in_pieces_and_go_as_lines() -> None:
    prose = Prose(lambda: None)

    assert [prose.feed(piece) for piece in ("a", "b\nc", "d\n\n", "e")] == ["", "ab\n", "cd\n\n", ""]
    assert not prose.is_between_paragraphs
    assert prose.end() == "e\n"
