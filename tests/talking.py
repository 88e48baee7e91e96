"""A session of agents that only talk, for tests of terminals: `python -m tests.talking DIRECTORY`.

`DIRECTORY/script.json` holds what each agent says: `{"critic": ["First.", "Second."]}`. Answers arrive in
`DIRECTORY/inbox`, and each is noted as a line of `DIRECTORY/answers`. SIGUSR1 has another agent do something.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestra.agents.conversation import Question, understand
from orchestra.cli.at_hand import people_at_hand
from orchestra.cli.progress import Progress
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.observability import Event
from orchestra.runtime.people import People
from orchestra.runtime.store import SessionFiles, now

if TYPE_CHECKING:
    from collections.abc import Sequence

PIECE = 7
"""Characters of a text that come at once: the borders lie inside words, lines and escape sequences."""


class Stage:
    """The agents, and the people who may answer them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.inbox = Inbox(SessionFiles(directory))
        self.progress = Progress(sys.stderr)
        self.people = People(self.inbox, people_at_hand(self.progress.transcript), diff=self._diff)
        self._seq = 0

    def emit(self, kind: str, agent: str | None = None, payload: dict[str, Any] | None = None) -> None:
        self._seq += 1
        self.progress.show(Event(self._seq, now(), kind, agent, 1 if agent else None, 1, payload or {}))

    def note(self, text: str) -> None:
        with (self.directory / "answers").open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    async def agent(self, name: str, texts: Sequence[str]) -> None:
        for number, text in enumerate(texts):
            self.emit("model_started", name)
            for start in range(0, len(text), PIECE):
                self.emit("text_delta", name, {"text": text[start : start + PIECE]})
                await asyncio.sleep(0)
            question = Question(f"{name}-{number}", name, 1, text)
            self.emit("model_ended", name, {"model": "m"})
            self.emit("question_asked", name, question.as_json())
            if not await self.people.wait_for(question):
                self.note(f"{name}: nobody")
                self.emit("question_left", name, {"question": question.id})
                return
            answer = self.inbox.answer(question.id)
            assert answer is not None
            said = understand(answer.text)
            assert said is not None
            self.note(f"{name}: {json.dumps(answer.text, ensure_ascii=False)}")
            turn = {"question": question.id, "kind": said.kind, "text": answer.text, "by": answer.by}
            self.emit("human_turn", name, turn)
            if said.kind != "message":
                break
        self.emit("turn_ended", name, {"duration_s": 1.0})

    async def _diff(self, question: Question) -> str:
        return "".join(f"+{question.agent} {number}\n" for number in range(self._script.get("diff", 3)))

    async def run(self) -> None:
        self._script = json.loads((self.directory / "script.json").read_text(encoding="utf-8"))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: self.emit("note", "worker", {"text": "something happened"}))
        loop.add_signal_handler(signal.SIGINT, lambda: self.note("interrupted"))
        await asyncio.gather(*(self.agent(name, texts) for name, texts in self._script["agents"].items()))
        self.emit("session_completed")


if __name__ == "__main__":
    asyncio.run(Stage(Path(sys.argv[1])).run())
