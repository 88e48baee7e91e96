"""What `log` shows of a session's past, and of those that left it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError, SessionError
from orchestra.runtime.history import read_history
from orchestra.runtime.naming import short_id
from orchestra.runtime.store import find_session, read_checkpoints
from orchestra.runtime.tracing import trace
from tests.commandkit import Said
from tests.pastkit import HOSTILE, Past, change, fork
from tests.preloaded import COMMAND

if TYPE_CHECKING:
    from pathlib import Path


def log(root: Path, *args: str) -> str:
    said = Said("log", *args, cwd=root)
    assert said.code == 0, said.err
    return said.out


def paragraph(text: str, title: str) -> list[str]:
    """Return the lines below a checkpoint's head line."""
    lines = text.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith("●") and line.endswith(f"  {title}")]
    rest = lines[start + 1 :]
    return rest[: next((number for number, line in enumerate(rest) if not line.startswith(("│", "├"))), len(rest))]


def at(past: Past, row: dict[str, Any]) -> int:
    return past.rows.index(row) + 1


def test_a_checkpoint_tells_whose_turn_it_was_what_it_cost_and_which_files_it_changed(past: Past) -> None:
    text = log(past.root, past.session)

    planner = paragraph(text, "planner (turn 1)")
    step, seconds, *others = planner[0].split(", ")[1:]
    assert (step, others) == ("step 1", ["940 tokens", "$0.0000", "1 tool call", "5 inside"])
    assert float(seconds.removesuffix(" s")) > 0
    commit = past.ended("planner", 1)["repos"]["app"][:10]
    assert planner[1:] == [f"│   app {commit}", "│     plan.md  +1 -0", "│   → left, right, page"]
    right = paragraph(text, "right (turn 1)")
    assert [line for line in right if "txt" in line] == ["│     old.txt     +0 -1", "│     routes.txt  +1 -1"]
    assert text.splitlines()[-1] == "■ completed"


def test_parallel_turns_that_end_together_have_their_own_files_and_commits(past: Past) -> None:
    lines = paragraph(log(past.root, past.session), "left (turn 1), page (turn 1)")

    assert [line.strip("│ ") for line in lines if line.startswith("│   ") and line[4] != " "][1:] == [
        *("left", "page", "→ join.lead"),
    ]
    assert "│       routes.txt  +1 -1" in lines
    assert "│       page.html  +1 -0" in lines


def test_a_join_tells_what_it_merged_and_what_conflicts_and_the_turn_behind_it_how_that_was_resolved(
    past: Past,
) -> None:
    text = log(past.root, past.session)
    assert "│   CONFLICT of left and right in app: routes.txt" in paragraph(text, "join.lead")
    # From the file with markers to the one without.
    assert "│     routes.txt  +0 -3" in paragraph(text, "lead (turn 1)")


def test_the_label_that_a_condition_chose_is_its_decision(past: Past) -> None:
    text = log(past.root, past.session)
    assert "│   chose revise" in paragraph(text, "critic (turn 1)")
    assert "│   chose approve" in paragraph(text, "critic (turn 2)")


def test_a_persons_decision_is_shown_with_its_reason(own: Past) -> None:
    with closing(sqlite3.connect(own.files.database)) as connection:
        (seq,) = connection.execute("SELECT MAX(seq) FROM events").fetchone()
        said = {"question": "lead.2.1.0", "kind": "reject", "text": "/reject not\x1b[31m yet", "by": "terminal"}
        row = (seq + 1, "2026-01-01T00:00:00+00:00", "lead", 2, "human_turn", json.dumps(said))
        connection.execute("INSERT INTO events (seq, time, node, turn, type, payload) VALUES (?, ?, ?, ?, ?, ?)", row)
        connection.commit()

    assert r"│   reject: not\x1b[31m yet" in paragraph(log(own.root, own.session), "lead (turn 2)")


def test_names_of_files_can_not_steer_the_terminal(past: Past) -> None:
    text = log(past.root, past.session)
    assert "\x1b" not in text
    assert HOSTILE.replace("\x1b", r"\x1b") in text


def test_checkpoints_inside_turns_are_counted_and_shown_where_that_is_asked_for(past: Past) -> None:
    folded, everything = log(past.root, past.session), log(past.root, past.session, "--all")

    assert "inside planner" not in folded
    heads = [line for line in everything.splitlines() if line.startswith("●")]
    assert len(heads) == len(past.rows)
    place = past.rows.index(past.ended("planner", 1)) - 2
    assert heads[place] == f"● {short_id(past.rows, past.rows[place])}  inside planner, step 2"
    lines = everything.splitlines()
    assert "│     plan.md  +1 -0" in lines[lines.index(heads[place]) : lines.index(heads[place + 1])]


def test_forks_hang_under_the_checkpoint_that_they_left_and_theirs_under_them(own: Past) -> None:
    row = own.ended("critic", 1)
    first = fork(own.root, own.files, "f1rst", row, seq=at(own, row))
    early = own.ended("planner", 1)
    fork(own.root, first, "s3cond", early, seq=at(own, early))
    inside = own.rows[4]
    fork(own.root, own.files, "th1rd", inside, seq=5)

    text = log(own.root, own.session)

    under = paragraph(text, "critic (turn 1)")
    assert under[-5].startswith("├─ fork f1rst  past, ")
    assert under[-3].strip("│ ") == f"at {early['checkpoint_id'][:13]}"
    assert under[-2].strip().startswith("│  ├─ fork s3cond")
    assert paragraph(text, "inside planner, step 1")[-2].startswith("├─ fork th1rd"), "a folded one is unfolded"
    assert text.count("fork ") == 3


def test_a_fork_marks_where_it_left_its_source_also_when_that_is_gone(own: Past) -> None:
    row = own.ended("lead", 1)
    files = fork(own.root, own.files, "f0rk", row, seq=at(own, row))
    change(files, settings={"forked_from": {"changes": ["--model lead=\x1b[2J"]}})

    lines = log(own.root, "f0rk").splitlines()
    (mark,) = [number for number, line in enumerate(lines) if line.startswith("──")]
    assert f"it has left {own.session} " in lines[mark]
    assert lines[mark + 1 : mark + 2] == [r"    --model lead=\x1b[2J"]
    assert lines[mark + 2].startswith("■")
    assert r"│      --model lead=\x1b[2J" in log(own.root, own.session).splitlines()
    assert lines[mark - 1] == "│   → odd"

    shutil.rmtree(own.files.directory)
    history = read_history(files, own.root)
    assert history.source is None
    assert "which is not there any more" in log(own.root, "f0rk")


def test_a_fork_in_which_the_last_turn_ended_anew_marks_where_it_left_and_shares_the_commits_before(own: Past) -> None:
    row = own.ended("critic", 1)
    files = fork(own.root, own.files, "f0rk", row, seq=at(own, row) - 1)  # as with a condition that is asked anew

    assert "critic (turn 1)" not in log(own.root, "f0rk").partition("── from here on it is a fork")[0]
    assert "── from here on it is a fork" in log(own.root, "f0rk")
    commit = own.ended("planner", 1)["repos"]["app"]
    assert {item.session_id for item in trace(own.root, commit)} == {own.session}
    change(files, settings={"forked_from": {"seq": "damaged"}})
    assert log(own.root, "f0rk")


def test_sessions_that_claim_to_have_left_each_other_end_the_search(own: Past) -> None:
    row = own.ended("lead", 1)
    files = fork(own.root, own.files, "f0rk", row, seq=at(own, row))
    origin = {"session_id": "f0rk", "checkpoint_id": row["checkpoint_id"], "seq": 1}
    change(own.files, settings={"forked_from": origin})
    change(files, settings={"forked_from": {"session_id": "f0rk", "checkpoint_id": "x", "seq": 1}})

    assert "fork f0rk" not in log(own.root, own.session)
    assert log(own.root, "f0rk")


def test_a_turn_that_has_not_ended_is_shown_with_what_it_has_changed_so_far(own: Past) -> None:
    row = next(row for row in own.rows if row["agent"] == "lead" and "web" in row["changed"])
    fork(own.root, own.files, "f0rk", row, seq=at(own, row))
    with closing(sqlite3.connect(find_session(own.root, "f0rk").database)) as connection:
        connection.execute("DELETE FROM events WHERE node = 'lead' AND turn = 2")
        connection.execute(
            "UPDATE sessions SET status = 'failed', error = ?", ('{"code": "x", "message": "no\\u001b"}',)
        )
        connection.commit()

    lines = log(own.root, "f0rk").splitlines()

    start = lines.index("○ lead (turn 2) has not ended")
    end = [r"■ failed: no\x1b", "    orchestra resume f0rk"]
    assert lines[start + 1 :] == [f"    web {row['repos']['web'][:10]}", "      notes.md  +1 -0", *end]
    with closing(sqlite3.connect(find_session(own.root, "f0rk").database)) as connection:
        connection.execute(
            "INSERT INTO events (time, node, turn, type, payload) VALUES ('2026', 'lead', 2, 'turn_ended', '{}')"
        )
        connection.commit()
    assert "○ lead (turn 2) is done, and waits for those beside it" in log(own.root, "f0rk")


def test_a_reader_that_goes_early_is_no_failed_session(own: Past) -> None:
    with closing(sqlite3.connect(own.files.database)) as connection:
        row = ("", "note", json.dumps({"text": "x" * 300}))
        connection.executemany("INSERT INTO events (time, type, payload) VALUES (?, ?, ?)", [row] * 3_000)
        connection.commit()

    command = [str(COMMAND), "log", own.session, "--events"]
    with subprocess.Popen(command, cwd=own.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_the_end_says_why_a_session_stopped_and_what_to_type_and_a_turn_how_often_it_was_tried(own: Past) -> None:
    error = json.dumps({"code": "invalid-output", "message": "is invalid:\n- v: not\x1b[2J one", "agent": "lead"})
    with closing(sqlite3.connect(own.files.database)) as connection:
        connection.execute("UPDATE sessions SET status = 'failed', error = ?", (error,))
        connection.execute("UPDATE events SET attempt = 3 WHERE node = 'planner' AND type = 'turn_ended'")
        warning = json.dumps({"code": "snapshot-incomplete", "message": "app: in no commit of the session: big\x1b"})
        connection.executemany(
            "INSERT INTO events (time, node, turn, type, payload) VALUES ('', 'planner', 1, 'warning', ?)",
            [(warning,), (warning,)],
        )
        connection.commit()

    text = log(own.root, own.session)

    assert text.splitlines()[-3:] == [
        "■ failed: is invalid:",
        "    - v: not\\x1b[2J one",
        f"    orchestra resume {own.session}",
    ]
    planner = paragraph(text, "planner (turn 1)")
    assert ", 3 attempts, 940 tokens, " in planner[0]
    assert planner[-2] == r"│   app: in no commit of the session: big\x1b"


def test_a_repo_that_is_gone_or_lacks_a_commit_costs_only_its_files(own: Past) -> None:
    shutil.rmtree(own.root.parent / "web")
    commit = own.ended("planner", 1)["repos"]["app"]
    objects = own.root / ".git" / "objects"
    (objects / commit[:2] / commit[2:]).unlink()

    text = log(own.root, own.session)

    assert f"its files can't be told: the commit {commit} is not in 'app' any more" in text
    assert "its files can't be told: repository 'web': there is no directory" in text
    assert text.count("there is no directory") == 1, "it is said once"
    assert "│     routes.txt  +1 -1" not in paragraph(text, "left (turn 1), page (turn 1)")
    assert "│     more.txt  +2 -0" in paragraph(text, "more (turn 1)")


def test_a_session_without_checkpoints_says_so(own: Past) -> None:
    with closing(sqlite3.connect(own.files.database)) as connection:
        connection.execute("DROP TABLE checkpoints")
        connection.commit()
    assert log(own.root, own.session).splitlines()[0] == "no checkpoints yet"


def test_the_checkpoint_of_a_commit_is_found_whether_a_turn_a_merge_a_snapshot_or_the_base_made_it(past: Past) -> None:
    rows = past.rows
    for row in rows:
        for repo in row["changed"]:
            found = trace(past.root, row["repos"][repo])
            assert row in [item.row for item in found]
    base = rows[0]["repos"]["app"]
    assert trace(past.root, base[:4].upper())[0].row == rows[0]
    left = past.workshop.repo.git("log", "--all", "--format=%H", "--grep=^Orchestra-Agent: left")
    (one,) = trace(past.root, left)
    assert (one.row, one.commits) == (past.ended("left", 1), {"app": left})
    text = log(past.root, "--commit", left[:8])
    where = f"checkpoint {short_id(rows, one.row)}  left (turn 1), page (turn 1)"
    assert text == f"session {past.session}  {where}  app {left[:10]}\n"
    (document,) = json.loads(log(past.root, past.session, "--commit", left, "--json"))
    assert list(document)[:2] == ["session_id", "checkpoint_id"]
    assert document == {"session_id": past.session, **one.row}


def test_a_commit_that_a_fork_has_in_common_with_its_source_is_told_once(own: Past) -> None:
    row = own.ended("lead", 1)
    files = fork(own.root, own.files, "f0rk", row, seq=at(own, row))
    commit = own.ended("planner", 1)["repos"]["app"]

    assert {item.session_id for item in trace(own.root, commit)} == {own.session}
    assert {item.session_id for item in trace(own.root, commit, files)} == {"f0rk"}
    files.database.write_bytes(b"damaged")
    assert {item.session_id for item in trace(own.root, commit)} == {own.session}
    shutil.rmtree(own.files.directory)
    with pytest.raises(SessionError):
        trace(own.root, commit, files)


@pytest.mark.parametrize(
    ("typed", "code"), [("abc", "bad-option"), ("HEAD", "bad-option"), ("0" * 40, "unknown-commit")]
)
def test_what_is_no_commit_of_a_session_is_refused(past: Past, typed: str, code: str) -> None:
    with pytest.raises(OrchestraError) as caught:
        trace(past.root, typed)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)


@pytest.mark.parametrize("kind", ["checkpoint", "condition_chose", "conflict", "turn_committed"])
def test_an_event_that_makes_no_sense_is_an_error_of_its_session_and_hides_no_other(own: Past, kind: str) -> None:
    row = own.ended("critic", 1)
    files = fork(own.root, own.files, "0ther", row, seq=0)
    with closing(sqlite3.connect(files.database)) as connection:
        connection.execute("UPDATE events SET payload = '{}' WHERE type = ?", (kind,))
        connection.commit()

    with pytest.raises(SessionError) as caught:
        read_history(files, own.root)
    assert caught.value.code == "database-unreadable"
    assert Said("diff", "0ther", own.session, cwd=own.root).code == 1
    commit = own.ended("planner", 1)["repos"]["app"]
    assert own.session in log(own.root, "--commit", commit)


@pytest.mark.parametrize(
    "two", [["--commit", "abcd", "--events"], ["--commit", "abcd", "--all"], ["--events", "--all"]]
)
def test_one_thing_is_shown_at_a_time(past: Past, two: list[str]) -> None:
    said = Said("log", past.session, *two, cwd=past.root)
    assert (said.code, said.out) == (2, "")
    assert "show something different each" in said.err


def test_the_rows_of_a_fork_are_those_that_it_shares_and_its_own(own: Past) -> None:
    row = own.ended("lead", 1)
    files = fork(own.root, own.files, "f0rk", row, seq=at(own, row))
    assert read_checkpoints(files) == own.rows[: at(own, row)]
