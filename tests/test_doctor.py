"""`orchestra doctor`: each condition made for real, each finding with its fix."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from orchestra.runtime import doctor
from orchestra.runtime import git as git_module
from orchestra.runtime.doctor import disk, machine, sqlite
from orchestra.runtime.doctor.finding import State
from orchestra.runtime.doctor.git import how_to_get_git
from orchestra.runtime.driver_lock import DriverLock
from orchestra.runtime.git_process import environment
from orchestra.runtime.store import SessionFiles
from orchestra.testing import git_repo
from tests.gitkit import fingerprint
from tests.integration.test_machine_faults import mounts, read_only
from tests.session_support import agent, chain, database, in_a_child, run_and_kill, says, writes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.runtime.doctor.finding import Finding
    from orchestra.testing import GitRepo
    from tests.conftest import Workshop

ONE = {"name": "one", "agents": {"writer": agent(tools=["write-file"])}, "graph": chain("writer")}
SCRIPT = {"writer": [[writes("new.txt", "new\n"), says("done")]]}
CHECKS = {"orchestra", "python", "sqlite", "git", "repos", "project", "keys", "sandbox", "disk", "locks", "sessions"}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def here(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """The workshop, with its repository as the current directory."""
    monkeypatch.chdir(workshop.repo.path)
    return workshop


def examine(pipeline: str | Path | None = None) -> list[Finding]:
    found = asyncio.run(doctor.examine(None if pipeline is None else str(pipeline)))
    for finding in found:
        assert finding.status is State.OK or finding.as_json()["fix"], finding
    return found


def bad(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check and finding.status is not State.OK]


def the_one(findings: list[Finding], check: str, state: State = State.WARNING) -> Finding:
    (finding,) = bad(findings, check)
    assert finding.status is state, finding
    return finding


def completed(workshop: Workshop) -> str:
    result = asyncio.run(workshop.run(workshop.pipeline(ONE, script=SCRIPT)))
    assert result.record.status == "completed"
    return result.record.session_id


def interrupted(workshop: Workshop) -> str:
    killed = run_and_kill(workshop, workshop.pipeline(ONE, script=SCRIPT), "snapshot-taken")
    assert killed.session
    assert not killed.finished
    return killed.session


def sessions(workshop: Workshop) -> Path:
    return workshop.repo.path / ".orchestra" / "sessions"


def type_in(finding: Finding, cwd: Path) -> None:
    """Type the commands of a finding into a shell."""
    for command in finding.commands:
        subprocess.run(["bash", "-ec", command], cwd=cwd, check=True, capture_output=True)


# --- anywhere, and without a trace


def test_a_sound_project_gets_a_line_from_every_check_and_exit_0(workshop: Workshop) -> None:
    completed(workshop)

    found = workshop.json("doctor", ANTHROPIC_API_KEY="sk-ant-0123456789")

    assert {finding["check"] for finding in found} >= CHECKS
    assert [f for f in found if f["status"] != "ok" and f["check"] != "sandbox"] == []
    assert list(found[0]) == ["check", "status", "message", "fix", "commands", "details"]
    assert "sk-ant" not in json.dumps(found)


def test_nothing_is_written_whatever_there_is_to_see(workshop: Workshop) -> None:
    completed(workshop)
    interrupted(workshop)
    (sessions(workshop) / "half").mkdir(mode=0o700)

    def everything() -> dict[str, Any]:
        paths = sorted(path for path in workshop.home.parent.rglob("*") if not path.name.endswith("-shm"))
        return {str(path): (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in paths}

    before, user = everything(), fingerprint(workshop.repo.path)
    assert workshop.cli("doctor").returncode == 0
    assert workshop.cli("doctor", workshop.pipelines / "pipeline.yaml", "--json").returncode == 0
    assert everything() == before
    assert fingerprint(workshop.repo.path) == user


@pytest.mark.parametrize("args", [(), ("pr-review",), ("no-such-pipeline",), ("no/such.yaml",)], ids=str)
def test_it_works_outside_of_any_repository(workshop: Workshop, tmp_path: Path, args: tuple[str, ...]) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()

    done = workshop.cli("doctor", *args, cwd=nowhere)

    assert (done.returncode, done.stderr) == (0, "")
    assert "in no git repository" in " ".join(done.stdout.split())
    assert ("error    pipeline" in done.stdout) == any("no" in arg for arg in args)
    assert list(nowhere.iterdir()) == []


def test_it_works_in_a_directory_that_was_deleted(workshop: Workshop, tmp_path: Path) -> None:
    command = f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && orchestra doctor"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], env=workshop.environment(PATH=path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the current directory was deleted" in done.stdout
    assert "ok       python" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_broken_project_file_is_a_finding_and_the_rest_is_still_looked_at(here: Workshop) -> None:
    session = interrupted(here)
    (here.repo.path / "orchestra.yaml").write_text("paths: [a]\npipelins: {}\n")

    found = examine()

    broken = the_one(found, "project", State.ERROR)
    assert "orchestra.yaml is wrong, line 2" in broken.message
    assert broken.fix == "did you mean 'pipelines'?"
    assert the_one(found, "sessions").commands == (f"orchestra resume {session}",)


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(here: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "size", lambda count: count.nonsense)

    found = examine()

    broken = the_one(found, "disk", State.ERROR)
    assert "this check broke: AttributeError" in broken.message
    assert "orchestra --debug doctor" in str(broken.fix)
    assert {finding.check for finding in found} >= CHECKS
    with pytest.raises(AttributeError):
        asyncio.run(doctor.examine(debug=True))


def test_a_wrong_pipeline_is_named_with_the_command_that_shows_all_of_it(here: Workshop) -> None:
    path = here.pipelines / "wrong one.yaml"
    path.write_text("name: wrong\nagents: {a: {task: {template: x}, modl: m}}\ngraph: [{from: START, to: a}]\n")

    finding = the_one(examine(path), "pipeline", State.ERROR)

    assert "line 2" in finding.message
    assert finding.commands == (f"orchestra compile '{path}'",)


def test_no_code_of_the_project_is_run(here: Workshop) -> None:
    condition = "open('/'.join(__file__.split('/')[:-2]) + '/ran', 'w')\n"
    files = {"conditions/evil.py": condition, "tools/evil.py": condition}
    path = here.pipeline({**ONE, "state": "evil:State"}, script=SCRIPT, files=files)
    examine(path)
    assert not (here.pipelines / "ran").exists()


def test_nothing_that_a_repository_configures_is_run(here: Workshop) -> None:
    session = interrupted(here)
    canary = here.home / "ran"
    touch = f"touch {canary};"
    settings = {
        "core.fsmonitor": touch,
        "core.pager": touch,
        "core.editor": touch,
        "core.sshCommand": touch,
        "credential.helper": f"!{touch}",
        "filter.x.clean": touch,
        "filter.x.process": touch,
        "diff.external": touch,
        "gpg.program": touch,
        "alias.version": f"!{touch}",
        "remote.origin.url": str(here.repo.path),
        "remote.origin.uploadpack": f"{touch} git-upload-pack",
        "remote.origin.promisor": "true",
        "extensions.partialClone": "origin",
        "core.repositoryFormatVersion": "1",
    }
    for key, value in settings.items():
        here.repo.git("config", key, value)
    (here.repo.path / ".gitattributes").write_text("* filter=x\n")
    hook = here.repo.path / ".git" / "hooks" / "reference-transaction"
    hook.write_text(f"#!/bin/sh\n{touch}\n")
    hook.chmod(0o755)
    with sqlite3.connect(database(here, session)) as connection:
        (stored,) = connection.execute("SELECT workspace FROM sessions").fetchone()
        workspace = json.loads(stored)
        workspace["repo"]["base"] = "1" * 40
        connection.execute("UPDATE sessions SET workspace = ?", (json.dumps(workspace),))

    found = examine()

    assert any("lacks the commit" in finding.message for finding in found)
    assert not canary.exists()


# --- what people see


def test_the_report_fits_80_columns_and_ends_with_a_summary(workshop: Workshop) -> None:
    interrupted(workshop)

    lines = workshop.cli("doctor").stdout.splitlines()

    commands = ("orchestra ", "docker ", "export ", "python3 ", "rm ")
    long = [line for line in lines if len(line) > 80 and not line.removeprefix(" " * 20)[5:].startswith(commands)]
    assert [line for line in long if str(workshop.repo.path) not in line] == []
    assert lines[-2] == ""
    assert lines[-1].split(";")[0] in {f"{count} warnings" for count in (3, 4, 5)}
    starts = {line[:9] for line in lines[:-2] if not line.startswith(" ")}
    assert starts == {"ok       ", "warning  "}


def test_many_findings_of_one_kind_are_counted_and_json_has_them_all(workshop: Workshop) -> None:
    sessions(workshop).mkdir(parents=True)
    for number in range(30):
        (sessions(workshop) / f"abcdef{number:02}").mkdir(mode=0o700)

    shown = workshop.cli("doctor").stdout

    assert shown.count("was killed before it began") == 10
    assert "… and 20 more: orchestra doctor --json" in shown
    found = workshop.json("doctor")
    assert sum("abcdef" in finding["message"] for finding in found) == 30


def test_hostile_names_steer_neither_the_terminal_nor_the_shell(workshop: Workshop) -> None:
    sessions(workshop).mkdir(parents=True)
    for name in ("x; touch pwned", "$(touch pwned)", "\x1b[31mred\x1b]0;title\x07", "a\nb", "\u202egpj"):
        (sessions(workshop) / name).mkdir()
    lock = workshop.repo.path / ".git" / "refs" / "heads" / "'; touch pwned; '\x1b[2J.lock"
    lock.touch()

    shown = workshop.cli("doctor").stdout
    found = workshop.cli("doctor", "--json").stdout

    for text in (shown, found):
        assert not {char for char in text if char != "\n" and not char.isprintable()}
    fixes = [command for finding in json.loads(found) for command in finding["commands"] if command.startswith("rm ")]
    assert len(fixes) == 6
    for fix in fixes:
        subprocess.run(["bash", "-ec", fix], cwd=workshop.repo.path, check=True)
    assert list(sessions(workshop).iterdir()) == []
    assert not lock.exists()
    assert not (workshop.repo.path / "pwned").exists()


# --- git, Python, SQLite, sandbox


def fake_git(directory: Path, version: str) -> str:
    directory.mkdir()
    script = directory / "git"
    script.write_text(f"#!/bin/sh\necho git version {version}\n")
    script.chmod(0o755)
    return str(directory)


def test_an_old_git_is_an_error_that_says_how_to_get_a_newer_one(workshop: Workshop, tmp_path: Path) -> None:
    path = fake_git(tmp_path / "old", "2.34.1")

    found = workshop.json("doctor", PATH=f"{path}:{os.environ['PATH']}")

    (finding,) = [finding for finding in found if finding["check"] == "git"]
    assert finding["status"] == "error"
    assert "git 2.34.1 is too old: Orchestra needs 2.38 or newer" in finding["message"]
    assert path in finding["message"]
    assert "git" in finding["fix"]
    (repos,) = [finding for finding in found if finding["check"] == "repos"]
    assert "not looked at" in repos["message"]


def test_without_git_the_rest_is_still_looked_at(workshop: Workshop, tmp_path: Path) -> None:
    session = interrupted(workshop)
    empty = tmp_path / "empty"
    empty.mkdir()

    found = workshop.json("doctor", PATH=str(empty))

    by_check = {finding["check"]: finding for finding in found}
    assert by_check["git"]["message"] == "git is not installed, or not in PATH"
    assert by_check["git"]["status"] == "error"
    assert by_check["sessions"]["commands"] == [f"orchestra resume {session}"]


def test_each_system_gets_git_in_its_own_way() -> None:
    ubuntu = how_to_get_git({"ID": "ubuntu", "ID_LIKE": "debian"})
    assert "2.34" in ubuntu[0]
    assert "sudo add-apt-repository ppa:git-core/ppa" in ubuntu[1]
    debian = how_to_get_git({"ID": "debian", "VERSION_CODENAME": "bullseye"})
    assert "sudo apt-get install -t bullseye-backports git" in debian[1]
    assert how_to_get_git({"ID": "darwin"})[1] == ("brew install git",)
    assert "git-scm.com" in how_to_get_git({})[0]


def test_an_old_python_is_an_error() -> None:
    assert machine.python((3, 10, 4)).status is State.ERROR
    assert machine.python((3, 11, 0)).status is State.OK


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_the_versions_of_sqlite_with_the_wal_reset_bug(version: tuple[int, ...], affected: bool) -> None:
    finding = sqlite.judge(version, json=True)
    assert finding.status is State.OK  # a session's database has one writer
    assert ("one writer" in finding.message) == affected


def test_an_sqlite_without_json_operators_is_an_error_and_this_one_has_them(here: Workshop) -> None:
    assert sqlite.judge((3, 37, 2), json=False).status is State.ERROR
    (finding,) = [finding for finding in examine() if finding.check == "sqlite"]
    assert finding.details["version"] == sqlite3.sqlite_version
    assert finding.details["json"] is True


def test_that_there_is_no_sandbox_is_said_with_what_to_do() -> None:
    outside = machine.sandbox("/usr/bin/bwrap", container=False)
    assert outside.status is State.WARNING
    assert "none in this release" in outside.message
    assert "/usr/bin/bwrap, but not used" in outside.message
    assert "container or a virtual machine" in str(outside.fix)
    inside = machine.sandbox(None, container=True)
    assert inside.status is State.OK
    assert "bubblewrap is not installed" in inside.message


# --- repositories


def test_a_checkout_in_the_middle_of_a_merge_is_an_error_with_the_way_out(here: Workshop) -> None:
    (here.repo.path / ".git" / "MERGE_HEAD").write_text(here.repo.head + "\n")
    finding = the_one(examine(), "repos", State.ERROR)
    assert "in the middle of a merge" in finding.message
    assert "git merge --abort" in str(finding.fix)


def test_a_repository_of_another_user_is_an_error_with_the_line_to_type(
    here: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root could give it to somebody; git has a variable for tests, which Orchestra keeps from it."""
    variables = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    monkeypatch.setattr(
        git_module, "environment", lambda overrides, *, durable: environment(overrides, durable=durable) | variables
    )
    finding = the_one(examine(), "repos", State.ERROR)
    assert "belongs to another user" in finding.message
    assert "git config --global --add safe.directory" in str(finding.fix)


def test_the_repos_of_a_pipeline_and_of_the_projects_pipelines_are_looked_at(here: Workshop, tmp_path: Path) -> None:
    for name in ("backend", "frontend"):
        git_repo(tmp_path / name)
    (tmp_path / "frontend" / ".git" / "rebase-merge").mkdir()
    for name in ("backend", "frontend"):
        workspace = {"repos": {name: {"path": str(tmp_path / name)}}}
        here.pipeline({**ONE, "agents": {"writer": agent()}, "workspace": workspace}, script={}, name=f"{name}.yaml")
    (here.repo.path / "orchestra.yaml").write_text(
        yaml.safe_dump({"pipelines": {"front": str(here.pipelines / "frontend.yaml"), "gone": "gone.yaml"}})
    )

    found = examine(here.pipelines / "backend.yaml")

    fine = [finding.details["path"] for finding in found if finding.check == "repos" and finding.status is State.OK]
    assert fine == [str(tmp_path / "backend"), str(here.repo.path)]
    assert "in the middle of a rebase" in the_one(found, "repos", State.ERROR).message
    assert "'gone' has no file" in the_one(found, "pipeline", State.ERROR).message


# --- keys


def keys(found: list[Finding]) -> dict[str, State]:
    return {finding.details["provider"]: finding.status for finding in found if finding.check == "keys"}


def test_one_of_the_usual_keys_is_enough(here: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine()
    assert keys(found) == {"anthropic": State.WARNING, "openai": State.WARNING}
    assert bad(found, "keys")[0].commands == ("export ANTHROPIC_API_KEY=…",)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    found = examine()
    assert keys(found) == {"anthropic": State.OK, "openai": State.OK}
    assert "sk-0123456789abcdef" not in repr(found)


PROVIDERS = {
    "default": "router",
    "router": {"type": "openai", "api_base": "https://router.example/v1", "api_key_env": "ROUTER_KEY"},
    "other": {"type": "cohere"},
    "local": {"type": "openai", "api_base": "http://127.0.0.1:8080/v1"},
}


def test_the_keys_of_the_projects_providers_are_looked_at(here: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    (here.repo.path / "orchestra.yaml").write_text(yaml.safe_dump({"providers": PROVIDERS}))
    found = examine()
    assert keys(found) == {"router": State.WARNING, "other": State.OK, "local": State.OK}
    assert the_one(found, "keys").commands == ("export ROUTER_KEY=…",)
    monkeypatch.setenv("ROUTER_KEY", "secret-0123456789\n")
    finding = the_one(examine(), "keys")
    assert "white space" in finding.message
    assert "secret" not in repr(finding)


def test_what_a_pipelines_agents_need_and_lack_is_an_error(here: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = {"a": agent(), "b": agent(provider="other")}
    path = here.pipeline({"name": "two", "providers": PROVIDERS, "agents": agents, "graph": chain("a", "b")})
    monkeypatch.setenv("ROUTER_KEY", "secret-0123456789")

    findings = [finding for finding in examine(path) if finding.check == "keys"]

    problems = [finding for finding in findings if finding.status is State.ERROR]
    assert {finding.details["provider"] for finding in problems} == {"other"}
    assert "pip install langchain-cohere" in [finding.fix for finding in problems]
    assert [finding.message for finding in findings if finding.status is State.OK] == [
        "router: ROUTER_KEY is set",
        "local: needs no key",
    ]


# --- disk


def test_little_space_is_a_warning_and_none_an_error(here: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    path = here.repo.path
    assert disk.space(path, 1 << 30).status is State.OK
    assert disk.space(path, (1 << 30) - 1).status is State.WARNING
    assert disk.space(path, (100 << 20) - 1).status is State.ERROR
    assert disk.space(path, 1 << 40, inodes=0).status is State.ERROR
    monkeypatch.setattr(disk, "WARN_BELOW", 1 << 60)
    finding = the_one(examine(), "disk")
    free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
    assert abs(finding.details["free_bytes"] - free) < 1 << 30
    type_in(finding, path)


def test_the_size_of_what_orchestra_keeps_is_told(here: Workshop) -> None:
    completed(here)
    (here.repo.path / ".orchestra" / "large").write_bytes(b"x" * (3 << 20))
    (finding,) = [finding for finding in examine() if finding.check == "disk" and "bytes" in finding.details]
    assert 3 << 20 < finding.details["bytes"] < 5 << 20
    assert "MiB" in finding.message


@pytest.mark.parametrize("kind", ["link", "file"])
def test_something_else_in_the_place_of_orchestras_directory_is_an_error(
    here: Workshop, tmp_path: Path, kind: str
) -> None:
    own = here.repo.path / ".orchestra"
    own.symlink_to(tmp_path) if kind == "link" else own.write_text("")
    finding = the_one(examine(), "disk", State.ERROR)
    type_in(finding, here.repo.path)
    assert bad(examine(), "disk") == []


@contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """Give up root's rights for a while, where there are any."""
    root = os.geteuid() == 0
    if root:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("name", [".", ".git"])
def test_a_directory_that_cant_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary).resolve()
        git_repo(top, {"a.txt": "a\n"})
        monkeypatch.chdir(top)
        monkeypatch.setenv("HOME", "/nonexistent")  # that of root must not be looked at
        with as_nobody(top):
            (top / name).chmod(0o500)
            finding = the_one(examine(), "disk", State.ERROR)
            (top / name).chmod(0o700)
            assert bad(examine(), "disk") == []
    assert finding.details["path"] == str(top / name)
    assert f"chmod u+rwx {top / name}" in finding.commands


@mounts
def test_a_read_only_file_system_is_no_matter_of_modes(here: Workshop) -> None:
    place = here.repo.path / ".git"
    with read_only(place):
        finding = the_one(examine(), "disk", State.ERROR)
    assert "mounted read-only" in finding.message
    assert finding.commands == (f"findmnt -T {place}",)


def test_sessions_that_cant_be_listed_make_nothing_a_leftover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the worktrees of sound sessions were shown as nobody's, with the commands that remove them."""
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary).resolve()
        git_repo(top, {"a.txt": "a\n"}).git("update-ref", "refs/orchestra/abcdefgh/base", "HEAD")
        kept = top / ".orchestra" / "sessions"
        kept.mkdir(parents=True)
        monkeypatch.chdir(top)
        monkeypatch.setenv("HOME", "/nonexistent")
        with as_nobody(top):
            kept.chmod(0)
            found = examine()
            kept.chmod(0o700)
    assert "can't be listed" in the_one(found, "sessions", State.ERROR).message
    assert the_one(found, "leftovers").commands == ()


# --- locks


@contextmanager
def holding(path: Path, comm: str = "") -> Iterator[int]:
    """A real process that makes a file and holds it open."""
    program = f"f = open({str(path)!r}, 'a'); print('ready', flush=True); input()"
    command = [comm or sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.write("\n")
        process.stdin.close()


PLACES = ["index.lock", "HEAD.lock", "packed-refs.lock", "config.lock", "refs/heads/topic/x.lock"]


@pytest.mark.parametrize("name", PLACES)
def test_a_lock_of_git_that_a_process_holds_is_named_with_the_process(here: Workshop, name: str) -> None:
    lock = here.repo.path / ".git" / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    with holding(lock) as pid:
        finding = the_one(examine(), "locks")
    assert str(lock) in finding.message
    assert f"held by process {pid} (" in finding.message
    assert str(finding.fix).startswith(f"wait for process {pid} (")
    assert finding.commands == ()
    assert finding.details["pids"] == [pid]


@pytest.mark.parametrize("name", [*PLACES, "worktrees/side/index.lock"])
def test_a_lock_of_git_that_nobody_holds_gives_its_age_and_what_to_type(here: Workshop, name: str) -> None:
    here.repo.git("worktree", "add", "--detach", str(here.home / "side"))
    lock = here.repo.path / ".git" / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    os.utime(lock, (lock.stat().st_mtime - 3 * 86_400,) * 2)

    finding = the_one(examine(), "locks")

    assert "3 d" in finding.message
    assert "no process holds it open" in finding.message
    assert lock.exists()
    type_in(finding, here.repo.path)
    assert bad(examine(), "locks") == []


def test_a_git_that_waits_for_its_editor_holds_no_file_but_is_seen(here: Workshop) -> None:
    """As in `git commit`: the lock is closed, git waits; to remove it then would break the commit."""
    here.repo.write({"app.py": "x = 2\n"})
    ready, go = here.home / "ready", here.home / "go"
    os.mkfifo(ready)
    os.mkfifo(go)
    editor = f"sh -c 'echo > {ready}; read x < {go}; echo message > \"$1\"' -"
    env = here.environment(GIT_EDITOR=editor, GIT_AUTHOR_NAME="A", GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="A")
    env["GIT_COMMITTER_EMAIL"] = "a@b"
    with subprocess.Popen(["git", "commit", "-a", "-q"], cwd=here.repo.path, env=env) as process:
        ready.read_text()
        found = bad(examine(), "locks")
        go.write_text("\n")
    assert process.returncode == 0
    (finding,) = found
    assert finding.details["pids"] == [process.pid]
    assert f"wait for process {process.pid} (git)" in str(finding.fix)


def test_a_session_that_is_driven_is_named_with_its_driver_and_is_no_trouble(here: Workshop) -> None:
    session = interrupted(here)
    lock = DriverLock(SessionFiles(sessions(here) / session))
    lock.acquire()

    found = examine()
    lock.release()

    (finding,) = [finding for finding in found if finding.check == "locks"]
    assert (finding.status, finding.details["session_id"]) == (State.OK, session)
    assert f"pid {os.getpid()} on {os.uname().nodename}" in finding.message
    assert bad(found, "sessions") == []


@contextmanager
def orphan_of(session: Path) -> Iterator[int]:
    """A command that outlives its killed driver and holds the session's lock."""
    pid_file = session.parent / "orphan"

    def drive_and_die() -> None:
        lock = DriverLock(SessionFiles(session))
        lock.acquire()
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fd], start_new_session=True)
        pid_file.write_text(str(orphan.pid))
        os._exit(0)

    assert in_a_child(drive_and_die) == 0
    pid = int(pid_file.read_text())
    pid_file.unlink()
    try:
        yield pid
    finally:
        subprocess.run(["kill", str(pid)], check=False, stderr=subprocess.DEVNULL)


def test_commands_of_a_dead_driver_are_named_with_how_to_end_them(here: Workshop) -> None:
    session = interrupted(here)

    with orphan_of(sessions(here) / session) as pid:
        finding = the_one(examine(), "locks")

    assert "is gone, but commands that it started still run" in finding.message
    assert f"{pid} (sleep)" in finding.message
    assert finding.commands == (f"kill {pid}", f"orchestra resume {session}")


def test_a_lock_in_a_sessions_own_worktree_is_left_to_its_resume(here: Workshop) -> None:
    session = interrupted(here)
    lock = here.repo.path / ".git" / "worktrees" / "_session" / "index.lock"
    lock.touch()
    finding = the_one(examine(), "locks")
    assert finding.commands == (f"orchestra resume {session}",)
    assert here.cli("resume", session).returncode == 0
    assert not lock.exists()


# --- sessions


def test_an_interrupted_session_is_found_and_its_fix_ends_it(here: Workshop) -> None:
    session = interrupted(here)
    finding = the_one(examine(), "sessions")
    assert finding.commands == (f"orchestra resume {session}",)
    assert here.cli(*shlex.split(finding.commands[0])[1:]).returncode == 0
    assert bad(examine(), "sessions") == []


def test_what_a_kill_left_of_a_session_before_it_began_is_found(here: Workshop) -> None:
    run_and_kill(here, here.pipeline(ONE, script=SCRIPT), "session-prepared")
    finding = the_one(examine(), "sessions")
    assert "killed before it began" in finding.message
    assert "the next `orchestra run`" in str(finding.fix)
    completed(here)
    found = examine()
    assert bad(found, "sessions") + bad(found, "leftovers") == []


def test_a_directory_among_the_sessions_that_is_not_orchestras_is_for_the_user_to_remove(here: Workshop) -> None:
    directory = sessions(here) / "my notes"
    directory.mkdir(0o700, parents=True)
    (directory / "note.txt").write_text("mine\n")
    finding = the_one(examine(), "sessions")
    assert "does not look like its own" in str(finding.fix)
    assert "no database" in finding.message
    type_in(finding, here.repo.path)
    assert bad(examine(), "sessions") == []


def test_a_session_that_is_being_made_is_no_leftover(here: Workshop) -> None:
    directory = sessions(here) / "abcdefgh"
    directory.mkdir(0o700, parents=True)
    lock = DriverLock(SessionFiles(directory))
    lock.acquire()
    assert bad(examine(), "sessions") == []
    lock.release()
    assert "killed before it began" in the_one(examine(), "sessions").message


def test_a_half_made_session_whose_commands_still_run_is_not_to_be_removed_yet(here: Workshop) -> None:
    directory = sessions(here) / "abcdefgh"
    directory.mkdir(0o700, parents=True)
    with orphan_of(directory) as pid:
        finding = the_one(examine(), "sessions")
    assert finding.commands == (f"kill {pid}",)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no database", "no JSON"])
def test_a_damaged_database_is_an_error_and_the_other_sessions_are_still_judged(here: Workshop, damage: str) -> None:
    other = interrupted(here)
    session = completed(here)
    path = database(here, session)
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:5000])
        case "empty":
            path.write_bytes(b"")
        case "no database":
            path.write_bytes(b"rubbish " * 1000)
        case "no JSON":
            with sqlite3.connect(path) as connection:
                connection.execute("UPDATE sessions SET usage = '['")

    found = bad(examine(), "sessions")

    (finding,) = [finding for finding in found if finding.status is State.ERROR]
    assert str(path) in finding.message
    assert [finding.commands for finding in found if finding.status is State.WARNING] == [
        (f"orchestra resume {other}",)
    ]
    type_in(finding, here.repo.path)
    assert len(bad(examine(), "sessions")) == 1


def test_a_database_that_another_program_locks_is_named_with_the_program(here: Workshop) -> None:
    session = interrupted(here)
    program = (
        f"import sqlite3; c = sqlite3.connect({str(database(here, session))!r}, isolation_level=None);"
        "c.execute('PRAGMA locking_mode=EXCLUSIVE'); c.execute('BEGIN EXCLUSIVE');"
        "c.execute('PRAGMA user_version = 1'); print('ready', flush=True); input()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        found = bad(examine(), "sessions")
        process.stdin.write("\n")
        process.stdin.close()
    (finding,) = found
    assert finding.status is State.ERROR
    assert f"held by process {process.pid} (" in finding.message


def test_a_session_of_a_newer_orchestra_is_a_warning(here: Workshop) -> None:
    with sqlite3.connect(database(here, completed(here))) as connection:
        connection.execute("UPDATE sessions SET version = 99")
    finding = the_one(examine(), "sessions")
    assert "newer Orchestra" in finding.message
    assert "upgrade" in str(finding.fix)


def test_a_session_whose_copy_of_the_pipeline_is_gone_cant_go_on(here: Workshop) -> None:
    session = interrupted(here)
    next((sessions(here) / session / "pipeline" / "0").glob("*.yaml")).unlink()
    errors = [finding for finding in bad(examine(), "sessions") if finding.status is State.ERROR]
    assert "lacks its copy of the pipeline" in errors[0].message
    assert here.cli("resume", session).returncode != 0


def run_over(workshop: Workshop, path: Path) -> None:
    workspace = {"repos": {"far": {"path": str(path)}}}
    pipeline = workshop.pipeline({**ONE, "workspace": workspace}, script=SCRIPT)
    assert run_and_kill(workshop, pipeline, "snapshot-taken").session


@pytest.mark.parametrize("what", ["gone", "another", "no base"])
def test_a_session_whose_repository_is_gone_or_another_is_found(here: Workshop, tmp_path: Path, what: str) -> None:
    far = tmp_path / "far"
    repo: GitRepo = git_repo(far, {"a.txt": "a\n"})
    if what == "no base":
        repo.write({"a.txt": "dirty\n"})  # so that the base is a commit of Orchestra's own
    run_over(here, far)
    if what == "no base":
        for ref in repo.git("for-each-ref", "--format=%(refname)", "refs/orchestra").splitlines():
            repo.git("update-ref", "-d", ref)
        repo.git("worktree", "remove", "--force", "--force", str(next((far / ".orchestra" / "worktrees").glob("*/*"))))
        for branch in repo.git("branch", "--format=%(refname)", "--list", "orchestra/*").splitlines():
            repo.git("update-ref", "-d", branch)
        repo.git("gc", "--quiet", "--prune=now")
    else:
        far.rename(tmp_path / "moved")
    if what == "another":
        git_repo(far, {"other.txt": "b\n"})

    (found,) = [finding for finding in bad(examine(), "sessions") if "far" in finding.message]

    assert ("is not at" if what == "gone" else "lacks the commit") in found.message


def test_a_repository_that_was_renamed_with_its_session_is_moved_back(here: Workshop, monkeypatch: Any) -> None:
    session, old = interrupted(here), here.repo.path
    new = old.rename(old.with_name("renamed"))
    monkeypatch.chdir(new)

    finding = the_one(examine(), "sessions")  # and none that sends one to `orchestra resume` now
    refused = here.cli("resume", session, cwd=new)

    assert finding.commands == (f"mv {new} {old}",)
    assert f"hint: `mv {new} {old}`, then resume again there" in refused.stderr
    type_in(finding, new)
    monkeypatch.chdir(old)
    assert here.cli("resume", session, cwd=old).returncode == 0


def test_what_belongs_to_no_session_is_found_and_its_fix_removes_exactly_that(here: Workshop) -> None:
    stays, goes = interrupted(here), interrupted(here)
    subprocess.run(["rm", "-r", str(sessions(here) / goes)], check=True)
    refs = here.repo.git("for-each-ref", f"refs/orchestra/{stays}")

    finding = the_one(examine(), "leftovers")

    assert finding.details["session_id"] == goes
    assert str(sessions(here) / goes) in finding.message
    assert "another project" in str(finding.fix)
    type_in(finding, here.repo.path)
    assert bad(examine(), "leftovers") == []
    assert here.repo.git("for-each-ref", f"refs/orchestra/{goes}") == ""
    assert goes not in here.repo.git("worktree", "list")
    assert here.repo.git("for-each-ref", f"refs/orchestra/{stays}") == refs
    assert here.cli("resume", stays).returncode == 0


def test_a_worktree_whose_directory_is_gone_can_be_removed_too(here: Workshop) -> None:
    session = interrupted(here)
    subprocess.run(["rm", "-r", str(here.repo.path / ".orchestra")], check=True)
    finding = the_one(examine(), "leftovers")
    assert finding.details["session_id"] == session
    type_in(finding, here.repo.path)
    assert bad(examine(), "leftovers") == []
    assert here.repo.git("worktree", "list").count("\n") == 0


# --- traces


def test_where_traces_go_is_said_only_where_some_are_sent(here: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> list[tuple[State, str]]:
        return [(finding.status, finding.message) for finding in examine() if finding.check == "traces"]

    assert told() == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:secret@collector.example:4318/x")
    monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_secret")
    monkeypatch.setenv("LANGSMITH_HIDE_INPUTS", "false")
    assert told() == [
        (State.OK, "OpenTelemetry: traces go to collector.example:4318, without contents"),
        (State.OK, "LangSmith: traces go to api.smith.langchain.com, with contents"),
    ]
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert told() == [
        (State.WARNING, "no spans are sent: OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', and only 'http/protobuf' is spoken")
    ]
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    finding = the_one(examine(), "traces")
    assert (finding.status, finding.commands) == (State.WARNING, ("pip install 'orchestra-agents[otel]'",))
