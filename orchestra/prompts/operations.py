"""What a template's operators, calls, methods and tests are turned into; each pays before it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import Undefined
from jinja2.exceptions import TemplateRuntimeError

from orchestra.prompts.filters import replace, short_text, split
from orchestra.prompts.metering import (
    MAX_RANGE,
    Meter,
    Rounds,
    binary,
    compare,
    contains,
    kind_of,
    metered,
    require_data,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _slice(meter: Meter, value: Any, start: Any, stop: Any, step: Any) -> Any:
    require_data(value)
    if not isinstance(value, str | list | tuple):
        raise TemplateRuntimeError(f"{kind_of(value)} has no parts that `[…:…]` could take")
    part = slice(start, stop, step)
    size = len(range(*part.indices(len(value))))
    if isinstance(value, str):
        meter.chars(size)
    else:
        meter.step(size)
    return value[part]


def _concat(meter: Meter, values: list[Any]) -> str:
    return "".join([meter.text(value) for value in values])


def _compare(meter: Meter, values: list[Any], *names: str) -> bool:
    return all(compare(meter, name, values[index], values[index + 1]) for index, name in enumerate(names))


def _range(meter: Meter, bounds: list[Any]) -> list[int]:
    if not 1 <= len(bounds) <= 3 or not all(isinstance(bound, int) for bound in bounds):  # noqa: PLR2004
        raise TemplateRuntimeError("`range` takes one to three whole numbers")
    numbers = range(*bounds)
    try:
        count = len(numbers)
    except OverflowError:
        count = MAX_RANGE + 1
    if count > MAX_RANGE:
        raise TemplateRuntimeError(f"`range` gives at most {MAX_RANGE:,} numbers")
    meter.step(count)
    return list(numbers)


def _method(meter: Meter, value: Any, name: str, *args: Any) -> Any:
    require_data(value)
    if isinstance(value, Mapping) and name in MAPPING_METHODS:
        if name == "get":
            key, default = (*args, None)[:2]
            return value.get(key, default) if isinstance(key, str | int) else default
        meter.step(2 * len(value))
        return list(getattr(value, name)())
    if not isinstance(value, str) or name not in TEXT_METHODS:
        raise TemplateRuntimeError(f"{kind_of(value)} has no method {name!r}")
    if name == "replace":
        return replace(meter, value, *args)
    if name == "split":
        return split(meter, value, *args)
    if name == "splitlines":
        meter.step(value.count("\n") + value.count("\r"))
    if name.endswith("strip"):
        short_text(*args[:1] or (None,))
    meter.chars(len(value))
    return getattr(value, name)(*args)


MAPPING_METHODS = frozenset({"items", "keys", "values", "get"})
TEXT_METHODS = frozenset(
    {"capitalize", "count", "endswith", "lower", "lstrip", "removeprefix", "removesuffix", "replace", "rstrip"}
    | {"split", "splitlines", "startswith", "strip", "title", "upper"}
)

# What operators and calls are rewritten to; the space keeps the names out of a template's reach.
REWRITTEN: dict[str, Callable[..., Any]] = {
    " loop": metered(lambda meter, value, price: Rounds(meter, meter.items(value), price)),
    " concat": metered(_concat),
    " compare": metered(_compare),
    " slice": metered(_slice),
    " range": metered(_range),
    " method": metered(_method),
}


def _comparing(name: str) -> Callable[..., bool]:
    return metered(lambda meter, value, other: compare(meter, name, value, other))


def _is(*types: Any) -> Callable[..., bool]:
    return metered(lambda _, value: isinstance(value, types))


TESTS: dict[str, Callable[..., Any]] = {
    "defined": metered(lambda _, value: not isinstance(value, Undefined)),
    "undefined": metered(lambda _, value: isinstance(value, Undefined)),
    "none": metered(lambda _, value: value is None),
    "true": metered(lambda _, value: value is True),
    "false": metered(lambda _, value: value is False),
    "boolean": _is(bool),
    "string": _is(str),
    "number": _is(int, float),
    "mapping": _is(Mapping),
    "sequence": _is(str, list, tuple, Mapping),
    "iterable": _is(str, list, tuple, Mapping),
    "odd": metered(lambda meter, value: binary(meter, "%", value, 2) == 1),
    "even": metered(lambda meter, value: binary(meter, "%", value, 2) == 0),
    "divisibleby": metered(lambda meter, value, number: binary(meter, "%", value, number) == 0),
    "in": metered(contains),
    **dict.fromkeys(("eq", "equalto", "=="), _comparing("eq")),
    **dict.fromkeys(("ne", "!="), _comparing("ne")),
    **dict.fromkeys(("gt", "greaterthan", ">"), _comparing("gt")),
    **dict.fromkeys(("ge", ">="), _comparing("gteq")),
    **dict.fromkeys(("lt", "lessthan", "<"), _comparing("lt")),
    **dict.fromkeys(("le", "<="), _comparing("lteq")),
}
