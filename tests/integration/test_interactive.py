"""Interactive agents without a person at hand, and a session that has had its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conftest import Workshop


def pipeline(**agent: Any) -> dict[str, Any]:
    return {
        "name": "talk",
        "agents": {
            "talker": {
                "task": {"template": "Talk."},
                "model": "m",
                "mode": "interactive",
                "tools": ["write-file"],
                **agent,
            }
        },
        "graph": [{"from": "START", "to": "talker"}, {"from": "talker", "to": "END"}],
    }


SCRIPT = {
    "talker": [
        [{"tools": [{"name": "repo:write-file", "args": {"path": "a.txt", "content": "a\n"}}]}, {"text": "Shall I?"}]
    ]
}


async def test_an_absent_person_lets_the_first_answer_stand_with_the_commits_it_was_made_on(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(pipeline(when_absent="finish"), script=SCRIPT))

    assert result.commits == {"repo": workshop.repo.git("rev-parse", result.branches["repo"])}
    decision = {"decision": "done", "reason": None, "text": "Shall I?", "commits": result.commits}
    assert result.agent_outputs == {"talker": decision}


def test_a_question_without_a_person_pauses_the_session(workshop: Workshop) -> None:
    document = workshop.json("run", workshop.pipeline(pipeline(), script=SCRIPT), "-q", code=3)

    assert document["status"] == "paused"
    assert document["waiting_for"] == {"agent": "talker", "text": "Shall I?"}
    assert workshop.json("resume", document["session_id"], "-q", code=3)["status"] == "paused"


async def test_a_time_limit_cuts_a_turn_that_takes_too_long(workshop: Workshop) -> None:
    slow = {"talker": [[{"text": "late", "delay": 60}]]}
    path = workshop.pipeline(pipeline(when_absent="finish") | {"limits": {"timeout": 0.5}}, script=slow)

    result = await workshop.run(path)

    assert result.record.error is not None
    assert result.record.error["code"] == "timeout"
    assert "turn_ended" not in {event.type for event in workshop.events}
