"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.errors import PipelineError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print no progress.")]
RepoOption = Annotated[
    list[str] | None,
    typer.Option("--repo", metavar="NAME=PATH", help="Set the path of a repo; may be repeated."),
]
ProviderOption = Annotated[
    str | None, typer.Option("--provider", metavar="NAME", help="The provider of agents that name none.")
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=VALUE",
        help="Set an input; NAME=@FILE reads a file, NAME=- standard input; may be repeated.",
    ),
]


def read_pairs(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """Read repeated NAME=VALUE options.

    Raises:
        PipelineError: One has no `=`, or a name comes twice; all at once.
    """
    pairs: dict[str, str] = {}
    problems = []
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            problems.append(
                Problem("bad-option", f"`{option} {text}` has no value", None, f"write `{option} NAME=VALUE`")
            )
        elif name in pairs:
            problems.append(Problem("bad-option", f"`{option} {name}=…` is given twice", None, "give it once"))
        pairs[name] = value
    if problems:
        raise PipelineError.of(problems)
    return pairs


def read_inputs_given(given: Sequence[str] | None) -> dict[str, str]:
    """Read `--input` options, with the files and the standard input that they name.

    Raises:
        PipelineError: A file can't be read, or standard input is asked for twice.
    """
    pairs = read_pairs(given, "--input")
    problems = []
    from_stdin = [name for name, value in pairs.items() if value == "-"]
    if len(from_stdin) > 1:
        named = " and ".join(map(repr, from_stdin))
        problems.append(Problem("bad-option", f"standard input can be one input, not {named}", None, "use files"))
    for name, value in pairs.items():
        try:
            if value == "-" and not problems:
                pairs[name] = sys.stdin.read()
            elif value.startswith("@"):
                pairs[name] = Path(value[1:]).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            problems.append(
                Problem("bad-option", f"`--input {name}={value}`: {reason}", None, "name a readable text file")
            )
    if problems:
        raise PipelineError.of(problems)
    return pairs


def read_repos_given(given: Sequence[str] | None) -> dict[str, Path]:
    """Read `--repo` options."""
    return {name: Path(value) for name, value in read_pairs(given, "--repo").items()}


def print_json(document: object) -> None:
    """Print one JSON document on stdout."""
    import json

    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")


def print_warnings(problems: Sequence[Problem]) -> None:
    """Print warnings on stderr."""
    if problems:
        from orchestra.cli.render import render_problems

        sys.stderr.write(render_problems(problems) + "\n\n")
