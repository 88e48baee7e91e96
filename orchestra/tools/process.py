"""Running a command of an agent: bounded in time and memory, and nothing of it left behind."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from orchestra.tools.base import ToolResult
from orchestra.tools.output import STDERR_LIMIT, STDOUT_LIMIT, HeadTail, utf8
from orchestra.tools.watch import CommandWatch, current

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Mapping

TIMED_OUT = 124
"""The exit code of a command that was stopped for its time, as timeout(1) has it."""
_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
_HURRIED = 1.0
"""The same where the session is being stopped, which somebody waits for."""
_DRAIN = 1.0
"""Seconds to wait for the last output. A process that left the group may hold the pipe open for ever."""
_CHUNK = 65_536


async def run_command(command: str, *, cwd: pathlib.Path, env: Mapping[str, str], seconds: float) -> ToolResult:
    """Run a command with `sh -c` in a process group of its own, with empty standard input.

    The group is killed when the time is over, when the call is cancelled, and when the command has ended and left
    something running: files must not change behind a snapshot.
    """
    async with _pipe(STDOUT_LIMIT) as (stdout, stdout_end), _pipe(STDERR_LIMIT) as (stderr, stderr_end):
        watch = current.get()
        try:
            process = await _start(command, cwd, env, watch, stdout_end, stderr_end)
        finally:
            os.close(stdout_end)
            os.close(stderr_end)
        in_time, grace = True, _GRACE
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            in_time = False
        except asyncio.CancelledError:
            grace = _HURRIED
            raise
        finally:
            try:
                await _finish(process, grace)
            finally:
                if watch is not None:
                    watch.ended(process.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN):
                await stdout.ended.wait()
                await stderr.ended.wait()
        code = process.returncode if process.returncode is not None else -signal.SIGKILL
        return _result(code if in_time else None, seconds, stdout.text(), stderr.text())


async def _start(
    command: str, cwd: pathlib.Path, env: Mapping[str, str], watch: CommandWatch | None, stdout: int, stderr: int
) -> asyncio.subprocess.Process:
    arguments, stdin = watch.entry(command) if watch else (("/bin/sh", "-c", command), asyncio.subprocess.DEVNULL)
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=cwd,
        env={**env, **(watch.environment if watch else {})},
        start_new_session=True,
        pass_fds=watch.locks if watch else (),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
    )
    if watch is not None:
        watch.began(process.pid)
    return process


class _Reader:
    """Reads one pipe as it fills, keeping head and tail."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self.ended = asyncio.Event()
        self._descriptor = descriptor
        self._keeper = HeadTail(limit)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> None:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        self._keeper.feed(self._decoder.decode(data, final=not data).replace("\0", ""))
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self.ended.set()

    def text(self) -> str:
        return utf8(self._keeper.text("send long output to a file and read parts of it"))


@contextlib.asynccontextmanager
async def _pipe(limit: int) -> AsyncIterator[tuple[_Reader, int]]:
    """Yield the reader of a new pipe and the end to write to; asyncio's own pipes would hide the process's end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    reader = _Reader(reading, limit)
    loop = asyncio.get_running_loop()
    loop.add_reader(reading, reader.read)
    try:
        yield reader, writing
    finally:
        loop.remove_reader(reading)
        os.close(reading)


async def _finish(process: asyncio.subprocess.Process, grace: float) -> None:
    """Stop the whole group: SIGTERM, then SIGKILL. A second cancellation must not stop us from doing so."""
    task = asyncio.ensure_future(_stop_group(process, grace))
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise
            _signal(process.pid, signal.SIGKILL)
            await asyncio.wait([task])
            raise


async def _stop_group(process: asyncio.subprocess.Process, grace: float) -> None:
    if not _signal(process.pid, signal.SIGTERM):
        await process.wait()
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace
    while loop.time() < deadline and _signal(process.pid, 0):  # noqa: ASYNC110 - the kernel has no event for it
        await asyncio.sleep(0.02)
    _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: int) -> bool:
    """Send a signal to a group; False when it is empty."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of zombies, and of programs that took other rights
        return False
    return True


def _result(code: int | None, seconds: float, stdout: str, stderr: str) -> ToolResult:
    if code is None:
        head = f"stopped after {seconds:g} s (the limit); the command and everything it had started was killed"
        number = TIMED_OUT
    elif code < 0:
        number = 128 - code  # as the shell reports a signal
        head = f"exit code {number} (killed by {_signal_name(-code)})"
    else:
        number, head = code, f"exit code {code}"
    parts = [head]
    parts += [f"stdout:\n{stdout.rstrip()}"] if stdout.strip() else []
    parts += [f"stderr:\n{stderr.rstrip()}"] if stderr.strip() else []
    if len(parts) == 1:
        parts.append("(no output)")
    # A step has only the value, in which 124 could be the command's own.
    note = f"{head}\n" if code is None else ""
    value = {"exit_code": number, "stdout": stdout, "stderr": f"{stderr}{note}"}
    return ToolResult(ok=number == 0, content="\n".join(parts), value=value, exit_code=number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
