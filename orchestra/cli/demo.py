"""`orchestra demo`: the shipped PR review on a small repository with real faults, without a key."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from orchestra.cli.displays import Display, choose
from orchestra.cli.options import DisplayOption, JsonOption, ProviderOption, QuietOption
from orchestra.cli.place import enter


def demo_command(
    provider: ProviderOption = None,
    display: DisplayOption = Display.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Review a small repository that holds real faults, with recorded replies: no key, no server.

    With --provider anthropic (or openai, ...) the same runs with a real model.

    Example: orchestra demo
    """
    shown = choose(display, quiet=quiet)
    is_told = shown not in (Display.QUIET, Display.JSON)
    provider = provider or "offline"
    _check(provider)
    from orchestra.runtime.demo_repository import FEATURE

    repository = make_repository()
    recorded = provider == "offline"
    if is_told:
        how = "with recorded replies (no model is called)" if recorded else f"with {provider}"
        sys.stderr.write(f"The demo repository is {repository}; its branch {FEATURE} is reviewed {how}.\n\n")
    enter(repository)
    from orchestra.cli.run import run

    result = run("pr-review", provider=provider, json=json, display=shown)
    if is_told:
        session = result.record.session_id
        sys.stderr.write(
            f"\nTry next:\n"
            f"  cd {repository}\n"
            f"  orchestra log {session}            # its checkpoints, each with the commits it saw\n"
            f"  orchestra log {session} --events   # everything that happened\n"
            f"  orchestra compile pr-review        # what the pipeline means\n"
            f"  orchestra demo --provider anthropic  # the same with a real model\n"
            f"  cd your-repo && orchestra run pr-review\n"
        )


def _check(provider: str) -> None:
    """Find a wrong provider or a missing key before anything is made."""
    from orchestra.errors import PipelineError
    from orchestra.graph.project import Project, shipped_pipelines
    from orchestra.graph.resolve import load_and_resolve

    nowhere = Path(tempfile.gettempdir())
    path = shipped_pipelines()["pr-review"]
    resolved = load_and_resolve(path, Project(nowhere), provider=provider, repos={"repo": nowhere}, cwd=nowhere)
    if resolved.model_problems:
        raise PipelineError.of(resolved.model_problems)


def make_repository() -> Path:
    """Make the demo's repository in a temporary directory."""
    import asyncio

    from orchestra.graph.project import shipped_pipelines
    from orchestra.runtime.demo_repository import make_demo_repository

    top = Path(tempfile.mkdtemp(prefix="orchestra-demo-"))
    asyncio.run(make_demo_repository(shipped_pipelines()["pr-review"].parent / "demo", top))
    return top
