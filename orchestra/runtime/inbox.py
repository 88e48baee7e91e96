"""The inbox of a session: where the answers to its questions arrive, whoever gives them, each exactly once (DESIGN §6).

An answer is a file that bears the question's id. It is written beside and then linked to its name, so that it is there
whole or not at all, and whoever comes second finds the name taken. It stays: after a crash the same question is asked
again, and finds it. Read and written by processes that load neither LangGraph nor asyncio.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from orchestra.errors import SessionError
from orchestra.runtime.driver_lock import try_flock
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.store import now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestra.runtime.store import SessionFiles

LOOK_EVERY = 0.1
"""Seconds between two looks for what another process has put there."""

MAX_ANSWER = 1_000_000
"""Characters of an answer."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,200}")
_PRESENT = "present"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to a question."""

    question: str
    text: str
    by: str
    """Through which way it came: `terminal`, `input`, `attach`, `respond`, …"""
    at: str
    """ISO 8601, UTC."""


class Inbox:
    """The inbox of one session."""

    def __init__(self, files: SessionFiles) -> None:
        self._session = files.session_id
        self._directory = files.inbox
        self._cancellation = files.cancellation

    def give(self, question: str, text: str, *, by: str) -> bool:
        """Answer a question; False: somebody was faster.

        Raises:
            SessionError: `answer-too-long`.
            OSError: It can't be written.
        """
        if len(text) > MAX_ANSWER:
            raise SessionError(
                f"the answer has {len(text):,} characters, and {MAX_ANSWER:,} are the most",
                code="answer-too-long",
                hint="put it into a file of the repository, and say where it is",
            )
        # Lone surrogates, of a terminal that sent bytes which are no UTF-8, can't be stored.
        plain = text.encode("utf-8", "replace").decode()
        content = json.dumps(asdict(Answer(question, plain, by, now())), ensure_ascii=False)
        return self._place(self._path(question), content)

    def answer(self, question: str) -> Answer | None:
        """Return what was answered to a question; None: nothing yet.

        Raises:
            SessionError: `answer-unreadable`.
        """
        if not _NAME.fullmatch(question):
            return None  # of a database that somebody else has written
        path = self._path(question)
        try:
            return _answer(_read(path), question)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise SessionError(
                f"the answer in {path} can't be read: {error}",
                code="answer-unreadable",
                hint=f"remove it, and answer again: orchestra respond {self._session} TEXT",
            ) from error

    def has_answer(self, question: str) -> bool:
        """Tell whether a question was answered, readable or not."""
        return bool(_NAME.fullmatch(question)) and os.path.lexists(self._path(question))

    def heard_in(self, attempt: str) -> bool:
        """Tell whether any question of an attempt of a turn was answered."""
        return any(self._directory.glob(f"{attempt}.*.json"))

    def cancel(self) -> None:
        """Ask whoever drives the session to end it for good."""
        self._place(self._cancellation, now())

    def is_cancelled(self) -> bool:
        """Tell whether somebody has asked to end the session for good."""
        return self._cancellation.exists()

    async def cancelled(self) -> None:
        """Return when somebody asks to end the session for good."""
        import asyncio  # not for those who only look

        while not self.is_cancelled():  # noqa: ASYNC110 - a file of another process
            await asyncio.sleep(LOOK_EVERY)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Be somebody who may answer, as long as the body runs: the driver then waits in place."""
        descriptor = self._open_presence()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def somebody_is_present(self) -> bool:
        """Tell whether a living process shows the session to somebody who may answer."""
        with suppress(OSError):
            descriptor = self._open_presence()
            try:
                return not try_flock(descriptor, fcntl.LOCK_EX)
            finally:
                os.close(descriptor)
        return False

    def _open_presence(self) -> int:
        path = self._directory / _PRESENT
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _path(self, question: str) -> Path:
        if not _NAME.fullmatch(question):
            raise ValueError(f"{question!r} is no id of a question")
        return self._directory / f"{question}.json"

    def _place(self, path: Path, content: str) -> bool:
        """Write a file whole and for good, under a name that nobody has taken."""
        self._directory.mkdir(mode=0o700, exist_ok=True)  # somebody may have tidied up
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            failpoint("answer-written")
            os.link(beside, path)
        except FileExistsError:
            return False
        finally:
            beside.unlink(missing_ok=True)
        _sync(self._directory)
        failpoint("answer-given")
        return True


def _answer(text: str, question: str) -> Answer:
    value = json.loads(text)
    answer = Answer(*(str(value[name]) for name in ("question", "text", "by", "at")))
    if answer.question != question:
        raise ValueError(f"it is an answer to {answer.question!r}")
    return answer


def _read(path: Path) -> str:
    """Read a file, and nothing else that may bear its name: a pipe would be waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file")
        return file.read()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
