"""One session that is killed and resumed: the driver in a forked process, the kill from inside or from outside.

A fork has LangGraph imported already, which would cost a new process seconds. Nothing is mocked: git, SQLite, the
commands and the signals are real; the scripted model notes each of its calls in a file, whatever becomes of the events.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestra.runtime.asking import open_questions
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.store import SessionFiles, session_ids, sessions_directory
from tests.gitkit import git

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestra.agents.conversation import Question
    from orchestra.runtime.result import SessionResult
    from tests.acceptance.crash.scenario import Scenario

PERSONS = ("orchestra.handed", "orchestra.lent")
"""Say in a worktree's own directory of git that a person has it."""
LONGEST_PAUSE = 0.01
"""Seconds; between two failpoints there is seldom more."""
ORPHANS_END = 20.0
"""Seconds in which what a killed driver had started must be gone."""


@dataclass(frozen=True)
class Kill:
    """How a driver is killed."""

    point: str | None = None
    """A failpoint, which kills from inside; None: from outside, some time after so many passes of any."""
    hit: int = 1
    """At the so-manieth pass."""
    delay: float = 0.0
    """Seconds from that pass to a kill from outside: how far a run has come must not hang on the machine's load."""
    family: bool = False
    """With all descendants: git, commands, whatever group they are in."""

    def __str__(self) -> str:
        if self.point:
            return f"{self.point}:{self.hit}"
        return f"{self.delay * 1000:.1f} ms after pass {self.hit}{', the whole family' if self.family else ''}"


@dataclass
class Trial:
    """A directory with repositories and a pipeline, and what has been done in it."""

    scenario: Scenario
    directory: Path
    kills: list[Kill] = field(default_factory=list)
    """Those that hit."""
    strangers: list[str] = field(default_factory=list)
    """What somebody has put into the worktrees after kills."""
    resolved: list[int] = field(default_factory=list)
    """The conflicts that a person has resolved."""

    @classmethod
    def from_template(cls, scenario: Scenario, template: Path, directory: Path) -> Trial:
        """Copy what `Scenario.lay_out` made: quicker than making it again, and equal to the byte."""
        shutil.copytree(template, directory, symlinks=True)
        return cls(scenario, directory)

    @property
    def root(self) -> Path:
        """The project."""
        return self.directory / next(iter(self.scenario.repos))

    @property
    def repos(self) -> dict[str, Path]:
        """The user's checkouts."""
        return {name: self.directory / name for name in self.scenario.repos}

    @property
    def session(self) -> SessionFiles | None:
        """The session, once there is one."""
        ids = session_ids(self.root)
        assert len(ids) <= 1, ids
        return SessionFiles(sessions_directory(self.root) / ids[0]) if ids else None

    def run(self, kill: Kill | None = None, *, trace: Path | None = None) -> dict[str, Any] | None:
        """Run the pipeline; returns its JSON document, or None where the kill hit."""
        return self._drive(self._start, kill, trace)

    def resume(self, kill: Kill | None = None, *, trace: Path | None = None) -> dict[str, Any] | None:
        """Go on: with the session, or from the start where the kill came before there was one."""
        return self._drive(self._resume if self.session else self._start, kill, trace)

    def do_a_persons_part(self, document: Mapping[str, Any]) -> None:
        """Resolve the conflict, or answer the questions, that a session waits for."""
        if self.scenario.by_hand:
            self.resolve_by_hand(document)
            return
        assert self.session is not None
        asked = open_questions(self.session)
        assert asked, f"nothing is asked: {document['waiting_for']}"
        for question in asked:
            Inbox(self.session).give(question.id, self.scenario.answers[question.id], by="respond")

    def resolve_by_hand(self, document: Mapping[str, Any]) -> None:
        """Do what a person does with plain git where a session waits for it: stage the files, or commit them."""
        repo, paths = self.scenario.by_hand or ("", ())
        (tree,) = self.repos[repo].glob(".orchestra/worktrees/*/_session")
        turn = len(document["conflicts"]) // len(paths)
        assert turn not in self.resolved, f"a person is asked again what is resolved: {document['waiting_for']}"
        self.resolved.append(turn)
        for path in paths:
            (tree / path).write_text(f"settled-{turn}\n")
        git(tree, "add", "--", *paths)
        if turn > 1:
            git(tree, "commit", "--quiet", "--message", f"By hand, {turn}")

    def leave_strangers(self) -> None:
        """Put a file of somebody else's into each worktree there is: it must be kept, and be in no commit.

        What lies in a worktree that a person has is the person's, and is taken as found.
        """
        for worktree in self.worktrees():
            own = Path(git(worktree, "rev-parse", "--git-dir"))
            if any((own / mark).exists() for mark in PERSONS):
                continue
            name = f"stranger-{len(self.strangers)}.txt"
            (worktree / name).write_text(f"{name} was here\n")
            self.strangers.append(name)

    def worktrees(self) -> list[Path]:
        """Return the directories of the session's worktrees that are there and have files."""
        found = [path for repo in self.repos.values() for path in repo.glob(".orchestra/worktrees/*/*")]
        return sorted(path for path in found if (path / "README.md").exists())

    def model_calls(self) -> int:
        """Return how many calls the models have answered, in all processes."""
        path = self.directory / "model-calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    async def _start(self) -> SessionResult:
        from orchestra.graph.inputs import read_inputs
        from orchestra.graph.project import find_project
        from orchestra.graph.resolve import load_and_resolve
        from orchestra.runtime.session import SessionManager

        project = find_project(self.root)
        pipeline = load_and_resolve(self.directory / "pipelines" / "pipeline.yaml", project, repos={}, cwd=self.root)
        inputs = read_inputs(pipeline, {})
        return await SessionManager(project, channels=self._people()).start(pipeline, inputs, settings={})

    async def _resume(self) -> SessionResult:
        from orchestra.graph.project import find_project
        from orchestra.runtime.session import SessionManager

        assert self.session is not None
        return await SessionManager(find_project(self.root), channels=self._people()).resume(self.session)

    def _people(self) -> list[Person]:
        return [Person(self.scenario, self.directory)] if self.scenario.answers else []

    def _drive(self, work: Callable[[], Any], kill: Kill | None, trace: Path | None) -> dict[str, Any] | None:
        result = self.directory / "result.json"
        result.unlink(missing_ok=True)
        outside = kill if kill is not None and kill.point is None else None
        if outside is not None:
            trace = self.directory / "passes"
            trace.unlink(missing_ok=True)
            os.mkfifo(trace)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
            pid = os.fork()
        if pid == 0:
            self._be_the_driver(work, kill, trace, result)
        with _killing(pid, outside, trace):
            _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            assert kill is not None, "killed by somebody else"
            self.kills.append(kill)
            self._wait_for_orphans()
            return None
        assert code == 0, f"the driver ended with {code}:\n{(self.directory / 'driver.log').read_text()}"
        found: dict[str, Any] = json.loads(result.read_text())
        return found

    def _be_the_driver(self, work: Callable[[], Any], kill: Kill | None, trace: Path | None, result: Path) -> None:
        code = 99
        try:
            os.setsid()
            log = os.open(self.directory / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            home = self.directory / "home"
            home.mkdir(exist_ok=True)
            os.environ.update(HOME=str(home), GIT_CONFIG_NOSYSTEM="1")
            if kill is not None and kill.point is not None:
                os.environ["ORCHESTRA_FAILPOINT"] = f"{kill.point}:{kill.hit}"
            if trace is not None:
                os.environ["ORCHESTRA_FAILPOINT_TRACE"] = str(trace)
            os.chdir(self.root)
            _note_model_calls(self.directory / "model-calls")
            document = asyncio.run(work()).as_json()
            draft = result.with_suffix(".new")
            draft.write_text(json.dumps(document))
            draft.rename(result)
            code = 0
        except BaseException:  # noqa: BLE001 - nothing of the caller may go on here
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _wait_for_orphans(self) -> None:
        """Wait until nobody holds the session's lock: git that was left behind may still write."""
        import fcntl

        for lock in sessions_directory(self.root).glob("*/children.lock"):
            deadline = time.monotonic() + ORPHANS_END
            with lock.open("rb") as file:
                while True:
                    with suppress(BlockingIOError):
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                        break
                    assert time.monotonic() < deadline, f"orphans still hold {lock} after {ORPHANS_END:g} s"
                    time.sleep(0.005)


class Person:
    """Somebody in the driver's process who knows what to answer, and leaves at some questions when they first come."""

    name = "person"

    def __init__(self, scenario: Scenario, directory: Path) -> None:
        self._scenario = scenario
        self._directory = directory
        self._has_left = False

    async def ask(self, question: Question) -> str | None:
        left = self._directory / f"left-{question.id}"
        if question.id in self._scenario.leaves and not left.exists():
            left.touch()
            self._has_left = True
        await asyncio.sleep(0)
        return None if self._has_left else self._scenario.answers[question.id]

    async def is_open(self) -> bool:
        return not self._has_left

    def settled(self, question: Question) -> None:
        """There is nothing to settle."""

    async def tell(self, text: str) -> None:
        raise AssertionError(text)


def _note_model_calls(path: Path) -> None:
    from orchestra.agents.script import Script

    real = Script.next_reply

    def noted(self: Script, agent: str, turn: int, replies: int) -> Any:
        reply = real(self, agent, turn, replies)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{agent}:{turn}:{replies}\n")
        return reply

    Script.next_reply = noted  # type: ignore[method-assign]  # in a process of its own, which ends with the run


@contextmanager
def _killing(pid: int, kill: Kill | None, passes: Path | None) -> Iterator[None]:
    """Kill a process some time after it has passed so many failpoints, unless the body ends before."""
    if kill is None or passes is None:
        yield
        return
    reading = os.open(passes, os.O_RDWR)  # it never ends: the driver opens and closes it at each pass
    watcher = threading.Thread(target=_watch, args=(pid, kill, reading))
    watcher.start()
    try:
        yield
    finally:
        os.write(reading, _OVER)
        watcher.join()
        os.close(reading)


_OVER = b"\0"


def _watch(pid: int, kill: Kill, reading: int) -> None:
    passed = 0
    while True:
        read = os.read(reading, 1 << 16)
        before, passed = passed, passed + read.count(b"\n")
        if before < kill.hit <= passed:
            time.sleep(kill.delay)
            (kill_family if kill.family else kill_alone)(pid)
        if _OVER in read:
            return


def kill_alone(pid: int) -> None:
    """Kill one process; its children go on."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_family(pid: int) -> None:
    """Kill a process and all its descendants, whatever group they are in."""
    family = [pid]
    for member in family:
        kill_alone(member)  # first the parent: it starts no more
        family += _children().get(member, [])


def _children() -> Mapping[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(entry.name))
    return found


def random_kills(seed: int, most: int, passes: int) -> Iterator[Kill]:
    """Yield kills at random instants of a run and its resumes.

    Args:
        seed: The same one gives the same instants, as far as the machine allows.
        most: How many at the most.
        passes: How many failpoints an undisturbed run passes.
    """
    chance = random.Random(seed)  # noqa: S311 - has to be repeatable
    for number in range(most):
        # The first one always hits; later ones may come when the session has ended.
        hit = chance.randint(1, passes // (4 if number else 2))
        yield Kill(hit=hit, delay=chance.uniform(0.0, LONGEST_PAUSE), family=chance.random() < 0.5)
