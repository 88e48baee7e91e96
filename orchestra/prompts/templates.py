"""The template language of tasks: Jinja2's syntax, reduced to what writing a prompt needs.

A template is parsed, checked against a list of allowed nodes, and rewritten so that every loop, operator and call goes
through an operation that pays for its work (`metering.py`, `operations.py`). Only data can be reached: a dot looks into
mappings, never at attributes of Python objects. Jinja's own sandbox stays below as a second wall. The bounds are
complete (each node that is evaluated and each character that is built is paid for), so no time limit is needed.

Import this module lazily: it loads Jinja2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from jinja2 import StrictUndefined, Template, Undefined, meta, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from orchestra.errors import did_you_mean
from orchestra.prompts.filters import FILTERS
from orchestra.prompts.metering import CHARS_PER_STEP, Meter, TemplateLimitError, binary, kind_of
from orchestra.prompts.operations import MAPPING_METHODS, REWRITTEN, TESTS, TEXT_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jinja2.runtime import Context

MAX_TEMPLATE = 200_000
MAX_OUTPUT = 4_000_000
MAX_DEPTH = 60
MAX_NODES = 15_000

_LOOP_FIELDS = frozenset(
    {"index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem"}
)
_OPERATORS = frozenset({"+", "-", "*", "/", "//", "%", "**"})
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.AssignBlock,
    nodes.With, nodes.FilterBlock, nodes.Name, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair,
    nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call, nodes.Getattr, nodes.Getitem, nodes.Slice,
    nodes.Concat, nodes.Compare, nodes.Operand, nodes.BinExpr, nodes.UnaryExpr,
)  # fmt: skip
_STATEMENTS = {
    "Include": "{% include %}", "Import": "{% import %}", "FromImport": "{% from … import %}",
    "Extends": "{% extends %}", "Block": "{% block %}", "Macro": "{% macro %}", "CallBlock": "{% call %}",
    "NSRef": "{% set name.field %}", "ScopedEvalContextModifier": "{% autoescape %}",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a template, and in which of its lines (1-based)."""

    code: str
    message: str
    line: int
    hint: str | None = None
    name: str | None = None
    """What to point at in the line."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template and one rendering of it."""

    intercepted_binops = _OPERATORS

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,  # the text goes to a model, not to a browser
            optimized=False,
            cache_size=0,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_print,
        )
        self.meter = Meter()
        self.globals.clear()
        self.filters = {**FILTERS, **REWRITTEN}
        self.tests = dict(TESTS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look `attribute` up in a mapping; nothing else has attributes."""
        if isinstance(obj, LoopContext) and attribute in _LOOP_FIELDS:
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look a key or an index up."""
        if isinstance(obj, Undefined):
            str(obj)  # StrictUndefined raises, naming what is missing
        if isinstance(obj, Mapping) and isinstance(argument, str | int):
            if argument in obj:
                return obj[argument]
            return self.undefined(_no_field(obj, argument), obj=obj, name=str(argument))
        if isinstance(obj, str | list | tuple) and isinstance(argument, int):
            if -len(obj) <= argument < len(obj):
                return obj[argument]
            return self.undefined(f"{kind_of(obj)} of length {len(obj)} has no item {argument}")
        if isinstance(argument, str):
            return self.undefined(f"{kind_of(obj)} has no field {argument[:60]!r}")
        return self.undefined(f"{kind_of(obj)} cannot be indexed with {kind_of(argument)}")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator within the bounds."""
        del context
        return binary(self.meter, operator, left, right)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: calls were rewritten, so nothing gets here."""
        del args, kwargs
        raise SecurityError("templates cannot call functions")


@pass_context
def _print(context: Context, value: Any) -> str:
    return cast("Sandbox", context.environment).meter.text(value)


def _no_field(obj: Mapping[Any, Any], name: str | int) -> str:
    shown = repr(name[:60] if isinstance(name, str) else name)
    near = did_you_mean(str(name)[:60], [key for key in list(obj)[:200] if isinstance(key, str)])
    return f"there is no {shown} in the mapping" + (f"; {near}" if near else "")


def parse(source: str, *, trial: bool = True) -> tuple[nodes.Template | None, list[Fault]]:
    """Parse a template and check that it stays inside the language; no tree where there are faults.

    Args:
        source: The template's text.
        trial: Also compile it, which finds the last few kinds of faults; needless before it is rendered.
    """
    if len(source) > MAX_TEMPLATE:
        return None, [Fault("template-too-large", f"the template is longer than {MAX_TEMPLATE:,} characters", 1)]
    try:
        tree = Sandbox().parse(source)
    except TemplateSyntaxError as error:
        return None, [Fault("template-syntax", error.message or "the template is not valid", error.lineno)]
    except RecursionError:
        return None, [Fault("template-too-deep", "the template's expressions are nested too deeply", 1)]
    except Exception as error:  # noqa: BLE001 - Jinja's lexer lets errors of number and text literals through
        return None, [Fault("template-syntax", f"the template is not valid: {error}", 1)]
    faults = list(_faults(tree)) or (_trial(source) if trial else [])
    return (None if faults else tree), faults


def _trial(source: str) -> list[Fault]:
    """Compile once for what only Jinja's or Python's compiler finds, such as too many loops inside each other."""
    try:
        compile_template(Sandbox().parse(source))
    except TemplateSyntaxError as error:
        return [Fault("template-syntax", error.message or "the template is not valid", error.lineno)]
    except Exception as error:  # noqa: BLE001 - Python's compiler gives up in several ways
        return [Fault("template-too-deep", f"the template can't be compiled: {error}", 1)]
    return []


def undeclared(tree: nodes.Template) -> frozenset[str]:
    """Return the names that the template takes from outside. The tree can't be used for anything else afterwards."""
    rewritten = _Rewriter().visit(tree)
    rewritten.set_environment(Sandbox())
    return frozenset(meta.find_undeclared_variables(rewritten))


def compile_template(tree: nodes.Template) -> Template:
    """Compile a checked tree for one rendering."""
    sandbox = Sandbox()
    rewritten = _Rewriter().visit(tree)
    rewritten.set_environment(sandbox)
    return sandbox.from_string(rewritten)


def render(template: Template, variables: Mapping[str, Any]) -> str:
    """Render within the bounds; Jinja's errors and Python's come out as they are."""
    parts: list[str] = []
    size = 0
    for part in template.generate(variables):
        size += len(part)
        if size > MAX_OUTPUT:
            raise TemplateLimitError(f"the text is longer than {MAX_OUTPUT:,} characters")
        parts.append(part)
    return "".join(parts)


def _faults(tree: nodes.Template) -> Iterator[Fault]:
    """Find what the language does not have, without recursion: the tree may be very deep."""
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    count = 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_NODES:
            what = "nested too deeply" if depth > MAX_DEPTH else "too large"
            yield Fault("template-too-deep", f"the template is {what}", node.lineno or 1)
            return
        fault = _fault(node)
        if fault:
            yield fault
        children = list(node.iter_child_nodes())
        if isinstance(node, nodes.Call) and not fault:
            # The called thing is no value: `range` is no variable, and `x.items` is no field of x.
            children.remove(node.node)
            if isinstance(node.node, nodes.Getattr):
                children.append(node.node.node)
        waiting.extend((child, depth + 1) for child in reversed(children))


def _fault(node: nodes.Node) -> Fault | None:  # noqa: PLR0911 - one rule after the other
    line = node.lineno or 1

    def forbidden(message: str, hint: str | None = None, name: str | None = None) -> Fault:
        return Fault("template-forbidden", message, line, hint, name)

    if not isinstance(node, _ALLOWED):
        kind = type(node).__name__
        what = _STATEMENTS.get(kind, kind)
        return forbidden(f"a task's template cannot use {what}", "use variables, if, for, set and filters")
    if getattr(node, "dyn_args", None) or getattr(node, "dyn_kwargs", None):
        return forbidden("a task's template cannot use * or ** in a call")
    if isinstance(node, nodes.For) and node.recursive:
        return forbidden("a task's template cannot use a recursive loop")
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        return Fault("unknown-filter", f"there is no filter {node.name!r}", line, _known(node.name, FILTERS), node.name)
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        return Fault("unknown-test", f"there is no test {node.name!r}", line, _known(node.name, TESTS), node.name)
    if isinstance(node, nodes.Name) and (node.name.startswith("_") or node.name in {"self", "super", "caller"}):
        return forbidden(f"a task's template cannot use the name {node.name!r}", name=node.name)
    if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        return forbidden(f"a task's template cannot look at {node.attr!r}: names with _ are private", name=node.attr)
    if isinstance(node, nodes.Dict) and not all(isinstance(pair.key, nodes.Const) for pair in node.items):
        return forbidden("the keys of a mapping in a template must be constants")
    return _call_fault(node) if isinstance(node, nodes.Call) else None


def _call_fault(node: nodes.Call) -> Fault | None:
    callee, line = node.node, node.lineno
    methods = MAPPING_METHODS | TEXT_METHODS
    if node.kwargs:
        return Fault("template-forbidden", "calls in a template take no named arguments", line)
    if isinstance(callee, nodes.Name) and callee.name == "range":
        return None
    if isinstance(callee, nodes.Getattr) and callee.attr in methods:
        return None
    name = callee.name if isinstance(callee, nodes.Name) else getattr(callee, "attr", None)
    what = f"{name}()" if isinstance(name, str) else "this"
    hint = did_you_mean(name, ["range", *methods]) if isinstance(name, str) else None
    return Fault(
        "template-forbidden",
        f"a task's template cannot call {what}",
        line,
        hint or "there are range() and the methods " + ", ".join(sorted(methods)),
        name if isinstance(name, str) else None,
    )


def _known(name: str, known: Mapping[str, Any]) -> str:
    words = [word for word in known if word.isalpha()]
    return did_you_mean(name, words) or "there are " + ", ".join(sorted(words))


class _Rewriter(NodeTransformer):
    """Turns loops, calls, `~`, comparisons and slices into filters that pay for what they do."""

    def get_visitor(self, node: nodes.Node) -> Any:
        """Find the method for a kind of node."""
        return getattr(self, f"rewrite_{type(node).__name__.lower()}", None)

    def rewrite_for(self, node: nodes.For) -> nodes.Node:
        price = _price(node)
        self.generic_visit(node)
        node.iter = _filter(node, " loop", node.iter, nodes.Const(price))
        return node

    def rewrite_call(self, node: nodes.Call) -> nodes.Node:
        callee = node.node
        arguments = [self.visit(argument) for argument in node.args]
        if isinstance(callee, nodes.Getattr):
            return _filter(node, " method", self.visit(callee.node), nodes.Const(callee.attr), *arguments)
        return _filter(node, " range", nodes.List(arguments))

    def rewrite_concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, " concat", nodes.List(node.nodes))

    def rewrite_compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        values = nodes.List([node.expr, *(operand.expr for operand in node.ops)])
        return _filter(node, " compare", values, *(nodes.Const(operand.op) for operand in node.ops))

    def rewrite_getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [bound or nodes.Const(None) for bound in (node.arg.start, node.arg.stop, node.arg.step)]
        return _filter(node, " slice", node.node, *bounds)


def _filter(origin: nodes.Node, name: str, value: Any, *args: Any) -> nodes.Filter:
    made = nodes.Filter(value, name, list(args), [], None, None)
    made.set_lineno(origin.lineno)
    return made


def _price(loop: nodes.For) -> int:
    """Count what one round of a loop evaluates; inner loops pay for their rounds themselves."""
    price = 1
    waiting: list[nodes.Node] = [*loop.body, *([loop.test] if loop.test else [])]
    while waiting:
        node = waiting.pop()
        price += 1
        if isinstance(node, nodes.TemplateData):
            price += len(node.data) // CHARS_PER_STEP
        if isinstance(node, nodes.For):
            waiting.extend((node.iter, *node.else_))
        else:
            waiting.extend(node.iter_child_nodes())
    return price
