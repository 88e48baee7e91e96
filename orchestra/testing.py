r"""Helpers for tests of pipelines: scripts for the scripted provider, and real git repositories.

def test_the_fixer_fixes(tmp_path):
    repo = git_repo(tmp_path / "backend", {"app.py": "x = 1\n"})
    write_script(tmp_path / "script.yaml", {"fixer": [[{"text": "Done."}]]})
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.agents.script import Script, load_script
from orchestra.runtime.channels import OneAtATime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestra.agents.conversation import Question

__all__ = ["GitRepo", "Script", "ScriptedPerson", "git_repo", "load_script", "scripted_provider", "write_script"]

_EPOCH = 1_767_225_600
"""2026-01-01: commits are dated from here, one minute apart, so that their SHAs are the same on every machine."""


def write_script(path: Path, agents: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Path:
    """Write a script for the scripted provider, checked as it will be when it is played.

    Args:
        path: The file.
        agents: Agent → its turns; a turn is a list of replies, see docs/reference/scripted-models.md.

    Raises:
        PipelineError: The script is wrong.
    """
    import yaml

    text = yaml.safe_dump({"agents": _plain(agents)}, sort_keys=False, allow_unicode=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    load_script(path)
    return path


def scripted_provider(path: Path, agents: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Write a script and return the `providers` section of a pipeline that plays it."""
    write_script(path, agents)
    return {"default": "scripted", "scripted": {"type": "scripted", "script": str(path)}}


class ScriptedPerson:
    """Answers the questions of interactive agents from a list, in order, and leaves when it runs out.

    Pass it to `SessionManager(project, channels=[...])`.

    Args:
        answers: What to say: messages and commands as a person types them; for several agents a list for each.
    """

    name = "scripted"

    def __init__(self, answers: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        if isinstance(answers, str):
            raise TypeError("the answers are a list of texts, or one for each agent")
        self._is_open = True
        self.asked: list[Question] = []
        """What was asked, each time that something was to be said."""
        self.told: list[str] = []
        """What was shown to this person alone: what `/diff` and `/help` show, and commands that there are not."""
        self._answers = {name: list(lines) for name, lines in answers.items()} if hasattr(answers, "items") else None
        self._all = [] if self._answers is not None else list(answers)
        self._order = OneAtATime()

    async def is_open(self) -> bool:
        """Tell whether there may be something left to say."""
        return self._is_open

    async def ask(self, question: Question) -> str | None:
        """Say the next thing to the agent that asks; None: there is nothing left."""
        await self._order.enter(question)
        if self._is_open:
            self.asked.append(question)
            lines = self._all if self._answers is None else self._answers.get(question.agent, [])
            if lines:
                return lines.pop(0)
        self._is_open = False
        return None

    def settled(self, question: Question) -> None:
        """Take the next question."""
        self._order.settle(question)

    async def tell(self, text: str) -> None:
        """Note what was shown."""
        self.told.append(text)


@dataclass(slots=True)
class GitRepo:
    """A real repository whose commits have fixed authors and dates."""

    path: Path
    _commits: int = field(default=0, repr=False)

    @property
    def head(self) -> str:
        """The SHA of HEAD."""
        return self.git("rev-parse", "HEAD")

    def git(self, *args: str) -> str:
        """Run git here, without the user's configuration, and return what it printed.

        Raises:
            AssertionError: Git failed; the message holds what it said.
        """
        result = subprocess.run(
            ["git", "-C", str(self.path), *args],
            capture_output=True,
            check=False,
            env=self._environment(),
            encoding="utf-8",
            errors="surrogateescape",
        )
        if result.returncode != 0:
            raise AssertionError(f"git {' '.join(args)} failed with {result.returncode}:\n{result.stderr}")
        return result.stdout.removesuffix("\n")

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        """Write files; None deletes one."""
        for name, content in files.items():
            path = self.path / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: Mapping[str, str | bytes | None], message: str = "change") -> str:
        """Write files, commit everything and return the commit's SHA."""
        self.write(files)
        self._commits += 1
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.head

    def _environment(self) -> dict[str, str]:
        date = f"@{_EPOCH + 60 * self._commits} +0000"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return kept | {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.com",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.com",
            "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_DATE": date,
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }


def git_repo(
    path: Path, files: Mapping[str, str | bytes | None] | None = None, *, branch: str = "main", message: str = "first"
) -> GitRepo:
    """Make a repository with one commit that holds `files`.

    Args:
        path: Where; it is created.
        files: Relative path → content.
        branch: The name of the first branch.
        message: The first commit's message.
    """
    path.mkdir(parents=True, exist_ok=True)
    repo = GitRepo(path)
    repo.git("init", "--quiet", f"--initial-branch={branch}")
    repo.commit(files or {}, message)
    return repo


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
