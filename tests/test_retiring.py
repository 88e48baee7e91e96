"""Worktrees of merged branches go before a loop enters them anew."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestra.runtime.joining import Joiner
from orchestra.runtime.shared_lock import SharedLock


class Slots:
    """Locks as a session has them, and a list of what was removed."""

    def __init__(self) -> None:
        self.locks: defaultdict[tuple[str, str], SharedLock] = defaultdict(SharedLock)
        self.removed: list[str] = []

    def lock(self, slot: str, repo: str) -> SharedLock:
        return self.locks[slot, repo]

    async def remove(self, name: str, slot: str) -> None:
        self.removed.append(f"{name}:{slot}")


async def test_a_turn_that_enters_a_worktree_anew_comes_behind_its_removal_though_another_one_is_held_up() -> None:
    slots: Any = Slots()
    workspace: Any = SimpleNamespace(repos={"app": SimpleNamespace(repository=SimpleNamespace(top=Path("app")))})
    nothing: Any = None
    joiner = Joiner(nothing, nothing, workspace, slots, nothing, nodes=())

    async with slots.lock("a", "app").exclusive():
        retiring = asyncio.ensure_future(joiner.retire({"app": ["a", "b"]}))
        for _ in range(3):  # less than any checkpoint takes, and a turn begins behind one
            await asyncio.sleep(0)
        async with slots.lock("b", "app").exclusive():
            assert slots.removed == ["app:b"]
    await retiring
    assert slots.removed == ["app:b", "app:a"]
