"""The head of a report: which session, how it ended, what it took, what came out, what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestra.cli.page.html import el
from orchestra.cli.page.patches import head as change_head
from orchestra.cli.page.texts import Room, block, value_block
from orchestra.cli.page.words import clock, cost, counted, duration, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestra.cli.page.html import Element, Node
    from orchestra.runtime.report.changes import Change
    from orchestra.runtime.report.reading import Report

GLYPHS = {
    "completed": "✓",
    "failed": "✗",
    "cancelled": "■",
    "paused": "‖",
    "interrupted": "!",
    "running": "▶",
    "created": "▶",
}
MOST_CONFLICTS = 200
_MOST = 60_000
"""Bytes of what was handed over at the end."""


def heading(report: Report, made: float) -> Iterator[Node]:
    """Yield the head.

    Args:
        report: The session's.
        made: When the report is made.
    """
    record = report.record
    status = str(record.status)
    yield el(
        "header",
        el("p", "Orchestra session report", class_="kicker"),
        el(
            "h1",
            record.pipeline,
            " ",
            el("span", el("span", GLYPHS[status], aria_hidden="true"), f" {status}", class_=f"status status-{status}"),
        ),
        el("p", report.outline.description[:2_000], class_="lead") if report.outline else "",
        _notices(report, made),
        el("dl", _facts(report, made), class_="facts-list"),
    )
    yield from _error(record.error)
    yield from _waits(record.waiting_for)
    yield el("section", el("h2", "Result"), _result(report), _inputs(record.inputs), id="result")


def _notices(report: Report, made: float) -> Iterator[Element]:
    if str(report.record.status) in ("running", "created"):
        yield el("p", f"It is still at work: this is how it stood at {clock(made, day=True)} UTC.", class_="notice")
    if report.redact:
        text = (
            "Contents are left out: prompts, texts, arguments, results, outputs, patches, names of files and branches."
        )
        yield el("p", text, class_="notice")


def _facts(report: Report, made: float) -> Iterator[Node]:
    record, overview = report.record, report.overview
    total = overview.spending.total
    yield from _fact("session", el("code", record.session_id))
    if overview.started is not None and overview.ended is not None:
        at_work = str(record.status) in ("running", "created")
        yield from _fact("began", f"{clock(overview.started, day=True)} UTC")
        yield from _fact(
            "took", duration((made if at_work else overview.ended) - overview.started) + " so far" * at_work
        )
    agents = len({turn.agent for turn in overview.turns})
    copied = sum(turn.is_copied for turn in overview.turns)
    before = f", {copied:,} of them before the fork" if copied else ""
    of_whom = counted(agents, "agent or step", "agents and steps")
    yield from _fact("turns", f"{len(overview.turns):,} of {of_whom}{before}")
    yield from _fact("tokens", tokens(total))
    yield from _fact("cost", cost(total))
    yield from _fact("checkpoints", f"{record.checkpoints:,}")
    if origin := record.forked_from:
        left: list[Node] = [
            el("code", str(origin.get("session_id"))),
            " at ",
            el("code", str(origin.get("checkpoint_id"))[:13]),
        ]
        changes = origin.get("changes")
        said = f", with {' '.join(map(str, changes))[:500]}" if isinstance(changes, list) and changes else ""
        yield from _fact("forked from", [*left, said])
    yield from _fact("report made", f"{clock(made, day=True)} UTC")


def _fact(name: str, value: Node) -> Iterator[Element]:
    yield el("div", el("dt", name), el("dd", value))


def _error(error: Mapping[str, Any] | None) -> Iterator[Element]:
    if error:
        room = Room(_MOST)
        by = f" ({error['agent']})" if error.get("agent") else ""
        yield el(
            "section",
            el("h2", f"Error: {error.get('code')}", by),
            block(str(error.get("message", "")), room),
            el("p", "hint: ", room.take(str(error["hint"]))[0]) if error.get("hint") else "",
            class_="error",
        )


def _waits(waiting: Mapping[str, Any] | None) -> Iterator[Element]:
    if waiting:
        text = block(str(waiting.get("text", "")), Room(_MOST), style="prose")
        yield el("section", el("h2", f"{waiting.get('agent')} waits for a person"), text, class_="waits")


def _result(report: Report) -> Iterator[Node]:
    room = Room(_MOST)
    outputs = report.outputs() if str(report.record.status) == "completed" else {}
    for name, output in outputs.items():
        text = output["text"] if isinstance(output, dict) and isinstance(output.get("text"), str) else output
        if isinstance(text, str):
            decided = f" ({output['decision']})" if isinstance(output, dict) and output.get("decision") else ""
            yield el("div", f"{name}{decided}", class_="label")
            yield el("pre", room.take(text)[0], class_="text prose result", tabindex=0)
        else:
            yield value_block(text, room, label=name)
    rows = [_repo(*row) for row in report.result()]
    heads = el("tr", [el("th", name, scope="col") for name in ("repo", "base", "result", "branch", "changed")])
    if rows:
        yield el("div", el("table", el("thead", heads), el("tbody", rows)), class_="scroll")
    yield from _conflicts(report)
    yield el("h3", "What to type next")
    yield el("pre", "\n".join(_next(report)), class_="text")


def _conflicts(report: Report) -> Iterator[Element]:
    found = report.conflicts()
    if found:
        heads = el("tr", [el("th", name, scope="col") for name in ("repo", "path", "kind", "agents", "resolved by")])
        rows = [
            el(
                "tr",
                el("td", str(one["repo"])),
                el("td", el("code", str(one["path"])[:500])),
                el("td", str(one["kind"])),
                el("td", ", ".join(map(str, one["agents"]))),
                el("td", str(one["resolved_by"] or "no agent")),
            )
            for one in found[:MOST_CONFLICTS]
        ]
        yield el("h3", "Conflicts")
        yield el("div", el("table", el("thead", heads), el("tbody", rows)), class_="scroll")
        if len(found) > MOST_CONFLICTS:
            yield el("p", f"{counted(len(found) - MOST_CONFLICTS, 'path')} left out", class_="left-out")


def _repo(name: str, stored: Mapping[str, Any], commit: str, change: Change | None) -> Element:
    changed: Node = [*_counts(change)] if change else "nothing"
    return el(
        "tr",
        el("th", name, scope="row"),
        el("td", el("code", str(stored["base"])[:10])),
        el("td", el("code", commit[:10])),
        el("td", el("code", str(stored["branch"])) if stored.get("branch") else "-"),
        el("td", changed),
    )


def _counts(change: Change) -> Iterator[Node]:
    _, _, _, *counts = change_head(change)
    yield from counts


def _inputs(inputs: Mapping[str, Any]) -> Iterator[Node]:
    given = {name: value for name, value in inputs.items() if value not in (None, "")}
    if given:
        room = Room(_MOST)
        yield el("h3", "Inputs")
        for name, value in given.items():
            yield value_block(value, room, label=name)


def _next(report: Report) -> Iterator[str]:
    record = report.record
    session, status = record.session_id, str(record.status)
    if status in ("failed", "interrupted") or (status == "paused" and not record.waiting_for):
        yield f"orchestra resume {session}"
    elif status in ("paused", "running") and record.waiting_for:
        yield f"orchestra attach {session}       # answer, or: orchestra respond {session} TEXT"
    elif status in ("running", "created"):
        yield f"orchestra attach {session}       # look on"
    yield f"orchestra log {session}          # its checkpoints"
    yield f"orchestra diff {session}         # all it has changed"
    if status == "completed" and any(stored.get("branch") for stored in record.workspace.values()):
        yield f"orchestra apply {session}        # bring the result into your checkout"
    yield f"orchestra replay {session} --agent NAME   # go on from where an agent's turn ended, as a new session"
