"""Where a provider's key may travel: what `options` and `api_base` must not say.

A pipeline file of someone else must not be able to send a key of the environment to a host of its choice. The one
address that Orchestra knows is `api_base`, beside which a key is sent only where `api_key_env` names it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from orchestra.agents.integrations import INTEGRATIONS
from orchestra.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.agents.providers import ProviderConfig

_ADDRESS = re.compile(r"(?:.*_)?(?:url|uri|base|endpoint|host|hostname|server|domain|address|port)")
_DETOUR = re.compile(r"(?:.*_)?(?:proxy|proxies|client|mounts)")
_REGION = re.compile(r"(?:.*_)?(?:region|region_name|location)")
_KEY = re.compile(r"(?:.*_)?(?:api_key|token)")
_PAYLOAD = frozenset(
    {"additional_headers", "default_headers", "default_query", "extra_body", "extra_headers", "extra_query"}
    | {"headers", "mcp_servers", "metadata"}
)
"""Options that are sent to the server as they are: addresses in them lead no key anywhere."""


def check_addresses(config: ProviderConfig) -> list[Problem]:
    """Return what in a provider could send a key of the environment to a server that is not the usual one."""
    start = f"provider {config.name!r}: "
    problems = [
        Problem("bad-option", f"{start}the option {path!r} {reason}", hint=hint)
        for path, reason, hint in _refused(config.options)
    ]
    if config.is_own_server and not (INTEGRATIONS[config.type].key_variable or config.type == "ollama"):
        problems.append(
            Problem(
                "bad-option",
                f"{start}the type {config.type!r} takes no `api_base` of your own: its client finds keys in ways that "
                "Orchestra does not know, and could send them there",
                hint="for a server that speaks OpenAI's protocol write `type: openai`, else leave `api_base` out",
            )
        )
    return problems


def _refused(options: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    if isinstance(options, list | tuple):
        for index, item in enumerate(options):
            yield from _refused(item, f"{path}[{index}]")
    if not hasattr(options, "items"):
        return
    for key, value in options.items():
        name = str(key).lower().replace("-", "_")
        place = f"{path}.{key}" if path else str(key)
        if name in _PAYLOAD:
            continue
        if _ADDRESS.fullmatch(name):
            yield place, "is an address, to which a key of yours could be sent", "write api_base under the provider"
        elif _DETOUR.fullmatch(name):
            hint = "remove it; a proxy is set by HTTPS_PROXY in the environment"
            yield place, "could send a key of yours to another server", hint
        elif _REGION.fullmatch(name) and not re.fullmatch(r"[A-Za-z0-9-]+", str(value)):
            yield place, "becomes part of an address and is no region's name", "write it as in us-east-1"
        elif _KEY.fullmatch(name) and not value:
            # The clients take an empty key for none and look in the environment.
            yield place, "is empty", "name the variable that holds the key with `api_key_env`"
        else:
            yield from _refused(value, place)
