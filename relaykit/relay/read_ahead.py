"""How an agent is listened to; and ReadAhead: while what it has said before is recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
from anyio.abc import TaskGroup

from relaykit.agent.agent import Agent
from relaykit.conversation.frame import Frame
from relaykit.errors import Leaked
from relaykit.tasks import contained

_MOST = 1 << 20
"""Bytes that are read ahead: some milliseconds of an agent that speaks as fast as it can."""


async def listen(source: Agent | ReadAhead, hear: Callable[[Sequence[Frame]], Awaitable[None]]) -> None:
    """Hand over what an agent says, until it is gone.

    :raises AgentError: as `Agent.receive`.
    :raises Leaked: the agent left something open: once for all, as a task for each call would cost too much.
    """
    if isinstance(
        source, ReadAhead
    ):  # which has a task for the agent already: what it leaves open ends its group
        await _listen(source, hear)
    else:
        await contained(partial(_listen, source, hear))


async def _listen(source: Agent | ReadAhead, hear: Callable[[Sequence[Frame]], Awaitable[None]]) -> None:
    while True:
        try:
            frames = await source.receive()
        except anyio.EndOfStream:
            return
        await hear(frames)


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
            await self._read_on()
        except Exception as error:  # noqa: BLE001 -- raised in `receive`
            self._ended = error
            self._heard.set()
        except anyio.get_cancelled_exc_class():
            # If it is the agent's own, `receive` would wait for ever; if it is ours, nobody waits any more.
            self._ended = Leaked("it let out a cancellation that was its own")
            self._heard.set()
            raise

    async def _read_on(self) -> None:
        while True:
            frames = await self._agent.receive()
            self._frames += frames
            self._size += sum([len(frame.body) for frame in frames])
            self._heard.set()
            while self._size > _MOST:
                self._taken = anyio.Event()
                await self._taken.wait()
