"""Reads the documentation's pages and runs the examples in them, as a reader would who types them in.

A fence `yaml file=fix.yaml` is written to that file, and one with `wrong` has mistakes on purpose. In a fence `console`
each line after `$ ` is run in the page's directory, and what it prints is compared: `...` stands for anything, and
times, durations and SHAs for any others. The id `7kq2mfzd` is that of the newest session, `/home/ada` the directory of
the test, and `^C` presses Ctrl-C; with `later` it is not run yet. A comment `test: …` prepares what the page takes for
granted.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.testing import git_repo
from tests.preloaded import COMMAND, Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Workshop

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
]
SESSION = "7kq2mfzd"

_ITEM = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^ *```$|^<!-- test: (?P<directive>[^\n]*?) -->$",
    re.MULTILINE | re.DOTALL,
)
_SHELL = re.compile(r"[|&;<>$`*?~\\]")
_VARYING = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}\b"), "CHECKPOINT"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DATE"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b\d+\.\d+ ?s\b"), "SECONDS"),
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,40}\b"), "SHA"),
)


@dataclass(frozen=True)
class Example:
    """A fenced block, or a directive of a page for its test."""

    page: Path
    line: int
    language: str
    options: dict[str, str]
    body: str
    directive: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples(page: Path) -> Iterator[Example]:
    """Yield the examples of a page in their order."""
    text = page.read_text(encoding="utf-8")
    for match in _ITEM.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        language, *words = (match["info"] or "").split() or [""]
        options = {key: value for key, _, value in (word.partition("=") for word in words)}
        indent = len(match["indent"] or "")
        body = "".join(row[indent:] if row[:indent].isspace() else row for row in _lines(match["body"]))
        yield Example(page, line, language, options, body, match["directive"])


def _lines(text: str | None) -> list[str]:
    return (text or "").splitlines(keepends=True)


class Reader:
    """Works through a page.

    Args:
        workshop: What the page's commands are run in.
        fresh: Whether each is run by a shell as it stands; else one without anything that only a shell knows is started
            by `preloaded.py`.
    """

    def __init__(self, workshop: Workshop, *, fresh: bool) -> None:
        self.fresh = fresh
        self.home = workshop.home
        self.directory = workshop.home
        self.environment = workshop.environment(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            PYTHONUNBUFFERED="1",
            PYTHONDONTWRITEBYTECODE="1",
            TMPDIR=str(self.home / "tmp"),
        )
        (self.home / "tmp").mkdir()
        (self.home / ".gitconfig").write_text(
            "[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n", encoding="utf-8"
        )

    def follow(self, example: Example) -> None:
        """Do what an example shows."""
        if example.directive is not None:
            self._prepare(example.directive)
        elif "file" in example.options:
            self._write(example.options["file"], example.body)
        elif example.language == "console" and "later" not in example.options:
            for command, expected in _commands(example.body):
                self._type(example, command, expected)

    def _prepare(self, directive: str) -> None:
        match directive.split():
            case ["repository"]:
                self.directory = self.home / "app"
                git_repo(self.directory, {"app.py": "x = 1\n", "docs/notes.md": "# Notes\n"})
            case ["demo", "repository"]:
                from orchestra.cli.demo import make_repository

                usual, tempfile.tempdir = tempfile.tempdir, self.environment["TMPDIR"]
                try:
                    self.directory = make_repository()
                finally:
                    tempfile.tempdir = usual
            case ["files", "of", page]:
                self.directory = self.home / "mean"
                if not self.directory.exists():
                    git_repo(self.directory)
                for example in examples(ROOT / page):
                    if "file" in example.options:
                        self._write(example.options["file"], example.body)
            case ["run", *_]:
                code, printed = self._run(directive.removeprefix("run "), "")
                assert code == 0, printed
            case _:
                raise ValueError(f"unknown directive {directive!r}")

    def _write(self, name: str, body: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")

    def _type(self, example: Example, command: str, expected: str) -> None:
        if command.startswith("cd "):
            self.directory = self.directory / command.removeprefix("cd ")
            return
        if command.startswith("orchestra cleanup"):  # which may remove it
            expected = self._with_session(expected)
        code, printed = self._run(self._with_session(command), expected)
        wanted = int(example.options.get("exit", "0"))
        shown = f"{example.place}\n$ {command}\n{printed}"
        assert code == wanted, f"exit code {code}, not {wanted}\n{shown}"
        pattern = self._pattern(self._with_session(expected))
        assert re.fullmatch(pattern, self._plain(printed)), f"not what the page shows:\n{expected}\n{shown}"

    def _run(self, command: str, expected: str) -> tuple[int, str]:
        words = ["bash", "-c", f"exec {command}" if "^C\n" in expected else command]
        if not self.fresh and command.startswith("orchestra ") and not _SHELL.search(command):
            words = [str(COMMAND), *shlex.split(command)[1:]]
        process = Command(
            words,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        seen = ""
        if "^C\n" in expected:
            before = self._plain(expected.partition("^C\n")[0].splitlines()[-1])
            for line in process.stdout:
                seen += line
                if self._plain(line.rstrip("\n")) == before:
                    process.send_signal(signal.SIGINT)
                    break
        rest, _ = process.communicate(timeout=60)
        return process.returncode, seen + rest

    def _with_session(self, text: str) -> str:
        if SESSION[:3] not in text:
            return text
        from orchestra.runtime.store import SessionRecord, list_sessions

        newest = next(record for record in list_sessions(self.directory) if isinstance(record, SessionRecord))
        return text.replace(SESSION, newest.session_id).replace(SESSION[:3], newest.session_id[:3])

    def _pattern(self, expected: str) -> str:
        parts = self._plain(expected.replace("^C\n", "")).split("...")
        return ".*?".join(map(re.escape, parts)).join(("(?s:", ")"))

    def _plain(self, text: str) -> str:
        text = text.replace(str(self.home), "/home/ada")
        for pattern, word in _VARYING:
            text = pattern.sub(word, text)
        return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _commands(body: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a console block with what they print."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed
