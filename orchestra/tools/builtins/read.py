"""`read-file`, `list-files` and `search-code`: how an agent looks around."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from orchestra.errors import GitError
from orchestra.tools.base import Tool, ToolFailureError, ToolResult, succeeded
from orchestra.tools.builtins.schema import integer, parameters, string
from orchestra.tools.builtins.source import Source, source_of
from orchestra.tools.confinement import is_git_name
from orchestra.tools.globs import expand_glob, matcher
from orchestra.tools.output import cut_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.tools.base import GitOutput, RepoContext, ToolContext

_ROOM = 28_000
"""Characters of lines in one result; with the head and foot lines it stays below the cap."""
_SNIFF = 8_000
"""Bytes in which git, too, looks for a NUL to call a file binary."""
SEARCH_TIMEOUT = 30.0


def read_file(repo: str) -> Tool:
    """Make `read-file` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        path = args["path"]
        data = await source_of(await context.repo(repo)).read(path)
        return succeeded(show_file(path, data, args.get("start"), args.get("end")))

    return Tool(
        name=f"{repo}:read-file",
        description="Read a text file, or some of its lines. Lines are shown with their numbers.",
        parameters=parameters(
            path=string("The file, relative to the root of the repository."),
            start=integer("First line, from 1. Default: the first.", optional=True),
            end=integer("Last line, inclusive. Default: as many as fit.", optional=True),
        ),
        run=run,
        repo=repo,
    )


def show_file(path: str, data: bytes, start: int | None = None, end: int | None = None) -> str:
    """Render lines of a file with their numbers, and say what is not shown and how to get it."""
    if b"\0" in data[:_SNIFF]:
        raise ToolFailureError(f"{path!r} is a binary file of {len(data):,} bytes; only text can be shown")
    notes = []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
        notes.append("not UTF-8: bytes that could not be read are shown as \ufffd")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    elif lines:
        notes.append("no line break at the end of the file")
    if any(line.endswith("\r") for line in lines):
        notes.append("lines end with CRLF")
        lines = [line.removesuffix("\r") for line in lines]
    if not lines:
        return f"{path} is empty"
    first, last = _range(path, len(lines), start, end)
    shown, stop = _numbered(lines, first, last)
    head = f"{path}, lines {first}-{stop} of {len(lines):,}" + "".join(f"; {note}" for note in notes)
    foot = f"\n[… {len(lines) - stop:,} more lines; go on with start={stop + 1} …]" if stop < last else ""
    return f"{head}\n{shown}{foot}"


def _range(path: str, count: int, start: int | None, end: int | None) -> tuple[int, int]:
    first, last = start or 1, min(end or count, count)
    if first > count:
        raise ToolFailureError(f"{path!r} has {count:,} lines, so there is no line {first:,}")
    if last < first:
        raise ToolFailureError(f"end={end} comes before start={first}; give the first line first")
    return first, last


def _numbered(lines: list[str], first: int, last: int) -> tuple[str, int]:
    out: list[str] = []
    used = 0
    for number in range(first, last + 1):
        line = f"{number:>6}\t{cut_line(lines[number - 1])}"
        used += len(line) + 1
        if used > _ROOM:
            return "\n".join(out), number - 1
        out.append(line)
    return "\n".join(out), last


def list_files(repo: str) -> Tool:
    """Make `list-files` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        names = [name for name in await source_of(await context.repo(repo)).files() if not _holds_git(name)]
        glob, limit = args.get("glob"), args.get("limit", 200)
        if glob:
            pattern = matcher(expand_glob(glob))
            found = [name for name in names if pattern.fullmatch(name)]
        else:
            found = names
        if not found:
            return succeeded(f"no file matches {glob!r}; the repository has {len(names):,} files", [])
        return succeeded(_listing(found, limit), found[:limit])

    return Tool(
        name=f"{repo}:list-files",
        description="List the files of the repository, sorted; files that git ignores are left out.",
        parameters=parameters(
            glob=string("Which files: '*.py' at any depth, 'src/**/*.ts', 'docs/'. Default: all files.", optional=True),
            limit=integer("The most names to list. Default: 200.", optional=True, maximum=5_000),
        ),
        run=run,
        repo=repo,
    )


def _listing(names: list[str], limit: int) -> str:
    shown: list[str] = []
    used = 0
    for name in names[:limit]:
        used += len(name) + 1
        if used > _ROOM:
            break
        shown.append(name)
    left = len(names) - len(shown)
    more = f"\n… and {left:,} more; narrow the glob or raise the limit" if left else ""
    return "\n".join(shown) + more


def _holds_git(path: str) -> bool:
    return any(is_git_name(part) for part in path.split("/"))


def search_code(repo: str) -> Tool:
    """Make `search-code` of a repository."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        here = await context.repo(repo)
        text = await _search(
            here, args["pattern"], args.get("glob", ""), args.get("context", 0), args.get("limit", 100)
        )
        return succeeded(text)

    return Tool(
        name=f"{repo}:search-code",
        description="Search the repository's files with a regular expression; files that git ignores are left out.",
        parameters=parameters(
            pattern=string("A regular expression, matched line by line, case-sensitive; (?i) in front ignores case."),
            glob=string("Which files: '*.py' at any depth, 'src/**/*.ts', 'docs/'. Default: all.", optional=True),
            context=integer(
                "Lines to show before and after each match. Default: 0.", optional=True, minimum=0, maximum=20
            ),
            limit=integer("The most matching lines to show. Default: 100.", optional=True, maximum=1_000),
        ),
        run=run,
        repo=repo,
        timeout=SEARCH_TIMEOUT,
    )


async def _search(repo: RepoContext, pattern: str, glob: str, context: int, limit: int) -> str:
    if not pattern or "\0" in pattern:
        raise ToolFailureError("the pattern is empty or holds a NUL character; name what to search for")
    if "\n" in pattern:
        raise ToolFailureError("the pattern holds a line break, but lines are searched one by one; search for one line")
    where = source_of(repo)
    paths = [f":(top,glob){each}" for each in expand_glob(glob)] if glob else []
    counts = await _count(repo, where, pattern, paths)
    total = sum(counts.values())
    if not total:
        in_files = f" in files that match {glob!r}" if glob else ""
        return f"no line matches {pattern!r}{in_files}"
    chosen, expected = [], 0
    for name, count in counts.items():
        chosen.append(name)
        expected += count
        if expected >= limit:
            break
    # The second look reads only files that are known to hold enough matches, so that its output stays small.
    output = await _grep(
        repo, where, pattern, ["-n", "--column", f"-C{context}", f"--max-count={limit}"],
        [f":(top,literal){name}" for name in chosen],
    )  # fmt: skip
    shown, matches = _render(output.stdout, repo.head, limit)
    files = f"{len(counts):,} file" + ("s" if len(counts) > 1 else "")
    head = f"{total:,} matching line" + ("s" if total > 1 else "") + f" in {files}"
    left = total - matches
    more = f"\n… and {left:,} more matching lines; narrow the pattern or the glob, or raise the limit" if left else ""
    return f"{head}\n{shown}{more}"


async def _count(repo: RepoContext, where: Source, pattern: str, paths: list[str]) -> dict[str, int]:
    output = await _grep(repo, where, pattern, ["-c"], paths)
    counts: dict[str, int] = {}
    prefix = f"{repo.head}:" if repo.path is None else ""
    for name, count in re.findall(rb"([^\0]+)\0(\d+)\n", output.stdout):
        path = name.decode("utf-8", "surrogateescape").removeprefix(prefix)
        if not _holds_git(path) and where.owns(path):
            counts[path] = int(count)
    return counts


async def _grep(repo: RepoContext, where: Source, pattern: str, options: list[str], paths: list[str]) -> GitOutput:
    common = ["-I", "-z", "--full-name", "--no-color", "--no-textconv", "--no-recurse-submodules", *options]
    scope = [option for option in where.grep if option.startswith("--")]
    trees = [tree for tree in where.grep if not tree.startswith("--")]
    for flavour in ("-P", "-E"):
        result = await repo.git(
            "grep", flavour, *common, *scope, f"-e{pattern}", *trees, "--", *paths, ok=(0, 1, 128)
        )  # fmt: skip
        if result.returncode != 128:  # noqa: PLR2004 - git's code for 'fatal'
            return result
        reason = result.stderr.decode("utf-8", "replace").strip().splitlines()
        said = re.sub(r"^fatal: (-e option, )?", "", reason[-1] if reason else "")
        if flavour == "-P" and "USE_LIBPCRE" in said:
            continue  # this git knows no Perl syntax
        break
    if "resource" in said or "limit" in said.lower():
        raise ToolFailureError(f"the pattern {pattern[:200]!r} is too costly to match ({said}); use a simpler one")
    if said.startswith(("command line", "'")) or pattern[:20] in said:
        raise ToolFailureError(
            f"the pattern is no valid regular expression: {said}; escape special characters with a backslash"
        )
    raise GitError(f"the search failed: {said}", command=("grep",), stderr=said)


_RECORD = re.compile(rb"(--)\n|([^\0]+)\0(\d+)\0(?:(\d+)\0)?([^\n]*)\n")


def _render(output: bytes, head: str, limit: int) -> tuple[str, int]:
    """Turn `file NUL line NUL [column NUL] text` into grep's usual look; only matching lines have a column."""
    out: list[str] = []
    matches = used = 0
    for found in _RECORD.finditer(output):
        if found[1]:
            out.append("--")
            continue
        if found[4] and matches == limit:
            break
        path = found[2].decode("utf-8", "replace").removeprefix(f"{head}:")
        sign = ":" if found[4] else "-"
        text = cut_line(found[5].decode("utf-8", "replace").removesuffix("\r"), 500)
        line = f"{path}{sign}{found[3].decode()}{sign} {text}"
        used += len(line) + 1
        if used > _ROOM:
            break
        matches += bool(found[4])
        out.append(line)
    while out and out[-1] == "--":
        out.pop()
    return "\n".join(out), matches
