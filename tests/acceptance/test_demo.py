"""`orchestra demo`, as the first thing a new user types."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Workshop

pytestmark = pytest.mark.new_interpreter


def test_the_demo_reviews_its_repository_without_a_key(workshop: Workshop) -> None:
    done = workshop.cli("demo", cwd=workshop.home, TMPDIR=str(workshop.home))

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## Review: do not merge\n")
    assert "recorded replies (no model is called)" in done.stderr
    starts = [line for line in done.stderr.splitlines() if line.endswith("  starts")]
    assert sum("reviewer " in line for line in starts[:2]) == 2
    assert "security-reviewer (2)" in done.stderr
    place = re.search(r"^  cd (\S+)$", done.stderr, re.MULTILINE)
    following = re.findall(r"^  orchestra ((?:log|compile)[^#\n]*)", done.stderr, re.MULTILINE)
    assert place is not None
    assert len(following) == 3
    for command in following:
        tried = workshop.cli(*command.split(), cwd=Path(place[1]))
        assert (tried.returncode, bool(tried.stdout)) == (0, True), command


def test_the_demo_prints_one_document_with_json(workshop: Workshop) -> None:
    done = workshop.cli("demo", "--json", "-q", cwd=workshop.home, TMPDIR=str(workshop.home))
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (document["status"], document["pipeline"]) == ("completed", "pr-review")


def test_a_provider_without_its_key_is_named_before_anything_starts(workshop: Workshop) -> None:
    done = workshop.cli("demo", "--provider", "openai", cwd=workshop.home, TMPDIR=str(workshop.home))
    assert (done.returncode, done.stdout) == (2, "")
    assert "OPENAI_API_KEY" in done.stderr
