"""The bound on what a template may do, and the operations that it may do, each of which pays before it works.

Every operation that could be large (text built, a container walked, a loop's round) is charged to a `Meter`
beforehand, so no signal, thread or time limit is needed: a template ends within its budget or with an error.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from jinja2 import Undefined, pass_context
from jinja2.exceptions import TemplateRuntimeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jinja2.runtime import Context

P = ParamSpec("P")

MAX_STEPS = 1_000_000
"""Nodes evaluated, items walked; about a second of work on a slow machine."""
MAX_TEXT = 16_000_000
"""Characters in all texts built while rendering."""
MAX_BITS = 1024
MAX_RANGE = 100_000
CHARS_PER_STEP = 64
CALL_PRICE = 4


class TemplateLimitError(TemplateRuntimeError):
    """The template wants more work or text than it may have."""


class Meter:
    """What one rendering has left."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._text = MAX_TEXT

    @property
    def steps_left(self) -> int:
        """How many steps may still be taken."""
        return self._steps

    def step(self, count: int = 1) -> None:
        """Pay for work."""
        self._steps -= count
        if self._steps < 0:
            raise TemplateLimitError(f"the template does too much work (more than {MAX_STEPS:,} steps)")

    def chars(self, count: int) -> None:
        """Pay for text that is about to be built."""
        self._text -= count
        if self._text < 0:
            raise TemplateLimitError(f"the template builds too much text (more than {MAX_TEXT:,} characters)")
        self.step(count // CHARS_PER_STEP)

    def walk(self, value: Any) -> None:
        """Pay for an operation that looks at all of a value: comparing, sorting, printing."""
        waiting = [(value, 1)]
        while waiting:
            current, depth = waiting.pop()
            self.step(1 + depth // 8)
            if isinstance(current, str):
                self.step(len(current) // CHARS_PER_STEP)
            elif isinstance(current, Mapping):
                self.step(len(current))
                for key, item in current.items():
                    self.step(len(key) // CHARS_PER_STEP if isinstance(key, str) else 1)
                    waiting.append((item, depth + 1))
            elif isinstance(current, list | tuple):
                self.step(len(current))
                waiting.extend((item, depth + 1) for item in current)
            else:
                require_data(current)

    def text(self, value: Any) -> str:
        """Return a value as text: containers as JSON, everything else as Python prints it."""
        if isinstance(value, str):
            self.chars(len(value))
            return str(value)
        if isinstance(value, Mapping | list | tuple):
            return self.json(value, indent=2)
        require_data(value)
        return str(value)

    def json(self, value: Any, indent: int | None) -> str:
        """Return a value as JSON."""
        self.walk(value)
        text = json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)
        self.chars(len(text))
        return text

    def items(self, value: Any) -> list[Any]:
        """Return what a loop over the value gives."""
        if isinstance(value, Mapping | list | tuple | str):
            self.step(len(value))
            return list(value)
        require_data(value)
        raise TemplateRuntimeError(f"cannot loop over {kind_of(value)}")


class Rounds:
    """The items of a `for`, each paid for when it is taken, with the price of one round of the body."""

    def __init__(self, meter: Meter, items: list[Any], price: int) -> None:
        self._meter, self._items, self._price = meter, items, price

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._meter.step(self._price)
            yield item


def require_data(value: Any) -> None:
    """Refuse what is not plain data; an undefined value raises its own error."""
    if isinstance(value, Undefined):
        str(value)  # StrictUndefined raises, with the name; `x if y` without else is empty
        return
    if value is not None and not isinstance(value, str | int | float | Mapping | list | tuple):
        raise TemplateRuntimeError(f"{kind_of(value)} is not plain data")


def kind_of(value: Any) -> str:
    """Name a value's kind in the words of the pipeline's author."""
    if value is None:
        return "null"
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    return f"an object of type {type(value).__name__}"


_KINDS: tuple[tuple[Any, str], ...] = (
    (str, "a text"),
    (bool, "a boolean"),
    (int | float, "a number"),
    (Mapping, "a mapping"),
    (list | tuple, "a list"),
)


def binary(meter: Meter, symbol: str, left: Any, right: Any) -> Any:
    """Compute `left symbol right` for numbers, and the few cases for texts and lists that are useful."""
    for value in (left, right):
        require_data(value)
    if isinstance(left, int | float) and isinstance(right, int | float):
        _refuse_giant(symbol, left, right)
        result = _ARITHMETIC[symbol](left, right)
        if isinstance(result, complex):
            raise TemplateRuntimeError(f"{left} {symbol} {right} is not a real number")
        return result
    if symbol == "+" and isinstance(left, str) and isinstance(right, str):
        meter.chars(len(left) + len(right))
        return left + right
    if symbol == "+" and isinstance(left, list | tuple) and isinstance(right, list | tuple):
        meter.step(len(left) + len(right))
        return [*left, *right]
    if symbol == "*" and isinstance(right, int):
        if isinstance(left, str):
            meter.chars(len(left) * max(right, 0))
            return left * right
        if isinstance(left, list | tuple):
            meter.step(len(left) * max(right, 0))
            return list(left) * right
    hint = "; join texts with ~" if symbol in {"+", "%"} else ""
    raise TemplateRuntimeError(f"{symbol!r} does not work on {kind_of(left)} and {kind_of(right)}{hint}")


def _refuse_giant(symbol: str, left: float, right: float) -> None:
    if not (isinstance(left, int) and isinstance(right, int)):
        return
    bits = max(left.bit_length(), right.bit_length())
    if symbol == "*":
        bits = left.bit_length() + right.bit_length()
    elif symbol == "**":
        bits = left.bit_length() * max(right, 1) if abs(left) > 1 else 1
    if bits > MAX_BITS:
        raise TemplateLimitError(f"the result of {symbol!r} is too large a number")


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}


def contains(meter: Meter, item: Any, container: Any) -> bool:
    """Compute `item in container`."""
    require_data(item)
    if isinstance(container, Mapping):
        return isinstance(item, str | int | float) and item in container
    meter.walk(container)
    if isinstance(container, str):
        return isinstance(item, str) and item in container
    if isinstance(container, list | tuple):
        # Each item is compared with `item`, which is walked at most as far as the container reaches.
        return item in container
    raise TemplateRuntimeError(f"'in' does not work on {kind_of(container)}")


COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
}


def compare(meter: Meter, name: str, left: Any, right: Any) -> bool:
    """Compute a comparison by Jinja's name for it."""
    if name in {"in", "notin"}:
        return contains(meter, left, right) == (name == "in")
    meter.walk(left)
    meter.walk(right)
    return bool(COMPARISONS[name](left, right))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TemplateRuntimeError(f"{kind_of(value)} is not plain data")


def meter_of(context: Context) -> Meter:
    """Return the meter of the rendering that a filter is called in."""
    return context.environment.meter  # type: ignore[attr-defined, no-any-return]  # set by templates.Sandbox


def metered(function: Callable[Concatenate[Meter, P], Any]) -> Callable[..., Any]:
    """Hand the rendering's meter to a filter or test; taking the context also keeps Jinja from folding it early."""

    @pass_context
    def call(context: Context, *args: P.args, **kwargs: P.kwargs) -> Any:
        meter = meter_of(context)
        meter.step(CALL_PRICE)
        return function(meter, *args, **kwargs)

    return call
