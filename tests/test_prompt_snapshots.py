"""The prompts of every shipped agent, and of the fixture's, as they are sent.

After an intended change run `ORCHESTRA_UPDATE_SNAPSHOTS=1 pytest tests/test_prompt_snapshots.py` and read the diff.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from orchestra.documents import read_document
from orchestra.graph.loader import load_pipeline
from orchestra.prompts.composer import ComposedPrompt, Layers, PromptComposer
from orchestra.prompts.discovery import FileDiscovery

UPDATE = "ORCHESTRA_UPDATE_SNAPSHOTS"
ROOT = Path(__file__).parent.parent
SNAPSHOTS = Path(__file__).parent / "prompt_snapshots"
PIPELINES = {
    "shipped": ROOT / "pipelines" / "pr-review.yaml",
    "fixture": ROOT / "tests" / "fixtures" / "pr-review.yaml",
}
AGENTS = ("security-reviewer", "architecture-reviewer", "critic", "synthesizer")
KNOWN = {"inputs", "base", "turn", "agent_outputs", "metadata", "messages"}

FIRST: dict[str, Any] = {"inputs": {"base": ""}, "base": "", "turn": 1, "agent_outputs": {}, "metadata": {}}
SECOND: dict[str, Any] = {
    **FIRST,
    "inputs": {"base": "origin/main"},
    "turn": 2,
    "agent_outputs": {
        "security-reviewer": "The security report of turn 1.",
        "architecture-reviewer": "The architecture report of turn 1.",
        "critic": {"verdict": "revise", "revise": ["security-reviewer"], "why": "The objections of turn 1."},
    },
}
REJECTED: dict[str, Any] = {
    **SECOND,
    "agent_outputs": {
        **SECOND["agent_outputs"],
        "synthesizer": {"decision": "reject", "reason": "Is 2 real?", "text": "The review.", "commits": {}},
    },
}
STATES = {"turn1": FIRST, "turn2": SECOND, "rejected": REJECTED}


def states(pipeline: str, agent: str) -> list[str]:
    """Name the states in which an agent's prompt is recorded: only two of the shipped ones see a rejection."""
    sees = pipeline == "shipped" and agent in ("critic", "synthesizer")
    return [state for state in STATES if sees or state != "rejected"]


RECORDED = [(pipeline, agent, state) for pipeline in PIPELINES for agent in AGENTS for state in states(pipeline, agent)]


def composed(pipeline: str, agent: str) -> ComposedPrompt:
    path = PIPELINES[pipeline]
    section = read_document(path).value["agents"][agent]
    layers = Layers(*(section.get(kind) for kind in ("role", "persona", "personality", "task")))
    return PromptComposer(FileDiscovery(path.parent, user_dir=path.parent / "nobody")).compose(layers, agent=agent)


@pytest.mark.parametrize(("pipeline", "agent", "state"), RECORDED)
def test_the_composed_prompt_is_as_recorded(pipeline: str, agent: str, state: str) -> None:
    text = composed(pipeline, agent).render(STATES[state]) + "\n"
    snapshot = SNAPSHOTS / f"{pipeline}.{agent}.{state}.md"
    if os.environ.get(UPDATE):
        snapshot.write_text(text, encoding="utf-8")
    assert text == snapshot.read_text(encoding="utf-8")


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_tasks_use_only_names_that_are_there(pipeline: str, agent: str) -> None:
    assert composed(pipeline, agent).check(KNOWN) == []


def test_every_snapshot_belongs_to_an_agent() -> None:
    assert {path.name for path in SNAPSHOTS.iterdir()} == {".".join((*parts, "md")) for parts in RECORDED}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_pipelines_load_without_a_warning(pipeline: str) -> None:
    assert load_pipeline(PIPELINES[pipeline]).warnings == ()


def test_a_rejection_without_a_reason_is_told_as_such() -> None:
    outputs = REJECTED["agent_outputs"]
    wordless = {**REJECTED, "agent_outputs": {**outputs, "synthesizer": {**outputs["synthesizer"], "reason": None}}}
    for agent in ("critic", "synthesizer"):
        assert "Is 2 real?" in composed("shipped", agent).render(REJECTED)
        text = composed("shipped", agent).render(wordless)
        assert "They gave no reason" in text
        assert "<reason>" not in text


def test_a_base_reaches_the_prompts() -> None:
    for agent in ("security-reviewer", "architecture-reviewer", "critic"):
        assert "passing `base` = `origin/main`" in composed("shipped", agent).render(SECOND)
        assert "passing" not in composed("shipped", agent).render(FIRST)


DEMO = ROOT / "pipelines" / "demo"


def demo_lines(path: str) -> list[str]:
    file = DEMO / "feature" / path
    return (file if file.exists() else DEMO / "main" / path).read_text(encoding="utf-8").splitlines()


def recorded_texts(*agents: str) -> list[str]:
    script = read_document(ROOT / "pipelines" / "scripts" / "pr-review.yaml").value["agents"]
    replies = [reply for agent in agents or script for turn in script[agent] for reply in turn]
    return [reply["text"] if "text" in reply else reply["output"]["why"] for reply in replies]


def test_the_recorded_review_quotes_true_lines_of_the_demo() -> None:
    quotes = [found for text in recorded_texts() for found in re.findall(r"Where: `([^`:]+):(\d+)`: `([^`]+)`", text)]
    assert len(quotes) >= 9
    for path, line, quote in quotes:
        pattern = re.escape(quote).replace("…", ".*")
        assert re.fullmatch(pattern, demo_lines(path)[int(line) - 1].strip()), (path, line)


def test_every_place_that_the_recording_names_is_there() -> None:
    places = [found for text in recorded_texts() for found in re.findall(r"\b((?:app|tests)/\w+\.py):(\d+)", text)]
    assert len(places) >= 20
    for path, line in places:
        assert demo_lines(path)[int(line) - 1].strip(), (path, line)


def test_the_recording_names_every_planted_fault() -> None:
    reviews = [text for text in recorded_texts("synthesizer") if "## Review" in text]
    assert len(reviews) >= 16
    for review in reviews:
        for place in ("app/db.py:28", "app/config.py:7", "app/backup.py:12", "app/models.py:22", "app/models.py:6"):
            assert f"`{place}`" in review


def test_a_person_may_ask_three_questions_a_turn_and_reject_three_times() -> None:
    script = read_document(ROOT / "pipelines" / "scripts" / "pr-review.yaml").value["agents"]
    spoken = [[reply for reply in turn if "tools" not in reply] for turn in script["synthesizer"]]
    assert len(spoken) == 1 + 3
    assert min(map(len, spoken)) >= 1 + 3
    for turn in spoken[1:]:
        assert turn[0]["text"].startswith("## What changed\n")
    answers = [reply["text"] for turn in spoken for reply in turn[1:]]
    assert all("recorded" in answer or "recording" in answer for answer in answers)
