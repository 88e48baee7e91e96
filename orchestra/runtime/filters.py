"""Filters that a repository asks for and this machine can't run: found before a session starts (D16)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.git_errors import last_line
from orchestra.runtime.notices import Notice

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Repository

_LFS = "lfs"
_QUIET_LFS = {
    "filter.lfs.clean": "",
    "filter.lfs.smudge": "",
    "filter.lfs.process": "",
    "filter.lfs.required": "false",
}
"""An empty command filters nothing."""

_SHELL_WORDS = frozenset(
    {"cd", "case", "command", "eval", "exec", "export", "for", "if", "read", "set", "trap", "unset", "until", "while"}
)
_PROBE_LIMIT = 64 << 20


@dataclass(slots=True)
class Filter:
    """A filter driver as git's configuration has it."""

    name: str
    commands: dict[str, str] = field(default_factory=dict)
    """By `clean`, `smudge` and `process`."""
    required: bool = False
    lacks: str | None = None
    """The program that is not installed."""


async def read_filters(git: GitManager, repo: Repository) -> list[Filter]:
    """Read which filters are configured; where `git-lfs` is missing, have git take LFS files as they are from now on.

    It is one call of git where nothing is configured, and none in a bare repository: git filters only a checkout.
    """
    if repo.top is None:
        return []
    output = await git.run(repo, "config", "-z", "--get-regexp", r"^filter\.", ok=(0, 1))
    filters: dict[str, Filter] = {}
    for line in filter(None, output.text.split("\0")):
        key, _, value = line.partition("\n")
        _, _, rest = key.partition(".")
        name, _, what = rest.rpartition(".")
        one = filters.setdefault(name, Filter(name))
        if what == "required":
            one.required = value.lower() not in {"false", "no", "off", "0"}
        else:
            one.commands[what] = value
    for one in filters.values():
        one.lacks = await _missing_program(git, repo, repo.top, one)
        if one.name == _LFS and one.lacks:
            git.overrides[repo.common_dir] = _QUIET_LFS
    return list(filters.values())


async def judge_filters(git: GitManager, repo: Repository, *, needs_worktree: bool) -> list[Notice]:
    """Refuse filters without which no worktree can be filled, and say which others can't run.

    Args:
        git: Starts git.
        repo: The user's repository.
        needs_worktree: Whether the session will write files and read them back there.

    Raises:
        GitError: `filter-missing`, `filter-failed`.
    """
    notices = []
    for one in await read_filters(git, repo):
        decisive = one.required and needs_worktree
        path = await _first_use(git, repo, one.name) if one.lacks or decisive else None
        if path is None:
            continue
        if one.lacks and decisive and one.name != _LFS:
            why = f"{one.lacks!r} is not installed"
            raise _filter_error(repo, one, path, why, "filter-missing", f"install {one.lacks}")
        if one.lacks:
            notices.append(_goes_without(repo, one, path))
        else:
            await _probe(git, repo, one, path)
    return notices


def _goes_without(repo: Repository, one: Filter, path: str) -> Notice:
    if one.name == _LFS:
        text = (
            f"git-lfs is not installed: agents see pointers in place of LFS files such as {path!r}, and what they "
            "write there is committed as it is"
        )
        return Notice(f"{repo.name}: {text}", "lfs-missing")
    text = (
        f"the filter {one.name!r} needs {one.lacks!r}, which is not installed: files such as {path!r} stay as they are"
    )
    return Notice(f"{repo.name}: {text}", "filter-missing")


def _filter_error(repo: Repository, one: Filter, path: str, why: str, code: str, remedy: str) -> GitError:
    message = f"the repo {repo.name!r} can't do without the filter {one.name!r} ({path!r} has filter={one.name}): {why}"
    hint = f"{remedy}, or look at it: git -C '{repo.top}' config --get-regexp '^filter\\.{one.name}\\.'"
    return GitError(message, code=code, hint=hint)


async def _first_use(git: GitManager, repo: Repository, name: str) -> str | None:
    """Return a file that has the filter by the repository's attributes."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        return None  # git takes no other name in a pathspec
    pathspec = f":(top,attr:filter={name})"
    output = await git.run(repo, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pathspec)
    return next((path for path in output.text.split("\0") if path), None)


async def _probe(git: GitManager, repo: Repository, one: Filter, path: str) -> None:
    """Run a required filter both ways, on one file and without keeping anything: it may be installed and not work."""
    try:
        smudged = await git.run(repo, "cat-file", "--filters", f":{path}", limit=_PROBE_LIMIT)
        await git.run(repo, "hash-object", "--stdin", f"--path={path}", input=smudged.stdout)
    except GitError as error:
        if error.code == "filter-failed":
            why = f"it fails ({last_line(error.stderr)})"
            raise _filter_error(
                repo, one, path, why, "filter-failed", "mend what it needs (a key, a program)"
            ) from error
        # Not in the index yet, or too large to try: git will tell when it comes to that.


async def _missing_program(git: GitManager, repo: Repository, top: Path, one: Filter) -> str | None:
    """Return a program of a filter that is nowhere to be found; a command that only a shell understands is trusted."""
    for program in filter(None, map(_program, one.commands.values())):
        found = os.access(top / program, os.X_OK) if "/" in program else shutil.which(program) is not None
        if not found:
            # Git finds programs beside its own, too.
            beside = (await git.run(repo, "--exec-path")).text
            if shutil.which(program, path=beside) is None:
                return program
    return None


def _program(command: str) -> str | None:
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if words[:1] == ["git"] and len(words) > 1:
        return "git-lfs" if words[1] == _LFS else None
    if not words or words[0] in _SHELL_WORDS or not re.fullmatch(r"[A-Za-z0-9_./+-]+", words[0]):
        return None
    return words[0]
