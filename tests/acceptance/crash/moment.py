"""Which files a checkpoint has to name, told from the state alone.

An agent sees what had been merged when its branch began, what its own branch has done since, and what its own calls
have done; of those beside it nothing. Between turns a checkpoint is about where one node stands, or what is merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.acceptance.crash.scenario import PERSON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.acceptance.crash.scenario import Change, Scenario

MARKERS = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")


def level_of(namespace: str) -> str:
    """Return the namespace of the graph in which a turn stands: the root's, or that of the innermost branch."""
    return "|".join(part for part in namespace.split("|") if part.startswith("branch."))


@dataclass(frozen=True)
class Moment:
    """One repo at a checkpoint."""

    scenario: Scenario
    repo: str
    level: str
    """The namespace of the graph that the checkpoint is in."""
    state: Mapping[str, Any]
    """Of that graph."""
    inside: str | None
    """The agent in whose turn the checkpoint is; None: it is between turns."""
    channels: Mapping[str, Any]
    """Those of the checkpoint itself."""

    def check(self, files: Mapping[str, str]) -> None:
        """Check files to the line.

        Raises:
            AssertionError: They are not those of the moment.
        """
        expected = self._expected()
        for path in sorted({*files, *expected}):
            lines, wanted = files.get(path, "").split(), expected.get(path)
            assert wanted is not None, f"{path} in {self.repo} is foreign: {lines}"
            if isinstance(wanted, frozenset):
                self._check_markers(path, files.get(path, "").splitlines(), wanted)
            else:
                where = f"inside {self.inside}" if self.inside else "between turns"
                assert lines == wanted, f"{path} in {self.repo} holds {lines}, not {wanted} ({where})"
        self._check_seen(files)
        self._check_unmerged(expected)

    def _expected(self) -> dict[str, list[str] | frozenset[str]]:
        """Return path → lines; a set of them where the file is in conflict."""
        expected: dict[str, list[str] | frozenset[str]] = {
            path: text.split() for path, text in self.scenario.base(self.repo).items()
        }
        changes: dict[str, list[tuple[str, int, Change]]] = {}
        for node, turn, change in self._changes():
            changes.setdefault(change.file, []).append((node, turn, change))
        for path, found in changes.items():
            settled = max((turn for _, turn, change in found if change.whole), default=0)
            before = [change.line for _, turn, change in found if change.whole and turn == settled]
            base = self.scenario.repos[self.repo].get(path, "").split()
            lines = before or base
            later = [(node, change.line) for node, turn, change in found if turn > settled]
            rest = [line for _, line in later]
            expected[path] = frozenset([*lines, *rest]) if len({node for node, _ in later}) > 1 else lines + rest
        return expected

    def _changes(self) -> Iterator[tuple[str, int, Change]]:
        hidden = self._hidden()
        for node in self.scenario.agents:
            turns = self._turns(node) - (node in hidden)
            for turn in range(1, turns + 1):
                yield from ((node, turn, change) for change in self.scenario.changes(self.repo, node, turn))
            if node == self.inside:
                own = self.scenario.changes(self.repo, node, turns + 1)
                yield from ((node, turns + 1, change) for change in own[: self._answered()])

    def _turns(self, node: str) -> int:
        if node == PERSON:
            waits = sum(bool(record) for record in (self.state.get("_merging") or {}).values())
            return len(self.state.get("_conflicts") or {}) - waits
        return int((self.state.get("turns") or {}).get(node, 0))

    def _hidden(self) -> set[str]:
        """Return whose last turn is not merged into what the checkpoint is about."""
        sources = set(self._behind_a_conflict())
        if self.inside is None:
            sources |= {*self._waiting_elsewhere(), *self._left_behind()}
        within = self.level.rpartition("|")[2].split(":")[0].removeprefix("branch.")
        return {node for source in sources for node in self.scenario.line(source, within)}

    def _behind_a_conflict(self) -> Iterator[str]:
        """Yield what a join has taken up and not merged yet: it stopped at a conflict, repo by repo, side by side."""
        for record in (self.state.get("_merging") or {}).values():
            if record:
                first = record["reached"][self.repo] + (record["repo"] == self.repo)
                yield from (name for name, _, _ in record["sides"][first:])

    def _waiting_elsewhere(self) -> set[str]:
        """Return what has arrived at a join that has not taken it up, and stands in another worktree."""
        stands = self.state.get("_stands") or []
        if len(ended := self.state.get("ended") or []) == 1:
            stands = [one for one in stands if one["node"] == ended[0]["agent"]]
        places = [stands[0]["at"]] if len(stands) == 1 else [one["from"] for one in stands]
        slots = {place.get(self.repo, "_session") for place in places}
        here = slots.pop() if len(slots) == 1 else "_session"
        joined, positions = self.state.get("joined") or {}, self.state.get("_positions") or {}
        return {
            source
            for join, arrived in (self.state.get("arrivals") or {}).items()
            for source, turn in arrived.items()
            if joined.get(join, {}).get(source, 0) < turn
            and positions.get(f"{source}>{join}", {}).get(self.repo, "_session") != here
        }

    def _left_behind(self) -> Iterator[str]:
        """Yield what has ended without meeting anybody, and is merged at the end."""
        if len(self.state.get("_stands") or []) != 1:
            for key, left in (self.state.get("_loose") or {}).items():
                if self.repo in (left or {}).get("commits", {}):
                    yield key.partition("#")[0]

    def _answered(self) -> int:
        """Return how many calls of the turn have changed the repo, as far as the checkpoint has their results."""
        changing = (f"{self.repo}__note", f"{self.repo}__write-file")
        return sum(message.type == "tool" and message.name in changing for message in self.channels.get("messages", ()))

    def _check_markers(self, path: str, lines: list[str], wanted: frozenset[str]) -> None:
        text = [line for line in lines if not line.startswith(MARKERS)]
        assert set(text) == wanted, f"{path} in {self.repo} holds {text}, not {sorted(wanted)}"
        assert lines != text, f"{path} in {self.repo} has no markers: {lines}"

    def _check_seen(self, files: Mapping[str, str]) -> None:
        """Check that what an agent saw by running a command are the files that its checkpoint names."""
        logs = {name: text.split() for name, text in files.items() if name.endswith(".log")}
        for message in self.channels.get("messages") or ():
            if self.inside and message.type == "tool" and message.name == f"{self.repo}__look":
                seen = [line.split() for line in str(message.content).partition("stdout:\n")[2].splitlines()]
                found = {name: lines for name, *lines in seen}
                assert found == logs, f"{self.inside} saw other files than its checkpoint names"

    def _check_unmerged(self, expected: Mapping[str, list[str] | frozenset[str]]) -> None:
        """Check that the state knows which paths of a conflict are still to be resolved."""
        entries = [repos[self.repo] for repos in (self.channels.get("snapshot") or {}).values() if self.repo in repos]
        known = [entry["unmerged"] for entry in entries if "unmerged" in entry]
        if self.inside and known:
            left = sorted(path for path, lines in expected.items() if isinstance(lines, frozenset))
            assert known == [left], f"unmerged in {self.repo} are {left}, not {known}"
