"""A snapshot against what a user would type: `git add -A && git commit`, and `git status` when nothing changed.

Prints ratios, taken in the same run: `uv run python benchmarks/bench_snapshot.py [FILES]`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.runtime.git import GitManager
from orchestra.runtime.snapshots import take
from orchestra.runtime.worktree import WorktreeManager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestra.runtime.git import Worktree

ROUNDS = 15
USER = ("-c", "user.name=u", "-c", "user.email=u@localhost", "-c", "gc.auto=0")


def git(top: Path, *args: str) -> None:
    subprocess.run(["git", *USER, *args], cwd=top, check=True, capture_output=True)


def make(top: Path, count: int) -> Path:
    for number in range(count):
        path = top / f"d{number % 50}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * 20)
    git(top, "init", "-q")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "first")
    return top


def used() -> float:
    """CPU seconds of this process and of the git processes that it waited for."""
    mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


async def measure(prepare: Callable[[int], None], work: Callable[[], Awaitable[None]]) -> dict[str, float]:
    walls, cpus = [], []
    for number in range(ROUNDS):
        prepare(number)
        wall, cpu = time.perf_counter(), used()
        await work()
        walls.append(time.perf_counter() - wall)
        cpus.append(used() - cpu)
    return {"wall_ms": statistics.median(walls) * 1000, "cpu_ms": statistics.median(cpus) * 1000}


class Snapshots:
    def __init__(self, manager: GitManager, worktree: Worktree, commit: str) -> None:
        self.manager, self.worktree, self.last, self.number = manager, worktree, commit, 0

    async def take(self) -> None:
        self.number += 1
        self.last = (await take(self.manager, self.worktree, previous=self.last, number=self.number)).commit


async def snapshots(top: Path, *, durable: bool) -> Snapshots:
    manager = GitManager(durable=durable)
    repo = await manager.open("repo", top)
    assert repo.head
    slot = "durable" if durable else "fast"
    return Snapshots(manager, await WorktreeManager(manager, "bench").ensure(repo, slot, repo.head), repo.head)


async def compare(top: Path) -> dict[str, dict[str, float]]:
    changed = top / "d1/f1.txt"
    results = {}

    async def commit() -> None:
        git(top, "add", "-A")
        git(top, "commit", "-qm", "x", "--no-verify")

    async def status() -> None:
        git(top, "status", "--porcelain")

    results["git add && commit, 1 file"] = await measure(functools.partial(set_text, changed), commit)
    results["git status, no change"] = await measure(lambda _: None, status)
    for durable in (False, True):
        mine = await snapshots(top, durable=durable)
        name = "snapshot, durable" if durable else "snapshot"
        target = mine.worktree.path / "d1/f1.txt"
        results[f"{name}, 1 file"] = await measure(functools.partial(set_text, target), mine.take)
        results[f"{name}, no change"] = await measure(lambda _: None, mine.take)
    return results


def set_text(path: Path, number: int) -> None:
    path.write_text(f"changed {number} at {datetime.now(UTC)}\n")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as directory:
        results = asyncio.run(compare(make(Path(directory, "repo"), count)))
    for name, values in results.items():
        plain = results["git add && commit, 1 file" if name.endswith("1 file") else "git status, no change"]
        values |= {f"{key}_ratio": round(values[f"{key}_ms"] / plain[f"{key}_ms"], 2) for key in ("wall", "cpu")}
        values |= {key: round(value, 1) for key, value in values.items() if key.endswith("_ms")}
    print(json.dumps({"files": count, **results}, indent=2))


if __name__ == "__main__":
    main()
