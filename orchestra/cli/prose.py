"""An agent's text as it is being written: wrapped at words, code as it is, and nothing in it can steer a terminal."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from rich.cells import cell_len

from orchestra.cli.render import escape_prose

if TYPE_CHECKING:
    from collections.abc import Callable

_FENCE = re.compile(r"(`{3,}|~{3,})")
_LIST_MARKER = re.compile(r"[-*+>]|\d{1,3}[.)]")
_UNDECIDED = re.compile(r"`{0,2}|~{0,2}|[-*+>]|\d{1,3}[.)]?")
"""Beginnings of a line that may still become a fence or the marker of a list."""
_CODE_INDENT = 4
"""Columns; an indented line that is no list item is taken for code."""
_DEEPEST = 200
"""Spaces at a line's beginning after which it is nothing but code."""
_NEVER_FIRST = frozenset({"Pe", "Pf", "Po", "Lm"})
"""Kinds of characters that don't begin a line where a script without spaces is broken: closing brackets, points."""


class Prose:
    """Lays out a text that comes in pieces.

    Args:
        width: Returns the columns of a line now, which may change; None: nothing is wrapped, and only whole lines are
            handed on.
    """

    def __init__(self, width: Callable[[], int | None]) -> None:
        self._width = width
        self._whole_lines = width() is None
        self._carriage_return = ""
        self._line: list[str] = []
        """The unfinished line, as it was written: in pieces, since it may be very long."""
        self._fence = ""
        """What closes the block of code."""
        self._is_raw: bool | None = None
        """Whether the line is not wrapped; None: too little of it is known."""
        self._spaces = ""
        self._word: list[str] = []
        self._column = 0
        self._hang = 0
        """Columns that a continued line is indented by."""
        self._blank = True

    @property
    def is_between_paragraphs(self) -> bool:
        """Whether a line of something else may stand here."""
        return not self._line and self._blank and not self._fence

    def feed(self, text: str) -> str:
        """Take a piece, and return what of the text can be shown by now."""
        text = self._carriage_return + text
        self._carriage_return = "\r" if text.endswith("\r") else ""
        text = escape_prose(text.removesuffix("\r").replace("\r\n", "\n"))
        if self._whole_lines:
            *lines, rest = text.split("\n")
            if lines:
                lines[0], self._line = "".join(self._line) + lines[0], []
            self._line += [rest] if rest else []
            for line in lines:
                self._note_end(line)
            return "".join(f"{line}\n" for line in lines)
        return "".join(map(self._take, text))

    def end(self) -> str:
        """Return the rest, with the end of its line."""
        rest = self._carriage_return and self.feed("\n")  # the text ended in the middle of a line break
        if self._whole_lines:
            line, self._line = "".join(self._line), []
            return rest + line + "\n" if line else rest
        return rest + (self._take("\n") if self._line else "")

    def _take(self, char: str) -> str:
        if char == "\n":
            return self._end_line()
        self._line.append(char)
        if self._is_raw is None:
            self._is_raw = self._looks_raw("".join(self._line))
            if self._is_raw is None:
                return ""
            return self._take_known("".join(self._line))
        return self._take_known(char)

    def _looks_raw(self, line: str) -> bool | None:
        """Tell whether the line that has begun is not to be wrapped; None: its next character decides."""
        if self._fence:
            return True
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        if indent > _DEEPEST:
            return True
        if _UNDECIDED.fullmatch(text):
            return None
        if text[0] in "|\t" or _FENCE.match(text):
            return True
        first, space, _ = text.partition(" ")
        if space and _LIST_MARKER.fullmatch(first):
            self._hang = indent + len(first) + 1
            return False
        self._hang = indent
        return indent >= _CODE_INDENT

    def _take_known(self, text: str) -> str:
        return text if self._is_raw else "".join(map(self._place, text))

    def _place(self, char: str) -> str:
        """Put a character of a wrapped line behind the word that waits for its end."""
        if char in " \t":
            shown = self._put_word()
            self._spaces += " "
            return shown
        shown = ""
        breakable = self._word and (_is_wide(char) or _is_wide(self._word[-1]))
        if breakable and unicodedata.category(char) not in _NEVER_FIRST:
            shown = self._put_word()  # scripts without spaces are broken anywhere
        self._word.append(char)
        return shown

    def _put_word(self) -> str:
        word, self._word = "".join(self._word), []
        if not word:
            return ""
        spaces, self._spaces = self._spaces, ""
        columns = cell_len(word)
        width = self._width() or 0
        hang = min(self._hang, width // 2)
        if self._column > hang and self._column + len(spaces) + columns > width:
            spaces, self._column = "\n" + " " * hang, hang + columns
        else:
            self._column += len(spaces) + columns
        if self._column > width:  # a word longer than a line: the terminal breaks it, so that it can be copied whole
            self._column %= width + 1
        return spaces + word

    def _end_line(self) -> str:
        whole = "".join(self._line)
        shown = self._take_known(whole) if self._is_raw is None else ""
        shown += self._put_word()
        self._note_end(whole)
        self._line, self._spaces, self._is_raw, self._column, self._hang = [], "", None, 0, 0
        return shown + "\n"

    def _note_end(self, line: str) -> None:
        """Note what a finished line means for those behind it."""
        line = line.strip()
        self._blank = not line
        fence = _FENCE.match(line)
        if self._fence:
            if fence and line == fence[1] and line.startswith(self._fence):
                self._fence = ""
        elif fence and not (fence[1][0] == "`" and "`" in line[len(fence[1]) :]):
            self._fence = fence[1]


def _is_wide(char: str) -> bool:
    return char > "\u1100" and cell_len(char) > 1
