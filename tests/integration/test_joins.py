"""Branches that write: each in a worktree of its own, merged at the join, conflicts resolved (DESIGN §5.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.session_support import agent, assert_consistent, contents, events, says, turn_commits, writes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

MEET: list[dict[str, Any]] = [
    {"from": "START", "to": ["a", "b"]},
    {"from": ["a", "b"], "to": "t"},
    {"from": "t", "to": "END"},
]
WRITER = ["read-file", "write-file", "edit-file", "delete-file", "move-file", "shell"]


def team(workshop: Workshop, script: dict[str, Any], graph: list[dict[str, Any]] | None = None, **more: Any) -> Path:
    names = list(script)
    agents = {name: agent(tools=WRITER) for name in names} | more.pop("agents", {})
    return workshop.pipeline({"name": "team", "agents": agents, "graph": graph or MEET, **more}, script=script)


def edits(path: str, content: str) -> list[dict[str, Any]]:
    return [writes(path, content), says(f"wrote {path}")]


async def test_parallel_writers_work_apart_and_are_merged_at_the_join(workshop: Workshop) -> None:
    script = {"a": [edits("a.txt", "a\n")], "b": [edits("b.txt", "b\n")], "t": [edits("t.txt", "t\n")]}

    result = await workshop.run(team(workshop, script))

    assert result.record.status == "completed", result.record.error
    assert_consistent(workshop, result)
    assert sorted(turn_commits(workshop, result.branches["repo"])) == ["a:1", "b:1", "t:1"]
    merge = workshop.repo.git("log", "--merges", "--format=%H %P", result.branches["repo"]).split()
    assert len(merge) == 3
    assert contents(workshop, result.commits["repo"]) == {
        "app.py": "x = 1",
        "docs/notes.md": "# Notes",
        "a.txt": "a",
        "b.txt": "b",
        "t.txt": "t",
    }
    rows = [row for row in workshop.checkpoints(result.record.session_id) if not row["checkpoint_ns"]]
    joined = next(row for row in rows if row["next"] == ["t"])
    assert joined["repos"]["repo"] == merge[0]
    places = workshop.repo.path / ".orchestra" / "worktrees" / result.record.session_id
    assert [path.name for path in places.iterdir()] == ["_session"]


async def test_a_conflict_is_resolved_by_the_agent_behind_the_join(workshop: Workshop) -> None:
    script = {
        "a": [edits("app.py", "x = 2\n")],
        "b": [edits("app.py", "x = 3\n")],
        "t": [
            [
                {"tools": [{"name": "shell", "args": {"command": "git status --short; cat app.py"}}]},
                *edits("app.py", "x = 5\n"),
            ]
        ],
    }

    result = await workshop.run(team(workshop, script))

    assert result.record.status == "completed", result.record.error
    assert contents(workshop, result.commits["repo"])["app.py"] == "x = 5"
    assert result.conflicts == [
        {"repo": "repo", "path": "app.py", "kind": "content", "agents": ["a", "b"], "resolved_by": "t"}
    ]
    assert_consistent(workshop, result)


def worktree_of(workshop: Workshop, session: str, slot: str = "_session") -> Any:
    from orchestra.testing import GitRepo

    return GitRepo(workshop.repo.path / ".orchestra" / "worktrees" / session / slot)


CLASH = {"a": [edits("app.py", "x = 2\n")], "b": [edits("app.py", "x = 3\n")]}


async def test_a_person_resolves_a_conflict_with_plain_git_and_resume_goes_on(workshop: Workshop) -> None:
    graph: list[dict[str, Any]] = [MEET[0], {**MEET[1], "on_conflict": "human"}, MEET[2]]
    path = team(workshop, {**CLASH, "t": [[says("done")]]}, graph)

    paused = await workshop.run(path)
    session = paused.record.session_id
    assert paused.record.status == "paused"
    assert paused.record.waiting_for is not None
    assert paused.record.waiting_for["agent"] == "t"
    tree = worktree_of(workshop, session)
    assert tree.git("status", "--short") == "UU app.py"
    again = await workshop.resume(session)
    assert again.record.status == "paused"
    tree.write({"app.py": "x = 4\n"})
    tree.git("add", "app.py")
    done = await workshop.resume(session)

    assert done.record.status == "completed", done.record.error
    assert contents(workshop, done.commits["repo"])["app.py"] == "x = 4"
    assert [one["resolved_by"] for one in done.conflicts] == [None]
    assert_consistent(workshop, done)


async def test_a_persons_own_merge_commit_is_taken(workshop: Workshop) -> None:
    graph: list[dict[str, Any]] = [MEET[0], {**MEET[1], "on_conflict": "human"}, MEET[2]]
    paused = await workshop.run(team(workshop, {**CLASH, "t": [[says("done")]]}, graph))
    tree = worktree_of(workshop, paused.record.session_id)

    tree.write({"app.py": "x = 4\n"})
    tree.git("commit", "-aqm", "I say four")
    mine = tree.git("rev-parse", "HEAD")
    done = await workshop.resume(paused.record.session_id)

    assert done.record.status == "completed", done.record.error
    assert done.commits["repo"] == mine


async def test_a_conflict_that_nobody_is_to_resolve_fails_the_session_with_the_commands(workshop: Workshop) -> None:
    graph: list[dict[str, Any]] = [MEET[0], {**MEET[1], "on_conflict": "fail"}, MEET[2]]
    failed = await workshop.run(team(workshop, {**CLASH, "t": [[says("done")]]}, graph))

    error = failed.record.error
    assert error is not None
    assert (failed.record.status, error["code"]) == ("failed", "merge-conflict")
    assert "app.py" in error["message"]
    tree = worktree_of(workshop, failed.record.session_id)
    assert f"git -C {tree.path} status" in error["hint"]
    assert tree.git("status", "--short") == "UU app.py"
    assert workshop.repo.git("rev-parse", failed.branches["repo"]) == workshop.repo.git("rev-parse", "main")
    assert failed.commits["repo"] == workshop.repo.git("rev-parse", "main")
    tree.write({"app.py": "x = 4\n"})
    tree.git("add", "app.py")
    done = await workshop.resume(failed.record.session_id)
    assert done.record.status == "completed", done.record.error


async def test_markers_that_are_left_fail_the_session_until_a_person_mends_them(workshop: Workshop) -> None:
    path = team(workshop, {**CLASH, "t": [[says("I saw nothing")], [says("x")]]})
    failed = await workshop.run(path)

    error = failed.record.error
    assert error is not None
    assert (failed.record.status, error["code"], error["agent"]) == ("failed", "unresolved-conflict", "t")
    assert "app.py" in error["message"]
    tree = worktree_of(workshop, failed.record.session_id)
    assert tree.git("status", "--short") == "UU app.py"
    tree.write({"app.py": "x = 4\n"})
    tree.git("add", "app.py")
    done = await workshop.resume(failed.record.session_id)

    assert done.record.status == "completed", done.record.error
    assert contents(workshop, done.commits["repo"])["app.py"] == "x = 4"
    assert_consistent(workshop, done)


async def test_a_turn_that_left_markers_starts_anew_when_nobody_has_mended_them(workshop: Workshop) -> None:
    path = team(workshop, {**CLASH, "t": [[says("I saw nothing")]]})
    failed = await workshop.run(path)
    again = await workshop.resume(failed.record.session_id)

    assert again.record.error is not None
    assert (again.record.status, again.record.error["code"]) == ("failed", "unresolved-conflict")
    tries = [event["attempt"] for event in events(workshop, failed.record.session_id, "turn_failed")]
    assert tries == [1, 2]


async def test_each_conflict_is_a_turn_of_its_own(workshop: Workshop) -> None:
    script = {
        "a": [edits("app.py", "x = 2\n")],
        "b": [edits("app.py", "x = 3\n")],
        "c": [edits("app.py", "x = 4\n")],
        "t": [edits("app.py", "x = 23\n"), edits("app.py", "x = 234\n")],
    }
    graph: list[dict[str, Any]] = [
        {"from": "START", "to": ["a", "b", "c"]},
        {"from": ["a", "b", "c"], "to": "t"},
        {"from": "t", "to": "END"},
    ]
    result = await workshop.run(team(workshop, script, graph))

    assert result.record.status == "completed", result.record.error
    assert contents(workshop, result.commits["repo"])["app.py"] == "x = 234"
    assert [(one["agents"], one["resolved_by"]) for one in result.conflicts] == [
        (["a", "b"], "t"),
        (["a", "b", "t", "c"], "t"),
    ]
    assert_consistent(workshop, result)
    assert sorted(turn_commits(workshop, result.branches["repo"])) == ["a:1", "b:1", "c:1", "t:1", "t:2"]


async def test_writers_that_never_meet_are_merged_at_the_end(workshop: Workshop) -> None:
    script = {"a": [edits("a.txt", "a\n")], "b": [edits("b.txt", "b\n")]}
    graph: list[dict[str, Any]] = [
        {"from": "START", "to": ["a", "b"]},
        {"from": "a", "to": "END"},
        {"from": "b", "to": "END"},
    ]
    result = await workshop.run(team(workshop, script, graph))

    assert result.record.status == "completed", result.record.error
    assert {"a.txt", "b.txt"} <= contents(workshop, result.commits["repo"]).keys()
    assert workshop.repo.git("rev-parse", result.branches["repo"]) == result.commits["repo"]
    assert_consistent(workshop, result)


async def test_what_conflicts_at_the_end_stays_on_branches_of_its_own(workshop: Workshop) -> None:
    graph: list[dict[str, Any]] = [{"from": "START", "to": ["a", "b"]}, {"from": ["a", "b"], "to": "END"}]
    result = await workshop.run(team(workshop, CLASH, graph))
    session = result.record.session_id

    error = result.record.error
    assert error is not None
    assert (result.record.status, error["code"]) == ("failed", "merge-conflict")
    for name, text in (("a", "x = 2"), ("b", "x = 3")):
        assert workshop.repo.git("show", f"{result.branches['repo']}--{name}:app.py") == text
        assert f"{result.branches['repo']}--{name}" in error["message"]
    assert [one["path"] for one in result.conflicts] == ["app.py"]
    count = len(workshop.checkpoints(session))
    again = await workshop.resume(session)
    assert again.record.error == error
    assert len(workshop.checkpoints(session)) == count


async def test_the_target_of_a_join_any_starts_on_what_has_arrived(workshop: Workshop) -> None:
    slow = [{**writes("b.txt", "b\n"), "delay": 0.5}, {**says("late"), "delay": 0.3}]
    script = {"a": [edits("a.txt", "a\n")], "b": [slow], "t": [edits("t.txt", "t\n")], "u": [edits("u.txt", "u\n")]}
    graph: list[dict[str, Any]] = [
        {"from": "START", "to": ["a", "b"]},
        {"from": ["a", "b"], "to": "t", "join": "any"},
        {"from": "t", "to": "END"},
    ]
    script.pop("u")
    result = await workshop.run(team(workshop, script, graph))

    assert result.record.status == "completed", result.record.error
    assert {"a.txt", "b.txt", "t.txt"} <= contents(workshop, result.commits["repo"]).keys()
    assert_consistent(workshop, result)


async def test_arrivals_of_one_step_are_merged_before_the_target_of_a_join_any(workshop: Workshop) -> None:
    script = {
        "a": [edits("app.py", "x = 2\n")],
        "b": [edits("app.py", "x = 3\n")],
        "t": [edits("app.py", "x = 23\n")],
    }
    graph: list[dict[str, Any]] = [
        {"from": "START", "to": ["a", "b"]},
        {"from": ["a", "b"], "to": "t", "join": "any"},
        {"from": "t", "to": "END"},
    ]
    result = await workshop.run(team(workshop, script, graph))

    assert result.record.status == "completed", result.record.error
    assert contents(workshop, result.commits["repo"])["app.py"] == "x = 23"
    assert [one["resolved_by"] for one in result.conflicts] == ["t"]
    assert_consistent(workshop, result)


async def test_a_loop_starts_its_fan_out_from_the_merged_files_in_fresh_worktrees(workshop: Workshop) -> None:
    look = {"tools": [{"name": "shell", "args": {"command": "ls; touch junk.o"}}]}
    script = {
        "a": [[look, *edits("a1.txt", "a\n")], [look, *edits("a2.txt", "a\n")]],
        "b": [[look, *edits("b1.txt", "b\n")], [look, *edits("b2.txt", "b\n")]],
        "t": [[says("revise")], [says("approve")]],
    }
    graph: list[dict[str, Any]] = [
        {"from": "START", "to": ["a", "b"]},
        {"from": ["a", "b"], "to": "t"},
        {"from": "t", "to": ["a", "b", "END"], "condition": "verdict", "max_loops": 1},
    ]
    condition = """
import orchestra

@orchestra.condition("verdict")
def verdict(state):
    return "END" if state["agent_outputs"]["t"] == "approve" else ["a", "b"]
"""
    workshop.repo.write({".gitignore": "*.o\n"})
    names = ("a", "b", "t")
    path = workshop.pipeline(
        {"name": "team", "agents": {n: agent(tools=WRITER) for n in names}, "graph": graph, "conditions": "conditions"},
        script=script,
        files={"conditions/verdict.py": condition},
    )
    result = await workshop.run(path)

    assert result.record.status == "completed", result.record.error
    files = contents(workshop, result.commits["repo"])
    assert {"a1.txt", "a2.txt", "b1.txt", "b2.txt"} <= files.keys()
    assert_consistent(workshop, result)


async def test_what_is_clean_in_other_repos_is_merged_before_a_conflict_is_resolved(
    workshop: Workshop, tmp_path: Path
) -> None:
    from orchestra.testing import git_repo

    for name in ("back", "front"):
        git_repo(tmp_path / name, {"x.txt": "0\n"})

    def write(repo: str, path: str, text: str) -> dict[str, Any]:
        return writes(path, text, name=f"{repo}:write-file")

    both = ["back:write-file", "front:write-file", "front:read-file"]
    script = {
        "a": [[write("back", "x.txt", "1\n"), write("front", "x.txt", "1\n"), says("a")]],
        "b": [[write("back", "x.txt", "2\n"), says("b")]],
        "c": [[write("front", "c.txt", "c\n"), says("c")]],
        "d": [[write("front", "x.txt", "4\n"), says("d")]],
        "t": [
            [
                {"tools": [{"name": "front:read-file", "args": {"path": "c.txt"}}]},
                write("back", "x.txt", "12\n"),
                says("one"),
            ],
            [write("front", "x.txt", "14\n"), says("two")],
        ],
    }
    names = list(script)
    graph: list[dict[str, Any]] = [
        {"from": "START", "to": names[:-1]},
        {"from": names[:-1], "to": "t"},
        {"from": "t", "to": "END"},
    ]
    path = workshop.pipeline(
        {
            "name": "team",
            "workspace": {"repos": {name: {"path": str(tmp_path / name)} for name in ("back", "front")}},
            "agents": {name: agent(tools=both) for name in names},
            "graph": graph,
        },
        script=script,
    )

    result = await workshop.run(path)

    assert result.record.status == "completed", result.record.error
    read = next(
        event for event in workshop.events if event.type == "tool_ended" and event.payload["tool"].endswith("read-file")
    )
    assert read.payload["ok"]
    assert [(one["repo"], one["agents"], one["resolved_by"]) for one in result.conflicts] == [
        ("back", ["a", "b"], "t"),
        ("front", ["a", "d"], "t"),
    ]
    from orchestra.testing import GitRepo

    front = GitRepo(tmp_path / "front")
    assert front.git("show", f"{result.commits['front']}:x.txt") == "14"
    assert front.git("show", f"{result.commits['front']}:c.txt") == "c"
    assert front.git("rev-parse", result.branches["front"]) == result.commits["front"]


NESTED: list[dict[str, Any]] = [
    {"from": "START", "to": ["lead", "other"]},
    {"from": "lead", "to": ["left", "right"]},
    {"from": ["left", "right"], "to": "inner"},
    {"from": ["inner", "other"], "to": "last"},
    {"from": "last", "to": "END"},
]


async def test_a_join_inside_a_branch_merges_into_the_branch_and_the_outer_one_into_the_session(
    workshop: Workshop,
) -> None:
    script = {
        "lead": [edits("lead.txt", "1\n")],
        "left": [edits("app.py", "left\n")],
        "right": [edits("app.py", "right\n")],
        "inner": [edits("app.py", "inner\n")],
        "other": [edits("app.py", "other\n")],
        "last": [edits("app.py", "last\n")],
    }

    result = await workshop.run(team(workshop, script, NESTED))

    assert result.record.status == "completed", result.record.error
    assert contents(workshop, result.commits["repo"])["app.py"] == "last"
    assert [(one["agents"], one["resolved_by"]) for one in result.conflicts] == [
        (["left", "right"], "inner"),
        (["left", "right", "inner", "other"], "last"),
    ]
    assert_consistent(workshop, result)
    rows = workshop.checkpoints(result.record.session_id)
    named = {tuple(end["agent"] for end in row["ended"]): row["repos"]["repo"] for row in rows if row["ended"]}
    lead = contents(workshop, named[("lead",)])
    assert lead["lead.txt"] == "1"
    assert contents(workshop, named[("left", "right")]) == lead  # of several agents: what they began on
    assert contents(workshop, named[("inner",)])["app.py"] == "inner"
    assert "lead.txt" not in contents(workshop, named[("other",)])
    main = workshop.repo.git("rev-parse", "main")
    root = [row for row in rows if not row["checkpoint_ns"]]
    joined = next(row for row in root if row["next"] == ["last"])
    assert "<<<<<<< " in contents(workshop, joined["repos"]["repo"])["app.py"]
    assert main not in {row["repos"]["repo"] for row in root[root.index(joined) :]}


async def test_what_conflicts_at_the_end_can_be_merged_by_hand_on_the_session_branch(workshop: Workshop) -> None:
    from orchestra.testing import GitRepo

    script = {"lead": [edits("lead.txt", "1\n")], **CLASH}
    graph: list[dict[str, Any]] = [
        {"from": "START", "to": "lead"},
        {"from": "lead", "to": ["a", "b"]},
        {"from": ["a", "b"], "to": "END"},
    ]
    failed = await workshop.run(team(workshop, script, graph))
    branch = failed.branches["repo"]
    look = GitRepo(workshop.home / "look")
    workshop.repo.git("worktree", "add", "-q", str(look.path), branch)
    look.git("merge", "-q", f"{branch}--a")
    look.git("merge", "-q", "-X", "theirs", f"{branch}--b")
    mine = look.git("rev-parse", "HEAD")
    workshop.repo.git("worktree", "remove", str(look.path))

    done = await workshop.resume(failed.record.session_id)

    assert done.record.status == "completed", done.record.error
    assert done.commits["repo"] == mine == workshop.repo.git("rev-parse", branch)
    assert contents(workshop, mine)["app.py"] == "x = 3"
