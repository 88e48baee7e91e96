"""A process that has imported what a session needs, and becomes the installed command once for each request.

It runs as a program of its own, with one thread and nothing of pytest in it. `tests.preloaded` says what it is for.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

MOST = 1 << 20
"""Bytes of a request: a command's arguments and its environment."""
_CLONE_PARENT = 0x8000
_PR_SET_NAME = 15
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}


def preload() -> None:
    """Import what `orchestra run` imports sooner or later, of others and all of our own."""
    import orchestra

    own = [module.name for module in pkgutil.walk_packages(orchestra.__path__, "orchestra.")]
    for name in (*own, "langchain.agents", "langgraph.graph", "langgraph.checkpoint.sqlite.aio"):
        if not name.endswith("__main__"):
            importlib.import_module(name)


def serve(channel: socket.socket) -> dict[str, Any] | None:
    """Answer requests until nobody makes any more; returns the request in each process that is to be a command."""
    while True:
        message, fds, _, _ = socket.recv_fds(channel, MOST, 3)
        if not message:
            return None
        is_command = fork_a_sibling() == 0
        if is_command:
            request: dict[str, Any] = json.loads(message)
            become(request, fds)
            channel.send(str(os.getpid()).encode())
            channel.close()
            return request
        for fd in fds:
            os.close(fd)


def fork_a_sibling() -> int:
    """Fork, but that the new process is a child of this one's parent: that can wait for it as for any of its own."""
    api, libc = ctypes.pythonapi, ctypes.PyDLL(None)
    api.PyOS_BeforeFork()
    pid: int = libc.syscall(_SYS_CLONE[os.uname().machine], _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        api.PyOS_AfterFork_Child()
    else:
        api.PyOS_AfterFork_Parent()
    return pid


def become(request: dict[str, Any], fds: list[int]) -> None:
    """Take on all that a new process gets from who starts it."""
    if request["session"]:
        os.setsid()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    if request["terminal"]:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    own = {name: value for name, value in os.environ.items() if name == "LC_CTYPE"}  # what Python coerces C to
    os.environ.clear()
    os.environ.update(own | request["env"])
    sys.argv[:] = request["args"]
    sys.path[0] = str(Path(request["args"][0]).parent)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"orchestra", 0, 0, 0)
    open_standard_streams()


def open_standard_streams() -> None:
    """Make them as the interpreter does when it starts."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        through = old.write_through
        buffering = 0 if fd and through else -1
        binary: Any = open(fd, "wb" if fd else "rb", buffering=buffering, closefd=False)  # noqa: SIM115 - for good
        getattr(binary, "raw", binary).name = f"<{name}>"
        lines = not through and (fd == 2 or os.isatty(fd))
        new: Any = io.TextIOWrapper(binary, old.encoding, old.errors, "\n", lines, through)
        new.mode = "w" if fd else "r"
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


if __name__ == "__main__":
    preload()
    gc.collect()
    gc.freeze()
    given = serve(socket.socket(fileno=int(sys.argv[1])))
    if given is not None:
        from orchestra.cli.main import main

        main()
