"""How two sessions look beside each other."""

from __future__ import annotations

import difflib
from itertools import islice
from typing import TYPE_CHECKING, Any

from orchestra.cli.render import as_json, escape, escape_prose

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestra.cli.styles import Styles
    from orchestra.runtime.comparison import Comparison, Side

MOST_LINES = 2_000
"""Lines of an output that are compared line by line."""


def render_comparison(comparison: Comparison, styles: Styles) -> str:
    """Render what differs but the files; nothing in it can steer a terminal but the styles."""
    parts = [part(comparison, styles) for part in (_table, _models, _route, _outputs)]
    return "\n".join("".join(f"{line}\n" for line in part) for part in parts)


def _table(comparison: Comparison, styles: Styles) -> Iterator[str]:
    columns = [_facts(side) for side in comparison.sides]
    widths = [max(map(len, column.values())) for column in columns]
    for number, name in enumerate(columns[0]):
        cells = [column[name].ljust(width) for column, width in zip(columns, widths, strict=True)]
        line = f"{name:<10}{'  '.join(cells)}".rstrip()
        yield line if number else styles.bold(line)


def _facts(side: Side) -> dict[str, str]:
    usage = side.record.usage
    cost = usage["cost_usd"]
    return {
        "session": escape(side.record.session_id),
        "pipeline": escape(side.record.pipeline),
        "status": str(side.record.status),
        "turns": f"{side.turns:,}",
        "in turns": f"{side.seconds:.1f} s",
        "calls": f"{usage['model_calls']:,}",
        "tokens": f"{usage['input_tokens'] + usage['output_tokens']:,}",
        "cost": "unknown" if cost is None else f"${cost:.4f}",
    }


def _models(comparison: Comparison, styles: Styles) -> Iterator[str]:
    first, second = (side.models for side in comparison.sides)
    if first == second:
        yield styles.bold("Models: the same")
        return
    yield styles.bold("Models")
    agents = dict.fromkeys((*first, *second))
    rows = [
        [escape(agent), *(escape(", ".join(side.get(agent, ("-",)))) for side in (first, second))] for agent in agents
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _route(comparison: Comparison, styles: Styles) -> Iterator[str]:
    first, second = (side.route for side in comparison.sides)
    if first == second:
        yield styles.bold("Route: the same")
        return
    yield styles.bold("Route")
    yield from _changed(first, second, styles, around=len(first))


def _outputs(comparison: Comparison, styles: Styles) -> Iterator[str]:
    different = {name: pair for name, pair in comparison.outputs.items() if pair[0] != pair[1]}
    same = [name for name in comparison.outputs if name not in different]
    for name, pair in different.items():
        yield styles.bold(f"Output of {escape(name)}")
        first, second = (_text(value).split("\n") for value in pair)
        if max(len(first), len(second)) > MOST_LINES:
            yield f"  differs: {len(first):,} and {len(second):,} lines"
        else:
            yield from _changed(first, second, styles, around=2)
    if same:
        yield styles.bold("Output: the same") + f" of {escape(', '.join(same))}"


def _text(value: Any) -> str:
    if value is None:
        return "(none)"
    return value if isinstance(value, str) else as_json(value)


def _changed(first: Sequence[str], second: Sequence[str], styles: Styles, *, around: int) -> Iterator[str]:
    for line in islice(difflib.unified_diff(first, second, lineterm="", n=around), 2, None):
        shown = f"  {escape_prose(line)}"
        if line.startswith("@@"):
            continue
        yield styles.added(shown) if line[0] == "+" else styles.removed(shown) if line[0] == "-" else shown
