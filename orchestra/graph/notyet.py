"""Keys that a pipeline file may hold and this release does not act on yet: said, never silently passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.documents import Document
    from orchestra.graph.schema import Pipeline


def not_yet(pipeline: Pipeline, document: Document) -> Iterator[Problem]:
    """Yield a warning for each key without effect in this release."""
    for name, repo in pipeline.workspace.repos.items():
        if repo.sparse:
            yield _warning("`sparse` has no effect in this release", document, "workspace", "repos", name, "sparse")
    for name, agent in pipeline.agents.items():
        if agent.mode == "interactive" and agent.when_absent == "pause":
            text = f"in this release nobody can talk with {name!r}: the session will pause at its first answer"
            yield _warning(text, document, "agents", name, "mode", hint="set `when_absent: finish`")


def _warning(message: str, document: Document, *loc: str | int, hint: str | None = None) -> Problem:
    return Problem("not-yet", message, document.locate(*loc, key=True), hint, "warning")
