"""How differences of files look: a head for each repo, then its files or its patches, with colours of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.cli.history import statistics
from orchestra.cli.render import escape, escape_prose

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestra.cli.styles import Styles
    from orchestra.runtime.differences import Difference


def render_differences(found: Iterable[Difference], styles: Styles, *, stat: bool) -> str:
    """Render what differs in each repo; nothing in it can steer a terminal but the styles."""
    return "".join(f"{line}\n" for difference in found for line in _lines(difference, styles, stat=stat))


def _lines(difference: Difference, styles: Styles, *, stat: bool) -> Iterator[str]:
    repo, commits = escape(difference.repo), escape(f"{difference.before[:10]}..{difference.after[:10]}")
    added = sum(item.added or 0 for item in difference.files)
    deleted = sum(item.deleted or 0 for item in difference.files)
    count = len(difference.files)
    about = "" if difference.error and not count else f": {count:,} file{'s' * (count != 1)}, +{added:,} -{deleted:,}"
    yield styles.bold(f"── {repo} {commits}{about}")
    if stat:
        yield from statistics(difference.files, styles)
    elif difference.patch:
        yield from _patch(difference.patch.decode("utf-8", "backslashreplace").removesuffix("\n"), styles)
    for path in () if stat else difference.too_large:
        yield escape(f"the patch of {path} is too large to show; `--stat` counts its lines")
    if difference.error:
        yield escape(f"not shown: {difference.error.message}")


def _patch(text: str, styles: Styles) -> Iterator[str]:
    looks = {"head": styles.bold, "hunk": styles.place, "added": styles.added, "removed": styles.removed}
    for kind, line in lines_of_patch(text):
        shown = escape_prose(line)
        yield looks[kind](shown) if kind in looks else shown


def lines_of_patch(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line with what it is: `head`, `hunk`, `added`, `removed` or `same`.

    What follows a `@@` is content, until the next file.
    """
    inside = False
    for line in text.split("\n"):
        if line.startswith("diff --git "):
            inside = False
            yield "head", line
        elif line.startswith("@@"):
            inside = True
            yield "hunk", line
        elif not inside:
            yield "head", line
        else:
            yield {"+": "added", "-": "removed"}.get(line[:1], "same"), line
