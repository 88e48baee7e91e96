"""A copy of the state that its reader cannot write, at any depth."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NoReturn


def read_only(value: Any) -> Any:
    """Copy plain data so that every attempt to write raises a TypeError.

    The copies are still dicts and lists, so that `isinstance`, `==` and `json.dumps` work as a condition's author
    expects. Other objects (messages) are copied, so that a change stays without effect.
    """
    if isinstance(value, Mapping):
        return ReadOnlyDict({key: read_only(item) for key, item in value.items()})
    if isinstance(value, list):
        return ReadOnlyList([read_only(item) for item in value])
    if isinstance(value, tuple):
        return tuple(read_only(item) for item in value)
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    return copy.deepcopy(value)


def _refuse(self: object, *args: object, **kwargs: object) -> NoReturn:
    del self, args, kwargs
    raise TypeError("the state is read-only in a condition; return a target, let agents and steps change the state")


class ReadOnlyDict(dict[Any, Any]):
    """A dict that refuses to be written."""

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        """Give whoever wants to change something a plain copy."""
        return copy.deepcopy(dict(self), memo)


class ReadOnlyList(list[Any]):
    """A list that refuses to be written."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = remove = pop = clear = sort = reverse = _refuse

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        """Give whoever wants to change something a plain copy."""
        return copy.deepcopy(list(self), memo)
