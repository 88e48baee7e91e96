"""Two sessions beside each other: what their agents said, which way they went, what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.runtime.event_log import Selection, read_events
from orchestra.runtime.history import decisions_of
from orchestra.runtime.outcome import read_outputs, read_result
from orchestra.runtime.spans import spans_of
from orchestra.runtime.store import read_checkpoints, read_session, read_turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestra.runtime.spans import Span
    from orchestra.runtime.store import SessionFiles, SessionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two sessions."""

    record: SessionRecord
    outputs: Mapping[str, Any]
    """Agent or step → its latest output."""
    commits: Mapping[str, str]
    """Repo → the commit with the session's result so far."""
    route: tuple[str, ...]
    """The turns in their order, with what was decided behind them; those at the same time in that of their names."""
    turns: int
    seconds: float
    """That turns took, also at the same time."""
    models: Mapping[str, tuple[str, ...]]
    """Agent → the models that have answered it, each as `PROVIDER:MODEL`."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of this side in `orchestra diff SESSION OTHER --json`."""
        return {
            "session_id": self.record.session_id,
            "pipeline": self.record.pipeline,
            "status": str(self.record.status),
            "turns": self.turns,
            "seconds": round(self.seconds, 3),
            "usage": self.record.usage,
            "models": {agent: list(models) for agent, models in self.models.items()},
            "route": list(self.route),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two sessions beside each other."""

    sides: tuple[Side, Side]

    @property
    def outputs(self) -> dict[str, tuple[Any, Any]]:
        """Agent or step → its output in both sessions; None where it has none."""
        first, second = (side.outputs for side in self.sides)
        return {name: (first.get(name), second.get(name)) for name in dict.fromkeys((*first, *second))}

    @property
    def changes(self) -> dict[str, tuple[str, str]]:
        """Repo → the commits with the results of both, of the repos that both have."""
        first, second = (side.commits for side in self.sides)
        return {repo: (commit, second[repo]) for repo, commit in first.items() if repo in second}


def compare(first: SessionFiles, second: SessionFiles) -> Comparison:
    """Put two sessions beside each other."""
    return Comparison(sides=(_side(first), _side(second)))


def _side(files: SessionFiles) -> Side:
    record, result = read_session(files), read_result(files)
    facts = read_turns(files)
    decisions = decisions_of(files)
    spans = list(spans_of(read_checkpoints(files)).values())
    return Side(
        record=record,
        outputs=read_outputs(files),
        commits={repo: result.get(repo, stored["base"]) for repo, stored in record.workspace.items()},
        route=tuple(_step(span, decisions) for span in _in_waves(spans)),
        turns=len(spans),
        seconds=sum(fact["duration_s"] or 0 for fact in facts),
        models=_models(files),
    )


def _models(files: SessionFiles) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for event in read_events(files, Selection(["model_ended"])):
        payload = event["payload"]
        found.setdefault(str(event["node"]), {})[f"{payload.get('provider')}:{payload.get('model')}"] = None
    return {agent: tuple(models) for agent, models in sorted(found.items())}


def _in_waves(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield turns in the order in which they began; those that overlap in that of their names.

    Which of several agents that work at the same time is the first is chance, and no difference.
    """
    wave: list[Span] = []
    last = -1
    for span in spans:
        if wave and span.began > last:
            yield from sorted(wave, key=lambda span: (span.agent, span.turn))
            wave = []
        wave.append(span)
        last = max(last, span.inside[-1] if span.ended is None else span.ended)
    yield from sorted(wave, key=lambda span: (span.agent, span.turn))


def _step(span: Span, decisions: Mapping[tuple[str, int], Iterable[str]]) -> str:
    said = ", ".join(decisions.get((span.agent, span.turn), ()))
    unfinished = "" if span.ended is not None else ", not ended"
    return f"{span.agent} (turn {span.turn}{unfinished})" + (f": {said}" if said else "")
