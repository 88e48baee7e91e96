"""One git process: its environment, its pipes, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.errors import GitError
from orchestra.runtime.machine import machine_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_KEPT = (
    *(
        "PATH",
        "HOME",
        "XDG_CONFIG_HOME",
        "TMPDIR",
        "TMP",
        "TEMP",
        "USER",
        "LOGNAME",
        "LD_LIBRARY_PATH",
        "SSH_AUTH_SOCK",
    ),
    *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"),
)
"""An allowlist, because filters that the user configured see this environment, and it must hold no API key."""

_FIXED = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    "GIT_EDITOR": "true",
    "GIT_SEQUENCE_EDITOR": "true",
    "GIT_PAGER": "cat",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_ALLOW_PROTOCOL": "file:https:ssh",
    "GIT_LFS_SKIP_SMUDGE": "1",
}

_OVERRIDES = {
    # A path that nobody, not even root, can fill. Git finds no hook there and says nothing.
    "core.hooksPath": "/dev/null/no-hooks",
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.splitIndex": "false",
    "core.ignoreStat": "false",
    "core.safecrlf": "false",
    "core.quotePath": "false",
    "core.editor": "true",
    "core.pager": "cat",
    "core.askPass": "true",
    # How long a lock is waited for is `git_locks`' matter.
    "core.filesRefLockTimeout": "200",
    "core.packedRefsTimeout": "200",
    "index.sparse": "false",
    "credential.helper": "",
    "protocol.ext.allow": "never",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "log.showSignature": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "worktree.useRelativePaths": "false",
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "color.ui": "false",
    "diff.noprefix": "false",
    "diff.mnemonicPrefix": "false",
}
_DURABLE = {"core.fsync": "committed,reference,loose-object", "core.fsyncMethod": "batch"}


@dataclass(frozen=True, slots=True)
class GitOutput:
    """What a git command gave."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """The output without its last line break; file names that are no UTF-8 come back as Python keeps them."""
        return os.fsdecode(self.stdout).removesuffix("\n")


@dataclass(frozen=True, slots=True)
class Call:
    """What to run, where, and within what bounds."""

    args: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    input: bytes | None
    timeout: float
    limit: int
    fds: tuple[int, ...]


def environment(overrides: Mapping[str, str], *, durable: bool) -> dict[str, str]:
    """Return the environment of every git process, without the place it works on.

    Args:
        overrides: More of git's settings.
        durable: Whether what git writes reaches the disk before it ends.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | _FIXED | config_variables({**_OVERRIDES, **(_DURABLE if durable else {}), **overrides})


def config_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that overrides git's settings, in children of git too."""
    variables = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        variables[f"GIT_CONFIG_KEY_{number}"] = key
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables


async def execute(call: Call, variables: Mapping[str, str], fds: tuple[int, ...]) -> GitOutput:
    """Run git to its end, whatever its exit code; a call that is cut off leaves no process behind."""
    try:
        # A group of its own: a Ctrl-C meant for Orchestra must not cut git short. Never a preexec_fn (D2).
        process = await asyncio.create_subprocess_exec(
            *("git", *call.args),
            cwd=call.cwd,
            env={**variables, **call.env},
            stdin=asyncio.subprocess.PIPE if call.input is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=fds,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if not call.cwd.is_dir():
            raise GitError(f"there is no directory {call.cwd}", command=call.args, code="not-a-repository") from error
        hint = "install git 2.38 or newer"
        raise GitError("git is not installed, or not in PATH", code="git-missing", hint=hint) from error
    except OSError as error:
        named = machine_error(error)
        if named is None:
            raise
        message = f"git can't be started in {call.cwd}: {named.message}"
        raise GitError(message, command=call.args, code=named.code, hint=named.hint) from error
    try:
        async with asyncio.timeout(call.timeout):
            return await _talk(process, call)
    except TimeoutError as error:
        message = f"git {call.args[0]} in {call.cwd} took longer than {call.timeout:g} s and was stopped"
        raise GitError(message, command=call.args, code="git-timeout") from error
    finally:
        await _end(process)


async def _talk(process: asyncio.subprocess.Process, call: Call) -> GitOutput:
    assert process.stdout is not None  # noqa: S101 - both are pipes
    assert process.stderr is not None  # noqa: S101
    async with asyncio.TaskGroup() as group:
        stdout = group.create_task(_read(process.stdout, call.limit))
        stderr = group.create_task(_read(process.stderr, 1 << 20))
        if process.stdin is not None:
            group.create_task(_feed(process.stdin, call.input or b""))
    if stdout.result() is None:
        message = f"git {call.args[0]} gave more than {call.limit >> 20} MiB"
        raise GitError(message, command=call.args, code="git-output-too-large", hint="ask for less")
    return GitOutput(await process.wait(), stdout.result() or b"", stderr.result() or b"")


async def _read(stream: asyncio.StreamReader, limit: int) -> bytes | None:
    """Read to the end; past the limit read on without keeping it, so that git is not stuck, and return None."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await stream.read(1 << 16):
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
    return b"".join(chunks) if size <= limit else None


async def _feed(stream: asyncio.StreamWriter, data: bytes) -> None:
    # Git that dies early closes its end; its exit code tells.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
        stream.close()
        await stream.wait_closed()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Stop a process that still runs: politely first, for git then removes its lock files."""
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), 2.0)
            return
