"""Worker: the one place where a live session changes, one change after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from relaykit.errors import ManagerClosed, ReentrantCall
from relaykit.session.cleaner import CleanupReport
from relaykit.session.hooks import inside_hook
from relaykit.session.model import Handle, Session
from relaykit.session.news import News, Telling

T = TypeVar("T")

Change = Callable[[], Awaitable[T]]

_working_for: ContextVar[str | None] = ContextVar("relaykit_working_for", default=None)
"""The session whose worker runs this code: a change of that same session would wait for itself."""


class Job(Generic[T]):
    """One change that a worker is to make, and the place where its caller waits for it."""

    __slots__ = ("_change", "_done", "_error", "_result", "news")

    def __init__(self, change: Change[T]) -> None:
        self._change = change
        self._done = anyio.Event()
        self._error: Exception | None = None
        self._result: T
        self.news: anyio.Event | None = None

    async def run(self) -> None:
        """Make the change; what it raises is its caller's."""
        try:
            self._result = await self._change()
        except Exception as error:  # noqa: BLE001 -- raised in `outcome`
            self._error = error
        except BaseException:  # it ends the worker, and must not leave the caller waiting
            self.fail(ManagerClosed())
            raise

    async def run_alone(self) -> None:
        """Make the change in a task of its own: it happens, and is answered, whatever cancels the caller."""
        with anyio.CancelScope(shield=True):
            await self.run()
        self.finish(None)

    def finish(self, news: anyio.Event | None) -> None:
        """Let the caller go on, and tell it what to wait for."""
        self.news = news
        self._done.set()

    def fail(self, error: Exception) -> None:
        """Let the caller go on with an error."""
        self._error = error
        self._done.set()

    async def outcome(self) -> T:
        """Wait for the change, and then for its hooks (but not from inside a hook, which may be one of them)."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        if self.news is not None and not inside_hook.get():
            await self.news.wait()
        return self._result


class Worker:
    """A live session: its facts, its handle, and the task that makes its changes.

    :param tasks: where hooks are told; it outlives the worker.
    :param committed: the store holds the session already.
    """

    __slots__ = (
        "_inbox",
        "_latest_news",
        "_news",
        "_stopped",
        "_wakeup",
        "activity",
        "committed",
        "ended",
        "handle",
        "report",
        "session",
    )

    def __init__(self, session: Session, tasks: TaskGroup, *, committed: bool) -> None:
        self.session = session
        self.activity = session.activity  # ahead of the session's: messages are counted here
        self.handle: Handle | None = None  # it stays so for a session that is not run here
        self.committed = committed
        self.ended = False  # it left the store, never came into it, or was let go
        self.report: CleanupReport | None = None
        self._news = News(tasks, _enter_hooks)
        self._latest_news: anyio.Event | None = None
        self._inbox: list[Job[Any]] = []  # it is short, and an empty deque takes 600 bytes
        self._wakeup: anyio.Event | None = None
        self._stopped = False

    def latest(self) -> Session:
        """Return the session with its latest activity."""
        if self.session.activity is not self.activity:
            self.session = self.session.with_activity(self.activity)
        return self.session

    def submit(self, change: Change[T]) -> Job[T]:
        """Have the change made in its turn, whatever becomes of the caller.

        :raises ReentrantCall: the caller is itself part of a change of this session.
        :raises ManagerClosed: the worker takes nothing any more.
        """
        if _working_for.get() == self.session.id:
            raise ReentrantCall(self.session.id)
        if self._stopped:
            raise ManagerClosed
        job = Job(change)
        self._inbox.append(job)
        self._wake()
        return job

    def tell(self, telling: Telling) -> None:
        """Have the hooks told; the caller of the running change will wait for it."""
        self._latest_news = self._news.tell(telling)

    def stop(self) -> None:
        """Take nothing any more, and let the task end once its inbox is empty."""
        self._stopped = True
        self._wake()

    async def run(self, forget: Callable[[], None]) -> None:
        """Make changes until stopped, or until the session has ended.

        Nothing from outside ends it: its scope is shielded.

        :param forget: called as soon as the session has ended; then, who still waits learns how it ended.
        """
        inside_hook.set(False)
        _working_for.set(self.session.id)
        try:
            with anyio.CancelScope(shield=True):
                while await self._do_next_job():
                    if self.ended and not self._stopped:
                        forget()
                        self.stop()
        finally:
            forget()
            self.stop()
            for job in self._inbox:  # only if the task was ended by force
                job.fail(ManagerClosed())

    async def _do_next_job(self) -> bool:
        while not self._inbox:
            if self._stopped:
                return False
            self._wakeup = anyio.Event()
            await self._wakeup.wait()
            self._wakeup = None
        job = self._inbox.pop(0)
        self._latest_news = None
        await job.run()
        job.finish(self._latest_news)
        return True

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()


def _enter_hooks() -> None:
    inside_hook.set(True)
    _working_for.set(None)
