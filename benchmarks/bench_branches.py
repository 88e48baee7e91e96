"""Uneven branches against their critical path, and against plain LangGraph without subgraphs.

Two branches of three agents, whose models take scripted times, run as a whole session with its checkpoints and events;
the same times as plain LangGraph nodes with its own SQLite saver. Then the same with agents that write a file each to
one repository, so that every branch has a worktree and the join merges them, up to the start of the agent behind the
join. Prints ratios, taken in the same run, in turns: `uv run python benchmarks/bench_branches.py [ROUNDS] [FILES]`.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import yaml
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from orchestra.graph.inputs import read_inputs
from orchestra.graph.project import find_project
from orchestra.graph.resolve import load_and_resolve
from orchestra.runtime.session import SessionManager
from orchestra.testing import git_repo, write_script

if TYPE_CHECKING:
    from orchestra.runtime.observability import Event

BRANCHES = {"a": (0.8, 4.0, 0.8), "b": (4.0, 0.8, 0.8)}
"""Branch → what the models of its agents take, in seconds."""
CRITICAL = max(map(sum, BRANCHES.values()))
CHAINS = {branch: [f"{branch}{place}" for place in range(1, len(times) + 1)] for branch, times in BRANCHES.items()}
DELAYS = {name: delay for branch, times in BRANCHES.items() for name, delay in zip(CHAINS[branch], times, strict=True)}
ENTRIES, EXITS = [chain[0] for chain in CHAINS.values()], [chain[-1] for chain in CHAINS.values()]


class State(TypedDict):
    done: Annotated[list[str], operator.add]


async def flat(directory: Path) -> float:
    """Seconds that plain LangGraph takes, one node an agent and its own list edge as the join."""
    graph = StateGraph(State)

    def node(name: str, delay: float) -> None:
        async def run(_: State) -> dict[str, Any]:
            await asyncio.sleep(delay)
            return {"done": [name]}

        action: Any = run
        graph.add_node(name, action)

    for name, delay in DELAYS.items():
        node(name, delay)
    node("end", 0)
    for chain in CHAINS.values():
        graph.add_edge(START, chain[0])
        for one, other in pairwise(chain):
            graph.add_edge(one, other)
    graph.add_edge(EXITS, "end")
    graph.add_edge("end", END)
    async with AsyncSqliteSaver.from_conn_string(str(directory / "flat.db")) as saver:
        await saver.setup()
        compiled = graph.compile(checkpointer=saver)
        began = time.perf_counter()
        await compiled.ainvoke({"done": []}, {"configurable": {"thread_id": "t"}}, durability="sync")
        return time.perf_counter() - began


def lay_out(directory: Path, files: int, *, writing: bool) -> Path:
    """Make a repository and the pipeline; returns the pipeline's file."""
    git_repo(directory / "app", {f"d{number % 100}/f{number}.txt": f"{number}\n" * 20 for number in range(files)})

    def turn(name: str, delay: float) -> list[dict[str, Any]]:
        call = {"name": "write-file", "args": {"path": f"new/{name}.txt", "content": name}}
        return [*([{"tools": [call]}] if writing else []), {"text": name, "delay": delay}]

    script = {name: [turn(name, delay)] for name, delay in DELAYS.items()}
    more = {"tools": ["write-file"]} if writing else {}
    write_script(directory / "script.yaml", {**script, "end": [[{"text": "end"}]]})
    graph = [{"from": "START", "to": ENTRIES}]
    graph += [{"from": one, "to": other} for chain in CHAINS.values() for one, other in pairwise(chain)]
    graph += [{"from": EXITS, "to": "end"}, {"from": "end", "to": "END"}]
    pipeline = {
        "name": "uneven",
        "providers": {"default": "offline", "offline": {"type": "scripted", "script": "script.yaml"}},
        "agents": {name: {"task": {"template": "Work."}, "model": "m", **more} for name in (*DELAYS, "end")},
        "graph": graph,
    }
    path = directory / "pipeline.yaml"
    path.write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    return path


async def session(path: Path) -> float:
    """Seconds from the first checkpoint, where nothing has begun, to the start of the agent behind the join."""
    moments: list[float] = []

    def listen(event: Event) -> None:
        if event.type == "turn_started" or (event.type == "checkpoint" and not moments):
            moments.append(time.perf_counter())

    root = path.parent / "app"
    project = find_project(root)
    pipeline = load_and_resolve(path, project, repos={}, cwd=root)
    result = await SessionManager(project, listen).start(pipeline, read_inputs(pipeline, {}), settings={})
    assert result.record.status == "completed", result.record.error
    return moments[-1] - moments[0]


async def measure(rounds: int, files: int) -> dict[str, Any]:
    took: dict[str, list[float]] = {"flat_langgraph": [], "orchestra": [], "orchestra_writers": []}
    with tempfile.TemporaryDirectory() as name:
        paths = {}
        for way, writing in (("orchestra", False), ("orchestra_writers", True)):
            (Path(name) / way).mkdir()
            paths[way] = lay_out(Path(name) / way, files, writing=writing)
        await session(paths["orchestra_writers"])  # imports and caches
        for number in range(rounds):
            place = Path(name) / f"flat-{number}"
            place.mkdir()
            took["flat_langgraph"].append(await flat(place))
            for way, path in paths.items():
                took[way].append(await session(path))
    return {
        "critical_path_s": CRITICAL,
        "files": files,
        "load": round(os.getloadavg()[0], 1),
        **{
            way: {
                "median_s": round(statistics.median(values), 3),
                "to_critical_path": round(statistics.median(values) / CRITICAL, 3),
                "rounds_s": [round(value, 3) for value in values],
            }
            for way, values in took.items()
        },
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    files = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    print(json.dumps(asyncio.run(measure(rounds, files)), indent=2))


if __name__ == "__main__":
    main()
