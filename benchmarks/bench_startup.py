"""CPU time of commands that must start at once, as a ratio to `python -c pass` of the same run.

    uv run python benchmarks/bench_startup.py [RUNS]

Exits with 1 when a limit of the project is passed. Byte code is written first, as on a user's machine.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LIMITS = {"--help": 16, "status": 20, "compile wrong.yaml": 25}
COMMAND = str(Path(sys.executable).with_name("orchestra"))
WRONG = """
name: wrong
providers: {default: openai, openai: {}}
agents:
  a: {task: {template: "Do it."}, model: m, tools: [reed-file], role: nobody}
graph:
  - {from: START, to: a}
  - {from: a, to: b}
"""


def cpu(command: list[str], cwd: Path, env: dict[str, str]) -> float:
    """Return the CPU seconds of a command, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=cwd, env=env, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "wrong.yaml").write_text(WRONG)
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = str(place / "cache")
        commands = {"python -c pass": [sys.executable, "-c", "pass"]}
        commands |= {name: [COMMAND, *name.split()] for name in LIMITS}
        for command in commands.values():
            cpu(command, place, env)
        # Interleaved, so that a busy moment of the machine meets them all.
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                times[name].append(cpu(command, place, env))
    base = times["python -c pass"]
    print(
        f"python -c pass: {min(base) * 1000:.1f} ms (least of {runs}), {statistics.median(base) * 1000:.1f} ms (median)"
    )
    failed = False
    for name, limit in LIMITS.items():
        least = min(times[name]) / min(base)
        median = statistics.median(times[name]) / statistics.median(base)
        failed = failed or median > limit
        print(f"orchestra {name}: {least:.1f} x (least), {median:.1f} x (median), limit {limit} x")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
