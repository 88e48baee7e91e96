"""Killed at any instant, resumed: nothing lost, nothing doubled, nothing foreign (the harness is in `crash/`)."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.crash.__main__ import chosen
from tests.acceptance.crash.campaign import KILLS_OF_A_TRIAL, LEFT_OPEN, Bench
from tests.acceptance.crash.checker import check_finished, user_side
from tests.acceptance.crash.scenario import SCENARIOS
from tests.acceptance.crash.trial import Kill, Trial
from tests.gitkit import git

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.crash.campaign import Phase

STARTING = (
    "base-committed", "base-pinned", "database-drafted", "event-session_started", "pipeline-frozen",
    "session-created", "session-directory-made", "session-prepared", "status-due", "status-written",
)  # fmt: skip
WORKING = (
    "checkpoint-indexed", "copies-placed", "event-checkpoint", "event-condition_chose", "event-model_ended",
    "event-model_started", "event-note", "event-output_given", "event-prompt_given", "event-session_completed",
    "event-setup_ended", "event-setup_started", "event-snapshot_taken", "event-text_delta", "event-tool_ended",
    "event-tool_started", "event-turn_committed", "event-turn_ended", "event-turn_started", "event-warning",
    "events-due", "events-written", "files-staged", "files-switched", "rescue-kept", "restore-begun", "restored",
    "setup-due", "setup-run", "snapshot-committed", "snapshot-taken", "tool-ended", "turn-commit-made", "turn-ending",
    "way-cleared",
)  # fmt: skip
STANDING = (
    "branch-moved", "checkpoint-due", "checkpoint-written", "one-branch-moved", "snapshot-pinned", "turn-committed",
    "worktree-filled", "worktree-on-commit", "worktree-ready", "worktree-registered", "writes-due", "writes-stored",
)  # fmt: skip
JOINING = (
    "event-merged", "merge-made", "merge-pinned", "merge-prepared", "removal-due", "worktree-away",
    "worktree-forgotten",
)  # fmt: skip
CONFLICTING = (
    "conflict-described", "conflict-head-set", "conflict-kept", "conflict-laid-out", "conflict-opened",
    "conflict-staged", "event-conflict",
)  # fmt: skip
RESOLVING = ("conflict-paths-marked", "conflict-paths-removed")
HANDING = ("conflict-handed-over", "event-conflict_resolved", "event-session_paused")
ASKING = (
    "answer-given", "answer-taken", "answer-written", "event-human_turn", "event-question_asked",
    "event-question_left", "files-rewound", "question-asked",
)  # fmt: skip
RESUMING = ("event-files_put_back", "event-session_resumed", "session-reopened")

ALWAYS = {*STARTING, *WORKING, *STANDING, *JOINING, *RESUMING}
PASSED = {
    "round": ALWAYS,
    "branches": ALWAYS,
    "meeting": ALWAYS.union(CONFLICTING, RESOLVING),
    "person": ALWAYS.union(CONFLICTING, HANDING),
    "ending": ALWAYS - {"event-condition_chose"},
    "chat": ALWAYS.union(ASKING, ["event-session_paused"]),
}
"""Scenario → the failpoints that a run of it passes, or a resume."""
TRIED = {
    "round": (*STARTING, *WORKING, *RESUMING),
    "branches": ("checkpoint-written", "turn-committed", "writes-stored"),
    "meeting": (*STANDING, *JOINING, *CONFLICTING, *RESOLVING),
    "person": (*HANDING, "merge-made"),
    "chat": ASKING,
    "ending": ("merge-made", "merge-pinned", "checkpoint-written", "one-branch-moved"),
}
"""Scenario → the failpoints that a session is killed at: each where it matters most."""
LAST = {
    "branches": TRIED["branches"],
    "meeting": RESOLVING,
    "chat": ("answer-taken", "files-rewound"),
    "ending": ("merge-pinned", "checkpoint-written", "one-branch-moved"),
}
"""Scenario → those of them at whose very last pass one is killed, too."""
AT_RANDOM = {"round": 1, "chat": 1}
"""Scenario → trials with up to five kills at random instants."""


@pytest.fixture(scope="session")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """Gives each scenario, run once undisturbed."""

    @cache
    def prepare(scenario: str) -> Bench:
        return Bench.prepare(tmp_path_factory.mktemp(f"crash-{scenario}") / "bench", SCENARIOS[scenario])

    return prepare


@pytest.fixture(scope="session")
def bench(benches: Callable[[str], Bench]) -> Bench:
    """The scenario in which most is tried."""
    return benches("round")


def of(scenario: str, *values: object) -> Any:
    """Return parameters of a test that runs in the worker where its scenario is prepared already."""
    return pytest.param(scenario, *values, marks=pytest.mark.xdist_group(scenario))


@pytest.mark.parametrize("scenario", [of(name) for name in SCENARIOS])
def test_every_failpoint_of_a_session_is_among_those_that_are_tried(
    benches: Callable[[str], Bench], scenario: str
) -> None:
    assert {point for _, point, _ in benches(scenario).points()} == PASSED[scenario]
    assert PASSED[scenario] <= {point for tried in TRIED.values() for point in tried}


def in_turns(points: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Put failpoints together that one session is killed at, one after the other: five trials in the time of two."""
    count = -(-len(points) // KILLS_OF_A_TRIAL)
    return [points[number::count] for number in range(count)]


def phase_of(point: str) -> Phase:
    return "resume" if point in RESUMING else "run"


@pytest.mark.parametrize(
    ("scenario", "points"), [of(name, points) for name, tried in TRIED.items() for points in in_turns(tried)], ids=str
)
def test_a_session_killed_at_one_failpoint_after_another_ends_as_if_nothing_had_happened(
    benches: Callable[[str], Bench], scenario: str, points: tuple[str, ...]
) -> None:
    bench = benches(scenario)
    for point in bench.kill_in_turn(points):
        phase = phase_of(point)
        (hit,) = chosen(bench.times(phase, point), 1)
        assert bench.kill_at(phase, point, hit) > 0


@pytest.mark.parametrize(("scenario", "point"), [of(name, point) for name, points in LAST.items() for point in points])
def test_a_session_killed_at_the_last_pass_of_a_failpoint_ends_as_if_nothing_had_happened(
    benches: Callable[[str], Bench], scenario: str, point: str
) -> None:
    bench = benches(scenario)

    assert bench.kill_at("run", point, bench.times("run", point)) > 0


@pytest.mark.parametrize(
    ("scenario", "seed"), [of(name, seed) for name, count in AT_RANDOM.items() for seed in range(count)]
)
def test_a_session_killed_at_random_instants_ends_as_if_nothing_had_happened(
    benches: Callable[[str], Bench], scenario: str, seed: int
) -> None:
    assert benches(scenario).kill_at_random(seed) > 0


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


@pytest.mark.xdist_group("round")
@pytest.mark.parametrize(
    ("kill", "what"),
    [
        *((LEFT_OPEN, what) for what in USERS_GIT),
        *((Kill("turn-committed", 2), what) for what in ("collects garbage", "commits", "cleans the worktrees")),
    ],
    ids=str,
)
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
        file.write("left:1:0\n" * (trial.scenario.at_once + 1))


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


_SEE_OTHERS = _edit(
    "UPDATE checkpoints SET metadata = json_set(CAST(metadata AS TEXT), '$.orchestra.repos', json_extract((SELECT "
    """CAST(metadata AS TEXT) FROM checkpoints WHERE CAST(metadata AS TEXT) ->> '$.orchestra.next' = '["count"]' """
    "ORDER BY rowid LIMIT 1), '$.orchestra.repos')) WHERE checkpoint_ns LIKE 'right:%'"
)


def _drop_a_parent(trial: Trial) -> None:
    """Make the last merge anew without what it merged: its files and all that came after stay as they are."""
    tip, merge = _branch(trial), git(trial.root, "log", "--merges", "-1", "--format=%H", _branch(trial))
    said = git(trial.root, "log", "-1", "--format=%B", merge)
    made = git(trial.root, "commit-tree", f"{merge}^{{tree}}", "-p", f"{merge}^1", "-p", f"{merge}^2~", "-m", said)
    for commit in git(trial.root, "rev-list", "--reverse", "--first-parent", f"{merge}..{tip}").split():
        said = git(trial.root, "log", "-1", "--format=%B", commit)
        made = git(trial.root, "commit-tree", f"{commit}^{{tree}}", "-p", made, "-m", said)
    git(trial.root, "update-ref", tip, made)


def _say_something_else(trial: Trial) -> None:
    tip = _branch(trial)
    said = f"x{git(trial.root, 'log', '-1', '--format=%B', tip)}"
    git(trial.root, "update-ref", tip, git(trial.root, "commit-tree", f"{tip}^{{tree}}", "-p", f"{tip}^", "-m", said))


def _claim_a_conflict(trial: Trial) -> None:
    git(trial.root, "update-ref", f"refs/orchestra/{_session(trial)}/conflict/1", "main")


def _make(path: str) -> Callable[[Trial], None]:
    return lambda trial: (trial.root / path.format(session=_session(trial))).mkdir(parents=True)


def _session(trial: Trial) -> str:
    assert trial.session is not None
    return trial.session.session_id


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
    "files of a sibling seen": (_SEE_OTHERS, "left.log in app"),
    "a turn that was not merged": (_drop_a_parent, "commits of app"),
    "a commit that says something else": (_say_something_else, "the history of app"),
    "a merge that the log does not tell of": (_edit("DELETE FROM events WHERE type = 'merged'"), "merges of app"),
    "a conflict that was none": (_claim_a_conflict, "conflicts that are kept in app"),
    "a branch's worktree left": (_make(".orchestra/worktrees/{session}/left"), "there is left"),
    "trash left": (_make(".orchestra/trash/{session}-left"), "there is left"),
    "an event lost": (_edit("DELETE FROM events WHERE seq = 5"), "a gap"),
    "calls paid again too often": (_pay_more, "more model calls"),
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


@pytest.mark.xdist_group("round")
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
