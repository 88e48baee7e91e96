"""Eight writers at once on one repository, and their join, against plain git that does the same work.

A whole session of the installed command (fan-out to eight scripted agents that write three files each, a ninth behind
the join), beside `git worktree add`, the same edits, `git commit`, `git merge` and `git worktree remove` in the same
run, the two in turns. `talk` is the same session with agents that write nothing: what Python, LangGraph and the
checkpoints take. Prints medians, ratios, and the parts of one session, with the git processes of each:
`uv run python benchmarks/bench_parallel_writers.py [FILES] [ROUNDS]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from orchestra.testing import write_script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRITERS = [f"w{number}" for number in range(1, 9)]
LAST = "last"
COMMAND = str(Path(sys.executable).with_name("orchestra"))
USER = ("-c", "user.name=u", "-c", "user.email=u@localhost", "-c", "gc.auto=0")


def edits(writer: str) -> dict[str, str]:
    """Two new files and a changed one, none of which another writer touches."""
    place = WRITERS.index(writer) if writer in WRITERS else len(WRITERS)
    return {
        f"new/{writer}/one.txt": f"{writer}\n" * 20,
        f"new/{writer}/two.txt": f"{writer}, too\n" * 20,
        f"d{place}/f{place}.txt": f"changed by {writer}\n",
    }


def git(top: Path, *args: str) -> None:
    subprocess.run(["git", *USER, *args], cwd=top, check=True, capture_output=True)


def make_repository(top: Path, count: int) -> None:
    """Make a repository of some files, of 100 directories at most, in one import."""
    subprocess.run(["git", "init", "-q", "-b", "main", str(top)], check=True)
    importer = subprocess.Popen(["git", "fast-import", "--quiet"], cwd=top, stdin=subprocess.PIPE)
    assert importer.stdin
    with importer.stdin as script:
        script.write(b"commit refs/heads/main\ncommitter u <u@localhost> 1767225600 +0000\ndata 5\nfirst\n")
        for number in range(count):
            text = f"{number}\n".encode() * 20
            script.write(b"M 644 inline d%d/f%d.txt\ndata %d\n%s\n" % (number % 100, number, len(text), text))
    assert importer.wait() == 0
    git(top, "reset", "-q", "--hard")


def write_pipeline(directory: Path, *, writing: bool) -> Path:
    def turn(name: str) -> list[dict[str, Any]]:
        calls = [{"name": "write-file", "args": {"path": path, "content": text}} for path, text in edits(name).items()]
        return [{"tools": calls}, {"text": "Done."}] if writing else [{"text": "Done."}]

    write_script(directory / "script.yaml", {name: [turn(name)] for name in (*WRITERS, LAST)})
    more = {"tools": ["write-file"]} if writing else {}
    pipeline = {
        "name": "writers",
        "providers": {"default": "offline", "offline": {"type": "scripted", "script": "script.yaml"}},
        "agents": {name: {"task": {"template": "Work."}, "model": "m", **more} for name in (*WRITERS, LAST)},
        "graph": [
            {"from": "START", "to": WRITERS},
            {"from": WRITERS, "to": LAST},
            {"from": LAST, "to": "END"},
        ],
    }
    path = directory / "pipeline.yaml"
    path.write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    return path


def session(top: Path, pipeline: Path) -> None:
    """Run the installed command."""
    done = subprocess.run([COMMAND, "run", str(pipeline), "--json"], cwd=top, check=True, capture_output=True)
    assert json.loads(done.stdout)["status"] == "completed"


def plain(top: Path, *, at_once: int) -> None:
    """Do with plain git what the session does; so many worktrees are made, filled and committed at the same time."""
    root = top / ".orchestra" / "plain"
    root.mkdir(parents=True, exist_ok=True)

    def work(name: str) -> None:
        git(top, "worktree", "add", "--detach", str(root / name), "HEAD")
        commit(root / name, name)

    def commit(tree: Path, name: str) -> None:
        for path, text in edits(name).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text, encoding="utf-8")
        git(tree, "add", "-A")
        git(tree, "commit", "-qm", name, "--no-verify")

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(work, WRITERS))
    heads = [(top / f".git/worktrees/{name}/HEAD").read_text(encoding="ascii").strip() for name in WRITERS]
    git(top, "worktree", "add", "--detach", str(root / LAST), "HEAD")
    for head in heads:
        git(root / LAST, "merge", "-q", "--no-edit", "--no-ff", head)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda name: git(top, "worktree", "remove", "--force", str(root / name)), WRITERS))
    commit(root / LAST, LAST)


def tidy(top: Path) -> None:
    shutil.rmtree(top / ".orchestra", ignore_errors=True)
    for lock in (top / ".git" / "worktrees").glob("*/locked"):
        lock.unlink()
    git(top, "worktree", "prune")


def used() -> float:
    """CPU seconds of the processes that were waited for, and of theirs."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def compare(directory: Path, count: int, rounds: int) -> dict[str, Any]:
    top = directory / "repo"
    make_repository(top, count)
    (directory / "talk").mkdir()
    pipeline, talk = write_pipeline(directory, writing=True), write_pipeline(directory / "talk", writing=False)
    ways: dict[str, Callable[[], None]] = {
        "git, one by one": functools.partial(plain, top, at_once=1),
        "git, two at a time": functools.partial(plain, top, at_once=2),
        "orchestra": functools.partial(session, top, pipeline),
        "orchestra, talk": functools.partial(session, top, talk),
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), used()
            way()
            if number:  # the first round warms the caches up
                took[name].append((time.perf_counter() - wall, used() - cpu))
            tidy(top)
    results: dict[str, Any] = {
        name: {"wall_s": statistics.median(walls), "cpu_s": statistics.median(cpus)}
        for name, (walls, cpus) in ((name, zip(*pairs, strict=True)) for name, pairs in took.items())
    }
    for base in ("git, one by one", "git, two at a time"):
        results[f"orchestra / {base}"] = {
            "wall": statistics.median(ours[0] / theirs[0] for ours, theirs in zip(*_pair(took, base), strict=True)),
            "cpu": statistics.median(ours[1] / theirs[1] for ours, theirs in zip(*_pair(took, base), strict=True)),
        }
    command = [sys.executable, __file__, "--parts", str(pipeline)]
    done = subprocess.run(command, cwd=top, check=True, capture_output=True)
    return {"files": count, "rounds": rounds, "load": os.getloadavg()[0], **results, "parts": json.loads(done.stdout)}


def _pair(took: dict[str, list[tuple[float, float]]], base: str) -> tuple[list[tuple[float, float]], ...]:
    return took["orchestra"], took[base]


class Parts:
    """What the parts of one session take: of each its calls, their time, and the git processes in it."""

    def __init__(self) -> None:
        self.part = contextvars.ContextVar("part", default="other")
        self.owner: dict[int, str] = {}
        self.sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.commands: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the calls of a function as a part, unless they are made inside another one."""
        original = getattr(owner, name)

        @functools.wraps(original)
        async def counted(*args: Any, **keywords: Any) -> Any:
            if self.part.get() != "other":
                return await original(*args, **keywords)
            token, began = self.part.set(part), time.perf_counter()
            try:
                return await original(*args, **keywords)
            finally:
                self.part.reset(token)
                self.sums[part]["calls"] += 1
                self.sums[part]["wall_s"] += time.perf_counter() - began

        setattr(owner, name, counted)

    @contextlib.contextmanager
    def processes(self) -> Iterator[None]:
        """Note of each git process its part, and what it used when it is waited for."""
        start, wait = asyncio.create_subprocess_exec, os.waitpid
        names: dict[int, str] = {}

        async def starting(*args: Any, **keywords: Any) -> Any:
            process = await start(*args, **keywords)
            self.owner[process.pid], names[process.pid] = self.part.get(), str(args[1])
            return process

        def waiting(pid: int, options: int) -> tuple[int, int]:
            pid, status, usage = os.wait4(pid, options)
            ended.append((pid, usage.ru_utime + usage.ru_stime))
            return pid, status

        ended: list[tuple[int, float]] = []
        asyncio.create_subprocess_exec, os.waitpid = starting, waiting
        try:
            yield
        finally:
            asyncio.create_subprocess_exec, os.waitpid = start, wait
        for pid, cpu in ended:
            for sums in (self.sums[self.owner.get(pid, "other")], self.commands[names.get(pid, "?")]):
                sums["gits"] += 1
                sums["git_cpu_s"] += cpu

    def as_json(self) -> dict[str, Any]:
        def rounded(sums: dict[str, dict[str, float]]) -> dict[str, Any]:
            ordered = sorted(sums.items(), key=lambda item: -item[1]["git_cpu_s"])
            return {name: {key: round(value, 3) for key, value in part.items()} for name, part in ordered}

        return {"by_part": rounded(self.sums), "by_command": rounded(self.commands)}


async def session_in_parts(pipeline: Path) -> dict[str, Any]:
    from orchestra.graph.inputs import read_inputs
    from orchestra.graph.project import find_project
    from orchestra.graph.resolve import load_and_resolve
    from orchestra.runtime import joining, slotfiles, turnfiles
    from orchestra.runtime.branches import BranchFollower
    from orchestra.runtime.session import SessionManager
    from orchestra.runtime.workspace import Workspace
    from orchestra.runtime.worktree import WorktreeManager

    parts = Parts()
    parts.watch(WorktreeManager, "ensure", "worktree creation")
    parts.watch(slotfiles, "restore", "putting back at a turn's start")
    parts.watch(turnfiles, "take", "snapshots")
    parts.watch(turnfiles, "commit_turn", "turn commits")
    parts.watch(turnfiles, "stand_on", "turn commits")
    parts.watch(slotfiles, "remove_worktree", "removal")
    parts.watch(joining.Joiner, "_pair", "merging")
    parts.watch(BranchFollower, "follow", "branches and index")
    parts.watch(Workspace, "start", "session start")
    project = find_project(Path.cwd())
    resolved = load_and_resolve(pipeline, project, repos={}, cwd=Path.cwd())
    wall, cpu = time.perf_counter(), time.process_time()
    with parts.processes():
        result = await SessionManager(project, lambda _: None).start(resolved, read_inputs(resolved, {}), settings={})
    assert result.record.status == "completed", result.record.error
    whole = {"wall_s": round(time.perf_counter() - wall, 3), "python_cpu_s": round(time.process_time() - cpu, 3)}
    return {"session": whole, **parts.as_json()}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 2) if isinstance(value, float) else value


def main() -> None:
    if sys.argv[1:2] == ["--parts"]:
        print(json.dumps(asyncio.run(session_in_parts(Path(sys.argv[2])))))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(rounded(compare(Path(directory), count, rounds)), indent=2))


if __name__ == "__main__":
    main()
