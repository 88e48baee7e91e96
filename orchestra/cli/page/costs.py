"""What a session has cost, per agent and per model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.cli.page.html import el
from orchestra.cli.page.words import cost, counted, duration
from orchestra.runtime.spending import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestra.cli.page.html import Element, Node
    from orchestra.runtime.report.overview import Overview, TurnFacts

MOST_ROWS = 300
"""Agents, and models, that are listed."""
_USED = ("model calls", "tokens in", "of them cached", "tokens out", "cost")
_DONE = ("turns", "time", "tool calls", "failed calls")


def costs(overview: Overview) -> Iterator[Node]:
    """Yield the tables: of agents and steps with what they did, and of models."""
    turns: dict[str, list[TurnFacts]] = {}
    for turn in overview.turns:
        turns.setdefault(turn.agent, []).append(turn)
    if not turns:
        yield el("p", "Nobody has done anything yet.", class_="dim")
        return
    spending = overview.spending
    agents = [(name, [*_done(of_one), *_used(spending.agents.get(name, Usage()))]) for name, of_one in [*turns.items()]]
    total = [*_done(overview.turns), *_used(spending.total)]
    yield from _table(("agent or step", *_DONE, *_USED), agents, total)
    if spending.models:
        yield from _table(("model", *_USED), [(name, [*_used(usage)]) for name, usage in spending.models.items()])


def _table(
    heads: Sequence[str], rows: Sequence[tuple[str, list[str]]], total: list[str] | None = None
) -> Iterator[Node]:
    first, *others = heads
    head = el("tr", el("th", first, scope="col"), [el("th", name, scope="col", class_="number") for name in others])
    body = [el("tr", el("th", name, scope="row"), _cells(cells)) for name, cells in rows[:MOST_ROWS]]
    foot = el("tfoot", el("tr", el("th", "all", scope="row"), _cells(total))) if total else ""
    yield el("div", el("table", el("thead", head), el("tbody", body), foot, class_="costs"), class_="scroll")
    if len(rows) > MOST_ROWS:
        yield el("p", f"{counted(len(rows) - MOST_ROWS, 'row')} left out", class_="left-out")


def _cells(texts: Sequence[str]) -> list[Element]:
    return [el("td", text, class_="number") for text in texts]


def _done(turns: Sequence[TurnFacts]) -> Iterator[str]:
    yield f"{len(turns):,}"
    yield duration(sum(turn.seconds for turn in turns))
    yield _count(sum(turn.tools.total() for turn in turns))
    yield _count(sum(turn.failed_calls + turn.failed_tools for turn in turns))


def _used(usage: Usage) -> Iterator[str]:
    yield _count(usage.model_calls)
    yield _count(usage.input_tokens)
    yield _count(usage.cached_tokens)
    yield _count(usage.output_tokens)
    yield cost(usage) if usage.model_calls else "-"


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"
