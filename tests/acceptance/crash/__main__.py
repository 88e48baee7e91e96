"""Kill Orchestra many times and count what is lost: `uv run python -m tests.acceptance.crash --random 1000`.

Ends with exit code 1 if a single rule was broken; the directory of such a trial is kept, and its name says how to
make it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.acceptance.crash.campaign import KILLS_OF_A_TRIAL, Bench, Phase
from tests.acceptance.crash.scenario import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterator

_bench: Bench


@dataclass(frozen=True)
class Task:
    """One trial to do."""

    name: str
    phase: Phase = "run"
    hit: int = 0
    """0: kills at random instants, with `seed`."""
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a trial went."""

    task: Task
    kills: int
    problem: str | None


def main() -> int:
    """Run the campaign and print its figures."""
    options = _options()
    started = time.monotonic()
    global _bench  # noqa: PLW0603 - forked workers find it here
    directory = Path(tempfile.mkdtemp(prefix="orchestra-crash-", dir=options.directory))
    _bench = Bench.prepare(directory, SCENARIOS[options.scenario])
    tasks = [*_point_tasks(options.hits, options.point), *_random_tasks(options.random, options.seed)]
    _say(f"{len(tasks)} trials in {directory}; an undisturbed run takes {_bench.reference.seconds:.1f} s")
    kills: Counter[str] = Counter()
    broken: list[Outcome] = []
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for number, outcome in enumerate(pool.imap_unordered(_do, tasks), start=1):
            kills[outcome.task.name] += outcome.kills
            if outcome.problem is not None:
                broken.append(outcome)
                _say(f"BROKEN {outcome.task}\n{outcome.problem}")
            if number % 50 == 0:
                _say(f"{number} trials, {kills.total()} kills, {len(broken)} broken")
    _report(kills, broken, len(tasks), time.monotonic() - started)
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.crash", description=__doc__)
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="round", help="what is run and killed")
    parser.add_argument("--hits", type=int, default=2, help="passes of each failpoint to kill at; 0: every one")
    parser.add_argument("--point", action="append", help="only this failpoint; may be repeated")
    parser.add_argument("--random", type=int, default=100, help="kills at random instants (about)")
    parser.add_argument("--seed", type=int, default=0, help="of the first random trial")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once")
    parser.add_argument("--directory", help="where trials are made; by default the temporary directory")
    return parser.parse_args()


def _point_tasks(hits: int, only: list[str] | None) -> Iterator[Task]:
    for phase, point, count in _bench.points():
        if only is None or point in only:
            for hit in chosen(count, hits or count):
                yield Task(point, phase, hit)


def _random_tasks(kills: int, seed: int) -> Iterator[Task]:
    for number in range(-(-kills // KILLS_OF_A_TRIAL)):
        yield Task("random", seed=seed + number)


def chosen(count: int, most: int) -> list[int]:
    """Choose so many of the numbers from 1 to `count`, evenly, the first and the last among them."""
    if most >= count:
        return list(range(1, count + 1))
    if most == 1:
        return [(count + 1) // 2]
    return sorted({1 + round(step * (count - 1) / (most - 1)) for step in range(most)})


def _do(task: Task) -> Outcome:
    try:
        if task.hit:
            return Outcome(task, _bench.kill_at(task.phase, task.name, task.hit), None)
        return Outcome(task, _bench.kill_at_random(task.seed), None)
    except Exception:  # noqa: BLE001 - counted and shown; the campaign goes on
        return Outcome(task, 1, traceback.format_exc())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _report(kills: Counter[str], broken: list[Outcome], trials: int, seconds: float) -> None:
    wrong = Counter(outcome.task.name for outcome in broken)
    for name in sorted(kills):
        _say(f"{name:28} {kills[name]:5} kills {wrong[name]:5} broken")
    points = sum(name != "random" for name in kills)
    _say(
        f"{trials} trials, {points} failpoints, {kills.total()} kills of which {kills['random']} at random instants: "
        f"{len(broken)} broken, in {seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
