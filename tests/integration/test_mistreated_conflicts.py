"""Conflicts that people and agents treat badly: nothing may be lost, and nothing taken for resolved (DESIGN §5.9)."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_joins import CLASH, MEET, WRITER, edits, team, worktree_of
from tests.session_support import (
    agent,
    assert_consistent,
    contents,
    model_calls,
    resume_and_kill,
    run_and_kill,
    says,
    turn_commits,
    writes,
)

if TYPE_CHECKING:
    from tests.conftest import Workshop

HUMAN: list[dict[str, Any]] = [MEET[0], {**MEET[1], "on_conflict": "human"}, MEET[2]]


def runs(command: str) -> dict[str, Any]:
    return {"tools": [{"name": "shell", "args": {"command": command}}]}


async def test_a_conflict_whose_worktree_is_deleted_is_laid_out_anew(workshop: Workshop) -> None:
    script = {
        "a": [[runs("printf 'a\\0a' > bin"), says("a")]],
        "b": [[runs("printf 'b\\0b' > bin"), says("b")]],
        "t": [[says("done")]],
    }
    paused = await workshop.run(team(workshop, script, HUMAN))
    tree = worktree_of(workshop, paused.record.session_id)
    shutil.rmtree(tree.path)

    again = await workshop.resume(paused.record.session_id)

    assert again.record.status == "paused"  # a binary file has no markers
    assert tree.git("status", "--short") == "AA bin"


LOSING = {
    "a": [edits("app.py", "x = 2\n")],
    "b": [[writes("b.txt", "b\n"), *edits("app.py", "x = 3\n")]],
}
"""What `b` adds is clean, and gone with a merge that is given up."""


async def test_a_commit_of_the_agents_without_the_other_side_is_no_resolution(workshop: Workshop) -> None:
    alone = "git reset -q --hard; echo 'x = 23' > app.py; git -c user.name=t -c user.email=t@t commit -qam mine"
    failed = await workshop.run(team(workshop, {**LOSING, "t": [[runs(alone), says("done")]]}))

    error = failed.record.error
    assert error is not None, contents(workshop, failed.commits["repo"])
    assert error["code"] == "unresolved-conflict"
    assert " merge " in error["message"]
    tree = worktree_of(workshop, failed.record.session_id)
    command = error["message"].partition("`")[2].partition("`")[0]
    with pytest.raises(AssertionError):  # it conflicts, of course
        tree.git(*command.split()[3:])
    tree.write({"app.py": "x = 23\n"})
    tree.git("add", "app.py")
    done = await workshop.resume(failed.record.session_id)
    assert done.record.status == "completed", done.record.error
    assert {"app.py": "x = 23", "b.txt": "b"}.items() <= contents(workshop, done.commits["repo"]).items()


async def test_a_merge_that_the_agent_gave_up_stays_so_through_a_kill(workshop: Workshop) -> None:
    turn = [runs("git merge --abort"), runs("true"), *edits("app.py", "x = 23\n")]
    killed = run_and_kill(workshop, team(workshop, {**LOSING, "t": [turn]}), "tool-ended:5")
    assert killed.session
    assert not killed.finished

    failed = await workshop.resume(killed.session)

    assert failed.record.error is not None, contents(workshop, failed.commits["repo"])
    assert failed.record.error["code"] == "unresolved-conflict"


ANY: list[dict[str, Any]] = [MEET[0], {**MEET[1], "join": "any"}, MEET[2]]


async def _resolved_by_hand(workshop: Workshop, turn: list[dict[str, Any]]) -> str:
    """Run to a conflict before a join of mode `any`, which a person resolves; gives the session."""
    graph = [ANY[0], {**ANY[1], "on_conflict": "human"}, ANY[2]]
    paused = await workshop.run(team(workshop, {**CLASH, "t": [turn]}, graph))
    assert paused.record.status == "paused"
    tree = worktree_of(workshop, paused.record.session_id, "t")
    tree.write({"app.py": "x = 4\n"})
    tree.git("add", "app.py")
    return paused.record.session_id


async def test_the_target_of_a_join_any_begins_on_what_a_person_has_resolved(workshop: Workshop) -> None:
    session = await _resolved_by_hand(workshop, edits("t.txt", "t\n"))

    done = await workshop.resume(session)

    assert done.record.status == "completed", done.record.error
    assert {"app.py": "x = 4", "t.txt": "t"}.items() <= contents(workshop, done.commits["repo"]).items()
    assert_consistent(workshop, done)


async def test_what_the_target_of_a_join_any_has_begun_is_not_a_persons_resolution(workshop: Workshop) -> None:
    session = await _resolved_by_hand(workshop, [runs("true"), *edits("t.txt", "t\n")])

    assert not resume_and_kill(workshop, session, "snapshot-taken")
    done = await workshop.resume(session)

    assert done.record.status == "completed", done.record.error
    merge = workshop.repo.git("log", "--merges", "--format=%H", done.commits["repo"])
    assert "t.txt" not in contents(workshop, merge)
    assert turn_commits(workshop, done.commits["repo"]).count("t:1") == 1
    assert model_calls(workshop, session)["t", 1] == 3


async def test_the_target_of_a_join_any_goes_on_after_a_kill(workshop: Workshop) -> None:
    script = {"a": [edits("a.txt", "a\n")], "b": [edits("b.txt", "b\n")], "t": [[runs("ls"), *edits("t.txt", "t\n")]]}
    killed = run_and_kill(workshop, team(workshop, script, ANY), "tool-ended:4")
    assert killed.session
    assert not killed.finished

    done = await workshop.resume(killed.session)

    assert done.record.status == "completed", done.record.error
    assert {"a.txt", "b.txt", "t.txt"} <= contents(workshop, done.commits["repo"]).keys()
    assert model_calls(workshop, killed.session)["t", 1] == 3
    assert_consistent(workshop, done)


LOOP = """
import orchestra

@orchestra.condition("again")
def again(state):
    return "END" if state["turns"].get("t", 0) >= 2 else ["a", "b"]

@orchestra.condition("leave")
def leave(state):
    return "END"
"""


async def test_what_an_agent_left_in_each_round_of_a_loop_is_on_a_branch_of_its_own(workshop: Workshop) -> None:
    script = {
        "a": [edits("app.py", "x = 10\n"), edits("app.py", "x = 20\n")],
        "b": [edits("b1.txt", "b\n"), edits("b2.txt", "b\n")],
        "q": [[says("q")]],
        "t": [[says("again")], [says("enough")]],
    }
    graph: list[dict[str, Any]] = [
        {"from": "START", "to": ["a", "b"]},
        {"from": "a", "to": ["q", "END"], "condition": "leave"},
        {"from": ["q", "b"], "to": "t"},
        {"from": "t", "to": ["a", "b", "END"], "condition": "again", "max_loops": 1},
    ]
    agents = {name: agent(tools=WRITER) for name in script}
    path = workshop.pipeline(
        {"name": "team", "agents": agents, "graph": graph, "conditions": "conditions"},
        script=script,
        files={"conditions/loop.py": LOOP},
    )

    result = await workshop.run(path)

    assert result.record.error is not None
    assert result.record.error["code"] == "merge-conflict"
    for name, text in (("a", "x = 10"), ("a.2", "x = 20")):
        assert workshop.repo.git("show", f"{result.branches['repo']}--{name}:app.py") == text
        assert f"{result.branches['repo']}--{name}" in result.record.error["message"]


ONE = """
import orchestra

@orchestra.condition("again")
def again(state):
    return "END" if state["turns"].get("t", 0) >= 2 else ["a"]
"""


async def test_the_session_branch_follows_a_join_at_which_one_alone_arrives(workshop: Workshop) -> None:
    script = {
        "a": [edits("a1.txt", "a\n"), edits("a2.txt", "a\n")],
        "b": [edits("b1.txt", "b\n")],
        "t": [[says("again")], [{"error": "auth"}]],
    }
    graph = [*MEET[:2], {"from": "t", "to": ["a", "b", "END"], "condition": "again", "max_loops": 1}]
    agents = {name: agent(tools=WRITER) for name in script}
    path = workshop.pipeline(
        {"name": "team", "agents": agents, "graph": graph, "conditions": "conditions"},
        script=script,
        files={"conditions/loop.py": ONE},
    )

    failed = await workshop.run(path)

    assert failed.record.status == "failed"
    assert {"a1.txt", "a2.txt", "b1.txt"} <= contents(workshop, failed.branches["repo"]).keys()
    joined = [row for row in workshop.checkpoints(failed.record.session_id) if row["next"] == ["t"]]
    assert joined[-1]["repos"] == failed.commits


async def test_a_turn_that_ends_beside_a_join_has_its_own_files_in_its_row(workshop: Workshop) -> None:
    script = {name: [edits(f"{name}.txt", "1\n")] for name in ("a", "b", "c", "d", "t")}
    graph: list[dict[str, Any]] = [
        {"from": "START", "to": ["a", "b", "c"]},
        {"from": ["a", "b"], "to": "t"},
        {"from": "c", "to": "d"},
        {"from": ["d", "t"], "to": "END"},
    ]

    result = await workshop.run(team(workshop, script, graph))

    assert result.record.status == "completed", result.record.error
    assert_consistent(workshop, result)
    rows = [row for row in workshop.checkpoints(result.record.session_id) if not row["checkpoint_ns"]]
    row = next(row for row in rows if row["ended"] == [{"agent": "d", "turn": 1}])
    assert row["next"] == ["t"]  # the join has merged in the same step
    assert contents(workshop, row["repos"]["repo"]).keys() >= {"c.txt", "d.txt"}


async def test_what_the_index_of_a_conflict_names_survives_the_users_prune(workshop: Workshop) -> None:
    one, two = ("".join(f"{word} {number} of it\n" for number in range(40)) for word in ("line", "other"))
    workshop.repo.write({"one.txt": one, "two.txt": two})
    workshop.repo.git("add", "-A")
    workshop.repo.git("commit", "-qm", "two files")
    both = "sed -i 's/{} of/{}! of/' new.txt one.txt two.txt 2>/dev/null; true"
    script = {
        "a": [[runs("git mv one.txt new.txt; " + both.format(3, 3)), says("a")]],
        "b": [[runs("git mv two.txt new.txt; " + both.format(30, 30)), says("b")]],
        "t": [[says("done")]],
    }
    paused = await workshop.run(team(workshop, script, HUMAN))
    assert [one["path"] for one in paused.conflicts] == ["new.txt"]
    tree = worktree_of(workshop, paused.record.session_id)
    workshop.repo.git("worktree", "remove", "-f", "-f", str(tree.path))
    workshop.repo.git("gc", "-q", "--prune=now")

    again = await workshop.resume(paused.record.session_id)

    assert again.record.status == "paused", again.record.error
    tree.git("checkout", "--theirs", "new.txt")
    tree.git("add", "new.txt")
    done = await workshop.resume(paused.record.session_id)
    assert done.record.status == "completed", done.record.error


async def test_a_conflict_in_more_files_than_a_command_line_holds(workshop: Workshop) -> None:
    place = "/".join(["d" * 250] * 12)
    name = "a-file-with-number-" + "x" * 200
    make = f"mkdir -p {place}; cd {place}; seq 1 900 | while read n; do echo {{}} > {name}-$n; done"
    script = {
        "a": [[runs(make.format("a")), says("a")]],
        "b": [[runs(make.format("b")), says("b")]],
        "t": [[says("done")]],
    }

    paused = await workshop.run(team(workshop, script, HUMAN))

    assert paused.record.status == "paused", paused.record.error
    assert len(paused.conflicts) == 900
    assert paused.conflicts[0]["agents"] == ["a", "b"]


async def test_markers_that_are_moved_to_another_file_are_left(workshop: Workshop) -> None:
    move = {"tools": [{"name": "move-file", "args": {"path": "app.py", "to": "src/app.py"}}]}
    failed = await workshop.run(team(workshop, {**CLASH, "t": [[move, says("done")]]}))
    assert failed.record.error is not None, contents(workshop, failed.commits["repo"])
    assert "src/app.py (conflict markers are left)" in failed.record.error["message"]

    done = await workshop.run(team(workshop, {**CLASH, "t": [[move, *edits("src/app.py", "x = 4\n")]]}))
    assert done.record.status == "completed", done.record.error
    assert contents(workshop, done.commits["repo"]).keys() == {"docs/notes.md", "src/app.py"}
