"""What a tool is: its declaration, what it may reach, and what comes back to the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from orchestra.errors import OrchestraError
from orchestra.tools.arguments import explain_arguments, read_arguments
from orchestra.tools.output import LIMIT, cap, redact, utf8

if TYPE_CHECKING:
    import pathlib
    from asyncio import Future
    from collections.abc import Awaitable, Callable, Mapping, Sequence

DEFAULT_TIMEOUT = 600.0
"""Seconds for a shell tool or a Python tool that names no other limit."""


class GitOutput(Protocol):
    """What a git command gave."""

    @property
    def returncode(self) -> int:
        """The exit code."""

    @property
    def stdout(self) -> bytes:
        """What it printed."""

    @property
    def stderr(self) -> bytes:
        """What it complained about."""


class GitRunner(Protocol):
    """Git, hardened and bound to one repository; the only way in which tools call it."""

    async def __call__(self, *args: str, input: bytes | None = None, ok: tuple[int, ...] = (0,)) -> GitOutput:  # noqa: A002 - as subprocess names it
        """Run git and raise `GitError` for an exit code that is not in `ok`."""


@dataclass(frozen=True, slots=True)
class RepoContext:
    """One repository as an agent has it. Python tools get it for a parameter of this type."""

    name: str
    path: pathlib.Path | None
    """The worktree; None where the agent has none in this repository."""
    branch: str | None
    head: str
    """The commit the agent's files stand on; without a worktree exactly the files it sees."""
    dirty: bool
    env: Mapping[str, str]
    """The environment for processes that the agent starts, complete."""
    base: str
    """The commit the session started from."""
    merge_base: str | None
    """Where the user's HEAD left the default branch; None when no such branch is known."""
    git: GitRunner
    touched: Callable[[Sequence[str]], Awaitable[None]] | None = None
    """Told by built-in tools which paths they have written: that resolves a conflict in one."""


class ToolContext(Protocol):
    """What a tool call may reach."""

    @property
    def repos(self) -> tuple[str, ...]:
        """The names of the workspace's repositories."""

    async def repo(self, name: str) -> RepoContext:
        """Return a repository as the calling agent has it."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one tool call gave."""

    ok: bool
    content: str
    """For the model: capped text."""
    value: Any
    """JSON: `{"exit_code", "stdout", "stderr"}` of a command, `{"error"}` of a failed call, else the value itself."""
    exit_code: int | None = None


class ToolFailureError(Exception):
    """A call that can't be done as asked; its text is the message to the model: what is wrong, and what to do."""


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that agents and steps call by name."""

    name: str
    """As users write it: `backend:read-file`."""
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema of the arguments."""
    run: Callable[[Mapping[str, Any], ToolContext], Awaitable[ToolResult]]
    """Does the work with checked arguments. It may raise; call `invoke`, which does not."""
    writes: bool = False
    needs_worktree: bool = False
    repo: str | None = None
    kind: Literal["builtin", "shell", "python"] = "builtin"
    timeout: float | None = 120.0
    """Seconds after which a call is given up; None where the tool itself keeps the time."""

    async def invoke(self, args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Call the tool; whatever goes wrong becomes a message that the model can act on.

        Only `CancelledError` leaves this method, so that no tool ends a session.
        """
        try:
            values, problems = read_arguments(self.parameters, args)
            if problems:
                return failed(f"{self.name}: {explain_arguments(self.parameters, problems)}")
            result = await self._run_in_time(values, context)
        except ToolFailureError as failure:
            return failed(str(failure))
        except OrchestraError as error:
            return failed(error.message + (f" ({error.hint})" if error.hint else ""))
        except OSError as error:
            return failed(f"{self.name} failed: {error.strerror or type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - a tool is other people's code; nothing it raises may end a session
            return failed(f"{self.name} failed: {type(error).__name__}: {error}")
        return ToolResult(result.ok, utf8(cap(result.content)), result.value, result.exit_code)

    async def _run_in_time(self, values: Mapping[str, Any], context: ToolContext) -> ToolResult:
        import asyncio  # costs the command line 4 times the start of Python

        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                return await self.run(values, context)
        except TimeoutError:
            if not limit.expired():
                raise
            return failed(f"{self.name} did not end within {self.timeout:g} s and was stopped; ask for less at a time")


def failed(message: str) -> ToolResult:
    """Make the result of a call that could not be done."""
    text = utf8(cap(redact(message), LIMIT))
    return ToolResult(ok=False, content=text, value={"error": text})


def succeeded(text: str, value: Any = None) -> ToolResult:
    """Make the result of a call that gave text; the text is also its value unless another is named."""
    text = utf8(cap(text))
    return ToolResult(ok=True, content=text, value=text if value is None else value)


def worktree_of(repo: RepoContext) -> pathlib.Path:
    """Return the agent's worktree, or fail with the reason why there is none."""
    if repo.path is None:
        raise ToolFailureError(
            f"repository {repo.name!r} has no worktree here, so files can only be read (read-file, list-files, "
            "search-code, git-diff); say in your answer what you would have done"
        )
    return repo.path


async def in_thread(work: Callable[[], Result]) -> Result:
    """Run blocking file work in a thread; a cancelled call still waits for it, so no file changes after its end."""
    import asyncio

    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


def in_daemon(work: Callable[[], Any]) -> Future[Any]:
    """Run work in a daemon thread: one that hangs must not keep the process from ending, as a pool's would."""
    import asyncio
    import contextlib
    import contextvars
    import threading

    loop = asyncio.get_running_loop()
    future: Future[Any] = loop.create_future()
    variables = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = variables.run(work)
        except BaseException as caught:  # noqa: BLE001 - SystemExit of a tool, too, is a message to the agent
            # A future refuses StopIteration, and lets nothing else out of a thread than an Exception.
            plain = isinstance(caught, Exception) and not isinstance(caught, StopIteration)
            error = caught if plain else RuntimeError(f"{type(caught).__name__}: {caught}")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="orchestra-user-code", daemon=True).start()
    return future
