"""What looking at a session costs when it has 100,000 events, beside one with 100, and plain SQL in the same file.

    uv run python benchmarks/bench_watching.py [EVENTS] [RUNS]

Exits with 1 when a command needs more than 0.3 s more for the long log than for the short one.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from orchestra.testing import git_repo

COMMAND = str(Path(sys.executable).with_name("orchestra"))
LIMIT = 0.3
COMMANDS = {
    "status": ["status"],
    "status SESSION": ["status", "{session}"],
    "status SESSION --json": ["status", "{session}", "--json"],
    "log --tail 50": ["log", "{session}", "--events", "--tail", "50"],
    "log --tail 50 --agent": ["log", "{session}", "--tail", "50", "--agent", "writer"],
    "log --since 1s": ["log", "{session}", "--since", "1s"],
    "log -f --tail 50": ["log", "{session}", "-f", "--tail", "50"],
}
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
PLAIN = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("SELECT * FROM events ORDER BY seq DESC LIMIT 50").fetchall())
"""


def seconds(command: list[str], cwd: Path, env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True)
    return time.perf_counter() - started


def project(place: Path, events: int, env: dict[str, str]) -> tuple[Path, str]:
    """Make a project with a session, and events until it has so many: mostly text, some calls, some output of tools."""
    root = git_repo(place, {"a.txt": "1\n"}).path
    (root / "bench.yaml").write_text(PIPELINE)
    (root / "script.yaml").write_text(SCRIPT)
    subprocess.run([COMMAND, "run", "bench.yaml", "-q"], cwd=root, env=env, check=True, capture_output=True)
    (database,) = root.glob(".orchestra/sessions/*/session.db")
    draw = random.Random(7)  # noqa: S311 - the same log each time
    call = {"model": "m", "provider": "offline", "attempt": 1, "input_tokens": 900, "output_tokens": 40}
    call |= {"cached_tokens": 0, "cost_usd": 0.01, "duration_s": 1.0, "stop_reason": "stop"}
    kinds = {
        "text_delta": {"text": "word " * 20, "spoken": False},
        "model_ended": call,
        "tool_ended": {"tool": "read-file", "ok": True, "exit_code": None, "duration_s": 0.1, "result": "line\n" * 400},
    }
    with closing(sqlite3.connect(database)) as connection:
        (last,) = connection.execute("SELECT MAX(seq), MAX(time) FROM events").fetchall()
        rows = []
        for number in range(last[0] + 1, events + 1):
            kind = draw.choices([*kinds], weights=[8, 1, 1])[0]
            rows.append((number, last[1], "writer", 1 + number // 500, 1, kind, json.dumps(kinds[kind])))
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    return root, database.parent.name


def main() -> int:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        env = {**os.environ, "HOME": str(place)}
        projects = {events: project(place / str(events), events, env) for events in (100, most)}
        times: dict[tuple[str, int], list[float]] = {}
        for _ in range(
            runs + 1
        ):  # interleaved, so that a busy moment of the machine meets them all; the first warms up
            for events, (root, session) in projects.items():
                database = root / ".orchestra" / "sessions" / session / "session.db"
                for name, parts in {**COMMANDS, "plain SQL": []}.items():
                    command = [COMMAND, *(part.format(session=session) for part in parts)]
                    command = command if parts else [sys.executable, "-c", PLAIN, str(database)]
                    times.setdefault((name, events), []).append(seconds(command, root, env))
    failed = False
    print(f"{'':24}{'100':>9}{most:>11,}   more")
    for name in (*COMMANDS, "plain SQL"):
        short, long = (statistics.median(times[name, events][1:]) for events in (100, most))
        failed |= long - short > LIMIT
        print(f"{name:24}{short:8.3f}s{long:10.3f}s   {long - short:+.3f}s, {long / short:.2f} times")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
