"""Fixtures for tests of whole pipelines: a real repository, the scripted model, the installed command."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from orchestra.testing import GitRepo, git_repo, write_script
from tests.preloaded import COMMAND, Command, run
from tests.session_support import check_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestra.runtime.observability import Event
    from orchestra.runtime.people import Channel
    from orchestra.runtime.result import SessionResult
    from tests.pastkit import Past


@dataclass
class Workshop:
    """A repository, pipelines beside it, and ways to run them; `run` in this process, `cli` as a user would."""

    repo: GitRepo
    pipelines: Path
    home: Path
    events: list[Event] = field(default_factory=list)
    fresh: bool = False
    """Whether each command starts in a new interpreter (`preloaded.py`)."""

    def pipeline(
        self,
        text: str | Mapping[str, Any],
        *,
        script: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        name: str = "pipeline.yaml",
    ) -> Path:
        """Write a pipeline file; without `providers` it gets the scripted one, which plays `script`.

        Args:
            text: The file, as YAML text or as a mapping.
            script: Agent → its turns.
            files: More files beside it, such as `conditions/routing.py`.
            name: The file's name.
        """
        content = yaml.safe_load(text) if isinstance(text, str) else dict(text)
        if script is not None:
            write_script(self.pipelines / "script.yaml", script)
            content.setdefault(
                "providers", {"default": "offline", "offline": {"type": "scripted", "script": "script.yaml"}}
            )
        for relative, body in (files or {}).items():
            path = self.pipelines / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body, encoding="utf-8")
        path = self.pipelines / name
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    async def run(self, path: Path, inputs: Mapping[str, Any] | None = None, **settings: Any) -> SessionResult:
        """Start a session in this process and drive it to its end."""
        from orchestra.graph.inputs import read_inputs
        from orchestra.graph.project import find_project
        from orchestra.graph.resolve import load_and_resolve
        from orchestra.runtime.session import SessionManager

        project = find_project(self.repo.path)
        repos = {name: Path(where) for name, where in settings.pop("repos", {}).items()}
        channels = settings.pop("channels", ())
        resolved = load_and_resolve(path, project, repos=repos, cwd=self.repo.path, **settings)
        values = read_inputs(resolved, inputs or {})
        return await SessionManager(project, self.events.append, channels).start(resolved, values, settings=settings)

    async def resume(self, session_id: str, *, channels: Sequence[Channel] = ()) -> SessionResult:
        """Resume a session in this process."""
        from orchestra.graph.project import find_project
        from orchestra.runtime.session import SessionManager
        from orchestra.runtime.store import find_session

        project = find_project(self.repo.path)
        files = find_session(project.root, session_id)
        return await SessionManager(project, self.events.append, channels).resume(files)

    def checkpoints(self, session_id: str) -> list[dict[str, Any]]:
        """Return the rows of `orchestra log --json`."""
        from orchestra.runtime.store import find_session, read_checkpoints

        return read_checkpoints(find_session(self.repo.path, session_id))

    def cli(self, *args: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the installed command as a user would, without a terminal."""
        return run([COMMAND, *args], cwd=cwd or self.repo.path, env=self.environment(**env), fresh=self.fresh)

    def start(self, *args: str | Path, **env: str) -> subprocess.Popen[str]:
        """Start the installed command in a process group of its own, for tests that kill it."""
        return Command(
            [COMMAND, *args],
            fresh=self.fresh,
            cwd=self.repo.path,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def json(self, *args: str | Path, code: int = 0, **env: str) -> Any:
        """Run the installed command with `--json` and return its one document."""
        done = self.cli(*args, "--json", cwd=None, **env)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def environment(self, **env: str) -> dict[str, str]:
        """Return an environment without keys, git variables or the user's configuration."""
        kept = {key: os.environ[key] for key in ("PATH", "TMPDIR", "LANG") if key in os.environ}
        return {**kept, "HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1", **env}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, in whatever order: at the end no worker is to be left alone with them."""
    items.sort(key=lambda item: "acceptance" not in item.nodeid)


@pytest.fixture
def repo(tmp_path: Path) -> GitRepo:
    """A real repository with two files and one commit."""
    return git_repo(tmp_path / "app", {"app.py": "x = 1\n", "docs/notes.md": "# Notes\n"})


@pytest.fixture
def workshop(
    tmp_path: Path, repo: GitRepo, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Workshop]:
    """A repository, a directory for pipelines beside it, and an empty home; its events are held against the schema."""
    home, pipelines = tmp_path / "home", tmp_path / "pipelines"
    home.mkdir()
    pipelines.mkdir()
    monkeypatch.setenv("HOME", str(home))
    fresh = request.node.get_closest_marker("new_interpreter") is not None
    made = Workshop(repo, pipelines, home, fresh=fresh)
    yield made
    check_events(made.events)


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[[Mapping[str, Any]], Path]:
    """Writes a script for the scripted model and returns its path."""

    def write(agents: Mapping[str, Any]) -> Path:
        return write_script(tmp_path / "script.yaml", agents)

    return write


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    """A completed session for tests that look back on one and change nothing."""
    from tests.pastkit import make_past

    top = tmp_path_factory.mktemp("past")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(top / "home"))
        return make_past(top)


@pytest.fixture
def own(past: Past, tmp_path: Path) -> Past:
    """A copy of it that a test may change."""
    return past.copied(tmp_path / "copy")
