"""When a report says that who was at work: folded from the times of events."""

from __future__ import annotations

from typing import Any

from orchestra.runtime.observability import Event
from orchestra.runtime.report.overview import TurnFacts, fold_overview

Told = tuple[int, str, dict[str, Any]]


def facts_of(*told: Told, is_driven: bool = False) -> TurnFacts:
    """Fold events of one attempt of one turn, each at a second."""
    events = (
        Event(seq, f"2026-11-27T03:00:{second:02d}+00:00", kind, "one", 1, 1, payload)
        for seq, (second, kind, payload) in enumerate(told, 1)
    )
    (facts,) = fold_overview(events, is_driven=is_driven).turns
    return facts


def bars(facts: TurnFacts) -> list[tuple[float, bool]]:
    return [((part.end or part.start) - part.start, part.ok) for part in facts.stretches if part.kind == "turn"]


BEGAN: tuple[Told, ...] = ((0, "turn_started", {}), (0, "model_started", {"model": "m"}))
FAILED: Told = (2, "turn_failed", {"tries_left": 1})


def test_an_attempt_that_goes_on_after_a_failure_is_at_work_again() -> None:
    again: list[Told] = [
        (2, "model_started", {"model": "m"}),
        (5, "model_ended", {}),
        (6, "turn_ended", {"duration_s": 6.0}),
    ]
    facts = facts_of(*BEGAN, FAILED, *again)
    assert bars(facts) == [(2.0, False), (4.0, True)]
    assert (facts.seconds, facts.state) == (6.0, "done")


def test_who_has_failed_and_is_tried_again_is_at_work_as_long_as_somebody_drives() -> None:
    assert facts_of(*BEGAN, FAILED, is_driven=True).state == "running"
    assert facts_of(*BEGAN, FAILED).state == "interrupted"
    assert facts_of(*BEGAN, (2, "turn_failed", {"tries_left": 0})).state == "failed"


def test_who_was_left_by_people_is_not_at_work_until_an_answer_comes() -> None:
    asked: list[Told] = [(1, "question_asked", {}), (2, "question_left", {})]
    facts = facts_of((0, "turn_started", {}), *asked, (9, "human_turn", {}), (10, "turn_ended", {}))
    assert bars(facts) == [(2.0, True), (1.0, True)]
