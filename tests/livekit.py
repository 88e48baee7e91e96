"""What tests of the live view share: sessions told by made events, with a clock of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestra.cli.live.board import Board
from orchestra.runtime.observability import Event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START = 1_700_000_000.0
BRANCHES = {
    "security": ("security", "security-fix", "security-test"),
    "style": ("style", "style-fix", "style-test"),
    "docs": ("docs", "docs-fix", "docs-test"),
}
TWELVE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("planner", ()),
    *((name, (branch,)) for branch, names in BRANCHES.items() for name in names),
    ("merger", ()),
    ("reporter", ()),
)
"""Agents, each with the branches that it lies in."""


def graph(agents: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, Any]:
    """Return the outline of a graph, as the log has it."""
    nodes = [("START", "start", ()), *((name, "agent", around) for name, around in agents), ("END", "end", ())]
    return {
        "pipeline": "review",
        "description": "",
        "edges": [],
        "nodes": [
            {"name": name, "kind": kind, "branches": [*around], "writes": [], "mode": None, "model": None, "tool": None}
            for name, kind, around in nodes
        ],
    }


class Told:
    """A session, and the board that has been told of it."""

    def __init__(self, agents: Sequence[tuple[str, tuple[str, ...]]] | None = TWELVE) -> None:
        self.board = Board()
        self.events: list[Event] = []
        self.at = 0.0
        told = {} if agents is None else {"graph": graph(agents)}
        self.tell("session_started", session_id="7kq2mfzd", pipeline="review", file="review.yaml", **told)

    @property
    def now(self) -> float:
        return START + self.at

    def tell(self, kind: str, node: str | None = None, turn: int = 1, /, **payload: Any) -> Event:
        time = datetime.fromtimestamp(self.now, UTC).isoformat(timespec="microseconds")
        event = Event(len(self.events) + 1, time, kind, node, turn if node else None, 1, payload)
        self.events.append(event)
        self.board.take(event)
        return event

    def after(self, seconds: float) -> None:
        self.at += seconds

    def starts(self, *names: str, turn: int = 1) -> None:
        for name in names:
            self.tell("turn_started", name, turn, resumed=False)

    def calls(self, name: str, turn: int = 1, **more: Any) -> None:
        """Have an agent's model answer."""
        used: Mapping[str, Any] = {"input_tokens": 1_000, "output_tokens": 200, "cached_tokens": 0, "cost_usd": 0.01}
        self.tell("model_started", name, turn)
        self.tell("model_ended", name, turn, **{"provider": "p", "model": "m", **used, **more})

    def writes(self, name: str, text: str, turn: int = 1) -> None:
        self.tell("text_delta", name, turn, text=text, spoken=False)

    def ends(self, *names: str, turn: int = 1, chose: str | None = None) -> None:
        for name in names:
            if chose is not None:
                self.tell("condition_chose", name, turn, edge=name, targets=[chose])
            self.tell("turn_ended", name, turn, duration_s=1.0)

    def does(self, *names: str, turn: int = 1, chose: str | None = None) -> None:
        """Have agents do a turn each, one after the other."""
        for name in names:
            self.starts(name, turn=turn)
            self.after(2)
            self.calls(name, turn)
            self.ends(name, turn=turn, chose=chose)


def busy() -> Told:
    """Twelve agents in three branches, each of which stands elsewhere."""
    told = Told()
    told.does("planner")
    told.starts(*BRANCHES)
    told.tell("model_started", "security")
    told.calls("style", cost_usd=None)
    told.ends("style")
    told.starts("style-fix")
    told.tell("tool_started", "style-fix", tool="repo:shell", args={"command": "make check"}, call="1")
    told.tell("model_failed", "docs", error="RateLimitError", message="429", retry_in=6.0)
    told.after(3)
    told.writes("security", "I have read the change. ")
    told.writes("security", "平均値の計算に誤りがあります。\nI will \x1b[31mmend it.")
    return told
