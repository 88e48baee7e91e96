"""What tests of people and agents in several processes share: pipelines that talk, and looks into their sessions."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestra.errors import SessionError
from orchestra.runtime.asking import open_questions
from orchestra.runtime.driver_lock import held
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.store import find_session, read_session, session_ids
from tests.processes import until
from tests.session_support import agent, events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestra.agents.conversation import Question
    from tests.conftest import Workshop

TOOLS = ["write-file", "git-commit", "shell"]


def writes(content: str, path: str = "a.txt") -> dict[str, Any]:
    return {"tools": [{"name": "write-file", "args": {"path": path, "content": content}}]}


def shell(command: str) -> dict[str, Any]:
    return {"tools": [{"name": "shell", "args": {"command": command}}]}


THREE: list[list[dict[str, Any]]] = [
    [writes("one\n"), {"text": "First."}, writes("two\n"), {"text": "Second."}, {"text": "Third."}]
]


def talk(workshop: Workshop, *turns: list[dict[str, Any]], **more: Any) -> Path:
    """Write a pipeline of one agent that talks with a person."""
    content = {
        "name": "talk",
        "agents": {"talker": agent(mode="interactive", tools=TOOLS, **more)},
        "graph": [{"from": "START", "to": "talker"}, {"from": "talker", "to": "END"}],
    }
    return workshop.pipeline(content, script={"talker": list(turns or THREE)})


def two_talkers(workshop: Workshop) -> Path:
    """Write a pipeline of two agents that talk at the same time."""
    names = ["left", "right"]
    content = {
        "name": "two",
        "agents": {name: agent(mode="interactive") for name in names} | {"after": agent()},
        "graph": [
            {"from": "START", "to": names},
            {"from": names, "to": "after"},
            {"from": "after", "to": "END"},
        ],
    }
    # The left one asks first.
    first = {"left": {"text": "I am left."}, "right": {"text": "I am right.", "delay": 0.5}}
    script = {name: [[first[name], {"text": f"I am still {name}."}]] for name in names}
    return workshop.pipeline(content, script={**script, "after": [[{"text": "Both are done."}]]})


def session_of(workshop: Workshop) -> str:
    """Wait for the one session of a workshop, and return it."""
    assert until(lambda: session_ids(workshop.repo.path), 60)
    return session_ids(workshop.repo.path)[0]


def status_of(workshop: Workshop, session: str) -> str:
    return str(read_session(find_session(workshop.repo.path, session)).status)


def driver_of(workshop: Workshop, session: str) -> int:
    """Wait until a process drives a session, and return it."""
    found: list[str] = []

    def is_named() -> bool:
        holder = held(find_session(workshop.repo.path, session))
        if holder is not None and holder.alive and holder.holder:  # its name comes a moment after its lock
            found.append(holder.holder)
        return bool(found)

    assert until(is_named, 30)
    return int(found[-1].split()[1])


def asked(workshop: Workshop, session: str) -> list[Question]:
    try:
        return open_questions(find_session(workshop.repo.path, session))
    except SessionError:
        return []  # just being made


def wait_for_question(workshop: Workshop, session: str, text: str) -> Question:
    """Wait until a question with this text is open."""
    assert until(lambda: text in [question.text for question in asked(workshop, session)], 60)
    return next(question for question in asked(workshop, session) if question.text == text)


def answers(workshop: Workshop, session: str) -> list[tuple[str, str, str]]:
    """Return question, text and way of each answer that was taken, as often as it was."""
    taken = [event["payload"] for event in events(workshop, session, "human_turn")]
    return [(one["question"], one["text"], one["by"]) for one in taken]


def inbox(workshop: Workshop, session: str) -> Inbox:
    return Inbox(find_session(workshop.repo.path, session))


@contextmanager
def somebody_present(workshop: Workshop, session: str) -> Iterator[None]:
    """Be somebody who may answer: whoever drives the session then waits in place."""
    with inbox(workshop, session).present():
        yield
