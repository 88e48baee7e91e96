"""`orchestra graph`: draw a pipeline, or a session with the way that it has taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.options import JsonOption, ProviderOption, RepoOption, print_warnings, read_repos_given
from orchestra.errors import PipelineError, did_you_mean

if TYPE_CHECKING:
    from orchestra.graph.drawing.picture import Picture

_FORMATS = ("ascii", "mermaid", "svg", "dot", "json")
_BY_ENDING = {".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot", ".json": "json"}
_WIDTH = 80
"""Columns where there is no terminal."""


def graph_command(
    target: Annotated[
        str, typer.Argument(metavar="PIPELINE|SESSION", help="A pipeline file or its name, or a session's id.")
    ],
    format: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option("--format", metavar="FORMAT", help="ascii (the default), mermaid, svg, dot or json."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write it to FILE, whose ending tells the format."),
    ] = None,
    repo: RepoOption = None,
    provider: ProviderOption = None,
    json: JsonOption = False,
) -> None:
    """Draw a pipeline, or a session with the way that it has taken. Nothing is run, and nothing else is needed.

    Example: orchestra graph pr-review
    """
    from orchestra.runtime.pictures import find_picture

    chosen = _format(format, output, json=json)
    found = find_picture(target, Path.cwd(), provider=provider, repos=read_repos_given(repo))
    print_warnings(found.warnings)
    if found.also_session:
        from orchestra.cli.render import escape

        said = f"{target} is a pipeline, and the session {found.also_session}: this is the pipeline"
        sys.stderr.write(f"{escape(said)}\n")
    if output is not None:
        _write(_drawn(found.picture, chosen, _WIDTH, unicode=True), output)
    elif chosen == "ascii":
        from orchestra.cli.styles import show

        show(_drawn(found.picture, chosen, _width(), unicode=_has_unicode()))
    else:
        sys.stdout.write(_drawn(found.picture, chosen, _WIDTH, unicode=True))


def _format(given: str | None, output: Path | None, *, json: bool) -> str:
    if given is not None and given not in _FORMATS:
        hint = did_you_mean(given, _FORMATS) or f"one of: {', '.join(_FORMATS)}"
        raise PipelineError(f"there is no format {given!r}", code="bad-option", hint=hint)
    if json and given not in (None, "json"):
        message = f"`--json` and `--format {given}` name two formats"
        raise PipelineError(message, code="bad-option", hint="give one of them")
    if json:
        return "json"
    return given or _BY_ENDING.get(output.suffix.lower() if output else "", "ascii")


def _drawn(picture: Picture, format: str, width: int, *, unicode: bool) -> str:  # noqa: A002 - as above
    match format:
        case "mermaid":
            return picture.mermaid()
        case "svg":
            return picture.svg() + "\n"
        case "dot":
            return picture.dot()
        case "json":
            from orchestra.cli.render import as_json

            return as_json(picture.as_json()) + "\n"
    return picture.ascii(width=width, unicode=unicode)


def _width() -> int:
    from orchestra.cli.screen import Screen

    width = Screen(sys.stdout).width
    columns = os.environ.get("COLUMNS", "")
    return width or (int(columns) if columns.isdecimal() and len(columns) < 5 else _WIDTH)  # noqa: PLR2004 - digits


def _has_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _write(text: str, output: Path) -> None:
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"{output} can't be written: {error.strerror}"
        raise PipelineError(
            message, code="output-failed", hint="name a file in a directory that you may write"
        ) from None
