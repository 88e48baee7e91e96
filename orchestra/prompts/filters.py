"""The filters of task templates: what is useful for writing a prompt, each one bounded.

Jinja's own filters are not used: several of them multiply text or work (`center`, `format`, `urlize`), reach
attributes (`attr`), or are random.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import Undefined, pass_context
from jinja2.exceptions import TemplateRuntimeError

from orchestra.prompts.metering import Meter, binary, kind_of, meter_of, metered, require_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2.runtime import Context

MAX_NUMBER_TEXT = 300
MAX_INDENT = 100


def _default(_: Meter, value: Any, default: Any = "", boolean: Any = False) -> Any:
    return default if isinstance(value, Undefined) or (boolean and not value) else value


def _text_method(name: str) -> Callable[[Meter, Any], str]:
    def apply(meter: Meter, value: Any) -> str:
        return str(getattr(meter.text(value), name)())

    return apply


def _trim(meter: Meter, value: Any, chars: str | None = None) -> str:
    return meter.text(value).strip(short_text(chars))


def short_text(chars: str | None) -> str | None:
    """Refuse a long set of characters to strip."""
    # str.strip looks at all of `chars` for every character.
    if chars is not None and (not isinstance(chars, str) or len(chars) > MAX_INDENT):
        raise TemplateRuntimeError("the characters to strip must be a short text")
    return chars


def _length(_: Meter, value: Any) -> int:
    require_data(value)
    if isinstance(value, str | Mapping | list | tuple):
        return len(value)
    raise TemplateRuntimeError(f"{kind_of(value)} has no length")


def split(meter: Meter, text: str, separator: str | None = None, limit: int = -1) -> list[str]:
    """Split a text, each part paid for."""
    meter.chars(len(text))
    most = meter.steps_left if limit < 0 else min(limit, meter.steps_left)
    parts = text.split(separator, most)
    meter.step(len(parts))
    return parts


def _number(value: Any, kind: type[int | float], default: Any) -> Any:
    require_data(value)
    if isinstance(value, str) and len(value) > MAX_NUMBER_TEXT:
        return default
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        return default


def _round(_: Meter, value: Any, precision: int = 0) -> Any:
    if not isinstance(value, int | float):
        require_data(value)
        raise TemplateRuntimeError(f"cannot round {kind_of(value)}")
    if not isinstance(precision, int) or not 0 <= precision <= 15:  # noqa: PLR2004 - what a float can hold
        raise TemplateRuntimeError("the precision of `round` must be 0 to 15")
    return round(float(value), precision) if precision else round(value)


def _abs(_: Meter, value: Any) -> Any:
    if not isinstance(value, int | float):
        require_data(value)
        raise TemplateRuntimeError(f"{kind_of(value)} has no absolute value")
    return abs(value)


@pass_context
def _join(context: Context, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    meter = meter_of(context)
    separator = meter.text(d)
    parts = [meter.text(_attribute(context, item, attribute)) for item in meter.items(value)]
    meter.chars(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def _attribute(context: Context, item: Any, path: str | int | None) -> Any:
    """Return `item`'s value at a dotted path; the item itself without one."""
    if path is None:
        return item
    for part in str(path).split("."):
        item = context.environment.getitem(item, int(part) if part.isdecimal() and len(part) < 10 else part)  # noqa: PLR2004
    return item


def _sorted(context: Context, value: Any, reverse: Any, case_sensitive: Any, attribute: Any) -> list[Any]:
    meter = meter_of(context)
    items = meter.items(value)
    keys = [_attribute(context, item, attribute) for item in items]
    for _ in range(len(items).bit_length()):  # n log n comparisons
        meter.walk(keys)
    if not case_sensitive:
        keys = [key.casefold() if isinstance(key, str) else key for key in keys]
    order = sorted(range(len(items)), key=keys.__getitem__, reverse=bool(reverse))
    return [items[index] for index in order]


@pass_context
def _sort(
    context: Context, value: Any, reverse: Any = False, case_sensitive: Any = False, attribute: Any = None
) -> list[Any]:
    return _sorted(context, value, reverse, case_sensitive, attribute)


@pass_context
def _min(context: Context, value: Any, case_sensitive: Any = False, attribute: Any = None) -> Any:
    return (_sorted(context, value, False, case_sensitive, attribute) or [_empty(context, "min")])[0]


@pass_context
def _max(context: Context, value: Any, case_sensitive: Any = False, attribute: Any = None) -> Any:
    return (_sorted(context, value, False, case_sensitive, attribute) or [_empty(context, "max")])[-1]


def _empty(context: Context, name: str) -> Undefined:
    return context.environment.undefined(f"`{name}` of an empty list")


@pass_context
def _sum(context: Context, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    meter = meter_of(context)
    total = start
    for item in meter.items(value):
        number = _attribute(context, item, attribute)
        if not isinstance(number, int | float):
            require_data(number)
            raise TemplateRuntimeError(f"`sum` adds numbers, not {kind_of(number)}")
        total = binary(meter, "+", total, number)
    return total


@pass_context
def _first(context: Context, value: Any) -> Any:
    meter = meter_of(context)
    return (meter.items(value) or [_empty(context, "first")])[0]


@pass_context
def _last(context: Context, value: Any) -> Any:
    meter = meter_of(context)
    return (meter.items(value) or [_empty(context, "last")])[-1]


def _reverse(meter: Meter, value: Any) -> Any:
    if isinstance(value, str):
        meter.chars(len(value))
        return value[::-1]
    return meter.items(value)[::-1]


def _unique(meter: Meter, value: Any) -> list[Any]:
    items = meter.items(value)
    for item in items:
        require_data(item)
        if isinstance(item, Mapping | list | tuple):
            raise TemplateRuntimeError(f"`unique` works on texts and numbers, not on {kind_of(item)}")
        meter.walk(item)
    return list(dict.fromkeys(items))


def replace(meter: Meter, value: Any, old: Any, new: Any, count: int = -1) -> str:
    """Replace in a text, the result paid for."""
    text, old, new = meter.text(value), meter.text(old), meter.text(new)
    hits = text.count(old) if old else len(text) + 1
    hits = hits if count is None or count < 0 else min(hits, count)
    meter.chars(len(text) + hits * len(new))
    return text.replace(old, new, hits)


def _indent(meter: Meter, value: Any, width: int = 4, first: Any = False, blank: Any = False) -> str:
    if not isinstance(width, int) or not 0 <= width <= MAX_INDENT:
        raise TemplateRuntimeError(f"the width of `indent` must be 0 to {MAX_INDENT}")
    text = meter.text(value)
    pad = " " * width
    meter.chars(len(text) + width * (text.count("\n") + 1))
    lines = text.split("\n")
    padded = [pad + line if line or blank else line for line in lines[1:]]
    return "\n".join([pad + lines[0] if first else lines[0], *padded])


def _truncate(meter: Meter, value: Any, length: int = 255, killwords: Any = False, end: str = "...") -> str:
    text, end = meter.text(value), meter.text(end)
    if not isinstance(length, int) or length < len(end):
        raise TemplateRuntimeError(f"the length of `truncate` must be a number of at least {len(end)}")
    if len(text) <= length:
        return text
    cut = text[: length - len(end)]
    meter.chars(len(cut))
    return (cut if killwords else cut.rsplit(" ", 1)[0]) + end


def _tojson(meter: Meter, value: Any, indent: int | None = None) -> str:
    if indent is not None and (not isinstance(indent, int) or not 0 <= indent <= 8):  # noqa: PLR2004
        raise TemplateRuntimeError("the indent of `tojson` must be 0 to 8")
    return meter.json(value, indent)


def _pairs(meter: Meter, value: Any) -> list[tuple[Any, Any]]:
    require_data(value)
    if not isinstance(value, Mapping):
        raise TemplateRuntimeError(f"`items` works on a mapping, not on {kind_of(value)}")
    meter.step(2 * len(value))
    return list(value.items())


def _dictsort(meter: Meter, value: Any) -> list[tuple[Any, Any]]:
    pairs = _pairs(meter, value)
    meter.walk(value)
    return sorted(pairs, key=lambda pair: str(pair[0]).casefold())


@pass_context
def _map(context: Context, value: Any, name: str | None = None, *args: Any, **kwargs: Any) -> list[Any]:
    meter = meter_of(context)
    items = meter.items(value)
    if "attribute" not in kwargs:
        if not isinstance(name, str):
            raise TemplateRuntimeError('write `map("upper")` or `map(attribute="name")`')
        return [context.environment.call_filter(name, item, args, kwargs, context=context) for item in items]
    attribute, default = kwargs["attribute"], kwargs.get("default")
    found = [_attribute(context, item, attribute) for item in items]
    return [default if "default" in kwargs and isinstance(item, Undefined) else item for item in found]


def _selecting(*, keep: bool, by_attribute: bool) -> Callable[..., list[Any]]:
    @pass_context
    def select(context: Context, value: Any, *args: Any) -> list[Any]:
        environment = context.environment
        meter: Meter = environment.meter  # type: ignore[attr-defined]
        attribute, test, rest = (args[0], args[1:2], args[2:]) if by_attribute else (None, args[:1], args[1:])

        def passes(item: Any) -> bool:
            subject = _attribute(context, item, attribute)
            if not test:
                return bool(subject)
            return bool(environment.call_test(str(test[0]), subject, rest, {}, context=context))

        return [item for item in meter.items(value) if passes(item) == keep]

    return select


FILTERS: dict[str, Callable[..., Any]] = {
    **{name: metered(_text_method(name)) for name in ("upper", "lower", "title", "capitalize")},
    **dict.fromkeys(("default", "d"), metered(_default)),
    **dict.fromkeys(("length", "count"), metered(_length)),
    "trim": metered(_trim),
    "string": metered(Meter.text),
    "wordcount": metered(lambda meter, value: len(split(meter, meter.text(value)))),
    "int": metered(lambda _, value, default=0: _number(value, int, default)),
    "float": metered(lambda _, value, default=0.0: _number(value, float, default)),
    "round": metered(_round),
    "abs": metered(_abs),
    "join": _join,
    "first": _first,
    "last": _last,
    "list": metered(Meter.items),
    "reverse": metered(_reverse),
    "sort": _sort,
    "min": _min,
    "max": _max,
    "sum": _sum,
    "unique": metered(_unique),
    "replace": metered(replace),
    "indent": metered(_indent),
    "truncate": metered(_truncate),
    "tojson": metered(_tojson),
    "items": metered(_pairs),
    "dictsort": metered(_dictsort),
    "map": _map,
    "select": _selecting(keep=True, by_attribute=False),
    "reject": _selecting(keep=False, by_attribute=False),
    "selectattr": _selecting(keep=True, by_attribute=True),
    "rejectattr": _selecting(keep=False, by_attribute=True),
}
