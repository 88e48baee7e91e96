"""Orchestra's tools as LangChain's: declared by their JSON Schema, called with the turn."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.tools import BaseTool
from pydantic import Field

from orchestra.agents.outputs import OUTPUT_TOOL, OutputSpec
from orchestra.tools.wire import wire_name


class AgentTool(BaseTool):
    """A tool under its wire name; its result travels as the artifact of LangChain's tool message."""

    tool: Any = Field(exclude=True, repr=False)
    """The `Tool`."""
    turn: Any = Field(exclude=True, repr=False)
    """The `Turn` that it works in."""
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"

    @classmethod
    def of(cls, tool: Any, turn: Any) -> AgentTool:
        """Wrap a tool for a turn."""
        return cls(
            name=wire_name(tool.name),
            description=tool.description,
            args_schema=dict(tool.parameters),
            tool=tool,
            turn=turn,
        )

    def _run(self, /, **_: Any) -> Any:
        raise NotImplementedError("tools run asynchronously")

    async def _arun(self, /, **args: Any) -> tuple[str, Any]:
        result = await self.tool.invoke(args, self.turn)
        return result.content, result


class OutputTool(BaseTool):
    """The tool by which a model hands in its answer; the turn's middleware answers its calls, it never runs."""

    @classmethod
    def of(cls, output: OutputSpec) -> OutputTool:
        """Declare the tool for an output."""
        purpose = output.schema.get("description") or ""
        return cls(
            name=OUTPUT_TOOL,
            description=f"Hand in your final answer, once, when your work is done. {purpose}".strip(),
            args_schema=output.wire_schema,
        )

    def _run(self, **_: Any) -> Any:
        raise NotImplementedError("answered by the turn's middleware")
