"""`orchestra diff` over a real session's repositories."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.runtime.comparison import compare
from orchestra.runtime.naming import short_id
from orchestra.runtime.outcome import read_result
from orchestra.runtime.store import find_session
from orchestra.testing import git_repo
from tests.commandkit import Said
from tests.pastkit import HOSTILE, Past, change, fork
from tests.preloaded import COMMAND
from tests.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path


def diff(past: Past, *args: str) -> Said:
    said = Said("diff", past.session, *args, cwd=past.root)
    assert said.code == 0, said.err
    return said


def document(past: Past, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(diff(past, *args, "--json").out)
    return found


def git(past: Past, *args: str) -> str:
    return past.workshop.repo.git(*args)


def counted(files: list[dict[str, Any]]) -> dict[str, tuple[int | None, int | None]]:
    return {item["path"]: (item["added"], item["deleted"]) for item in files}


def test_a_session_differs_from_its_base_as_git_says_in_all_repos(past: Past) -> None:
    said = document(past)

    commits = read_result(past.files)
    base = past.rows[0]["repos"]
    for repo, found in said["repos"].items():
        assert (found["before"], found["after"], found["error"]) == (base[repo], commits[repo], None)
    app = said["repos"]["app"]
    assert app["patch"] == git(past, "diff", base["app"], commits["app"]).replace("\udce9", r"\xe9") + "\n"
    assert counted(app["files"]) == {
        "plan.md": (1, 0),
        "routes.txt": (2, 1),
        "old.txt": (0, 1),
        "more.txt": (2, 0),
        HOSTILE: (2, 0),
        "latin.txt": (2, 0),
    }
    assert counted(said["repos"]["web"]["files"]) == {"notes.md": (1, 0), "page.html": (1, 0)}
    assert {key: said[key] for key in ("session_id", "agent", "turn", "from", "to")} == {
        "session_id": past.session,
        **dict.fromkeys(("agent", "turn", "from", "to")),
    }


def test_the_text_is_escaped_also_where_content_is_no_text_and_names_are_hostile(past: Past) -> None:
    for said in (diff(past), diff(past, "--stat"), diff(past, "odd", "--turn", "1")):
        assert "\x1b" not in said.out
        assert "evil" in said.out
    assert r"+caf\xe9 \x1b[31m" in diff(past).out


def test_the_statistics_name_each_file_and_the_repos_sum(past: Past) -> None:
    lines = diff(past, "--stat").out.splitlines()

    heads = [line for line in lines if line.startswith("──")]
    assert [line.partition(": ")[2] for line in heads] == ["6 files, +9 -2", "2 files, +2 -0"]
    assert "  old.txt              +0 -1" in lines
    assert "patch" not in document(past, "--stat")["repos"]["app"]


def test_one_repo_can_be_asked_for(past: Past) -> None:
    assert list(document(past, "--repo", "web")["repos"]) == ["web"]
    said = Said("diff", past.session, "--repo", "wep", cwd=past.root)
    assert (said.code, "did you mean 'web'?" in said.err) == (2, True)


def test_an_agents_turn_shows_its_own_changes_only(past: Past) -> None:
    def files(*args: str) -> dict[str, list[str]]:
        return {repo: list(counted(found["files"])) for repo, found in document(past, *args)["repos"].items()}

    assert files("left") == {"app": ["routes.txt"]}
    assert files("right") == {"app": ["old.txt", "routes.txt"]}
    assert files("more") == {"app": ["more.txt"]}, "not what the agent before it in the branch did"
    assert files("lead") == {"web": ["notes.md"]}, "the last turn"
    assert files("lead", "--turn", "1") == {"app": ["routes.txt"]}, "not what the join merged"
    assert files("odd", "--turn", "2") == {"app": [HOSTILE, "latin.txt"]}
    patch = document(past, "lead", "--turn", "1")["repos"]["app"]["patch"]
    assert "-<<<<<<<" in patch, "how the conflict was resolved"
    nothing = diff(past, "critic")
    assert (nothing.out, nothing.err) == ("", "critic (turn 2) has changed no file\n")


def test_between_two_checkpoints_files_are_those_that_they_name(past: Past) -> None:
    rows = past.rows
    first, second = past.ended("planner", 1), past.ended("lead", 1)
    a, b = short_id(rows, first), short_id(rows, second)

    for text, before, after in (
        (f"{a}..{b}", first["repos"], second["repos"]),
        (f"{b}..{a}", second["repos"], first["repos"]),
        (f"..{a}", rows[0]["repos"], first["repos"]),
        (f"{b}..", second["repos"], rows[-1]["repos"]),
        (b, second["repos"], rows[-1]["repos"]),
    ):
        said = document(past, "--checkpoint", text)
        changed = {repo: (before[repo], after[repo]) for repo in before if before[repo] != after[repo]}
        assert {repo: (found["before"], found["after"]) for repo, found in said["repos"].items()} == changed
    inside = next(row for row in rows if row["agent"] == "more" and row["changed"])
    assert list(document(past, "--checkpoint", f"{a}..{inside['checkpoint_id']}")["repos"]) == ["app"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["leed"], "did you mean 'lead'?"),
        (["--turn", "1"], "which turn of an agent"),
        (["lead", "--turn", "9"], "no turn 9 of 'lead' has begun"),
        (["lead", "--checkpoint", "a..b"], "leave one of them out"),
        (["--checkpoint", ".."], "names no checkpoint"),
        (["--checkpoint", "zz.."], "has no checkpoint 'zz'"),
        (["\x1b[2J"], r"\x1b[2J"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_shown(past: Past, args: list[str], said: str) -> None:
    done = Said("diff", past.session, *args, cwd=past.root)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "\x1b" not in done.err


def test_a_word_that_is_nearly_a_session_is_met_with_its_id(past: Past) -> None:
    done = Said("diff", past.session, past.session[:-1] + "_", cwd=past.root)
    assert f"did you mean {past.session!r}?" in done.err


def test_a_repo_that_is_gone_and_a_pruned_commit_are_named_and_the_rest_is_shown(own: Past) -> None:
    result = read_result(own.files)["app"]
    objects = own.root / ".git" / "objects"
    (objects / result[:2] / result[2:]).unlink()

    said = document(own)
    assert said["repos"]["app"]["error"]["code"] == "commit-missing"
    assert result in said["repos"]["app"]["error"]["message"]
    assert counted(said["repos"]["web"]["files"])

    shutil.rmtree(own.root.parent / "web")
    text = diff(own).out
    assert "not shown: repository 'web': there is no directory" in text
    assert f"not shown: the commit {result} is not in 'app' any more" in text


def test_an_object_that_is_gone_costs_the_patch_of_its_repo_and_not_the_others(own: Past) -> None:
    blob = own.workshop.repo.git("rev-parse", f"{read_result(own.files)['app']}:plan.md")
    (own.root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()

    said = document(own)

    assert said["repos"]["app"]["error"]["code"] == "corrupt-object"
    assert said["repos"]["web"]["patch"]
    assert list(counted(document(own, "left")["repos"]["app"]["files"])) == ["routes.txt"]


def test_a_session_that_goes_on_shows_what_it_has_so_far(own: Past) -> None:
    row = next(row for row in own.rows if row["agent"] == "lead" and "web" in row["changed"])
    fork(own.root, own.files, "f0rk", row, seq=own.rows.index(row) + 1)
    with closing(sqlite3.connect(find_session(own.root, "f0rk").database)) as connection:
        connection.execute("DELETE FROM events WHERE node = 'lead' AND turn = 2")
        connection.execute("UPDATE sessions SET status = 'paused'")
        connection.commit()

    def said(*args: str) -> Said:
        return Said("diff", "f0rk", *args, cwd=own.root)

    assert "has not completed (paused)" in said().err
    assert "notes.md" not in said("--stat").out, "the session has not taken it up yet"
    turn = said("lead", "--stat")
    assert "turn 2 of lead has not ended" in turn.err
    assert "  notes.md  +1 -0" in turn.out


def test_where_nothing_is_merged_yet_it_says_where_to_look_and_not_that_nothing_was_changed(own: Past) -> None:
    row = next(row for row in own.rows if row["agent"] == "planner" and "app" in row["changed"])
    files = fork(own.root, own.files, "f0rk", row, seq=own.rows.index(row) + 1)
    with closing(sqlite3.connect(files.database)) as connection:
        connection.execute("UPDATE sessions SET status = 'paused'")
        connection.commit()

    said = Said("diff", "f0rk", cwd=own.root)

    assert (said.code, said.out) == (0, "")
    assert "orchestra log f0rk, orchestra diff f0rk AGENT" in said.err
    assert "changed no file" not in said.err
    assert "neither an agent or step that has started" in Said("diff", "f0rk", "lead", cwd=own.root).err


def test_a_session_without_checkpoints_has_changed_nothing(own: Past) -> None:
    with closing(sqlite3.connect(own.files.database)) as connection:
        connection.execute("DROP TABLE checkpoints")
        connection.commit()
    said = diff(own)
    assert (said.out, said.err) == ("", "the session has changed no file\n")


def test_two_sessions_are_compared_by_outputs_routes_cost_and_files(own: Past) -> None:
    row = own.ended("critic", 1)
    other = fork(own.root, own.files, "f0rk", row, seq=own.rows.index(row) + 1)
    change(other, usage={"cost_usd": 1.5, "input_tokens": 2_000})
    with closing(sqlite3.connect(other.database)) as connection:
        connection.execute("DELETE FROM events WHERE seq > (SELECT seq FROM events WHERE type = 'condition_chose')")
        model = json.dumps({"model": "\x1b[2J", "provider": "second"})
        connection.execute("UPDATE events SET payload = ? WHERE type = 'model_ended' AND node = 'critic'", (model,))
        connection.commit()

    said = document(own, "f0rk")

    one, two = said["sessions"]
    assert [one["session_id"], two["session_id"]] == [own.session, "f0rk"]
    assert one["route"][: len(two["route"])] == two["route"]
    assert one["route"][len(two["route"]) :] == [
        *("lead (turn 2)", "odd (turn 2)", "critic (turn 2): chose approve"),
    ]
    assert two["usage"]["cost_usd"] == 1.5
    assert (one["models"]["critic"], two["models"]["critic"]) == (["offline:m"], ["second:\x1b[2J"])
    assert said["outputs"] == {"critic": [{"verdict": "approve"}, {"verdict": "revise"}], "lead": ["revised", "merged"]}
    assert said["repos"]["web"]["before"] == read_result(own.files)["web"]

    text = diff(own, "f0rk", "--stat").out
    assert "  notes.md  +0 -1" in text
    assert [line.split()[1:] for line in text.splitlines() if line.startswith(("cost", "turns"))] == [
        *(["11", "8"], ["$0.0000", "$1.5000"]),
    ]
    assert "  -lead (turn 2)" in text
    models = text.partition("\nModels\n")[2].splitlines()
    assert models[:2] == ["  critic   offline:m  second:\\x1b[2J", "  lead     offline:m  offline:m"]
    assert "Output: the same of" in text


def test_a_session_compared_with_itself_is_the_same(past: Past) -> None:
    said = document(past, past.session)
    assert (said["outputs"], said["repos"]) == ({}, {})
    text = diff(past, past.session).out
    assert "Route: the same" in text
    assert text.endswith("Files: the same\n")


def test_the_order_of_turns_at_the_same_time_is_no_difference(past: Past) -> None:
    route = compare(past.files, past.files).sides[0].route
    assert list(route) == [
        *("planner (turn 1)", "left (turn 1)", "more (turn 1)", "page (turn 1)", "right (turn 1)", "lead (turn 1)"),
        *("odd (turn 1)", "critic (turn 1): chose revise"),
        *("lead (turn 2)", "odd (turn 2)", "critic (turn 2): chose approve"),
    ]


def test_sessions_on_different_repositories_say_so(own: Past, tmp_path: Path) -> None:
    other = fork(own.root, own.files, "f0rk", own.rows[-1], seq=len(own.rows))
    elsewhere = git_repo(tmp_path / "elsewhere", {"x.txt": "x\n"})
    with closing(sqlite3.connect(other.database)) as connection:
        connection.execute(
            "UPDATE checkpoints SET metadata = REPLACE(CAST(metadata AS TEXT), ?, ?)",
            (read_result(own.files)["app"], elsewhere.head),
        )
        connection.commit()
    assert document(own, "f0rk")["repos"]["app"]["error"]["code"] == "commit-missing"


@pytest.mark.parametrize("command", ["diff", "log"])
def test_on_a_terminal_colours_are_ours_and_a_long_text_goes_through_the_pager(past: Past, command: str) -> None:
    environment = {**past.workshop.environment(PAGER="sed s/plan.md/paged.md/"), "TERM": "xterm-256color"}
    argv = [str(COMMAND), command, past.session]
    with Terminal(argv, directory=past.root, environment=environment, lines=12) as terminal:
        assert terminal.exit_code() == 0
    assert b"paged.md" in terminal.written
    assert b"\x1b[32m+" in terminal.written
    assert b"\x1b[2J" not in terminal.written
    assert b"evil" in terminal.written
