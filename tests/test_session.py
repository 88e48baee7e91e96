"""Sessions in this process: what the log says, what failures do, what a start leaves on disk."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import stat
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError
from orchestra.runtime.shared_lock import SharedLock
from orchestra.runtime.store import find_session, session_ids
from orchestra.testing import git_repo
from tests.session_support import (
    OUTPUTS,
    PIPELINE,
    agent,
    assert_consistent,
    assert_done,
    chain,
    contents,
    crash_pipeline,
    events,
    model_calls,
    query,
    reachable,
    rescript,
    rows_of,
    says,
    turn_commits,
    user_side,
    writes,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

KEYS = ["checkpoint_id", "checkpoint_ns", "step", "agent", "ended", "next", "created_at", "repos", "changed"]
BASE = {"app.py": "x = 1", "docs/notes.md": "# Notes"}


def made_directories(workshop: Workshop) -> list[str]:
    """Return what lies where sessions are kept, without what spares them from `git clean`."""
    return [path.name for path in (workshop.repo.path / ".orchestra" / "sessions").iterdir() if path.name != ".git"]


# --- the log


async def test_the_log_has_every_finished_turn_once_in_the_order_of_the_session(workshop: Workshop) -> None:
    result = await workshop.run(crash_pipeline(workshop))

    assert_done(workshop, result)
    rows = workshop.checkpoints(result.record.session_id)
    assert all(list(row) == KEYS for row in rows)
    root = [row for row in rows if not row["checkpoint_ns"]]
    assert [(row["agent"], row["ended"], row["next"], row["changed"]) for row in root] == [
        (None, [], ["left", "right"], []),
        (None, [], ["left", "right"], []),
        (None, [{"agent": "left", "turn": 1}, {"agent": "right", "turn": 1}], ["join.count"], []),
        (None, [], ["count"], ["repo"]),
        ("count", [{"agent": "count", "turn": 1}], ["critic"], ["repo"]),
        ("critic", [{"agent": "critic", "turn": 1}], ["left"], []),
        ("left", [{"agent": "left", "turn": 2}], ["join.count"], ["repo"]),
        (None, [], ["count"], []),
        ("count", [{"agent": "count", "turn": 2}], ["critic"], ["repo"]),
        ("critic", [{"agent": "critic", "turn": 2}], [], []),
    ]
    assert [row["step"] for row in root] == list(range(-1, 9))
    assert rows[0] == root[0]
    assert rows[0]["repos"] == {"repo": workshop.repo.head}
    for _, level in itertools.groupby(
        sorted(rows, key=lambda row: row["checkpoint_ns"]), lambda row: row["checkpoint_ns"]
    ):
        times = [row["created_at"] for row in level]
        assert times == sorted(times)
    for name, inside in itertools.groupby([row for row in rows if row["checkpoint_ns"]], key=lambda row: row["agent"]):
        assert name in OUTPUTS
        for row in inside:
            assert (row["ended"], row["next"], row["checkpoint_ns"].split(":")[0]) == ([], [name], name)


async def test_each_checkpoint_names_the_commit_with_exactly_the_files_of_its_moment(workshop: Workshop) -> None:
    pipeline = {
        "name": "files",
        "agents": {"one": agent(tools=["write-file", "delete-file", "shell"]), "two": agent(tools=["write-file"])},
        "graph": chain("one", "two"),
    }
    script = {
        "one": [
            [
                writes("a.txt", "1\n"),
                {"tools": [writes("a.txt", "2\n")["tools"][0], writes("b.txt", "1\n")["tools"][0]]},
                {"tools": [{"name": "shell", "args": {"command": "cat a.txt"}}]},
                {"tools": [{"name": "delete-file", "args": {"path": "a.txt"}}]},
                says("one"),
            ]
        ],
        "two": [[writes("app.py", "x = 2\n"), says("two")]],
    }

    result = await workshop.run(workshop.pipeline(pipeline, script=script))

    rows = workshop.checkpoints(result.record.session_id)
    after_one = BASE | {"b.txt": "1"}
    second = BASE | {"a.txt": "2", "b.txt": "1"}
    seen = [contents(workshop, row["repos"]["repo"]) for row in rows_of(rows, "one")]
    distinct = [files for files, _ in itertools.groupby(seen)]
    assert distinct == [BASE, BASE | {"a.txt": "1"}, second, after_one]
    seen = [contents(workshop, row["repos"]["repo"]) for row in rows_of(rows, "two")]
    assert [files for files, _ in itertools.groupby(seen)] == [after_one, after_one | {"app.py": "x = 2"}]
    for rows_inside in (rows_of(rows, "one"), rows_of(rows, "two")):
        commits = [row["repos"]["repo"] for row in rows_inside]
        changed = [bool(row["changed"]) for row in rows_inside]
        assert changed == [False, *(old != new for old, new in itertools.pairwise(commits))]
    assert {commit for row in rows for commit in row["repos"].values()} <= reachable(workshop)
    assert_consistent(workshop, result)


async def test_a_commit_is_kept_by_a_ref_before_its_checkpoint_exists(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    put = AsyncSqliteSaver.aput
    seen = []

    async def aput(self: Any, config: Any, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        (commit,) = metadata["orchestra"]["repos"].values()
        seen.append(commit in reachable(workshop))
        return await put(self, config, checkpoint, metadata, versions)

    monkeypatch.setattr(AsyncSqliteSaver, "aput", aput)
    result = await workshop.run(crash_pipeline(workshop))

    assert result.record.status == "completed"
    assert len(seen) > 20
    assert all(seen)


async def test_the_branch_follows_the_root_checkpoints(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestra.runtime.branches import BranchFollower

    follow = BranchFollower.follow
    seen = []

    async def followed(self: BranchFollower, saved: Any) -> None:
        branch = f"orchestra/crash/{session_ids(workshop.repo.path)[0]}"
        before = workshop.repo.git("rev-parse", branch)
        await follow(self, saved)
        after = workshop.repo.git("rev-parse", branch)
        seen.append(after == (before if saved.namespace else saved.integrated["repo"]))

    monkeypatch.setattr(BranchFollower, "follow", followed)
    await workshop.run(crash_pipeline(workshop))

    assert len(seen) > 20
    assert all(seen)


async def test_the_index_agrees_with_the_log_and_holds_only_what_changed(workshop: Workshop) -> None:
    result = await workshop.run(crash_pipeline(workshop))

    session = result.record.session_id
    rows = workshop.checkpoints(session)
    named = {(row["checkpoint_id"], row["checkpoint_ns"]): row["repos"]["repo"] for row in rows}
    states = query(workshop, session, "SELECT checkpoint_id, checkpoint_ns, commit_sha, repo FROM repo_states")
    assert states
    assert all(named[one, ns] == commit and repo == "repo" for one, ns, commit, repo in states)
    assert {commit for *_, commit, _ in states} == set(named.values())
    snapshots = query(workshop, session, "SELECT checkpoint_id, checkpoint_ns FROM workspace_snapshots ORDER BY id")
    assert sorted(snapshots) == sorted((one, ns) for one, ns, *_ in states)
    places = dict(query(workshop, session, "SELECT checkpoint_id || checkpoint_ns, worktree_path FROM repo_states"))
    last: dict[str, str] = {}
    for one, ns in snapshots:
        assert last.get(places[one + ns]) != named[one, ns]
        last[places[one + ns]] = named[one, ns]


async def test_a_session_that_changes_nothing_writes_no_snapshot_and_no_commit(workshop: Workshop) -> None:
    path = workshop.pipeline(
        {"name": "idle", "agents": {"one": agent(tools=["write-file"]), "two": agent()}, "graph": chain("one", "two")},
        script={"one": [[writes("app.py", "x = 1\n"), says("same")]], "two": [[says("two")]]},
    )

    result = await workshop.run(path)

    session = result.record.session_id
    assert result.commits == {"repo": workshop.repo.head}
    assert query(workshop, session, "SELECT COUNT(*) FROM workspace_snapshots") == [(1,)]
    refs = workshop.repo.git("for-each-ref", "--format=%(objectname) %(refname)", "refs/orchestra", "refs/heads")
    assert {line.split()[0] for line in refs.split("\n")} == {workshop.repo.head}
    assert all(row["changed"] == [] for row in workshop.checkpoints(session))


async def test_conditions_on_start_never_show_as_a_node(workshop: Workshop) -> None:
    pipeline = {
        "name": "choose",
        "agents": {"one": agent(), "two": agent()},
        "graph": [
            {"from": "START", "to": ["one", "two"], "condition": "first"},
            {"from": "one", "to": "END"},
            {"from": "two", "to": "END"},
        ],
    }
    condition = "import orchestra\n\n@orchestra.condition('first')\ndef first(state):\n    return 'two'\n"
    path = workshop.pipeline(
        pipeline, script={"one": [[says("1")]], "two": [[says("2")]]}, files={"conditions/first.py": condition}
    )

    result = await workshop.run(path)

    root = [row for row in workshop.checkpoints(result.record.session_id) if not row["checkpoint_ns"]]
    assert [row["next"] for row in root] == [["one", "two"], ["one", "two"], ["two"], []]
    assert result.agent_outputs == {"two": "2"}


# --- what a start leaves on disk


async def test_everything_of_a_session_is_the_users_alone(workshop: Workshop) -> None:
    result = await workshop.run(crash_pipeline(workshop))

    directory = find_session(workshop.repo.path, result.record.session_id).directory
    for path in (directory.parent.parent, directory.parent, directory, *directory.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.name == ".gitignore":
            continue
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


async def test_a_running_sessions_journal_is_the_users_alone_too(workshop: Workshop) -> None:
    modes: set[int] = set()

    def look(event: Any) -> None:
        for path in (workshop.repo.path / ".orchestra" / "sessions").rglob("session.db*"):
            modes.add(stat.S_IMODE(path.stat().st_mode))

    workshop.events = type("Listener", (list,), {"append": staticmethod(look)})()
    await workshop.run(crash_pipeline(workshop))

    assert modes == {0o600}


@pytest.mark.parametrize("name", [".orchestra", ".orchestra/sessions"])
@pytest.mark.parametrize("kind", ["link", "file"])
async def test_a_state_directory_that_is_none_is_refused(workshop: Workshop, name: str, kind: str) -> None:
    path = workshop.pipeline({"name": "x", "agents": {"one": agent()}, "graph": chain("one")}, script={"one": []})
    place, elsewhere = workshop.repo.path / name, workshop.home / "elsewhere"
    place.parent.mkdir(exist_ok=True)
    elsewhere.mkdir()
    if kind == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_text("mine\n")

    with pytest.raises(OrchestraError) as caught:
        await workshop.run(path)

    assert (caught.value.code, caught.value.exit_code) == ("sessions-directory-unusable", 2)
    assert str(place) in caught.value.message
    assert caught.value.hint
    assert list(elsewhere.iterdir()) == []


async def test_a_session_that_can_not_start_leaves_nothing(workshop: Workshop, tmp_path: Path) -> None:
    """The second repo has not the revision that its base names; the first one's base is let go again."""
    other = tmp_path / "other"
    shutil.copytree(workshop.repo.path, other)
    pipeline = {
        "name": "two-repos",
        "workspace": {"repos": {"app": {"path": "../app"}, "other": {"path": "../other", "base": "v9"}}},
        "agents": {"one": agent(tools=["app:write-file", "other:write-file"])},
        "graph": chain("one"),
    }
    before = user_side(workshop)

    with pytest.raises(OrchestraError) as caught:
        await workshop.run(workshop.pipeline(pipeline, script={"one": []}))

    assert (caught.value.code, caught.value.exit_code) == ("unknown-revision", 2)
    assert session_ids(workshop.repo.path) == []
    assert made_directories(workshop) == []
    assert workshop.repo.git("for-each-ref", "refs/orchestra") == ""
    assert user_side(workshop) == before


async def test_a_session_whose_database_can_not_be_made_lets_its_base_go(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestra.runtime import session as session_module

    async def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session_module, "create_database", full)
    with pytest.raises(OrchestraError, match="No space left"):
        await workshop.run(crash_pipeline(workshop))

    assert made_directories(workshop) == []
    assert workshop.repo.git("for-each-ref", "refs/orchestra") == ""


async def test_a_dangling_link_in_place_of_our_gitignore_makes_no_file_elsewhere(workshop: Workshop) -> None:
    elsewhere = workshop.home / "elsewhere"
    (workshop.repo.path / ".orchestra").mkdir()
    (workshop.repo.path / ".orchestra" / ".gitignore").symlink_to(elsewhere)
    path = workshop.pipeline(
        {"name": "x", "agents": {"one": agent()}, "graph": chain("one")}, script={"one": [[says("1")]]}
    )

    assert (await workshop.run(path)).record.status == "completed"

    assert not elsewhere.exists()


# --- parallel turns, several repos, several sessions


async def test_who_reads_beside_a_writer_sees_the_files_from_before(workshop: Workshop) -> None:
    pipeline = {
        "name": "beside",
        "agents": {"reader": agent(tools=["read-file"]), "writer": agent(tools=["write-file"]), "last": agent()},
        "graph": [
            {"from": "START", "to": ["reader", "writer"]},
            {"from": ["reader", "writer"], "to": "last"},
            {"from": "last", "to": "END"},
        ],
    }
    look = {"tools": [{"name": "read-file", "args": {"path": "app.py"}}], "delay": 1.5}
    script = {
        "reader": [[look, says("read")]],
        "writer": [[writes("app.py", "x = 2\n"), says("written")]],
        "last": [[says("last")]],
    }

    result = await workshop.run(workshop.pipeline(pipeline, script=script))

    assert result.record.status == "completed"
    order = [(event.type, event.node) for event in workshop.events if event.node in ("reader", "writer")]
    assert order.index(("turn_committed", "writer")) < order.index(("tool_ended", "reader"))
    rows = workshop.checkpoints(result.record.session_id)
    assert {row["repos"]["repo"] for row in rows_of(rows, "reader")} == {workshop.repo.head}
    assert contents(workshop, result.commits["repo"])["app.py"] == "x = 2"


async def test_every_row_names_every_repo_and_each_branch_holds_its_own_change(
    workshop: Workshop, tmp_path: Path
) -> None:
    web = git_repo(tmp_path / "web", {"index.html": "<p>\n"})
    git_repo(tmp_path / "docs", {"readme.md": "read\n"})
    pipeline = {
        "name": "repos",
        "workspace": {"repos": {name: {"path": f"../{name}"} for name in ("app", "web", "docs")}},
        "agents": {"one": agent(tools=["app:write-file", "web:write-file", "docs:read-file"]), "two": agent()},
        "graph": chain("one", "two"),
    }
    script = {
        "one": [
            [writes("a.txt", "1\n", name="app:write-file"), writes("w.txt", "1\n", name="web:write-file"), says("1")]
        ],
        "two": [[says("2")]],
    }

    result = await workshop.run(workshop.pipeline(pipeline, script=script))

    rows = workshop.checkpoints(result.record.session_id)
    assert all(list(row["repos"]) == ["app", "web", "docs"] for row in rows)
    assert [row["changed"] for row in rows if row["changed"]] == [["app"], ["web"], ["app", "web"]]
    assert list(result.branches) == ["app", "web"]
    assert web.git("show", f"{result.branches['web']}:w.txt") == "1"
    assert web.git("rev-parse", result.branches["web"]) == result.commits["web"]
    assert workshop.repo.git("show", f"{result.branches['app']}:a.txt") == "1"
    places = query(workshop, result.record.session_id, "SELECT DISTINCT repo, worktree_path FROM repo_states")
    place = f".orchestra/worktrees/{result.record.session_id}/_session"
    assert sorted(places) == [("app", place), ("docs", None), ("web", place)]
    assert (web.path / place).is_dir()


async def test_each_repo_of_a_turn_gets_the_message_that_was_meant_for_it(workshop: Workshop, tmp_path: Path) -> None:
    web = git_repo(tmp_path / "web", {"index.html": "<p>\n"})
    pipeline = {
        "name": "messages",
        "workspace": {"repos": {name: {"path": f"../{name}"} for name in ("app", "web")}},
        "agents": {
            "one": agent(tools=[f"{repo}:{tool}" for repo in ("app", "web") for tool in ("write-file", "git-commit")])
        },
        "graph": chain("one"),
    }
    script = {
        "one": [
            [
                *(writes("n.txt", "1\n", name=f"{repo}:write-file") for repo in ("app", "web")),
                *(
                    {"tools": [{"name": f"{repo}:git-commit", "args": {"message": f"For {repo}"}}]}
                    for repo in ("app", "web")
                ),
                says("done"),
            ]
        ]
    }

    result = await workshop.run(workshop.pipeline(pipeline, script=script))

    assert result.record.status == "completed"
    for repo, where in (("app", workshop.repo), ("web", web)):
        assert where.git("log", "-1", "--format=%s", result.branches[repo]) == f"For {repo}"


async def test_a_turn_whose_second_repo_can_not_be_committed_starts_anew_on_the_files_before_it(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestra.errors import GitError
    from orchestra.runtime import turnfiles
    from orchestra.runtime.turns import commit_turn

    web = git_repo(tmp_path / "web", {"index.html": "<p>\n"})
    pipeline = {
        "name": "half",
        "workspace": {"repos": {name: {"path": f"../{name}"} for name in ("app", "web")}},
        "agents": {"one": agent(tools=["app:write-file", "web:write-file"])},
        "graph": chain("one"),
    }
    both = [writes("n.txt", "1\n", name=f"{repo}:write-file")["tools"][0] for repo in ("app", "web")]
    calls: list[str] = []

    async def flaky(*args: Any, **more: Any) -> str:
        calls.append(more["agent"])
        if len(calls) == 2:
            raise GitError("no space left on device", code="disk-full")
        return await commit_turn(*args, **more)

    monkeypatch.setattr(turnfiles, "commit_turn", flaky)
    result = await workshop.run(workshop.pipeline(pipeline, script={"one": [[{"tools": both}, says("one")]]}))

    assert (result.record.status, len(calls)) == ("completed", 4)
    for repo, where in (("app", workshop.repo), ("web", web)):
        branch = result.branches[repo]
        assert where.git("rev-parse", branch) == result.commits[repo]
        assert where.git("rev-list", "--count", f"main..{branch}") == "1"
        assert where.git("show", f"{branch}:n.txt") == "1"


async def test_sessions_beside_each_other_in_one_repository_do_not_meet(workshop: Workshop) -> None:
    path = crash_pipeline(workshop)
    before = user_side(workshop)

    results = await asyncio.gather(*(workshop.run(path) for _ in range(3)))

    for result in results:
        assert_done(workshop, result)
    assert len({result.branches["repo"] for result in results}) == 3
    assert user_side(workshop) == before


async def test_a_cancelled_session_leaves_nothing_running_and_gives_its_result(workshop: Workshop) -> None:
    pipeline = {
        "name": "stop",
        "agents": {"one": agent(tools=["shell"]), "two": agent(tools=["write-file"]), "last": agent()},
        "graph": [
            {"from": "START", "to": ["one", "two"]},
            {"from": ["one", "two"], "to": "last"},
            {"from": "last", "to": "END"},
        ],
    }
    hang = {"tools": [{"name": "shell", "args": {"command": "test -e ../again || { touch ../again; sleep 60; }"}}]}
    script = {"one": [[hang, says("one")]], "two": [[writes("b", "1\n"), says("two")]], "last": [[says("last")]]}
    started = asyncio.Event()

    class Watcher(list[Any]):
        def append(self, event: Any) -> None:
            if event.type == "tool_started":
                asyncio.get_running_loop().call_later(0.2, started.set)

    workshop.events = Watcher()
    before = asyncio.all_tasks()
    running = asyncio.create_task(workshop.run(workshop.pipeline(pipeline, script=script)))
    await started.wait()
    running.cancel()
    result = await running

    assert (str(result.record.status), result.record.error) == ("interrupted", None)
    assert asyncio.all_tasks() <= before
    assert (await workshop.resume(result.record.session_id)).record.status == "completed"


async def test_readers_of_a_commit_share_the_lock_of_a_worktree_and_a_writer_is_not_starved() -> None:
    lock = SharedLock()
    order: list[str] = []
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def read(name: str, commit: str = "one") -> None:
        async with lock.shared(commit, lambda: prepare(commit)):
            order.append(name)
            inside.set()
            await go_on.wait()

    async def prepare(commit: str) -> None:
        order.append(f"files of {commit}")

    async def write(name: str) -> None:
        async with lock.exclusive():
            order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(read("first"))
        group.create_task(read("second"))
        await inside.wait()
        await asyncio.sleep(0)
        group.create_task(read("other", "another"))
        given_up = group.create_task(write("given up"))
        group.create_task(write("writer"))
        group.create_task(read("late"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        assert order == ["files of one", "first", "second"]
        go_on.set()

    assert order == ["files of one", "first", "second", "files of another", "other", "writer", "files of one", "late"]


async def test_a_reader_that_runs_commands_sees_its_checkpoint_whatever_writers_beside_it_do(
    workshop: Workshop,
) -> None:
    pipeline = {
        "name": "reads",
        "workspace": {
            "repos": {"repo": {"path": "../app"}},
            "tools": {"repo": {"show": {"command": "cat app.py", "args": {}, "writes": False}}},
        },
        "agents": {
            "before": agent(tools=["write-file"]),
            "looker": agent(tools=["repo:show"]),
            "after": agent(tools=["write-file"]),
            "last": agent(tools=["repo:show"]),
        },
        "graph": [
            {"from": "START", "to": ["before", "looker", "after"]},
            {"from": ["before", "looker", "after"], "to": "last"},
            {"from": "last", "to": "END"},
        ],
    }
    looks = [{"tools": [{"name": "repo:show", "args": {}}]}, says("looked")]
    script = {
        "before": [[writes("app.py", "x = 'written'\n"), says("one")]],
        "after": [[writes("other.py", "y = 1\n"), says("two")]],
        "looker": [looks],
        "last": [looks],
    }
    result = await workshop.run(workshop.pipeline(pipeline, script=script))

    assert result.record.status == "completed"
    seen = {
        (row["agent"], workshop.repo.git("show", f"{row['repos']['repo']}:app.py"))
        for row in workshop.checkpoints(result.record.session_id)
        if row["checkpoint_ns"] and row["agent"] in ("looker", "last")
    }
    assert seen == {("looker", "x = 1"), ("last", "x = 'written'")}
    shown = [value for (value,) in query(workshop, result.record.session_id, "SELECT checkpoint FROM checkpoints")]
    assert any(b"exit code 0\\nstdout:\\nx = 1" in value for value in shown), "what the looker saw"
    assert any(b"exit code 0\\nstdout:\\nx = 'written'" in value for value in shown), "what the last one saw"
    assert events(workshop, result.record.session_id, "files_put_back") == []


# --- branches


async def test_a_branch_moved_by_someone_else_is_left_alone_and_the_session_goes_on_when_it_is_back(
    workshop: Workshop,
) -> None:
    pipeline = {
        "name": "moved",
        "agents": {"one": agent(tools=["write-file"]), "two": agent(tools=["write-file"])},
        "graph": chain("one", "two"),
    }
    script = {
        "one": [[writes("a.txt", "1\n"), says("one")]],
        "two": [[writes("b.txt", "1\n"), says("two")]],
    }
    foreign = workshop.repo.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "mine")
    moved: list[str] = []

    class Mover(list[Any]):
        def append(self, event: Any) -> None:
            if event.type == "turn_started" and event.node == "two" and not moved:
                branch = f"orchestra/moved/{session_ids(workshop.repo.path)[0]}"
                moved.extend([branch, workshop.repo.git("rev-parse", branch)])
                workshop.repo.git("update-ref", f"refs/heads/{branch}", foreign)

    workshop.events = Mover()
    result = await workshop.run(workshop.pipeline(pipeline, script=script))

    session, (branch, left) = result.record.session_id, moved
    assert result.record.status == "failed"
    assert result.record.error is not None
    assert result.record.error["code"] == "branch-moved"
    assert workshop.repo.git("rev-parse", branch) == foreign
    assert result.commits["repo"] in reachable(workshop)
    again = await workshop.resume(session)
    assert again.record.error is not None
    assert again.record.error["code"] == "branch-moved"
    workshop.repo.git("update-ref", f"refs/heads/{branch}", left)
    done = await workshop.resume(session)
    assert done.record.status == "completed"
    assert turn_commits(workshop, branch) == ["one:1", "two:1"]
    assert_consistent(workshop, done)
    assert model_calls(workshop, session) == {("one", 1): 2, ("two", 1): 2}


async def test_a_branch_that_is_checked_out_is_not_moved_until_it_is_free(workshop: Workshop, tmp_path: Path) -> None:
    pipeline = {
        "name": "held",
        "agents": {name: agent(tools=["write-file"]) for name in ("one", "two", "three")},
        "graph": chain("one", "two", "three"),
    }
    script = {name: [[writes(f"{name}.txt", "1\n"), says(name)]] for name in ("one", "two", "three")}
    mine = tmp_path / "mine"

    class Holder(list[Any]):
        def append(self, event: Any) -> None:
            super().append(event)
            if (event.type, event.node) == ("turn_started", "two"):
                branch = f"orchestra/held/{session_ids(workshop.repo.path)[0]}"
                workshop.repo.git("worktree", "add", "-q", str(mine), branch)
            if (event.type, event.node) == ("turn_started", "three") and self.free:
                workshop.repo.git("worktree", "remove", "--force", str(mine))

        free = False

    workshop.events = Holder()
    result = await workshop.run(workshop.pipeline(pipeline, script=script))

    session = result.record.session_id
    assert result.record.status == "completed"
    assert result.branches == {"repo": f"refs/orchestra/{session}/result"}
    assert sorted(path.name for path in mine.iterdir()) == [".git", "app.py", "docs", "one.txt"]
    warned = [event.payload for event in workshop.events if event.type == "warning"]
    assert [warning["code"] for warning in warned] == ["branch-checked-out"]
    assert str(mine) in warned[0]["message"]
    assert_consistent(workshop, result)
    assert (await workshop.resume(session)).branches == result.branches

    workshop.repo.git("worktree", "remove", "--force", str(mine))
    holder = Holder()
    holder.free = True
    workshop.events = holder
    freed = await workshop.run(workshop.pipeline(pipeline, script=script))
    assert freed.branches == {"repo": f"orchestra/held/{freed.record.session_id}"}
    assert_consistent(workshop, freed)


# --- failures

ONE: dict[str, Any] = {"name": "one", "agents": {"one": agent()}, "graph": chain("one")}


async def test_a_model_that_can_not_be_had_is_called_again_and_counts_as_a_failed_turn(workshop: Workshop) -> None:
    script = {"one": [[{"error": "overloaded", "times": 7}, says("there")]]}

    result = await workshop.run(workshop.pipeline(ONE, script=script))

    assert (result.record.status, result.agent_outputs) == ("completed", {"one": "there"})
    failed = events(workshop, result.record.session_id, "turn_failed")
    assert [(event["payload"]["code"], event["payload"]["tries_left"]) for event in failed] == [("model-failed", 2)]


async def test_the_third_failed_turn_stops_the_session_and_a_resume_counts_anew(workshop: Workshop) -> None:
    script = {"one": [[{"error": "overloaded", "times": 1000}, says("there")]]}

    result = await workshop.run(workshop.pipeline(ONE, script=script))

    error = result.record.error
    assert (result.record.status, error and error["code"]) == ("failed", "too-many-failures")
    assert error is not None
    assert "3 turns failed" in error["message"]
    assert error["agent"] == "one"
    session = result.record.session_id
    assert len(events(workshop, session, "turn_failed")) == 3
    again = await workshop.resume(session)
    assert again.record.error is not None
    assert again.record.error["code"] == "too-many-failures"
    assert len(events(workshop, session, "turn_failed")) == 6
    rescript(workshop, session, {"one": [[{"error": "overloaded", "times": 12}, says("there")]]})
    assert (await workshop.resume(session)).record.status == "completed"


async def test_a_cause_that_trying_again_can_not_help_stops_at_once_under_its_own_code(workshop: Workshop) -> None:
    path = workshop.pipeline(ONE, script={"one": [[{"error": "auth"}]]})

    done = workshop.json("run", path, code=1)

    assert done["status"] == "failed"
    assert (done["error"]["code"], done["error"]["agent"]) == ("model-auth", "one")
    assert list(done["error"]) == ["code", "message", "agent"]


async def test_a_permanent_cause_keeps_its_code_after_an_earlier_failure(workshop: Workshop) -> None:
    script = {"one": [[{"error": "overloaded", "times": 7}, {"error": "auth"}]]}

    result = await workshop.run(workshop.pipeline(ONE, script=script))

    assert result.record.error is not None
    assert result.record.error["code"] == "model-auth"


PAIR: dict[str, Any] = {
    "name": "pair",
    "agents": {
        "bad": agent(tools=["write-file"]),
        "good": agent(tools=["write-file"]),
        "last": agent(),
    },
    "graph": [
        {"from": "START", "to": ["bad", "good"]},
        {"from": ["bad", "good"], "to": "last"},
        {"from": "last", "to": "END"},
    ],
}


async def test_a_failing_agent_does_not_cancel_its_sibling_and_resume_runs_only_what_failed(workshop: Workshop) -> None:
    good = [{**writes("good.txt", "1\n"), "delay": 0.2}, says("good")]
    script = {"bad": [[{"error": "auth"}]], "good": [good], "last": [[says("last")]]}
    result = await workshop.run(workshop.pipeline(PAIR, script=script))

    session = result.record.session_id
    assert result.record.status == "failed"
    assert [event["node"] for event in events(workshop, session, "turn_ended")] == ["good"]
    assert contents(workshop, result.commits["repo"]) == BASE
    assert contents(workshop, f"refs/orchestra/{session}/turn/good") == BASE | {"good.txt": "1"}
    rescript(workshop, session, script | {"bad": [[writes("bad.txt", "1\n"), says("mended")]]})
    done = await workshop.resume(session)
    assert done.agent_outputs == {"bad": "mended", "good": "good", "last": "last"}
    assert model_calls(workshop, session) == {("bad", 1): 2, ("good", 1): 2, ("last", 1): 1}
    assert contents(workshop, done.commits["repo"]) == BASE | {"good.txt": "1", "bad.txt": "1"}
    assert sorted(turn_commits(workshop, done.branches["repo"])) == ["bad:1", "good:1"]
    assert_consistent(workshop, done)


async def test_invalid_output_gets_one_repair_then_a_new_attempt_on_the_files_before_it(workshop: Workshop) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    pipeline = {**ONE, "agents": {"one": agent(tools=["shell"], output=schema)}}
    append = {"tools": [{"name": "shell", "args": {"command": "echo once >> log.txt"}}]}
    wrong = [append, {"output": {"n": "no"}}, {"output": {"n": "still no"}}]

    result = await workshop.run(workshop.pipeline(pipeline, script={"one": [wrong]}))

    session = result.record.session_id
    assert result.record.error is not None
    assert result.record.error["code"] == "too-many-failures"
    failed = events(workshop, session, "turn_failed")
    assert [(event["payload"]["code"], event["attempt"]) for event in failed] == [
        ("invalid-output", attempt) for attempt in (1, 2, 3)
    ]
    assert model_calls(workshop, session) == {("one", 1): 9}
    rescues = [event["payload"]["rescue"] for event in events(workshop, session, "files_put_back")]
    assert len(rescues) == 2
    assert all(contents(workshop, ref)["log.txt"] == "once" for ref in rescues)
    # The attempt that failed last is checked again first, without a model call; then the turn starts anew.
    rescript(workshop, session, {"one": [[append, {"output": {"n": 1}}]]})
    done = await workshop.resume(session)
    assert (done.record.status, done.agent_outputs) == ("completed", {"one": {"n": 1}})
    assert contents(workshop, done.commits["repo"]) == BASE | {"log.txt": "once"}
    assert model_calls(workshop, session) == {("one", 1): 11}
    assert_consistent(workshop, done)


async def test_failed_tool_calls_count_nothing(workshop: Workshop) -> None:
    missing = {"tools": [{"name": "read-file", "args": {"path": "no-such-file"}}]}
    odd = {"tools": [{"name": "no-such-tool", "args": {}}, {"name": "read-file", "args": {"wrong": 1}}]}
    pipeline = {**ONE, "agents": {"one": agent(tools=["read-file"])}}

    result = await workshop.run(workshop.pipeline(pipeline, script={"one": [[missing, missing, odd, odd, says("ok")]]}))

    assert result.record.status == "completed"
    assert events(workshop, result.record.session_id, "turn_failed") == []


async def test_an_agent_that_calls_without_end_fails_its_turn(workshop: Workshop) -> None:
    pipeline = {**ONE, "agents": {"one": agent(tools=["read-file"], max_calls=3)}}
    again = {"tools": [{"name": "read-file", "args": {"path": "app.py"}}]}

    result = await workshop.run(workshop.pipeline(pipeline, script={"one": [[again] * 9]}))

    session = result.record.session_id
    assert result.record.error is not None
    assert result.record.error["code"] == "too-many-failures"
    assert [event["payload"]["code"] for event in events(workshop, session, "turn_failed")] == ["max-calls"] * 3
    assert model_calls(workshop, session) == {("one", 1): 9}


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ({"max_steps": 3}, "max-steps"),
        ({"max_tokens": 250}, "max-tokens"),
        ({"max_cost_usd": 0.25}, "max-cost"),
        ({"timeout": 0.15}, "timeout"),
    ],
)
async def test_a_limit_stops_the_session_under_its_own_code(
    workshop: Workshop, limit: dict[str, Any], code: str
) -> None:
    names = [f"agent-{number}" for number in range(6)]
    pipeline = {
        "name": "limits",
        "agents": {name: agent() for name in names},
        "graph": chain(*names),
        "limits": limit,
    }
    reply = says("ok", usage={"input_tokens": 90, "output_tokens": 10, "cost_usd": 0.1})
    script = {name: [[reply if name in names[:2] or code != "timeout" else {**reply, "delay": 60}]] for name in names}

    result = await workshop.run(workshop.pipeline(pipeline, script=script))

    assert (result.record.status, result.record.error and result.record.error["code"]) == ("failed", code)
    assert (0 if code == "timeout" else 1) <= len(result.agent_outputs) <= 3
    again = await workshop.resume(result.record.session_id)
    if code != "timeout":  # which is of a drive; what was spent is of the session
        assert again.record.error is not None
        assert again.record.error["code"] == code
        assert again.record.usage == result.record.usage


CONDITION = """
import pathlib
import orchestra

@orchestra.condition("gate")
def gate(state):
    answer = pathlib.Path({path!r}).read_text()
    return None if answer == "none" else answer
"""


async def test_a_condition_that_fails_is_asked_again_on_resume_without_running_its_agent_again(
    workshop: Workshop,
) -> None:
    answer = workshop.home / "answer"
    pipeline = {
        "name": "gate",
        "agents": {"one": agent(tools=["write-file"]), "two": agent()},
        "graph": [
            {"from": "START", "to": "one"},
            {"from": "one", "to": ["two", "END"], "condition": "gate"},
            {"from": "two", "to": "END"},
        ],
    }
    script = {"one": [[writes("a.txt", "1\n"), says("one")]], "two": [[says("two")]]}
    files = {"conditions/gate.py": CONDITION.format(path=str(answer))}

    result = await workshop.run(workshop.pipeline(pipeline, script=script, files=files))
    session = result.record.session_id
    for wrong, message in ((None, "FileNotFoundError"), ("none", "returned None"), ("three", "'three'")):
        if wrong:
            answer.write_text(wrong)
            result = await workshop.resume(session)
        assert result.record.error is not None
        assert result.record.error["code"] == "bad-condition"
        assert message in result.record.error["message"]
    answer.write_text("two")
    done = await workshop.resume(session)

    assert done.agent_outputs == {"one": "one", "two": "two"}
    assert model_calls(workshop, session) == {("one", 1): 2, ("two", 1): 1}
    assert turn_commits(workshop, done.branches["repo"]) == ["one:1"]
    assert_consistent(workshop, done)


@pytest.mark.parametrize("changes", [True, False])
async def test_a_writer_never_starts_on_the_commit_of_a_turn_whose_condition_failed(
    workshop: Workshop, changes: bool
) -> None:
    """That commit is in no checkpoint; the turn that made it goes on, or starts anew, on files without it."""
    answer = workshop.home / "answer"
    pipeline = {
        "name": "gate",
        "agents": {
            "left": agent(tools=["write-file"]),
            "right": agent(tools=["write-file"]),
            "more": agent(),
            "last": agent(),
        },
        "graph": [
            {"from": "START", "to": ["left", "right"]},
            {"from": "left", "to": ["more", "END"], "condition": "gate"},
            {"from": "more", "to": "END"},
            {"from": "right", "to": "last"},
            {"from": "last", "to": "END"},
        ],
    }
    right = [writes("right.txt", "1\n")] if changes else []
    script = {
        "left": [[writes("left.txt", "1\n"), says("left")]],
        "right": [[*right, says("right")]],
        "more": [[says("more")]],
        "last": [[says("last")]],
    }
    files = {"conditions/gate.py": CONDITION.format(path=str(answer))}

    result = await workshop.run(workshop.pipeline(pipeline, script=script, files=files))

    session = result.record.session_id
    assert result.record.error is not None
    assert result.record.error["code"] == "bad-condition"
    committed = sorted(event["node"] for event in events(workshop, session, "turn_committed"))
    assert committed == (["left", "right"] if changes else ["left"])
    mine = {"right.txt": "1"} if changes else {}
    assert contents(workshop, result.commits["repo"]) == BASE
    assert {row["repos"]["repo"] for row in rows_of(workshop.checkpoints(session), "right")} <= {
        workshop.repo.head,
        *(
            commit
            for row in workshop.checkpoints(session)
            for commit in row["repos"].values()
            if "left.txt" not in contents(workshop, commit)
        ),
    }

    answer.write_text("more")
    done = await workshop.resume(session)

    assert done.agent_outputs == {"left": "left", "right": "right", "more": "more", "last": "last"}
    assert contents(workshop, done.commits["repo"]) == BASE | mine | {"left.txt": "1"}
    assert sorted(turn_commits(workshop, done.branches["repo"])) == (["left:1", "right:1"] if changes else ["left:1"])
    assert model_calls(workshop, session)["right", 1] == len(script["right"][0])
    assert_consistent(workshop, done)


REDUCER = """
import pathlib
from typing import Annotated
from pydantic import BaseModel

def fold(old, new):
    if not new or pathlib.Path({path!r}).exists():
        return [*old, *new]
    raise KeyError("no such thing")

class State(BaseModel):
    found: Annotated[list[str], fold] = []
"""


async def test_a_bug_in_the_users_python_fails_its_turn_and_nobody_elses(workshop: Workshop) -> None:
    switch = workshop.home / "switch"
    schema = {"type": "object", "properties": {"found": {"type": "array", "items": {"type": "string"}}}}
    pipeline = {
        **PAIR,
        "state": "odd_state:State",
        "agents": {**PAIR["agents"], "bad": agent(output=schema)},
    }
    good = [{**writes("good.txt", "1\n"), "delay": 0.2}, says("good")]
    script = {"bad": [[{"output": {"found": ["x"]}}]], "good": [good], "last": [[says("last")]]}
    path = workshop.pipeline(pipeline, script=script, files={"odd_state.py": REDUCER.format(path=str(switch))})

    result = await workshop.run(path)

    session, error = result.record.session_id, result.record.error
    assert error is not None
    assert (result.record.status, error["code"], error["agent"]) == ("failed", "internal-error", "bad")
    assert "KeyError: 'no such thing'" in error["message"]
    (bug,) = events(workshop, session, "internal_error")
    assert "odd_state.py" in bug["payload"]["traceback"]
    assert [event["node"] for event in events(workshop, session, "turn_ended")] == ["good"]
    switch.touch()
    done = await workshop.resume(session)
    assert done.record.status == "completed"
    assert model_calls(workshop, session) == {("bad", 1): 1, ("good", 1): 2, ("last", 1): 1}


@pytest.mark.parametrize("failure", ["AssertionError", "TimeoutError"])  # the latter is not that of `limits.timeout`
async def test_a_reducer_that_fails_on_two_writes_at_once_still_gives_a_result(
    workshop: Workshop, failure: str
) -> None:
    """Each turn's own write is fine; the state can't even be read once both are stored."""
    state = """
from typing import Annotated
from pydantic import BaseModel

def only_once(old, new):
    if old:
        raise FAILURE("written twice")
    return new

class State(BaseModel):
    found: Annotated[list[str], only_once] = []
""".replace("FAILURE", failure)
    schema = {"type": "object", "properties": {"found": {"type": "array", "items": {"type": "string"}}}}
    both = {name: agent(output=schema) for name in ("bad", "good")}
    pipeline = {**PAIR, "state": "once_state:State", "agents": {**both, "last": agent()}}
    script = {name: [[{"output": {"found": [name]}}]] for name in ("bad", "good")} | {"last": [[says("last")]]}

    result = await workshop.run(workshop.pipeline(pipeline, script=script, files={"once_state.py": state}))

    assert result.record.error is not None
    assert (result.record.status, result.record.error["code"]) == ("failed", "internal-error")
    assert "written twice" in result.record.error["message"]
    assert result.agent_outputs == {}
    assert model_calls(workshop, result.record.session_id) == {("bad", 1): 1, ("good", 1): 1}


async def test_a_bug_of_ours_between_turns_leaves_a_failed_session_that_can_be_resumed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestra.graph.routing import Router

    def broken(self: Router, join: Any, state: Any) -> Any:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Router, "join", broken)
        result = await workshop.run(crash_pipeline(workshop))

    error = result.record.error
    assert error is not None
    assert (result.record.status, error["code"]) == ("failed", "internal-error")
    assert (
        "ZeroDivisionError" in events(workshop, result.record.session_id, "internal_error")[0]["payload"]["traceback"]
    )
    assert_done(workshop, await workshop.resume(result.record.session_id))


async def test_git_that_can_not_do_its_part_is_a_failed_turn_that_is_tried_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestra.errors import GitError
    from orchestra.runtime import turnfiles
    from orchestra.runtime.turns import commit_turn

    calls: list[str] = []

    async def flaky(*args: Any, **more: Any) -> str:
        calls.append(more["agent"])
        if len(calls) == 1:
            raise GitError("no space left on device", code="disk-full")
        return await commit_turn(*args, **more)

    monkeypatch.setattr(turnfiles, "commit_turn", flaky)
    result = await workshop.run(crash_pipeline(workshop))

    assert (result.record.status, result.agent_outputs) == ("completed", OUTPUTS)
    failed = events(workshop, result.record.session_id, "turn_failed")
    assert [(event["node"], event["payload"]["code"]) for event in failed] == [(calls[0], "disk-full")]
    assert_consistent(workshop, result)


async def test_a_listener_that_breaks_does_not_break_the_session(workshop: Workshop) -> None:
    class Broken(list[Any]):
        def append(self, event: Any) -> None:
            raise BrokenPipeError

    workshop.events = Broken()

    result = await workshop.run(crash_pipeline(workshop))

    assert_done(workshop, result)


async def test_a_session_knows_its_repository_by_the_path_it_had_at_the_start(workshop: Workshop) -> None:
    result = await workshop.run(
        workshop.pipeline(
            PIPELINE,
            script={"left": [], "right": [], "critic": []},
            files={
                "conditions/verdict.py": "import orchestra\n"
                "@orchestra.condition('verdict')\ndef v(state):\n    return 'END'\n"
            },
        )
    )
    assert result.record.status == "failed"
    workshop.repo.path.rename(workshop.repo.path.with_name("elsewhere"))

    from orchestra.graph.project import Project
    from orchestra.runtime.session import SessionManager

    root = workshop.repo.path.with_name("elsewhere")
    with pytest.raises(OrchestraError) as caught:
        await SessionManager(Project(root)).resume(find_session(root, result.record.session_id))

    assert caught.value.code == "repo-moved"
    assert str(workshop.repo.path) in caught.value.message
