"""A picture that shows itself: in a notebook as SVG, printed in characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestra.graph.drawing.route import Route
    from orchestra.graph.outline import Outline

VERSION = 1
"""Of the JSON document."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The graph of a pipeline, or of a session with the way that it has taken.

    In a notebook it shows itself; `print` shows it in characters.
    """

    outline: Outline
    route: Route | None = None

    def __str__(self) -> str:
        return self.ascii()

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return self.svg()

    def ascii(self, *, width: int = 80, unicode: bool = True) -> str:
        """Return it in characters, at most so many columns wide."""
        from orchestra.graph.drawing.ascii import render_ascii

        return render_ascii(self.outline, self.route, width=width, unicode=unicode)

    def svg(self) -> str:
        """Return it as an SVG element."""
        from orchestra.graph.drawing.svg import render_svg

        return render_svg(self.outline, self.route)

    def mermaid(self) -> str:
        """Return it as a Mermaid flowchart."""
        from orchestra.graph.drawing.mermaid import render_mermaid

        return render_mermaid(self.outline, self.route)

    def dot(self) -> str:
        """Return it in Graphviz' language."""
        from orchestra.graph.drawing.dot import render_dot

        return render_dot(self.outline, self.route)

    def as_json(self) -> dict[str, Any]:
        """Return the document of `orchestra graph --format json`."""
        document = {"version": VERSION, **self.outline.as_json()}
        return document if self.route is None else {**document, "route": self.route.as_json(self.outline)}
