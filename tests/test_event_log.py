"""The event log as other processes read it: chosen, cut, followed, and after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from orchestra.runtime.event_log import ALL, Selection, read_agents, read_events
from orchestra.runtime.following import follow
from orchestra.runtime.store import find_session, read_session
from tests.commandkit import Said
from tests.session_support import crash_pipeline, run_and_kill
from tests.test_following import busy

if TYPE_CHECKING:
    from orchestra.runtime.store import SessionFiles
    from tests.conftest import Workshop
    from tests.pastkit import Past


def numbers(files: SessionFiles, selection: Selection = ALL, tail: int | None = None) -> list[int]:
    return [event["seq"] for event in read_events(files, selection, tail=tail)]


def test_a_selection_takes_of_all_events_those_that_it_names(past: Past) -> None:
    whole = list(read_events(past.files))
    middle = whole[len(whole) // 2]["time"]

    for selection, wanted in (
        (ALL, whole),
        (Selection(types=["turn_ended"]), [event for event in whole if event["type"] == "turn_ended"]),
        (Selection(agents=["lead", "odd"]), [event for event in whole if event["node"] in {"lead", "odd"}]),
        (Selection(since=middle), [event for event in whole if event["time"] >= middle]),
        (
            Selection(types=["model_ended"], agents=["lead"], since=middle),
            [
                event
                for event in whole
                if event["type"] == "model_ended" and event["node"] == "lead" and event["time"] >= middle
            ],
        ),
        (Selection(types=[]), []),
    ):
        expected = [event["seq"] for event in wanted]
        assert numbers(past.files, selection) == expected
        for tail in (0, 1, 3, len(whole) + 5):
            assert numbers(past.files, selection, tail) == expected[len(expected) - min(tail, len(expected)) :]


def test_a_log_longer_than_one_reading_is_read_in_full_and_once(own: Past) -> None:
    with closing(sqlite3.connect(own.files.database)) as connection:
        rows = [("2026", "lead" if number % 3 else "odd", "note", '{"text": "x"}') for number in range(2_500)]
        connection.executemany("INSERT INTO events (time, node, type, payload) VALUES (?, ?, ?, ?)", rows)
        connection.commit()
        wanted = [seq for (seq,) in connection.execute("SELECT seq FROM events WHERE node = 'lead' ORDER BY seq")]

    assert numbers(own.files, Selection(agents=["lead"])) == wanted
    assert numbers(own.files, Selection(agents=["lead"]), tail=1_700) == wanted[-1_700:]


def test_the_agents_of_a_session_are_those_of_its_graph_and_of_its_log(own: Past) -> None:
    assert read_agents(own.files) == ["planner", "left", "right", "more", "page", "lead", "critic", "odd"]
    with closing(sqlite3.connect(own.files.database)) as connection:  # as an older Orchestra wrote it
        connection.execute("UPDATE events SET payload = json_remove(payload, '$.graph')")
        connection.commit()
    assert read_agents(own.files) == ["critic", "lead", "left", "more", "odd", "page", "planner", "right"]


def log(past: Past, *options: str) -> Said:
    return Said("log", past.session, *options, cwd=past.root)


def test_the_options_of_events_choose_among_them(past: Past) -> None:
    whole = log(past, "--events", "--json").out.splitlines()
    middle = json.loads(whole[len(whole) // 2])["time"]
    local = datetime.fromisoformat(middle).astimezone().replace(tzinfo=None).isoformat()

    assert log(past, "--tail", "2", "--json").out.splitlines() == [whole[0], *whole[-2:]]
    assert log(past, "--since", "1h", "--json").out.splitlines() == whole
    assert log(past, "--since", "0m", "--json").out.splitlines() == whole[:1]
    later = [line for line in whole[1:] if json.loads(line)["time"] >= middle]
    for time in (middle, local):
        assert log(past, "--since", time, "--json").out.splitlines()[1:] == later
    assert log(past, "--since", "0001-01-01T00:00+14:00", "--json").out.splitlines() == whole
    of_two = log(past, "--agent", "lead", "--agent", "odd", "--json").out.splitlines()[1:]
    assert {json.loads(line)["node"] for line in of_two} == {"lead", "odd"}
    assert all("lead" in line for line in log(past, "--agent", "lead").out.splitlines())


def test_to_follow_a_session_that_nobody_drives_is_to_read_it(past: Past) -> None:
    for options in (["--json"], ["--tail", "3"], ["--agent", "critic", "--json"]):
        assert log(past, "-f", *options).out == log(past, "--events", *options).out


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--agent", "critik"], "has no agent or step 'critik'", "did you mean 'critic'?"),
        (["--since", "yesterday"], "`--since yesterday` is no age", "2026-11-27T14:00"),
        (["--since", ""], "is no age", "30s"),
        (["--tail", "2", "--all"], "--events and --all show something different each", "give one of them"),
        (["--tail", "-1"], "-1", ""),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_with_what_would(
    past: Past, options: list[str], message: str, hint: str
) -> None:
    said = log(past, *options)

    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert hint in said.err


def test_a_session_without_events_has_an_empty_log(own: Past) -> None:
    with closing(sqlite3.connect(own.files.database)) as connection:
        connection.execute("DELETE FROM events")
        connection.commit()

    assert log(own, "--events").out == ""
    assert log(own, "-f", "--tail", "5", "--json").out == '{"version": 1}\n'
    assert log(own, "--agent", "lead").code == 2
    for command in (("log", own.session), ("status", own.session), ("diff", own.session, "--stat")):
        assert Said(*command, cwd=own.root).code == 0


async def test_who_follows_one_agent_ends_with_the_session_all_the_same(workshop: Workshop) -> None:
    result = await workshop.run(busy(workshop, turns=3, delay=0))
    seen = [
        [event.seq async for events in _flat(result.record.files, selection) for event in events]
        for selection in (Selection(agents=["nobody"]), Selection(types=["session_started", "turn_ended"]))
    ]
    assert seen[0] == []
    assert len(seen[1]) == 2


async def _flat(files: SessionFiles, selection: Selection):  # type: ignore[no-untyped-def]  # noqa: ANN202
    async for events in follow(files, 0, selection):
        yield events


def test_a_torn_end_of_a_killed_log_is_left_out_and_the_session_goes_on(workshop: Workshop) -> None:
    killed = run_and_kill(workshop, crash_pipeline(workshop), "checkpoint-written:8")
    assert killed.session is not None
    files = find_session(workshop.repo.path, killed.session)
    ahead = files.database.with_name("session.db-wal")
    whole = numbers(files)
    content = ahead.read_bytes()
    assert len(whole) > 10

    ahead.write_bytes(content[: len(content) // 2 + 7])  # torn in the middle of a page
    torn = list(read_events(files))
    assert [event["seq"] for event in torn] == whole[: len(torn)]
    assert 0 < len(torn) < len(whole)
    assert read_session(files).status == "interrupted"

    ahead.write_bytes(content + os.urandom(5_000))
    assert numbers(files) == whole
    asyncio.run(workshop.resume(killed.session))
    assert numbers(files) == list(range(1, len(numbers(files)) + 1))


def test_the_log_of_a_running_session_is_followed_by_the_command_and_left_with_ctrl_c(workshop: Workshop) -> None:
    driver = workshop.start("run", busy(workshop, turns=200, delay=0.1))
    follower = None
    try:
        assert driver.stderr is not None
        line = driver.stderr.readline()
        while "session" not in line:
            line = driver.stderr.readline()
        session = read_session(find_session(workshop.repo.path, _only(workshop))).session_id
        follower = workshop.start("log", session, "-f", "--agent", "worker", "--json")
        assert follower.stdout is not None
        seen = [json.loads(follower.stdout.readline()) for _ in range(12)]
        assert seen[0] == {"version": 1}
        assert {event["node"] for event in seen[1:]} == {"worker"}
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 0
        assert driver.poll() is None
    finally:
        for process in (follower, driver):
            if process is not None:
                process.kill()
                process.communicate()


def _only(workshop: Workshop) -> str:
    from orchestra.runtime.store import session_ids

    (session,) = session_ids(workshop.repo.path)
    return session


def test_an_age_is_counted_from_now(past: Past) -> None:
    first = datetime.fromisoformat(next(read_events(past.files))["time"])
    ago = datetime.now(first.tzinfo) - first + timedelta(seconds=1)
    whole = log(past, "--events", "--json").out
    assert log(past, "--since", f"{int(ago.total_seconds()) + 1}s", "--json").out == whole
