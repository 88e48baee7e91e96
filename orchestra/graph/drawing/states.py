"""How the state of a node looks: by a mark before its name, and by a colour; the words say it, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestra.graph.drawing.route import State

MARKS: dict[State, str] = {
    "done": "✓",
    "running": "▶",
    "waiting": "?",
    "failed": "✗",
    "interrupted": "!",
    "not-reached": "·",
}
PLAIN_MARKS: dict[State, str] = MARKS | {"done": "+", "running": ">", "failed": "x", "not-reached": "."}
"""In ASCII."""
COLOURS: dict[State, str] = {
    "done": "#1a7f37",
    "running": "#0969da",
    "waiting": "#9a6700",
    "failed": "#cf222e",
    "interrupted": "#9a6700",
    "not-reached": "#9aa4b0",
}
"""On a light ground."""
