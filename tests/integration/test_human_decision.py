"""Sessions routed by what a person decides: the loop after a rejection, and what the person sees when it comes back."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from orchestra.cli.demo import make_repository
from orchestra.documents import read_document
from orchestra.graph.project import find_project, shipped_pipelines
from orchestra.graph.resolve import load_and_resolve
from orchestra.runtime.asking import open_questions
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import find_session
from orchestra.testing import ScriptedPerson, write_script
from tests.session_support import agent, says, writes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestra.runtime.observability import Event
    from orchestra.runtime.result import SessionResult
    from tests.conftest import Workshop

PIPELINE: dict[str, Any] = {
    "name": "propose",
    "agents": {
        "fixer": agent("Fix it.", tools=["write-file"]),
        "reviewer": agent("Show it.", tools=["read-file"], mode="interactive"),
        "publisher": agent("Publish it."),
    },
    "graph": [
        {"from": "START", "to": "fixer"},
        {"from": "fixer", "to": "reviewer"},
        {
            "from": "reviewer",
            "to": {"approve": "publisher", "reject": "fixer"},
            "condition": "human-decision",
            "max_loops": 2,
        },
        {"from": "publisher", "to": "END"},
    ],
}
SCRIPT: dict[str, Any] = {
    "fixer": [[writes("app.py", f"x = {number}\n"), says(f"x is {number}.")] for number in (2, 3, 4)],
    "reviewer": [[says(f"Version {number}."), says("Because."), says("So.")] for number in (1, 2, 3)],
    "publisher": [[says("Published.")]],
}


def turns(workshop: Workshop, result: SessionResult) -> list[str]:
    rows = workshop.checkpoints(result.record.session_id)
    return [f"{entry['agent']}:{entry['turn']}" for row in rows for entry in row["ended"]]


def app(workshop: Workshop, commit: str) -> str:
    return workshop.repo.git("show", f"{commit}:app.py")


async def test_a_rejection_loops_back_and_an_approval_goes_on(workshop: Workshop) -> None:
    person = ScriptedPerson(["why 2?", "/reject make it 3", "/approve"])

    result = await workshop.run(workshop.pipeline(PIPELINE, script=SCRIPT), channels=[person])

    assert result.record.status == "completed", result.record.error
    assert turns(workshop, result) == ["fixer:1", "reviewer:1", "fixer:2", "reviewer:2", "publisher:1"]
    assert [question.text for question in person.asked] == ["Version 1.", "Because.", "Version 2."]
    decided = result.agent_outputs["reviewer"]
    assert (decided["decision"], decided["reason"], decided["text"]) == ("approve", None, "Version 2.")


async def test_the_person_is_asked_again_and_sees_what_has_changed_since(workshop: Workshop) -> None:
    person = ScriptedPerson(["/reject make it 3", "/diff", "/approve"])

    result = await workshop.run(workshop.pipeline(PIPELINE, script=SCRIPT), channels=[person])

    first, again, _ = person.asked
    assert first.since is None
    since = again.since
    assert since is not None
    assert (since.decision, since.reason, since.text) == ("reject", "make it 3", "Version 1.")
    assert since.turns == (("fixer", 2),)
    before, after = since.files.repos["repo"]
    assert (app(workshop, before), app(workshop, after)) == ("x = 2", "x = 3")
    (diff,) = person.told
    assert "-x = 2" in diff
    assert "+x = 3" in diff
    assert after == result.commits["repo"]


async def test_a_decision_names_the_commits_that_it_was_made_on(workshop: Workshop) -> None:
    pipeline = PIPELINE | {"agents": {**PIPELINE["agents"], "publisher": agent("Publish it.", tools=["write-file"])}}
    script = SCRIPT | {"publisher": [[writes("CHANGES", "x\n"), says("Published.")]]}

    result = await workshop.run(
        workshop.pipeline(pipeline, script=script), channels=[ScriptedPerson(["/reject no", "/approve yes"])]
    )

    approved = result.agent_outputs["reviewer"]["commits"]["repo"]
    assert app(workshop, approved) == "x = 3"
    assert approved != result.commits["repo"]  # the publisher's commit came later
    assert workshop.repo.git("rev-parse", f"{result.commits['repo']}^") == approved


async def test_after_max_loops_a_rejection_goes_on_and_is_told_as_one(workshop: Workshop) -> None:
    person = ScriptedPerson(["/reject 1", "/reject 2", "/reject 3"])

    result = await workshop.run(workshop.pipeline(PIPELINE, script=SCRIPT), channels=[person])

    assert result.record.status == "completed", result.record.error
    assert turns(workshop, result)[-3:] == ["fixer:3", "reviewer:3", "publisher:1"]
    assert result.agent_outputs["reviewer"]["decision"] == "reject"
    assert [question.since and question.since.reason for question in person.asked] == [None, "1", "2"]


@pytest.mark.parametrize(("labels", "last"), [({}, "publisher:1"), ({"done": "END"}, "reviewer:1")])
async def test_done_goes_the_way_of_approve_unless_it_has_a_label(
    labels: dict[str, str], last: str, workshop: Workshop
) -> None:
    edge = {**PIPELINE["graph"][2], "on_max_loops": "publisher"}
    edge["to"] = edge["to"] | labels
    pipeline = PIPELINE | {"graph": [*PIPELINE["graph"][:2], edge, PIPELINE["graph"][3]]}

    result = await workshop.run(workshop.pipeline(pipeline, script=SCRIPT), channels=[ScriptedPerson(["/done"])])

    assert result.record.status == "completed", result.record.error
    assert turns(workshop, result)[-1] == last


async def test_a_session_that_nobody_watches_is_rejected_and_approved_through_its_inbox(workshop: Workshop) -> None:
    paused = await workshop.run(workshop.pipeline(PIPELINE, script=SCRIPT))
    files = find_session(workshop.repo.path, paused.record.session_id)

    for line, text in (("/reject make it 3", "Version 1."), ("/approve", "Version 2.")):
        (question,) = open_questions(files)
        assert question.text == text
        assert Inbox(files).give(question.id, line, by="respond")
        result = await workshop.resume(paused.record.session_id)

    assert result.record.status == "completed", result.record.error
    assert result.agent_outputs["reviewer"]["decision"] == "approve"
    assert turns(workshop, result)[-1] == "publisher:1"


@pytest.fixture
def demo(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's repository, with its feature branch checked out."""
    monkeypatch.setattr("tempfile.tempdir", str(workshop.home))
    return make_repository()


def without_delays(repository: Path) -> str:
    """Add a provider that plays the shipped recording at once, and return its name."""
    path = shipped_pipelines()["pr-review"].parent / "scripts" / "pr-review.yaml"
    agents = {
        name: [[{key: value for key, value in reply.items() if key != "delay"} for reply in turn] for turn in turns]
        for name, turns in read_document(path).value["agents"].items()
    }
    script = write_script(repository / ".git" / "script.yaml", agents)
    providers = {"hasty": {"type": "scripted", "script": str(script)}}
    (repository / "orchestra.yaml").write_text(yaml.safe_dump({"providers": providers}))
    return "hasty"


async def review(
    repository: Path, person: ScriptedPerson, listener: Callable[[Event], None] | None = None, provider: str = "offline"
) -> SessionResult:
    """Run the shipped review in this process, with somebody who answers."""
    project, path = find_project(repository), shipped_pipelines()["pr-review"]
    resolved = load_and_resolve(path, project, provider=provider, repos={}, cwd=repository)
    return await SessionManager(project, listener, [person]).start(
        resolved, {"base": ""}, settings={"provider": provider}
    )


async def test_the_shipped_review_is_asked_about_rejected_and_approved(demo: Path) -> None:
    person = ScriptedPerson(["what first?", "really?", "/reject nothing is tested", "/diff", "/approve thanks"])

    result = await review(demo, person)

    assert result.record.status == "completed", result.record.error
    texts = [question.text for question in person.asked]
    assert texts[0].startswith("## Review: do not merge\n")
    assert all("(This answer is recorded" in text for text in texts[1:3])
    since = person.asked[3].since
    assert since is not None
    assert (since.decision, since.reason) == ("reject", "nothing is tested")
    assert since.turns == (("critic", 3), ("architecture-reviewer", 2), ("critic", 4))
    assert texts[3].startswith("## What changed\n")
    assert "+**6. [medium] Nothing tests what the change adds**" in person.told[0]
    decided = result.agent_outputs["synthesizer"]
    assert (decided["decision"], decided["reason"], decided["text"]) == ("approve", "thanks", texts[3])


async def test_the_recording_of_the_shipped_review_lasts_for_whoever_asks_and_rejects_a_lot(demo: Path) -> None:
    turn = ("1?", "2?", "3?", "4?", "5?", "6?", "/reject no")
    person, ended = ScriptedPerson(turn * 4), Counter[str | None]()

    def listen(event: Event) -> None:
        ended[event.node] += event.type == "turn_ended"

    result = await review(demo, person, listen, without_delays(demo))

    assert result.record.status == "completed", result.record.error
    assert len(person.asked) == 4 * len(turn)
    assert result.agent_outputs["synthesizer"]["decision"] == "reject"
    assert (ended["critic"], ended["synthesizer"]) == (6, 4)
