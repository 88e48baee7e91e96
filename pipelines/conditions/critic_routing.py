"""Where the pull request review goes after the critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orchestra

REVIEWERS = ("security-reviewer", "architecture-reviewer")
OWN_LOOPS = 2
"""How often the critic may send back by itself; each time that a person rejects the review gives it one more."""


@orchestra.condition("critic-routing")
def critic_routing(state: Mapping[str, Any]) -> list[str]:
    """Send the named reviewers back to work; without any, go on to the synthesizer.

    A verdict that cannot be understood goes on as well: a review with an odd critique is worth more than none. So does
    a critic that has sent back often enough.
    """
    if not _may_send_back(state.get("turns", {})):
        return ["synthesizer"]
    verdict = state["agent_outputs"].get("critic")
    if not isinstance(verdict, Mapping) or verdict.get("verdict") != "revise":
        return ["synthesizer"]
    named = verdict.get("revise")
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list | tuple):
        named = []
    again = [reviewer for reviewer in REVIEWERS if reviewer in named]
    return again or ["synthesizer"]


def _may_send_back(turns: Mapping[str, int]) -> bool:
    """Tell whether the critic may still send back; its turns but the first are loops, or follow a rejection."""
    rejected = turns.get("synthesizer", 0)
    loops = turns.get("critic", 1) - 1 - rejected
    return loops < OWN_LOOPS + rejected
