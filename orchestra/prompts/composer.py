"""Composes an agent's prompt of its layers, and renders the task.

Role, persona and personality are fixed text; the task is a template (`templates.py`). Jinja2 is loaded when the first
template is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestra.errors import AgentError, PipelineError, Problem, did_you_mean
from orchestra.prompts.layers import LAYERS, Layer, Place, kind_of, load_layer, read_layer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path
    from types import TracebackType

    from orchestra.documents import Document
    from orchestra.prompts.discovery import FileDiscovery, Kind


@dataclass(frozen=True, slots=True)
class Layers:
    """An agent's prompt layers: each a name, or a mapping with the keys of its file."""

    role: str | Mapping[str, Any] | None
    persona: str | Mapping[str, Any] | None
    personality: str | Mapping[str, Any] | None
    task: str | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ComposedPrompt:
    """The prompt of an agent, the task not rendered yet."""

    static: str
    """Role, persona and personality; may be empty."""
    template: str
    source: Path | None = None
    """The file of the task; None for an inline one of unknown origin."""
    variables: frozenset[str] = frozenset()
    """Names that the task takes from outside."""
    place: Place = field(default=Place(), repr=False, compare=False)
    """Where the template's text stands."""

    def check(self, known: Collection[str]) -> list[Problem]:
        """Return what is wrong with the template when only the `known` names are there."""
        return check_template(self.template, known, place=self.place)

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the system prompt.

        Raises:
            AgentError: `undefined-variable` or `template-failed`.
        """
        task = render_template(self.template, variables, where=f"the task {self.source}" if self.source else "the task")
        return "\n\n".join(part for part in (self.static, task.strip("\n")) if part)


class PromptComposer:
    """Composes prompts of the layer files that a discovery finds."""

    def __init__(self, discovery: FileDiscovery) -> None:
        self._discovery = discovery

    def compose(
        self,
        layers: Layers,
        *,
        agent: str,
        document: Document | None = None,
        loc: tuple[str | int, ...] = (),
        analyse: bool = True,
    ) -> ComposedPrompt:
        """Read and join the layers of an agent.

        Args:
            layers: The layers as the pipeline names them.
            agent: The agent's name, for messages.
            document: The pipeline's document, so that problems name their place in it.
            loc: Where the agent stands in it: `("agents", "critic")`.
            analyse: Whether to look into the task's template now; it loads Jinja2. `ComposedPrompt.check` does too.

        Raises:
            PipelineError: With all problems of all layers.
        """
        problems: list[Problem] = []
        agent_place = Place(document, loc)
        given: dict[Kind, str | Mapping[str, Any] | None] = {kind: getattr(layers, kind) for kind in LAYERS}
        found: dict[Kind, Layer] = {}
        for kind in LAYERS:
            self._add(kind, given[kind], agent_place.below(kind), found, problems)
        persona = found.get("persona")
        if given["role"] is None and persona and persona.extends:
            self._add("role", persona.extends, persona.place.below("extends"), found, problems)
        if given["task"] is None:
            hint = f"add `task: NAME` to agent {agent!r}"
            problems.append(Problem("missing-task", f"agent {agent!r} has no task", agent_place.at(), hint))
        variables: frozenset[str] = frozenset()
        if "task" in found and analyse:
            variables, faults = _analyse(found["task"].text, found["task"].place.below("template"))
            problems += faults
        if problems:
            raise PipelineError.of(problems)
        task = found["task"]
        static = "\n\n".join(found[kind].text.strip() for kind in LAYERS if kind in found and kind != "task")
        place = task.place.below("template")
        source = place.document.path if place.document else None
        return ComposedPrompt(static, task.text, source, variables, place)

    def _add(
        self,
        kind: Kind,
        value: Any,
        place: Place,
        found: dict[Kind, Layer],
        problems: list[Problem],
    ) -> None:
        if value is None:
            return
        if isinstance(value, Mapping):
            layer, faults = read_layer(kind, value, place, name=None)
        elif isinstance(value, str):
            layer, faults = load_layer(self._discovery, kind, value, place)
        else:
            message = f"`{kind}` must be a name or a mapping, not {kind_of(value)}"
            layer, faults = None, [Problem("wrong-type", message, place.at())]
        problems += faults
        if layer:
            found[kind] = layer


def check_template(template: str, known: Collection[str], *, place: Place | None = None) -> list[Problem]:
    """Return what is wrong with a template, without rendering it.

    Args:
        template: The template's text.
        known: Names that will be there when it is rendered.
        place: Where the text stands in the user's file.
    """
    place = place or Place()
    uses, problems = _needed(template, place)
    names = sorted(known)
    for name, line in uses:
        if name not in known:
            hint = did_you_mean(name, names) or "there are " + ", ".join(names)
            message = f"the template uses {name!r}, which is not defined"
            problems.append(Problem("undefined-variable", message, place.line(line, name), hint))
    return problems


def _needed(template: str, place: Place) -> tuple[list[tuple[str, int]], list[Problem]]:
    """Return the names that must be there, with their lines, and what is wrong with the template itself."""
    from orchestra.prompts.names import Uses
    from orchestra.prompts.templates import parse

    tree, faults = parse(template)
    problems = [Problem(fault.code, fault.message, place.line(fault.line, fault.name), fault.hint) for fault in faults]
    uses = Uses()
    if tree is not None:
        uses.visit(tree, set())
    return list(uses.lines.items()), problems


def _analyse(template: str, place: Place) -> tuple[frozenset[str], list[Problem]]:
    from orchestra.prompts.templates import parse, undeclared

    _, problems = _needed(template, place)
    tree, _ = (None, []) if problems else parse(template, trial=False)
    return (frozenset() if tree is None else undeclared(tree)), problems


def render_template(template: str, variables: Mapping[str, Any], *, where: str) -> str:
    """Render a template within its bounds of work, memory and size.

    Args:
        template: The template's text.
        variables: Plain JSON data by name.
        where: What is rendered, for messages: `the task reviews.yaml`.

    Raises:
        AgentError: `undefined-variable`, or `template-failed` for everything else.
    """
    from jinja2.exceptions import UndefinedError

    from orchestra.prompts.templates import compile_template, parse, render

    tree, faults = parse(template, trial=False)
    if tree is None:
        fault = faults[0]
        raise AgentError(f"{where}, line {fault.line}: {fault.message}", code="template-failed", hint=fault.hint)
    try:
        return render(compile_template(tree), variables)
    except UndefinedError as error:
        line = _line_of(error.__traceback__)
        hint = f"it may use {', '.join(sorted(variables))}; write `x|default('')` for what may be missing"
        raise AgentError(f"{where}{line}: {error.message}", code="undefined-variable", hint=hint) from None
    except Exception as error:
        # Whatever a template provokes (a division by zero, an unpacking that fails) is the template's fault.
        text = str(error) or type(error).__name__
        message = f"{where}{_line_of(error.__traceback__)}: {text}"
        raise AgentError(message, code="template-failed") from error


def _line_of(traceback: TracebackType | None) -> str:
    """Name the template's line that a traceback of Jinja2 passes through."""
    lines = [line for line in _template_lines(traceback) if line]
    return f", line {lines[-1]}" if lines else ""


def _template_lines(traceback: TracebackType | None) -> Iterator[int]:
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            yield traceback.tb_lineno
        traceback = traceback.tb_next
