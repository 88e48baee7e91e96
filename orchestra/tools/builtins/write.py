"""`write-file`, `edit-file`, `delete-file` and `move-file`: how an agent changes the files of its worktree."""

from __future__ import annotations

import difflib
import itertools
import re
from typing import TYPE_CHECKING, Any

from orchestra.tools.base import Tool, ToolFailureError, ToolResult, in_thread, succeeded, worktree_of
from orchestra.tools.builtins.schema import boolean, parameters, string
from orchestra.tools.builtins.source import MOST_BYTES
from orchestra.tools.confinement import delete_file as delete
from orchestra.tools.confinement import move_file as move
from orchestra.tools.confinement import parse_path, read_bytes, write_bytes
from orchestra.tools.output import cut_line

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping

    from orchestra.tools.base import RepoContext, ToolContext

_PATH = "The file, relative to the root of the repository."


def write_file(repo: str) -> Tool:
    """Make `write-file` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        where = await context.repo(repo)
        root = worktree_of(where)
        parts = parse_path(args["path"], root=root)
        content = args["content"].encode("utf-8")
        created = await in_thread(lambda: write_bytes(root, parts, content))
        await _touched(where, parts)
        lines = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
        return succeeded(f"{'created' if created else 'replaced'} {'/'.join(parts)} ({lines:,} lines)")

    return _writer(
        f"{repo}:write-file",
        "Create a file with its directories, or replace the whole content of an existing one.",
        parameters(path=string(_PATH), content=string("The whole content of the file.")),
        run,
    )


def edit_file(repo: str) -> Tool:
    """Make `edit-file` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        where = await context.repo(repo)
        root = worktree_of(where)
        parts = parse_path(args["path"], root=root)
        every = args.get("all", False)
        said = await in_thread(lambda: _edit(root, parts, args["old"], args["new"], every))
        await _touched(where, parts)
        return succeeded(said)

    return _writer(
        f"{repo}:edit-file",
        "Replace exact text in a file. The old text must occur exactly once, unless `all` is true.",
        parameters(
            path=string(_PATH),
            old=string("The text to replace, exactly as it stands in the file, without line numbers."),
            new=string("The text to put in its place."),
            all=boolean("Replace every occurrence. Default: false."),
        ),
        run,
    )


def delete_file(repo: str) -> Tool:
    """Make `delete-file` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        where = await context.repo(repo)
        root = worktree_of(where)
        parts = parse_path(args["path"], root=root)
        await in_thread(lambda: delete(root, parts))
        await _touched(where, parts)
        return succeeded(f"deleted {'/'.join(parts)}")

    return _writer(f"{repo}:delete-file", "Delete a file.", parameters(path=string(_PATH)), run)


def move_file(repo: str) -> Tool:
    """Make `move-file` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        where = await context.repo(repo)
        root = worktree_of(where)
        source, target = parse_path(args["path"], root=root), parse_path(args["to"], root=root)
        await in_thread(lambda: move(root, source, target))
        await _touched(where, source, target)
        return succeeded(f"moved {'/'.join(source)} to {'/'.join(target)}")

    return _writer(
        f"{repo}:move-file",
        "Move or rename a file. Nothing is overwritten.",
        parameters(path=string(_PATH), to=string("The new path of the file, not its directory.")),
        run,
    )


def _writer(name: str, description: str, schema: dict[str, Any], run: Any) -> Tool:
    return Tool(
        name=name,
        description=description,
        parameters=schema,
        run=run,
        writes=True,
        needs_worktree=True,
        repo=name.partition(":")[0],
    )


async def _touched(repo: RepoContext, *paths: tuple[str, ...]) -> None:
    if repo.touched is not None:
        await repo.touched(["/".join(parts) for parts in paths])


def _edit(root: pathlib.Path, parts: tuple[str, ...], old: str, new: str, every: bool) -> str:
    path = "/".join(parts)
    if not old:
        raise ToolFailureError("`old` is empty; to create or replace a whole file use write-file")
    if old == new:
        raise ToolFailureError("`old` and `new` are the same; nothing would change")
    data, size = read_bytes(root, parts, MOST_BYTES)
    if size > MOST_BYTES:
        raise ToolFailureError(f"{path!r} has {size:,} bytes, which is too large to edit")
    if b"\0" in data:
        raise ToolFailureError(f"{path!r} is a binary file; only text can be edited")
    # Bytes that are not UTF-8 pass through this pair of calls unchanged.
    text = data.decode("utf-8", "surrogateescape")
    found = list(_either_line_end(old).finditer(text))
    if not found:
        raise ToolFailureError(_no_match(path, text, old))
    if len(found) > 1 and not every:
        lines = [str(text.count("\n", 0, match.start()) + 1) for match in found[:5]]
        more = " …" if len(found) > len(lines) else ""
        raise ToolFailureError(
            f"`old` occurs {len(found)} times in {path!r} (lines {', '.join(lines)}{more}); give more of the text "
            "around the one you mean, or set all=true"
        )
    changed = _replace(text, found, new)
    write_bytes(root, parts, changed.encode("utf-8", "surrogateescape"))
    line = text.count("\n", 0, found[0].start()) + 1
    return f"edited {path}: {len(found)} replacement" + ("s" if len(found) > 1 else f" at line {line}")


def _either_line_end(old: str) -> re.Pattern[str]:
    return re.compile(r"\r?\n".join(re.escape(line) for line in re.split(r"\r?\n", old)))


def _replace(text: str, found: list[re.Match[str]], new: str) -> str:
    crlf = text.count("\r\n")
    whole = "\r\n" if crlf * 2 > text.count("\n") else "\n"
    out: list[str] = []
    at = 0
    for match in found:
        # The replaced text shows which line end belongs here; one line alone takes that of the file.
        inside = match[0]
        end = ("\r\n" if "\r\n" in inside else "\n") if "\n" in inside else whole
        out += [text[at : match.start()], re.sub(r"\r?\n", lambda _, end=end: end, new) if crlf else new]  # type: ignore[misc]  # a default argument of a lambda has no type
        at = match.end()
    return "".join(out) + text[at:]


def _no_match(path: str, text: str, old: str) -> str:
    message = f"the text of `old` does not occur in {path!r}"
    lines = text.split("\n")
    squeezed = " ".join(old.split())
    for number, line in enumerate(lines, start=1):
        wanted = squeezed.split(" ")[0]
        if (
            wanted
            and wanted in line
            and " ".join(" ".join(lines[number - 1 : number + old.count("\n")]).split()) == squeezed
        ):
            return f"{message}, but text that differs only in white space does; the file has:\n" + _show(
                lines, number, number + old.count("\n")
            )
    first = next((line.strip() for line in old.split("\n") if line.strip()), "")
    nearest = _nearest(lines, first)
    if nearest is None:
        return f"{message}; read the file again and copy the text exactly, without line numbers"
    return f"{message}; the nearest lines are:\n" + _show(lines, nearest - 1, nearest + 1)


def _nearest(lines: list[str], wanted: str) -> int | None:
    most, longest, alike = 5_000, 500, 0.6
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted[:longest])
    best, number = alike, None
    for at, line in enumerate(itertools.islice(lines, most), start=1):
        matcher.set_seq1(line.strip()[:longest])
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and matcher.ratio() > best:
            best, number = matcher.ratio(), at
    return number


def _show(lines: list[str], first: int, last: int) -> str:
    first = max(first, 1)
    return "\n".join(
        f"{number:>6}\t{cut_line(line.removesuffix(chr(13)), 500)}"
        for number, line in enumerate(lines[first - 1 : last][:40], start=first)
    )
