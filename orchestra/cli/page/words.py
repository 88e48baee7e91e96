"""How numbers and times read on a page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestra.cli.prices import price_of

if TYPE_CHECKING:
    from orchestra.runtime.spending import Usage

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_TENTHS_UP_TO = 10
_NOTHING = 0.0005
"""What rounds to a millisecond is something."""


def duration(seconds: float) -> str:
    """Say how long something took."""
    if seconds < _MINUTE:
        return _short(seconds)
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR:02d} h"


def _short(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= _NOTHING else "0 s"
    return f"{seconds:.1f} s" if seconds < _TENTHS_UP_TO else f"{seconds:.0f} s"


def clock(seconds: float, *, day: bool = False) -> str:
    """Return a time of day in UTC, with its date where that is wanted."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S" if day else "%H:%M:%S")


def counted(count: int, what: str, many: str | None = None) -> str:
    """Return a number with what it counts."""
    return f"{count:,} {what if count == 1 else many or what + 's'}"


def cost(usage: Usage) -> str:
    """Say what calls have cost: unknown stays unknown, and what is known of a part is the least."""
    return price_of(usage).removeprefix("cost ") if usage.model_calls else "nothing"


def tokens(usage: Usage) -> str:
    """Say how many tokens went in and out."""
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    return f"{usage.input_tokens:,} in{cached}, {usage.output_tokens:,} out"
