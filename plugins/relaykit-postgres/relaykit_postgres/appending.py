"""Appender: what many sessions say at once is written in one statement, and made durable by one commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from time import monotonic

import anyio
from anyio.abc import TaskGroup

from relaykit.conversation import Entry
from relaykit.errors import JournalConflict, JournalError
from relaykit_postgres import NAME
from relaykit_postgres.batches import BUSY, Batch, Writer
from relaykit_postgres.pool import Call, Pool, late

_ROUND_BYTES = 4 * 1024 * 1024
_ROUND_SESSIONS = 500


class _Waiting:
    """A batch, and who waits for it."""

    __slots__ = ("abandoned", "batch", "call", "deadline", "done", "error")

    def __init__(self, batch: Batch, *, seconds: float) -> None:
        self.batch = batch
        self.deadline = monotonic() + seconds
        self.done = anyio.Event()
        self.abandoned = False
        self.error: Exception | None = None
        self.call: Call[Sequence[str]] | None = None  # what writes it, with others

    def settle(self, refusal: str) -> None:
        """End the waiting: an empty refusal means that it is written."""
        if refusal:
            self.error = JournalConflict(self.batch.session_id, refusal, plugin=NAME)
        self.done.set()

    def late(self, seconds: float) -> Exception:
        """Return what is raised when it takes longer."""
        trouble = self.call.trouble if self.call else None
        why = trouble.text if trouble else "the server says nothing, or every connection is busy"
        return late(JournalError, why, seconds=seconds)

    def fail(self, error: Exception) -> None:
        """End the waiting."""
        self.error = error
        self.done.set()


class Appender:
    """Appends for many sessions.

    What is asked for while a commit is under way is written together by the next one, so a session waits for others
    no longer than one commit. One that is refused harms none, and one whose journal somebody else holds locked, or
    that makes the whole statement fail, is left out and tried alone.

    :param tasks: where the rounds run: a caller that is cancelled takes no other's round with it.
    """

    def __init__(self, pool: Pool, writer: Writer, *, tasks: TaskGroup) -> None:
        self._pool = pool
        self._writer = writer
        self._tasks = tasks
        self._waiting: deque[_Waiting] = deque()
        self._writing = False
        self._outstanding: dict[_Waiting, None] = {}  # in the order in which their time is up
        self._watching = False

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        """See `Journal.append`."""
        if self._pool.closed:
            raise JournalError("the storage is closed, or closing", plugin=NAME)
        waiting = _Waiting(Batch(session_id, epoch, tuple(entries)), seconds=self._pool.timeout)
        self._waiting.append(waiting)
        self._outstanding[waiting] = None
        if not self._writing:
            self._writing = True
            self._tasks.start_soon(self._write_rounds)
        if not self._watching:
            self._watching = True
            self._tasks.start_soon(self._watch)
        try:
            await waiting.done.wait()
        finally:
            waiting.abandoned = True
            del self._outstanding[waiting]
        if waiting.error is not None:
            raise waiting.error

    async def _watch(self) -> None:
        """Have those fail whose time is up: a timer for each would cost as much as the rest of what an append does."""
        try:
            while self._outstanding:
                await anyio.sleep(max(next(iter(self._outstanding)).deadline - monotonic(), 0))
                for waiting in self._outstanding:
                    if waiting.deadline > monotonic():
                        break
                    if not waiting.done.is_set():
                        waiting.fail(waiting.late(self._pool.timeout))
        finally:
            self._watching = False

    async def _write_rounds(self) -> None:
        """Write round after round, until nobody waits."""
        try:
            while batches := self._next_round():
                await self._write(batches, alone=False)
        finally:
            self._writing = False

    def _next_round(self) -> list[_Waiting]:
        """Take those that wait, a session once, up to a limit."""
        chosen: dict[str, _Waiting] = {}
        later: list[_Waiting] = []
        size = 0
        while self._waiting and len(chosen) < _ROUND_SESSIONS and size < _ROUND_BYTES:
            waiting = self._waiting.popleft()
            if waiting.batch.session_id in chosen:
                later.append(waiting)
            elif not waiting.abandoned:
                chosen[waiting.batch.session_id] = waiting
                size += waiting.batch.size
        self._waiting.extendleft(reversed(later))
        return list(chosen.values())

    async def _write(self, batches: Sequence[_Waiting], *, alone: bool) -> None:
        """Write some batches in one statement.

        :param alone: this one may wait for a lock, because no other waits with it.
        """
        work = partial(self._writer.write, batches=[waiting.batch for waiting in batches], wait=alone)
        call = Call(work, seconds=self._pool.timeout)
        for waiting in batches:
            waiting.call = call
        try:
            await self._pool.perform(call)
        finally:
            self._settle(batches, call)

    def _settle(self, batches: Sequence[_Waiting], call: Call[Sequence[str]]) -> None:
        if call.result:
            for waiting, refusal in zip(batches, call.result[0], strict=True):
                if refusal is BUSY:
                    self._tasks.start_soon(partial(self._write, [waiting], alone=True))
                else:
                    waiting.settle(refusal)
        elif len(batches) > 1 and (call.useless or call.error) and not self._pool.closed:
            # One of them makes the statement fail, or all would: each finds out for itself.
            for waiting in batches:
                self._tasks.start_soon(partial(self._write, [waiting], alone=True))
        else:
            for waiting in batches:
                waiting.fail(call.failure(JournalError))
