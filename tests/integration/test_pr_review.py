"""The shipped pull request review: with recorded replies always, with a real model when `ORCHESTRA_REAL_LLM=1`.

The real model is of the first provider of the pipeline whose key is set. Without one it is `ORCHESTRA_REAL_LLM_MODEL`
(or `default`) of the OpenAI-compatible server at `ORCHESTRA_REAL_LLM_BASE_URL`, with `ORCHESTRA_REAL_LLM_API_KEY` where
that needs one. What is checked holds whatever the model says.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from orchestra.cli.demo import make_repository
from orchestra.runtime.event_log import read_events
from orchestra.runtime.store import find_session, read_checkpoints
from orchestra.testing import write_script
from tests.gitkit import fingerprint
from tests.preloaded import COMMAND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

REVIEWERS = {"security-reviewer", "architecture-reviewer"}
KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY", "openrouter": "OPENROUTER_API_KEY"}
BASE_URL = "ORCHESTRA_REAL_LLM_BASE_URL"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's repository, with its feature branch checked out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    repository = make_repository()
    (repository / ".git" / "info").mkdir()  # Orchestra may write `info/exclude`, as a template would have
    return repository


class Review:
    """A finished review of the demo repository, as its user and its log show it."""

    def __init__(self, repository: Path, *args: str, timeout: float = 110, **env: str) -> None:
        self.before = fingerprint(repository)
        done = subprocess.run(
            [str(COMMAND), "run", "pr-review", "--json", *args],
            cwd=repository,
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        self.repository = repository
        self.result: dict[str, Any] = json.loads(done.stdout)
        files = find_session(repository, self.result["session_id"])
        self.rows = read_checkpoints(files)
        self.events = list(read_events(files))

    @property
    def turns(self) -> list[tuple[str, int]]:
        """Every finished turn, in order."""
        return [(entry["agent"], entry["turn"]) for row in self.rows for entry in row["ended"]]

    @property
    def loops(self) -> int:
        return sum(agent == "critic" for agent, _ in self.turns) - 1

    def first(self, kind: str, agent: str) -> int:
        found: int = next(event["seq"] for event in self.events if event["type"] == kind and event["node"] == agent)
        return found

    def assert_right(self) -> None:
        """Check what holds whatever the model says."""
        assert self.result["status"] == "completed"
        assert set(self.result["agent_outputs"]) == {*REVIEWERS, "critic", "synthesizer"}
        # The reviewers are active together: each starts before the other has ended.
        assert max(self.first("turn_started", name) for name in REVIEWERS) < min(
            self.first("turn_ended", name) for name in REVIEWERS
        )
        assert 0 <= self.loops <= 2
        assert set(self.turns[:2]) == {(name, 1) for name in REVIEWERS}
        assert self.turns[-1] == ("synthesizer", 1)
        assert len(self.turns) == len(set(self.turns))
        review = self.result["agent_outputs"]["synthesizer"]
        assert (review["decision"], review["reason"]) == ("done", None)  # nobody was there
        assert review["text"].strip()
        assert review["commits"] == self.result["commits"]
        # Nobody writes: every checkpoint names the commit that the session began with, and nothing else is there.
        head = self.git("rev-parse", "HEAD")
        assert all(row["repos"] == {"repo": head} for row in self.rows)
        assert all(row["changed"] == [] for row in self.rows)
        assert self.rows[-1]["next"] == []
        assert self.result["checkpoints"] == len(self.rows)
        assert self.git("worktree", "list").count("\n") == 0
        assert fingerprint(self.repository) == self.before

    def git(self, *args: str) -> str:
        done = subprocess.run(["git", *args], cwd=self.repository, check=True, capture_output=True, text=True)
        return done.stdout.strip()


def add_provider(repository: Path, name: str, provider: Mapping[str, Any]) -> None:
    """Add a provider to the shipped pipeline by the project's `orchestra.yaml`, which git does not see."""
    (repository / "orchestra.yaml").write_text(yaml.safe_dump({"providers": {name: dict(provider)}}))
    (repository / ".git" / "info" / "exclude").write_text("orchestra.yaml\n")


def verdict(*revise: str) -> list[dict[str, Any]]:
    return [{"output": {"verdict": "revise" if revise else "approve", "revise": list(revise), "why": "Look again."}}]


def recorded(path: Path, critic: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Record a review in which only the critic's verdicts matter; returns the provider."""
    report = [{"text": "Nothing found."}]
    slow = [{"text": "Nothing found.", "delay": 0.3}]
    agents = {name: [slow, report, report] for name in REVIEWERS}
    write_script(path, agents | {"critic": list(critic), "synthesizer": [[{"text": "Merge it."}]]})
    return {"type": "scripted", "script": str(path)}


def test_the_recorded_review_of_the_demo_repository_is_right(demo: Path) -> None:
    review = Review(demo, "--provider", "offline")

    review.assert_right()
    assert review.loops == 1
    assert review.turns.count(("security-reviewer", 2)) == 1
    assert "Command injection" in review.result["agent_outputs"]["synthesizer"]["text"]
    assert review.result["usage"]["model_calls"] == 14


@pytest.mark.parametrize(
    ("verdicts", "had"),
    [
        ([verdict()], {"security-reviewer": 1, "architecture-reviewer": 1, "critic": 1}),
        (
            [verdict("architecture-reviewer"), verdict()],
            {"security-reviewer": 1, "architecture-reviewer": 2, "critic": 2},
        ),
        (
            [verdict(*sorted(REVIEWERS)), verdict("security-reviewer"), verdict()],
            {"security-reviewer": 3, "architecture-reviewer": 2, "critic": 3},
        ),
        (
            [verdict(*sorted(REVIEWERS))] * 3,
            {"security-reviewer": 3, "architecture-reviewer": 3, "critic": 3},
        ),
    ],
    ids=["no loop", "one of two sent back", "two loops", "the bound"],
)
def test_the_critic_sends_back_at_most_twice(
    verdicts: list[list[dict[str, Any]]], had: dict[str, int], demo: Path, tmp_path: Path
) -> None:
    add_provider(demo, "tested", recorded(tmp_path / "script.yaml", verdicts))

    review = Review(demo, "--provider", "tested")

    review.assert_right()
    agents = [agent for agent, _ in review.turns]
    assert {name: agents.count(name) for name in had} == had


def real_provider() -> tuple[str, dict[str, Any] | None]:
    """Choose the model: a provider of the pipeline, or a server that speaks OpenAI's protocol."""
    if BASE_URL in os.environ:
        model = os.environ.get("ORCHESTRA_REAL_LLM_MODEL", "default")
        provider = {
            "type": "openai",
            "api_base": os.environ[BASE_URL],
            "api_key_env": "ORCHESTRA_REAL_LLM_API_KEY",
            "models": dict.fromkeys(("smart", "worker", "cheap"), model),
            "timeout": 900,  # a small machine may think for minutes before it says the first word
        }
        return "real", provider
    for name, variable in KEYS.items():
        if os.environ.get(variable):
            return name, None
    pytest.fail(f"ORCHESTRA_REAL_LLM=1 needs one of {', '.join(KEYS.values())}, or {BASE_URL}")


@pytest.mark.skipif(os.environ.get("ORCHESTRA_REAL_LLM") != "1", reason="needs a real model: ORCHESTRA_REAL_LLM=1")
@pytest.mark.timeout(1800)
def test_a_real_model_reviews_the_demo_repository(demo: Path) -> None:
    name, provider = real_provider()
    env = {}
    if provider is not None:
        add_provider(demo, name, provider)
        env["ORCHESTRA_REAL_LLM_API_KEY"] = os.environ.get("ORCHESTRA_REAL_LLM_API_KEY") or "none"

    review = Review(demo, "--provider", name, timeout=1700, **env)

    review.assert_right()
    assert review.result["usage"]["model_calls"] >= 4
    assert review.result["usage"]["output_tokens"] > 0
