"""`orchestra export`: a session as one HTML page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestra.cli.options import JsonOption, QuietOption, print_json
from orchestra.errors import PipelineError

if TYPE_CHECKING:
    from orchestra.runtime.store import SessionFiles


def export_command(
    session: Annotated[str, typer.Argument(help="The session's id, or a unique beginning of it.")],
    html: Annotated[str, typer.Option("--html", metavar="FILE", help="Where to write the page; -: standard output.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Leave out contents: only who did what, when, and what it cost.")
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Write a session as one page: graph, timeline, costs, and turn by turn what was said, done and changed.

    The page needs no network and runs nothing. It holds what agents read and wrote: look at it before you share it, or
    use `--redact`.

    Example: orchestra export 3f --html report.html
    """
    from orchestra.graph.root import find_root
    from orchestra.runtime.store import find_session

    root = find_root(Path.cwd())
    files = find_session(root, session)
    if html == "-" and json:
        hint = "name a file for the page"
        raise PipelineError("`--html -` and `--json` both write to standard output", code="bad-option", hint=hint)
    size = _write(files, root, html, redact=redact, force=force)
    if json:
        print_json(
            {"session_id": files.session_id, "file": str(Path(html).absolute()), "bytes": size, "redacted": redact}
        )
    elif not quiet and html != "-":
        from orchestra.cli.render import escape
        from orchestra.runtime.disk import size as size_of

        sys.stderr.write(escape(f"the report of session {files.session_id} is in {html} ({size_of(size)})") + "\n")


def _write(files: SessionFiles, root: Path, html: str, *, redact: bool, force: bool) -> int:
    from orchestra.cli.new_file import check_target, new_file
    from orchestra.cli.page.document import write_page
    from orchestra.runtime.report.reading import open_report

    target = None if html == "-" else Path(html)
    if target is not None:
        check_target(target, force=force)
    size = 0
    with open_report(files, root, redact=redact) as report:
        if target is None:
            for piece in write_page(report):
                size += sys.stdout.buffer.write(piece.encode())
            return size
        with new_file(target, force=force) as out:
            for piece in write_page(report):
                size += out.write(piece.encode())
    return size
