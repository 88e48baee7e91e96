"""`orchestra compile`: check a pipeline and show what it means, without running it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestra.cli.options import JsonOption, ProviderOption, RepoOption, print_json, print_warnings, read_repos_given
from orchestra.errors import PipelineError, Problem

if TYPE_CHECKING:
    from orchestra.graph.resolved import Node, ResolvedPipeline


def compile_command(
    pipeline: Annotated[str, typer.Argument(help="A pipeline file, or the name of a pipeline.")],
    repo: RepoOption = None,
    provider: ProviderOption = None,
    json: JsonOption = False,
) -> None:
    """Check a pipeline: the file, its prompts, tools, models, conditions and graph.

    Example: orchestra compile pr-review
    """
    from orchestra.graph.project import find_project
    from orchestra.graph.resolve import load_and_resolve

    cwd = Path.cwd()
    try:
        project = find_project(cwd)
        path = project.find_pipeline(pipeline, cwd)
        resolved = load_and_resolve(path, project, provider=provider, repos=read_repos_given(repo), cwd=cwd)
    except PipelineError as error:
        if not json:
            raise
        print_json({"valid": False, "problems": [problem_json(problem) for problem in error.problems]})
        raise typer.Exit(error.exit_code) from None
    warnings = [*resolved.warnings, *(dataclasses.replace(p, severity="warning") for p in resolved.model_problems)]
    if json:
        print_json({"valid": True, **describe(resolved), "problems": [problem_json(p) for p in warnings]})
        return
    print_warnings(warnings)
    sys.stdout.write(as_text(describe(resolved)))


def problem_json(problem: Problem) -> dict[str, Any]:
    """Return a problem as JSON."""
    place = problem.location
    return {
        "severity": problem.severity,
        "code": problem.code,
        "message": problem.message,
        "hint": problem.hint,
        "file": str(place.path) if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
    }


def describe(resolved: ResolvedPipeline) -> dict[str, Any]:
    """Return what a pipeline means: agents with model and tools, steps, edges, joins, loops."""
    pipeline = resolved.pipeline
    return {
        "pipeline": pipeline.name,
        "file": str(resolved.document.path),
        "description": pipeline.description,
        "inputs": {
            name: {
                "type": spec.type,
                "required": spec.required,
                "default": spec.default,
                "description": spec.description,
            }
            for name, spec in pipeline.inputs.items()
        },
        "repos": {name: str(path) for name, path in resolved.repo_paths.items()},
        "agents": {
            name: {
                "provider": agent.model.provider.name,
                "model": agent.model.model,
                "alias": agent.model.alias,
                "mode": agent.spec.mode,
                "structured_output": agent.output is not None,
                **_tools(agent),
            }
            for name, agent in resolved.agents.items()
        },
        "steps": {name: _tools(step) for name, step in resolved.steps.items()},
        "edges": [
            {
                "from": edge.source,
                "to": list(edge.targets),
                "condition": edge.condition,
                "labels": dict(edge.labels) if edge.condition and set(edge.labels) != set(edge.targets) else None,
                "max_loops": edge.max_loops,
                "loop_targets": sorted(edge.loop_targets) if edge.max_loops is not None else [],
                "on_max_loops": edge.on_max_loops if edge.max_loops is not None else None,
            }
            for leaving in resolved.topology.edges.values()
            for edge in leaving
        ],
        "joins": {
            name: {"from": list(join.sources), "mode": join.mode} for name, join in resolved.topology.joins.items()
        },
    }


def _tools(node: Node) -> dict[str, Any]:
    return {"tools": [tool.name for tool in node.tools], "writes": list(node.writes)}


def as_text(shown: dict[str, Any]) -> str:
    """Render what a pipeline means for people."""
    lines = [f"{shown['pipeline']}: {shown['description'] or 'a valid pipeline'}", f"  {shown['file']}", ""]
    for name, agent in shown["agents"].items():
        alias = f" ({agent['alias']})" if agent["alias"] and agent["alias"] != agent["model"] else ""
        lines.append(f"agent {name}: {agent['provider']}:{agent['model']}{alias}")
        lines += _tool_lines(agent)
    for name, step in shown["steps"].items():
        lines.append(f"step {name}")
        lines += _tool_lines(step)
    lines.append("")
    for edge in shown["edges"]:
        lines.append(_edge_line(edge, shown["joins"]))
    for name, spec in shown["inputs"].items():
        needed = "required" if spec["required"] else f"default {spec['default']!r}"
        about = f": {spec['description']}" if spec["description"] else ""
        lines.append(f"input {name} ({spec['type']}, {needed}){about}")
    return "\n".join(lines) + "\n"


def _tool_lines(node: dict[str, Any]) -> list[str]:
    lines = [f"  tools: {', '.join(node['tools']) or 'none'}"]
    if node["writes"]:
        lines.append(f"  writes: {', '.join(node['writes'])}")
    return lines


def _edge_line(edge: dict[str, Any], joins: dict[str, Any]) -> str:
    source = edge["from"]
    if source in joins:
        join = joins[source]
        waits = "all" if join["mode"] == "all" else "any"
        source = f"[{', '.join(join['from'])}] ({waits})"
    line = f"{source} → {', '.join(edge['to'])}"
    if edge["condition"]:
        line += f"  if {edge['condition']}"
    if edge["max_loops"] is not None:
        line += f"  at most {edge['max_loops']} loops to {', '.join(edge['loop_targets'])}, then {edge['on_max_loops']}"
    return line
