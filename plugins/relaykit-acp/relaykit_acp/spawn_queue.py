"""SpawnQueue: so many agents are started at once, and no more."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from relaykit.errors import SpawnQueueTimeout

_A_CORE = 2
_AT_LEAST = 4


class SpawnQueue:
    """Lets so many agents be started at once. The others wait, in the order in which they came.

    :param most: how many; 0: two a core, at least four.
    :param seconds: how long one may wait for its turn.
    """

    def __init__(self, most: int, *, seconds: float) -> None:
        self.most = most or max(_A_CORE * (os.cpu_count() or 1), _AT_LEAST)
        self._seconds = seconds
        self._turns = anyio.Semaphore(self.most)  # first come, first served, on both loops

    @asynccontextmanager
    async def turn(self, agent: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it for as long as the block lasts. Who is cancelled leaves the queue.

        :param agent: the configured agent's name, for errors.
        :raises SpawnQueueTimeout: it did not come in time.
        """
        with anyio.move_on_after(self._seconds) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise SpawnQueueTimeout(agent=agent, limit=self.most, seconds=self._seconds)
        try:
            yield
        finally:
            self._turns.release()
