"""A fork beside what it needs at least (a copy of the database, a branch, a worktree), and what the noted order costs.

Prints ratios, taken in the same run: `uv run python benchmarks/bench_replay.py [FILES] [EVENTS]`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosqlite
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from orchestra.graph.project import Project
from orchestra.graph.resolve import load_and_resolve
from orchestra.runtime.replaying import Changes
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import SessionFiles, read_checkpoints, schema

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

ROUNDS = 7
PUTS = 300
PIPELINE = """
name: bench
providers: {default: offline, offline: {type: scripted, script: script.yaml}}
agents:
  writer: {task: {template: Write.}, model: m, tools: [write-file]}
graph: [{from: START, to: writer}, {from: writer, to: END}]
"""
SCRIPT = """
agents:
  writer: [[{tools: [{name: write-file, args: {path: new.txt, content: "new\\n"}}]}, {text: Done.}]]
"""


def git(top: Path, *args: str) -> None:
    user = ("-c", "user.name=u", "-c", "user.email=u@localhost", "-c", "gc.auto=0")
    subprocess.run(["git", *user, *args], cwd=top, check=True, capture_output=True)


def used() -> float:
    """CPU seconds of this process and of the git processes that it waited for."""
    mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


async def measure(work: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    walls, cpus = [], []
    for number in range(ROUNDS):
        wall, cpu = time.perf_counter(), used()
        await work(number)
        walls.append(time.perf_counter() - wall)
        cpus.append(used() - cpu)
    return {"wall_ms": statistics.median(walls) * 1000, "cpu_ms": statistics.median(cpus) * 1000}


async def session(base: Path, count: int, events: int) -> tuple[Path, SessionFiles]:
    top = base / "app"
    for number in range(count):
        path = top / f"d{number % 50}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * 20)
    git(top, "init", "-q")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "first")
    (base / "pipeline.yaml").write_text(PIPELINE)
    (base / "script.yaml").write_text(SCRIPT)
    project = Project(top)
    resolved = load_and_resolve(base / "pipeline.yaml", project, repos={}, cwd=top)
    result = await SessionManager(project).start(resolved, {}, settings={})
    files = result.record.files
    with closing(sqlite3.connect(files.database)) as connection, connection:
        (last,) = connection.execute("SELECT MAX(seq) FROM events").fetchone()
        connection.executemany(
            "INSERT INTO events (seq, time, type, payload) VALUES (?, '2026-01-01', 'note', ?)",
            ((last + number, json.dumps({"text": "x" * 200})) for number in range(1, events + 1)),
        )
    return top, files


async def forks(top: Path, files: SessionFiles) -> dict[str, dict[str, float]]:
    row = read_checkpoints(files)[-1]
    commit = row["repos"]["repo"]

    async def plain(number: int) -> None:
        shutil.copyfile(files.database, files.directory.parent / f"plain-{number}.db")
        git(top, "branch", f"plain-{number}", commit)
        git(top, "worktree", "add", "-q", "--detach", str(top / ".orchestra" / f"plain-{number}"), commit)

    async def fork(_: int) -> None:
        await SessionManager(Project(top)).replay(files, row, Changes(), goes_on=False)

    return {"copy, branch, worktree": await measure(plain), "fork": await measure(fork)}


async def puts(base: Path, *, ordered: bool) -> dict[str, float]:
    """Measure checkpoints with one pending write each, as LangGraph's saver stores them."""
    path = base / f"puts-{ordered}.db"
    async with aiosqlite.connect(path) as connection:
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = FULL")
        saver = AsyncSqliteSaver(connection)
        await saver.setup()
        if ordered:
            await connection.executescript(schema("events") + schema("order"))
        seq = 0

        async def work(_: int) -> None:
            nonlocal seq
            for _number in range(PUTS):
                seq += 1
                config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
                checkpoint = {**empty_checkpoint(), "channel_values": {"messages": "x" * 4000}}
                metadata: Any = {"source": "loop", "step": seq, "orchestra": {"seq": seq}}
                stored = await saver.aput(config, checkpoint, metadata, {})  # type: ignore[arg-type]
                await saver.aput_writes(stored, [("messages", "y" * 1000)], f"task-{seq}")

        return await measure(work)


def against(plain: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    return {f"{key}_ratio": round(own[f"{key}_ms"] / plain[f"{key}_ms"], 2) for key in ("wall", "cpu")}


async def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    events = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        results = await forks(*await session(base, count, events))
        results["fork"] |= against(results["copy, branch, worktree"], results["fork"])
        results["checkpoints"] = await puts(base, ordered=False)
        results["checkpoints in order"] = await puts(base, ordered=True)
        results["checkpoints in order"] |= against(results["checkpoints"], results["checkpoints in order"])
    rounded = {name: {key: round(value, 2) for key, value in one.items()} for name, one in results.items()}
    print(json.dumps({"files": count, "events": events, **rounded}, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
