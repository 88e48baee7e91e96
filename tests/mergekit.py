"""Two commits that conflict, in every way that git knows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tests.gitkit import git

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Change = Callable[[Path], object]

LABELS = ("writer-a", "writer-b")
LONG = "".join(f"line {number}\n" for number in range(20))
_COMMITS = ("1" * 40, "2" * 40, "3" * 40)
ODD = ("new\nline", 'quo"te', "-dash", " space ", "back\\slash", os.fsdecode(b"latin-\xe9"), "é", "tab\t", ":(top)*")


def put(name: str, text: str | bytes) -> Change:
    def change(top: Path) -> None:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return change


def remove(name: str) -> Change:
    return lambda top: git(top, "rm", "-q", "-r", "-f", "--", name)


def move(old: str, new: str) -> Change:
    def change(top: Path) -> None:
        (top / new).parent.mkdir(parents=True, exist_ok=True)
        git(top, "mv", "--", old, new)

    return change


def executable(name: str) -> Change:
    return lambda top: (top / name).chmod(0o755)


def link(name: str, target: str) -> Change:
    def change(top: Path) -> None:
        (top / name).unlink(missing_ok=True)
        (top / name).symlink_to(target)

    return change


def submodule(name: str, commit: int) -> Change:
    return lambda top: git(top, "update-index", "--add", "--cacheinfo", f"160000,{_COMMITS[commit]},{name}")


def no_submodule(name: str) -> Change:
    return lambda top: git(top, "update-index", "--force-remove", "--", name)


class Case(NamedTuple):
    """What the common ancestor holds, what each side changes, and the kind of each path that then conflicts."""

    base: Sequence[Change]
    ours: Sequence[Change]
    theirs: Sequence[Change]
    kinds: dict[str, str] = {}  # noqa: RUF012 - read only


def case(*sides: Sequence[Change]) -> Case:
    base, ours, theirs = sides
    return Case(base, ours, theirs)


def _edits(name: str) -> tuple[Change, Change]:
    return put(name, LONG.replace("line 5", "ours")), put(name, LONG.replace("line 5", "theirs"))


BASE: list[Change] = [put("f", LONG), put("other", "other\n")]
_ROWS = LONG.replace("line", "row")
CASES = {
    "content": Case(BASE, [_edits("f")[0]], [_edits("f")[1]], {"f": "content"}),
    "add/add": Case(BASE, [put("n", "a\n")], [put("n", "b\n")], {"n": "add/add"}),
    "modify/delete": Case(BASE, [put("f", LONG + "more\n")], [remove("f")], {"f": "modify/delete"}),
    "delete/modify": Case(BASE, [remove("f")], [put("f", LONG + "more\n")], {"f": "modify/delete"}),
    "rename/rename": Case(BASE, [move("f", "a")], [move("f", "b")], dict.fromkeys(("a", "b", "f"), "rename/rename")),
    "rename/rename with edits": Case(
        BASE,
        [move("f", "a"), _edits("a")[0]],
        [move("f", "b"), _edits("b")[1]],
        dict.fromkeys(("a", "b", "f"), "rename/rename"),
    ),
    "two renamed to one": Case([*BASE, put("g", _ROWS)], [move("f", "n")], [move("g", "n")], {"n": "add/add"}),
    "two renamed to one with edits": Case(
        [*BASE, put("g", _ROWS)],
        [move("f", "n"), _edits("n")[0]],
        [_edits("f")[1], move("g", "n")],
        {"n": "rename/rename"},
    ),
    "rename/delete": Case(BASE, [move("f", "n")], [remove("f")], {"n": "rename/delete"}),
    "delete/rename": Case(BASE, [remove("f")], [move("f", "n")], {"n": "rename/delete"}),
    "rename and edit/delete": Case(
        BASE, [move("f", "n"), put("n", LONG + "more\n")], [remove("f")], {"n": "rename/delete"}
    ),
    "rename/add": Case(BASE, [move("f", "n")], [put("n", "b\n")], {"n": "add/add"}),
    "mode": Case(BASE, [executable("f")], [link("f", "other")], {"f": "mode", "f~writer-a": "mode"}),
    "mode, the other way": Case(BASE, [link("f", "other")], [executable("f")], {"f": "mode", "f~writer-b": "mode"}),
    "mode of a new file": Case(BASE, [put("n", "a\n"), executable("n")], [put("n", "a\n")], {"n": "mode"}),
    "mode and content": Case(BASE, [_edits("f")[0], executable("f")], [_edits("f")[1]], {"f": "content"}),
    "links": Case([link("l", "o")], [link("l", "a")], [link("l", "b")], {"l": "content"}),
    "binary": Case([put("f", b"\0a")], [put("f", b"\0b")], [put("f", b"\0c")], {"f": "binary"}),
    "new binary": Case(BASE, [put("n", b"\0b")], [put("n", b"\0c")], {"n": "binary"}),
    "submodule": Case([*BASE, submodule("s", 0)], [submodule("s", 1)], [submodule("s", 2)], {"s": "submodule"}),
    "submodule/delete": Case([*BASE, submodule("s", 0)], [submodule("s", 1)], [no_submodule("s")], {"s": "submodule"}),
    "submodule/file": Case(BASE, [submodule("s", 1)], [put("s", "file\n")], {"s": "submodule", "s~writer-b": "mode"}),
    "file/directory": Case(BASE, [put("n", "file\n")], [put("n/a", "in it\n")], {"n~writer-a": "file/directory"}),
    "directory/file": Case(BASE, [put("n/a", "in it\n")], [put("n", "file\n")], {"n~writer-b": "file/directory"}),
    "edited file/directory": Case(
        BASE, [put("f", LONG + "more\n")], [remove("f"), put("f/a", "in it\n")], {"f~writer-a": "file/directory"}
    ),
    "file location": Case(
        [put("d/a", LONG), put("d/b", _ROWS)],
        [move("d/a", "e/a"), move("d/b", "e/b")],
        [put("d/c", "new\n")],
        {"e/c": "file location"},
    ),
    "odd names": Case(
        [put(name, LONG) for name in ODD],
        [_edits(name)[0] for name in ODD],
        [_edits(name)[1] for name in ODD],
        dict.fromkeys(ODD, "content"),
    ),
}


Stages: TypeAlias = "set[tuple[str, str, int, str]]"


@dataclass(frozen=True)
class Sides:
    top: Path
    base: str
    ours: str
    theirs: str

    def plain_merge(self) -> Stages:
        """Merge as a user would, in the checkout; return what is unmerged."""
        git(self.top, "checkout", "-q", "-f", "ours")
        git(self.top, "merge", "-q", "theirs", ok=False)
        return stages_of(self.top)


def stages_of(top: Path) -> Stages:
    lines = filter(None, git(top, "ls-files", "-u", "-z").split("\0"))
    parts = ((*about.split(" "), path) for about, path in (line.split("\t", 1) for line in lines))
    return {(mode, sha, int(number), path) for mode, sha, number, path in parts}


def sides(top: Path, case: Case, *options: str) -> Sides:
    """Make a repository with the branches `main`, `ours` and `theirs`; `main` is checked out."""
    top.mkdir()
    git(top, "init", "-q", "-b", "main", *options)
    base = _commit(top, case.base)
    commits = []
    for branch, changes in (("ours", case.ours), ("theirs", case.theirs)):
        git(top, "checkout", "-q", "-f", "-b", branch, "main")
        commits.append(_commit(top, changes))
    git(top, "checkout", "-q", "-f", "main")
    return Sides(top, base, *commits)


def _commit(top: Path, changes: Sequence[Change]) -> str:
    for change in changes:
        change(top)
    # Submodules that are not there stay: they look removed.
    git(top, "add", "--ignore-removal", ".")
    git(top, "commit", "-q", "--allow-empty", "-m", "commit")
    return git(top, "rev-parse", "HEAD")
