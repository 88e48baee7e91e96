"""The command line as a user meets it: help, exit codes, what goes to stdout, and careless users."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.cli.event_lines import line_of
from orchestra.cli.options import read_inputs_given, read_repos_given
from orchestra.cli.progress import Progress
from orchestra.cli.render import as_json, escape_prose, render_problems
from orchestra.cli.summary import summary
from orchestra.errors import PipelineError
from orchestra.runtime.event_types import EVENT_TYPES
from orchestra.runtime.result import SessionResult
from orchestra.runtime.store import SessionRecord, Status, session_ids
from tests.commandkit import Said
from tests.gitkit import git, make_repo
from tests.preloaded import COMMAND

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Workshop

COMMANDS = (
    "demo",
    "compile",
    "graph",
    "run",
    "resume",
    "attach",
    "respond",
    "cancel",
    "status",
    "log",
    "diff",
    "export",
    "apply",
    "replay",
    "cleanup",
    "doctor",
)
HOSTILE = "plain [red]markup[/red] \x1b[31mred\x1b[0m \x9b2J \u202eltr \x07 tab\there 👩\u200d💻"
ESCAPES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

PIPELINE = """
name: one
inputs:
  count: {type: number, default: 1}
  flag: {type: boolean, default: false}
  data: {type: json}
  note: {description: Anything}
agents:
  a: {task: {template: "Do {{ count }} {{ note }}."}, model: m}
graph: [{from: START, to: a}, {from: a, to: END}]
"""
REQUIRED = PIPELINE.replace("{type: number, default: 1}", "{type: number, required: true}")
SCRIPT: dict[str, Any] = {"a": [[{"text": "Done."}]]}


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_help_with_an_example(self, command: str, tmp_path: Path) -> None:
        said = Said(command, "--help", cwd=tmp_path)
        assert said.code == 0
        assert f"Example: orchestra {command}" in said.out

    def test_the_overview_names_every_command_in_a_line(self, tmp_path: Path) -> None:
        said = Said("--help", cwd=tmp_path)
        listed = said.out.partition("Commands:")[2].splitlines()
        assert [line.split()[0] for line in listed if line.strip()] == list(COMMANDS)
        assert not any(line.endswith("...") for line in listed)

    @pytest.mark.parametrize(
        ("args", "expected"),
        [
            ([], "Usage: orchestra"),
            (["stauts"], "Did you mean 'status'?"),
            (["run"], "Missing argument"),
            (["log"], "no session is named"),
            (["status", "--jsn"], "--json"),
            (["-C", "/no/such/place", "status"], "No such file or directory"),
        ],
    )
    def test_a_wrong_command_line_ends_with_2_and_says_why(
        self, args: list[str], expected: str, tmp_path: Path
    ) -> None:
        said = Said(*args, cwd=tmp_path)
        assert said.code == 2
        assert expected in said.err + said.out

    def test_the_version(self, workshop: Workshop) -> None:
        done = workshop.cli("--version")
        assert re.fullmatch(r"orchestra \d+\.\d+\.\d+\S*\n", done.stdout)
        assert (done.returncode, done.stderr) == (0, "")


class TestCompile:
    def test_it_shows_agents_edges_joins_loops_and_inputs(self, workshop: Workshop) -> None:
        said = Said("compile", "pr-review", cwd=workshop.repo.path)
        assert said.code == 0
        for expected in (
            "agent critic: anthropic:claude-opus-5-5 (smart)",
            "[security-reviewer, architecture-reviewer] (all) → critic",
            "at most 5 loops to architecture-reviewer, security-reviewer, then synthesizer",
            "input base (string, default '')",
        ):
            assert expected in said.out

    def test_json_is_one_document_also_when_the_pipeline_is_wrong(self, workshop: Workshop) -> None:
        good = Said("compile", workshop.pipeline(PIPELINE, script=SCRIPT), "--json", cwd=workshop.repo.path)
        document = json.loads(good.out)
        assert (good.code, good.err) == (0, "")
        assert (document["valid"], list(document["agents"])) == (True, ["a"])

        path = workshop.pipeline(PIPELINE.replace("to: END", "to: b"), script=SCRIPT)
        bad = Said("compile", path, "--json", cwd=workshop.repo.path)
        document = json.loads(bad.out)
        assert (bad.code, bad.err, document["valid"]) == (2, "", False)
        assert [problem["code"] for problem in document["problems"]] == ["unknown-agent"]
        assert document["problems"][0]["line"]

    def test_a_missing_key_is_a_warning_when_compiling_and_an_error_when_running(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
        compiled = Said("compile", "pr-review", cwd=workshop.repo.path)
        ran = Said("run", "pr-review", cwd=workshop.repo.path)
        assert (compiled.code, ran.code) == (0, 2)
        assert "warning[missing-key]" in compiled.err
        assert "error[missing-key]" in ran.err
        assert "export ANTHROPIC_API_KEY=" in ran.err
        assert not (workshop.repo.path / ".orchestra" / "sessions").exists()

    def test_a_pipeline_is_found_by_its_name_in_the_project_and_its_prompts_by_its_paths(
        self, workshop: Workshop
    ) -> None:
        text = PIPELINE.replace('task: {template: "Do {{ count }} {{ note }}."}', "task: shared")
        path = workshop.pipeline(text, script=SCRIPT)
        shared = workshop.pipelines.parent / "shared" / "prompts" / "tasks"
        shared.mkdir(parents=True)
        (shared / "shared.yaml").write_text("task: {name: shared, template: Do it.}\n")
        (workshop.repo.path / "orchestra.yaml").write_text(f"paths: [../shared]\npipelines: {{mine: {path}}}\n")
        assert Said("compile", "mine", cwd=workshop.repo.path).code == 0
        near = Said("compile", "mien", cwd=workshop.repo.path)
        assert (near.code, "did you mean 'mine'?" in near.err) == (2, True)


class TestCarelessUsers:
    """Each mistake ends with 2, one clear error and something to do; nothing is started."""

    @pytest.mark.parametrize(
        ("name", "content", "code"),
        [
            ("empty.yaml", b"", "empty"),
            ("binary.yaml", b"\x00\xff\x01", "not-utf8"),
            ("bracket.yaml", b"agents: [", "yaml-syntax"),
            ("tabs.yaml", b"name: x\n\tagents: {}\n", "yaml-syntax"),
        ],
    )
    def test_a_file_that_is_no_pipeline(self, name: str, content: bytes, code: str, workshop: Workshop) -> None:
        (workshop.repo.path / name).write_bytes(content)
        said = Said("compile", name, cwd=workshop.repo.path)
        assert (said.code, f"error[{code}]" in said.err, "hint: " in said.err) == (2, True, True)

    @pytest.mark.parametrize(
        ("typed", "hint"),
        [
            (".", "name a pipeline file in it"),
            ("sub", "'sub' is a directory; name a pipeline file in it: sub/one.yaml"),
            ("sub/one", "did you mean 'one.yaml'?"),
            ("sub/oen.yaml", "did you mean 'one.yaml'?"),
            ("/dev/null", "write the pipeline into a file"),
            ("pr-reveiw", "did you mean 'pr-review'?"),
            ("x" * 5000, "name one of them"),
            ("\x1b[31m.yaml", "check the path"),
        ],
        ids=lambda text: text[:20].encode("unicode_escape").decode(),
    )
    def test_a_wrong_name(self, typed: str, hint: str, workshop: Workshop) -> None:
        (workshop.repo.path / "sub").mkdir()
        (workshop.repo.path / "sub" / "one.yaml").write_text("name: x\n")
        said = Said("compile", typed, cwd=workshop.repo.path)
        assert said.code == 2
        assert hint in said.err
        assert len(said.err) < 600
        assert not ESCAPES.search(said.err)

    @pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
    def test_line_ends_and_a_byte_order_mark_of_windows_do_no_harm(self, prefix: bytes, workshop: Workshop) -> None:
        path = workshop.pipeline(PIPELINE, script=SCRIPT)
        path.write_bytes(prefix + path.read_bytes().replace(b"\n", b"\r\n"))
        assert Said("compile", path, cwd=workshop.repo.path).code == 0

    def test_outside_of_a_repository(self, workshop: Workshop) -> None:
        path = workshop.pipeline(PIPELINE.replace("model: m", "model: m, tools: [read-file]"), script=SCRIPT)
        said = Said("run", path, cwd=workshop.home)
        assert (said.code, "error[not-a-repository]" in said.err, "--repo repo=PATH" in said.err) == (2, True, True)
        compiled = Said("compile", path, cwd=workshop.home)
        assert (compiled.code, "warning[not-a-repository]" in compiled.err) == (0, True)
        near = Said("run", path, "--repo", f"rpo={workshop.repo.path}", cwd=workshop.home)
        assert near.err.count("error[") == 1
        assert "did you mean 'repo'?" in near.err
        assert Said("run", path, "--repo", f"repo={workshop.repo.path}", "-q", cwd=workshop.home).code == 0

    def test_in_a_bare_repository(self, workshop: Workshop) -> None:
        bare = workshop.home / "bare.git"
        git(workshop.home, "init", "--quiet", "--bare", str(bare))
        path = workshop.pipeline(PIPELINE.replace("model: m", "model: m, tools: [read-file]"), script=SCRIPT)
        said = Said("run", path, cwd=bare)
        assert (said.code, "is a bare repository" in said.err) == (2, True)

    def test_in_the_middle_of_a_merge(self, workshop: Workshop) -> None:
        top = make_repo(workshop.home / "merging", {"a.txt": "1\n"})
        git(top, "switch", "-q", "-c", "other")
        (top / "a.txt").write_text("2\n")
        git(top, "commit", "-qam", "two")
        git(top, "switch", "-q", "main")
        (top / "a.txt").write_text("3\n")
        git(top, "commit", "-qam", "three")
        git(top, "merge", "other", ok=False)
        path = workshop.pipeline(PIPELINE.replace("model: m", "model: m, tools: [write-file]"), script=SCRIPT)
        said = Said("run", path, cwd=top)
        assert (said.code, "git merge --abort" in said.err) == (2, True)
        assert list((top / ".orchestra" / "sessions").glob("*")) == []

    def test_in_a_repository_without_a_commit(self, workshop: Workshop) -> None:
        top = make_repo(workshop.home / "empty", {})
        path = workshop.pipeline(PIPELINE.replace("model: m", "model: m, tools: [write-file]"), script=SCRIPT)
        said = Said("run", path, "-q", cwd=top)
        assert said.code in {0, 2}, said.err
        assert said.code == 0 or "hint: " in said.err

    def test_two_wrong_files_are_told_at_once(self, workshop: Workshop) -> None:
        task = "task: {name: t, template: 'Do {{ nothing }} {{ count }}.', extra: 1}\n"
        text = PIPELINE.replace(
            'task: {template: "Do {{ count }} {{ note }}."}, model: m', "task: t, model: m, toolz: []"
        )
        path = workshop.pipeline(text, script=SCRIPT, files={"prompts/roles/r.yaml": task})
        said = Said("compile", path, cwd=workshop.repo.path)
        assert {"unknown-key", "unknown-task"} == set(re.findall(r"error\[([\w-]+)\]", said.err))


class TestInputs:
    def test_what_is_wrong_is_told_all_at_once(self, workshop: Workshop) -> None:
        path = workshop.pipeline(REQUIRED, script=SCRIPT)
        said = Said("run", path, "-i", "flga=1", "-i", "flag=maybe", "-i", "data={", cwd=workshop.repo.path)
        assert said.code == 2
        assert sorted(re.findall(r"error\[([\w-]+)\]", said.err)) == [
            *("missing-input", "unknown-input", "wrong-input", "wrong-input"),
        ]
        assert "did you mean 'flag'?" in said.err
        assert "--input count=3" in said.err

    def test_a_misspelt_required_input_is_told_once(self, workshop: Workshop) -> None:
        said = Said("run", workshop.pipeline(REQUIRED, script=SCRIPT), "-i", "conut=1", cwd=workshop.repo.path)
        assert re.findall(r"error\[([\w-]+)\]", said.err) == ["unknown-input"]

    @pytest.mark.parametrize("value", ["nan", "inf", "1e999", "1_000", "²", "three", "", "9" * 5000])
    def test_what_is_no_json_number_is_refused(self, value: str, workshop: Workshop) -> None:
        said = Said("run", workshop.pipeline(PIPELINE, script=SCRIPT), "-i", f"count={value}", cwd=workshop.repo.path)
        assert (said.code, "must be a number" in said.err) == (2, True)

    @pytest.mark.parametrize("value", ["NaN", "[" * 100_000, "{'a': 1}"])
    def test_what_is_no_json_is_refused(self, value: str, workshop: Workshop) -> None:
        said = Said("run", workshop.pipeline(PIPELINE, script=SCRIPT), "-i", f"data={value}", cwd=workshop.repo.path)
        assert (said.code, "must be JSON" in said.err) == (2, True)
        assert len(said.err) < 500

    def test_a_value_comes_from_a_file_or_from_standard_input(self, workshop: Workshop) -> None:
        path = workshop.pipeline(PIPELINE, script=SCRIPT)
        (workshop.repo.path / "note.txt").write_text("from a file")
        options = ("-i", "note=@note.txt", "-i", "data=-", "-i", "count=2.5", "-i", "flag=TRUE", "-q")
        said = Said("run", path, *options, cwd=workshop.repo.path, stdin='{"a": [1]}')
        assert said.code == 0
        (database,) = (workshop.repo.path / ".orchestra" / "sessions").glob("*/session.db")
        (inputs,) = sqlite3.connect(database).execute("SELECT inputs FROM sessions").fetchone()
        assert json.loads(inputs) == {"note": "from a file", "data": {"a": [1]}, "count": 2.5, "flag": True}

    def test_options_that_cant_be_read_are_told_all_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "binary").write_bytes(b"\xff")
        given = ["x", "=1", "a=@/no/such", f"b=@{tmp_path}/binary", "c=\udcff", "d=-", "e=-", "f=1", "f=2"]
        with pytest.raises(PipelineError) as caught:
            read_inputs_given(given)
        assert len(caught.value.problems) == 7
        assert all(problem.hint for problem in caught.value.problems)
        render_problems(caught.value.problems).encode()

    def test_a_repo_without_a_path_is_refused(self) -> None:
        with pytest.raises(PipelineError, match="`--repo app=` has no value"):
            read_repos_given(["app="])


class TestRun:
    def test_results_go_to_stdout_and_progress_to_stderr(self, workshop: Workshop) -> None:
        done = workshop.cli("run", workshop.pipeline(PIPELINE, script=SCRIPT))
        assert (done.returncode, done.stdout) == (0, "Done.\n")
        assert "session completed" in done.stderr
        assert re.search(r"look back with: orchestra log \w{8}", done.stderr)

    def test_a_failed_session_ends_with_1_and_one_document(self, workshop: Workshop) -> None:
        path = workshop.pipeline(PIPELINE, script={"a": [[{"error": "auth"}]]})
        document = workshop.json("run", path, code=1)
        assert document["status"] == "failed"
        assert document["error"]["agent"] == "a"

    def test_a_session_that_waits_for_a_person_ends_with_3_and_one_document(self, workshop: Workshop) -> None:
        path = workshop.pipeline(PIPELINE.replace("model: m", "model: m, mode: interactive"), script=SCRIPT)
        document = workshop.json("run", path, code=3)
        assert (document["status"], document["waiting_for"]) == ("paused", {"agent": "a", "text": "Done."})

    def test_of_an_interactive_agent_its_text_is_the_result(self, workshop: Workshop) -> None:
        path = workshop.pipeline(
            PIPELINE.replace("model: m", "model: m, mode: interactive, when_absent: finish"), script=SCRIPT
        )
        done = workshop.cli("run", path)
        assert (done.returncode, done.stdout) == (0, "Done.\n")
        assert workshop.json("run", path)["agent_outputs"]["a"]["decision"] == "done"

    @pytest.mark.parametrize(
        ("decision", "reason", "line"),
        [
            ("approve", "looks\n good\x1b[31m", "a approved: looks good\\x1b[31m"),
            ("reject", "no", "a rejected: no"),
            ("reject", None, "a rejected"),
            ("done", "enough", "a done: enough"),
            ("done", None, None),
        ],
    )
    def test_what_a_person_has_decided_is_told_beside_the_result(
        self, decision: str, reason: str | None, line: str | None
    ) -> None:
        usage = {"input_tokens": 0, "output_tokens": 0, "model_calls": 1, "cost_usd": 0.0}
        record = SessionRecord("7kq2mfzd", "p", Status.COMPLETED, "", "", {}, {}, {}, usage)
        output: dict[str, Any] = {"decision": decision, "reason": reason, "text": "The text.", "commits": {}}
        result = SessionResult(record, {"a": output}, final=("a",), interactive=("a",))
        progress = Progress(io.StringIO())
        assert progress.outputs(result) == "The text.\n"
        told = [line for line in summary(result, progress.transcript).splitlines() if line.startswith("a ")]
        assert told == [line] * (line is not None)

    def test_nothing_of_a_model_can_steer_the_terminal(self, workshop: Workshop) -> None:
        path = workshop.pipeline(PIPELINE, script={"a": [[{"text": HOSTILE}]]})
        plain = workshop.cli("run", path)
        document = workshop.cli("run", path, "--json")
        session = json.loads(document.stdout)["session_id"]
        shown = [workshop.cli("log", session, "--events"), workshop.cli("log", session, "--events", "--json")]
        for done in (plain, document, *shown):
            assert not ESCAPES.search(done.stdout), done.stdout
            assert not ESCAPES.search(done.stderr), done.stderr
        assert plain.stdout.startswith("plain [red]markup[/red] \\x1b[31mred")
        assert "tab\there 👩\u200d💻" in plain.stdout
        assert json.loads(document.stdout)["agent_outputs"]["a"] == HOSTILE

    def test_an_internal_directory_belongs_to_the_project_around_it(self, workshop: Workshop) -> None:
        inside = workshop.repo.path / ".orchestra" / "worktrees" / "x" / "_session"
        inside.mkdir(parents=True)
        assert Said("run", workshop.pipeline(PIPELINE, script=SCRIPT), "-q", cwd=inside).code == 0
        assert len(session_ids(workshop.repo.path)) == 1

    def test_c_starts_elsewhere(self, workshop: Workshop) -> None:
        path = workshop.pipeline(PIPELINE, script=SCRIPT)
        assert Said("-C", workshop.repo.path, "run", path, "-q", cwd=workshop.home).code == 0
        assert "completed" in Said("-C", workshop.repo.path, "status", cwd=workshop.home).out


class TestStatusAndLog:
    @pytest.fixture
    def sessions(self, workshop: Workshop) -> list[str]:
        path = workshop.pipeline(PIPELINE, script=SCRIPT)
        return [json.loads(Said("run", path, "--json", "-q", cwd=workshop.repo.path).out)["session_id"] for _ in "12"]

    def test_sessions_are_listed_newest_first(self, workshop: Workshop, sessions: list[str]) -> None:
        documents = json.loads(Said("status", "--json", cwd=workshop.repo.path).out)
        assert [document["session_id"] for document in documents] == sessions[::-1]
        assert list(documents[0]) == [
            *("session_id", "pipeline", "status", "created_at", "updated_at", "checkpoints", "usage", "waiting_for"),
        ]
        table = Said("status", cwd=workshop.repo.path).out.splitlines()
        assert [line.split()[0] for line in table] == ["SESSION", *sessions[::-1]]
        assert Said("status", "--status", "failed", cwd=workshop.repo.path).out == "no sessions\n"
        assert json.loads(Said("status", "--status", "failed", "--json", cwd=workshop.repo.path).out) == []

    def test_one_session_by_a_prefix(self, workshop: Workshop, sessions: list[str]) -> None:
        length = next(n for n in range(1, 9) if not sessions[1].startswith(sessions[0][:n]))
        said = Said("status", sessions[0][:length].upper(), cwd=workshop.repo.path)
        assert f"session   {sessions[0]}" in said.out
        assert f"orchestra log {sessions[0]}" in said.out

    def test_unknown_names_are_told_with_near_ones(self, workshop: Workshop, sessions: list[str]) -> None:
        typo = sessions[0][:-1] + ("0" if sessions[0][-1] != "0" else "1")
        for command in ("status", "log", "resume"):
            said = Said(command, typo, cwd=workshop.repo.path)
            assert (said.code, f"{sessions[0]!r}" in said.err) == (2, True)
        state = Said("status", "--status", "pausd", cwd=workshop.repo.path)
        assert (state.code, "did you mean 'paused'?" in state.err) == (2, True)

    def test_without_sessions(self, workshop: Workshop) -> None:
        assert Said("status", cwd=workshop.repo.path).out == "no sessions\n"
        assert json.loads(Said("status", "--json", cwd=workshop.repo.path).out) == []
        said = Said("log", "x", cwd=workshop.repo.path)
        assert (said.code, "no session has been run there" in said.err) == (2, True)
        assert "hint: go into the project, or name it: `orchestra -C DIR ...`" in said.err

    def test_a_broken_database_is_named_and_the_others_are_listed(
        self, workshop: Workshop, sessions: list[str]
    ) -> None:
        broken = workshop.repo.path / ".orchestra" / "sessions" / sessions[0] / "session.db"
        broken.write_bytes(b"no database")
        said = Said("status", "--json", cwd=workshop.repo.path)
        assert [record["session_id"] for record in json.loads(said.out)] == sessions[1:]
        assert (said.code, str(broken) in said.err) == (0, True)
        assert Said("log", sessions[0], cwd=workshop.repo.path).code == 1

    def test_a_session_of_a_newer_version_is_refused(self, workshop: Workshop, sessions: list[str]) -> None:
        database = workshop.repo.path / ".orchestra" / "sessions" / sessions[0] / "session.db"
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE sessions SET version = 999")
        connection.close()
        for command in ("status", "log", "resume"):
            said = Said(command, sessions[0], cwd=workshop.repo.path)
            assert (said.code, "newer Orchestra" in said.err) == (1, True)

    def test_the_log_in_its_four_forms(self, workshop: Workshop, sessions: list[str]) -> None:
        rows = json.loads(Said("log", sessions[0], "--json", cwd=workshop.repo.path).out)
        assert list(rows[0]) == [
            *("checkpoint_id", "checkpoint_ns", "step", "agent", "ended", "next", "created_at", "repos", "changed"),
        ]
        first, *events = Said("log", sessions[0], "--events", "--json", cwd=workshop.repo.path).out.splitlines()
        assert json.loads(first) == {"version": 1}
        numbers = [json.loads(event)["seq"] for event in events]
        assert numbers == sorted(numbers)
        history = Said("log", sessions[0], cwd=workshop.repo.path).out.splitlines()
        assert [line.split("  ")[1] for line in history if line.startswith("●")] == ["start", "a (turn 1)"]
        assert "done after" in Said("log", sessions[0], "--events", cwd=workshop.repo.path).out


class TestStreams:
    @pytest.mark.parametrize("redirection", ["| head -1", "2>&1 | head -1", ">&-", "2>/dev/null >&-"])
    def test_a_reader_that_goes_away_leaves_no_traceback(self, redirection: str, workshop: Workshop) -> None:
        path = workshop.pipeline(PIPELINE, script={"a": [[{"text": f"{'x' * 5_000}\n" * 50}]]})
        done = subprocess.run(
            ["sh", "-c", f"{COMMAND} run {path} {redirection}"],
            cwd=workshop.repo.path,
            env=workshop.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr + done.stdout
        assert "bug" not in done.stderr
        assert "completed" in Said("status", cwd=workshop.repo.path).out

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110 - no Path at import
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_a_full_disk_is_told_as_such(self, unbuffered: str, workshop: Workshop) -> None:
        path = workshop.pipeline(PIPELINE, script=SCRIPT)
        done = subprocess.run(
            ["sh", "-c", f"{COMMAND} run -q {path} >/dev/full"],
            cwd=workshop.repo.path,
            env=workshop.environment(PYTHONUNBUFFERED=unbuffered),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "bug" not in done.stderr

    def test_a_terminal_of_another_encoding_shows_escapes(self, workshop: Workshop) -> None:
        done = workshop.cli("compile", workshop.pipeline(PIPELINE, script=SCRIPT), PYTHONIOENCODING="latin-1")
        assert done.returncode == 0
        assert "START \\u2192 a" in done.stdout

    def test_a_bug_leaves_a_report_and_no_traceback(self, tmp_path: Path) -> None:
        code = (
            "import sys; import orchestra.graph.root as root; sys.argv = ['orchestra', 'status']\n"
            "def broken(start): raise RuntimeError('odd \\x1b[31m')\n"
            "root.find_root = broken\n"
            "from orchestra.cli.main import main; main()"
        )
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error[bug]: RuntimeError: odd \\x1b[31m\n")
        (report,) = tmp_path.glob("orchestra-*.log")
        assert str(report) in done.stderr
        assert "Traceback" in report.read_text()


def test_prose_keeps_its_words_and_loses_what_steers() -> None:
    assert escape_prose("a\\x09b\tc\nd") == "a\\x09b\tc\nd"
    assert not ESCAPES.search(escape_prose(HOSTILE))


def test_json_stays_the_same_document() -> None:
    document = {"text": HOSTILE + "\x7f\u2028é", "more": ["\x00", 1.5, None]}
    text = as_json(document)
    assert json.loads(text) == document
    assert not ESCAPES.search(text)
    assert "é" in text


@pytest.mark.parametrize("payload", [{}, {"message": 1}, {"paths": ["a"], "agents": 5, "waits_for": "x", "targets": 1}])
def test_a_damaged_event_is_shown_as_it_is_and_steers_no_terminal(payload: dict[str, Any]) -> None:
    for kind, full in itertools.product(EVENT_TYPES, (False, True)):
        keys = dict.fromkeys((*EVENT_TYPES[kind].required, *EVENT_TYPES[kind].optional), "\x1b[31m")
        for said in (payload, {**keys, **payload}):
            line = line_of("2026-01-01T1\x1bc:00:00", kind, "a\x1b[2J", 1, said, full=full)
            assert "\x1b" not in line
            assert line.startswith(r"1\x1bc")


def test_a_line_of_the_log_is_one_line() -> None:
    line = line_of("2026-01-01T10:00:00", "model_failed", "a", 2, {"message": "one\ntwo\r\x1b[2J" + "x" * 500})
    assert line.startswith("10:00:00  a (2)")
    assert len(line.splitlines()) == 1
    assert len(line) < 220
    assert not ESCAPES.search(line)


def test_a_warning_is_told_in_its_own_words() -> None:
    line = line_of("2026-01-01T12:00:00+00:00", "warning", "a", 1, {"code": "answer-cut", "message": "was\x1b[2J cut"})
    assert line.split(maxsplit=2) == ["12:00:00", "a", "warning: was\\x1b[2J cut"]
