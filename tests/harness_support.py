"""A turn that records, tools that leave traces, and a program that a test can kill in the middle of a turn."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from orchestra.agents.harness import AgentHarness, TurnResult
from orchestra.agents.providers import ModelRef, ProviderConfig, ProviderResolver
from orchestra.prompts.composer import ComposedPrompt
from orchestra.testing import write_script
from orchestra.tools.base import RepoContext, Tool, ToolContext, ToolResult, failed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from orchestra.agents.context import Snapshot, TurnFailed
    from orchestra.agents.conversation import Question
    from orchestra.agents.outputs import OutputSpec

Replies = list[list[dict[str, Any]]]


class RecordingTurn:
    """A turn of the agent `fixer` in a workspace without repos; everything that reaches it is kept."""

    def __init__(self, *, number: int = 1, attempt: int = 1, log: Path | None = None) -> None:
        self.agent = "fixer"
        self.number = number
        self.attempt = attempt
        self.events: list[dict[str, Any]] = []
        self.snapshots = 0
        self.calls: list[tuple[str, float]] = []
        self.failures: list[TurnFailed] = []
        self.patience = 0
        """How often `model_failed` asks for the call to be made again."""
        self.before_call: Callable[[], None] = lambda: None
        self._log = log

    @property
    def repos(self) -> tuple[str, ...]:
        return ()

    @property
    def start(self) -> Snapshot:
        return {}

    async def repo(self, name: str) -> RepoContext:
        raise AssertionError(name)

    def emit(self, type: str, **payload: Any) -> None:  # noqa: A002
        event = {"type": type, **json.loads(json.dumps(payload))}
        self.events.append(event)
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(json.dumps(event) + "\n")

    def of(self, type: str) -> list[dict[str, Any]]:  # noqa: A002
        return [event for event in self.events if event["type"] == type]

    async def after_tool(self) -> Snapshot:
        tool = self.of("tool_ended")[-1]["tool"]
        self.snapshots += 1
        return {"_session": {"repo": {"commit": f"after {tool}", "n": self.snapshots}}}

    @asynccontextmanager
    async def call(self, kind: str, *, after: float = 0.0) -> AsyncIterator[None]:
        self.calls.append((kind, after))
        await asyncio.sleep(after)
        yield

    def check_budget(self) -> None:
        self.before_call()

    async def model_failed(self, error: TurnFailed) -> bool:
        self.failures.append(error)
        return len(self.failures) <= self.patience

    async def is_heard(self, question: str) -> bool:
        raise AssertionError(question)

    async def ask(self, question: Question, decided: Mapping[str, Any] | None) -> str | None:
        raise AssertionError(question, decided)

    async def rewind(self, snapshot: Snapshot) -> Snapshot:
        raise AssertionError(snapshot)

    async def finish(self, messages: Mapping[str, str]) -> Snapshot:
        raise AssertionError(messages)

    async def failed(self, error: TurnFailed) -> bool:
        raise AssertionError(error)


def make_tool(name: str, run: Callable[[Mapping[str, Any]], Any], *, writes: bool = False) -> Tool:
    """Make a tool of an async function of its arguments that returns a text, or None for a failure."""

    async def invoke(args: Mapping[str, Any], _: ToolContext) -> ToolResult:
        text = await run(args)
        return failed("it failed") if text is None else ToolResult(ok=True, content=text, value=text)

    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": False}
    return Tool(name, f"The tool {name}.", schema, invoke, writes=writes)


def echo_tool(name: str = "repo:echo", *, writes: bool = False) -> Tool:
    async def run(args: Mapping[str, Any]) -> str:
        return f"echo {args.get('text', '')}"

    return make_tool(name, run, writes=writes)


def make_harness(
    directory: Path, turns: Replies, *, tools: tuple[Tool, ...] = (), output: OutputSpec | None = None, **options: Any
) -> AgentHarness:
    script = write_script(directory / "script.yaml", {"fixer": turns})
    provider = ProviderConfig("offline", "scripted", script=script)
    prompt = ComposedPrompt(static="You fix things.", template="Fix {{ what }}.")
    resolver = ProviderResolver({"offline": provider}, "offline")
    return AgentHarness("fixer", prompt, tools, resolver, ModelRef(provider, "m"), output=output, **options)


class RootState(TypedDict, total=False):
    output: Any
    calls: int
    snapshot: dict[str, Any]


def make_graph(harness: AgentHarness, turn: RecordingTurn, saver: Any, after: Callable[[], None] = lambda: None) -> Any:
    """Compile a graph with the agent in its only node."""
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph import END, START, StateGraph

    async def fixer(state: RootState, config: RunnableConfig) -> RootState:
        result: TurnResult = await harness.run(
            variables={"what": "it"}, context="The inputs: none.", turn=turn, config=config
        )
        after()
        return {"output": result.output, "calls": result.calls, "snapshot": result.snapshot}

    fixer.__annotations__ = {"state": RootState, "config": RunnableConfig, "return": RootState}
    graph = StateGraph(RootState)
    graph.add_node("fixer", fixer)
    graph.add_edge(START, "fixer")
    graph.add_edge("fixer", END)
    return graph.compile(checkpointer=saver)


KILLED_TURN: Replies = [
    [
        {"tools": [{"name": f"repo:{name}"} for name in ("first", "second", "deadly", "last")]},
        {"tools": [{"name": "repo:first"}]},
        {"text": "Done."},
    ]
]


def die(directory: Path) -> None:
    """Kill this process as `kill -9` does, once."""
    marker = directory / "killed"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


async def wait_for_writes(database: Path, count: int) -> None:
    """Wait until the results of `count` tool calls are in the database."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as reader:
        query = (
            "select count(distinct task_id) from writes where channel = 'snapshot' and checkpoint_ns like 'fixer:%'"
            " and checkpoint_id = (select max(checkpoint_id) from writes where checkpoint_ns like 'fixer:%')"
        )  # the turn's input is such a write, too, to an earlier checkpoint
        while reader.execute(query).fetchone()[0] < count:  # noqa: ASYNC110 - another connection tells no one
            await asyncio.sleep(0.01)


async def main(directory: Path, moment: str) -> None:
    """Run the killed turn, or go on with it; it dies once, at the named moment."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    def trace(name: str) -> Tool:
        async def run(_: Mapping[str, Any]) -> str:
            if name == "deadly" and moment == "tool":
                await wait_for_writes(directory / "session.db", 2)
                die(directory)
            with (directory / "tools").open("a") as file:
                file.write(f"{name}\n")
            return name

        return make_tool(f"repo:{name}", run, writes=True)

    turn = RecordingTurn(log=directory / "events")
    if moment == "model":
        turn.before_call = lambda: die(directory) if turn.of("tool_ended") else None
    tools = tuple(trace(name) for name in ("first", "second", "deadly", "last"))
    harness = make_harness(directory, KILLED_TURN, tools=tools, max_calls=3)
    config = {"configurable": {"thread_id": "t"}}
    async with AsyncSqliteSaver.from_conn_string(str(directory / "session.db")) as saver:
        after = (lambda: die(directory)) if moment == "end" else (lambda: None)
        graph = make_graph(harness, turn, saver, after)
        first: dict[str, Any] | None = None if (directory / "killed").exists() else {"calls": 0}
        if first is None:
            turn.snapshots = 10  # `n` of a real turn goes on from the snapshots that are there
        state = await graph.ainvoke(first, config, durability="sync")
    (directory / "result").write_text(json.dumps(state))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
