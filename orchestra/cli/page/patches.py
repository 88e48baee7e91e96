"""What turns have changed, as patches."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from orchestra.cli.page.html import el
from orchestra.cli.page.words import counted
from orchestra.cli.patches import lines_of_patch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestra.cli.page.html import Element, Node
    from orchestra.runtime.report.changes import Change
    from orchestra.tools.builtins.changes import FileChange


def changes(found: Iterable[Change], command: str) -> Iterator[Element]:
    """Yield what differs in each repo.

    Args:
        found: The changes.
        command: What to type to see all of them.
    """
    for change in found:
        body = [*_body(change, command)]
        summary = el("summary", el("span", "changed", class_="label"), " ", head(change))
        yield el("details", summary, body, class_="fold change") if body else el("div", *summary.children)


def head(change: Change) -> Iterator[Node]:
    """Say where something has changed, and how much."""
    yield el("strong", change.repo)
    yield " "
    yield el("code", f"{change.before[:10]}..{change.after[:10]}")
    if change.error and not change.count:
        yield " can't be told"
        return
    yield f" {counted(change.count, 'file')} "
    yield el("span", f"+{change.added:,}", class_="added")
    yield " "
    yield el("span", f"-{change.deleted:,}", class_="removed")


def _body(change: Change, command: str) -> Iterator[Node]:
    if change.files:
        yield el("table", el("tbody", map(_file, change.files)), class_="files")
    if change.patch:
        yield el("pre", _lines(change.patch.decode("utf-8", "backslashreplace")), class_="text diff", tabindex=0)
    if change.error:
        yield el("p", change.error[:2_000], class_="left-out")
    if change.left_out and not (change.error and not change.patch):
        yield el(
            "p", f"{counted(change.left_out, 'patch', 'patches')} left out: ", el("code", command), class_="left-out"
        )


def _file(item: FileChange) -> Element:
    name = f"{item.before} → {item.path}" if item.before else item.path
    counts = (
        el("td", "binary", colspan=2)
        if item.added is None
        else [el("td", f"+{item.added:,}", class_="added"), el("td", f"-{item.deleted or 0:,}", class_="removed")]
    )
    return el("tr", el("td", el("code", name[:500])), counts)


def _lines(patch: str) -> Iterator[Element]:
    for kind, lines in groupby(lines_of_patch(patch.removesuffix("\n")), key=lambda line: line[0]):
        yield el("span", "\n".join(line for _, line in lines), class_=f"d-{kind}")
