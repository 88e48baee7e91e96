"""The condition `human-decision`: an edge out of an interactive agent leads where a person has decided.

It comes with Orchestra, and unlike a user's it knows the edge at which it stands. So what it needs there is checked
when the pipeline is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestra.errors import Problem, did_you_mean
from orchestra.graph.conditions import Condition
from orchestra.graph.topology import END, START
from orchestra.graph.wording import shorten

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from orchestra.documents import Document
    from orchestra.errors import Location
    from orchestra.graph.schema import EdgeSpec, Pipeline

NAME = "human-decision"
APPROVE, REJECT, DONE = DECISIONS = ("approve", "reject", "done")


def human_decision(state: Mapping[str, Any], source: str, labels: Collection[str]) -> str:
    """Return the label of what was decided; a `done` without one says that nobody objects."""
    decision = str(state["agent_outputs"][source]["decision"])
    return APPROVE if decision == DONE and DONE not in labels else decision


HUMAN_DECISION = Condition(NAME, human_decision, Path(__file__), human_decision.__code__.co_firstlineno, of_edge=True)


def check_decision(
    edge: EdgeSpec, pipeline: Pipeline, document: Document, said: Collection[Location | None]
) -> Iterator[Problem]:
    """Yield what keeps an edge from being routed by a person's decision.

    Args:
        edge: An entry under `graph` with this condition.
        pipeline: Whose agents may be its source.
        document: The pipeline file.
        said: The places of what was reported already.
    """
    written = document.value["graph"][edge.index].get("to")
    if len(edge.sources) == 1:  # a list may have no condition at all
        yield from _source(edge, pipeline, document, said)
        yield from _absence(edge, written, pipeline, document)
    if isinstance(written, Mapping) and written:
        yield from _labels(edge, written, document)
    elif edge.targets:
        approved = END if END in edge.targets else edge.targets[-1]
        rejected = next((target for target in edge.targets if target != approved), "AGENT")
        yield Problem(
            "decision-without-labels",
            f"the condition {NAME!r} needs a label for each decision in 'to'",
            document.locate("graph", edge.index, "to", key=True),
            f"write to: {{{APPROVE}: {approved}, {REJECT}: {rejected}}}",
        )


def _source(
    edge: EdgeSpec, pipeline: Pipeline, document: Document, said: Collection[Location | None]
) -> Iterator[Problem]:
    (name,) = edge.sources
    agent = pipeline.agents.get(name)
    hint = "let it leave an agent with `mode: interactive`"
    if agent is not None:
        if agent.mode == "interactive" or _is_doubtful(name, document, said):
            return
        message, hint = f"nobody decides at {name!r}: the agent is autonomous", f"add `mode: interactive` to {name!r}"
    elif name in pipeline.steps:
        message = f"nobody decides at {name!r}: it is a step"
    elif name == START:
        message = "nobody has decided anything at START"
    else:
        return  # there is no such agent, or it could not be read
    yield Problem("decision-source", message, document.locate("graph", edge.index, "condition"), hint)


def _is_doubtful(name: str, document: Document, said: Collection[Location | None]) -> bool:
    """Tell whether a key of the agent is wrong: it may be the one that was to make it interactive."""
    keys = document.value["agents"][name]
    places = {document.locate("agents", name, key, key=at_key) for key in keys for at_key in (True, False)}
    return not places.isdisjoint(said)


def _labels(edge: EdgeSpec, written: Mapping[str, Any], document: Document) -> Iterator[Problem]:
    open_ways = [decision for decision in DECISIONS if decision not in written]
    for label in written:
        if label in DECISIONS:
            continue
        near = did_you_mean(label, open_ways)
        open_ways = [decision for decision in open_ways if not near or repr(decision) not in near]
        yield Problem(
            "unknown-decision",
            f"{shorten(label)!r} is nothing that a person can decide",
            document.locate("graph", edge.index, "to", label, key=True),
            near or f"the decisions are: {', '.join(DECISIONS)}",
        )
    for decision in open_ways:
        if decision != DONE:
            yield Problem(
                "missing-decision",
                f"'to' does not say where {decision!r} leads",
                document.locate("graph", edge.index, "to", key=True),
                f"add `{decision}: {END if decision == APPROVE else 'AGENT'}`",
            )


def _absence(edge: EdgeSpec, written: Any, pipeline: Pipeline, document: Document) -> Iterator[Problem]:
    """Say that what nobody has seen goes the way of what was approved."""
    (name,) = edge.sources
    agent = pipeline.agents.get(name)
    target = written.get(APPROVE) if isinstance(written, Mapping) and DONE not in written else None
    if agent is not None and (agent.mode, agent.when_absent) == ("interactive", "finish") and isinstance(target, str):
        yield Problem(
            "decision-when-absent",
            f"without a person {name!r} ends with {DONE!r}, which has no label here and goes the way of {APPROVE!r}",
            document.locate("graph", edge.index, "to", key=True),
            f"add `{DONE}: {target}` if that is meant, else where it shall lead",
            "warning",
        )
