"""Kill -9, then `resume`: the same outputs and files; that it holds at any instant is proved in `acceptance/`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError, SessionBusyError
from orchestra.runtime import database as session_database
from orchestra.runtime import session as session_module
from orchestra.runtime.driver_lock import DriverLock
from orchestra.runtime.store import find_session, session_ids
from orchestra.testing import git_repo
from tests.session_support import (
    CONDITION,
    OUTPUTS,
    PIPELINE,
    SCRIPT,
    agent,
    assert_consistent,
    assert_done,
    chain,
    contents,
    crash_pipeline,
    database,
    events,
    holders,
    in_a_child,
    model_calls,
    resume_and_kill,
    run_and_kill,
    says,
    turn_commits,
    user_side,
    writes,
)

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import Workshop


def test_a_session_killed_at_every_second_checkpoint_still_ends_right(workshop: Workshop) -> None:
    path = crash_pipeline(workshop)
    killed = run_and_kill(workshop, path, "checkpoint-written:2")
    assert killed.session is not None

    kills = 1
    while not resume_and_kill(workshop, killed.session, "checkpoint-written:2"):
        kills += 1
        assert kills < 60, "the session does not get on"

    assert kills > 10
    assert_done(workshop, asyncio.run(workshop.resume(killed.session)))


def test_of_parallel_writers_nobody_is_lost_when_one_is_killed_in_the_middle(workshop: Workshop) -> None:
    """Each works in a worktree of its own; what one has committed may be known only from a pending write."""
    order = first, second = "left", "right"
    path = workshop.pipeline(
        {
            "name": "pair",
            "agents": {name: agent(tools=["write-file"]) for name in order},
            "graph": [
                {"from": "START", "to": list(order)},
                {"from": list(order), "to": "END", "join": "all"},
            ],
        },
        script={name: [[writes(f"{name}.txt", "1\n"), writes(f"{name}.txt", "2\n"), says(name)]] for name in order},
    )

    for point in ("turn-committed:1", *(f"writes-stored:{n}" for n in range(7, 12)), "snapshot-taken:3"):
        killed = run_and_kill(workshop, path, point)
        assert killed.session is not None
        assert not killed.finished
        result = asyncio.run(workshop.resume(killed.session))
        assert result.record.status == "completed"
        assert contents(workshop, result.commits["repo"]) == {
            "app.py": "x = 1",
            "docs/notes.md": "# Notes",
            "left.txt": "2",
            "right.txt": "2",
        }
        paid = model_calls(workshop, killed.session)
        assert paid.keys() == {(first, 1), (second, 1)}
        assert all(3 <= calls <= 4 for calls in paid.values()), paid
        assert sorted(turn_commits(workshop, result.branches["repo"])) == [f"{first}:1", f"{second}:1"]
        assert_consistent(workshop, result)


SLOW: dict[str, Any] = {
    "name": "slow",
    "agents": {
        "worker": agent(tools=["shell", "write-file"]),
        "after": agent(tools=["read-file"]),
    },
    "graph": chain("worker", "after"),
}


def slow_pipeline(workshop: Workshop, command: str) -> Path:
    script = {
        "worker": [
            [
                writes("first.txt", "1\n"),
                {"tools": [{"name": "shell", "args": {"command": command}}]},
                says("worked"),
            ]
        ],
        "after": [[says("looked")]],
    }
    return workshop.pipeline(SLOW, script=script)


def worktree(workshop: Workshop) -> Path:
    (session,) = session_ids(workshop.repo.path)
    return workshop.repo.path / ".orchestra" / "worktrees" / session / "_session"


def wait_for(workshop: Workshop, process: subprocess.Popen[str], name: str) -> str:
    """Wait until the session's worktree holds a file, and return the session."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if session_ids(workshop.repo.path) and (worktree(workshop) / name).exists():
            return session_ids(workshop.repo.path)[0]
        time.sleep(0.02)
    raise AssertionError(process.communicate())


def test_a_command_killed_with_orchestra_is_run_again_on_the_files_before_it(workshop: Workshop) -> None:
    """The installed command, killed with its whole process group; the tool's process dies with it."""
    command = "test -e second.txt && echo twice >> second.txt; echo once >> second.txt; sleep 1; echo end >> second.txt"
    before = user_side(workshop)
    process = workshop.start("run", slow_pipeline(workshop, command), "--json")
    session = wait_for(workshop, process, "second.txt")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert workshop.json("status", session)[0]["status"] == "interrupted"

    result = workshop.json("resume", session)

    assert result["status"] == "completed"
    assert result["agent_outputs"] == {"worker": "worked", "after": "looked"}
    assert workshop.repo.git("show", f"{result['commits']['repo']}:second.txt") == "once\nend"
    assert workshop.repo.git("show", f"{result['commits']['repo']}:first.txt") == "1"
    assert model_calls(workshop, session) == {("worker", 1): 3, ("after", 1): 1}
    (put_back,) = events(workshop, session, "files_put_back")
    assert workshop.repo.git("show", f"{put_back['payload']['rescue']}:second.txt") == "once"
    assert user_side(workshop) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_in_order_and_the_session_goes_on_later(
    workshop: Workshop, number: signal.Signals, code: int
) -> None:
    command = "if test -e ../again; then echo done > third.txt; else touch ../again second.txt; sleep 60; fi"
    process = workshop.start("run", slow_pipeline(workshop, command), "--json")
    session = wait_for(workshop, process, "second.txt")
    started = time.monotonic()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)

    assert (process.returncode, time.monotonic() - started < 10) == (code, True), stderr
    assert "Traceback" not in stderr
    document = json.loads(stdout)
    assert (document["session_id"], document["status"], document["error"]) == (session, "interrupted", None)
    assert [event["type"] for event in events(workshop, session)][-1] == "session_interrupted"
    result = asyncio.run(workshop.resume(session))
    assert result.record.status == "completed"
    assert sorted(contents(workshop, result.commits["repo"])) == ["app.py", "docs/notes.md", "first.txt", "third.txt"]
    assert model_calls(workshop, session) == {("worker", 1): 3, ("after", 1): 1}


def test_of_two_resumes_at_once_one_wins_and_the_other_says_who_drives(workshop: Workshop) -> None:
    killed = run_and_kill(workshop, slow_pipeline(workshop, "sleep 1"), "checkpoint-written:4")
    assert killed.session is not None

    async def both(session: str) -> list[Any]:
        return list(await asyncio.gather(*(workshop.resume(session) for _ in range(2)), return_exceptions=True))

    found = asyncio.run(both(killed.session))

    lost = [one for one in found if isinstance(one, SessionBusyError)]
    won = [one for one in found if not isinstance(one, BaseException)]
    assert (len(lost), len(won)) == (1, 1), found
    assert f"pid {os.getpid()}" in lost[0].message
    assert_consistent(workshop, won[0])
    assert model_calls(workshop, killed.session) == {("worker", 1): 3, ("after", 1): 1}


def test_the_command_exits_4_while_another_process_drives_the_session(workshop: Workshop) -> None:
    killed = run_and_kill(workshop, slow_pipeline(workshop, "true"), "checkpoint-written:4")
    assert killed.session is not None
    lock = DriverLock(find_session(workshop.repo.path, killed.session))
    lock.acquire()
    try:
        done = workshop.cli("resume", killed.session, "--json")
    finally:
        lock.release()

    assert (done.returncode, done.stdout) == (4, "")
    assert f"is driven by another process (pid {os.getpid()}" in done.stderr


def test_a_session_that_was_created_but_never_driven_starts_on_resume(workshop: Workshop) -> None:
    killed = run_and_kill(workshop, slow_pipeline(workshop, "true"), "session-created")
    assert killed.session is not None
    assert workshop.repo.git("branch", "--list", "orchestra/*") == ""
    assert workshop.checkpoints(killed.session) == []

    result = asyncio.run(workshop.resume(killed.session))

    assert result.record.status == "completed"
    assert next(event["type"] for event in events(workshop, killed.session)) == "session_started"
    assert_consistent(workshop, result)


def test_a_completed_session_gives_its_result_again_whatever_became_of_its_branch(workshop: Workshop) -> None:
    path = slow_pipeline(workshop, "true")
    first = asyncio.run(workshop.run(path))
    seen = len(events(workshop, first.record.session_id))
    branch = first.branches["repo"]
    workshop.repo.git("update-ref", f"refs/heads/{branch}", "main")

    again = asyncio.run(workshop.resume(first.record.session_id))

    assert again.as_json() == first.as_json()
    assert len(events(workshop, first.record.session_id)) == seen
    assert workshop.repo.git("rev-parse", branch) == workshop.repo.head


def test_editing_what_a_session_was_made_from_changes_nothing_for_its_resume(workshop: Workshop) -> None:
    (workshop.repo.path / "orchestra.yaml").write_text("limits: {max_steps: 50}\n")
    pipeline = {
        **PIPELINE,
        "agents": {
            **PIPELINE["agents"],
            "critic": {
                **PIPELINE["agents"]["critic"],
                "task": "judge",
            },
        },
    }
    files = {
        "conditions/verdict.py": CONDITION,
        "prompts/tasks/judge.yaml": "task: {name: judge, template: Judge it.}\n",
    }
    path = workshop.pipeline(pipeline, script=SCRIPT, files=files)
    killed = run_and_kill(workshop, path, "turn-committed:1")
    assert killed.session is not None
    path.write_text("name: [broken\n")
    for name in ("script.yaml", "conditions/verdict.py", "prompts/tasks/judge.yaml"):
        (workshop.pipelines / name).write_text("broken: [\n")
    (workshop.repo.path / "orchestra.yaml").write_text("limits: {max_steps: 1}\n")

    result = asyncio.run(workshop.resume(killed.session))

    assert_done(workshop, result, **{"orchestra.yaml": "limits: {max_steps: 50}"})


def test_a_resume_after_the_clock_went_back_loses_nothing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = run_and_kill(workshop, crash_pipeline(workshop), "checkpoint-written:12")
    assert killed.session is not None
    session = killed.session

    def an_hour_ago() -> None:
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
        result = asyncio.run(workshop.resume(session))
        assert result.agent_outputs == OUTPUTS, result
        assert result.record.status == "completed"

    # In a process of its own: what this one knows of the clock must not help.
    assert in_a_child(an_hour_ago, quiet=False) == 0
    ids = [row["checkpoint_id"] for row in workshop.checkpoints(session) if not row["checkpoint_ns"]]
    assert ids == sorted(ids)
    assert_done(workshop, asyncio.run(workshop.resume(session)))


def test_a_database_that_another_program_holds_gives_one_clear_message(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = run_and_kill(workshop, slow_pipeline(workshop, "true"), "checkpoint-written:4")
    assert killed.session is not None
    monkeypatch.setattr(session_database, "BUSY_TIMEOUT", 0.05)
    with closing(sqlite3.connect(database(workshop, killed.session))) as foreign:
        foreign.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OrchestraError) as caught:
            asyncio.run(workshop.resume(killed.session))
        foreign.rollback()

    assert caught.value.code == "database-failed"
    assert "session.db" in caught.value.message
    assert killed.session in str(caught.value.hint)
    assert asyncio.run(workshop.resume(killed.session)).record.status == "completed"


ASKS: dict[str, Any] = {
    "name": "asks",
    "agents": {"fixer": agent(tools=["write-file"]), "owner": agent(mode="interactive", when_absent="pause")},
    "graph": chain("fixer", "owner"),
}


def test_a_paused_session_asks_the_same_again_and_pays_nothing_for_it(workshop: Workshop) -> None:
    script = {"fixer": [[writes("a.txt", "1\n"), says("fixed")]], "owner": [[says("Is it right so?")]]}
    first = asyncio.run(workshop.run(workshop.pipeline(ASKS, script=script)))
    session = first.record.session_id

    assert first.record.status == "paused"
    assert first.record.waiting_for == {"agent": "owner", "text": "Is it right so?"}
    document = workshop.json("resume", session, code=3)
    assert (document["status"], document["waiting_for"]) == ("paused", first.record.waiting_for)
    assert model_calls(workshop, session) == {("fixer", 1): 2, ("owner", 1): 1}
    assert document["commits"] == first.commits


def test_a_kill_between_a_turns_writes_and_the_next_checkpoint_is_not_taken_for_the_end(workshop: Workshop) -> None:
    """LangGraph then says `next == ()`, while there is work left in `tasks`."""
    path = workshop.pipeline(
        {"name": "two", "agents": {"one": agent(tools=["write-file"]), "two": agent()}, "graph": chain("one", "two")},
        script={"one": [[writes("a.txt", "1\n"), says("one")]], "two": [[says("two")]]},
    )
    killed = run_and_kill(workshop, path, "turn-committed:1")
    assert killed.session is not None
    result = asyncio.run(workshop.resume(killed.session))

    assert (result.record.status, result.agent_outputs) == ("completed", {"one": "one", "two": "two"})
    assert_consistent(workshop, result)


@pytest.mark.parametrize("point", ["snapshot-taken:2", "turn-committed:1", "turn-committed:2", "branch-moved:3"])
def test_a_turn_over_two_repos_is_kept_whole(workshop: Workshop, tmp_path: Path, point: str) -> None:
    web = git_repo(tmp_path / "web", {"index.html": "<p>\n"})
    pipeline = {
        "name": "both",
        "workspace": {"repos": {"app": {"path": "../app"}, "web": {"path": "../web"}}},
        "agents": {"one": agent(tools=["app:write-file", "web:write-file"]), "two": agent()},
        "graph": chain("one", "two"),
    }
    both = [writes("n.txt", "1\n", name=f"{repo}:write-file")["tools"][0] for repo in ("app", "web")]
    path = workshop.pipeline(pipeline, script={"one": [[{"tools": both}, says("one")]], "two": [[says("two")]]})
    killed = run_and_kill(workshop, path, point)
    assert killed.session is not None
    assert not killed.finished

    result = asyncio.run(workshop.resume(killed.session))

    assert result.agent_outputs == {"one": "one", "two": "two"}
    for repo, where in (("app", workshop.repo), ("web", web)):
        branch = result.branches[repo]
        assert where.git("rev-parse", branch) == result.commits[repo]
        assert where.git("rev-list", "--count", f"main..{branch}") == "1"
        assert where.git("show", f"{branch}:n.txt") == "1"
    assert model_calls(workshop, killed.session) == {("one", 1): 2, ("two", 1): 1}


def test_a_resume_starts_from_the_uncommitted_work_of_the_start_not_of_now(workshop: Workshop) -> None:
    workshop.repo.write({"app.py": "x = 'draft'\n", "new.py": "y = 1\n"})
    killed = run_and_kill(workshop, slow_pipeline(workshop, "true"), "session-created")
    assert killed.session is not None
    workshop.repo.write({"app.py": "x = 'later'\n", "new.py": None})
    workshop.repo.commit({"more.py": ""}, "later")

    result = asyncio.run(workshop.resume(killed.session))

    files = contents(workshop, result.commits["repo"])
    assert files == {"app.py": "x = 'draft'", "docs/notes.md": "# Notes", "first.txt": "1", "new.py": "y = 1"}


def test_a_process_that_outlives_a_killed_driver_keeps_others_out_until_it_ends(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands die with the driver. One that bears no mark and left its group is waited for, as git is."""
    command = "test -e ../again || { touch ../again second.txt; env -i setsid sleep 60 & sleep 60; }"
    process = workshop.start("run", slow_pipeline(workshop, command))
    session = wait_for(workshop, process, "second.txt")
    children_lock = find_session(workshop.repo.path, session).children_lock
    while not any("(sleep)" in found for found in holders(children_lock)):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    monkeypatch.setattr(session_module, "ORPHAN_TIMEOUT", 0.5)

    with pytest.raises(SessionBusyError) as caught:
        asyncio.run(workshop.resume(session))
    (holder,) = holders(children_lock)
    os.kill(int(holder.split()[0]), signal.SIGKILL)
    monkeypatch.undo()
    result = asyncio.run(workshop.resume(session))

    assert caught.value.message == (
        f"nobody drives the session {session}, but what its last driver started still runs: pid {holder}"
    )
    assert result.record.status == "completed"
