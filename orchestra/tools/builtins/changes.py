"""Showing a change: which files with how many lines first, then the patches, each with a fair share of the room."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.tools.base import RepoContext, ToolFailureError, in_thread
from orchestra.tools.confinement import is_git_name, parse_path, read_bytes
from orchestra.tools.output import cut_line, fair_shares

if TYPE_CHECKING:
    import pathlib

_ROOM = 24_000
"""Characters for the patches; the list of files and the head lines have the rest of the cap."""
_MOST_LISTED = 80
_MOST_LINES = 50_000
"""Changed lines of one file; a patch with more is not even made."""
_MOST_UNTRACKED = 500
SAFE = (
    "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--submodule=short", "--ignore-submodules=dirty",
    "--src-prefix=a/", "--dst-prefix=b/", "-U3", "-M",
)  # fmt: skip
"""No configuration of a user or repository may run a program here or change the look. A submodule is never entered: git
would obey the configuration that lies in it, which an agent may have written."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """One changed file."""

    path: str
    added: int | None
    """None for a binary file."""
    deleted: int | None
    before: str | None = None
    """Its path before a rename."""

    def __str__(self) -> str:
        name = f"{self.before} => {self.path}" if self.before else self.path
        return f"{name} | binary" if self.added is None else f"{name} | +{self.added} -{self.deleted}"


async def show_changes(
    repo: RepoContext, command: tuple[str, ...], path: str | None, *, untracked: bool = False
) -> str:
    """Render what a git command (`diff COMMIT …`, `show … COMMIT`) changes, or return "" when that is nothing.

    Args:
        repo: The repository.
        command: The git command with resolved commits.
        path: Only this file or directory, as the model wrote it.
        untracked: Whether files that git does not track yet belong to the change.
    """
    scope = pathspec(repo, path)
    name, *commits = command
    numbers = (await repo.git(name, *SAFE, "--numstat", "-z", *commits, "--", *scope)).stdout
    changes = numstat(numbers)
    large = [change for change in changes if (change.added or 0) + (change.deleted or 0) > _MOST_LINES]
    without = [f":(top,literal,exclude){change.path}" for change in large]
    patch = b""
    if len(large) < len(changes):
        everything = scope or [":(top)"]
        patch = (await repo.git(name, *SAFE, "-p", *commits, "--", *everything, *without)).stdout
    patches = _split(patch.decode("utf-8", "replace"))
    if untracked and repo.path is not None:
        new = await _untracked(repo, repo.path, scope)
        changes += [change for change, _ in new]
        patches += [text for _, text in new]
    if not changes:
        return ""
    return f"{_stat(changes)}\n\n{_share(patches)}".rstrip() + "".join(
        f"\n[… the patch of {change.path} is too large to show …]" for change in large
    )


def show_patch(patch: str, path: str | None) -> str:
    """Render a patch that comes from elsewhere in the same way, or return "" when nothing in it is below `path`."""
    wanted = parse_path(path, directory=True) if path is not None else ()
    changes, shown = [], []
    for part in _split(patch):
        head, _, body = part.partition("\n@@")
        found = re.search(r"(?m)^\+\+\+ b/(.+)$", head) or re.search(r"^diff --git a/.* b/(.+)", head)
        name = found[1] if found else "?"
        if tuple(name.split("/"))[: len(wanted)] != wanted:
            continue
        added, deleted = (len(re.findall(rf"(?m)^{re.escape(sign)}", body)) for sign in "+-")
        changes.append(FileChange(name, added, deleted) if body else FileChange(name, None, None))
        shown.append(part)
    return f"{_stat(changes)}\n\n{_share(shown)}" if changes else ""


def pathspec(repo: RepoContext, path: str | None) -> list[str]:
    """Turn a path of the model into a pathspec that matches it literally; none for the whole repository."""
    if path is None:
        return []
    parts = parse_path(path, root=repo.path, directory=True)
    return [f":(top,literal){'/'.join(parts)}"] if parts else []


def numstat(output: bytes) -> list[FileChange]:
    """Read what `--numstat -z` says."""
    fields = iter(output.split(b"\0"))
    changes = []
    for field in fields:
        found = re.fullmatch(rb"\n*(\d+|-)\t(\d+|-)\t(.*)", field, re.DOTALL)
        if found is None:
            continue
        before = None if found[3] else _text(next(fields, b""))
        path = _text(found[3] or next(fields, b""))
        added, deleted = (None if number == b"-" else int(number) for number in (found[1], found[2]))
        changes.append(FileChange(path, added, deleted, before))
    return changes


def _stat(changes: list[FileChange]) -> str:
    added, deleted = sum(change.added or 0 for change in changes), sum(change.deleted or 0 for change in changes)
    head = f"{len(changes):,} file{'s' if len(changes) > 1 else ''} changed, +{added:,} -{deleted:,} lines"
    lines = [f"  {cut_line(str(change), 60 * 4)}" for change in changes[:_MOST_LISTED]]
    more = [f"  … and {len(changes) - _MOST_LISTED:,} more files"] if len(changes) > _MOST_LISTED else []
    return "\n".join([head, *lines, *more])[: 60 * _MOST_LISTED]


def _split(patch: str) -> list[str]:
    # Every line of a patch's content begins with a space, +, -, @ or \, so this can't be content.
    return [part.strip("\n") for part in re.split(r"(?m)^(?=diff --git )", patch) if part.startswith("diff --git ")]


def _share(patches: list[str]) -> str:
    # Room for the cuts' own words is kept back; patches for which nothing is left are counted.
    note_room = 160
    useful = 300
    most = _ROOM // useful
    shown = patches[:most]
    shares = fair_shares([len(patch) for patch in shown], _ROOM - note_room * len(shown) // 4)
    out = [_cut_patch(patch, share) for patch, share in zip(shown, shares, strict=True)]
    if len(patches) > most:
        out.append(f"[… the patches of {len(patches) - most:,} more files are not shown; ask for one with `path` …]")
    return "\n".join(out)


def _cut_patch(patch: str, share: int) -> str:
    if len(patch) <= share:
        return patch
    kept: list[str] = []
    used = 0
    lines = patch.split("\n")
    for line in lines:
        shortened = cut_line(line, 1_000)
        used += len(shortened) + 1
        if used > share:
            break
        kept.append(shortened)
    left = len(lines) - len(kept)
    if not left:
        return "\n".join(kept)
    return "\n".join(kept) + f"\n[… {left:,} more lines of this file's patch; ask with `path` for this file alone …]"


async def _untracked(repo: RepoContext, root: pathlib.Path, scope: list[str]) -> list[tuple[FileChange, str]]:
    listing = await repo.git("ls-files", "-z", "--full-name", "--others", "--exclude-standard", "--", *scope)
    names = sorted(os.fsdecode(name) for name in listing.stdout.split(b"\0") if name)
    names = [name for name in names if not any(is_git_name(part) for part in name.split("/"))]

    def render() -> list[tuple[FileChange, str]]:
        return [_new_file(root, name) for name in names[:_MOST_UNTRACKED]]

    shown = await in_thread(render)
    for name in names[_MOST_UNTRACKED:]:
        shown.append((FileChange(_shown(name), None, None), ""))
    return [(change, patch) for change, patch in shown]


def _new_file(root: pathlib.Path, name: str) -> tuple[FileChange, str]:
    """Write the patch that adds a file, as git would; making it with git would need its index, which is not ours."""
    shown = _shown(name)
    head = f"diff --git a/{shown} b/{shown}\nnew file (not tracked yet)\n--- /dev/null\n+++ b/{shown}"
    most = 1_000_000
    try:
        data, size = read_bytes(root, tuple(name.rstrip("/").split("/")), most)
    except ToolFailureError as error:
        return FileChange(shown, None, None), f"{head}\n[… not shown: {error} …]"
    if size > most or b"\0" in data[:8_000]:
        return FileChange(shown, None, None), f"{head}\n[… {size:,} bytes, binary or too large to show …]"
    lines = data.decode("utf-8", "replace").split("\n")
    ended = lines[-1] == ""
    lines = lines[:-1] if ended else lines
    body = "\n".join(f"+{line}" for line in lines)
    foot = "" if ended else "\n\\ No newline at end of file"
    return FileChange(shown, len(lines), 0), f"{head}\n@@ -0,0 +1,{len(lines)} @@\n{body}{foot}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _shown(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")
