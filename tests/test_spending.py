"""What a session has cost, by agent and by model: nothing unknown is taken for nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.cli.prices import price_of
from orchestra.runtime.event_log import read_spending
from orchestra.runtime.spending import Spending, Usage
from orchestra.runtime.store import read_turns
from tests.commandkit import Said
from tests.session_support import agent, chain, says, writes

if TYPE_CHECKING:
    from tests.conftest import Workshop

PIPELINE: dict[str, Any] = {
    "name": "costs",
    "agents": {"one": agent(tools=["write-file"]), "two": agent(model="other"), "three": agent()},
    "graph": chain("one", "two", "three"),
}
CACHED = {"input_tokens": 900, "output_tokens": 40, "cached_tokens": 600, "cost_usd": 0.25}
SCRIPT = {
    "one": [[{**writes("a.txt", "1\n"), "usage": CACHED}, says("1", usage={"input_tokens": 100, "cost_usd": 0.5})]],
    "two": [[says("2", usage={"input_tokens": 10, "output_tokens": 3, "cost_usd": 0.125})]],
    "three": [[{"error": "overloaded", "times": 1}, says("3", usage={"input_tokens": 7, "cost_usd": 1})]],
}


async def test_a_session_tells_what_each_agent_and_each_model_has_cost(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(PIPELINE, script=SCRIPT))
    found = read_spending(result.record.files)

    assert found.total.as_json() == result.record.usage
    assert {name: usage.cost_usd for name, usage in found.agents.items()} == {"one": 0.75, "two": 0.125, "three": 1}
    assert {name: usage.model_calls for name, usage in found.models.items()} == {"offline/m": 3, "offline/other": 1}
    assert found.agents["one"].in_detail() == {
        "input_tokens": 1000,
        "output_tokens": 40,
        "model_calls": 2,
        "cost_usd": 0.75,
        "cached_tokens": 600,
        "known_cost_usd": 0.75,
        "unpriced_calls": 0,
    }
    assert [turn["cached_tokens"] for turn in read_turns(result.record.files)] == [600, 0, 0]

    (status,) = json.loads(Said("status", result.record.session_id, "--json", cwd=workshop.repo.path).out)
    assert status["spending"] == found.as_json()
    shown = Said("status", result.record.session_id, cwd=workshop.repo.path).out
    rows = [line.split() for line in shown.splitlines()]
    assert ["one", "2", "1,000", "600", "40", "$0.7500"] in rows
    assert ["offline/other", "1", "10", "0", "3", "$0.1250"] in rows
    (listed,) = json.loads(Said("status", "--json", cwd=workshop.repo.path).out)
    assert "spending" not in listed


async def test_the_cost_of_a_turn_with_a_call_of_unknown_price_is_unknown(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(PIPELINE, script=SCRIPT))
    from tests.test_store import damage

    damage(
        result.record.files,
        "UPDATE events SET payload = json_set(payload, '$.cost_usd', NULL) WHERE seq IN "
        "(SELECT MIN(seq) FROM events WHERE type = 'model_ended' GROUP BY node) AND node != 'three'",
    )
    assert [turn["cost_usd"] for turn in read_turns(result.record.files)] == [None, None, 1.0]
    found = read_spending(result.record.files)
    assert [price_of(usage) for usage in found.agents.values()] == ["at least $0.5000", "cost unknown", "$1.0000"]
    assert found.total.as_json()["cost_usd"] is None
    assert found.total.in_detail()["known_cost_usd"] == 1.5


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([], "$0.0000"),
        ([None], "cost unknown"),
        ([0.0, None], "cost unknown"),
        ([0.1, None], "at least $0.1000"),
        ([0.1, 0.2], "$0.3000"),
    ],
)
def test_a_cost_in_words_never_says_more_than_is_known(calls: list[float | None], words: str) -> None:
    usage = Usage()
    for cost in calls:
        usage.add({"cost_usd": cost})
    assert price_of(usage) == words


def test_a_call_of_an_old_or_odd_log_is_counted_with_what_it_says() -> None:
    spending = Spending()
    spending.add("one", {"input_tokens": None})
    assert spending.models.keys() == {"None/None"}
    assert spending.total.as_json() == {"input_tokens": 0, "output_tokens": 0, "model_calls": 1, "cost_usd": None}
