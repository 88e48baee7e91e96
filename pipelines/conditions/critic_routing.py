"""Where the pull request review goes after the critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orchestra

REVIEWERS = ("security-reviewer", "architecture-reviewer")


@orchestra.condition("critic-routing")
def critic_routing(state: Mapping[str, Any]) -> list[str]:
    """Send the named reviewers back to work; without any, go on to the synthesizer.

    A verdict that cannot be understood goes on as well: a review with an odd critique is worth more than none.
    """
    verdict = state["agent_outputs"].get("critic")
    if not isinstance(verdict, Mapping) or verdict.get("verdict") != "revise":
        return ["synthesizer"]
    named = verdict.get("revise")
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list | tuple):
        named = []
    again = [reviewer for reviewer in REVIEWERS if reviewer in named]
    return again or ["synthesizer"]
