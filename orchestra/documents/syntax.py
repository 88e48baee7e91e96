"""Say in plain words what YAML's parser found wrong, where the user's mistake is, and what to type instead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yaml.error import MarkedYAMLError

if TYPE_CHECKING:
    from collections.abc import Callable

    from yaml.error import YAMLError

Lines = tuple[str, ...]

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff\ufeff]")


@dataclass(frozen=True, slots=True)
class Explanation:
    """A syntax error as a user understands it."""

    message: str
    place: tuple[int, int]
    hint: str | None


@dataclass(frozen=True, slots=True)
class _Fault:
    """What the parser says, and where (zero-based)."""

    context: str
    problem: str
    line: int
    column: int
    start_line: int
    """Where the thing begins that could not be read to its end."""
    start_column: int
    lines: Lines

    @property
    def text(self) -> str:
        return self.lines[self.line] if self.line < len(self.lines) else ""

    @property
    def character(self) -> str:
        return self.text[self.column : self.column + 1]

    @property
    def start_text(self) -> str:
        return self.lines[self.start_line] if self.start_line < len(self.lines) else ""

    def here(self, message: str, hint: str | None) -> Explanation:
        return Explanation(message, (self.line + 1, self.column + 1), hint)

    def at_start(self, message: str, hint: str | None) -> Explanation:
        return Explanation(message, (self.start_line + 1, self.start_column + 1), hint)


def find_control_character(lines: Lines) -> tuple[int, int, str, str] | None:
    """Find the first character that no YAML file may hold: its line, column, and what to say."""
    for number, line in enumerate(lines, 1):
        match = _CONTROL.search(line)
        if match:
            shown = f"U+{ord(match.group()):04X}"
            message = f"the file holds the control character {shown}"
            return number, match.start() + 1, message, f'remove it, or write "\\u{ord(match.group()):04x}" in quotes'
    return None


def explain(error: YAMLError, lines: Lines) -> Explanation:
    """Translate an error of the YAML parser."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return Explanation(f"this is no YAML: {str(error).splitlines()[0]}", (1, 1), "save it as plain UTF-8 text")
    mark, start = error.problem_mark, error.context_mark or error.problem_mark
    fault = _Fault(error.context or "", error.problem or "", mark.line, mark.column, start.line, start.column, lines)
    if fault.character == "\t" or "\t" in _indent(fault.text):
        return _explain_tab(fault)
    for words, rule in _RULES:
        if words in fault.problem:
            found = rule(fault)
            if found is not None:
                return found
    hint = f"look at the line above, too ({fault.context})" if fault.context else "look at the line above, too"
    return fault.here(f"this is no YAML: {fault.problem}", hint)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _explain_tab(fault: _Fault) -> Explanation:
    column = fault.text.index("\t") if "\t" in _indent(fault.text) else fault.column
    message = "a tab is used for indentation, YAML allows only spaces"
    return Explanation(message, (fault.line + 1, column + 1), "replace each tab by two spaces")


def _explain_start(fault: _Fault) -> Explanation | None:
    if not fault.character:
        return None
    if fault.text.lstrip().startswith("```"):
        return fault.here("a ``` fence is no YAML", "remove the lines that begin with ```")
    value = fault.text[fault.column :].rstrip()
    return fault.here(f"a value can't begin with {fault.character!r} unquoted", f'put it in quotes: "{_short(value)}"')


def _explain_second_colon(fault: _Fault) -> Explanation:
    before = fault.text[: fault.column]
    match = re.match(r"(\s*(?:- )*[\w.-]+): +(?=[^\s\"'\[{])", before)
    if match:
        value = fault.text[match.end() :].rstrip()
        hint = f'put quotes around the value: {match.group(1).strip()}: "{_short(value)}"'
        return fault.here("a second ':' on one line", hint)
    above = fault.line - 1
    while above >= 0 and not fault.lines[above].split("#")[0].strip():
        above -= 1
    if above >= 0 and not before.strip(" -\"'").count(":"):
        text = fault.lines[above].split(" #")[0].rstrip()
        indented = len(_indent(fault.text)) > len(_indent(text))
        if ":" not in text:
            return _explain_line_without_colon(text, above, indented)
        if re.search(r"[\w-]:[^\s:/]", text) and ": " not in text:
            name, _, rest = text.strip().lstrip("- ").partition(":")
            place = (above + 1, text.index(":") + 1)
            return Explanation("a space is missing after the ':'", place, f"write `{name}: {_short(rest)}`")
        if indented:
            place = (fault.line + 1, len(_indent(fault.text)) + 1)
            hint = f"line {above + 1} has its value already; put this key in the same column as {_key_of(text)!r}"
            return Explanation("this line is indented deeper than the key above it allows", place, hint)
    return fault.here("a ':' is not expected here", "put a value that holds ': ' in quotes, or correct the indentation")


def _explain_line_without_colon(text: str, number: int, indented: bool) -> Explanation:
    words = text.strip().lstrip("- ")
    key, _, value = words.partition(" ")
    if indented or not value:
        place = (number + 1, len(text) + 1)
        return Explanation("a ':' is missing at the end of this line", place, f"write `{_short(words)}:`")
    place = (number + 1, text.index(key) + len(key) + 1)
    return Explanation("a ':' is missing after the key", place, f"write `{key}: {_short(value)}`")


def _explain_missing_colon(fault: _Fault) -> Explanation:
    words = fault.start_text[fault.start_column :].split("#")[0].strip()
    key, _, value = words.partition(" ")
    shown = f"`{key}: {_short(value)}`" if value else f"`{_short(key)}:`"
    if key.endswith(":") or ":" in key:
        name, _, rest = words.partition(":")
        shown = f"`{name}: {_short(rest.strip())}` (with a space after the ':')"
    return fault.at_start("a ':' is missing after the key", f"write {shown}")


def _explain_indent(fault: _Fault) -> Explanation:
    if fault.character == ":":
        return fault.here("a key is missing before this ':'", "write a name before it")
    wanted = f"line {fault.start_line + 1}, column {fault.start_column + 1}"
    quoted = re.match(r"\s*(?:- )*[\w.-]+: *(?:\"[^\"]*\"|'[^']*'|\[[^\]]*\]|\{[^}]*\})\s*(?=\S)", fault.text)
    if quoted and fault.column >= quoted.end():
        return fault.here(
            "text follows a value that is complete", "remove it, or put the whole value in one pair of quotes"
        )
    if fault.character == "-":
        hint = f"the mapping that begins at {wanted} has keys; a list goes under a key of its own"
        return fault.here("a list item stands where a key is expected", hint)
    if fault.character in {"]", "}", ","}:
        return fault.here(f"{fault.character!r} closes nothing that is open", "remove it, or add its opening bracket")
    hint = f"keys of one mapping begin in the same column; this one's first key is at {wanted}"
    return fault.here("the indentation of this line fits no key above it", hint)


def _explain_list_indent(fault: _Fault) -> Explanation:
    wanted = f"line {fault.start_line + 1}, column {fault.start_column + 1}"
    return fault.here(
        "this line does not belong to the list above it", f"items begin with '- ' in the column of {wanted}"
    )


def _explain_open_bracket(fault: _Fault) -> Explanation:
    closing = "]" if "]" in fault.problem else "}"
    opening = "[" if closing == "]" else "{"
    same_line = fault.line == fault.start_line
    if same_line and fault.character in {"[", "{", '"', "'"}:
        return fault.here("a ',' is missing between two values", "put a ',' before this value")
    if same_line and fault.character == ":":
        hint = "put a ',' between two keys, or quotes around a value that holds ': '"
        return fault.here("a ':' is not expected here", hint)
    return fault.at_start(
        f"the {opening!r} is not closed", f"close it with {closing!r} at the end of the list or mapping"
    )


def _explain_open_quote(fault: _Fault) -> Explanation:
    quote = fault.start_text[fault.start_column : fault.start_column + 1] or '"'
    return fault.at_start("the quotes are not closed", f"add the closing {quote}")


def _explain_second_root(fault: _Fault) -> Explanation:
    for number, line in enumerate(fault.lines[: fault.line]):
        if line.strip() and not line.lstrip().startswith("#") and line.rstrip() != "---":
            if len(_indent(line)) > len(_indent(fault.text)):
                place = (number + 1, len(_indent(line)) + 1)
                return Explanation(
                    "the first line is indented deeper than those after it", place, "remove its indentation"
                )
            break
    hint = "a file is one mapping: write `key: value` lines that begin in the first column"
    return fault.here("this line does not belong to what stands above it", hint)


def _explain_question_mark(fault: _Fault) -> Explanation:
    return fault.here("a '?' is not expected here", "remove it, or put the value that holds it in quotes")


def _explain_escape(fault: _Fault) -> Explanation:
    hint = "write \\\\ for a backslash, or use single quotes, in which nothing is escaped"
    return fault.here("unknown escape in double quotes", hint)


def _explain_inline_list(fault: _Fault) -> Explanation:
    key = _key_of(fault.text)
    items = fault.text[fault.column + 1 :].strip()
    hint = f"write `{key}: [{_short(items)}]`, or put the `- ` items on lines of their own"
    return fault.here("a list in '- ' form can't begin on the line of its key", hint)


def _explain_anchor(fault: _Fault) -> Explanation:
    value = re.split(r"[,\]}\s]", fault.start_text[fault.start_column :], maxsplit=1)[0]
    mark = value[:1]
    return fault.at_start(f"a text that begins with {mark!r} needs quotes", f'write "{_short(value)}"')


def _key_of(line: str) -> str:
    return line.strip().lstrip("- ").partition(":")[0]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"  # noqa: PLR2004  half a terminal line


_RULES: tuple[tuple[str, Callable[[_Fault], Explanation | None]], ...] = (
    ("cannot start any token", _explain_start),
    ("mapping values are not allowed", _explain_second_colon),
    ("could not find expected ':'", _explain_missing_colon),
    ("block sequence entries are not allowed", _explain_inline_list),
    ("did not find expected key", _explain_indent),
    ("did not find expected '-' indicator", _explain_list_indent),
    ("did not find expected ',' or", _explain_open_bracket),
    ("did not find expected node content", _explain_start),
    ("unexpected end of stream", _explain_open_quote),
    ("unexpected document indicator", _explain_open_quote),
    ("expected <document start>", _explain_second_root),
    ("mapping keys are not allowed", _explain_question_mark),
    ("unknown escape character", _explain_escape),
    ("did not find expected hexdecimal", _explain_escape),
    ("alphabetic or numeric character", _explain_anchor),
    ("did not find expected whitespace or line break", _explain_anchor),
)
