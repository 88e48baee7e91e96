"""The event log as others read it: what has happened, cut to what one wants to read, and what happens now."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.cli.progress import QUIET
from orchestra.errors import SessionError
from orchestra.graph.project import Project
from orchestra.runtime.asking import open_questions
from orchestra.runtime.event_log import read_events
from orchestra.runtime.following import follow, read_history
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import find_session, open_readonly, read_session
from tests.processes import exit_code, fork, until
from tests.session_support import agent, chain, database, events, resume_and_kill, run_and_kill, says, writes
from tests.talkkit import asked, inbox, session_of, talk, wait_for_question

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.following import History
    from orchestra.runtime.store import SessionFiles
    from tests.conftest import Workshop
    from tests.pastkit import Past


def busy(workshop: Workshop, turns: int = 30, delay: float = 0.02) -> Path:
    replies = [writes("a.txt", f"{number}\n") | {"delay": delay} for number in range(turns)]
    return workshop.pipeline(
        {"name": "busy", "agents": {"worker": agent(tools=["write-file"])}, "graph": chain("worker")},
        script={"worker": [[*replies, says("done")]]},
    )


async def followed(files: SessionFiles, after: int = 0) -> list[int]:
    """Follow a session to its end, and return the numbers of its events as they came."""
    seen: list[int] = []
    async with aclosing(follow(files, after)) as looks:
        async for found in looks:
            seen += [event.seq for event in found]
    return seen


def log(workshop: Workshop, session: str, *entries: tuple[str, str], attempt: int = 1) -> None:
    """Write events of the talker's first turn, as a driver does."""
    with closing(sqlite3.connect(database(workshop, session))) as connection:
        for kind, payload in entries:
            connection.execute(
                "INSERT INTO events (time, node, turn, attempt, type, payload) VALUES ('', 'talker', 1, ?, ?, ?)",
                (attempt, kind, payload),
            )
        connection.commit()


def history(workshop: Workshop, session: str, *, lines: int = 20, talks: int = 10) -> History:
    return read_history(find_session(workshop.repo.path, session), quiet=QUIET, lines=lines, talks=talks)


def test_whoever_follows_from_the_first_moment_sees_every_event_once_and_in_order(workshop: Workshop) -> None:
    path = busy(workshop)
    driver = fork(lambda: asyncio.run(workshop.run(path)) and None)
    session = session_of(workshop)  # just created, before its driver has opened it
    files = find_session(workshop.repo.path, session)

    async def several() -> list[list[int]]:
        return await asyncio.gather(*(followed(files) for _ in range(4)))

    seen = asyncio.run(several())

    assert exit_code(driver) == 0
    assert read_session(files).status == "completed"
    written = [event["seq"] for event in read_events(files)]
    assert seen == [written] * 4
    # The driver has closed the database first, and left nothing beside it that is needed.
    log = files.database.with_name("session.db-wal")
    assert not log.exists() or log.stat().st_size == 0


def test_the_end_of_a_killed_driver_is_the_end(workshop: Workshop) -> None:
    path = busy(workshop, delay=0.2)
    driver = fork(lambda: asyncio.run(workshop.run(path)) and None)
    session = session_of(workshop)
    files = find_session(workshop.repo.path, session)

    async def kill_meanwhile() -> list[int]:
        following = asyncio.create_task(followed(files))
        await asyncio.to_thread(until, lambda: events(workshop, session, "tool_ended"), 60)
        os.kill(driver, signal.SIGKILL)
        return await asyncio.wait_for(following, 10)

    seen = asyncio.run(kill_meanwhile())

    assert exit_code(driver) == -signal.SIGKILL
    assert seen == [event["seq"] for event in read_events(files)]
    assert read_session(files).status == "interrupted"


@pytest.mark.parametrize("payload", ["[]", "null", '"text"', "5"])
async def test_an_event_that_is_no_object_is_a_damaged_database(workshop: Workshop, payload: str) -> None:
    result = await workshop.run(talk(workshop))
    session = result.record.session_id
    log(workshop, session, ("question_asked", payload))

    files = result.record.files
    for read in (
        lambda: history(workshop, session),
        lambda: open_questions(files),
        lambda: list(read_events(files)),
    ):
        with pytest.raises(SessionError) as caught:
            read()
        assert caught.value.code == "database-unreadable"


@pytest.mark.parametrize("column", ["time", "type", "node", "turn", "payload"])
def test_so_is_one_whose_columns_hold_something_else(past: Past, tmp_path: Path, column: str) -> None:
    files = past.copied(tmp_path / "copy").files
    with closing(sqlite3.connect(files.database)) as connection, connection:
        connection.execute(f"UPDATE events SET {column} = x'00ff' WHERE seq = 3")  # noqa: S608
    with pytest.raises(SessionError) as caught:
        list(read_events(files))
    assert caught.value.code == "database-unreadable"


async def test_who_looks_at_a_session_at_rest_leaves_nothing_beside_its_database(workshop: Workshop) -> None:
    result = await workshop.run(busy(workshop, turns=1))
    files = result.record.files
    before = sorted(path.name for path in files.directory.iterdir())

    seen = await followed(files)
    shown = history(workshop, result.record.session_id)

    assert seen == list(range(1, shown.last + 1))
    assert sorted(path.name for path in files.directory.iterdir()) == before


async def test_a_reader_of_long_does_not_hold_up_the_end_of_a_session(workshop: Workshop) -> None:
    killed = run_and_kill(workshop, busy(workshop, turns=2), "tool-ended")
    assert killed.session is not None
    files = find_session(workshop.repo.path, killed.session)
    with open_readonly(files, lasting=True) as connection:
        rows = connection.execute("SELECT * FROM events")
        rows.fetchone()  # and the rest later

        result = await asyncio.wait_for(workshop.resume(killed.session), 20)

        assert result.record.status == "completed"
        rows.close()


async def test_the_past_is_cut_and_says_how_much_is_left_out(workshop: Workshop) -> None:
    result = await workshop.run(busy(workshop, turns=40, delay=0))
    session = result.record.session_id
    shown_live = [event for event in workshop.events if event.type not in {*QUIET, "text_delta"}]

    cut = history(workshop, session, lines=5)
    whole = history(workshop, session, lines=1_000)

    assert [event.seq for event in cut.events] == [event.seq for event in shown_live[-5:]]
    assert cut.left_out == len(shown_live) - 5
    assert (len(whole.events), whole.left_out) == (len(shown_live), 0)
    assert cut.last == whole.last == workshop.events[-1].seq


async def test_the_past_has_each_question_and_each_answer_once_however_often_they_were_told(
    workshop: Workshop,
) -> None:
    session = (await workshop.run(talk(workshop))).record.session_id
    await workshop.resume(session)  # asks again
    (question,) = asked(workshop, session)
    inbox(workshop, session).give(question.id, "go on", by="respond")
    assert not resume_and_kill(workshop, session, "answer-taken")  # and tells the answer once more
    await workshop.resume(session)
    told = [event["type"] for event in events(workshop, session, "question_asked", "human_turn")]
    assert told.count("question_asked") > 2

    past = history(workshop, session, lines=0)

    assert [(event.type, event.payload.get("text")) for event in past.events] == [
        ("question_asked", "First."),
        ("human_turn", "go on"),
        ("question_asked", "Second."),
    ]
    last = history(workshop, session, lines=0, talks=1)
    assert [event.payload["text"] for event in last.events] == ["Second."]
    assert last.left_out == past.left_out + 2


async def test_a_question_that_nobody_will_answer_any_more_is_left_out_of_the_past(workshop: Workshop) -> None:
    turns: list[list[dict[str, Any]]] = [[{"text": "First."}, {"error": "auth"}]]
    session = (await workshop.run(talk(workshop, *turns))).record.session_id
    (question,) = asked(workshop, session)
    inbox(workshop, session).give(question.id, "go on", by="respond")
    assert (await workshop.resume(session)).record.status == "failed"

    past = history(workshop, session)

    assert [event.type for event in past.events if event.type in ("question_asked", "human_turn")] == [
        "question_asked",
        "human_turn",
    ]
    assert asked(workshop, session) == []


async def test_the_last_words_of_a_session_are_shown_though_nobody_has_answered_them(workshop: Workshop) -> None:
    session = (await workshop.run(talk(workshop))).record.session_id
    await SessionManager(Project(workshop.repo.path)).cancel(find_session(workshop.repo.path, session))

    assert "First." in [event.payload.get("text") for event in history(workshop, session).events]


async def test_a_reply_that_is_being_written_is_there_as_far_as_it_goes(workshop: Workshop) -> None:
    session = (await workshop.run(talk(workshop))).record.session_id
    pieces = [("text_delta", f'{{"text": "{number} "}}') for number in range(3)]
    log(workshop, session, ("model_started", "{}"), *pieces)

    past = history(workshop, session, lines=0, talks=0)

    assert [event.type for event in past.events] == ["model_started", *["text_delta"] * 3]
    assert "".join(event.payload["text"] for event in past.events[1:]) == "0 1 2 "


@pytest.mark.parametrize(("attempt", "expected"), [(1, ["First."]), (2, [])])
async def test_a_turn_that_begins_anew_asks_anew(workshop: Workshop, attempt: int, expected: list[str]) -> None:
    session = (await workshop.run(talk(workshop))).record.session_id

    log(workshop, session, ("turn_started", "{}"), attempt=attempt)

    assert [question.text for question in asked(workshop, session)] == expected


@pytest.mark.parametrize("talks", [1, 2])
def test_what_is_asked_now_is_in_the_past_however_it_is_cut(workshop: Workshop, talks: int) -> None:
    driver = workshop.start("run", talk(workshop, [{"text": "First.", "delay": 1}]))
    session = session_of(workshop)
    with inbox(workshop, session).present():
        question = wait_for_question(workshop, session, "First.")
        past = history(workshop, session, lines=1, talks=talks)
        inbox(workshop, session).give(question.id, "/done", by="attach")
        driver.communicate(timeout=60)
    assert "First." in [event.payload.get("text") for event in past.events]
