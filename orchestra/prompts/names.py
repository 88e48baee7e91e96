"""Which names a template takes from outside, and where it uses them without asking whether they are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jinja2 import nodes

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class Uses:
    """The first place where each name is needed; `x is defined` and `x|default(…)` need nothing."""

    lines: dict[str, int] = field(default_factory=dict)

    def visit(self, node: nodes.Node, known: set[str]) -> None:
        """Record the names that `node` needs beyond the `known` ones; what it sets is added to `known`."""
        special = getattr(self, f"_{type(node).__name__.lower()}", None)
        if special:
            special(node, known)
        elif _asks(node):
            self._all(node.iter_child_nodes(exclude=("node",)), known)
        else:
            self._all(node.iter_child_nodes(), known)

    def _name(self, node: nodes.Name, known: set[str]) -> None:
        if node.ctx == "load" and node.name not in known:
            self.lines[node.name] = min(node.lineno, self.lines.get(node.name, node.lineno))

    def _all(self, children: Iterable[nodes.Node], known: set[str]) -> None:
        for child in children:
            self.visit(child, known)

    def _condexpr(self, node: nodes.CondExpr, known: set[str]) -> None:
        yes, no = proven(node.test)
        self.visit(node.test, known)
        self.visit(node.expr1, known | yes)
        if node.expr2:
            self.visit(node.expr2, known | no)

    def _and(self, node: nodes.And, known: set[str]) -> None:
        self.visit(node.left, known)
        self.visit(node.right, known | proven(node.left)[0])

    def _or(self, node: nodes.Or, known: set[str]) -> None:
        self.visit(node.left, known)
        self.visit(node.right, known | proven(node.left)[1])

    def _with(self, node: nodes.With, known: set[str]) -> None:
        self._all(node.values, known)
        self._all(node.body, known | _targets(node.targets))

    def _assign(self, node: nodes.Assign, known: set[str]) -> None:
        self.visit(node.node, known)
        known |= _targets([node.target])

    def _assignblock(self, node: nodes.AssignBlock, known: set[str]) -> None:
        self._all(node.body, set(known))
        if node.filter:
            self.visit(node.filter, known)
        known |= _targets([node.target])

    def _call(self, node: nodes.Call, known: set[str]) -> None:
        if not isinstance(node.node, nodes.Name):  # that would be range(…)
            self.visit(node.node, known)
        self._all(node.args, known)

    def _if(self, node: nodes.If, known: set[str]) -> None:
        absent: set[str] = set()
        ends: list[set[str]] = []
        for branch in (node, *node.elif_):
            yes, no = proven(branch.test)
            self.visit(branch.test, known | absent)
            ends.append(known | absent | yes)
            self._all(branch.body, ends[-1])
            absent |= no
        ends.append(known | absent)
        self._all(node.else_, ends[-1])
        known |= set.intersection(*ends)

    def _for(self, node: nodes.For, known: set[str]) -> None:
        self.visit(node.iter, known)
        inside = known | _targets([node.target]) | {"loop"}
        if node.test:
            self.visit(node.test, inside)
            inside |= proven(node.test)[0]
        self._all(node.body, inside)
        self._all(node.else_, set(known))


def proven(test: nodes.Node) -> tuple[set[str], set[str]]:
    """Return the names that are surely defined when the test holds, and when it does not."""
    if isinstance(test, nodes.Test) and isinstance(test.node, nodes.Name):
        names = {test.node.name}
        if test.name == "defined":
            return names, set()
        if test.name == "undefined":
            return set(), names
    if isinstance(test, nodes.Not):
        yes, no = proven(test.node)
        return no, yes
    if isinstance(test, nodes.And | nodes.Or):
        left, right = proven(test.left), proven(test.right)
        if isinstance(test, nodes.And):
            return left[0] | right[0], left[1] & right[1]
        return left[0] & right[0], left[1] | right[1]
    return set(), set()


def _asks(node: nodes.Node) -> bool:
    """Tell `x is defined` and `x|default(…)`, which are right without x."""
    if isinstance(node, nodes.Test):
        return node.name in {"defined", "undefined"} and isinstance(node.node, nodes.Name)
    return isinstance(node, nodes.Filter) and node.name in {"default", "d"} and isinstance(node.node, nodes.Name)


def _targets(targets: Iterable[nodes.Node]) -> set[str]:
    names = set()
    for target in targets:
        if isinstance(target, nodes.Name):
            names.add(target.name)
        names |= {name.name for name in target.find_all(nodes.Name)}
    return names
