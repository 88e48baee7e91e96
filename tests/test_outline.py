"""The outline of a graph: what pictures, live views and reports draw."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.graph.outline import Outline, OutlineEdge, outline
from tests.session_support import agent, chain, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

RICH: dict[str, Any] = {
    "name": "rich",
    "description": "All that a graph may have",
    "agents": {
        "plan": agent(),
        "left": agent(tools=["write-file"]),
        "right": agent(),
        "critic": agent(mode="interactive"),
        "last": agent(),
    },
    "steps": {"check": {"tool": "repo:check"}},
    "workspace": {
        "repos": {"repo": {"path": "../app"}},
        "tools": {"repo": {"check": {"command": "true", "writes": False}}},
    },
    "graph": [
        {"from": "START", "to": "plan"},
        {"from": "plan", "to": ["left", "right"]},
        {"from": "left", "to": "check"},
        {"from": ["check", "right"], "to": "critic"},
        {
            "from": "critic",
            "to": {"again": "plan", "once-more": "plan", "on": "last"},
            "condition": "choose",
            "max_loops": 2,
            "on_max_loops": "last",
        },
    ],
}
CHOOSE = """
import orchestra

@orchestra.condition("choose")
def choose(state):
    return "on"
"""


def rich(workshop: Workshop) -> Path:
    script = {name: [[says(name)]] for name in RICH["agents"]}
    return workshop.pipeline(RICH, script=script, files={"conditions/choose.py": CHOOSE})


def outline_of(workshop: Workshop, path: Path) -> Outline:
    from orchestra.graph.project import find_project
    from orchestra.graph.resolve import load_and_resolve

    return outline(load_and_resolve(path, find_project(workshop.repo.path), repos={}, cwd=workshop.repo.path))


def test_an_outline_has_each_node_once_with_what_it_is_and_may_write(workshop: Workshop) -> None:
    found = outline_of(workshop, rich(workshop))

    assert [node.name for node in found.nodes] == [
        *("START", "plan", "left", "right", "join.critic", "critic", "last", "check", "END")
    ]
    told = found.by_name
    assert [told[name].kind for name in ("START", "plan", "check", "join.critic", "END")] == [
        *("start", "agent", "step", "join", "end")
    ]
    assert (told["critic"].mode, told["join.critic"].mode, told["check"].tool) == ("interactive", "all", "repo:check")
    assert (told["left"].writes, told["right"].writes) == (("repo",), ())
    assert told["plan"].model == "offline/m"


def test_the_nodes_of_a_branch_name_it(workshop: Workshop) -> None:
    edges = [
        {"from": "START", "to": ["one", "other"]},
        {"from": "one", "to": "two"},
        {"from": ["two", "other"], "to": "last"},
    ]
    names = ("one", "two", "other", "last")
    path = workshop.pipeline({"name": "x", "agents": dict.fromkeys(names, agent()), "graph": edges}, script={})

    told = outline_of(workshop, path).by_name
    assert [told[name].branches for name in names] == [("one",), ("one",), ("other",), ()]


def test_the_arrows_of_an_outline_bear_labels_bounds_and_ways_on(workshop: Workshop) -> None:
    arrows = outline_of(workshop, rich(workshop)).edges

    assert [(arrow.source, arrow.target) for arrow in arrows] == [
        *(("START", "plan"), ("plan", "left"), ("plan", "right"), ("left", "check"), ("right", "join.critic")),
        *(("join.critic", "critic"), ("critic", "plan"), ("critic", "last"), ("last", "END"), ("check", "join.critic")),
    ]
    assert arrows[6] == OutlineEdge("critic", "plan", "choose", "again | once-more", max_loops=2, is_back=True)
    assert arrows[7] == OutlineEdge("critic", "last", "choose", "on")


def test_an_outline_is_read_as_it_was_written_and_nothing_else_is(workshop: Workshop) -> None:
    found = outline_of(workshop, rich(workshop))
    document = json.loads(json.dumps(found.as_json()))

    assert Outline.from_json(document) == found
    for wrong in ({}, {**document, "nodes": [*document["nodes"][:3], "… 3 more"]}, {**document, "nodes": []}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Outline.from_json(wrong)


async def test_a_session_tells_its_graph_when_it_starts(workshop: Workshop) -> None:
    pipeline = {"name": "x", "agents": {"one": agent()}, "graph": chain("one")}
    path = workshop.pipeline(pipeline, script={"one": [[says("1")]]})
    await workshop.run(path)

    assert Outline.from_json(workshop.events[0].payload["graph"]) == outline_of(workshop, path)
