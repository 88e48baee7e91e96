"""`orchestra doctor`: what is wrong on this machine, in this project and its sessions, and what to do."""

from __future__ import annotations

import os
import sys
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestra.runtime.doctor.finding import Finding

_WIDTH = 80
_SHOWN = 10
"""Findings of one kind that are shown to people; the others are counted."""


def doctor_command(
    pipeline: Annotated[str | None, typer.Argument(help="A pipeline file, or the name of a pipeline.")] = None,
    json: JsonOption = False,
) -> None:
    """Find out what is wrong, and what to do: git, Python, SQLite, keys, disk, locks, sessions.

    It changes nothing, and needs no project and no repository. With a pipeline, its file, repos and keys are looked
    at, too. The exit code is 0, whatever it finds.

    Example: orchestra doctor pr-review
    """
    import asyncio

    from orchestra.runtime.doctor import examine

    findings = asyncio.run(examine(pipeline, debug=bool(os.environ.get("ORCHESTRA_DEBUG"))))
    if json:
        print_json([finding.as_json() for finding in findings])
    else:
        sys.stdout.write(as_text(findings))


def as_text(findings: Sequence[Finding]) -> str:
    """Render findings for people: a line each, below it what to do; at the end a summary."""
    width = max((len(finding.check) for finding in findings), default=0)
    lines: list[str] = []
    shown: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        kind = (finding.check, finding.status)
        shown[kind] += 1
        if shown[kind] <= _SHOWN:
            lines += _lines(finding, f"{finding.status:<7}  {finding.check:<{width}}  ")
    for (check, status), count in shown.items():
        if count > _SHOWN:
            lines.append(f"{status:<7}  {check:<{width}}  … and {count - _SHOWN} more: orchestra doctor --json")
    return "\n".join([*lines, "", _summary(findings)]) + "\n"


def _lines(finding: Finding, start: str) -> Iterator[str]:
    from orchestra.cli.render import escape

    # Paths, names and messages may come from a repository of someone else: nothing in them may steer the terminal.
    indent = " " * len(start)
    yield from _wrapped(escape(finding.message), start, indent)
    label = "fix: "
    if finding.fix:
        yield from _wrapped(escape(finding.fix), indent + label, indent + " " * len(label))
        label = " " * len(label)
    for command in finding.commands:
        # Never broken, so that it can be copied.
        yield f"{indent}{label}{escape(command)}"
        label = " " * len(label)


def _wrapped(text: str, start: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(str(finding.status) for finding in findings)
    parts = [
        f"{count} {word}{'s' if count > 1 else ''}" for word in ("error", "warning") if (count := counts.get(word, 0))
    ]
    return f"{', '.join(parts)}; {counts['ok']} ok" if parts else f"all is well: {counts['ok']} ok"
