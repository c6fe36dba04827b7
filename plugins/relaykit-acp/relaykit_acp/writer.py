"""Lines to an agent: one after another, each whole or not at all."""

from __future__ import annotations

from select import PIPE_BUF

import anyio
from anyio.abc import TaskGroup

from relaykit_acp.process import AgentProcess

_MAX_LATER = 1000


class LineWriter:
    """The only writer to a process.

    ::

        await writer.take_turn()        # may be cancelled: nothing was written
        ...                             # what must be known before the line is out
        written = await writer.put(line)

    :param tasks: where lines go out whose writer may not wait for them.
    """

    def __init__(self, process: AgentProcess, tasks: TaskGroup) -> None:
        self._process = process
        self._tasks = tasks
        # No lock: a turn may be ended by another task than took it.
        self._turn = anyio.Semaphore(1, fast_acquire=True)
        self._later: list[bytes] = []

    async def take_turn(self) -> None:
        """Wait until it is this caller's turn. `put` ends it."""
        await self._turn.acquire()

    def take_turn_nowait(self) -> bool:
        """Take the turn if nobody has it; else return False."""
        try:
            self._turn.acquire_nowait()
        except anyio.WouldBlock:
            return False
        return True

    def put_nowait(self, line: bytes) -> bool:
        """Write a line if that takes no waiting, and end the turn; return False if it did not go."""
        try:
            return len(line) <= PIPE_BUF and self._process.write_nowait(line)
        finally:
            self._turn.release()

    async def put(self, line: bytes) -> bool:
        """Write a line and end the turn; return False if the process is gone.

        Waits while the process does not read. Whoever is cancelled meanwhile has cut nothing: the line
        goes out whole, or not at all.
        """
        if len(line) > PIPE_BUF:
            return await self._put_long(line)
        try:
            return await self._process.write(line)  # the system takes this much in one piece
        finally:
            self._turn.release()

    async def _put_long(self, line: bytes) -> bool:
        if self._process.gone:
            self._turn.release()
            return False
        done = anyio.Event()
        written = False

        async def write() -> None:
            nonlocal written
            try:
                written = await self._process.write(line)
            finally:
                self._turn.release()
                done.set()

        self._tasks.start_soon(write)
        await done.wait()
        return written

    def put_later(self, line: bytes) -> None:
        """Write a line when the process takes it, without waiting for that.

        For the answers that a reader gives: the agent may be waiting for us to read, and take nothing before.
        """
        if self._process.gone or len(self._later) >= _MAX_LATER:
            return
        self._later.append(line)
        if len(self._later) == 1:
            self._tasks.start_soon(self._put_all_later)

    async def _put_all_later(self) -> None:
        while self._later:
            await self.take_turn()
            if not await self.put(self._later[0]):
                self._later.clear()
                return
            self._later.pop(0)
