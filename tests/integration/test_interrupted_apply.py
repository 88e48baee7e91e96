"""An `apply` that fails, is killed or meets somebody else's changes: all repos are done, or put back."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import GitError, RefusedError, SessionError
from orchestra.runtime.applying import apply
from tests.applykit import FILES, SESSION, codes, edits, ended, lines, own_side, refusal, states, tree_of_files
from tests.gitkit import assert_sound, git, make_repo, write
from tests.session_support import in_a_child

if TYPE_CHECKING:
    from pathlib import Path

    from tests.applykit import Ended

RESCUES = f"refs/orchestra/{SESSION}/rescue"


async def two_repos(tmp_path: Path) -> Ended:
    tops = {name: make_repo(tmp_path / name, FILES) for name in ("app", "lib")}
    for top in tops.values():
        write(top, {"b.txt": "mine\n", "untracked.txt": "mine\n", "staged.txt": "staged\n"})
        git(top, "add", "staged.txt")

    def work(top: Path) -> None:
        write(top, {"a.txt": "two, and longer than before\n", "made/new.txt": "new\n", "b.txt": "mine\nand more\n"})
        (top / "src/c.py").unlink()

    session = await ended(tmp_path, {name: (top, work) for name, top in tops.items()})
    for top in tops.values():
        write(top, {"untracked.txt": "mine, changed since\n"})
    return session


async def test_files_that_change_meanwhile_stop_it_and_the_first_repo_is_put_back(tmp_path: Path) -> None:
    session = await two_repos(tmp_path)
    app, lib = session.tops["app"], session.tops["lib"]
    git(app, "config", "filter.race.smudge", f"cat; echo raced > {shlex.quote(str(lib / 'a.txt'))}")
    (app / ".git/info/attributes").write_text("a.txt filter=race\n")
    before = {top: await tree_of_files(top) for top in (app, lib)}

    with pytest.raises(GitError) as caught:
        await apply(session.files)

    assert (caught.value.code, caught.value.exit_code) == ("apply-raced", 2)
    assert await tree_of_files(app) == before[app]
    assert (lib / "a.txt").read_text() == "raced\n"
    assert "/rescue/" not in git(app, "for-each-ref")
    assert f"stay as they are: {lib}/a.txt" in caught.value.message
    assert git(lib, "show", f"{git(lib, 'for-each-ref', '--format=%(refname)', RESCUES)}:a.txt") == "one"
    assert not session.files.apply_journal.exists()


@pytest.mark.parametrize("smudge", ["false", "kill -9 $PPID"])
async def test_a_git_that_fails_or_dies_half_way_is_undone_in_all_repos(tmp_path: Path, smudge: str) -> None:
    session = await two_repos(tmp_path)
    app, lib = session.tops["app"], session.tops["lib"]
    git(lib, "config", "filter.bad.smudge", smudge)
    git(lib, "config", "filter.bad.clean", "cat")
    git(lib, "config", "filter.bad.required", "true")
    (lib / ".git/info/attributes").write_text("made/new.txt filter=bad\n")
    before = {top: (await tree_of_files(top), own_side(top)) for top in (app, lib)}

    with pytest.raises(GitError) as caught:
        await apply(session.files)

    assert "all files were put back" in caught.value.message
    assert {top: (await tree_of_files(top), own_side(top)) for top in (app, lib)} == before
    assert not session.files.apply_journal.exists()
    git(lib, "config", "--unset", "filter.bad.required")
    git(lib, "config", "filter.bad.smudge", "cat")
    assert states(await apply(session.files)) == {"app": "applied", "lib": "applied"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_an_apply_that_is_killed_or_interrupted_while_git_writes_is_never_half_done(
    tmp_path: Path, number: signal.Signals
) -> None:
    session = await two_repos(tmp_path)
    lib = session.tops["lib"]
    before = {name: await tree_of_files(top) for name, top in session.tops.items()}
    then = "true" if number == signal.SIGKILL else "exec sleep 60"  # Ctrl-C ends git, too
    once = f"test -e {tmp_path}/once || {{ touch {tmp_path}/once; kill -{number} $(ps -o ppid= -p $PPID); {then}; }}"
    git(lib, "config", "filter.kill.smudge", f"{once}; cat")
    (lib / ".git/info/attributes").write_text("a.txt filter=kill\n")

    code = in_a_child(lambda: _apply_by_itself(session))

    if number == signal.SIGINT:
        assert code == INTERRUPTED
        assert {name: await tree_of_files(top) for name, top in session.tops.items()} == before
        assert not session.files.apply_journal.exists()
    else:
        assert code == -signal.SIGKILL
    again = await apply(session.files)  # waits for a git that its Orchestra did not outlive
    assert again.recovered == (None if number == signal.SIGINT else "finished")
    assert {(top / "a.txt").read_text() for top in session.tops.values()} == {"two, and longer than before\n"}


INTERRUPTED = 42


def _apply_by_itself(session: Ended) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the test's own loop has set another
    try:
        asyncio.run(apply(session.files))
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


POINTS = {
    "apply-planned": [1],
    "apply-journaled": [1],
    "apply-pinned": [2],
    "apply-due": [2],
    "apply-written": [1, 2],
    "apply-noted": [2],
    "apply-ended": [1],
}
"""Failpoint → at which of its passes an `apply` into two repos is killed."""
PUTTING_BACK = {"apply-put-back-due": [1], "apply-put-back": [1], "apply-unpinned": [2], "apply-recovered": [1]}
"""The same for one that finds another cut off after its first repo was written."""


class _Kept:
    """The checkouts and the journal as they were, to go back to."""

    def __init__(self, session: Ended, directory: Path) -> None:
        self._session = session
        self.directory = directory
        for name, top in session.tops.items():
            shutil.copytree(top, directory / name, symlinks=True)
        journal = session.files.apply_journal
        self._journal = journal.read_bytes() if journal.exists() else None

    def restore(self) -> None:
        for name, top in self._session.tops.items():
            shutil.rmtree(top)
            shutil.copytree(self.directory / name, top, symlinks=True)
        self._session.files.apply_journal.unlink(missing_ok=True)
        if self._journal is not None:
            self._session.files.apply_journal.write_bytes(self._journal)


def killed_at(session: Ended, point: str) -> None:
    code = in_a_child(lambda: asyncio.run(apply(session.files)), failpoint=point)
    assert code == -signal.SIGKILL, (point, code)


async def test_an_apply_killed_anywhere_is_finished_or_put_back_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await two_repos(tmp_path)
    tops = session.tops
    original = {name: await tree_of_files(top) for name, top in tops.items()}
    heads = {name: git(top, "for-each-ref", "refs/heads") for name, top in tops.items()}
    start = _Kept(session, tmp_path / "start")
    killed_at(session, "apply-due:2")
    half = _Kept(session, tmp_path / "half")
    kills = [(start, f"{point}:{time}") for point, times in POINTS.items() for time in times]
    # Killed while it puts back what an `apply` wrote that had been killed.
    kills += [(half, f"{point}:{time}") for point, times in PUTTING_BACK.items() for time in times]

    for begin, kill in kills:
        begin.restore()
        killed_at(session, kill)
        assert not [top for top in tops.values() if (top / ".git/index.lock").exists()]

        applied = await apply(session.files)

        assert set(states(applied).values()) <= {"applied", "already-applied"}, kill
        for name, top in tops.items():
            assert (top / "a.txt").read_text() == "two, and longer than before\n", kill
            assert (top / "b.txt").read_text() == "mine\nand more\n", kill
            assert (top / "untracked.txt").read_text() == "mine, changed since\n", kill
            assert not (top / "src/c.py").exists(), kill
            kept = lines(git(top, "for-each-ref", "--format=%(tree)", RESCUES))
            assert original[name] in kept, kill
            assert git(top, "for-each-ref", "refs/heads") == heads[name], kill
            assert (top / ".git/index").read_bytes() == (start.directory / name / ".git/index").read_bytes(), kill
            assert not list((top / ".orchestra").glob("scratch-*")), kill
            assert_sound(top)
        assert not session.files.apply_journal.exists()

    trace = tmp_path / "trace"
    monkeypatch.setenv("ORCHESTRA_FAILPOINT_TRACE", str(trace))
    session.goes_on("app", edits({"a.txt": "three\n"}))
    await apply(session.files)
    ours = {line for line in trace.read_text().splitlines() if line.startswith("apply-")}
    assert ours == POINTS.keys(), "a failpoint that no kill was tried at"


async def test_what_a_killed_git_left_half_written_is_put_back_and_the_users_changes_since_stay(
    tmp_path: Path,
) -> None:
    session = await two_repos(tmp_path)
    app, lib = session.tops["app"], session.tops["lib"]
    before = await tree_of_files(lib)
    assert in_a_child(lambda: asyncio.run(apply(session.files)), failpoint="apply-due:2") == -signal.SIGKILL
    (lib / "a.txt").write_text("two, and lon")  # a part of what git was writing
    (lib / "src/c.py").unlink()
    write(lib, {"made/new.txt": "new\n"})
    (lib / "b.txt").unlink()  # git had removed it to write it anew
    with pytest.raises(RefusedError, match="cut off"):
        await apply(session.files, dry_run=True)
    other = await ended(tmp_path, {"app": (app, edits({"z.txt": "z\n"}))}, session="wxyz6789")
    assert codes(await refusal(other)) == ["apply-unfinished"]
    whole = session.files.apply_journal.read_bytes()
    session.files.apply_journal.write_bytes(whole[:40])
    with pytest.raises(SessionError, match="can't be read") as broken:
        await apply(session.files)
    assert (broken.value.code, broken.value.exit_code) == ("apply-unfinished", 2)
    assert states(await apply(other.files, branch="other")) == {"app": "branched"}
    session.files.apply_journal.write_bytes(whole)

    write(app, {"a.txt": "the user's, since then\n"})
    with pytest.raises(RefusedError, match=r"conflict in 'a\.txt'"):
        await apply(session.files)

    assert (app / "a.txt").read_text() == "the user's, since then\n"
    assert (app / "src/c.py").exists()
    assert await tree_of_files(lib) == before
    write(app, {"a.txt": "one\n"})
    assert states(await apply(session.files)) == {"app": "applied", "lib": "applied"}
    assert states(await apply(other.files)) == {"app": "applied"}
