"""The way that a session has taken: which arrows, how often, and how each node stands."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError, PipelineError
from orchestra.graph.outline import Outline, OutlineEdge
from orchestra.runtime.observability import Event
from orchestra.runtime.pictures import draw, find_picture
from orchestra.runtime.route import fold_route, read_outline, read_route
from orchestra.runtime.store import read_numbered
from tests.drawkit import LOOPS, sketch
from tests.pastkit import change, fork

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestra.graph.drawing.route import Route
    from tests.pastkit import Past


def folded(outline: Outline, *told: str, **payloads: Mapping[str, Any]) -> Route:
    """Fold events written as `TYPE` or `TYPE NODE TURN`; payloads by their place, as `e3={…}`."""
    events = []
    for seq, words in enumerate(told):
        kind, node, turn = [*words.split(), None, None][:3]
        number = None if turn is None else int(turn)
        payload = payloads.get(f"e{seq}", {"duration_s": 1.5})
        events.append(Event(seq + 1, "2026-11-27T03:00:00", kind or "", node, number, 1, payload))
    return fold_route(outline, events)


def taken(outline: Outline, route: Route) -> dict[str, int]:
    return {f"{edge.source} {edge.target}": route.along(number) for number, edge in enumerate(outline.edges)}


def states(route: Route) -> dict[str, str]:
    return {name: visit.state for name, visit in route.visits.items()}


def turn(node: str, number: int = 1) -> list[str]:
    return [f"turn_started {node} {number}", f"turn_ended {node} {number}"]


CHOSE = "condition_chose critic"


def test_arrows_are_taken_by_ended_turns_by_choices_and_through_joins() -> None:
    before = ["session_started", *turn("plan"), *turn("left"), *turn("right"), "turn_started critic 1"]
    revised = [f"{CHOSE} 1", "turn_ended critic 1", *turn("left", 2), "turn_started critic 2"]
    route = folded(
        LOOPS,
        *(*before, *revised, f"{CHOSE} 2", "turn_ended critic 2", "session_completed"),
        e8={"edge": "critic#4", "targets": ["left"], "labels": ["revise"]},
        e13={"edge": "critic#4", "targets": ["END"], "labels": ["approve"]},
    )

    assert taken(LOOPS, route) == {
        "START plan": 1,
        "plan left": 1,
        "plan right": 1,
        "left join.critic": 2,
        "right join.critic": 1,
        "join.critic critic": 2,
        "critic left": 1,
        "critic END": 1,
    }
    assert set(states(route).values()) == {"done"}
    assert (route.at("left").turns, route.at("left").seconds, route.at("join.critic").turns) == (2, 3.0, 2)


def test_a_turn_that_is_logged_twice_after_a_kill_counts_once() -> None:
    again = ["session_resumed", "turn_started plan 1", "turn_ended plan 1"]
    route = folded(LOOPS, "session_started", *turn("plan"), *again, "turn_started left 1")
    assert taken(LOOPS, route)["plan left"] == 1
    assert route.at("plan").turns == 1
    assert states(route) == {"START": "done", "plan": "done", "left": "running"}


def test_who_was_at_work_is_interrupted_until_it_says_that_it_goes_on() -> None:
    began = ["session_started", *turn("plan"), "turn_started left 1", "turn_started right 1", "question_asked right 1"]
    assert states(folded(LOOPS, *began)) == {"START": "done", "plan": "done", "left": "running", "right": "waiting"}
    assert states(folded(LOOPS, *began, "session_paused"))["right"] == "waiting"
    resumed = [*began, "session_resumed", "turn_started right 1"]
    assert states(folded(LOOPS, *resumed))["left"] == "interrupted"
    assert states(folded(LOOPS, *resumed))["right"] == "running"
    assert states(folded(LOOPS, *began, "human_turn right 1", "turn_failed left 1"))["left"] == "failed"
    half = states(folded(LOOPS, "session_started", *turn("plan"), *turn("left"), "turn_started right 1"))
    assert half["join.critic"] == "waiting"


def test_a_bound_closes_the_way_back_also_where_the_condition_chose_it() -> None:
    back = OutlineEdge("check", "fix", "red", max_loops=1, is_back=True)
    fallback = OutlineEdge("check", "report", "red", is_fallback=True)
    graph = sketch(
        OutlineEdge("START", "fix"), OutlineEdge("fix", "check"), back, fallback, OutlineEdge("report", "END")
    )
    chose = {"edge": "check#2", "targets": ["fix"]}
    rounds = [
        *(*turn("fix"), "turn_started check 1", "condition_chose check 1", "turn_ended check 1"),
        *(*turn("fix", 2), "turn_started check 2", "condition_chose check 2", "turn_ended check 2"),
    ]
    route = folded(graph, "session_started", *rounds, *turn("report"), e4=chose, e9=chose)
    assert taken(graph, route) == {"START fix": 1, "fix check": 2, "check fix": 1, "check report": 1, "report END": 1}


def test_without_a_condition_the_bound_alone_decides_and_a_choice_of_start_is_told_by_who_began() -> None:
    back = OutlineEdge("check", "fix", max_loops=1, is_back=True)
    graph = sketch(
        *(OutlineEdge("START", "fix", "which"), OutlineEdge("START", "other", "which"), OutlineEdge("fix", "check")),
        *(back, OutlineEdge("check", "report", is_fallback=True), OutlineEdge("report", "END")),
    )
    rounds = [*turn("fix"), *turn("check"), *turn("fix", 2), *turn("check", 2), *turn("report")]
    counted = taken(graph, folded(graph, "session_started", *rounds))
    assert (counted["START fix"], counted["START other"]) == (1, 0)
    assert (counted["check fix"], counted["check report"]) == (1, 1)


def test_a_turn_that_met_a_further_conflict_has_gone_nowhere() -> None:
    met = ["turn_started critic 1", "conflict", "turn_ended critic 1", *turn("critic", 2)]
    route = folded(
        LOOPS,
        *("session_started", *turn("plan"), *turn("left"), *turn("right"), *met),
        e8={"target": "critic", "join": "join.critic", "resolver": "agent", "n": 2, "repo": "app"},
    )
    assert taken(LOOPS, route)["join.critic critic"] == 1
    assert route.at("critic").turns == 2


def test_a_session_is_read_with_its_spending_and_without_what_its_graph_does_not_know(past: Past) -> None:
    outline = read_outline(past.files, past.root)
    route = read_route(past.files, outline)
    counted = taken(outline, route)
    assert {counted[arrow] for arrow in ("critic lead", "critic END", "join.lead lead", "more join.lead")} == {1}
    assert counted["lead odd"] == counted["odd critic"] == 2
    planner = route.at("planner")
    assert (planner.tokens, planner.model_calls, planner.turns) == (940, 2, 1)
    assert planner.seconds > 0
    assert (route.session_id, route.status, route.at("END").state) == (past.session, "completed", "done")
    other = read_route(past.files, LOOPS)
    assert "planner" not in other.visits


def test_an_old_log_is_drawn_from_the_copy_of_the_pipeline_and_forks_are_shown(past: Past, tmp_path: Path) -> None:
    known = read_outline(past.files, past.root)
    copy = past.copied(tmp_path / "copy")
    row = copy.ended("lead", 1)
    seq = next(seq for seq, other in read_numbered(copy.files) if other == row)
    left = fork(copy.root, copy.files, "zzzz0001", row, seq=seq)
    with closing(sqlite3.connect(left.database)) as connection:
        connection.execute("UPDATE events SET payload = json_remove(payload, '$.graph')")
        connection.commit()
    change(left, settings={"imports": str(copy.root), "file": "pipeline.yaml"})

    (mark,) = draw(copy.session, directory=copy.root).route.forks  # type: ignore[union-attr]  # of a session
    assert (mark.session_id, mark.node, mark.turn) == ("zzzz0001", "lead", 1)
    picture = draw("zzzz", directory=copy.root)
    assert picture.outline == known
    assert picture.route is not None
    origin = picture.route.forked_from
    assert origin is not None
    assert (origin.session_id, origin.node, origin.turn, origin.status) == (copy.session, "lead", 1, "completed")
    assert "left " + copy.session in str(picture)


def graph(past: Past, *args: str) -> Any:
    from typer.testing import CliRunner

    from orchestra.cli.main import app

    return CliRunner().invoke(app, ["graph", *args])


def test_the_command_draws_in_every_format_on_stdout_or_into_a_file(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(past.root)
    for options in (["--json"], ["--format", "json"]):
        document = json.loads(graph(past, past.session, *options).stdout)
        assert document["version"] == 1
        assert document["route"]["session_id"] == past.session
    assert "route" not in json.loads(graph(past, "../pipelines/pipeline.yaml", "--json").stdout)
    assert graph(past, past.session, "--format", "mermaid").stdout.startswith("flowchart TD\n")
    for ending, begin in (
        ("svg", "<svg "),
        ("dot", "digraph "),
        ("mmd", "flowchart"),
        ("json", "{"),
        ("txt", "past\n"),
    ):
        path = tmp_path / f"picture.{ending}"
        done = graph(past, past.session, "-o", str(path))
        assert (done.exit_code, done.stdout) == (0, "")
        assert path.read_text(encoding="utf-8").startswith(begin)
    monkeypatch.setenv("COLUMNS", "70")
    printed = graph(past, past.session[:5]).stdout
    assert f"session {past.session}: completed" in printed
    assert max(map(len, printed.splitlines())) <= 70


def test_what_is_no_pipeline_and_no_session_is_one_error_that_names_what_is_near(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PipelineError) as caught:
        find_picture("pr-reviw", past.root)
    error = caught.value
    assert (error.code, error.exit_code, error.hint) == ("unknown-graph", 2, "did you mean 'pr-review'?")
    assert "there is no pipeline 'pr-reviw'\nshipped with Orchestra: pr-review\n" in error.message
    assert f"there is no session 'pr-reviw' in {past.root}" in error.message
    near = past.session[:-1] + ("y" if past.session[-1] != "y" else "z")
    with pytest.raises(PipelineError, match="no pipeline") as caught:
        find_picture(near, past.root)
    assert caught.value.hint == f"did you mean {past.session!r}?"
    with pytest.raises(OrchestraError, match=r"there is no file nothing\.yaml"):
        find_picture("nothing.yaml", past.root)
    monkeypatch.chdir(past.root)
    for options in (["--format", "pgn"], ["--json", "--format", "svg"], ["--provider", "offline"]):
        assert graph(past, past.session, *options).exception.code == "bad-option"
    assert graph(past, past.session, "-o", "no/such/directory.svg").exception.code == "output-failed"


def test_where_both_could_be_meant_it_is_the_pipeline_and_that_is_said(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = past.copied(tmp_path / "copy")
    named = f"pipelines: {{'{copy.session}': ../pipelines/pipeline.yaml}}\n"
    (copy.root / "orchestra.yaml").write_text(named, encoding="utf-8")
    monkeypatch.chdir(copy.root)
    done = graph(copy, copy.session, "--json")
    assert "route" not in json.loads(done.stdout)
    said = f"{copy.session} is a pipeline, and the session {copy.session}: this is the pipeline\n"
    assert done.stderr.endswith(said)
    (copy.root / "orchestra.yaml").write_text("pipelines: [wrong]\n", encoding="utf-8")
    assert "route" in json.loads(graph(copy, copy.session, "--json").stdout)
