"""`orchestra export`: what a report tells of a session, what it leaves out, and how its file is written."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.cli.export import export_command
from orchestra.cli.page import turns
from orchestra.cli.page.html import visible
from orchestra.errors import PipelineError, SessionError
from orchestra.runtime.driver_lock import DriverLock
from tests.pastkit import HOSTILE, fork
from tests.reportkit import Elements, fill, page_of, payloads, read_page

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.store import SessionFiles
    from tests.pastkit import Past


@pytest.fixture(scope="module")
def page(past: Past) -> str:
    return page_of(past.files, past.root)


@pytest.fixture
def in_project(past: Past, monkeypatch: pytest.MonkeyPatch) -> Past:
    monkeypatch.chdir(past.root)
    return past


def text_of(page: str) -> str:
    return "".join(read_page(page).text)


def sql(files: SessionFiles, *statements: str | tuple[str, tuple[Any, ...]]) -> None:
    with closing(sqlite3.connect(files.database)) as connection:
        for one in statements:
            statement, values = (one, ()) if isinstance(one, str) else one
            connection.execute(statement, values)
        connection.commit()


def event(
    seq: int, kind: str, node: str | None, turn: int | None, payload: dict[str, Any], attempt: int = 1
) -> tuple[str, tuple[Any, ...]]:
    """An event that was written long after all others."""
    time = f"2099-01-01T00:00:00.{seq:06d}+00:00"
    return "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", (
        seq,
        time,
        node,
        turn,
        attempt,
        kind,
        json.dumps(payload),
    )


class TestWhatItTells:
    def test_the_head_says_how_it_ended_what_it_cost_and_what_to_type(self, page: str, past: Past) -> None:
        text = text_of(page)
        for told in ("past", "✓ completed", past.session, "900 in, 40 out", f"orchestra apply {past.session}"):
            assert told in text, told
        assert f"orchestra/past/{past.session}" in text
        assert "routes.txtcontentleft, rightlead" in text  # the conflict: path, kind, agents, who resolved it

    def test_each_turn_has_its_prompt_calls_output_changes_and_checkpoint(self, page: str, past: Past) -> None:
        turn = _turn(page, 1)
        ended = past.ended("planner", 1)
        for told in ("system prompt", "Do it.", "app:write-file", "plan.md", "# Plan", "planned", "+# Plan"):
            assert told in turn, told
        assert f"orchestra replay {past.session} --checkpoint {ended['checkpoint_id'][:13]}" in turn
        assert turn.count("planned") == 1  # the text is the output: it is not told twice

    def test_turns_decisions_and_conflicts_stand_in_their_order(self, page: str) -> None:
        text = text_of(page)
        places = [
            text.index(word)
            for word in (
                "planner turn 1",
                "CONFLICT: left and right",
                "lead turn 1",
                "critic turn 1",
                "the condition chose",
                "lead turn 2",
                "critic turn 2",
            )
        ]
        assert places == sorted(places)
        assert "lead (revise)" in text

    def test_it_is_drawn_with_the_route_and_a_lane_for_each_agent(self, page: str) -> None:
        found = read_page(page)
        pictures = [dict(attrs)["class"] for tag, attrs in found.found if tag == "svg"]
        assert pictures == ["og-graph", "bars"]
        assert sum(("class", "lane") in attrs for _, attrs in found.found) == 8
        links = {dict(attrs).get("href") for tag, attrs in found.found if tag == "a"}
        assert {f"#turn-{number}" for number in range(1, 12)} <= links

    def test_everything_that_is_linked_is_there_once(self, page: str) -> None:
        found = read_page(page).found
        ids = [dict(attrs)["id"] for _, attrs in found if "id" in dict(attrs)]
        assert len(ids) == len(set(ids))
        assert {str(dict(attrs)["href"])[1:] for tag, attrs in found if tag == "a"} <= set(ids)

    def test_what_would_steer_a_terminal_or_a_reader_is_visible(self, page: str) -> None:
        assert "\x1b" not in page
        assert visible(HOSTILE) in text_of(page)

    def test_the_same_session_gives_the_same_page(self, page: str, past: Past) -> None:
        assert page_of(past.files, past.root) == page

    def test_a_session_that_runs_says_so_and_one_that_nobody_drives_how_to_go_on(self, own: Past) -> None:
        sql(
            own.files,
            "UPDATE sessions SET status = 'running'",
            "DELETE FROM events WHERE type = 'turn_ended' AND node = 'critic' AND turn = 2",
        )
        assert f"orchestra resume {own.session}" in text_of(page_of(own.files, own.root))
        lock = DriverLock(own.files)
        lock.acquire()
        text = text_of(page_of(own.files, own.root))
        lock.release()
        assert "▶ running" in text
        assert "It is still at work" in text
        assert "critic turn 2 running" in text

    def test_a_failed_session_shows_its_error_and_what_was_cut_off(self, own: Past) -> None:
        error = {"code": "model-failed", "message": "overloaded", "hint": "try later", "agent": "critic"}
        sql(
            own.files,
            ("UPDATE sessions SET status = 'failed', error = ?", (json.dumps(error),)),
            "DELETE FROM events WHERE seq > (SELECT MAX(seq) FROM events WHERE type = 'tool_started')",
        )
        text = text_of(page_of(own.files, own.root))
        assert "Error: model-failed (critic)" in text
        assert "hint: try later" in text
        assert "was cut off" in text
        assert "turn 2 interrupted" in text

    def test_retries_and_failed_attempts_are_told(self, own: Past) -> None:
        sql(own.files, *(event(n, kind, "critic", 3, payload, attempt) for n, (kind, attempt, payload) in _TROUBLE))
        text = text_of(page_of(own.files, own.root))
        for told in (
            "critic turn 3 failed 2 attempts",
            "model call failed, attempt 1: RateLimit (tried again after 2.0 s)",
            "slow down",
            "failed: bad-luck, 1 try left",
            "Attempt 2",
            "cost unknown",
            "at least $0.2500",
        ):
            assert told in text, told

    def test_a_fork_tells_what_it_has_from_the_other_session(self, own: Past) -> None:
        row = own.ended("critic", 1)
        files = fork(own.root, own.files, "forked00", row, seq=own.rows.index(row) + 1)
        origin = {"session_id": own.session, "checkpoint_id": row["checkpoint_id"]}
        sql(files, event(9_000, "session_forked", None, None, origin))
        text = text_of(page_of(files, own.root))
        assert f"forked from{own.session} at {row['checkpoint_id'][:13]}" in text
        assert "planner turn 1 before the fork" in text

    def test_an_old_log_without_graph_prompts_and_results_is_told_as_far_as_it_goes(self, own: Past) -> None:
        new = ("graph", "call", "result", "spoken", "calls", "cache_write_tokens", "labels")
        sql(
            own.files,
            "DELETE FROM events WHERE type IN ('prompt_given', 'output_given')",
            *(("UPDATE events SET payload = json_remove(payload, ?)", (f"$.{key}",)) for key in new),
        )
        text = text_of(page_of(own.files, own.root))
        assert f"Its log does not tell the graph: orchestra graph {own.session}" in text
        assert "app:write-file" in text

    def test_a_session_without_events_has_a_report(self, own: Past) -> None:
        sql(own.files, "DELETE FROM events")
        assert "No turn has begun" in text_of(page_of(own.files, own.root))

    def test_a_graph_that_is_none_and_events_of_a_later_version_do_no_harm(self, own: Past) -> None:
        sql(
            own.files,
            "UPDATE events SET payload = json_set(payload, '$.graph', 'none') WHERE type = 'session_started'",
            "INSERT INTO events SELECT seq + 1000, time, node, turn, attempt, 'thought_read', payload FROM events",
        )
        assert "Its log does not tell the graph" in text_of(page_of(own.files, own.root))

    def test_without_the_repositories_the_rest_is_told(self, own: Past) -> None:
        shutil.rmtree(own.root.parent / "web")
        text = text_of(page_of(own.files, own.root))
        assert "page turn 1" in text
        assert "can't be told" in text
        assert "+# Plan" in text  # the other repository is there

    def test_a_damaged_database_is_told_as_everywhere(self, own: Past) -> None:
        sql(own.files, "UPDATE events SET payload = 'no json' WHERE type = 'tool_ended'")
        with pytest.raises(SessionError) as caught:
            page_of(own.files, own.root)
        assert caught.value.code == "database-unreadable"


class TestItsSize:
    def test_what_there_is_no_room_for_is_counted_and_the_command_named(
        self, past: Past, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(turns, "MOST_BYTES", 6_000)
        text = text_of(page_of(past.files, past.root))
        assert "entries left out: orchestra log" in text
        assert f"orchestra log {past.session} --events --json --agent lead" in text

    def test_of_very_many_turns_the_first_and_the_last_are_told(
        self, past: Past, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(turns, "MOST_TURNS", 4)
        text = text_of(page_of(past.files, past.root))
        assert "7 turns left out here" in text
        assert text.index("planner turn 1") < text.index("7 turns left out") < text.index("critic turn 2")

    def test_much_output_gives_a_page_of_bounded_size(self, own: Past, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns, "MOST_BYTES", 100_000)
        begun: list[tuple[str, tuple[Any, ...]]] = []
        result = {"ok": True, "exit_code": 0, "duration_s": 0.1, "result": "<\u202e" * 400}
        for seq in range(1_000, 4_000, 2):
            call = {"tool": "app:sh", "call": str(seq)}
            begun.append(event(seq, "tool_started", "lead", 9, call | {"args": {"command": "x"}}))
            begun.append(event(seq + 1, "tool_ended", "lead", 9, call | result))
        sql(own.files, *begun)
        assert len(page_of(own.files, own.root).encode()) < 400_000


class TestHostileContents:
    def test_no_content_gets_out_of_its_place(self, own: Past) -> None:
        texts = payloads("http://127.0.0.1:9")
        assert len(set(texts)) >= 100
        fill(own, texts)

        found = read_page(page_of(own.files, own.root))

        assert sum(tag == "svg" for tag, _ in found.found) == 2  # the graph is drawn all the same
        text = "".join(found.text)
        assert [payload for payload in texts if visible(payload)[:60] not in text] == []

    def test_a_redacted_page_has_no_content_at_all(self, own: Past) -> None:
        canaries = [f"canary {number} <sings>" for number in range(500)]
        fill(own, canaries, names=False)

        assert "canary" in page_of(own.files, own.root)
        page = page_of(own.files, own.root, redact=True)

        assert "canary" not in page
        assert "redacted" in text_of(page)

    def test_a_redacted_page_tells_who_did_what_when_and_what_it_cost(self, past: Past) -> None:
        page = page_of(past.files, past.root, redact=True)
        for secret in ("# Plan", "plan.md", "routes.txt", "Do it.", "planned", str(past.root), "orchestra/past"):
            assert secret not in page, secret
        text = text_of(page)
        for kept in ("planner turn 1", "app:write-file", "offline/m", "900 in, 40 out", "chose lead", "1 file +1 -0"):
            assert kept in text, kept


class TestItsFile:
    def test_it_is_written_whole_for_its_owner_only(
        self, in_project: Past, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "report.html"
        export_command(in_project.session[:4], str(file), json=True)
        told = json.loads(capsys.readouterr().out)
        assert told == {
            "session_id": in_project.session,
            "file": str(file),
            "bytes": file.stat().st_size,
            "redacted": False,
        }
        assert file.stat().st_mode & 0o777 == 0o600
        assert [
            item.name for item in tmp_path.iterdir() if item.name.endswith(".html") or item.name.startswith(".")
        ] == ["report.html"]
        assert file.read_text().startswith("<!DOCTYPE html>")

    def test_standard_output_gets_the_page_and_nothing_else(
        self, in_project: Past, capsysbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        export_command(in_project.session, "-", redact=True)
        out, err = capsysbinary.readouterr()
        assert out.startswith(b"<!DOCTYPE html>")
        assert out.endswith(b"</html>\n")
        assert err == b""

    def test_another_file_is_replaced_only_by_force_and_a_link_itself(self, in_project: Past, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_text("mine")
        link = tmp_path / "link.html"
        link.symlink_to(precious)
        for file in (precious, link):
            with pytest.raises(PipelineError) as caught:
                export_command(in_project.session, str(file))
            assert (caught.value.code, caught.value.exit_code) == ("output-exists", 2)
        export_command(in_project.session, str(link), force=True, quiet=True)
        assert precious.read_text() == "mine"
        assert not link.is_symlink()

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            (".", "is a directory"),
            ("none/report.html", "there is no directory"),
            ("file/report.html", "Not a directory"),
            ("x\0y", "null"),
        ],
    )
    def test_a_place_where_nothing_can_be_written_is_told(
        self, in_project: Past, tmp_path: Path, name: str, why: str
    ) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(PipelineError, match=why) as caught:
            export_command(in_project.session, str(tmp_path / name), force=True)
        assert (caught.value.code, caught.value.exit_code) == ("output-failed", 2)

    def test_a_device_is_never_replaced(self, in_project: Past) -> None:
        with pytest.raises(PipelineError, match="is no file"):
            export_command(in_project.session, "/dev/null", force=True)

    def test_a_page_that_can_t_be_finished_leaves_nothing_behind(
        self, own: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(own.root)
        sql(own.files, "UPDATE events SET payload = 'no json' WHERE type = 'text_delta'")
        (tmp_path / "out").mkdir()
        with pytest.raises(SessionError):
            export_command(own.session, str(tmp_path / "out" / "report.html"))
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_page_and_json_don_t_share_standard_output(self, in_project: Past) -> None:
        with pytest.raises(PipelineError, match="both write to standard output"):
            export_command(in_project.session, "-", json=True)


_ANSWERED = {"input_tokens": 5, "output_tokens": 5, "cached_tokens": 2, "duration_s": 0.1, "stop_reason": "end"}
_MODEL = {"model": "m", "provider": "p"}
_FAILED = {"code": "bad-luck", "message": "no", "hint": "again"}
_TROUBLE: tuple[tuple[int, tuple[str, int, dict[str, Any]]], ...] = (
    (9_000, ("turn_started", 1, {"resumed": False})),
    (9_001, ("model_started", 1, _MODEL | {"attempt": 1})),
    (
        9_002,
        ("model_failed", 1, _MODEL | {"attempt": 1, "error": "RateLimit", "message": "slow down", "retry_in": 2.0}),
    ),
    (9_003, ("model_ended", 1, _MODEL | _ANSWERED | {"attempt": 2, "cost_usd": None})),
    (9_004, ("model_ended", 1, _MODEL | _ANSWERED | {"attempt": 3, "cost_usd": 0.25})),
    (9_005, ("turn_failed", 1, _FAILED | {"tries_left": 1})),
    (9_006, ("turn_started", 2, {"resumed": False})),
    (9_007, ("turn_failed", 2, _FAILED | {"tries_left": 0})),
)


def _turn(page: str, number: int) -> str:
    """Return the text of one turn."""
    _, _, rest = page.partition(f'id="turn-{number}"')
    shown, _, _ = rest.partition(f'id="turn-{number + 1}"')
    found = Elements()
    found.feed(f"<p {shown}")
    return "".join(found.text)
