"""How a person names a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError, PipelineError, SessionError
from orchestra.runtime.naming import CheckpointName, find_by_id, find_checkpoint, short_id
from orchestra.runtime.spans import is_inside, spans_of
from tests.pastkit import fork

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pastkit import Past


def named(past: Past, **name: Any) -> dict[str, Any]:
    return find_checkpoint(past.files, CheckpointName(**name))


def refused(past: Past, **name: Any) -> OrchestraError:
    with pytest.raises(OrchestraError) as caught:
        named(past, **name)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


def test_a_unique_beginning_of_an_id_names_its_checkpoint_with_or_without_dashes(past: Past) -> None:
    for row in past.rows:
        short = short_id(past.rows, row)
        assert row["checkpoint_id"].startswith(short)
        for typed in (row["checkpoint_id"], short, short.upper(), row["checkpoint_id"].replace("-", "")):
            assert named(past, checkpoint=typed) == row


def test_an_ambiguous_beginning_lists_what_it_may_mean_and_where_that_lies(past: Past) -> None:
    error = refused(past, checkpoint=past.rows[0]["checkpoint_id"][:4])

    assert error.code == "ambiguous-checkpoint"
    head, first, *others = error.message.splitlines()
    assert head.startswith(f"{len(past.rows)} checkpoints of the session {past.session} begin with")
    assert first == f"  {short_id(past.rows, past.rows[0])}  before planner"
    assert "inside planner, step 0" in others[2]
    assert others[-1] == f"  and {len(past.rows) - 8} more"


def test_an_id_that_two_namespaces_have_names_the_outer_checkpoint() -> None:
    rows: list[dict[str, Any]] = [
        {"checkpoint_id": "1f0a", "checkpoint_ns": ns, "agent": None, "ended": [], "next": [], "step": step}
        for step, ns in enumerate(("a:1|b:2", "a:1", "", "", "a:1"))
    ]
    assert find_by_id(rows, "1f", session="s")["step"] == 3
    assert find_by_id(rows[:2], "1f", session="s")["step"] == 1


@pytest.mark.parametrize("typed", ["", "-", "0000", "1f1e9ed1-zzzz", "%", "1f*"])
def test_an_id_that_nothing_begins_with_is_unknown(past: Past, typed: str) -> None:
    assert refused(past, checkpoint=typed).code == "unknown-checkpoint"


def test_near_ids_are_offered_for_a_mistyped_one() -> None:
    rows = [
        {"checkpoint_id": f"1f1e9ed1-{time}-6ab2-bfff-0123456789ab", "checkpoint_ns": ""} for time in ("8aa7", "9c01")
    ]
    with pytest.raises(SessionError) as caught:
        find_by_id(rows, "1f1e9ed1-8ab7", session="s")
    assert caught.value.hint == "did you mean '1f1e9ed1-8aa7' or '1f1e9ed1-9c01'?"


def test_an_agent_names_the_end_of_its_last_turn_or_of_the_one_that_is_asked_for(past: Past) -> None:
    assert named(past, agent="lead") == past.ended("lead", 2)
    assert named(past, agent="lead", turn=1) == past.ended("lead", 1)
    assert named(past, agent="more") == past.ended("more", 1), "inside a branch"
    assert named(past, agent="odd", turn=1) == past.ended("odd", 1), "a step"


def test_before_names_the_newest_checkpoint_from_which_an_agent_starts(past: Past) -> None:
    rows = past.rows
    for agent, turn in (("planner", 1), ("left", 1), ("right", 1), ("more", 1), ("lead", 1), ("lead", 2), ("odd", 1)):
        row = named(past, before=agent, turn=turn)
        began = spans_of(rows)[agent, turn].began
        assert agent in row["next"]
        assert not is_inside(row)
        assert rows.index(row) < began
        assert not any(agent in later["next"] for later in rows[rows.index(row) + 1 : began] if not is_inside(later))
    assert named(past, before="lead") == past.ended("critic", 1)
    assert named(past, before="more") == past.ended("right", 1)
    assert "join.lead" in named(past, before="join.lead")["next"]


def test_before_names_also_what_has_not_begun(past: Past, tmp_path: Path) -> None:
    own = past.copied(tmp_path / "copy")
    row = own.ended("critic", 1)
    waiting = fork(own.root, own.files, "f0rk", row, seq=own.rows.index(row) + 1)

    def before(**name: Any) -> dict[str, Any]:
        return find_checkpoint(waiting, CheckpointName(**name))

    assert before(before="lead", turn=2) == row, "about to begin"
    assert before(before="lead") == own.rows[37], "the last turn that began"
    with pytest.raises(SessionError, match="no turn 3 of 'lead' has begun"):
        before(before="lead", turn=3)
    with pytest.raises(SessionError, match=r"no turn 2 of 'lead' has ended .* ended: 1"):
        before(agent="lead", turn=2)


def test_a_step_is_one_of_the_root(past: Past) -> None:
    for row in (row for row in past.rows if not row["checkpoint_ns"]):
        assert named(past, step=row["step"]) == row
    error = refused(past, step=99)
    assert error.code == "unknown-checkpoint"
    assert error.hint == "its steps are -1 to 9"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ({"agent": "leed"}, "no agent or step 'leed'", "did you mean 'lead'?"),
        ({"agent": "somebody"}, "no agent or step 'somebody'", "agents and steps there: planner, left"),
        ({"agent": "lead", "turn": 7}, "no turn 7 of 'lead' has ended", "leave `--turn` out"),
        ({"before": "leed"}, "no agent or step 'leed'", "did you mean 'lead'?"),
        ({"before": "lead", "turn": 9}, "no turn 9 of 'lead' has begun", "leave `--turn` out"),
        ({"before": "join.leed"}, "has not come to 'join.leed'", "did you mean 'join.lead'?"),
    ],
)
def test_a_wrong_agent_or_turn_is_told_with_the_right_ones(
    past: Past, name: dict[str, Any], message: str, hint: str
) -> None:
    error = refused(past, **name)
    assert error.code == "unknown-checkpoint"
    assert message in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    "name",
    [
        {},
        {"turn": 1},
        {"checkpoint": "1f", "turn": 1},
        {"checkpoint": "1f", "agent": "lead"},
        {"agent": "lead", "before": "lead"},
        {"step": 1, "before": "lead"},
        {"before": "join.lead", "turn": 1},
    ],
)
def test_a_checkpoint_is_named_in_one_way(past: Past, name: dict[str, Any]) -> None:
    error = refused(past, **name)
    assert isinstance(error, PipelineError)
    assert error.code == "bad-option"
    assert CheckpointName(**name).is_given() is bool(name)


def test_a_turn_that_has_not_ended_has_its_checkpoints_and_no_end(past: Past) -> None:
    rows = past.rows
    at = next(place for place, row in enumerate(rows) if row["agent"] == "lead" and "app" in row["changed"])

    spans = spans_of(rows[: at + 1])

    assert spans["lead", 1].ended is None
    assert spans["lead", 1].inside[-1] == at
    assert spans_of(rows)["odd", 1].inside == ()
    assert next(iter(spans_of(rows))) == ("planner", 1)
