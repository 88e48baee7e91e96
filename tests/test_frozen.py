"""A session's copy of its pipeline: what it takes along, and what it lets be."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import OrchestraError
from orchestra.runtime import frozen
from orchestra.runtime.store import find_session
from tests.session_support import agent, chain, run_and_kill, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

PIPELINE: dict[str, Any] = {
    "name": "chosen",
    "agents": {"one": agent(), "two": agent()},
    "conditions": "conditions",
    "graph": [
        {"from": "START", "to": "one"},
        {"from": "one", "to": ["two", "END"], "condition": "next"},
        {"from": "two", "to": "END"},
    ],
}
SCRIPT = {"one": [[says("1")]], "two": [[says("2")]]}
PLAIN = "import orchestra\n\n@orchestra.condition('next')\ndef choose(state):\n    return 'two'\n"
BIG = frozen.MAX_BYTES + 1


def copied(workshop: Workshop, session: str) -> set[str]:
    level = find_session(workshop.repo.path, session).pipeline / "0"
    return {str(path.relative_to(level)) for path in level.rglob("*") if path.is_file()}


def test_packages_beside_conditions_are_at_hand_on_a_resume(workshop: Workshop) -> None:
    files = {
        "conditions/next.py": PLAIN.replace("\n", "\nfrom frozen_helpers.deep import rules\n", 1).replace(
            "'two'", "rules.NEXT"
        ),
        "conditions/frozen_helpers/__init__.py": "",
        "conditions/frozen_helpers/deep/rules.py": "NEXT = 'two'\n",
    }
    path = workshop.pipeline(PIPELINE, script=SCRIPT, files=files)
    killed = run_and_kill(workshop, path, "checkpoint-written:2")
    assert killed.session is not None
    assert not killed.finished
    shutil.rmtree(workshop.pipelines / "conditions")

    result = asyncio.run(workshop.resume(killed.session))

    assert result.agent_outputs == {"one": "1", "two": "2"}


async def test_what_is_no_file_or_too_large_is_let_be(workshop: Workshop) -> None:
    """Editors leave dangling links beside the file that they edit."""
    path = workshop.pipeline(PIPELINE, script=SCRIPT, files={"conditions/next.py": PLAIN})
    conditions, prompts = workshop.pipelines / "conditions", workshop.pipelines / "prompts" / "tasks"
    (conditions / ".#next.py").symlink_to("somebody@host.4711:1700000000")
    (conditions / "package").mkdir()
    os.mkfifo(conditions / "package" / "pipe.py")
    (conditions / "package" / "large.py").write_text("#" * BIG)
    (conditions / "package" / "round").symlink_to(conditions)
    (conditions / "package" / "out").symlink_to(workshop.home)
    (conditions / "package" / "out.py").symlink_to(workshop.home / "secret.py")
    (conditions / "__pycache__").mkdir()
    (conditions / ".venv").mkdir()
    for place in (workshop.home, conditions / "__pycache__", conditions / ".venv"):
        (place / "secret.py").write_text("")
    prompts.mkdir(parents=True)
    (prompts / "large.yaml").write_text("#" * BIG)
    (prompts / ".#task.yaml").symlink_to("somebody@host.4711:1700000000")

    result = await workshop.run(path)

    assert result.agent_outputs == {"one": "1", "two": "2"}
    assert copied(workshop, result.record.session_id) == {"pipeline.yaml", "script.yaml", "conditions/next.py"}


async def test_a_script_that_is_too_large_to_be_copied_is_refused(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workshop.pipeline({"name": "x", "agents": {"one": agent()}, "graph": chain("one")}, script=SCRIPT)
    monkeypatch.setattr(frozen, "MAX_BYTES", 10)

    with pytest.raises(OrchestraError, match=r"script\.yaml is larger than 10 bytes") as caught:
        await workshop.run(path)

    assert (caught.value.code, caught.value.exit_code) == ("file-too-large", 2)


@pytest.mark.parametrize("bound", ["MAX_SOURCES", "MAX_DIRECTORIES", "MAX_SOURCE_BYTES"])
def test_a_directory_of_very_many_files_is_not_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    for number in range(5):
        (tmp_path / f"deep{number}").mkdir()
        (tmp_path / f"deep{number}" / "module.py").write_text("#" * 10)
    (tmp_path / "near.py").write_text("#" * 10)
    monkeypatch.setattr(frozen, bound, 30 if bound == "MAX_SOURCE_BYTES" else 3)

    found = [str(path.relative_to(tmp_path)) for path in frozen._sources(tmp_path)]

    assert found == ["near.py", "deep0/module.py", "deep1/module.py"]
