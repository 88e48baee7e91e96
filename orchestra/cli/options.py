"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.displays import Display
from orchestra.errors import PipelineError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=100_000)
"""More than that is as good as never."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print no progress.")]
DisplayOption = Annotated[
    Display,
    typer.Option(
        "--display",
        help="How to show progress, on stderr: a live tree (rich), lines (plain), events as JSON, or not (quiet); auto "
        "takes the tree on a terminal.",
    ),
]
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
CheckpointOption = Annotated[
    str | None, typer.Option("--checkpoint", metavar="ID", help="The checkpoint of that id, or a unique beginning.")
]
AgentOption = Annotated[
    str | None, typer.Option("--agent", metavar="NAME", help="The checkpoint at which the agent's last turn ended.")
]
TurnOption = Annotated[
    int | None, typer.Option("--turn", metavar="N", min=1, help="The agent's turn N instead of its last one.")
]
BeforeOption = Annotated[
    str | None, typer.Option("--before", metavar="NAME", help="The checkpoint at which the agent is about to start.")
]
StepOption = Annotated[
    int | None, typer.Option("--step", metavar="N", help="The checkpoint between turns that `log` shows as step N.")
]


def read_age(text: str, option: str, *, hint: str = "write a number with its unit: 90m, 12h, 14d, 2w") -> timedelta:
    """Read how long ago something was, such as `90m`.

    Args:
        text: What was given.
        option: To which option.
        hint: What to write instead where it is no age.

    Raises:
        PipelineError: `bad-option`.
    """
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip(), re.ASCII)
    if match is None:
        raise PipelineError(f"`{option} {text}` is no age", code="bad-option", hint=hint)
    return min(timedelta(**{_UNITS[match[2]]: int(match[1])}), _LONGEST)


def read_inputs_given(given: Sequence[str] | None) -> dict[str, str]:
    """Read `--input` options, with the files and the standard input that they name.

    Raises:
        PipelineError: With every option that can't be read.
    """
    pairs, problems = _read_pairs(given, "--input")
    from_stdin = [name for name, value in pairs.items() if value == "-"]
    if len(from_stdin) > 1:
        named = " and ".join(map(repr, from_stdin))
        problems.append(_bad_option(f"standard input can be one input, not {named}", "use files: `NAME=@FILE`"))
    for name, value in pairs.items():
        try:
            if value == "-" and not problems:
                pairs[name] = sys.stdin.read() if sys.stdin else ""
            elif value.startswith("@"):
                pairs[name] = Path(value[1:]).expanduser().read_text(encoding="utf-8")
            pairs[name].encode()
        except OSError as error:
            problems.append(_bad_option(f"`--input {name}={value}`: {error.strerror}", "name a readable file"))
        except UnicodeError:
            shown = value.encode("utf-8", "backslashreplace").decode()
            problems.append(_bad_option(f"`--input {name}={shown}` is not UTF-8 text", "give a text, or a text file"))
    if problems:
        raise PipelineError.of(problems)
    return pairs


def read_repos_given(given: Sequence[str] | None) -> dict[str, Path]:
    """Read `--repo` options.

    Raises:
        PipelineError: With every option that can't be read.
    """
    return {name: Path(value) for name, value in _pairs(given, "--repo").items()}


def read_models_given(given: Sequence[str] | None) -> dict[str, str]:
    """Read `--model` options.

    Raises:
        PipelineError: With every option that can't be read.
    """
    return _pairs(given, "--model")


def _pairs(given: Sequence[str] | None, option: str) -> dict[str, str]:
    pairs, problems = _read_pairs(given, option)
    if problems:
        raise PipelineError.of(problems)
    return pairs


def _read_pairs(given: Sequence[str] | None, option: str) -> tuple[dict[str, str], list[Problem]]:
    """Read repeated NAME=VALUE options."""
    pairs: dict[str, str] = {}
    problems = []
    value_word = {"--repo": "PATH", "--model": "MODEL"}.get(option, "VALUE")
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name or (option != "--input" and not value):
            what = "value" if name else "name"
            problems.append(_bad_option(f"`{option} {text}` has no {what}", f"write `{option} NAME={value_word}`"))
        elif name in pairs:
            problems.append(_bad_option(f"`{option} {name}=…` is given twice", "give it once"))
        else:
            pairs[name] = value
    return pairs, problems


def _bad_option(message: str, hint: str) -> Problem:
    return Problem("bad-option", message, None, hint)


def print_json(document: object) -> None:
    """Print one JSON document on stdout."""
    from orchestra.cli.render import as_json

    sys.stdout.write(as_json(document) + "\n")


def print_warnings(problems: Sequence[Problem]) -> None:
    """Print warnings on stderr."""
    if problems:
        from orchestra.cli.render import render_problems

        sys.stderr.write(render_problems(problems) + "\n\n")
