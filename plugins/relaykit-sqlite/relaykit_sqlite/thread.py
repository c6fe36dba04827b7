"""DatabaseThread: the one thread of a database, and the way there and back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from queue import SimpleQueue
from typing import Any, TypeVar

import anyio
from anyio import RunFinishedError, from_thread
from anyio.lowlevel import current_token

from relaykit.errors import JournalError, StoreError
from relaykit_sqlite.database import Database, Request
from relaykit_sqlite.problems import NAME

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Group:
    """Requests that are run in one transaction, and those who wait for it."""

    __slots__ = ("done", "requests")

    def __init__(self) -> None:
        self.requests: list[Request[Any]] = []
        self.done = anyio.Event()

    def abandon(self) -> None:
        """Have those who still wait fail."""
        if not self.done.is_set():
            for request in self.requests:
                request.abandon("the thread of the database has ended")
            self.done.set()


class _Rest(Enum):
    """What the thread does in between: sleep until it is woken, or end."""

    SLEEP = auto()
    END = auto()


_Todo = _Group | _Rest


class DatabaseThread:
    """Runs a `Database` in a thread of its own, for one event loop; group commit is all that it knows.

    While the thread works on a group, the event loop collects the next. When the thread hands the results over it
    is given what has been collected: everything that was asked during a commit shares the next one. So there is
    no lock, and no queue but the one that wakes the thread when it had nothing to do. What waits needs no bound of
    its own: each caller waits for its answer, and a conversation appends one batch at a time.

    :param open_it: called in the thread; what it raises, `start` raises.
    """

    def __init__(self, open_it: Callable[[], Database]) -> None:
        self._open = open_it
        self._token = current_token()
        self._wake: SimpleQueue[_Todo] = SimpleQueue()
        self._collected = _Group()
        self._running = self._collected  # or what ran last
        self._asleep = False  # the thread waits for `_wake`
        self._closing = False
        self._opened = anyio.Event()
        self._failure: BaseException | None = None
        self._ended = anyio.Event()
        # A daemon: an event loop that was abandoned with this open must not keep the process from its end.
        self._thread = threading.Thread(target=self._live, name="relaykit-sqlite", daemon=True)

    async def start(self) -> None:
        """Start the thread and open the database."""
        self._thread.start()
        await self._opened.wait()
        if self._failure is not None:
            raise self._failure

    async def run(
        self,
        work: Callable[[Database], T],
        *,
        writes: bool,
        failure: type[StoreError | JournalError],
        one_statement: bool = False,
    ) -> T:
        """Do `work` in the thread, and return what it returns once that is durable.

        If the caller is cancelled, it is done all the same.

        :param one_statement: it writes by one statement at most.
        :raises StoreError: or JournalError, whichever is `failure`: the database failed, or is closed.
        """
        if self._closing:
            raise failure("the database is closed", plugin=NAME)
        request = Request(work, writes=writes, one_statement=one_statement, failure=failure)
        group = self._collected
        group.requests.append(request)
        if self._asleep:
            self._wake.put(self._take())
        await group.done.wait()
        return request.outcome()

    async def aclose(self) -> None:
        """Finish what was asked for, close the database and end the thread. Idempotent."""
        self._closing = True
        if self._asleep:
            self._asleep = False
            self._wake.put(_Rest.END)
        if self._thread.ident is not None:
            try:
                await _wait_regardless(self._ended)
            finally:
                self._thread.join()  # its last act was to tell so

    def _take(self) -> _Group:
        """Return what was collected, and begin anew."""
        self._asleep = False
        group, self._collected = self._collected, _Group()
        self._running = group
        return group

    # ------------------------------------------------------------ in the thread

    def _live(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._failure = error
            if self._opened.is_set():  # else it is for `start` to raise
                logger.exception("the thread of the database ended")
        with suppress(RunFinishedError):  # the event loop was abandoned: there is nobody to tell
            self._tell(self._have_ended)

    def _work(self) -> None:
        database = self._open()
        try:
            todo = self._tell(self._have_opened)
            while todo is not _Rest.END:
                if todo is _Rest.SLEEP:
                    todo = self._wake.get()
                else:
                    database.run(todo.requests)
                    todo = self._answer(todo)
        finally:
            database.close()

    def _answer(self, group: _Group) -> _Todo:
        if len(group.requests) == 1:
            return self._tell(self._have_done, group)
        # Those who waited together mostly ask again together: once they have had their turn, the next commit is for
        # all of them. Otherwise who came a moment too late would split them into two commits for ever.
        self._tell(group.done.set)
        return self._tell(self._next)

    def _tell(self, call: Callable[..., T], *arguments: Any) -> T:
        return from_thread.run_sync(call, *arguments, token=self._token)

    # ------------------------------------------------------------ in the event loop, called by the thread

    def _have_opened(self) -> _Todo:
        self._opened.set()
        return self._next()

    def _have_done(self, group: _Group) -> _Todo:
        group.done.set()
        return self._next()

    def _have_ended(self) -> None:
        self._closing = True
        for group in (self._running, self._collected):  # nobody waits, unless the thread ended by an error
            group.abandon()
        self._opened.set()
        self._ended.set()

    def _next(self) -> _Todo:
        """Return what the thread is to do: run what was collected, sleep, or end."""
        if self._collected.requests:
            return self._take()
        if self._closing:
            return _Rest.END
        self._asleep = True
        return _Rest.SLEEP


async def _wait_regardless(event: anyio.Event) -> None:
    """Wait for an event that is certain to come, and only then be cancelled; natively on asyncio too."""
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except anyio.get_cancelled_exc_class() as error:  # no scope's: the shield holds those off
                cancelled = error
    if cancelled is not None:
        raise cancelled
