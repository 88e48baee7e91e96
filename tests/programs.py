"""Random structured programs, and what each of their agents must do: the oracle for the token rules.

A program is a tree of sequences, fan-outs with a join, nested loops, early ends and conditional fan-outs. `interpret`
walks the tree and counts turns, without any notion of tokens; `edges` writes the same program as a graph.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, Literal

from hypothesis import strategies as st

from orchestra.graph.schema import EdgeSpec


@dataclass
class Agent:
    pass


@dataclass
class Sequence:
    parts: list[Program]


@dataclass
class FanOut:
    branches: list[Program]
    picks: list[list[int]] | None
    """Which branches the condition picks at each visit; None: no condition, all of them."""


@dataclass
class Loop:
    body: Program
    wants: list[bool]
    """Whether the gate wants to go back, by visit; beyond the list it does not."""
    bound: int


@dataclass
class EarlyEnd:
    """Goes to END instead of on to the rest of its branch, by visit."""

    rest: Program
    ends: list[bool]


Program = Agent | Sequence | FanOut | Loop | EarlyEnd


def programs() -> st.SearchStrategy[Program]:
    flags = st.lists(st.booleans(), max_size=4)

    def extend(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
        branches = st.lists(inner, min_size=2, max_size=3)

        def fan_out(parts: list[Program]) -> st.SearchStrategy[Program]:
            pick = st.lists(st.integers(0, len(parts) - 1), min_size=1, max_size=len(parts), unique=True)
            return st.builds(FanOut, st.just(parts), st.none() | st.lists(pick, min_size=1, max_size=4))

        return st.one_of(
            st.builds(Sequence, st.lists(inner, min_size=2, max_size=3)),
            branches.flatmap(fan_out),
            st.builds(Loop, inner, flags, st.integers(0, 3)),
            st.builds(EarlyEnd, inner, flags),
        )

    return st.recursive(st.builds(Agent), extend, max_leaves=8)


@dataclass
class Written:
    """A program as a graph: its edges, and what each condition chooses by visit of its agent."""

    nodes: list[str] = field(default_factory=list)
    edges: list[EdgeSpec] = field(default_factory=list)
    choices: dict[str, list[list[str]]] = field(default_factory=dict)
    defaults: dict[str, list[str]] = field(default_factory=dict)

    def edge(
        self,
        source: str | list[str],
        targets: list[str],
        *,
        loops: int | None = None,
        chosen: bool = False,
        mode: Literal["all", "any"] | None = None,
    ) -> None:
        sources = (source,) if isinstance(source, str) else tuple(source)
        self.edges.append(
            EdgeSpec(
                index=len(self.edges),
                sources=sources,
                is_list=len(sources) > 1,
                targets=tuple(targets),
                labels=None,
                condition=f"choose-{sources[0]}" if chosen else None,
                max_loops=loops,
                join=mode,
            )
        )


def write(program: Program) -> Written:
    """Write a program as a graph."""
    written = Written()
    names = (f"a{number}" for number in count())

    def agent() -> str:
        written.nodes.append(next(names))
        return written.nodes[-1]

    def build(part: Program) -> tuple[str, str]:
        match part:
            case Agent():
                name = agent()
                return name, name
            case Sequence(parts):
                built = [build(inner) for inner in parts]
                for (_, before), (after, _) in pairwise(built):
                    written.edge(before, [after])
                return built[0][0], built[-1][1]
            case FanOut(branches, picks):
                opener = agent()
                built = [build(inner) for inner in branches]
                closer = agent()
                entries = [entry for entry, _ in built]
                written.edge(opener, entries, chosen=picks is not None)
                if picks is not None:
                    written.choices[opener] = [[entries[number] for number in sorted(pick)] for pick in picks]
                    written.defaults[opener] = entries
                written.edge([leaving for _, leaving in built], [closer])
                return opener, closer
            case Loop(body, wants, bound):
                entry, leaving = build(body)
                gate, after = agent(), agent()
                written.edge(leaving, [gate])
                written.edge(gate, [entry, after], loops=bound, chosen=True)
                written.choices[gate] = [[entry] if want else [after] for want in wants]
                written.defaults[gate] = [after]
                return entry, after
            case EarlyEnd(rest, ends):
                gate = agent()
                entry, leaving = build(rest)
                written.edge(gate, [entry, "END"], chosen=True)
                written.choices[gate] = [["END"] if end else [entry] for end in ends]
                written.defaults[gate] = [entry]
                return gate, leaving

    entry, leaving = build(program)
    written.edge("START", [entry])
    written.edge(leaving, ["END"])
    return written


def interpret(program: Program) -> Counter[str]:
    """Count the turns that each agent of the program must have."""
    turns: Counter[str] = Counter()
    loops: Counter[int] = Counter()
    names: dict[int, list[str]] = {}
    numbers = count()

    def name(part: Program) -> None:
        """Give every node of the tree the names that `write` gives, in the same order."""
        match part:
            case Agent():
                names[id(part)] = [f"a{next(numbers)}"]
            case Sequence(parts):
                for inner in parts:
                    name(inner)
            case FanOut(branches, _):
                opener = f"a{next(numbers)}"
                for inner in branches:
                    name(inner)
                names[id(part)] = [opener, f"a{next(numbers)}"]
            case Loop(body, _, _):
                name(body)
                names[id(part)] = [f"a{next(numbers)}", f"a{next(numbers)}"]
            case EarlyEnd(rest, _):
                names[id(part)] = [f"a{next(numbers)}"]
                name(rest)

    def run(part: Program) -> bool:
        """Run a part; False when it ended before its last agent."""
        match part:
            case Agent():
                turns[names[id(part)][0]] += 1
                return True
            case Sequence(parts):
                return all(run(inner) for inner in parts)
            case FanOut(branches, picks):
                opener, closer = names[id(part)]
                visit = turns[opener]
                turns[opener] += 1
                chosen = picks[visit] if picks is not None and visit < len(picks) else range(len(branches))
                alive = [run(branches[number]) for number in sorted(chosen)]  # all of them, whatever the first gives
                if not any(alive):
                    return False
                turns[closer] += 1
                return True
            case Loop(body, wants, bound):
                gate, after = names[id(part)]
                while run(body):
                    visit = turns[gate]
                    turns[gate] += 1
                    again = visit < len(wants) and wants[visit] and loops[id(part)] < bound
                    if not again:
                        turns[after] += 1
                        return True
                    loops[id(part)] += 1
                return False
            case EarlyEnd(rest, ends):
                (gate,) = names[id(part)]
                visit = turns[gate]
                turns[gate] += 1
                return not (visit < len(ends) and ends[visit]) and run(rest)

    name(program)
    run(program)
    return turns


@dataclass
class Outcome:
    """What a node of a program gives back."""

    update: dict[str, Any]
    decides: bool = False
    commit_messages: dict[str, str] = field(default_factory=dict)
