"""The state of a session as the live view folds it from events."""

from __future__ import annotations

import time
from unittest.mock import Mock

import pytest

from orchestra.cli.live import fitting
from orchestra.cli.live.fitting import Count, Group, fit
from orchestra.cli.live.lane import Lane, State
from orchestra.cli.live.words import activity, at_work, cost, duration, spending, tokens
from orchestra.cli.route import route
from orchestra.runtime.observability import Event
from orchestra.runtime.spending import Usage
from tests.livekit import BRANCHES, TWELVE, Told, busy

TIMES = "\N{MULTIPLICATION SIGN}"


def doing(told: Told, name: str) -> str:
    lane = told.board.lanes[name]
    what, lasts = activity(lane, told.board.state_of(lane), told.now)
    return f"{what} {lasts}".strip()


def states(told: Told) -> dict[str, State]:
    return {name: told.board.state_of(lane) for name, lane in told.board.lanes.items()}


class TestAnAgent:
    def test_all_wait_before_anything_has_begun(self) -> None:
        told = Told()
        assert list(told.board.lanes) == [name for name, _ in TWELVE]
        assert set(states(told).values()) == {State.WAITING}

    def test_what_it_does_is_told_with_how_long_it_takes(self) -> None:
        told = busy()
        assert doing(told, "security") == "writing"
        assert doing(told, "style-fix") == "runs make check 3 s"
        assert doing(told, "docs") == "retries in 3 s (rate limit)"
        told.after(60)
        assert doing(told, "docs") == "retries (rate limit)"
        assert doing(told, "style-fix") == "runs make check 1 m 03 s"
        told.tell("model_started", "docs")
        told.after(2)
        assert doing(told, "docs") == "thinking 2 s"

    def test_several_calls_of_tools_at_once_are_counted(self) -> None:
        told = busy()
        told.tell("tool_started", "style-fix", tool="repo:read-file", args={"path": "a.py"}, call="2")
        assert doing(told, "style-fix") == "reads a.py and 1 more"
        told.tell("tool_ended", "style-fix", tool="repo:read-file", call="2", ok=True)
        assert doing(told, "style-fix") == "runs make check 3 s"

    def test_a_log_without_numbers_of_calls_is_understood(self) -> None:
        told = Told()
        told.starts("planner")
        told.tell("tool_started", "planner", tool="repo:read-file", args={"path": "a.py"})
        assert doing(told, "planner") == "reads a.py"
        told.tell("tool_ended", "planner", tool="repo:read-file", ok=True)
        assert doing(told, "planner") == "at work"

    def test_its_clock_stands_still_between_its_turns(self) -> None:
        told = Told()
        told.does("planner")
        told.after(100)
        told.does("planner", turn=2)
        assert told.board.lanes["planner"].seconds(told.now + 50) == pytest.approx(4.0)
        assert (told.board.lanes["planner"].turns, states(told)["planner"]) == (2, State.DONE)

    def test_one_that_failed_says_why_and_may_begin_again(self) -> None:
        told = Told()
        told.starts("planner")
        told.tell("turn_failed", "planner", code="x", message="no\nkey", tries_left=1)
        assert (states(told)["planner"], doing(told, "planner")) == (State.FAILED, "failed: no key")
        told.starts("planner")
        assert (states(told)["planner"], doing(told, "planner")) == (State.RUNNING, "at work")

    def test_one_that_asks_waits_until_it_is_answered(self) -> None:
        told = Told()
        told.starts("reporter")
        told.tell("question_asked", "reporter", id="q", agent="reporter", turn=1, text="Well?")
        assert (states(told)["reporter"], doing(told, "reporter")) == (State.ASKING, "waits for you")
        told.tell("human_turn", "reporter", question="q", kind="message", text="yes", by="terminal")
        assert states(told)["reporter"] is State.RUNNING

    def test_a_conflict_lies_with_who_resolves_it_until_that_turn_ends(self) -> None:
        told = Told()
        told.tell("merged", repo="r", join="join.merger", commit="1" * 40, **{"from": "docs"})
        assert doing(told, "merger") == "takes in the work of docs"
        told.tell("conflict", n=1, repo="r", target="merger", resolver="agent", agents=["a", "b"], paths=[["x", "y"]])
        assert states(told)["merger"] is State.CONFLICT
        told.starts("merger")
        assert doing(told, "merger") == "conflict: at work"
        told.ends("merger")
        assert states(told)["merger"] is State.DONE

    def test_a_conflict_that_a_person_resolved_is_none_any_more(self) -> None:
        told = Told()
        told.tell("conflict", n=1, repo="r", target="merger", resolver="human", agents=[], paths=[])
        told.tell("conflict_resolved", n=1, repo="r", commit="1" * 40)
        assert states(told)["merger"] is State.WAITING

    def test_only_what_is_spoken_to_nobody_are_last_lines(self) -> None:
        told = Told()
        told.starts("planner", "docs")
        told.writes("planner", "To nobody.")
        told.tell("text_delta", "docs", text="To a person.")
        assert (told.board.speaker, told.board.lanes["docs"].text) == ("planner", "")
        told.ends("planner")
        assert told.board.speaker is None


class TestASession:
    def test_what_was_under_way_when_the_driver_was_killed_is_not_until_it_says_so(self) -> None:
        told = busy()
        told.after(1_000)
        told.tell("session_resumed", session_id="7kq2mfzd", pipeline="review", file="f")
        assert not [lane.name for lane in told.board.lanes.values() if lane.is_at_work]
        assert told.board.seconds(told.now) == pytest.approx(5.0), "nobody worked in between"
        told.tell("turn_started", "style-fix", resumed=True)
        assert doing(told, "style-fix") == "at work"
        assert told.board.lanes["style-fix"].seconds(told.now) == pytest.approx(3.0)

    def test_in_a_fork_what_the_source_did_is_over(self) -> None:
        told = busy()
        told.tell("session_forked", session_id="aaaaaaaa", checkpoint_id="1", changes=[])
        told.tell("session_resumed", session_id="bbbbbbbb", pipeline="review", file="f")
        assert told.board.session == "bbbbbbbb"
        assert "security" not in at_work(told.board, told.now)
        assert states(told)["planner"] is State.DONE

    @pytest.mark.parametrize("broken", [None, [], {"nodes": 5}, {"pipeline": "p", "nodes": [{"name": "a"}]}])
    def test_without_a_graph_the_agents_come_as_they_begin(self, broken: object) -> None:
        told = Told(None)
        told.tell("session_resumed", session_id="7kq2mfzd", pipeline="p", file="f", graph=broken)
        assert told.board.lanes == {}
        told.starts("planner")
        assert list(told.board.lanes) == ["planner"]

    @pytest.mark.parametrize(
        ("kind", "payload"),
        [
            ("turn_started", {}),
            ("tool_started", {}),
            ("tool_started", {"tool": 1, "args": [1]}),
            ("model_ended", {"input_tokens": "many"}),
            ("model_failed", {"retry_in": "soon"}),
            ("condition_chose", {"targets": None}),
            ("text_delta", {"spoken": False}),
            ("conflict", {"n": [], "target": 5}),
            ("merged", {}),
            ("session_resumed", {}),
            ("nothing_known", {"x": 1}),
        ],
    )
    def test_an_event_that_makes_no_sense_harms_nothing(self, kind: str, payload: dict[str, object]) -> None:
        told = busy()
        for node, turn in ((None, None), ("security", 1), ("nobody", None)):
            told.board.take(Event(99, "not a time", kind, node, turn, None, payload))
        assert at_work(told.board, told.now)
        assert fit(told.board, 20)

    def test_it_is_told_in_one_line(self) -> None:
        told = busy()
        assert at_work(told.board, told.now) == (
            "3 agents: security (writing), style-fix (runs make check for 3 s), docs (retries in 3 s (rate limit))"
        )
        assert spending(told.board) == "2,400 tokens, >$0.01"
        told.starts("planner", turn=2)
        assert "planner (turn 2, at work)" in at_work(told.board, told.now)

    @pytest.mark.parametrize(
        ("seconds", "said"), [(0.9, "0 s"), (59, "59 s"), (60, "1 m 00 s"), (3_599, "59 m 59 s"), (7_260, "2 h 01 m")]
    )
    def test_times_are_short(self, seconds: float, said: str) -> None:
        assert duration(seconds) == said

    @pytest.mark.parametrize(
        ("usage", "said"),
        [
            (Usage(), ("", "")),
            (Usage(1, 900, 0, 50, 0.001), ("950", "<$0.01")),
            (Usage(2, 9_000, 0, 500, 1.234), ("9.5k", "$1.23")),
            (Usage(2, 123_456, 0, 500, 1.0, 1), ("124k", ">$1.00")),
            (Usage(2, 1_234_567, 0, 0, 0.0, 2), ("1.2M", "$?")),
        ],
    )
    def test_numbers_are_short_and_an_unknown_price_is_no_price(self, usage: Usage, said: tuple[str, str]) -> None:
        assert (tokens(usage), cost(usage)) == said


def many_branches() -> Told:
    """Forty branches of two agents each."""
    return Told([(f"{name}{number}", (f"c{number}",)) for number in range(40) for name in "ab"])


class TestWhatFits:
    def shown(self, told: Told, most: int) -> list[object]:
        rows = fit(told.board, most)
        assert self.size(rows) <= most
        return [
            row.name
            if isinstance(row, Lane)
            else (row.name, [one.name for one in row.rows if isinstance(one, Lane)])
            if isinstance(row, Group)
            else len(row.lanes)
            for row in rows
        ]

    def size(self, rows: object) -> int:
        assert isinstance(rows, list | tuple)
        return sum(1 + (self.size(row.rows) if isinstance(row, Group) else 0) for row in rows)

    def test_where_there_is_room_each_agent_has_a_line(self) -> None:
        branches = [(branch, [*names]) for branch, names in BRANCHES.items()]
        assert self.shown(busy(), 20) == ["planner", *branches, "merger", "reporter"]

    def test_a_finished_branch_has_one(self) -> None:
        told = busy()
        told.ends("docs")
        told.does("docs-fix", "docs-test")
        assert ("docs", []) in self.shown(told, 20)

    def test_finished_agents_go_first_then_the_last_of_those_that_wait(self) -> None:
        assert self.shown(busy(), 13) == [
            *(("security", ["security", "security-fix", "security-test"]), ("style", ["style-fix", "style-test"])),
            *(("docs", ["docs", "docs-fix", "docs-test"]), "merger", 2),
        ]
        assert self.shown(busy(), 7) == [("security", ["security"]), ("style", ["style-fix"]), ("docs", ["docs"]), 3]

    def test_at_the_very_end_those_that_work_are_counted_too(self) -> None:
        for most in range(1, 8):
            rows = fit(busy().board, most)
            assert sum(len(row.lanes) if isinstance(row, Group | Count) else 1 for row in rows) == len(TWELVE)
            self.shown(busy(), most)

    def test_of_too_many_branches_those_stay_where_something_happens(self) -> None:
        told = many_branches()
        for name in ("a0", "b0", "a1", "b1"):
            told.does(name)
        told.starts("a8", "a30", "a38")
        told.tell("question_asked", "a30", id="q", agent="a30", turn=1, text="?")
        assert self.shown(told, 5) == [("c2", []), ("c8", []), ("c30", []), ("c38", []), 72]

    def test_hundreds_of_agents_are_not_tried_one_after_the_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measure = Mock(wraps=fitting._size)
        monkeypatch.setattr(fitting, "_size", measure)
        fit(many_branches().board, 20)
        assert measure.call_count < 20 * 40

    def test_a_branch_of_one_agent_is_that_agent(self) -> None:
        told = Told((("a", ("a",)), ("b", ("b",)), ("c", ())))
        assert self.shown(told, 10) == ["a", "b", "c"]

    def test_branches_lie_in_branches(self) -> None:
        told = Told((("a", ("a",)), ("b", ("a", "b")), ("c", ("a", "b")), ("d", ("a",)), ("e", ("e",))))
        (outer, last) = fit(told.board, 10)
        assert isinstance(outer, Group)
        assert isinstance(outer.rows[1], Group)
        assert [lane.name for lane in outer.rows[1].lanes] == ["b", "c"]
        assert isinstance(last, Lane)


class TestTheWay:
    def test_a_loop_in_a_branch_may_have_thousands_of_turns(self) -> None:
        told = Told((("a", ("x",)), ("b", ("x",)), ("c", ("y",))))
        for turn in range(1, 5_001):
            told.starts("a", turn=turn)
            told.ends("a", turn=turn)
        before = time.process_time()
        assert route(told.board) == f"a {TIMES}5000"
        assert time.process_time() - before < 0.5

    def test_turns_at_the_same_time_stand_beside_each_other(self) -> None:
        told = busy()
        told.ends("security", "docs", "style-fix")
        told.does("merger")
        told.tell("session_completed")
        assert route(told.board) == "planner → (security, style → style-fix, docs) → merger → END"

    def test_what_comes_again_is_counted(self) -> None:
        told = Told((("critic", ()), ("fixer", ()), ("reporter", ())))
        for turn in (1, 2, 3):
            told.does("critic", turn=turn, chose="fixer")
            told.does("fixer", turn=turn)
        told.does("critic", turn=4, chose="reporter")
        told.does("reporter", turn=1)
        told.does("reporter", turn=2)
        assert route(told.board) == f"(critic → fixer) {TIMES}3 → critic → reporter {TIMES}2"

    def test_a_turn_that_goes_on_after_a_kill_is_one(self) -> None:
        told = Told((("critic", ()),))
        told.starts("critic")
        told.tell("session_resumed", session_id="7kq2mfzd", pipeline="review", file="f")
        told.starts("critic")
        told.ends("critic")
        assert route(told.board) == "critic"
