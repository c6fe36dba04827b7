"""Pool: a few connections, used from worker threads; every call ends by its deadline."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Generic, TypeVar

import anyio
import psycopg
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskGroup

from relaykit.errors import JournalError, StoreError
from relaykit_postgres import NAME
from relaykit_postgres.connection import CannotConnect, Connection
from relaykit_postgres.failures import Trouble, diagnose

T = TypeVar("T")

Work = Callable[[Connection], T]
"""Runs in a worker thread, with a connection in autocommit. Safe to repeat: it may be run more than once."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class Call(Generic[T]):
    """Something that is to be done, and what came of it.

    :param seconds: how long it may take, from now on.
    :param once: it is tried once.
    """

    def __init__(self, work: Work[T], *, seconds: float, once: bool = False) -> None:
        self.work = work
        self.seconds = seconds
        self.deadline = monotonic() + seconds
        self.once = once
        self.done = anyio.Event()
        self.abandoned = False
        """Nobody waits any more: it is not tried again, nor begun."""
        self.result: list[T] = []
        self.error: Exception | None = None
        self.trouble: Trouble | None = None
        """Why the last try failed."""

    def close(self) -> None:
        """End it as one that is not done any more, if it is not done."""
        if not self.result and self.error is None:
            self.error = _Closed()
        self.done.set()

    def failure(self, error: type[StoreError | JournalError]) -> Exception:
        """Return what is raised for a call without a result, so far or for good."""
        if isinstance(self.error, _Closed):
            return error("the storage is closed, or closing", plugin=NAME)
        if self.error is not None:
            return self.error
        if self.useless:
            return error(self.trouble.text if self.trouble else "", plugin=NAME)
        why = self.trouble.text if self.trouble else "the server says nothing, or every connection is busy"
        return late(error, why, seconds=self.seconds)

    @property
    def settled(self) -> bool:
        """Whether there is nothing to try again."""
        return self.trouble is None or self.useless

    @property
    def useless(self) -> bool:
        """Whether the last try failed in a way that another would, too."""
        return self.trouble is not None and (self.once or not self.trouble.passing)


def late(error: type[StoreError | JournalError], why: str, *, seconds: float) -> Exception:
    """Return what is raised when the time is up."""
    return error(
        f"no answer within {seconds:g} s: {why}; it may have been done, and is safe to ask for again; "
        "see that the server is up and not overloaded",
        plugin=NAME,
    )


class Pool:
    """Runs calls, each in a worker thread with a connection of its own, `size` at once.

    A call belongs to a task of the pool's, not to who waits for it: a caller that is cancelled, however that is
    done, stops waiting, and what it began ends in an orderly way and gives its connection back. That is soon:
    the server gives a statement up after `statement_timeout`, and no thread waits past the call's deadline.

    A connection that broke, or whose state is unknown, is closed, and the call is tried again on another, after a
    pause that grows, until its deadline. So all work has to be safe to repeat.

    :param connect: makes a connection, in a worker thread.
    :param tasks: where the pool's tasks run. Its owner closes the pool before it ends them.
    :param timeout: seconds that a call may take.
    """

    def __init__(
        self, connect: Callable[[float], Connection], *, tasks: TaskGroup, size: int, timeout: float
    ) -> None:
        self._connect = connect
        self._tasks = tasks
        self._limiter = CapacityLimiter(size)
        self.timeout = timeout
        self._lock = Lock()  # guards what worker threads change: the two below
        self._idle: list[Connection] = []
        self.closed = False
        self._running = 0
        self._ended = anyio.Event()

    async def run(self, work: Work[T], *, error: type[StoreError | JournalError]) -> T:
        """Do some work, and return what it returns.

        :param error: raised where it cannot be done in time, or at all.
        """
        call = self.begin(work)
        return await self.outcome(call, error=error)

    def begin(self, work: Work[T], *, seconds: float | None = None, once: bool = False) -> Call[T]:
        """Begin some work; `outcome` waits for it.

        :param seconds: how long it may take, if not as long as any other call.
        :param once: do not try again.
        """
        call = Call(work, seconds=seconds or self.timeout, once=once)
        if self.closed:
            call.close()
        else:
            self._tasks.start_soon(self.perform, call)
        return call

    async def outcome(self, call: Call[T], *, error: type[StoreError | JournalError]) -> T:
        """Return what the work returned, or raise what it raised."""
        try:
            with anyio.move_on_after(call.deadline - monotonic()):
                await call.done.wait()
        finally:
            call.abandoned = True
        if call.result:
            return call.result[0]
        raise call.failure(error)

    async def aclose(self) -> None:
        """Take no more calls, close every connection, and wait for the calls that run (until their deadlines)."""
        self.closed = True
        self._close_idle()  # those in use are closed by their threads
        with anyio.CancelScope(shield=True):
            while self._running:
                self._ended = anyio.Event()
                await self._ended.wait()

    async def perform(self, call: Call[T]) -> None:
        """Try until it is done, until trying is useless, or until its deadline; in a task that no caller cancels."""
        self._running += 1
        try:
            if not self.closed:
                await self._try_on(call)
        finally:
            if self.closed:
                call.close()
            call.done.set()
            self._running -= 1
            self._ended.set()

    async def _try_on(self, call: Call[T]) -> None:
        pause = _FIRST_PAUSE
        while True:
            await to_thread.run_sync(self._try, call, limiter=self._limiter)
            left = call.deadline - monotonic()
            if call.settled or call.abandoned or self.closed or left <= 0:
                return
            jitter = random.uniform(0.5, 1.0)  # noqa: S311 -- so that relays do not come back in step
            await anyio.sleep(min(pause * jitter, left))
            pause = min(pause * 2, _LONGEST_PAUSE)

    # ------------------------------------------------------------ in worker threads

    def _try(self, call: Call[T]) -> None:
        if call.abandoned or monotonic() >= call.deadline:
            call.trouble = call.trouble or Trouble("every connection was busy", passing=True)
            return
        call.trouble = None
        try:
            connection = self._take(call.deadline)
            try:
                call.result.append(call.work(connection))
            except psycopg.Error as error:
                call.trouble = diagnose(error)
                if call.trouble.elsewhere:
                    connection.close()
            finally:
                self._give_back(connection)
        except CannotConnect as error:
            call.trouble = diagnose(error)
        except UnicodeEncodeError as error:  # half a surrogate pair, which is not repeated: it may be private
            call.trouble = Trouble(f"a text cannot be stored: {error.reason}", passing=False)
        except Exception as error:  # noqa: BLE001 -- raised to the caller, whose it is
            call.error = error

    def _take(self, deadline: float) -> Connection:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connect(deadline)
        connection.deadline = deadline
        return connection

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if connection.usable and not self.closed:
                self._idle.append(connection)
                return
        connection.close()
        if not self.closed:
            # What broke one broke, most likely, those that were idle meanwhile: none of them costs a call a try.
            self._close_idle()

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(psycopg.Error):  # it is gone either way
                connection.close()


class _Closed(Exception):
    """The pool is closed."""
