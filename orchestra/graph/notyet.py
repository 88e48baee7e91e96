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
            message = "`sparse` has no effect in this release"
            place = document.locate("workspace", "repos", name, "sparse", key=True)
            yield Problem("not-yet", message, place, severity="warning")
