"""What stands at the end of a drive: the outcome, the way, the costs, what has changed, and what to type next."""

from __future__ import annotations

import io
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from orchestra.cli.attaching import attach
from orchestra.cli.displays import Display, choose
from orchestra.cli.driving import _report
from orchestra.cli.live.board import LASTING, PASSING, Board
from orchestra.cli.progress import Progress
from orchestra.cli.signals import StopSignals
from orchestra.cli.summary import ending
from orchestra.runtime.event_log import read_events
from orchestra.runtime.following import read_state
from orchestra.runtime.observability import Event
from orchestra.runtime.outcome import read_result
from orchestra.runtime.result import SessionResult
from orchestra.runtime.store import SessionFiles, Status, read_session
from tests.livekit import Told, busy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

    from orchestra.runtime.store import SessionRecord
    from tests.pastkit import Past

TIMES = "\N{MULTIPLICATION SIGN}"


def told(record: SessionRecord, stream: io.StringIO | None = None, **more: object) -> list[str]:
    transcript = Progress(stream or io.StringIO()).transcript
    return ending(record, transcript, **more).splitlines()  # type: ignore[arg-type]


def test_a_session_is_summed_up_in_80_columns(past: Past) -> None:
    record = read_session(past.files)
    branches = {"app": "orchestra/past/x", "web": "orchestra/past/y"}
    shown = told(record, branches=branches, commits=read_result(past.files))
    assert shown[1].startswith(f"completed: session {past.session}, ")
    text = "\n".join(shown)
    assert "way: planner → (" in text
    assert " ".join(text.split("way: ")[1].split("\n900")[0].split()).endswith(
        f"→ (lead → odd → critic) {TIMES}2 → END"
    )
    assert "right → more" in text
    assert "900 tokens in, 40 out, $0.0000" in text
    assert ["agent", "turns", "tokens", "cost", "time"] in [line.split() for line in shown]
    (lead,) = [line.split() for line in shown if line.startswith("  lead ")]
    assert lead[:4] == ["lead", "2", "0", "$0.0000"]
    (odd,) = [line.split() for line in shown if line.startswith("  odd ")]
    assert odd[:2] == ["odd", "2"], "a step has no tokens and no cost"
    assert "branch of app: orchestra/past/x (6 files, +9 -2)" in text
    assert "branch of web: orchestra/past/y (2 files, +2 -0)" in text
    assert f"bring it into your checkout with: orchestra apply {past.session}" in shown
    assert shown[-1] == f"look back with: orchestra log {past.session}"
    assert max(map(cell_len, shown)) <= 80


def test_where_git_can_not_tell_what_has_changed_it_is_left_out(past: Past, tmp_path: Path) -> None:
    record = read_session(past.files)
    gone = {name: {**repo, "path": str(tmp_path / "gone")} for name, repo in record.workspace.items()}
    shown = told(replace(record, workspace=gone), branches={"app": "b"}, commits=read_result(past.files))
    assert "branch of app: b" in shown


def test_where_the_events_can_not_be_read_the_rest_is_told(past: Past, tmp_path: Path) -> None:
    shown = told(replace(read_session(past.files), files=SessionFiles(tmp_path)))
    assert shown[1].startswith(f"completed: session {past.session}, ")
    assert not [line for line in shown if line.startswith("way: ")]
    assert [line for line in shown if line.startswith("900 tokens in, 40 out")]


def test_in_a_terminal_without_its_characters_others_stand_in(past: Past) -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

    shown = "\n".join(told(read_session(past.files), Ascii()))
    assert shown.isascii()
    assert "(lead -> odd -> critic) x2 -> END" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ([0.01, 0.02], "$0.0300"),
        ([0.01, None], "at least $0.0100, some prices unknown"),
        ([None, None], "cost unknown"),
    ],
)
def test_an_unknown_price_is_said_and_the_models_are_told_apart(
    past: Past, monkeypatch: pytest.MonkeyPatch, costs: Sequence[float | None], said: str
) -> None:
    session = Told((("a", ()), ("b", ())))
    for name, cost in zip("ab", costs, strict=True):
        session.starts(name)
        session.calls(name, model=f"model-{name}", cost_usd=cost, cached_tokens=300)
        session.ends(name)
    monkeypatch.setattr("orchestra.runtime.following.read_state", lambda *_, **__: session.events)
    usage = {"input_tokens": 2_000, "output_tokens": 400, "model_calls": 2}
    known = None if None in costs else sum(cost or 0 for cost in costs)
    shown = told(replace(read_session(past.files), usage={**usage, "cost_usd": known}))
    assert f"2,000 tokens in (600 cached), 400 out, {said}" in shown
    models = [line.split() for line in shown if line.startswith("  p/model-")]
    prices = ["unknown" if cost is None else f"${cost:.4f}" for cost in costs]
    assert models == [[f"p/model-{name}", "1", "1,200", price] for name, price in zip("ab", prices, strict=True)]


class TestReadingTheState:
    def test_it_is_that_of_whoever_has_seen_everything(self, past: Past) -> None:
        seen, read = Board(), Board()
        for document in read_events(past.files):
            seen.take(Event(**document))
        for event in read_state(past.files, lasting=LASTING, passing=PASSING):
            read.take(event)
        assert (read.turns, read.spending, read.status) == (seen.turns, seen.spending, seen.status)
        assert read.lanes.keys() == seen.lanes.keys()
        assert [lane.turns for lane in read.lanes.values()] == [lane.turns for lane in seen.lanes.values()]

    def test_of_what_is_over_only_little_is_read(self, past: Past) -> None:
        types = {event.type for event in read_state(past.files, lasting=LASTING, passing=PASSING)}
        assert types <= LASTING

    def test_of_turns_under_way_it_has_what_they_are_doing(self, past: Past, tmp_path: Path) -> None:
        files = past.copied(tmp_path / "copy").files
        session = busy()
        _replace_events(files, session.events)
        read = Board()
        for event in read_state(files, lasting=LASTING, passing=PASSING):
            read.take(event)
        assert read == session.board
        before = read_state(files, lasting=LASTING, passing=PASSING, before=session.events[-1].seq)
        assert max(event.seq for event in before) == session.events[-2].seq


def _replace_events(files: SessionFiles, events: Sequence[Event]) -> None:
    import json
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(files.database)) as connection:
        connection.execute("DELETE FROM events")
        connection.executemany(
            "INSERT INTO events (seq, time, node, turn, attempt, type, payload) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(one.seq, one.time, one.node, one.turn, one.attempt, one.type, json.dumps(one.payload)) for one in events],
        )
        connection.commit()


class TestWhereNobodyReads:
    """Of what is said on standard error nothing depends, least of all the exit code."""

    def test_a_session_that_was_driven_has_ended_as_it_has(
        self, past: Past, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        result = SessionResult(read_session(past.files), {"critic": "good"}, final=("critic",))
        for display in (Display.PLAIN, Display.RICH, Display.QUIET, Display.JSON):
            with full_stderr(monkeypatch) as full:
                assert _report(result, Progress(full, display=display), StopSignals(), json=False) == 0
            assert capsys.readouterr().out == "good\n"

    def test_who_looks_on_need_not_see_the_end(self, past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
        with full_stderr(monkeypatch):
            assert attach(past.root, past.files, read_only=True, display=Display.PLAIN) == 0

    def test_that_there_is_no_live_view_need_not_be_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with full_stderr(monkeypatch):
            assert choose(Display.RICH, quiet=False) is Display.PLAIN


@contextmanager
def full_stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """Have a standard error on a full disk; not from a fixture, after which pytest puts its own one there."""
    device = open("/dev/full", "w", buffering=1, encoding="utf-8")  # noqa: PTH123, SIM115 - closing it fails
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", device)
        yield device
    with suppress(OSError):
        device.close()


def test_nothing_in_an_error_steers_the_terminal_of_somebody_who_wants_quiet(past: Past) -> None:
    error = {"code": "tool-failed", "message": "\x1b]0;x\x07bad\nworse"}
    record = replace(read_session(past.files), status=Status.FAILED, error=error)
    stream = io.StringIO()
    assert _report(SessionResult(record), Progress(stream, display=Display.QUIET), StopSignals(), json=False) == 1
    assert stream.getvalue() == "error[tool-failed]: \\x1b]0;x\\x07bad\nworse\n"
