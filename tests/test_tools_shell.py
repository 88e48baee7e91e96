# ruff: noqa: ASYNC240  a test may block its own loop
from __future__ import annotations

import asyncio
import os
import resource
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from orchestra.tools.process import run_command
from orchestra.tools.registry import ShellToolSpec, ToolResult, check_shell_tool, tool_registry
from tests.tools_support import Workspace, make_repo


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "backend", {"a.py": "x\n"})


def with_tool(
    root: Path, command: str, *, timeout: float | None = None, env: dict[str, str] | None = None, **args: Any
) -> Workspace:
    workspace = Workspace(root)
    spec = ShellToolSpec(repo="backend", name="t", command=command, args=args, timeout=timeout, env=env or {})
    workspace.tools = tool_registry.toolset(["backend"], [spec])
    return workspace


async def run(command: str, cwd: Path, seconds: float = 30.0) -> ToolResult:
    return await run_command(command, cwd=cwd, env={"PATH": os.environ["PATH"]}, seconds=seconds)


async def test_a_command_gives_exit_code_and_both_streams(root: Path) -> None:
    result = await Workspace(root).call("shell", command="cat a.py; pwd; echo oops >&2; exit 3")
    assert result.value == {"exit_code": 3, "stdout": f"x\n{root}\n", "stderr": "oops\n"}
    assert result.exit_code == 3
    assert not result.ok
    assert result.content == f"exit code 3\nstdout:\nx\n{root}\nstderr:\noops"
    assert (await Workspace(root).call("shell", command="true")).content == "exit code 0\n(no output)"


async def test_standard_input_is_empty_and_the_environment_is_what_was_given(root: Path) -> None:
    workspace = with_tool(root, "cat; env", env={"EXTRA": "1"})
    workspace.change("backend", env={"PATH": "/usr/bin:/bin", "ONLY": "this"})
    result = await workspace.call("t")
    names = {line.partition("=")[0] for line in result.value["stdout"].splitlines()}
    assert names - {"PWD", "_", "SHLVL", "OLDPWD"} == {"PATH", "ONLY", "EXTRA"}


async def test_output_of_any_bytes_comes_back_as_text(root: Path) -> None:
    result = await Workspace(root).call("shell", command=r"printf 'a\000b\377c\033[1m'")
    assert result.value["stdout"] == "ab\ufffdc\x1b[1m"


async def test_a_command_that_a_signal_ends_says_so(root: Path) -> None:
    result = await Workspace(root).call("shell", command="kill -SEGV $$")
    assert result.exit_code == 139
    assert "killed by SIGSEGV" in result.content


async def test_100_mb_of_output_are_not_held(root: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await Workspace(root).call(
        "shell", command="echo first; head -c 100000000 /dev/zero | tr '\\0' x; echo last"
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000, f"{grown} kB"
    stdout = result.value["stdout"]
    assert len(stdout) < 21_000
    assert stdout.startswith("first\n")
    assert stdout.endswith("last\n")
    assert "[… 99,980,011 characters cut; send long output to a file and read parts of it …]" in stdout
    assert len(result.content) <= 30_000


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def test_a_timeout_kills_grandchildren_that_ignore_sigterm(tmp_path: Path) -> None:
    command = "sh -c 'trap \"\" TERM; echo $$ > pid; while :; do sleep 1; done' & echo started; wait"
    began = time.monotonic()
    result = await run(command, tmp_path, seconds=0.5)
    assert time.monotonic() - began < 5
    assert not alive(int((tmp_path / "pid").read_text()))
    assert result.exit_code == 124
    said = "stopped after 0.5 s (the limit); the command and everything it had started was killed"
    assert result.value == {"exit_code": 124, "stdout": "started\n", "stderr": f"{said}\n"}
    assert said in result.content


async def test_what_a_command_leaves_running_is_stopped_when_it_ends(tmp_path: Path) -> None:
    result = await run("sleep 1000 & echo $!", tmp_path)
    assert result.ok
    assert not alive(int(result.value["stdout"]))


async def test_control_without_a_group_the_grandchild_survives(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 1000 & echo $! > pid", cwd=tmp_path)
    await process.wait()
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    os.kill(pid, 9)


async def test_a_child_that_left_the_group_does_not_hang_us(tmp_path: Path) -> None:
    began = time.monotonic()
    result = await run("setsid sleep 20 & echo $!; sleep 0.2", tmp_path)
    assert time.monotonic() - began < 8
    assert result.ok
    os.kill(int(result.value["stdout"]), 9)


async def test_a_cancelled_call_kills_its_group(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    task = asyncio.create_task(run("echo $$ > pid; echo > ready; sleep 1000", tmp_path))
    await asyncio.to_thread((tmp_path / "ready").read_text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    await run("true", tmp_path)
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(20):
        await run("echo x", tmp_path)
    assert len(list(Path("/dev/fd").iterdir())) == before


HOSTILE = [
    "$(touch canary)",
    "`touch canary`",
    "; touch canary",
    "&& touch canary",
    "|| touch canary",
    "| touch canary",
    "\ntouch canary\n",
    "'; touch canary; '",
    '"; touch canary; "',
    "'\"'\"'; touch canary #",
    "> canary",
    ">> canary",
    "& touch canary",
    "$((1+$(touch canary)))",
    "${x:-$(touch canary)}",
    "\\'; touch canary; \\'",
    "a'b",
    'a"b',
    "a b",
    "*",
    "~",
    "$HOME",
    "!!",
    "#",
    "\\",
    "\\\\",
    "'",
    "''",
    '"',
    "$'\\x27; touch canary'",
    "\ttouch canary",
    "\rtouch canary",
    "{a,b}",
    "[a-z]",
    "?",
    "-n",
    "--help",
    "-- ; touch canary",
    "é ü 漢字",
    "\u2028touch canary",
    "%s",
    "a\\\nb",
    "\x1b[31m",
    "x" * 50_000,
    "EOF\ntouch canary\nEOF",
    "{arg}",
    "{{arg}}",
    "{other}",
    "<(touch canary)",
    "=touch",
    "\x7f",
    "0",
    "%n%n",
    "\\n",
    "\\0",
    "$",
    "$$",
    "$?",
    "$1",
    '"$(touch canary)"',
    "'$(touch canary)'",
    "`",
    "``",
    "$(",
    ")",
    "}",
    "{",
    ";;",
    "&",
]


@pytest.mark.parametrize(
    "template",
    [
        "printf '%s' {arg}",
        "printf '%s' prefix={arg} | sed 's/^prefix=//'",
        "(printf '%s' {arg})",
        "x={arg}; printf '%s' \"$x\"",
        "printf '%s' $(true) {arg} # it's done",
    ],
)
async def test_values_reach_the_command_unchanged_and_run_nothing(root: Path, template: str) -> None:
    workspace = with_tool(root, template, arg={})
    names = sorted(root.iterdir())
    for value in HOSTILE:
        result = await workspace.call("t", arg=value)
        expected = value if len(value) < 20_000 else result.value["stdout"]
        assert result.value["stdout"].removesuffix("\n") == expected.removesuffix("\n"), value
        assert result.value["stderr"] == ""
    assert sorted(root.iterdir()) == names


def test_control_spliced_values_run(tmp_path: Path) -> None:
    ran = 0
    for value in HOSTILE:
        if len(value) < 1_000:
            subprocess.run(
                ["sh", "-c", f"printf %s {value}"], cwd=tmp_path, check=False, capture_output=True, timeout=10
            )
        ran += (tmp_path / "canary").exists()
        (tmp_path / "canary").unlink(missing_ok=True)
    assert ran >= 10


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ('echo "{arg}"', "inside quotes"),
        ("echo '{arg}'", "inside quotes"),
        ("echo `cat {arg}`", "inside backticks"),
        ("echo \\{arg}", "behind a backslash"),
        ("echo # {arg}", "in a comment"),
        ("cat <<EOF\n{arg}\nEOF", "here-document"),
        ("echo $((1 + {arg}))", "((…))"),
        ("echo ${x:-{arg}}", "inside '${…}'"),
        ('echo "$(cat {arg})"', "inside quotes"),
        ("echo $'a\\'{arg}'", "$'…'"),
        ("echo {agr} {arg}", "did you mean 'arg'?"),
        ("awk {print} {arg}", "write {{print}} for the text {print}"),
        ("echo", "is not used in the command"),
        ("", "empty"),
    ],
)
def test_placeholders_that_quoting_cannot_protect_are_refused(command: str, said: str) -> None:
    spec = ShellToolSpec(repo="r", name="t", command=command, args={"arg": {}})
    assert any(said in problem for problem in check_shell_tool(spec)), check_shell_tool(spec)


def test_control_a_quoted_value_inside_double_quotes_runs(tmp_path: Path) -> None:
    subprocess.run(["sh", "-c", f'echo "{shlex.quote("$(touch canary)")}"'], cwd=tmp_path, check=True)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "command",
    [
        "pytest -q {arg}",
        "FOO=1 make -C {arg}",
        "grep -rn -- {arg} | awk '{{print}} $1'",
        "echo ${HOME} {arg}",
        "test -n {arg} && echo 'it''s' \"ok\"",
        "f() { echo x; }; f {arg}",
        "echo a#b {arg}",
    ],
)
def test_usual_templates_are_accepted(command: str) -> None:
    assert check_shell_tool(ShellToolSpec(repo="r", name="t", command=command, args={"arg": {"default": ""}})) == []


def test_what_is_wrong_with_a_declaration_is_said_at_once() -> None:
    spec = ShellToolSpec(
        repo="r",
        name="t",
        command="echo {a}",
        timeout=0,
        env={"A=B": "x"},
        args={"a": {"defualt": "", "type": "text"}, "b": {"type": "array"}},
    )
    text = "\n".join(check_shell_tool(spec))
    for part in (
        "did you mean 'default'?",
        "unknown type 'text'",
        "unknown type 'array'",
        "'b' is not used",
        "more than 0",
        "'A=B'",
    ):
        assert part in text


async def test_empty_values_give_nothing_and_types_are_kept(root: Path) -> None:
    workspace = with_tool(
        root,
        "printf '<%s>' {path} {count} {flag} --x={path} {{path}}",
        path={"default": ""},
        count={"type": "integer", "default": 2},
        flag={"type": "boolean", "default": True},
    )
    assert (await workspace.call("t")).value["stdout"] == "<2><true><--x=><{path}>"
    result = await workspace.call("t", path="a b", count="3", flag=False)
    assert result.value["stdout"] == "<a b><3><false><--x=a b><{path}>"
    assert "NUL" in (await workspace.call("t", path="a\0b")).content
    assert "must be a whole number" in (await workspace.call("t", count="many")).content


async def test_a_shell_tool_obeys_its_own_limit(root: Path) -> None:
    result = await with_tool(root, "sleep 100", timeout=0.2).call("t")
    assert result.exit_code == 124
    assert "stopped after 0.2 s" in result.content
