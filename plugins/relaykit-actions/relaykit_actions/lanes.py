"""Lanes: what is to be done in order, beside what is in order for itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

T = TypeVar("T")


class Lanes(Generic[T]):
    """Does one thing of a lane after the other, and lanes side by side. For one event loop.

    What comes before `start` waits for it. A lane costs nothing while it has nothing to do.

    :param do: does one thing; raises nothing.
    :param limit: so many things may wait or be under way.
    """

    def __init__(self, do: Callable[[T], Awaitable[None]], *, limit: int) -> None:
        self._do = do
        self._limit = limit
        self._lanes: dict[str, deque[T]] = {}
        self._tasks: TaskGroup | None = None
        self.closed = False
        self._idle: anyio.Event | None = None
        self._undone = 0  # those that are under way too

    def put(self, lane: str, thing: T) -> bool:
        """Have a thing done in its turn. Returns at once; False if there is no room, or it is too late."""
        if self.closed or self._undone >= self._limit:
            return False
        self._undone += 1
        waiting = self._lanes.get(lane)
        if waiting is not None:
            waiting.append(thing)
            return True
        self._lanes[lane] = deque([thing])
        if self._tasks is not None:
            self._tasks.start_soon(self._work, lane)
        return True

    def start(self, tasks: TaskGroup) -> None:
        """Begin to do things, in these tasks: cancelled, what they did not do stays undone."""
        self._tasks = tasks
        for lane in self._lanes:
            tasks.start_soon(self._work, lane)

    async def idle(self) -> None:
        """Wait until nothing is left to do."""
        if self._lanes:
            self._idle = anyio.Event()
            await self._idle.wait()

    def close(self) -> int:
        """Take nothing any more, and return how many things are not done."""
        self.closed = True
        return self._undone

    async def _work(self, lane: str) -> None:
        waiting = self._lanes[lane]
        while waiting:
            await self._do(waiting.popleft())
            self._undone -= 1
        del self._lanes[lane]
        if not self._lanes and self._idle is not None:
            self._idle.set()
