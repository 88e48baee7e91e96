"""Real repositories and a real git for the tests of tools."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import subprocess
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestra.errors import GitError
from orchestra.tools.registry import RepoContext, ToolResult, ToolSet, tool_registry

if TYPE_CHECKING:
    from pathlib import Path

ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}


@dataclass(frozen=True)
class Output:
    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass
class RealGit:
    """Git bound to one repository by its environment, as the runtime's is; it remembers what it was asked."""

    root: Path
    calls: list[tuple[str, ...]] = field(default_factory=list)

    async def __call__(self, *args: str, input: bytes | None = None, ok: tuple[int, ...] = (0,)) -> Output:  # noqa: A002
        self.calls.append(args)
        env = ENV | {"GIT_DIR": str(self.root / ".git"), "GIT_WORK_TREE": str(self.root)}
        process = await asyncio.create_subprocess_exec(
            "git", *args, cwd=self.root, env=env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            stdout, stderr = await process.communicate(input)
        except asyncio.CancelledError:
            process.kill()
            await process.communicate()
            raise
        code = process.returncode or 0
        if code not in ok:
            raise GitError(f"git {args[0]} failed", command=args, stderr=stderr.decode("utf-8", "replace"))
        return Output(code, stdout, stderr)


def git(root: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=root, env=ENV, check=True, capture_output=True, text=True).stdout.strip()


def make_repo(root: Path, files: dict[str, str | bytes]) -> Path:
    root.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    commit(root, files, "first")
    return root


def commit(root: Path, files: dict[str, str | bytes], message: str) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


class Workspace:
    """Repositories as an agent has them, and their tools."""

    def __init__(self, *roots: Path, worktree: bool = True) -> None:
        self.contexts = {root.name: context_of(root, worktree=worktree) for root in roots}
        self.tools: ToolSet = tool_registry.toolset(self.repos)

    @property
    def repos(self) -> tuple[str, ...]:
        return tuple(self.contexts)

    async def repo(self, name: str) -> RepoContext:
        return self.contexts[name]

    def change(self, name: str, **changes: Any) -> None:
        self.contexts[name] = replace(self.contexts[name], **changes)

    async def call(self, tool: str, /, **args: Any) -> ToolResult:
        return await self.tools.get(tool).invoke(args, self)

    async def text(self, tool: str, /, **args: Any) -> str:
        result = await self.call(tool, **args)
        assert result.ok, result.content
        return result.content

    async def refusal(self, tool: str, /, **args: Any) -> str:
        result = await self.call(tool, **args)
        assert not result.ok, result.content
        return result.content


def context_of(root: Path, *, worktree: bool = True) -> RepoContext:
    head = git(root, "rev-parse", "HEAD")
    env = {"PATH": ENV["PATH"], "HOME": str(root.parent)}
    return RepoContext(
        name=root.name,
        path=root if worktree else None,
        branch="main",
        head=head,
        dirty=False,
        env=env,
        base=head,
        merge_base=None,
        git=RealGit(root),
    )


def tree_hash(root: Path) -> str:
    """Fingerprint everything below a directory: names, kinds, modes, contents, link targets."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        digest.update(f"{path.relative_to(root)} {info.st_mode} ".encode("utf-8", "surrogateescape"))
        if stat.S_ISLNK(info.st_mode):
            digest.update(str(path.readlink()).encode("utf-8", "surrogateescape"))
        elif stat.S_ISREG(info.st_mode):
            digest.update(path.read_bytes())
    return digest.hexdigest()
