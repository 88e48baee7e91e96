"""`orchestra respond`: answers from scripts, each given once, and nothing of them lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.agents.conversation import UnknownCommandError
from orchestra.errors import OrchestraError, SessionError
from orchestra.runtime.responding import Outcome, respond, wait_until_taken, what_is_asked
from orchestra.runtime.store import find_session
from tests import preloaded
from tests.integration.test_joins import CLASH, team
from tests.integration.test_mistreated_conflicts import HUMAN
from tests.preloaded import COMMAND
from tests.processes import exit_code, fork, until
from tests.session_support import assert_consistent, in_a_child, model_calls, says
from tests.talkkit import (
    THREE,
    answers,
    asked,
    inbox,
    session_of,
    somebody_present,
    status_of,
    talk,
    two_talkers,
    wait_for_question,
)

if TYPE_CHECKING:
    from orchestra.runtime.store import SessionFiles
    from tests.conftest import Workshop

SLOW: list[list[dict[str, Any]]] = [[{"text": "First.", "delay": 1}, {"text": "Second."}]]


def files_of(workshop: Workshop, session: str) -> SessionFiles:
    return find_session(workshop.repo.path, session)


def respond_to(workshop: Workshop, session: str, text: str) -> int:
    """Respond as the command does, without driving; the exit code."""
    try:
        respond(files_of(workshop, session), text)
    except OrchestraError as error:
        return error.exit_code
    return 0


async def paused(workshop: Workshop) -> str:
    result = await workshop.run(talk(workshop))
    assert result.record.status == "paused"
    return result.record.session_id


def test_a_script_reads_what_is_asked_and_answers_until_the_end(workshop: Workshop) -> None:
    started = workshop.json("run", talk(workshop), code=3)
    session = started["session_id"]
    heard = []
    said = iter(["go on", "and then?", "/approve"])

    while True:
        document = workshop.json("respond", session)
        if document["status"] != "paused":
            break
        (question,) = document["questions"]
        assert document["waiting_for"] == {"agent": "talker", "text": question["text"]}
        heard.append(question["text"])
        line = next(said)
        ended = line == "/approve"
        result = workshop.json("respond", session, line, "--question", question["id"], code=0 if ended else 3)
        assert list(result) == list(started)

    assert heard == ["First.", "Second.", "Third."]
    assert document == {"session_id": session, "status": "completed", "waiting_for": None, "questions": []}
    assert result["agent_outputs"]["talker"]["decision"] == "approve"
    assert [by for _, _, by in answers(workshop, session)] == ["respond"] * 3


def test_without_a_text_it_shows_people_what_is_asked(workshop: Workshop) -> None:
    session = workshop.json("run", talk(workshop, [{"text": "Is \x1b[31mred\x1b[0m fine?\nSay so."}]), code=3)[
        "session_id"
    ]

    shown = workshop.cli("respond", session)

    assert shown.returncode == 0
    assert shown.stdout == (
        "talker asks (talker.1.1.0):\n\nIs \\x1b[31mred\\x1b[0m fine?\nSay so.\n\n"
        f"answer with: orchestra respond {session} TEXT\n"
    )


def test_an_answer_is_read_from_standard_input(workshop: Workshop) -> None:
    session = workshop.json("run", talk(workshop), code=3)["session_id"]
    command = [COMMAND, "respond", session, "-", "--json"]
    done = preloaded.run(command, cwd=workshop.repo.path, env=workshop.environment(), input="/done with\nthis\n")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)["agent_outputs"]["talker"]
    assert (output["decision"], output["reason"]) == ("done", "with\nthis")


@pytest.mark.parametrize("text", ["", " \n", "/diff", "/help", "/aprove", "/undo now"])
async def test_what_is_no_answer_is_refused_and_answers_nothing(workshop: Workshop, text: str) -> None:
    session = await paused(workshop)
    (question,) = asked(workshop, session)

    with pytest.raises((SessionError, UnknownCommandError)) as caught:
        respond(files_of(workshop, session), text)

    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert inbox(workshop, session).answer(question.id) is None


async def test_where_several_ask_one_has_to_be_named(workshop: Workshop) -> None:
    session = (await workshop.run(two_talkers(workshop))).record.session_id
    files = files_of(workshop, session)

    with pytest.raises(SessionError) as caught:
        respond(files, "hello")
    assert (caught.value.code, caught.value.exit_code) == ("several-questions", 2)
    assert "left: I am left." in caught.value.message
    assert "right: I am right." in caught.value.message
    with pytest.raises(SessionError, match="no question of 'rihgt' is open") as caught:
        respond(files, "hello", agent="rihgt")
    assert caught.value.hint == "did you mean 'right'?"

    assert respond(files, "/done", agent="right").agent == "right"
    # Of the two that are open still, one is answered already.
    assert respond(files, "/approve").agent == "left"

    result = await workshop.resume(session)
    assert {name: result.agent_outputs[name]["decision"] for name in ("left", "right")} == {
        "left": "approve",
        "right": "done",
    }


async def test_an_answer_can_be_tied_to_the_question_that_was_read(workshop: Workshop) -> None:
    session = await paused(workshop)
    files = files_of(workshop, session)
    (first,) = asked(workshop, session)
    respond(files, "go on", question=first.id)
    await workshop.resume(session)

    with pytest.raises(SessionError, match="was answered already, through `respond`") as late:
        respond(files, "/approve", question=first.id)
    with pytest.raises(SessionError, match="no question 'talker") as wrong:
        respond(files, "/approve", question="talker.1.1.7")
    with pytest.raises(SessionError, match=r"no question '\.\./lock'"):
        respond(files, "/approve", question="../lock")

    assert (late.value.exit_code, wrong.value.exit_code) == (1, 2)
    assert late.value.hint == f"what is asked now: orchestra respond {session}"
    assert inbox(workshop, session).answer(asked(workshop, session)[0].id) is None


async def test_of_many_answers_at_once_one_counts(workshop: Workshop) -> None:
    session = await paused(workshop)
    (question,) = asked(workshop, session)
    gate = workshop.home / "gate"

    def answer(number: int) -> int:
        until(gate.exists, 30)
        return respond_to(workshop, session, f"answer {number}")

    processes = [fork(partial(answer, number)) for number in range(20)]
    gate.touch()
    codes = [exit_code(process) for process in processes]

    assert sorted(codes) == [0] + [1] * 19
    given = inbox(workshop, session).answer(question.id)
    assert given is not None
    assert given.text == f"answer {codes.index(0)}"
    await workshop.resume(session)
    assert answers(workshop, session) == [(question.id, given.text, "respond")]


async def test_an_answer_that_nobody_has_taken_up_is_named_and_resume_goes_on_with_it(workshop: Workshop) -> None:
    session = await paused(workshop)
    killed = in_a_child(lambda: respond_to(workshop, session, "go on"), failpoint="responded")
    assert killed == -signal.SIGKILL

    with pytest.raises(SessionError, match="answered already, through `respond` at") as caught:
        respond(files_of(workshop, session), "something else")
    assert caught.value.hint == f"`orchestra resume {session}` goes on with it"
    document = workshop.json("respond", session, "something else", code=1)
    assert (document["session_id"], document["status"], document["error"]["code"]) == (
        session,
        "paused",
        "already-answered",
    )
    assert document["waiting_for"] == {"agent": "talker", "text": "First."}
    for shown in (workshop.cli("respond", session).stdout, workshop.cli("status", session).stdout):
        assert f"orchestra resume {session}" in shown
        assert "TEXT" not in shown

    result = await workshop.resume(session)
    assert result.record.waiting_for == {"agent": "talker", "text": "Second."}
    assert [text for _, text, _ in answers(workshop, session)] == ["go on"]


async def test_an_answer_whose_writer_is_killed_is_given_whole_or_not_at_all(workshop: Workshop) -> None:
    session = await paused(workshop)
    (question,) = asked(workshop, session)
    assert in_a_child(lambda: respond_to(workshop, session, "half"), failpoint="answer-written") == -signal.SIGKILL
    assert inbox(workshop, session).answer(question.id) is None

    assert in_a_child(lambda: respond_to(workshop, session, "whole"), failpoint="answer-given") == -signal.SIGKILL

    result = await workshop.resume(session)
    assert [text for _, text, _ in answers(workshop, session)] == ["whole"]
    assert_consistent(workshop, result)


@pytest.mark.parametrize("point", ["answer-taken", "event-human_turn", "event-model_started", "event-model_ended"])
async def test_a_driver_killed_with_an_answer_in_its_hands_answers_no_turn_twice(
    workshop: Workshop, point: str
) -> None:
    session = await paused(workshop)
    assert respond_to(workshop, session, "go on") == 0
    assert in_a_child(lambda: asyncio.run(workshop.resume(session)), failpoint=point) == -signal.SIGKILL

    result = await workshop.resume(session)

    assert result.record.waiting_for == {"agent": "talker", "text": "Second."}
    assert {text for _, text, _ in answers(workshop, session)} == {"go on"}
    assert [question.text for question in asked(workshop, session)] == ["Second."]
    assert respond_to(workshop, session, "/approve") == 0
    done = await workshop.resume(session)
    assert done.record.status == "completed"
    paid = sum(model_calls(workshop, session).values())
    assert paid <= len(THREE[0]) - 1 + 1  # without the last reply; one in flight is asked for again
    assert_consistent(workshop, done)


def test_where_somebody_drives_the_session_it_is_told_that_he_goes_on(workshop: Workshop) -> None:
    driver = workshop.start("run", talk(workshop, *SLOW), "--json")
    session = session_of(workshop)
    with somebody_present(workshop, session):
        question = wait_for_question(workshop, session, "First.")
        assert status_of(workshop, session) == "running"

        document = workshop.json("respond", session, "go on")

        assert document["answered"] == question.id
        assert (document["session_id"], document["status"]) == (session, "running")
        wait_for_question(workshop, session, "Second.")
        said = workshop.cli("respond", session, "/approve")
        assert said.returncode == 0
        assert "goes on with it" in said.stderr
        stdout, stderr = driver.communicate(timeout=60)
    assert driver.returncode == 0, stderr
    assert json.loads(stdout)["agent_outputs"]["talker"]["decision"] == "approve"


def test_the_answer_is_driven_on_when_its_driver_was_killed_before_it_was_taken(workshop: Workshop) -> None:
    driver = workshop.start("run", talk(workshop, *SLOW), "--json")
    session = session_of(workshop)
    with somebody_present(workshop, session):
        wait_for_question(workshop, session, "First.")
        os.kill(driver.pid, signal.SIGSTOP)
        responding = workshop.start("respond", session, "go on", "--json")
        assert until(lambda: inbox(workshop, session).answer("talker.1.1.0"), 30)
        driver.kill()
        driver.communicate()
    stdout, stderr = responding.communicate(timeout=60)

    assert responding.returncode == 3, stderr
    assert json.loads(stdout)["waiting_for"] == {"agent": "talker", "text": "Second."}
    assert [text for _, text, _ in answers(workshop, session)] == ["go on"]


def test_a_driver_that_does_not_take_an_answer_up_is_not_waited_for_for_ever(workshop: Workshop) -> None:
    driver = workshop.start("run", talk(workshop, *SLOW), "--json")
    session = session_of(workshop)
    with somebody_present(workshop, session):
        question = wait_for_question(workshop, session, "First.")
        os.kill(driver.pid, signal.SIGSTOP)
        given = respond(files_of(workshop, session), "go on")
        assert wait_until_taken(files_of(workshop, session), given, patience=0.3) is Outcome.WAITING
        os.kill(driver.pid, signal.SIGCONT)
        assert wait_until_taken(files_of(workshop, session), given) is Outcome.TAKEN
    driver.communicate(timeout=60)
    assert answers(workshop, session) == [(question.id, "go on", "respond")]


async def test_nothing_is_asked_by_a_conflict_that_waits_for_a_person(workshop: Workshop) -> None:
    stopped = await workshop.run(team(workshop, {**CLASH, "t": [[says("done")]]}, HUMAN))
    assert stopped.record.status == "paused"

    with pytest.raises(SessionError, match="t does not wait for an answer: a conflict is yours to resolve") as caught:
        respond(files_of(workshop, stopped.record.session_id), "go on")

    assert (caught.value.code, caught.value.exit_code) == ("nothing-asked", 2)
    assert "orchestra resume" in caught.value.message
    assert what_is_asked(files_of(workshop, stopped.record.session_id)).questions == []


async def test_a_session_that_has_ended_says_so(workshop: Workshop) -> None:
    session = await paused(workshop)
    respond(files_of(workshop, session), "/done")
    await workshop.resume(session)

    with pytest.raises(SessionError, match=f"the session {session} asks nothing: it has completed"):
        respond(files_of(workshop, session), "hello?")


async def test_a_command_that_was_put_into_the_inbox_by_a_program_is_a_message(workshop: Workshop) -> None:
    session = await paused(workshop)
    (question,) = asked(workshop, session)
    inbox(workshop, session).give(question.id, "/nonsense", by="program")

    result = await workshop.resume(session)

    assert result.record.waiting_for == {"agent": "talker", "text": "Second."}
