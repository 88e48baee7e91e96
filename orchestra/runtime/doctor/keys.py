"""The keys of providers and the packages that they need; a key's value is never shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestra.agents.providers import ModelRef, ProviderConfig, ProviderResolver
from orchestra.graph.models import provider_config
from orchestra.runtime.doctor.finding import Finding, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from orchestra.runtime.doctor.surroundings import Surroundings

WELL_KNOWN = ("anthropic", "openai")
_NO_KEY = frozenset({"scripted", "llama-cpp", "ollama"})


async def check(here: Surroundings) -> AsyncIterator[Finding]:
    """Judge the providers of the pipeline, else those of the project, else the usual ones."""
    pipeline = here.pipeline.pipeline if here.pipeline else None
    if pipeline is not None:
        used = {agent.provider or pipeline.default_provider for agent in pipeline.agents.values()}
        for name, spec in pipeline.providers.items():
            for finding in _provider(provider_config(name, spec, None), needed=name in used, by="the pipeline"):
                yield finding
    elif specs := here.project.spec.providers.specs:
        default = here.project.spec.providers.default
        for name, spec in specs.items():
            # Without a pipeline nobody knows which are used: the default one is, or each where there is none.
            for finding in _provider(provider_config(name, spec, None), needed=name == (default or name), by=None):
                yield finding
    else:
        for finding in _well_known():
            yield finding


def _well_known() -> Iterator[Finding]:
    """One of the usual keys is enough; where there is none, each lacks."""
    configs = [ProviderConfig(name=name, type=name) for name in WELL_KNOWN]
    lacking = not any(os.environ.get(config.key_variable or "") for config in configs)
    for config in configs:
        yield from _provider(config, needed=lacking, by=None)


def _provider(config: ProviderConfig, *, needed: bool, by: str | None) -> Iterator[Finding]:
    """Judge one provider.

    Args:
        config: The provider.
        needed: Whether what lacks is missed.
        by: Who can't run without it; None: nobody that is known.
    """
    start = f"{config.name}: "
    details = {"provider": config.name, "type": config.type, "variable": config.key_variable}
    if config.type == "scripted":
        yield Finding("keys", State.OK, f"{start}plays recorded replies, needs no key", details=details)
        return
    status = (State.ERROR if by else State.WARNING) if needed else State.OK
    resolver = ProviderResolver({config.name: config}, config.name)
    problems = resolver.check(ModelRef(config, ""))
    for problem in problems:
        more = {**details, "code": problem.code}
        if not needed:
            yield Finding("keys", status, f"{problem.message} (only needed with `--provider`)", details=more)
        elif problem.code == "missing-key":
            commands = (f"export {config.key_variable}=…",)
            fix = None if by else "one such key is enough, and `orchestra demo` needs none:"
            yield Finding("keys", status, problem.message, fix, commands, more)
        else:
            yield Finding("keys", status, problem.message, problem.hint or "correct the provider", details=more)
    if not problems:
        yield _key(config, start, details)


def _key(config: ProviderConfig, start: str, details: dict[str, str | None]) -> Finding:
    variable = config.key_variable
    if variable is None and "api_key" in config.options:
        return Finding("keys", State.OK, f"{start}its key is in the file, under `options`", details=details)
    if variable is None:
        known = config.type in _NO_KEY or config.is_own_server
        how = "needs no key" if known else "its client finds the key itself"
        return Finding("keys", State.OK, start + how, details=details)
    value = os.environ[variable]
    if value != value.strip():
        message = f"{start}{variable} is set, but begins or ends with white space, which servers refuse"
        fix = f'export {variable}="$(printf %s "${variable}" | tr -d "[:space:]")"'
        return Finding("keys", State.WARNING, message, None, (fix,), details)
    return Finding("keys", State.OK, f"{start}{variable} is set", details=details)
