"""How the past of a session looks: a checkpoint a paragraph, as `git log --stat` does, with the forks that left it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestra.cli.onward import commands
from orchestra.cli.place import typed
from orchestra.cli.prices import price
from orchestra.cli.render import escape
from orchestra.errors import GitError
from orchestra.runtime.naming import short_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from orchestra.cli.styles import Styles
    from orchestra.runtime.history import Entry, Fork, History, Turn
    from orchestra.runtime.store import SessionRecord
    from orchestra.tools.builtins.changes import FileChange

    Files: TypeAlias = dict[tuple[str, str, str], tuple[FileChange, ...] | GitError]
    """Repo and the commits before and after → the files that differ."""

MOST_PADDED = 50
"""Characters of a name up to which the counts behind it stand below each other."""
MOST_FILES = 12
"""Files of one change that are listed."""


def render_history(history: History, files: Files, styles: Styles) -> str:
    """Render a session's checkpoints, oldest first; nothing in it can steer a terminal but the styles."""
    page = _Page(history, files, styles)
    return "".join(f"{line}\n" for line in page.lines())


class _Page:
    def __init__(self, history: History, files: Files, styles: Styles) -> None:
        self._history = history
        self._files = files
        self._styles = styles
        self._short = short_ids(history.rows)
        self._day = ""
        self._told: set[str] = set()

    def lines(self) -> Iterator[str]:
        history = self._history
        if not history.entries:
            yield "no checkpoints yet"
        for number, entry in enumerate(history.entries):
            if history.left_after == number:
                yield from self._origin()
            yield from self._entry(entry)
        if history.left_after == len(history.entries):
            yield from self._origin()
        for turn in history.unfinished:
            how = "is done, and waits for those beside it" if turn.facts.get("ended_at") else "has not ended"
            yield self._styles.bold(f"○ {escape(f'{turn.agent} (turn {turn.turn})')} {how}")
            yield from self._turn(turn, folded=0, indent="    ")
        yield from self._end()

    def _end(self) -> Iterator[str]:
        record = self._history.record
        first, *more = _state(record).splitlines()
        yield self._styles.bold(escape(f"■ {first}"))
        yield from (escape(f"    {line}") for line in more)
        yield from (self._styles.dim(escape(f"    {command}")) for command in commands(record))

    def _origin(self) -> Iterator[str]:
        origin = self._history.record.forked_from or {}
        source = str(origin.get("session_id"))
        gone = "" if self._history.source else ", which is not there any more"
        text = f"── from here on it is a fork: it has left {escape(source)}{gone} "
        yield self._styles.bold(text.ljust(72, "─"))
        yield from (f"    {change}" for change in _changes(self._history.record))

    def _entry(self, entry: Entry) -> Iterator[str]:
        row, styles = entry.row, self._styles
        what = ", ".join(f"{turn.agent} (turn {turn.turn})" for turn in entry.turns) or entry.what
        yield f"● {styles.name(escape(self._short[row['checkpoint_id']]))}  {styles.bold(escape(what))}"
        body = list(self._body(entry))
        for line in body:
            yield f"│   {line}"
        for fork in entry.forks:
            yield from self._fork(fork, "├─ ")

    def _body(self, entry: Entry) -> Iterator[str]:
        row = entry.row
        if len(entry.turns) == 1:
            yield from self._turn(entry.turns[0], entry.folded, "", when=self._when(row))
        else:
            yield self._when(row) + (f", {entry.folded} inside" if entry.folded else "")
            for turn in entry.turns:
                yield escape(turn.agent)
                yield from self._turn(turn, 0, "  ")
        for repo, pair in entry.changes.items():
            yield from self._change(repo, pair, "")
        for payload in entry.merges:
            yield escape(_merge(payload))
        if row["next"] and not entry.is_inside:
            yield escape(f"→ {', '.join(row['next'])}")

    def _when(self, row: Mapping[str, Any]) -> str:
        """Return the time of a checkpoint, with the day where that is another one than before, and its step."""
        day, time = row["created_at"][:10], row["created_at"][11:19]
        known, self._day = self._day, day
        step = "" if row["checkpoint_ns"] else f", step {row['step']}"
        return escape((time if day == known else f"{day} {time} UTC") + step)

    def _turn(self, turn: Turn, folded: int, indent: str, when: str = "") -> Iterator[str]:
        spent = ", ".join(filter(None, [when, *_spent(turn), f"{folded} inside" if folded else ""]))
        if spent:
            yield indent + spent
        for decision in turn.decisions:
            yield indent + self._styles.bold(escape(" ".join(decision.split())[:200]))
        for repo, pair in turn.changes.items():
            yield from self._change(repo, pair, indent)
        yield from (f"{indent}{escape(message)}" for message in turn.left_out)

    def _change(self, repo: str, pair: tuple[str, str], indent: str) -> Iterator[str]:
        styles = self._styles
        yield f"{indent}{escape(repo)} {styles.name(escape(pair[1][:10]))}"
        files = self._files.get((repo, *pair), ())
        if isinstance(files, GitError):
            again = files.message in self._told
            self._told.add(files.message)
            yield f"{indent}  its files can't be told" + ("" if again else escape(f": {files.message}"))
            return
        yield from (f"{indent}{line}" for line in statistics(files[:MOST_FILES], styles))
        if len(files) > MOST_FILES:
            yield f"{indent}  and {len(files) - MOST_FILES:,} more files"

    def _fork(self, fork: Fork, indent: str) -> Iterator[str]:
        record, below = fork.record, indent.replace("├", "│").replace("─", " ")
        about = f"{record.status}, {record.created_at[:16].replace('T', ' ')}"
        session = record.session_id
        yield f"{indent}fork {self._styles.name(escape(session))}  {escape(f'{record.pipeline}, {about}')}"
        yield from (f"{below}    {change}" for change in _changes(record))
        yield self._styles.dim(f"{below}    {escape(typed(f'log {session}'))}")
        for other in fork.forks:
            yield f"{below}at {escape(other.checkpoint_id[:13])}"
            yield from self._fork(other, f"{below}├─ ")


def statistics(files: Sequence[FileChange], styles: Styles) -> Iterator[str]:
    """Yield for each file a line with its name, how many of its lines are new and how many are gone."""
    names = [escape(_name(item)) for item in files]
    width = min(max(map(len, names), default=0), MOST_PADDED)
    for item, name in zip(files, names, strict=True):
        yield f"  {name.ljust(width)}  {_counts(item, styles)}"


def _counts(item: FileChange, styles: Styles) -> str:
    if item.added is None:
        return "binary"
    return f"{styles.added(f'+{item.added}')} {styles.removed(f'-{item.deleted}')}"


def _name(item: FileChange) -> str:
    return f"{item.before} => {item.path}" if item.before else item.path


def _changes(record: SessionRecord) -> list[str]:
    """Return what was made different in a fork."""
    changes = (record.forked_from or {}).get("changes")
    return [escape(str(change)) for change in changes] if isinstance(changes, list) else []


def _spent(turn: Turn) -> Iterable[str]:
    facts = turn.facts
    if not facts:
        return
    yield f"{facts['duration_s'] or 0:.1f} s"
    if (facts["attempts"] or 1) > 1:
        yield f"{facts['attempts']} attempts"
    if facts["model_calls"]:
        yield f"{(facts['input_tokens'] or 0) + (facts['output_tokens'] or 0):,} tokens"
        yield price(facts["cost_usd"])
    if calls := facts["tool_calls"]:
        yield f"{calls} tool call{'s' * (calls > 1)}"


def _state(record: SessionRecord) -> str:
    if record.error:
        return f"{record.status}: {record.error['message']}"
    waits = f", waits for {record.waiting_for['agent']}" if record.waiting_for else ""
    return f"{record.status}{waits}"


def _merge(payload: Mapping[str, Any]) -> str:
    if "agents" in payload:
        paths = ", ".join(str(path) for path, _ in payload["paths"])
        return f"CONFLICT of {' and '.join(map(str, payload['agents']))} in {payload['repo']}: {paths}"
    return f"merged {payload['from']} in {payload['repo']}, {str(payload['commit'])[:10]}"
