"""Starts the installed command from a process that has imported LangGraph and LangChain already.

A session's imports take 1.6 s of a processor, several times what most sessions of tests take, and the tests start
hundreds of commands. Here a command is a process as real as any other: a child of who starts it, with an id, group,
streams, directory, environment, mask and terminal of its own. It runs `orchestra.cli.main.main` as the installed
script does, ends as an interpreter ends, and can be signalled and killed at any time. Only that its modules are there
when it begins, and that it was another process until then, which had one thread and nothing of pytest in it
(`preloader.py`). What Python and libraries read from the environment before `main` was the same for that one.

Left to the installed command in a new interpreter is what is about starting, imports or the package (`test_wheel`,
`test_demo`, `test_imports_are_lazy`, `test_pr_review`, the README, the tutorial, tests with the mark
`new_interpreter`), what a shell starts, drivers that `run --detach` starts, what is not plain (descriptors to inherit,
another user, an encoding), and everything where there is no Linux.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND = Path(sys.executable).with_name("orchestra")
"""The installed command."""
PATIENCE = 60.0
_EARLY = ("PYTHON", "LC_", "LANG", "TZ", "TYPER_", "PYDANTIC_", "WEBSOCKETS_", "LD_", "MALLOC_")
"""Beginnings of variables that are read before `main`: by Python, by libraries while they are imported."""
_USUAL = {"LANG", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
"""Those of them that many tests have in common; for each set of values there is a process to start from."""
WORKS = sys.platform == "linux" and platform.machine() in {"x86_64", "aarch64"}
"""Whether a process can be started from another one and be a child of this one."""


class Command(subprocess.Popen[str]):
    """The command, or whatever else; as `subprocess.Popen` in all but how it starts.

    Args:
        command: What to run.
        terminal: Whether its standard input becomes the terminal of a session of its own.
        fresh: Whether it starts in a new interpreter in any case.
        options: Those of `subprocess.Popen`.
    """

    def __init__(
        self, command: Sequence[str | Path], *, terminal: bool = False, fresh: bool = False, **options: Any
    ) -> None:
        self._in_terminal = terminal
        self._is_fresh = fresh or not WORKS
        if terminal:
            options["start_new_session"] = True
        super().__init__(list(map(str, command)), **options)

    def _execute_child(self, *args: Any) -> None:
        command, executable, preexec, _, pass_fds, cwd, env, *_, shell = args[:10]
        pipes, (gid, gids, uid, umask, session, group) = args[10:16], args[-6:]
        early = {name: value for name, value in (env or {}).items() if name.startswith(_EARLY)}
        is_odd = executable or preexec or pass_fds or shell or gid or gids or uid or (umask, group) != (-1, -1)
        if self._is_fresh or command[0] != str(COMMAND) or is_odd or env is None or not early.keys() <= _USUAL:
            preexec = _take_terminal if self._in_terminal else preexec
            super()._execute_child(command, executable, preexec, *args[3:])  # type: ignore[misc]
            return
        request = {
            "args": command,
            "cwd": str(cwd or Path.cwd()),
            "env": env,
            "umask": _umask(),
            "session": session,
            "terminal": self._in_terminal,
        }
        streams = [own if fd == -1 else fd for own, fd in enumerate((pipes[0], pipes[3], pipes[5]))]
        self.pid = _loader(early).start(request, streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(
    command: Sequence[str | Path],
    *,
    cwd: str | Path,
    env: Mapping[str, str],
    input: str | None = None,  # noqa: A002 - as in subprocess
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run the command as `subprocess.run` does; what it prints is captured as text."""
    words, stdin = list(map(str, command)), subprocess.DEVNULL if input is None else subprocess.PIPE
    out = err = subprocess.PIPE
    with Command(words, fresh=fresh, cwd=cwd, env=env, stdin=stdin, stdout=out, stderr=err, text=True) as process:
        try:
            printed, said = process.communicate(input, 110)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(words, process.returncode, printed, said)


class _Loader:
    """A process that becomes commands."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(PATIENCE)
        self._lock = threading.Lock()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("preloader.py"), str(other.fileno())],
                env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(self._end)

    def start(self, request: Mapping[str, Any], streams: Sequence[int]) -> int:
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
            return int(self._channel.recv(64))

    def _end(self) -> None:
        self._channel.close()
        self._process.wait(PATIENCE)


_loaders: dict[tuple[int, frozenset[tuple[str, str]]], _Loader] = {}
_lock = threading.Lock()


def _loader(environment: Mapping[str, str]) -> _Loader:
    """Return the process to start from with these variables; a fork of this one has its own, and its own children."""
    key = (os.getpid(), frozenset(environment.items()))
    with _lock:
        if key not in _loaders:
            _loaders[key] = _Loader(environment)
        return _loaders[key]


def _umask() -> int:
    """Return the mask of this process, without changing it as `os.umask` does."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("\nUmask:")[2].split()[0], 8)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
