"""Building the chat model of a real provider through LangChain."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from orchestra.agents.integrations import ADDRESS_OPTIONS
from orchestra.agents.providers import DEFAULT_TIMEOUT, NO_KEY, ModelRef
from orchestra.errors import PipelineError, did_you_mean

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from orchestra.agents.providers import ProviderConfig

_STREAMED = frozenset({"anthropic", "openai"})
_OURS = ("max_retries", "timeout", "streaming", "stream_usage")
"""What Orchestra itself sets: dropped for an integration whose model does not take it."""


def build_client(ref: ModelRef) -> BaseChatModel:
    """Build a chat model with one attempt a call and an explicit timeout.

    Raises:
        PipelineError: An option is unknown or has a wrong value.
    """
    arguments = _arguments(ref)
    # These hold the options of their names.
    body = {name: value for name, value in arguments.items() if name in {"extra_body", "client_kwargs"}}
    options = dict(ref.provider.options)
    try:
        model = _init(ref, {**arguments, **options, **body})
    except PipelineError:
        raise
    except ImportError as error:
        # The package is there, something that it needs is not.
        raise PipelineError(
            f"provider {ref.provider.name!r}: its integration can't be imported: {error}",
            code="missing-integration",
            hint="reinstall the integration's package",
        ) from error
    except Exception as error:
        raise _bad_options(ref, error) from error
    _refuse_unknown(ref, model, options)
    _refuse_found_keys(ref, model)
    return model


def _arguments(ref: ModelRef) -> dict[str, Any]:
    config = ref.provider
    arguments: dict[str, Any] = {"max_retries": 0, "timeout": config.timeout or DEFAULT_TIMEOUT}
    if config.max_tokens is not None and config.type == "openai" and config.is_own_server:
        # ChatOpenAI sends OpenAI's newer `max_completion_tokens`, which other servers ignore.
        arguments["extra_body"] = {"max_tokens": config.max_tokens, **config.options.get("extra_body", {})}
    elif config.max_tokens is not None:
        arguments["max_tokens"] = config.max_tokens
    if config.api_base:
        arguments[ADDRESS_OPTIONS.get(config.type, "base_url")] = config.api_base
    arguments |= _credentials(config)
    if config.type in _STREAMED:
        # Streamed, a timeout bounds the silence between two chunks; not streamed, it would cut long answers.
        arguments["streaming"] = True
    if config.type == "openai" and config.api_base:
        arguments["stream_usage"] = True  # left out by default for servers other than OpenAI's
    return arguments


def _credentials(config: ProviderConfig) -> dict[str, Any]:
    """Return what a client is given, so that it looks for no key itself where the server is the user's own."""
    key = os.environ[config.api_key_env] if config.api_key_env else NO_KEY if config.is_own_server else None
    if key is None:
        return {}
    if config.type == "ollama":
        # It has no option for a key, and sends OLLAMA_API_KEY where no such header is set.
        given = config.options.get("client_kwargs", {})
        headers = {"Authorization": f"Bearer {key}", **given.get("headers", {})}
        return {"client_kwargs": {**given, "headers": headers}}
    credentials: dict[str, Any] = {"api_key": key}
    if config.type == "azure_openai":
        credentials["azure_ad_token"] = None  # else taken from AZURE_OPENAI_AD_TOKEN, also beside a key
    return credentials


def _init(ref: ModelRef, arguments: dict[str, Any]) -> BaseChatModel:
    from langchain.chat_models import init_chat_model
    from pydantic import ValidationError

    def init(values: dict[str, Any]) -> BaseChatModel:
        with warnings.catch_warnings():
            # An unknown option is warned about and sent to the provider; `_refuse_unknown` reports it instead.
            warnings.filterwarnings("ignore", message=r"(?s).*is not default parameter")
            model: BaseChatModel = init_chat_model(ref.model, model_provider=ref.provider.type, **values)
            return model

    try:
        return init(arguments)
    except ValidationError as error:
        refused = {
            str(part) for problem in error.errors() for part in problem["loc"] if problem["type"] == "extra_forbidden"
        }
        ours = refused & set(_OURS) - set(ref.provider.options)
        if not ours:
            raise
        return init({name: value for name, value in arguments.items() if name not in ours})


def _refuse_unknown(ref: ModelRef, model: BaseChatModel, options: dict[str, Any]) -> None:
    known: set[str] = set()
    for name, info in type(model).model_fields.items():
        known.update({name, info.alias or name})
    # Integrations that take unknown options on purpose keep them in `model_kwargs`; there they can be given plainly.
    if "model_kwargs" not in known:
        return
    for option in options:
        if option not in known:
            raise PipelineError(
                f"provider {ref.provider.name!r}: {type(model).__name__} has no option {option!r}",
                code="bad-option",
                hint=did_you_mean(option, known)
                or f"to send it as it is: `options: {{model_kwargs: {{{option}: …}}}}`",
            )


def _refuse_found_keys(ref: ModelRef, model: BaseChatModel) -> None:
    """Refuse a client for a server of the user's own that found a key in the environment after all.

    Of an integration that is not installed here nobody can tell whether it heeds the key that it is given.
    """
    from pydantic import SecretStr

    config = ref.provider
    if not config.is_own_server:
        return
    meant = {NO_KEY, os.environ.get(config.api_key_env or ""), *map(str, config.options.values())}
    for name in type(model).model_fields:
        value = getattr(model, name, None)
        secret = value.get_secret_value() if isinstance(value, SecretStr) else ""
        if secret and secret not in meant and secret in os.environ.values():
            raise PipelineError(
                f"provider {config.name!r}: {type(model).__name__} would send a key of the environment ({name}) to "
                f"{config.api_base}",
                code="bad-option",
                hint="name the variable that holds the key for this server with `api_key_env`",
            )


def _bad_options(ref: ModelRef, error: Exception) -> PipelineError:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        # Only names and rules: the values may hold a key.
        reasons = [
            f"{'.'.join(map(str, item['loc'])) or 'options'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        ]
    else:
        reasons = [f"{type(error).__name__}: {error}"]
    return PipelineError(
        f"provider {ref.provider.name!r}: the model {ref.model!r} can't be set up: " + "; ".join(reasons),
        code="bad-option",
        hint="check `options`, `api_base`, `max_tokens` and `timeout` of the provider",
    )
