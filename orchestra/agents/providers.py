"""Providers: from a model's name in the pipeline to a LangChain chat model.

Nothing here imports LangChain before a model is built, so that compiling stays light. Clients are built with
`max_retries=0`: attempts are counted, logged and spaced in one place (`orchestra.agents.middleware`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestra.agents.addresses import check_addresses
from orchestra.agents.integrations import INTEGRATIONS, USUAL_DOMAINS
from orchestra.errors import PipelineError, Problem, did_you_mean, near_names
from orchestra.tools.output import redact, untorn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel

    from orchestra.agents.script import Script

DEFAULT_TIMEOUT = 120.0
"""Seconds; since answers are streamed from the provider, this is the longest silence, not the longest answer."""

NO_KEY = "none"
"""Sent where a server of the user's own needs no key: the clients insist on a value."""

KNOWN_TYPES: Mapping[str, str | None] = MappingProxyType(
    {name: integration.package for name, integration in INTEGRATIONS.items()}
)
"""Each provider type → the package to install for it; None where it comes with Orchestra."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One entry under `providers`, as plain values."""

    name: str
    type: str
    models: Mapping[str, str] = field(default_factory=dict)
    api_base: str | None = None
    api_key_env: str | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Passed on as they are; not shown, since someone may have put a key there."""
    script: Path | None = None

    @property
    def key_variable(self) -> str | None:
        """The environment variable that holds the key, where one is needed.

        With an `api_base` of the user's own, a key travels only when `api_key_env` names it: a pipeline file of
        someone else must not be able to send `OPENAI_API_KEY` to a host of its choice.
        """
        if self.api_key_env or self.type not in INTEGRATIONS or "api_key" in self.options:
            return self.api_key_env
        return None if self.is_own_server else INTEGRATIONS[self.type].key_variable

    @property
    def is_own_server(self) -> bool:
        """Whether `api_base` names another server than the integration's usual ones."""
        if not self.api_base:
            return False
        try:
            address = urlsplit(self.api_base)
        except ValueError:
            return True
        host = address.hostname or ""
        if address.scheme != "https" or not re.fullmatch(r"[a-z0-9.-]+", host):
            return True
        return not any(host == usual or host.endswith(f".{usual}") for usual in USUAL_DOMAINS.get(self.type, ()))


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model of a provider."""

    provider: ProviderConfig
    model: str
    """The provider's own name for it."""
    alias: str | None = None
    """The name that the pipeline used, where it was an alias."""

    def __str__(self) -> str:
        return f"{self.provider.name}:{self.model}"


class ProviderResolver:
    """Finds and builds the models of a pipeline.

    Args:
        providers: The configured providers by name.
        default: The provider of agents that name none.
    """

    def __init__(self, providers: Mapping[str, ProviderConfig], default: str | None) -> None:
        self._providers = dict(providers)
        self._default = default
        self._models: dict[tuple[str, str], BaseChatModel] = {}
        self._scripts: dict[Path, Script] = {}

    def resolve(self, model: str, provider: str | None = None) -> ModelRef:
        """Resolve an alias or literal model name: the agent's provider, then the default's map, then literally.

        Raises:
            PipelineError: The provider is not configured (`unknown-provider`).
        """
        config = self._provider(provider)
        maps = [config.models]
        if self._default is not None and self._default in self._providers:
            maps.append(self._providers[self._default].models)
        for models in maps:
            if model in models:
                return ModelRef(config, models[model], model)
        return ModelRef(config, model)

    def near_alias(self, model: str, provider: str | None = None) -> str | None:
        """Return the alias that a literal model name is close to, for a warning; None for an alias itself."""
        if self.resolve(model, provider).alias is not None:
            return None
        config = self._provider(provider)
        default = self._providers.get(self._default or "")
        aliases = {*config.models, *(default.models if default else ())}
        # A literal that some alias stands for is meant as it is written.
        if model in config.models.values():
            return None
        return next(iter(near_names(model, sorted(aliases))), None)

    def check(self, ref: ModelRef) -> list[Problem]:
        """Return what keeps a model from being built: unknown type, missing integration, missing key or script."""
        config = ref.provider
        integration = INTEGRATIONS.get(config.type)
        if integration is None:
            hint = did_you_mean(config.type, KNOWN_TYPES) or "one of: " + ", ".join(sorted(KNOWN_TYPES))
            message = f"provider {config.name!r}: nobody knows the type {config.type!r}"
            return [Problem("unknown-provider-type", message, hint=hint)]
        if config.type == "scripted":
            return self._check_script(config)
        if config.type == "llama-cpp":
            return [
                Problem(
                    "missing-integration",
                    f"provider {config.name!r}: the local provider (extra `orchestra-agents[local]`) is not part of "
                    "this release, it comes with a later one",
                    hint="until then, run a server that speaks OpenAI's protocol (llama.cpp, Ollama, vLLM) and use "
                    "`type: openai` with `api_base: http://127.0.0.1:PORT/v1`",
                )
            ]
        problems = check_addresses(config)
        if find_spec(integration.module.split(".")[0]) is None:
            problems.append(
                Problem(
                    "missing-integration",
                    f"provider {config.name!r} ({config.type}) needs a package that is not installed",
                    hint=f"pip install {integration.package}",
                )
            )
        variable = config.key_variable
        if variable is not None and not os.environ.get(variable):
            problems.append(
                Problem(
                    "missing-key",
                    f"provider {config.name!r}: the environment variable {variable} is not set",
                    hint=f"export {variable}=…, or name another variable with `api_key_env`",
                )
            )
        return problems

    def build(self, ref: ModelRef, *, agent: str, turn: int) -> BaseChatModel:
        """Build the chat model for a turn; real ones are built once, scripted ones for each turn.

        Raises:
            PipelineError: The integration or the key is missing, or an option is wrong.
        """
        if problems := self.check(ref):
            raise PipelineError.of(problems)
        if ref.provider.type == "scripted":
            from orchestra.agents.scripted import ScriptedChatModel

            return ScriptedChatModel(
                script=self.script(ref.provider),
                agent=agent,
                turn=turn,
                model_name=ref.model,
                provider="scripted",
                streaming=True,
            )
        key = (ref.provider.name, ref.model)
        if key not in self._models:
            from orchestra.agents.clients import build_client

            self._models[key] = build_client(ref)
        return self._models[key]

    def script(self, provider: ProviderConfig) -> Script:
        """Return the provider's script; it is read once, since it counts the attempts of its errors."""
        from orchestra.agents.script import load_script

        path = provider.script
        if path is None:
            raise PipelineError.of(self._check_script(provider))
        if path not in self._scripts:
            self._scripts[path] = load_script(path)
        return self._scripts[path]

    def redact(self, text: str) -> str:
        """Take the configured keys out of a text, the environment's secrets, and what looks like a key."""
        return redact(text, keys=self._keys())

    def untorn(self, text: str, end: int) -> int:
        """Return where a text can be parted, at `end` or before, with no such secret of several words in both parts."""
        return untorn(text, end, keys=self._keys())

    def _keys(self) -> list[tuple[str, str]]:
        keys: list[tuple[str, str]] = []
        for config in self._providers.values():
            variable = config.key_variable or ""
            for name, key in ((variable, os.environ.get(variable)), ("api_key", config.options.get("api_key"))):
                if isinstance(key, str) and len(key) > len(NO_KEY):
                    keys.append((name, key))
        return keys

    def _provider(self, name: str | None) -> ProviderConfig:
        wanted = name if name is not None else self._default
        if wanted is None:
            raise PipelineError(
                "no provider is named and there is no default",
                code="unknown-provider",
                hint="add `default: NAME` under `providers`",
            )
        if wanted not in self._providers:
            known = ", ".join(sorted(self._providers)) or "none"
            raise PipelineError(
                f"there is no provider {wanted!r}",
                code="unknown-provider",
                hint=did_you_mean(wanted, self._providers) or f"configured providers: {known}",
            )
        return self._providers[wanted]

    @staticmethod
    def _check_script(config: ProviderConfig) -> list[Problem]:
        if config.script is None:
            message = f"provider {config.name!r} is scripted and names no script"
            return [Problem("missing-script", message, hint="add `script: scripts/NAME.yaml` to the provider")]
        if not config.script.is_file():
            message = f"provider {config.name!r}: there is no script {str(config.script)!r}"
            return [Problem("file-not-found", message, hint="write it (docs/reference/scripted-models.md)")]
        return []
