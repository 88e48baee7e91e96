"""What a model may be sent: capped text, with the cut named, and without secrets of our own environment."""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LIMIT = 30_000
"""Characters of a tool's result; about 8,000 tokens."""
STDOUT_LIMIT = 20_000
STDERR_LIMIT = 9_000
"""The two streams of a command stay together below `LIMIT`, so that nothing is cut twice."""

_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)", re.IGNORECASE)
_KEY = re.compile(r"\b((?:sk|gsk|xai|pplx|nvapi)-(?=[\w*.-]{6})|(?:gh[opsur]|github_pat)_(?=\w{20}))[\w*.-]+", re.ASCII)
_SHORTEST_SECRET = 8


class HeadTail:
    """Text of any length, of which only the beginning and the end are held in memory."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._tail_limit = limit // 3
        self._head: list[str] = []
        self._head_length = 0
        self._tail = ""
        self.total = 0

    def feed(self, text: str) -> None:
        """Add text at the end."""
        self.total += len(text)
        room = self._limit - self._head_length
        if room > 0:
            self._head.append(text[:room])
            self._head_length += min(room, len(text))
        self._tail = (self._tail + text[-self._tail_limit :])[-self._tail_limit :]

    def text(self, advice: str = "narrow the request") -> str:
        """Return the whole text, or its head and tail with the number of characters cut between them."""
        head = "".join(self._head)
        if self.total <= self._limit:
            return head
        kept = self._limit - self._tail_limit
        cut = self.total - self._limit
        return f"{head[:kept]}\n{cut_note(cut, advice)}\n{self._tail}"


def cut_note(characters: int, advice: str = "narrow the request") -> str:
    """Name a cut: `[… 12,345 characters cut; narrow the request …]`."""
    return f"[… {characters:,} characters cut; {advice} …]"


def cap(text: str, limit: int = LIMIT, advice: str = "narrow the request") -> str:
    """Keep head and tail of a text that is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    keeper = HeadTail(limit)
    keeper.feed(text)
    return keeper.text(advice)


def cut_line(line: str, limit: int = 2_000) -> str:
    """Shorten one very long line (minified code, data), naming the cut."""
    if len(line) <= limit:
        return line
    return f"{line[:limit]} [… {len(line) - limit:,} characters of this line cut …]"


def fair_shares(sizes: Sequence[int], budget: int) -> list[int]:
    """Share a budget so that small parts get all they need and the large ones the same each.

    One lock file of 100,000 lines then costs the other files of a diff nothing.
    """
    shares = [0] * len(sizes)
    left, waiting = budget, len(sizes)
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        shares[index] = min(sizes[index], left // waiting)
        left -= shares[index]
        waiting -= 1
    return shares


def redact(text: str, environment: Mapping[str, str] | None = None, *, keys: Iterable[tuple[str, str]] = ()) -> str:
    """Replace the values of secret-looking environment variables by their names, and what looks like a key.

    Libraries put request headers and URLs into their exceptions, which would carry an API key into the log.

    Args:
        text: Any text.
        environment: The variables; by default those of this process.
        keys: Further secrets with the names to put in their place, however short and whatever the names.
    """
    secrets = _secrets(environment, keys)
    # The longest first: one that begins with another must not keep its rest.
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, f"[{secrets[value]}]")
    return _KEY.sub(r"\1***", text)


def untorn(
    text: str, end: int, environment: Mapping[str, str] | None = None, *, keys: Iterable[tuple[str, str]] = ()
) -> int:
    """Return where a text can be parted, at `end` or before, so that no secret of several words is torn apart there.

    That one may be meant which has only begun at the end of the text.
    """
    for value in _secrets(environment, keys):
        if len(value.split()) > 1:
            start = text.find(value[0], max(end - len(value) + 1, 0), end)
            while start >= 0 and not value.startswith(text[start : start + len(value)]):
                start = text.find(value[0], start + 1, end)
            end = end if start < 0 else start
    return end


def _secrets(environment: Mapping[str, str] | None, keys: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the secrets that are known, each with the name to put in its place."""
    named = os.environ if environment is None else environment
    # Names first: of the process's own variables each value that is looked at has to be decoded.
    secrets = {named[name]: name for name in named if _names_a_secret(name) and len(named[name]) >= _SHORTEST_SECRET}
    secrets.update({value: name for name, value in keys})
    # Arguments of tools and documents hold line breaks and quotes in JSON's form.
    return {json.dumps(value, ensure_ascii=False)[1:-1]: name for value, name in secrets.items()} | secrets


@lru_cache(maxsize=1_000)
def _names_a_secret(variable: str) -> bool:
    return _SECRET_NAME.search(variable) is not None


def utf8(text: str) -> str:
    """Return text that can be encoded: what is no Unicode scalar value becomes U+FFFD."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
