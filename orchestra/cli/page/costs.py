"""What a session has cost, per agent and per model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.cli.page.html import el
from orchestra.cli.page.words import cost, duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestra.cli.page.html import Element, Node
    from orchestra.runtime.report.spending import Spending, Spent

_HEADS = ("model calls", "failed", "tokens in", "of them cached", "tokens out", "model time", "cost")


def costs(spending: Spending) -> Iterator[Node]:
    """Yield the tables."""
    if not spending.total.calls and not spending.total.failed:
        yield el("p", "No model was called.", class_="dim")
        return
    yield el("div", _table("agent", spending.agents, spending.total), class_="scroll")
    yield el("div", _table("model", spending.models, None), class_="scroll")


def _table(what: str, rows: Mapping[str, Spent], total: Spent | None) -> Element:
    heads = [el("th", what, scope="col"), *(el("th", head, scope="col", class_="number") for head in _HEADS)]
    body = [el("tr", el("th", name, scope="row"), _cells(spent)) for name, spent in rows.items()]
    foot = el("tfoot", el("tr", el("th", "all", scope="row"), _cells(total))) if total else ""
    return el("table", el("thead", el("tr", heads)), el("tbody", body), foot, class_="costs")


def _cells(spent: Spent) -> list[Element]:
    numbers = (
        f"{spent.calls:,}",
        f"{spent.failed:,}" if spent.failed else "-",
        f"{spent.input_tokens:,}",
        f"{spent.cached_tokens:,}" if spent.cached_tokens else "-",
        f"{spent.output_tokens:,}",
        duration(spent.seconds),
        cost(spent),
    )
    return [el("td", number, class_="number") for number in numbers]
