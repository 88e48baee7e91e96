"""Globs as models write them: `*.py`, `src/**/*.{ts,tsx}`, `docs/`; one meaning for listing and for searching."""

from __future__ import annotations

import re

from orchestra.tools.base import ToolFailureError
from orchestra.tools.confinement import parse_path

_MOST = 64


def expand_glob(glob: str) -> list[str]:
    """Turn a glob into patterns relative to the root, in git's `:(glob)` syntax: braces expanded, directories opened.

    A pattern without a slash matches at any depth, as in .gitignore. A directory stands for all files in it.
    """
    parse_path(glob, directory=True)  # refuses absolute paths, `..` and `.git`, with the reason
    patterns: list[str] = []
    for plain in _braces(glob):
        cleaned = re.sub(r"/+", "/", re.sub(r"(^|(?<=/))(\./)+", "", plain))
        if cleaned in {"", "."}:
            cleaned = "**"
        if cleaned.endswith("/"):
            cleaned += "**"
        if "/" not in cleaned and cleaned != "**":
            cleaned = f"**/{cleaned}"
        patterns.append(cleaned)
        if not cleaned.endswith("**"):
            patterns.append(f"{cleaned}/**")
    return patterns


def matcher(patterns: list[str]) -> re.Pattern[str]:
    """Compile patterns to one regular expression over whole paths."""
    return re.compile("|".join(f"(?:{_translate(pattern)})" for pattern in patterns), re.DOTALL)


def _braces(glob: str) -> list[str]:
    done: list[str] = []
    waiting = [glob]
    while waiting:
        if len(waiting) + len(done) > _MOST:
            raise ToolFailureError(f"the glob {glob[:100]!r} stands for too many patterns; use a simpler one")
        current = waiting.pop(0)
        found = re.search(r"\{([^{}]*,[^{}]*)\}", current)
        if found is None:
            done.append(current)
            continue
        waiting.extend(current[: found.start()] + choice + current[found.end() :] for choice in found[1].split(","))
    return done


def _translate(pattern: str) -> str:
    """Write a pattern as a regular expression that never tries a piece of a path twice.

    Between two wildcards the leftmost match is as good as any later one, so the groups are atomic; plain translation
    would take hours for `*a*a*a*a*b`.
    """
    runs: list[list[str]] = [[]]
    for name in pattern.split("/"):
        if name == "**":
            runs.append([])
        else:
            runs[-1].append(name)
    texts = ["".join(f"{_segment(name)}/" for name in run) for run in runs]
    out = [texts[0], *(f"(?>(?:[^/]+/)*?{text})" for text in texts[1:-1] if text)]
    if len(runs) > 1 and runs[-1]:
        out.append("(?:[^/]+/)*" + texts[-1])
    elif len(runs) > 1:
        return "".join(out) + ".+"
    return "".join(out).removesuffix("/")


def _segment(name: str) -> str:
    pieces = [""]
    at = 0
    while at < len(name):
        if name[at] == "*":
            pieces.append("")
            at = len(name) - len(name[at:].lstrip("*"))
        elif name[at] == "?":
            pieces[-1] += "[^/]"
            at += 1
        else:
            text, at = _one(name, at)
            pieces[-1] += text
    if len(pieces) == 1:
        return pieces[0]
    middle = "".join(f"(?>[^/]*?{piece})" for piece in pieces[1:-1])
    return f"{pieces[0]}{middle}[^/]*{pieces[-1]}"


def _one(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at] == "\\" and at + 1 < len(pattern):
        return re.escape(pattern[at + 1]), at + 2
    found = re.compile(r"\[([!^]?)(\]?[^\]/]*)\]").match(pattern, at)
    if found is None:
        return re.escape(pattern[at]), at + 1
    inside = re.sub(r"([\\\[\]&~|^])", r"\\\1", found[2])
    try:
        re.compile(f"[{inside}]")
    except re.error:
        return re.escape(found[0]), found.end()
    return f"(?!/)[{'^' if found[1] else ''}{inside}]", found.end()
