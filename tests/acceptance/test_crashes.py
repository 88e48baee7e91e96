"""Killed at any instant, resumed: nothing lost, nothing doubled, nothing foreign (the harness is in `crash/`)."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.crash.__main__ import chosen
from tests.acceptance.crash.campaign import LEFT_OPEN, Bench
from tests.acceptance.crash.checker import check_finished, user_side
from tests.acceptance.crash.scenario import BRANCHES
from tests.acceptance.crash.trial import Kill, Trial
from tests.gitkit import git

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.crash.campaign import Phase

RUN = (
    "base-committed", "base-pinned", "branch-moved", "checkpoint-due", "checkpoint-indexed", "checkpoint-written",
    "copies-placed", "database-drafted", "event-checkpoint", "event-condition_chose", "event-model_ended",
    "event-model_started", "event-note", "event-session_completed", "event-session_started", "event-setup_ended",
    "event-setup_started", "event-snapshot_taken", "event-tool_ended", "event-tool_started",
    "event-turn_committed", "event-turn_ended", "event-turn_started", "event-warning", "events-due", "events-written",
    "files-staged", "files-switched", "one-branch-moved", "pipeline-frozen", "rescue-kept", "restore-begun",
    "restored", "session-created", "session-directory-made", "session-prepared", "setup-due", "setup-run",
    "snapshot-committed", "snapshot-pinned", "snapshot-taken", "status-due", "status-written", "tool-ended",
    "turn-commit-made", "turn-committed", "turn-ending", "way-cleared", "worktree-filled", "worktree-on-commit",
    "worktree-ready", "worktree-registered", "writes-due", "writes-stored",
)  # fmt: skip
RESUME = ("event-files_put_back", "event-session_resumed", "session-reopened")
POINTS: list[tuple[Phase, str]] = [*(("run", point) for point in RUN), *(("resume", point) for point in RESUME)]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The scenario, run once undisturbed."""
    return Bench.prepare(tmp_path_factory.mktemp("crash") / "bench")


def test_every_failpoint_of_a_session_is_among_those_that_are_tried(bench: Bench) -> None:
    assert sorted(POINTS) == sorted((phase, point) for phase, point, _ in bench.points())


@pytest.mark.parametrize(("phase", "point"), POINTS)
def test_a_session_killed_at_a_failpoint_ends_as_if_nothing_had_happened(
    bench: Bench, phase: Phase, point: str
) -> None:
    hits = chosen(bench.times(phase, point), 1 if point.startswith("event-") else 2)

    assert [bench.kill_at(phase, point, hit) > 0 for hit in hits] == [True] * len(hits)


IN_BRANCHES = (
    "checkpoint-due", "checkpoint-written", "snapshot-pinned", "turn-committed", "worktree-on-commit", "writes-due",
    "writes-stored",
)  # fmt: skip


@pytest.fixture(scope="session")
def branches(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The scenario with branches of several agents and a loop around them, run once undisturbed."""
    return Bench.prepare(tmp_path_factory.mktemp("crash-branches") / "bench", BRANCHES)


@pytest.mark.parametrize("point", IN_BRANCHES)
def test_a_session_killed_in_its_branches_ends_as_if_nothing_had_happened(branches: Bench, point: str) -> None:
    hits = chosen(branches.passes["run"][point], 4)

    assert [branches.kill_at("run", point, hit) > 0 for hit in hits] == [True] * len(hits)


@pytest.mark.parametrize("seed", range(8))
def test_a_session_with_branches_killed_at_random_instants_ends_well(branches: Bench, seed: int) -> None:
    assert branches.kill_at_random(seed) > 0


@pytest.mark.parametrize("seed", range(25))
def test_a_session_killed_at_random_instants_ends_as_if_nothing_had_happened(bench: Bench, seed: int) -> None:
    assert bench.kill_at_random(seed) > 0


USERS_GIT: dict[str, list[tuple[str, ...]]] = {
    "collects garbage": [("gc", "--quiet", "--prune=now")],
    "prunes worktrees": [("worktree", "prune", "--expire=now")],
    "packs references": [("pack-refs", "--all", "--prune")],
    "stashes everything": [("stash", "--include-untracked", "--quiet")],
    "commits": [("add", "--all"), ("commit", "--quiet", "--message", "mine")],
    "switches to another branch": [("stash", "--quiet"), ("switch", "--quiet", "--create", "other")],
    "cleans": [("clean", "-fdxq")],
    "cleans the worktrees": [("clean", "-ffdxq", "--exclude=sessions")],
}


@pytest.mark.parametrize("what", USERS_GIT)
@pytest.mark.parametrize("kill", [LEFT_OPEN, Kill("turn-committed", 2)], ids=str)
def test_what_the_user_does_with_git_between_kill_and_resume_loses_nothing(
    bench: Bench, tmp_path: Path, kill: Kill, what: str
) -> None:
    trial = Trial.from_template(bench.scenario, bench.directory / "template", tmp_path / "trial")
    assert trial.run(kill) is None

    for repo in trial.repos.values():
        for command in USERS_GIT[what]:
            git(repo, *command)
    reference = replace(bench.reference, user={name: user_side(repo) for name, repo in trial.repos.items()})
    document = trial.resume()

    assert document is not None
    check_finished(trial, document, reference)


def _edit(sql: str) -> Callable[[Trial], None]:
    def spoil(trial: Trial) -> None:
        assert trial.session is not None
        with closing(sqlite3.connect(trial.session.database)) as connection, connection:
            assert connection.execute(sql).rowcount > 0

    return spoil


def _git(*args: str) -> Callable[[Trial], None]:
    return lambda trial: void(git(trial.root, *args))


def _branch(trial: Trial) -> str:
    return git(trial.root, "for-each-ref", "--format=%(refname)", "refs/heads/orchestra")


def _repeat_a_commit(trial: Trial) -> None:
    commit = git(trial.root, "rev-parse", _branch(trial))
    message = git(trial.root, "log", "-1", "--format=%B", commit)
    git(
        trial.root,
        "update-ref",
        _branch(trial),
        git(trial.root, "commit-tree", f"{commit}^{{tree}}", "-p", commit, "-m", message),
    )


def _drop_references(trial: Trial) -> None:
    for ref in git(trial.root, "for-each-ref", "--format=%(refname)", "refs/orchestra", "refs/heads/orchestra").split():
        git(trial.root, "update-ref", "-d", ref)


def _pay_more(trial: Trial) -> None:
    with (trial.directory / "model-calls").open("a") as file:
        file.write("left:1:0\n" * 3)


def _rewind_checkpoints(where: str) -> Callable[[Trial], None]:
    """Have checkpoints name the commits of the session's first one."""
    first = "SELECT CAST(metadata AS TEXT) FROM checkpoints ORDER BY rowid LIMIT 1"
    repos = f"json_extract(({first}), '$.orchestra.repos')"
    return _edit(
        f"UPDATE checkpoints SET metadata = json_set(CAST(metadata AS TEXT), '$.orchestra.repos', {repos}) "  # noqa: S608
        f"WHERE checkpoint_ns {where}"
    )


_END_AGAIN = _edit(
    "UPDATE checkpoints SET metadata = "
    """json_set(CAST(metadata AS TEXT), '$.orchestra.ended', json('[{"agent": "left", "turn": 1}]'))"""
)


def _write(path: str, text: str) -> Callable[[Trial], None]:
    return lambda trial: void((trial.root / path).write_text(text))


SPOILS: dict[str, tuple[Callable[[Trial], None], str]] = {
    "a file of the user": (_write("app.py", "x = 2\n"), "user's side"),
    "the user's index": (_git("add", "README.md"), "user's side"),
    "a reference of the user": (_git("branch", "another"), "user's side"),
    "the user's configuration": (_git("config", "core.bare", "false"), "user's side"),
    "a commit done twice": (_repeat_a_commit, "commits of app"),
    "references lost": (_drop_references, "no reference leads to"),
    "checkpoints with older files": (_rewind_checkpoints("= ''"), "planner.log in app"),
    "checkpoints inside turns with older files": (_rewind_checkpoints("!= ''"), "planner.log in app"),
    "a turn that ended twice": (_END_AGAIN, "ended twice"),
    "an event lost": (_edit("DELETE FROM events WHERE seq = 5"), "a gap"),
    "a call paid thrice more": (_pay_more, "more model calls"),
    "a lock left": (_write(".git/worktrees/index.lock", ""), "lock files"),
    "a stranger's file lost": (lambda trial: trial.strangers.append("gone.txt"), "lost"),
}


def void(_: object) -> None:
    """Drop a value, in a lambda."""


@pytest.fixture(scope="session")
def whole(bench: Bench) -> tuple[Trial, dict[str, Any]]:
    """A session that was killed once and then ended well."""
    trial = Trial.from_template(bench.scenario, bench.directory / "template", bench.directory / "whole")
    assert trial.run(LEFT_OPEN) is None
    document = trial.resume()
    assert document is not None
    return trial, document


@pytest.mark.parametrize("spoil", SPOILS)
def test_the_harness_notices_when_something_is_lost_doubled_or_foreign(
    bench: Bench, whole: tuple[Trial, dict[str, Any]], tmp_path: Path, spoil: str
) -> None:
    trial, document = whole
    shutil.copytree(trial.directory, tmp_path / "spoilt", symlinks=True)
    spoilt = Trial(trial.scenario, tmp_path / "spoilt", kills=list(trial.kills))
    check_finished(spoilt, document, bench.reference)
    damage, complaint = SPOILS[spoil]

    damage(spoilt)

    with pytest.raises(AssertionError, match=complaint):
        check_finished(spoilt, document, bench.reference)
