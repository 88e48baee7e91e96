"""The whole page."""

from __future__ import annotations

import base64
import hashlib
import time
from importlib import metadata, resources
from typing import TYPE_CHECKING

from orchestra.cli.page.costs import costs
from orchestra.cli.page.heading import heading
from orchestra.cli.page.html import Style, el, render
from orchestra.cli.page.picture import picture
from orchestra.cli.page.timeline import timeline
from orchestra.cli.page.turns import Turns
from orchestra.graph.drawing.svg import STYLE as GRAPH_STYLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.cli.page.html import Element
    from orchestra.runtime.report.reading import Report

_SECTIONS = (("result", "Result"), ("graph", "Graph"), ("time", "Timeline"), ("costs", "Costs"), ("turns", "Turns"))


def write_page(report: Report, made: float | None = None) -> Iterator[str]:
    """Yield the page in pieces.

    Args:
        report: The session's.
        made: When it is made; by default now.
    """
    yield "<!DOCTYPE html>\n"
    made = time.time() if made is None else made
    yield from render(el("html", _head(report), el("body", _body(report, made)), lang="en"))
    yield "\n"


def policy(style: str) -> str:
    """Return what the page allows itself: its one style, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def _head(report: Report) -> Element:
    style = resources.files("orchestra.cli.page").joinpath("report.css").read_text(encoding="utf-8") + GRAPH_STYLE
    record = report.record
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy(style)),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{record.pipeline}: {record.status} ({record.session_id})"),
        Style(style),
    )


def _body(report: Report, made: float) -> Iterator[Element]:
    turns = Turns(report)
    links = [el("a", name, href=f"#{place}") for place, name in _SECTIONS]
    yield el("nav", links)
    yield el(
        "main",
        heading(report, made),
        el("section", el("h2", "Graph"), picture(report.outline, report.route, report.record.session_id), id="graph"),
        el("section", el("h2", "Timeline"), timeline(report.overview, turns.anchors), id="time"),
        el("section", el("h2", "Costs"), costs(report.overview), id="costs"),
        el("section", el("h2", "Turns"), turns.nodes(), id="turns"),
    )
    version = metadata.version("orchestra-agents")
    yield el("footer", f"Made by orchestra {version}. It needs no network, and runs nothing.")
