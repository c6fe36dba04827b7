"""ReadAhead: an agent is listened to while what it has said before is recorded."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from anyio.abc import TaskGroup

from relaykit.agent.agent import Agent
from relaykit.conversation.frame import Frame

_MOST = 1 << 20
"""Bytes that are read ahead: some milliseconds of an agent that speaks as fast as it can."""


class ReadAhead:
    """Gives what an agent says in ever larger batches, the longer each takes to be recorded.

    A storage on a disk takes as long for one entry as for a thousand; an agent whose pipe is full waits meanwhile.

    :param tasks: where the reading goes on; leaving it ends that.
    """

    def __init__(self, agent: Agent, tasks: TaskGroup) -> None:
        self._agent = agent
        self._frames: list[Frame] = []
        self._size = 0
        self._ended: Exception | None = None
        self._heard = anyio.Event()
        self._taken = anyio.Event()
        tasks.start_soon(self._read)

    async def receive(self) -> Sequence[Frame]:
        """Return what the agent has said since the last call; see `Agent.receive`."""
        while not self._frames:
            if self._ended is not None:
                raise self._ended
            self._heard = anyio.Event()
            await self._heard.wait()
        frames, self._frames, self._size = self._frames, [], 0
        self._taken.set()
        return frames

    async def _read(self) -> None:
        try:
            while True:
                frames = await self._agent.receive()
                self._frames += frames
                self._size += sum([len(frame.body) for frame in frames])
                self._heard.set()
                while self._size > _MOST:
                    self._taken = anyio.Event()
                    await self._taken.wait()
        except Exception as error:  # noqa: BLE001 -- raised in `receive`
            self._ended = error
            self._heard.set()
