"""Many trials: kills at the first, second, … pass of each failpoint, and at random instants."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tests.acceptance.crash.checker import Reference, check_finished, check_killed, reference_of, user_side
from tests.acceptance.crash.scenario import ROUND, Scenario
from tests.acceptance.crash.trial import Kill, Trial, random_kills

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

Phase = Literal["run", "resume"]

LEFT_OPEN = Kill(point="tool-ended", hit=5)
"""Where a session is killed first for points that only a resume passes: in a turn, with files in no snapshot."""

KILLS_OF_A_TRIAL = 5


@dataclass(frozen=True)
class Bench:
    """A scenario that has been run once undisturbed, ready for trials."""

    scenario: Scenario
    directory: Path
    reference: Reference
    passes: dict[Phase, Counter[str]]
    """How often a run, and a resume after `LEFT_OPEN`, passes each failpoint."""

    @classmethod
    def prepare(cls, directory: Path, scenario: Scenario = ROUND) -> Bench:
        """Run the scenario undisturbed, then once with one kill, and note all failpoints on the way.

        Args:
            directory: Where all trials are made.
            scenario: What to run.
        """
        import langchain.agents
        import langgraph.graph  # noqa: F401 - what forked drivers need is loaded once, here

        import orchestra.graph.compiler
        import orchestra.runtime.session  # noqa: F401

        del langchain
        template = directory / "template"
        template.mkdir(parents=True)
        scenario.lay_out(template)
        trial = Trial.from_template(scenario, template, directory / "undisturbed")
        user = {name: user_side(repo) for name, repo in trial.repos.items()}
        started = time.monotonic()
        document = _to_its_end(trial, trial.run(trace=directory / "run.trace"), directory / "run.trace")
        reference = reference_of(trial, document, user, time.monotonic() - started)
        check_finished(trial, document, reference)
        again = Trial.from_template(scenario, template, directory / "resumed")
        assert again.run(LEFT_OPEN) is None
        document = _to_its_end(again, again.resume(trace=directory / "resume.trace"), directory / "resume.trace")
        check_finished(again, document, reference)
        passes: dict[Phase, Counter[str]] = {
            "run": Counter((directory / "run.trace").read_text().split()),
            "resume": Counter((directory / "resume.trace").read_text().split()),
        }
        return cls(scenario, directory, reference, passes)

    def points(self) -> Iterator[tuple[Phase, str, int]]:
        """Yield every failpoint with how often it is passed: those of a run, and those that only a resume passes."""
        for phase, passes in self.passes.items():
            for point in sorted(passes):
                if phase == "run" or point not in self.passes["run"]:
                    yield phase, point, self.times(phase, point)

    def times(self, phase: Phase, point: str) -> int:
        """Return how often one process passes a failpoint at the least.

        How many events are written at once is chance, and so is in which process a person answers who leaves first.
        """
        count = self.passes[phase][point]
        return max(1, count // 4) if point.startswith("events-") or self.scenario.leaves else count

    def kill_at(self, phase: Phase, point: str, hit: int) -> int:
        """Kill at one pass of a failpoint, resume, and check; returns how many kills there were.

        Raises:
            AssertionError: Something was lost, doubled or foreign; the trial's directory is kept.
        """
        trial = self._new(f"{phase}-{point}-{hit}")
        if phase == "resume":
            assert trial.run(LEFT_OPEN) is None
            document = trial.resume(Kill(point, hit))
        else:
            document = trial.run(Kill(point, hit))
        return self._finish(trial, _once(trial, Kill(point, hit)), document)

    def kill_in_turn(self, points: Sequence[str]) -> list[str]:
        """Kill a run at one of some failpoints and each resume at another one, from beginning to end, then check.

        They come in the order in which a run first passes them, and each at so late a pass that the kills are spread
        over the whole session.

        Returns:
            Those that were not passed any more: the session had come too far.

        Raises:
            AssertionError: Something was lost, doubled or foreign; the trial's directory is kept.
        """
        order = [*self.passes["run"]]
        early = sorted((point for point in points if point in order), key=order.index)
        late = [point for point in points if point not in order]  # only a resume passes them
        middle = len(early) // 2  # by then there is a session to resume
        turns = [*early[:middle], *late, *early[middle:]]
        passed = {point: self.times("run", point) if point in order else 1 for point in turns}
        kills = [Kill(point, max(1, passed[point] // (len(turns) + 1))) for point in turns]
        trial = self._new("-".join(map(str, kills)))
        self._finish(trial, _each(trial, kills), trial.run(kills[0]))
        return [str(kill.point) for kill in kills if kill not in trial.kills]

    def kill_at_random(self, seed: int, most: int = KILLS_OF_A_TRIAL) -> int:
        """Kill at random instants, again and again, then resume and check; returns how many kills hit.

        Raises:
            AssertionError: Something was lost, doubled or foreign; the trial's directory is kept.
        """
        trial = self._new(f"random-{seed}")
        kills = random_kills(seed, most, self.passes["run"].total())
        document = trial.run(next(kills, None))
        return self._finish(trial, kills, document)

    def _new(self, name: str) -> Trial:
        return Trial.from_template(self.scenario, self.directory / "template", self.directory / name)

    def _finish(self, trial: Trial, kills: Iterator[Kill] | list[Kill], document: dict[str, object] | None) -> int:
        further = iter(kills)
        while document is None or document["status"] == "paused":
            check_killed(trial, self.reference, killed=document is None)
            if document is None:
                trial.leave_strangers()
            else:
                trial.do_a_persons_part(document)
            document = trial.resume(next(further, None))
        check_finished(trial, document, self.reference)
        shutil.rmtree(trial.directory)
        return len(trial.kills)


def _once(trial: Trial, kill: Kill) -> Iterator[Kill]:
    """Yield a kill until one has hit: a session that waits for a person runs in several processes."""
    yield from _each(trial, [kill])


def _each(trial: Trial, kills: Iterable[Kill]) -> Iterator[Kill]:
    """Yield each kill until it has hit."""
    for kill in kills:
        while kill not in trial.kills:
            yield kill


def _to_its_end(trial: Trial, document: dict[str, Any] | None, trace: Path) -> dict[str, Any]:
    """Do a person's part for as long as a session waits for it."""
    while document is not None and document["status"] == "paused":
        trial.do_a_persons_part(document)
        document = trial.resume(trace=trace)
    assert document is not None
    return document
