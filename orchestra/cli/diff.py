"""`orchestra diff`: what a session has changed, all of it or a turn, and in what two sessions differ."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestra.cli.options import JsonOption, TurnOption, print_json
from orchestra.errors import PipelineError, SessionError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.runtime.differences import Difference
    from orchestra.runtime.store import SessionFiles, SessionRecord

    Changes = Mapping[str, tuple[str, str]]
    """Repo → the commits before and after."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for, once the words of the command line are understood."""

    changes: Changes
    about: dict[str, Any]
    """What of it stands in the JSON."""
    nothing: str
    """What to say where no file differs."""


def diff_command(
    session: Annotated[str, typer.Argument(help="The session's id, or a unique beginning of it.")],
    other: Annotated[
        str | None, typer.Argument(metavar="[AGENT|OTHER]", help="An agent or step of it, or another session.")
    ] = None,
    turn: TurnOption = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="A..B", help="From a checkpoint to another one, or `A..`, `..B`, `A`."),
    ] = None,
    repo: Annotated[
        list[str] | None, typer.Option("--repo", metavar="NAME", help="Only this repo; may be repeated.")
    ] = None,
    stat: Annotated[bool, typer.Option("--stat", help="Show which files, not their lines.")] = False,
    json: JsonOption = False,
) -> None:
    """Show which files a session has changed in all its repos, or only an agent's last turn, or between checkpoints.

    With another session: what both differ in, from outputs and routes to cost and files.

    Example: orchestra diff 3f fixer --turn 1
    """
    from orchestra.graph.root import find_root
    from orchestra.runtime.store import find_session, read_session

    root = find_root(Path.cwd())
    files = find_session(root, session)
    record = read_session(files)
    agent, against = _understand(root, files, other)
    _refuse(agent, against, turn, checkpoint)
    names = _repos(record, repo)
    if against is not None:
        _compare(files, against, names, stat=stat, json=json)
        return
    if agent is not None:
        wanted = _of_turn(files, agent, turn)
    elif checkpoint is not None:
        wanted = _between(files, record, checkpoint)
    else:
        wanted = _of_session(files, record)
    found = _differences(record, wanted.changes, names, patch=not stat)
    if json:
        repos = {item.repo: item.as_json(patch=not stat) for item in found}
        print_json({"session_id": record.session_id, **wanted.about, "repos": repos})
        return
    _show(found, stat=stat)
    if not found:
        _tell(wanted.nothing)


def _understand(root: Path, files: SessionFiles, word: str | None) -> tuple[str | None, SessionFiles | None]:
    """Tell whether a word names an agent of the session or another session; an agent's whole name comes first."""
    from orchestra.runtime.naming import known_agents
    from orchestra.runtime.store import find_session, read_checkpoints, session_ids

    if word is None:
        return None, None
    agents = known_agents(read_checkpoints(files))
    if word in agents:
        return word, None
    try:
        return None, find_session(root, word)
    except SessionError as error:
        if error.code != "unknown-session":
            raise
    hint = did_you_mean(word, [*agents, *session_ids(root)])
    message = f"{word!r} is neither an agent or step that has started in the session {files.session_id}, nor a session"
    unknown = SessionError(message, code="unknown-checkpoint", hint=hint or f"agents and steps: {', '.join(agents)}")
    unknown.exit_code = 2
    raise unknown


def _refuse(agent: str | None, against: SessionFiles | None, turn: int | None, checkpoint: str | None) -> None:
    if turn is not None and agent is None:
        hint = "write `orchestra diff SESSION AGENT --turn N`"
        raise PipelineError("`--turn` says which turn of an agent", code="bad-option", hint=hint)
    if checkpoint is not None and (agent or against):
        message = "`--checkpoint` names two states of one session; it needs neither an agent nor another session"
        raise PipelineError(message, code="bad-option", hint="leave one of them out")


def _repos(record: SessionRecord, given: Sequence[str] | None) -> frozenset[str]:
    for name in given or ():
        if name not in record.workspace:
            known = list(record.workspace)
            hint = did_you_mean(name, known) or f"repos: {', '.join(known)}"
            raise PipelineError(f"the session has no repo {name!r}", code="unknown-repo", hint=hint)
    return frozenset(given or record.workspace)


def _of_session(files: SessionFiles, record: SessionRecord) -> _Wanted:
    from orchestra.runtime.outcome import read_result
    from orchestra.runtime.store import ENDED

    commits = read_result(files)
    changes = {repo: (stored["base"], commits.get(repo, stored["base"])) for repo, stored in record.workspace.items()}
    if record.status not in ENDED:
        _tell(f"the session has not completed ({record.status}): this is its result so far")
    nothing = "the session has changed no file" if record.status in ENDED else _nothing_yet(record)
    return _Wanted(changes, {"agent": None, "turn": None, "from": None, "to": None}, nothing)


def _nothing_yet(record: SessionRecord) -> str:
    from orchestra.cli.place import typed

    session = record.session_id
    return (
        "no change of an agent is in it yet; what they have done so far: "
        f"{typed(f'log {session}')}, {typed(f'diff {session} AGENT')}"
    )


def _of_turn(files: SessionFiles, agent: str, turn: int | None) -> _Wanted:
    from orchestra.runtime.history import committed
    from orchestra.runtime.naming import find_turn
    from orchestra.runtime.spans import turn_changes
    from orchestra.runtime.store import read_checkpoints

    rows = read_checkpoints(files)
    span = find_turn(rows, agent, turn, session=files.session_id)
    if span.ended is None:
        _tell(f"turn {span.turn} of {agent} has not ended: this is what it has changed so far")
    changes = turn_changes(rows, span, committed(files).get((agent, span.turn), {}))
    about = {"agent": agent, "turn": span.turn, "from": None, "to": None}
    return _Wanted(changes, about, f"{agent} (turn {span.turn}) has changed no file")


def _between(files: SessionFiles, record: SessionRecord, text: str) -> _Wanted:
    from orchestra.runtime.naming import CheckpointName, find_checkpoint
    from orchestra.runtime.outcome import read_result

    first, _, second = text.partition("..")
    ends = [find_checkpoint(files, CheckpointName(checkpoint=name)) if name else None for name in (first, second)]
    if not any(ends):
        hint = "write `--checkpoint A..B` with ids that `orchestra log` shows"
        raise PipelineError(f"`--checkpoint {text}` names no checkpoint", code="bad-option", hint=hint)
    base = {repo: str(stored["base"]) for repo, stored in record.workspace.items()}
    before = ends[0]["repos"] if ends[0] else base
    after = ends[1]["repos"] if ends[1] else base | read_result(files)
    ids = [end and end["checkpoint_id"] for end in ends]
    changes = {repo: (before[repo], after[repo]) for repo in base if repo in before and repo in after}
    return _Wanted(changes, {"agent": None, "turn": None, "from": ids[0], "to": ids[1]}, "no file differs")


def _compare(first: SessionFiles, second: SessionFiles, repos: frozenset[str], *, stat: bool, json: bool) -> None:
    from orchestra.cli.patches import render_differences
    from orchestra.cli.side_by_side import render_comparison
    from orchestra.cli.styles import show, styles
    from orchestra.runtime.comparison import compare

    comparison = compare(first, second)
    found = _differences(comparison.sides[0].record, comparison.changes, repos, patch=not stat)
    if json:
        print_json(
            {
                "sessions": [side.as_json() for side in comparison.sides],
                "outputs": {name: list(pair) for name, pair in comparison.outputs.items() if pair[0] != pair[1]},
                "repos": {item.repo: item.as_json(patch=not stat) for item in found},
            }
        )
        return
    look = styles()
    files = render_differences(found, look, stat=stat) or look.bold("Files: the same") + "\n"
    show(f"{render_comparison(comparison, look)}\n{files}")


def _differences(record: SessionRecord, changes: Changes, repos: frozenset[str], *, patch: bool) -> list[Difference]:
    import asyncio

    from orchestra.runtime.differences import differences

    wanted = {repo: pair for repo, pair in changes.items() if repo in repos}
    return asyncio.run(differences(record, wanted, patch=patch))


def _show(found: Sequence[Difference], *, stat: bool) -> None:
    from orchestra.cli.patches import render_differences
    from orchestra.cli.styles import show, styles

    show(render_differences(found, styles(), stat=stat))


def _tell(text: str) -> None:
    from orchestra.cli.render import escape

    sys.stderr.write(f"{escape(text)}\n")
