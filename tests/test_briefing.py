"""What an agent is told at the start of its turn."""

from __future__ import annotations

from typing import Any

from orchestra.graph.briefing import NOTHING, briefing, upstream
from orchestra.graph.topology import Topology, analyse
from tests.programs import Written


def review() -> Topology:
    written = Written(["sec", "arch", "critic", "out"])
    written.edge("START", ["sec", "arch"])
    written.edge(["sec", "arch"], ["critic"])
    written.edge("critic", ["sec", "arch", "out"], loops=2, chosen=True)
    written.edge("out", ["END"])
    return analyse(written.nodes, written.edges)


def told(node: str, *, turn: int = 1, context: Any = "upstream", **state: Any) -> str:
    return briefing(node, state, review(), context=context, turn=turn)


OUTPUTS = {"sec": "a hole", "arch": {"layers": "wrong"}, "critic": "look again"}


def test_upstream_is_who_has_an_edge_here_joins_looked_through() -> None:
    assert upstream(review(), "critic") == ("sec", "arch")
    assert upstream(review(), "sec") == ("critic",)
    assert upstream(review(), "out") == ("critic",)


def test_where_there_is_nothing_to_tell_the_turn_still_begins() -> None:
    assert told("sec") == NOTHING
    assert told("critic", context="none", agent_outputs=OUTPUTS) == NOTHING


def test_inputs_come_first_and_empty_ones_not_at_all() -> None:
    text = told("sec", inputs={"base": "main", "note": "", "data": None, "count": 0})
    assert text == "# Inputs\n\n## base\n\nmain\n\n## count\n\n```json\n0\n```"


def test_outputs_of_those_upstream_are_told_in_the_order_of_the_file() -> None:
    text = told("critic", agent_outputs=OUTPUTS)
    assert text.startswith("# What the others handed over\n\n## sec\n\na hole\n\n## arch\n\n```json\n{")
    assert "look again" not in text


def test_context_all_tells_of_everyone_else() -> None:
    text = told("out", context="all", agent_outputs=OUTPUTS | {"out": "mine"})
    assert all(f"## {name}\n" in text for name in OUTPUTS)
    assert "mine" not in text


def test_a_second_turn_says_which_it_is_who_sent_it_back_and_what_was_said_before() -> None:
    text = told("sec", turn=2, agent_outputs=OUTPUTS, choices={"critic#2": ["sec"]})
    assert text.startswith("This is your turn 2. 'critic' sent the work back to you; what follows says why.")
    assert "## critic\n\nlook again" in text
    assert text.endswith("# What you handed over in your last turn\n\n## sec\n\na hole")


def test_who_was_not_asked_again_is_not_told_that_it_was() -> None:
    text = told("critic", turn=2, agent_outputs=OUTPUTS, choices={"critic#2": ["sec"]})
    assert text.startswith("This is your turn 2.\n")
    assert "sent the work back" not in text


def test_without_context_a_second_turn_still_says_so() -> None:
    assert told("sec", turn=3, context="none", agent_outputs=OUTPUTS) == "This is your turn 3."


RECORD = {
    "repo": "app",
    "who": [["sec"], ["arch"]],
    "conflict": {"paths": [["src/a.py", "content"], ["b\n.txt", "modify/delete"]]},
}


def test_a_conflict_is_told_with_its_files_whose_changes_they_are_and_why() -> None:
    text = told("critic", agent_outputs=OUTPUTS, _merging={"critic": RECORD})

    assert text.startswith("# A conflict to resolve")
    assert "The changes of 'sec' and of 'arch' in the repository 'app' conflict." in text
    assert '- "src/a.py" (content)\n- "b\\n.txt" (modify/delete)' in text
    assert text.count("a hole") == 1


def test_who_gets_no_context_gets_the_reasons_of_a_conflict_nevertheless() -> None:
    text = told("critic", context="none", agent_outputs=OUTPUTS, _merging={"critic": RECORD})

    assert "# What they said of their changes" in text
    assert "a hole" in text
    assert '"layers": "wrong"' in text


def test_a_further_conflict_is_called_so_on_a_further_turn() -> None:
    text = told("critic", turn=2, agent_outputs=OUTPUTS, _merging={"critic": RECORD})

    assert text.startswith("This is your turn 2: merging went on after your last one, and met a further conflict.")


def test_nothing_is_told_of_a_conflict_that_is_resolved_or_of_another_agent() -> None:
    assert "conflict" not in told("critic", agent_outputs=OUTPUTS, _merging={"critic": {}, "out": RECORD})
