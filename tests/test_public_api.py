"""The names that users import: complete, sorted, lazy, and without side effects."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import orchestra
import orchestra.testing


def test_the_public_names_are_these_and_no_others() -> None:
    assert orchestra.__all__ == [
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
    assert dir(orchestra) == orchestra.__all__
    assert sorted(orchestra.__all__) == orchestra.__all__


@pytest.mark.parametrize("name", orchestra.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(orchestra, name)
    assert value == getattr(orchestra, name)
    assert name == "__version__" or value.__doc__


def test_the_testing_names_are_there() -> None:
    assert sorted(orchestra.testing.__all__) == orchestra.testing.__all__
    assert all(hasattr(orchestra.testing, name) for name in orchestra.testing.__all__)


def test_the_version_is_the_distributions() -> None:
    assert orchestra.__version__ == version("orchestra-agents")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'GraphCompilr'"):
        _ = orchestra.GraphCompilr


def test_importing_has_no_side_effects() -> None:
    """No output, no logging set up, no signal handlers, no threads, no files, nothing heavy."""
    code = """
import logging, os, signal, sys, threading
environment, directory = dict(os.environ), sorted(os.listdir())
import orchestra
assert dict(os.environ) == environment
assert sorted(os.listdir()) == directory
assert logging.getLogger().handlers == []
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert threading.active_count() == 1
assert not {"langgraph", "langchain", "langchain_core", "pydantic", "yaml", "typer", "asyncio"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
