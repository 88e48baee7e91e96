"""What a plain scalar means: YAML 1.2's core schema, with numbers that JSON can hold."""

from __future__ import annotations

import math
import re

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MAX_DIGITS = 100
_NUMBER_STARTS = frozenset("+-.0123456789")

Scalar = str | int | float | bool | None


def is_null(text: str) -> bool:
    """Tell whether a plain scalar is YAML's null."""
    return text in _NULLS


def resolve_plain(text: str) -> Scalar:
    """Give the value of an unquoted scalar.

    Raises:
        ValueError: The number is not finite or longer than any real one, so that JSON could not hold it.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    return _resolve_number(text)


def _resolve_number(text: str) -> str | int | float:
    if _NO_NUMBER.fullmatch(text):
        raise ValueError(text)
    for pattern, base in ((_INTEGER, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            if len(text) > _MAX_DIGITS:
                raise ValueError(text)
            return int(text.removeprefix("0o") if base == 8 else text, base)  # noqa: PLR2004  the octal base
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    return text
