"""What must hold after every kill, and at the end; each rule is checked from outside, on the disk as it lies there."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from orchestra.runtime.event_log import read_events
from orchestra.runtime.serializer import StrictSerializer
from tests.acceptance.crash.moment import Moment, level_of
from tests.acceptance.crash.scenario import PREPARED
from tests.gitkit import ENV, assert_sound, fingerprint, git

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.acceptance.crash.trial import Trial


@dataclass(frozen=True)
class Reference:
    """An undisturbed run, and the user's side before it."""

    document: dict[str, Any]
    files: dict[str, Mapping[str, str]]
    """Repo → path → content at the end."""
    commits: dict[str, list[str]]
    """Repo → `agent:turn` of each commit, sorted."""
    histories: dict[str, str]
    """Repo → what the history of its result comes to, but for dates and the session's id."""
    conflicts: dict[str, dict[str, str]]
    """Repo → number of each conflict → the same of the commit that holds its markers."""
    model_calls: int
    user: dict[str, dict[str, str]]
    """Repo → the fingerprint of all that is the user's."""
    seconds: float
    """How long it took."""


def user_side(repo: Path) -> dict[str, str]:
    """Return the fingerprint of all that is the user's: files, index, HEAD, refs, configuration; to the byte."""
    return {
        path.removeprefix(str(repo)): mark
        for path, mark in fingerprint(repo).items()
        if "/refs/heads/orchestra" not in path and "/logs/" not in path and not path.endswith("/.git")
    }


def reference_of(trial: Trial, document: dict[str, Any], user: dict[str, dict[str, str]], seconds: float) -> Reference:
    """Take an undisturbed run as what others have to come to."""
    return Reference(
        document=document,
        files={name: files_at(repo, document["commits"][name]) for name, repo in trial.repos.items()},
        commits={name: turns_of(repo, document["branches"].get(name)) for name, repo in trial.repos.items()},
        histories={name: histories(trial, name, [document["commits"][name]])[0] for name in trial.repos},
        conflicts={name: conflicts_of(trial, name) for name in trial.repos},
        model_calls=trial.model_calls(),
        user=user,
        seconds=seconds,
    )


def check_killed(trial: Trial, reference: Reference, *, killed: bool = True) -> None:
    """Check the disk right after a kill, before anything is mended."""
    for name, repo in trial.repos.items():
        assert user_side(repo) == reference.user[name], f"the user's side of {name} changed"
        assert_sound(repo, killed=killed)
    if trial.session is not None:
        check_checkpoints(trial)


def check_finished(trial: Trial, document: dict[str, Any], reference: Reference) -> None:
    """Check a session that came to its end after kills against the undisturbed run."""
    for key in ("status", "pipeline", "agent_outputs", "conflicts", "waiting_for", "error"):
        told, wanted = _without_commits(document[key]), _without_commits(reference.document[key])
        assert told == wanted, f"{key}: {told!r} != {wanted!r}"
    check_killed(trial, reference, killed=False)
    for name, repo in trial.repos.items():
        commit, branch = document["commits"][name], document["branches"].get(name)
        assert files_at(repo, commit) == reference.files[name]
        assert turns_of(repo, branch) == reference.commits[name], f"commits of {name}"
        assert histories(trial, name, [branch or commit]) == [reference.histories[name]], f"the history of {name}"
        assert branch is None or git(repo, "rev-parse", branch) == commit
        assert conflicts_of(trial, name) == reference.conflicts[name], f"the conflicts that are kept in {name}"
        _check_merges(trial, name, branch)
        _check_no_remains(repo)
        locks = [str(lock) for lock in (repo / ".git").rglob("*.lock")]
        assert locks == [], "lock files were left"
        others = {
            ref.split("/")[2] for ref in git(repo, "for-each-ref", "--format=%(refname)", "refs/orchestra").split()
        }
        assert others <= {document["session_id"]}, "references of a session that was never made"
    for worktree in trial.worktrees():
        prepared = {path.name: path.read_text() for path in worktree.glob("*.cache")}
        wanted = PREPARED if trial.root in worktree.parents else {}
        assert prepared == wanted, f"the worktree was prepared otherwise: {prepared}"
    made = [path.name for path in (trial.root / ".orchestra" / "sessions").iterdir() if path.name != ".git"]
    assert made == [document["session_id"]], "directories of sessions that were never made"
    _check_strangers(trial)
    paid = trial.model_calls() - reference.model_calls
    assert 0 <= paid <= len(trial.kills) * trial.scenario.at_once, (
        f"{paid} more model calls than undisturbed after {len(trial.kills)} kills"
    )
    _check_log(trial, document)


def _without_commits(value: Any) -> Any:
    """Leave out the commits of decisions, which bear dates and the session's id; their files are checked elsewhere."""
    if not isinstance(value, dict):
        return value
    return {key: _without_commits(item) for key, item in value.items() if key != "commits"}


def _check_merges(trial: Trial, name: str, branch: str | None) -> None:
    """Check that every merge was made once, whatever became of the process that made it; a turn's own is a turn."""
    assert trial.session is not None
    events = [
        event["payload"] for event in read_events(trial.session) if event["type"] in {"merged", "conflict_resolved"}
    ]
    told = {event["commit"] for event in events if event["repo"] == name}
    agent = "%(trailers:key=Orchestra-Agent,valueonly,separator=)"
    log = git(trial.repos[name], "log", "--merges", f"--format=%H {agent}", f"main..{branch}") if branch else ""
    made = {line.strip() for line in log.split("\n")} - {""}
    assert told == {line for line in made if " " not in line}, f"merges of {name} in the events"


def _check_no_remains(repo: Path) -> None:
    """Check that of the branches' worktrees nothing is left."""
    own = repo / ".orchestra"
    left = [path.name for path in own.glob("worktrees/*/*") if path.name != "_session"]
    listed = [line for line in git(repo, "worktree", "list", "--porcelain").split("\n") if line.startswith("worktree ")]
    left += [line for line in listed[1:] if not line.endswith("/_session")]
    left += [path.name for path in (*own.glob("trash/*"), *own.glob("scratch-*"))]
    assert left == [], f"of branches that are merged there is left: {left}"


def _check_strangers(trial: Trial) -> None:
    """Check that what somebody else put into a worktree is kept: as a rescue, or where it lay."""
    if not trial.strangers:
        return
    kept = {path.name for worktree in trial.worktrees() for path in worktree.glob("stranger-*")}
    for repo in trial.repos.values():
        rescues = git(repo, "for-each-ref", "--format=%(objectname)", "refs/orchestra/*/rescue/*").split()
        kept |= {path for commit in rescues for path in git(repo, "ls-tree", "--name-only", commit).split()}
    assert set(trial.strangers) <= kept, f"lost: {set(trial.strangers) - kept}"


def _check_log(trial: Trial, document: dict[str, Any]) -> None:
    """Check the event log: no gap, nothing twice, and every call of a turn that counts is in it."""
    assert trial.session is not None
    events = list(read_events(trial.session))
    numbers = [event["seq"] for event in events]
    assert numbers == list(range(1, len(events) + 1)), f"the event log has a gap or a double: {numbers}"
    recorded = sum(event["type"] == "model_ended" for event in events)
    assert document["usage"]["model_calls"] == recorded, "the usage is not what the events add up to"
    # An answer that came in the instant of the kill is in neither; it is asked for again.
    unrecorded = trial.model_calls() - recorded
    assert 0 <= unrecorded <= len(trial.kills) * trial.scenario.at_once, f"{unrecorded} answered calls are in no event"
    answers = {
        (event["payload"]["question"], event["payload"]["text"]) for event in events if event["type"] == "human_turn"
    }
    assert answers == set(trial.scenario.answers.items()), f"answered: {sorted(answers)}"
    committed = [(event["node"], event["turn"], event["payload"]["repo"]) for event in events if _commits(event)]
    for name, repo in trial.repos.items():
        logged = sorted(f"{node}:{turn}" for node, turn, where in set(committed) if where == name)
        assert logged == turns_of(repo, document["branches"].get(name)), f"commits of {name} in the events"


def _commits(event: Mapping[str, Any]) -> bool:
    return bool(event["type"] == "turn_committed")


def check_checkpoints(trial: Trial) -> None:
    """Check that every checkpoint's commits are there, reachable, and hold exactly the files of its moment."""
    assert trial.session is not None
    serializer = StrictSerializer()
    with closing(sqlite3.connect(f"file:{trial.session.database}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'checkpoints'").fetchone():
            return
        rows = connection.execute("SELECT checkpoint_ns, type, checkpoint, metadata FROM checkpoints").fetchall()
    shown = [
        (json.loads(metadata)["orchestra"], namespace, serializer.loads_typed((kind, blob))["channel_values"])
        for namespace, kind, blob, metadata in rows
    ]
    shown.sort(key=lambda row: row[0]["seq"])
    ended = [(entry["agent"], entry["turn"]) for about, _, _ in shown for entry in about["ended"]]
    assert len(ended) == len(set(ended)), "a turn ended twice"
    for name, repo in trial.repos.items():
        commits = {about["repos"][name] for about, _, _ in shown}
        assert commits <= _reachable(repo), f"a checkpoint names a commit of {name} that no reference leads to"
        known = {commit: files_at(repo, commit) for commit in commits}
        states: dict[str, Mapping[str, Any]] = {"": {}}
        for about, namespace, channels in shown:
            level = level_of(namespace)
            if level == namespace:
                states[level] = {**channels.get("__start__", {}), **channels}
            moment = Moment(
                trial.scenario, name, level, states[level], None if level == namespace else about["agent"], channels
            )
            moment.check(known[about["repos"][name]])


def _reachable(repo: Path) -> set[str]:
    # Not `--all`, which adds the HEADs of worktrees: one that git was making when it was killed has a HEAD of zeros.
    return set(git(repo, "rev-list", "--glob=refs/*").split())


def turns_of(repo: Path, branch: str | None) -> list[str]:
    """Return `agent:turn` of each commit on a session's branch, sorted."""
    if branch is None:
        return []
    trailer = (
        "%(trailers:key=Orchestra-Agent,valueonly,separator=)%x3A%(trailers:key=Orchestra-Turn,valueonly,separator=)"
    )
    log = git(repo, "log", f"--format={trailer}", f"main..{branch}")
    return sorted(line for line in log.split("\n") if line not in ("", ":"))


def conflicts_of(trial: Trial, name: str) -> dict[str, str]:
    """Return the number of each conflict of a session with what its commit comes to."""
    refs = git(trial.repos[name], "for-each-ref", "--format=%(refname:lstrip=3)", "refs/orchestra/*/conflict/*").split()
    whole = git(trial.repos[name], "for-each-ref", "--format=%(objectname)", "refs/orchestra/*/conflict/*").split()
    return dict(zip(refs, histories(trial, name, whole), strict=True))


def histories(trial: Trial, name: str, commits: list[str]) -> list[str]:
    """Return what the histories of commits come to: all trees, parents, authors and messages, but no date.

    Two runs of a pipeline differ in their dates and in the session's id, and in nothing else.
    """
    if not commits:
        return []
    session = trial.session.session_id if trial.session else ""
    form = "--format=%H%x00%P%x00%T%x00%an%x00%B%x01"
    log = git(trial.repos[name], "log", "--topo-order", "--reverse", form, *commits)
    known = git(trial.repos[name], "rev-parse", *commits).split()
    found: dict[str, str] = {}
    for entry in log.split("\x01"):
        if entry.strip():
            commit, parents, *rest = entry.lstrip("\n").split("\0")
            text = "\0".join([*(found[parent] for parent in parents.split()), *rest]).replace(session, "SESSION")
            found[commit] = hashlib.sha256(text.encode()).hexdigest()
    return [found[commit] for commit in known]


@lru_cache(maxsize=5_000)
def files_at(repo: Path, commit: str) -> Mapping[str, str]:
    """Return path → content of a commit, in two processes however many files there are.

    What a commit holds never changes, and whether all of it is still there is what `assert_sound` checks.
    """
    listed = git(repo, "ls-tree", "-r", "-z", commit).split("\0")
    entries = [line.split("\t", 1) for line in listed if line]
    blobs = [about.split()[2] for about, _ in entries]
    asked = "".join(f"{blob}\n" for blob in blobs).encode()
    done = subprocess.run(
        ["git", "cat-file", "--batch"], cwd=repo, env=ENV, input=asked, capture_output=True, check=True
    )
    contents, rest = [], done.stdout
    for _ in blobs:
        head, _, rest = rest.partition(b"\n")
        size = int(head.split()[2])
        contents.append(rest[:size].decode())
        rest = rest[size + 1 :]
    return dict(zip((name for _, name in entries), contents, strict=True))
