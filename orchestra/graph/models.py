"""The models of a pipeline: its providers as plain values, and what keeps them from being used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.agents.providers import ProviderConfig, ProviderResolver
from orchestra.errors import Problem, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestra.documents import Document
    from orchestra.graph.resolved import ResolvedAgent
    from orchestra.graph.schema import AgentSpec, Pipeline, ProviderSpec


def provider_config(name: str, spec: ProviderSpec, script: Path | None) -> ProviderConfig:
    """Translate a provider's section into plain arguments.

    Args:
        name: The provider's name.
        spec: Its section.
        script: The file of its script, where it has one.
    """
    return ProviderConfig(
        name=name,
        type=spec.type or name,
        models=spec.models,
        api_base=spec.api_base,
        api_key_env=spec.api_key_env,
        max_tokens=spec.max_tokens,
        timeout=spec.timeout,
        options=spec.options,
        script=script,
    )


def played_from_scripts(agents: Mapping[str, ResolvedAgent]) -> dict[str, list[str]]:
    """Return for each scripted provider the agents that are played from its script."""
    played: dict[str, list[str]] = {}
    for agent in agents.values():
        provider = agent.model.provider
        if provider.type == "scripted" and provider.script is not None:
            played.setdefault(provider.name, []).append(agent.name)
    return played


def unknown_agents(models: Mapping[str, str], agents: Mapping[str, AgentSpec]) -> Iterator[Problem]:
    """Yield what is wrong with models that were chosen for agents by name."""
    for name in models:
        if name not in agents:
            hint = did_you_mean(name, agents) or f"its agents: {', '.join(agents)}"
            yield Problem("unknown-agent", f"the pipeline has no agent {name!r} (`--model`)", None, hint)


def price_warnings(pipeline: Pipeline, document: Document, agents: Mapping[str, ResolvedAgent]) -> Iterator[Problem]:
    """Warn where `limits.max_cost_usd` can't count a model, since nobody knows its price."""
    if pipeline.limits.max_cost_usd is None:
        return
    from orchestra.agents.usage import price_known

    unknown = {agent.model.model: agent.name for agent in agents.values() if not price_known(agent.model)}
    for model, name in sorted(unknown.items()):
        message = f"the price of the model {model!r} is not known, so its calls don't count towards `max_cost_usd`"
        hint = "bound such agents with `max_tokens` under `limits`"
        yield Problem("unknown-price", message, document.locate("agents", name, "model"), hint, "warning")


def model_problems(
    pipeline: Pipeline, document: Document, agents: Mapping[str, ResolvedAgent], resolver: ProviderResolver
) -> Iterator[Problem]:
    """Yield what is missing for a model, once for each provider, at the place of the provider."""
    first = {agent.model.provider.name: agent.model for agent in reversed(list(agents.values()))}
    for name in dict.fromkeys(agent.model.provider.name for agent in agents.values()):
        place = document.locate("providers", name, key=True)
        others = ", ".join(sorted(set(pipeline.providers) - {name}))
        other = f"; or take another provider: `--provider NAME` ({others})" if others else ""
        for problem in resolver.check(first[name]):
            yield Problem(problem.code, problem.message, place, f"{problem.hint or ''}{other}".lstrip("; "))
