"""Tool names as providers take them: `backend:read-file` travels as `backend__read-file` and comes back."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 64
"""Providers refuse longer names."""

_PLAIN = re.compile(r"[a-z0-9][a-z0-9-]*(:[a-z0-9][a-z0-9-]*)?")
_DIGEST = 10


def wire_name(name: str) -> str:
    """Return the name under which a tool is offered to a provider: `[a-zA-Z0-9_-]`, at most 64 characters.

    The usual names (`repo:tool`, lower case) only change their colon. All others, and those that are too long, end in
    a hash of the whole name. A single underscore stands before it, which usual names never hold, so no two names meet.
    """
    if _PLAIN.fullmatch(name):
        wire = name.replace(":", "__")
        if len(wire) <= LONGEST:
            return wire
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    readable = re.sub(r"[^a-zA-Z0-9-]+", "-", name.replace(":", "--"))[: LONGEST - _DIGEST - 1].strip("-")
    return f"{readable or 'tool'}_{digest}"


def wire_names(names: Iterable[str]) -> dict[str, str]:
    """Map the wire names of a set of tools back to the names that users know."""
    return {wire_name(name): name for name in names}
