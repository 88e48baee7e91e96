"""Merging two commits without a worktree: the merged tree, or what conflicts (D13).

A merge here depends on nothing but the two commits, so that it gives the same tree on every machine and again after a
crash. Git runs in a scratch repository that borrows the objects: no configuration of anybody's is read there, so that
no merge driver can run, and `merge.conflictStyle` or `diff.renames` change nothing. Attributes are those of `ours`,
written out to the scratch directory: `merge=union`, `binary`, `-merge` and `conflict-marker-size` work, while
`merge=NAME` of a driver that somebody configured merges as text. Git falls back to that where a driver is not defined.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestra.errors import GitError
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.git import Repository, repository_of
from orchestra.runtime.git_errors import explain
from orchestra.runtime.snapshots import scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from orchestra.runtime.git import GitManager, Place
    from orchestra.runtime.git_process import GitOutput

_SUBMODULE = "160000"
_SHA256 = 64
_FATAL = 128
_COMMAND = ("merge-tree", "--write-tree", "-z")
_ATTRIBUTES = b".gitattributes"
_FILES = frozenset({b"100644", b"100755"})
_TOO_SMALL = re.compile(rb"\bconflict-marker-size=[0-6](?!\d)")
"""Markers that short would not be told from text when somebody leaves them in a file."""
_KINDS = {
    "CONFLICT (rename/rename)": "rename/rename",
    "CONFLICT (rename involved in collision)": "rename/rename",
    "CONFLICT (rename/delete)": "rename/delete",
    "CONFLICT (file/directory)": "file/directory",
    "CONFLICT (distinct modes)": "mode",
    "CONFLICT (modify/delete)": "modify/delete",
    "CONFLICT (binary)": "binary",
    "CONFLICT (directory rename suggested)": "file location",
}
"""The kind that one of git's messages gives to a path; where several name it, the first of these."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One index entry of a conflict."""

    mode: str
    sha: str
    number: int
    """1: the common ancestor's, 2: ours, 3: theirs."""
    path: str


@dataclass(frozen=True, slots=True)
class ConflictedPath:
    """A path that somebody has to resolve."""

    path: str
    kind: str
    """In git's words: `content`, `add/add`, `modify/delete`, `rename/rename`, `rename/delete`, `file/directory`,
    `file location`, `binary`; `mode` where the sides made it another type of file; `submodule`; or `other`."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What two commits conflict in."""

    tree: str
    """The files with markers, as git would leave them."""
    paths: tuple[ConflictedPath, ...]
    """One for each unmerged path of the index, sorted."""
    stages: tuple[Stage, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values; file names that are no UTF-8 are kept as Python keeps them."""
        return {
            "tree": self.tree,
            "paths": [[one.path, one.kind] for one in self.paths],
            "stages": [[one.mode, one.sha, one.number, one.path] for one in self.stages],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Conflict:
        """Make it again from what `as_json` gave."""
        paths = tuple(ConflictedPath(*one) for one in value["paths"])
        return cls(value["tree"], paths, tuple(Stage(*one) for one in value["stages"]))


async def merge_trees(
    git: GitManager, where: Place, ours: str, theirs: str, *, labels: tuple[str, str], session: str
) -> str | Conflict:
    """Merge two commits; no reference, index or worktree is written.

    Args:
        git: Starts git.
        where: The repository; its files don't matter.
        ours: The commit that is merged into.
        theirs: The commit that is merged.
        labels: What the markers call the two, such as the agents' names.
        session: The session's id.

    Returns:
        The merged tree, or what conflicts. The same arguments give the same answer.

    Raises:
        GitError: `unrelated-histories`: the two have no common ancestor. `commit-missing`.
    """
    with scratch_directory(repository_of(where), session) as scratch:
        names = safe_labels(labels)
        _make_repository(where, scratch, dict(zip(names, (ours, theirs), strict=True)))
        await _write_attributes(git, where, ours, scratch / "files")
        failpoint("merge-prepared")
        output = await _run(git, where, scratch, names)
    if not output.stdout:
        raise _not_merged(where, ours, theirs, output)
    tree, stages, messages = _read(output.stdout)
    # Git also calls it a conflict when it could not tell where files of a renamed directory belong. They are all in
    # the tree then, where their side has them, and nothing in the index is left to resolve.
    return Conflict(tree, tuple(_judge(stages, messages)), stages) if stages else tree


async def merge_commits(
    git: GitManager,
    where: Place,
    ours: str,
    theirs: str,
    *,
    message: str,
    author: str | None,
    date: datetime,
    labels: tuple[str, str],
    session: str,
) -> str | Conflict:
    """Merge two commits to one: `ours` or `theirs` itself where it holds the other, else a commit with both parents.

    The same arguments give the same commit. See `merge_trees` for the others.
    """
    base = await git.merge_base(where, ours, theirs)
    if base is None:
        raise _unrelated(repository_of(where), ours, theirs)
    if base in {ours, theirs}:
        return ours if base == theirs else theirs
    merged = await merge_trees(git, where, ours, theirs, labels=labels, session=session)
    if isinstance(merged, Conflict):
        return merged
    return await git.commit_tree(where, merged, (ours, theirs), message, author=author, date=date)


def safe_labels(labels: tuple[str, str]) -> tuple[str, str]:
    """Make of two labels names of branches, which git takes for nothing else and can tell apart."""
    first, second = (_safe_label(label) for label in labels)
    return first, f"{second}-theirs" if first == second else second


def _safe_label(label: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", label).strip("-")[:100]
    # All else that git knows by a name without a slash: a commit's own name, and HEAD and its like.
    return name if name and not re.fullmatch(r"[0-9a-f]{40,}|[A-Z_-]+", name) else f"side-{name}".rstrip("-")


def _make_repository(where: Place, scratch: Path, branches: dict[str, str]) -> None:
    """Make by hand what git needs to call a directory a repository, which takes no process."""
    heads = scratch / "git" / "refs" / "heads"
    heads.mkdir(parents=True)
    (scratch / "git" / "objects").mkdir()
    (scratch / "files").mkdir()
    (scratch / "git" / "HEAD").write_text("ref: refs/heads/none\n", encoding="ascii")
    (scratch / "git" / "config").write_text(_configuration(where, branches.values()), encoding="ascii")
    for name, commit in branches.items():
        (heads / name).write_text(f"{commit}\n", encoding="ascii")


def _configuration(where: Place, commits: Iterable[str]) -> str:
    """Return what must be as in the repository: the kind of its objects, and who may write beside them."""
    sha256 = any(len(commit) == _SHA256 for commit in commits)
    kind = "repositoryFormatVersion = 1\n[extensions]\nobjectFormat = sha256\n" if sha256 else ""
    text = (repository_of(where).common_dir / "config").read_text(encoding="utf-8", errors="replace")
    shared = re.search(r"^\s*sharedRepository\s*=\s*(\w+)\s*$", text, re.IGNORECASE | re.MULTILINE)
    return "[core]\n" + (f"sharedRepository = {shared[1]}\n" if shared and shared[1].isascii() else "") + kind


async def _run(git: GitManager, where: Place, scratch: Path, names: tuple[str, str]) -> GitOutput:
    repo = repository_of(where)
    # Git looks for attributes in the current directory, hence the scratch is the place.
    place = Repository(repo.name, scratch / "files", scratch / "git", scratch / "git", None, None, repo.shallow)
    env = _isolated(repo.common_dir, scratch)
    return await git.run(place, *_COMMAND, *names, ok=(0, 1, _FATAL), env=env)


def _not_merged(where: Place, ours: str, theirs: str, output: GitOutput) -> GitError:
    """Say why git merged nothing, of the repository and not of the scratch; for a commit that lacks it exits with 1."""
    said = output.stderr.decode(errors="replace")
    repo = repository_of(where)
    if "unrelated histories" in said:
        return _unrelated(repo, ours, theirs)
    if "not something we can merge" in said:
        message = f"of the commits {ours} and {theirs} one is not in {repo.common_dir}, so they can't be merged"
        return GitError(message, command=_COMMAND, stderr=said, code="commit-missing")
    return explain(_COMMAND, output.returncode, said, repo.top or repo.git_dir, store=repo.common_dir)


def _isolated(common: Path, scratch: Path) -> dict[str, str]:
    """Return the environment in which git knows the objects and nothing else of a repository, user or machine."""
    shallow = {"GIT_SHALLOW_FILE": str(common / "shallow")} if (common / "shallow").exists() else {}
    nobodys = dict.fromkeys(("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"), os.devnull)
    # The user's attributes file is found below these, whatever is said of the configuration.
    homes = dict.fromkeys(("HOME", "XDG_CONFIG_HOME"), str(scratch))
    quiet = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1"}
    return shallow | nobodys | homes | quiet | {"GIT_OBJECT_DIRECTORY": str(common / "objects")}


async def _write_attributes(git: GitManager, where: Place, commit: str, files: Path) -> None:
    """Write the attributes of a commit where git looks for them: in files, until version 2.41."""
    listed = (await git.run(where, "ls-tree", "-r", "-z", commit)).stdout
    if _ATTRIBUTES + b"\0" not in listed:
        return
    found = list(_attribute_files(listed))
    asked = b"".join(sha + b"\n" for sha, _ in found)
    answer = (await git.run(where, "cat-file", "--batch", input=asked)).stdout
    for _, path in found:
        head, _, answer = answer.partition(b"\n")
        size = int(head.rsplit(b" ", 1)[1])
        target = files / os.fsdecode(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_TOO_SMALL.sub(b"conflict-marker-size=7", answer[:size]))
        answer = answer[size + 1 :]


def _attribute_files(listed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield blob and path of what git takes for attributes: no links, and no name that leads out of the directory."""
    for line in listed.split(b"\0"):
        if line.endswith(_ATTRIBUTES):
            about, _, path = line.partition(b"\t")
            mode, _, sha = about.split(b" ")
            parts = path.split(b"/")
            if mode in _FILES and parts[-1] == _ATTRIBUTES and not {b"", b".", b".."} & set(parts):
                yield sha, path


def _read(output: bytes) -> tuple[str, tuple[Stage, ...], list[tuple[frozenset[str], str]]]:
    """Read the tree, the stages, and the messages as the paths that each is about and its stable name."""
    tree, *fields = os.fsdecode(output).split("\0")
    rest = iter(fields)
    stages = []
    for entry in rest:
        if not entry:
            break
        about, _, path = entry.partition("\t")
        mode, sha, number = about.split(" ")
        stages.append(Stage(mode, sha, int(number), path))
    messages = []
    for count in rest:
        if count.isdecimal():  # else the line break at the end
            paths = frozenset(next(rest) for _ in range(int(count)))
            messages.append((paths, next(rest)))
            next(rest)
    return tree, tuple(stages), messages


def _judge(stages: Iterable[Stage], messages: list[tuple[frozenset[str], str]]) -> Iterator[ConflictedPath]:
    by_path: dict[str, list[Stage]] = {}
    for stage in stages:
        by_path.setdefault(stage.path, []).append(stage)
    for path in sorted(by_path):
        said = {name for paths, name in messages if path in paths}
        yield ConflictedPath(path, _kind(by_path[path], said))


def _kind(stages: list[Stage], said: set[str]) -> str:
    numbers = {stage.number: stage for stage in stages}
    if any(stage.mode == _SUBMODULE for stage in stages):
        return "submodule"
    if found := next((kind for name, kind in _KINDS.items() if name in said), None):
        return found
    if not {2, 3} <= numbers.keys():
        return "other"
    if numbers[2].sha == numbers[3].sha:
        return "mode"
    return "content" if 1 in numbers else "add/add"


def _unrelated(repo: Repository, ours: str, theirs: str) -> GitError:
    hint = f"git -C '{repo.top or repo.git_dir}' fetch --unshallow" if repo.shallow else "give them a common ancestor"
    return GitError(
        f"{ours} and {theirs} in {repo.common_dir} have no common ancestor, so they can't be merged",
        code="unrelated-histories",
        hint=hint,
    )
