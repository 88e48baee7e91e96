"""Orchestra: teams of agents over your git repositories, from one YAML file.

The names below load what they need when they are first used, so that `import orchestra` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestra.errors import OrchestraError, PipelineError
    from orchestra.graph.compiler import GraphCompiler
    from orchestra.graph.conditions import condition
    from orchestra.runtime.pictures import draw
    from orchestra.runtime.session import SessionManager
    from orchestra.tools.registry import RepoContext, tool_registry

__all__ = [
    "GraphCompiler",
    "OrchestraError",
    "PipelineError",
    "RepoContext",
    "SessionManager",
    "__version__",
    "condition",
    "draw",
    "tool_registry",
]

_HOMES = {
    "GraphCompiler": "orchestra.graph.compiler",
    "OrchestraError": "orchestra.errors",
    "PipelineError": "orchestra.errors",
    "RepoContext": "orchestra.tools.registry",
    "SessionManager": "orchestra.runtime.session",
    "condition": "orchestra.graph.conditions",
    "draw": "orchestra.runtime.pictures",
    "tool_registry": "orchestra.tools.registry",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("orchestra-agents")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'orchestra' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
