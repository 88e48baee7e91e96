"""Conversations with interactive agents: whole sessions, with people who answer from this process or by the inbox."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from orchestra import GraphCompiler
from orchestra.errors import SessionError
from orchestra.graph.project import find_project
from orchestra.graph.resolve import load_and_resolve
from orchestra.runtime.asking import open_questions
from orchestra.runtime.inbox import MAX_ANSWER, Inbox
from orchestra.runtime.session import SessionManager
from orchestra.runtime.store import SessionRecord, find_session, list_sessions, read_session
from orchestra.testing import ScriptedPerson

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.agents.conversation import Question
    from tests.conftest import Workshop


class Person(ScriptedPerson):
    """Somebody who has made up what to say."""

    def __init__(self, *lines: str) -> None:
        super().__init__(lines)


def talk(*, edges: list[dict[str, Any]] | None = None, **agent: Any) -> dict[str, Any]:
    return {
        "name": "talk",
        "agents": {
            "talker": {
                "task": {"template": "Talk."},
                "model": "m",
                "mode": "interactive",
                "tools": ["write-file", "git-commit"],
                **agent,
            }
        },
        "graph": edges or [{"from": "START", "to": "talker"}, {"from": "talker", "to": "END"}],
    }


def writes(content: str, path: str = "a.txt") -> dict[str, Any]:
    return {"tools": [{"name": "repo:write-file", "args": {"path": path, "content": content}}]}


THREE = {"talker": [[writes("one\n"), {"text": "First."}, writes("two\n"), {"text": "Second."}, {"text": "Third."}]]}


async def test_an_agent_and_a_person_speak_in_turns_until_the_person_decides(workshop: Workshop) -> None:
    person = Person("go on", "and now?", "/approve looks good")

    result = await workshop.run(workshop.pipeline(talk(), script=THREE), channels=[person])

    assert [question.text for question in person.asked] == ["First.", "Second.", "Third."]
    assert result.agent_outputs["talker"] == {
        "decision": "approve",
        "reason": "looks good",
        "text": "Third.",
        "commits": result.commits,
    }
    assert workshop.repo.git("show", f"{result.commits['repo']}:a.txt") == "two"
    said = [event.payload["text"] for event in workshop.events if event.type == "human_turn"]
    assert said == ["go on", "and now?", "/approve looks good"]


async def test_each_human_turn_is_a_checkpoint_with_the_files_of_that_moment(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(talk(), script=THREE), channels=[Person("go on", "more", "/done")])

    inside = [row for row in workshop.checkpoints(result.record.session_id) if row["checkpoint_ns"]]
    # input; call, tool, reply, human; call, tool, reply, human; reply, end: each node is a checkpoint of its own
    files = [workshop.repo.git("ls-tree", "--name-only", row["repos"]["repo"]).splitlines() for row in inside]
    assert "a.txt" in files[-1]
    assert len({row["repos"]["repo"] for row in inside}) == 3


async def test_taking_back_a_message_puts_the_files_back_and_asks_again(workshop: Workshop) -> None:
    person = Person("go on", "/undo", "go on", "more", "/approve")

    result = await workshop.run(workshop.pipeline(talk(), script=THREE), channels=[person])

    assert [question.text for question in person.asked] == ["First.", "Second.", "First.", "Second.", "Third."]
    assert len({question.id for question in person.asked}) == 5
    assert "taken back" in str(person.asked[2].note)
    before, after = person.asked[0].files.repos["repo"], person.asked[2].files.repos["repo"]
    assert before == after
    assert result.agent_outputs["talker"]["decision"] == "approve"
    assert workshop.repo.git("show", f"{result.commits['repo']}:a.txt") == "two"
    kept = [event.payload["rescue"] for event in workshop.events if event.type == "files_put_back"]
    assert workshop.repo.git("show", f"{kept[0]}:a.txt") == "two"


async def test_calls_that_write_go_one_after_another_also_when_a_reply_comes_once_more(workshop: Workshop) -> None:
    both = {"tools": [*writes("x\n", "x.txt")["tools"], *writes("y\n", "y.txt")["tools"]]}
    script = {"talker": [[{"text": "First."}, both, {"text": "Second."}]]}

    await workshop.run(workshop.pipeline(talk(), script=script), channels=[Person("go", "/undo", "go", "/done")])

    kinds = [event.type for event in workshop.events if event.type.startswith("tool_")]
    assert kinds == ["tool_started", "tool_ended"] * 4


async def test_a_model_that_says_nothing_is_no_empty_message_in_the_middle(workshop: Workshop) -> None:
    script = {"talker": [[{"text": " "}, {"text": "Second."}]]}

    result = await workshop.run(workshop.pipeline(talk(), script=script), channels=[Person("well?", "/undo", "/done")])

    # After the undo the reply is the empty one's stand-in, which was not taken back.
    assert result.agent_outputs["talker"]["text"] == "(no answer)"


async def test_there_may_be_nothing_to_take_back(workshop: Workshop) -> None:
    person = Person("/undo", "/done")

    await workshop.run(workshop.pipeline(talk(), script=THREE), channels=[person])

    assert "nothing to take back" in str(person.asked[1].note)
    assert person.asked[1].text == "First."


async def test_what_is_no_command_is_refused_and_what_only_looks_is_served(workshop: Workshop) -> None:
    person = Person("/aprove", "/help", "/diff", "", "//done is what I say", "/reject no")

    await workshop.run(workshop.pipeline(talk(), script=THREE), channels=[person])

    refused, shown, diff = person.told
    assert "/approve" in refused
    assert "/undo" in shown
    assert "+one" in diff
    said = [event.payload for event in workshop.events if event.type == "human_turn"]
    assert [(one["kind"], one["text"]) for one in said] == [
        ("message", "//done is what I say"),
        ("reject", "/reject no"),
    ]


async def test_a_person_who_leaves_finds_the_conversation_where_it_was(workshop: Workshop) -> None:
    path = workshop.pipeline(talk(), script=THREE)
    paused = await workshop.run(path, channels=[Person("go on")])
    assert paused.record.status == "paused"
    assert paused.record.waiting_for == {"agent": "talker", "text": "Second."}

    calls = paused.record.usage["model_calls"]
    person = Person("/approve")
    result = await workshop.resume(paused.record.session_id, channels=[person])

    assert [question.text for question in person.asked] == ["Second."]
    assert result.record.status == "completed"
    assert result.record.usage["model_calls"] == calls


async def test_an_answer_in_the_inbox_is_taken_without_anybody_there(workshop: Workshop) -> None:
    paused = await workshop.run(workshop.pipeline(talk(), script=THREE))
    question = next(event.payload["id"] for event in workshop.events if event.type == "question_asked")
    inbox = Inbox(find_session(workshop.repo.path, paused.record.session_id))
    assert inbox.give(question, "/reject not yet", by="respond")
    assert not inbox.give(question, "/approve", by="respond")

    result = await workshop.resume(paused.record.session_id)

    assert result.record.status == "completed"
    assert result.agent_outputs["talker"]["decision"] == "reject"
    assert result.agent_outputs["talker"]["reason"] == "not yet"


async def test_what_a_person_changes_while_asked_is_taken_as_found(workshop: Workshop) -> None:
    paused = await workshop.run(workshop.pipeline(talk(), script=THREE))
    tree = workshop.repo.path / ".orchestra/worktrees" / paused.record.session_id / "_session"
    (tree / "a.txt").write_text("mine\n")

    result = await workshop.resume(paused.record.session_id, channels=[Person("/approve")])

    assert workshop.repo.git("show", f"{result.commits['repo']}:a.txt") == "mine"
    assert result.agent_outputs["talker"]["commits"] == result.commits


async def test_an_agent_without_calls_left_can_still_be_ended(workshop: Workshop) -> None:
    person = Person("and?", "/undo", "/done")

    await workshop.run(workshop.pipeline(talk(max_calls=2), script=THREE), channels=[person])

    assert [question.text for question in person.asked] == ["First.", "First.", "First."]
    assert "can't answer any more" in str(person.asked[1].note)


async def test_a_limit_that_is_reached_in_a_conversation_is_told_to_the_person(workshop: Workshop) -> None:
    spoken = [{"text": "First.", "usage": {"input_tokens": 60}}, {"text": "Second.", "usage": {"input_tokens": 60}}]
    limited = talk() | {"limits": {"max_tokens": 100}}
    person = Person("and?", "more?", "/approve")

    result = await workshop.run(workshop.pipeline(limited, script={"talker": [spoken]}), channels=[person])

    assert [question.text for question in person.asked] == ["First.", "Second.", "Second."]
    assert "120 tokens of 100" in str(person.asked[2].note)
    assert result.agent_outputs["talker"]["decision"] == "approve"
    assert result.record.status == "completed"


async def test_a_fault_of_git_does_not_throw_a_conversation_away(workshop: Workshop) -> None:
    class Meddling(Person):
        async def ask(self, question: Question) -> str | None:
            line = await super().ask(question)
            if len(self.asked) == 2:
                (tree,) = (workshop.repo.path / ".orchestra/worktrees").glob("*/_session")
                shutil.rmtree(tree)
            return line

    path = workshop.pipeline(talk(), script=THREE)
    failed = await workshop.run(path, channels=[Meddling("go on", "more", "/done")])
    assert failed.record.error is not None
    assert failed.record.error["code"] == "worktree-gone"

    person = Person("/approve")
    result = await workshop.resume(failed.record.session_id, channels=[person])

    assert [question.text for question in person.asked] == ["Third."]
    assert workshop.repo.git("show", f"{result.commits['repo']}:a.txt") == "two"


async def test_an_absent_person_lets_the_first_answer_stand(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(talk(when_absent="finish"), script=THREE))

    assert result.commits == {"repo": workshop.repo.git("rev-parse", result.branches["repo"])}
    decision = {"decision": "done", "reason": None, "text": "First.", "commits": result.commits}
    assert result.agent_outputs == {"talker": decision}
    assert "question_asked" not in {event.type for event in workshop.events}


async def test_a_person_who_leaves_is_not_taken_for_absent(workshop: Workshop) -> None:
    result = await workshop.run(workshop.pipeline(talk(when_absent="finish"), script=THREE), channels=[Person("go on")])

    assert result.record.status == "paused"


async def test_a_later_turn_shows_what_has_changed_since_the_person_decided(workshop: Workshop) -> None:
    condition = """
import orchestra

@orchestra.condition("again")
def again(state):
    return "again" if state["agent_outputs"]["talker"]["decision"] == "reject" else "end"
"""
    edges: list[dict[str, Any]] = [
        {"from": "START", "to": "talker"},
        {"from": "talker", "to": {"again": "helper", "end": "END"}, "condition": "again", "max_loops": 2},
        {"from": "helper", "to": "talker"},
    ]
    pipeline = talk(edges=edges)
    pipeline["agents"]["helper"] = {"task": {"template": "Help."}, "model": "m", "tools": ["write-file"]}
    script = {
        "talker": [[{"text": "A review."}], [{"text": "A better review."}]],
        "helper": [[writes("help\n", "b.txt"), {"text": "Helped."}]],
    }
    person = Person("/reject too short", "/diff", "/approve")

    result = await workshop.run(
        workshop.pipeline(pipeline, script=script, files={"conditions/again.py": condition}), channels=[person]
    )

    assert result.record.status == "completed"
    since = person.asked[1].since
    assert since is not None
    assert (since.decision, since.reason, since.text) == ("reject", "too short", "A review.")
    assert since.turns == (("helper", 1),)
    assert set(since.files.repos) == {"repo"}
    (diff,) = person.told
    assert "+help" in diff
    assert "+A better review." in diff


async def test_a_program_that_embeds_the_graph_answers_by_a_command(workshop: Workshop) -> None:
    script = {"talker": [[{"text": "First."}, {"text": "Second."}]]}
    path = workshop.pipeline(talk(), script=script)
    compiler = GraphCompiler(load_and_resolve(path, find_project(workshop.repo.path), repos={}, cwd=workshop.repo.path))
    graph = compiler.compile(InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    asked = await graph.ainvoke(compiler.initial_state({}), config)
    again = await graph.ainvoke(Command(resume="go on"), config)
    ended = await graph.ainvoke(Command(resume="/approve"), config)

    assert asked["__interrupt__"][0].value == {"question": {"agent": "talker", "text": "First."}}
    assert again["__interrupt__"][0].value == {"question": {"agent": "talker", "text": "Second."}}
    assert ended["agent_outputs"]["talker"]["decision"] == "approve"


PAIR: dict[str, Any] = {
    "name": "pair",
    "agents": {
        name: {"task": {"template": "Talk."}, "model": "m", "mode": "interactive", "tools": ["write-file"]}
        for name in ("left", "right")
    }
    | {"worker": {"task": {"template": "Work."}, "model": "m", "tools": ["write-file"]}},
    "graph": [
        {"from": "START", "to": ["left", "right", "worker"]},
        *({"from": name, "to": "END"} for name in ("left", "right", "worker")),
    ],
}
PAIR_SCRIPT = {
    "left": [[writes("l\n", "l.txt"), {"text": "Left."}, {"text": "Left again."}]],
    "right": [[writes("r\n", "r.txt"), {"text": "Right."}, {"text": "Right again."}]],
    "worker": [[{"text": "", "tools": writes("w\n", "w.txt")["tools"], "delay": 0.3}, {"text": "Worked."}]],
}


async def test_two_agents_are_answered_each_while_a_third_one_works_on(workshop: Workshop) -> None:
    person = ScriptedPerson({"left": ["more", "/approve"], "right": ["/reject no"]})

    result = await workshop.run(workshop.pipeline(PAIR, script=PAIR_SCRIPT), channels=[person])

    decided = {name: output["decision"] for name, output in result.agent_outputs.items() if name != "worker"}
    assert decided == {"left": "approve", "right": "reject"}
    tree = workshop.repo.git("ls-tree", "--name-only", result.commits["repo"]).splitlines()
    assert {"l.txt", "r.txt", "w.txt"} <= set(tree)
    kinds = [(event.node, event.type) for event in workshop.events]
    assert kinds.index(("left", "human_turn")) < kinds.index(("worker", "turn_ended"))


async def test_both_questions_of_an_unattended_session_are_open_and_one_answer_leaves_the_other(
    workshop: Workshop,
) -> None:
    paused = await workshop.run(workshop.pipeline(PAIR, script=PAIR_SCRIPT))
    files = find_session(workshop.repo.path, paused.record.session_id)
    asked = {question.agent: question for question in open_questions(files)}
    assert set(asked) == {"left", "right"}

    assert Inbox(files).give(asked["right"].id, "/approve", by="respond")
    again = await workshop.resume(paused.record.session_id)

    assert again.record.status == "paused"
    assert [question.agent for question in open_questions(files)] == ["left"]
    assert again.record.waiting_for == {"agent": "left", "text": "Left."}


class Hesitant(Person):
    """Never answers."""

    def __init__(self) -> None:
        super().__init__("never said")
        self.here = asyncio.Event()

    async def ask(self, question: Question) -> str | None:
        self.asked.append(question)
        self.here.set()
        await asyncio.get_running_loop().create_future()
        return None


async def test_a_session_that_is_stopped_while_it_asks_pauses(workshop: Workshop) -> None:
    person = Hesitant()
    drive = asyncio.ensure_future(workshop.run(workshop.pipeline(talk(), script=THREE), channels=[person]))
    await person.here.wait()
    drive.cancel()
    result = await drive

    assert result.record.status == "paused"
    assert result.record.waiting_for == {"agent": "talker", "text": "First."}


async def test_a_session_that_waits_in_place_says_for_whom(workshop: Workshop) -> None:
    person = Hesitant()
    drive = asyncio.ensure_future(workshop.run(workshop.pipeline(talk(), script=THREE), channels=[person]))
    await person.here.wait()
    (record,) = [record for record in list_sessions(workshop.repo.path) if isinstance(record, SessionRecord)]
    (question,) = open_questions(record.files)

    assert record.status == "running"
    assert record.waiting_for == {"agent": "talker", "text": "First."}
    assert Inbox(record.files).give(question.id, "/approve", by="attach")
    result = await drive
    assert result.agent_outputs["talker"]["decision"] == "approve"
    assert result.record.waiting_for is None


async def test_a_session_that_asks_can_be_called_off(workshop: Workshop) -> None:
    person = Hesitant()
    drive = asyncio.ensure_future(workshop.run(workshop.pipeline(talk(), script=THREE), channels=[person]))
    await person.here.wait()
    (record,) = [record for record in list_sessions(workshop.repo.path) if isinstance(record, SessionRecord)]
    await SessionManager(find_project(workshop.repo.path)).cancel(record.files)
    result = await drive

    assert result.record.status == "cancelled"
    with pytest.raises(SessionError, match="was cancelled"):
        await workshop.resume(record.session_id)
    await SessionManager(find_project(workshop.repo.path)).cancel(record.files)
    assert open_questions(record.files) == []


async def test_a_session_that_nobody_drives_can_be_called_off_and_a_completed_one_not(workshop: Workshop) -> None:
    paused = await workshop.run(workshop.pipeline(talk(), script=THREE))
    manager = SessionManager(find_project(workshop.repo.path))
    await manager.cancel(paused.record.files)
    done = await workshop.run(workshop.pipeline(talk(when_absent="finish"), script=THREE))

    assert read_session(paused.record.files).status == "cancelled"
    with pytest.raises(SessionError, match="completed already"):
        await manager.cancel(done.record.files)
    assert read_session(done.record.files).status == "completed"


async def test_a_person_who_thinks_long_does_not_use_up_the_sessions_time(workshop: Workshop) -> None:
    class Slow(Person):
        async def ask(self, question: Question) -> str | None:
            await asyncio.sleep(1.5)
            return await super().ask(question)

    limited = talk() | {"limits": {"timeout": 1.4}}
    result = await workshop.run(workshop.pipeline(limited, script=THREE), channels=[Slow("/approve")])

    assert result.record.status == "completed"


async def test_what_the_agent_writes_is_logged_while_it_writes(workshop: Workshop) -> None:
    await workshop.run(workshop.pipeline(talk(), script=THREE), channels=[Person("/done")])

    kinds = [event.type for event in workshop.events]
    first = kinds.index("text_delta")
    assert "".join(event.payload["text"] for event in workshop.events if event.type == "text_delta") == "First."
    assert first < kinds.index("question_asked")


def worktree(workshop: Workshop, session: str) -> Path:
    return workshop.repo.path / ".orchestra/worktrees" / session / "_session"


async def test_a_kill_before_the_answers_checkpoint_does_not_take_the_persons_files_away(workshop: Workshop) -> None:
    paused = await workshop.run(workshop.pipeline(talk(), script=THREE))
    session = paused.record.session_id
    (worktree(workshop, session) / "a.txt").write_text("mine\n")
    (question,) = open_questions(paused.record.files)
    assert Inbox(paused.record.files).give(question.id, "/approve", by="respond")

    assert workshop.cli("resume", session, ORCHESTRA_FAILPOINT="snapshot-taken").returncode == -9
    result = await workshop.resume(session)

    assert workshop.repo.git("show", f"{result.commits['repo']}:a.txt") == "mine"
    assert result.agent_outputs["talker"]["commits"] == result.commits


async def test_files_that_are_gone_while_somebody_is_asked_come_back(workshop: Workshop) -> None:
    paused = await workshop.run(workshop.pipeline(talk(), script=THREE))
    shutil.rmtree(worktree(workshop, paused.record.session_id))

    result = await workshop.resume(paused.record.session_id, channels=[Person("/approve")])

    assert workshop.repo.git("show", f"{result.commits['repo']}:a.txt") == "one"


async def test_what_a_kill_leaves_of_another_turn_is_not_taken_for_a_persons(workshop: Workshop) -> None:
    pipeline = talk(
        edges=[{"from": "START", "to": "talker"}, {"from": "talker", "to": "fixer"}, {"from": "fixer", "to": "END"}],
        when_absent="finish",
    )
    pipeline["agents"]["fixer"] = {"task": {"template": "Fix."}, "model": "m", "tools": ["shell"]}
    add = {"tools": [{"name": "repo:shell", "args": {"command": "echo once >> fix.txt"}}]}
    script = {"talker": [[{"text": "Look."}]], "fixer": [[add, {"text": "Fixed."}]]}
    person = Hesitant()
    drive = asyncio.ensure_future(workshop.run(workshop.pipeline(pipeline, script=script), channels=[person]))
    await person.here.wait()
    drive.cancel()
    session = (await drive).record.session_id

    # Nobody is there any more: the talker ends, at the commit at which it asked, and so does the fixer begin.
    assert workshop.cli("resume", session, ORCHESTRA_FAILPOINT="tool-ended:2").returncode == -9
    assert (worktree(workshop, session) / "fix.txt").exists()
    result = await workshop.resume(session)

    assert workshop.repo.git("show", f"{result.commits['repo']}:fix.txt") == "once"


async def test_a_session_with_a_time_limit_that_is_stopped_while_it_asks_pauses(workshop: Workshop) -> None:
    person = Hesitant()
    limited = talk() | {"limits": {"timeout": 50}}
    drive = asyncio.ensure_future(workshop.run(workshop.pipeline(limited, script=THREE), channels=[person]))
    await person.here.wait()
    drive.cancel()

    assert (await drive).record.status == "paused"


async def test_an_answer_that_is_too_long_is_refused_and_may_be_given_otherwise(workshop: Workshop) -> None:
    person = Person("x" * (MAX_ANSWER + 1), "/done")

    result = await workshop.run(workshop.pipeline(talk(), script=THREE), channels=[person])

    assert result.record.status == "completed"
    assert "1,000,000 are the most" in person.told[0]


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "no JSON", "a list", "to another question"])
async def test_what_lies_in_the_place_of_an_answer_and_is_none_is_named(workshop: Workshop, kind: str) -> None:
    paused = await workshop.run(workshop.pipeline(talk(), script=THREE))
    (question,) = open_questions(paused.record.files)
    place = paused.record.files.inbox / f"{question.id}.json"
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "directory":
            place.mkdir()
        case "link":
            place.symlink_to(workshop.repo.path / "app.py")
        case "to another question":
            place.write_text(json.dumps({"question": "other.1.1.0", "text": "/approve", "by": "x", "at": ""}))
        case _:
            place.write_text({"no JSON": "{", "a list": "[1]"}[kind])

    async with asyncio.timeout(30):
        result = await workshop.resume(paused.record.session_id, channels=[Person("/approve")])

    assert result.record.error is not None
    assert result.record.error["code"] == "answer-unreadable"


async def test_an_inbox_that_was_removed_is_made_again(workshop: Workshop) -> None:
    paused = await workshop.run(workshop.pipeline(talk(), script=THREE))
    shutil.rmtree(paused.record.files.inbox)

    result = await workshop.resume(paused.record.session_id, channels=[Person("/approve")])

    assert result.agent_outputs["talker"]["decision"] == "approve"


def test_a_question_without_a_person_pauses_the_command(workshop: Workshop) -> None:
    document = workshop.json("run", workshop.pipeline(talk(), script=THREE), "-q", code=3)

    assert document["status"] == "paused"
    assert document["waiting_for"] == {"agent": "talker", "text": "First."}
    assert workshop.json("resume", document["session_id"], "-q", code=3)["status"] == "paused"


async def test_a_time_limit_cuts_a_turn_that_takes_too_long(workshop: Workshop) -> None:
    slow = {"talker": [[{"text": "late", "delay": 60}]]}
    path = workshop.pipeline(talk(when_absent="finish") | {"limits": {"timeout": 0.5}}, script=slow)

    result = await workshop.run(path)

    assert result.record.error is not None
    assert result.record.error["code"] == "timeout"
    assert "turn_ended" not in {event.type for event in workshop.events}


def test_what_is_to_be_typed_next_works_where_the_user_is(workshop: Workshop) -> None:
    path = workshop.pipeline(talk(), script=THREE)
    said = workshop.cli("-C", workshop.repo.path, "run", path, cwd=workshop.home).stderr
    hint = next(line for line in said.splitlines() if line.startswith("go on with: "))

    words = shlex.split(hint.removeprefix("go on with: "))
    assert words[:3] == ["orchestra", "-C", str(workshop.repo.path)]
    assert workshop.cli(*words[1:3], "respond", words[-1], "/done", cwd=workshop.home).returncode == 0
