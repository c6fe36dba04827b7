"""Outbox: what goes to an agent, in order, without anybody waiting for it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from anyio.abc import TaskGroup

from relaykit.agent.agent import Agent
from relaykit.conversation.frame import Frame
from relaykit.errors import AgentGone
from relaykit.tasks import contained

logger = logging.getLogger(__name__)

Undeliverable = Callable[[Frame, str], Awaitable[None]]


class Outbox:
    """Sends frames to one agent. What it does not take at once goes out of a task, which lives while there is some.

    So an agent that does not read holds up no client. Who limits how much waits here are the callers: one
    turn at a time, and answers to what the agent itself asked.

    :param tasks: where the task runs; it ends with the agent.
    :param undeliverable: told of a frame that the agent cannot be given, and why.
    """

    def __init__(self, agent: Agent, tasks: TaskGroup, undeliverable: Undeliverable) -> None:
        self._agent = agent
        self._tasks = tasks
        self._undeliverable = undeliverable
        self._frames: list[
            Frame
        ] = []  # it is short, and an empty deque takes 600 bytes of every idle session

    def send(self, frame: Frame) -> None:
        """Have it sent, behind everything that was sent before."""
        if self._goes_at_once(frame):
            return
        self._frames.append(frame)
        if len(self._frames) == 1:
            self._tasks.start_soon(self._send_all)

    def _goes_at_once(self, frame: Frame) -> bool:
        """Give it to the agent here and now, if it overtakes nothing and nothing has to be waited for."""
        try:
            return not self._frames and self._agent.send_nowait(frame)
        except ValueError:
            return False  # the task answers for it

    async def _send_all(self) -> None:
        while self._frames:
            frame = self._frames[0]
            try:
                await contained(partial(self._agent.send, frame))
            except AgentGone:
                return  # `receive` tells the same, with everything that the agent still said
            except ValueError as error:
                logger.warning("a %s cannot be sent: %s", frame.kind, error)
                await self._undeliverable(frame, str(error))
            self._frames.pop(0)
