"""Workers: those of the sessions that live here, by id, and how a session that only the store knows gets one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from relaykit.errors import DuplicateSession, ManagerClosed, SessionNotFound
from relaykit.meter import Values
from relaykit.session.model import Session
from relaykit.session.store import Store
from relaykit.session.worker import Change, Job, Worker

T = TypeVar("T")


class Workers:
    """The workers of one Manager, from its opening to its closing."""

    def __init__(self, store: Store) -> None:
        self.closing = False
        """No new work is begun; what lives is ended."""
        self._store = store
        self._tasks: TaskGroup | None = None
        self._workers: dict[str, Worker] = {}
        self._finding: dict[str, anyio.Event] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def by_state(self, node: str) -> Values:
        """Return how many sessions of this node live here, by state; those of others may pass through."""
        living = [worker.session for worker in self if worker.committed and not worker.ended]
        return Counter((session.state,) for session in living if session.node == node)

    def check_unused(self) -> None:
        """Check that none was ever run.

        :raises ManagerClosed: they run, or have.
        """
        if self._tasks is not None or self.closing:
            raise ManagerClosed

    def open(self, tasks: TaskGroup) -> None:
        """Run workers in these tasks from now on."""
        self._tasks = tasks

    def close(self) -> None:
        """Run none any more: they have all ended."""
        self._tasks = None

    @property
    def tasks(self) -> TaskGroup:
        """Where they run.

        :raises ManagerClosed: nothing runs.
        """
        if self._tasks is None:
            raise ManagerClosed
        return self._tasks

    @property
    def is_open(self) -> bool:
        """Tell whether anything can run."""
        return self._tasks is not None

    def get(self, session_id: str) -> Worker | None:
        """Return the worker of a session that lives here, or None."""
        return self._workers.get(session_id)

    async def find(self, session_id: str) -> Worker | None:
        """Return the session's worker, starting one for a session that only the store knows; None if there is none.

        :raises ManagerClosed: the Manager is not open, or it is closing and would have to start one.
        """
        if not self.is_open:
            raise ManagerClosed
        while session_id not in self._workers and (finding := self._finding.get(session_id)) is not None:
            await finding.wait()  # two readers could start two workers, the slower from what is long past
        if session_id in self._workers:
            return self._workers[session_id]
        finding = self._finding[session_id] = anyio.Event()
        try:
            session = await self._store.get(session_id)
            if session is None or session_id in self._workers:  # it was created while we read
                return self._workers.get(session_id)
            if self.closing:
                raise ManagerClosed
            return self._start(session, committed=True)
        finally:
            del self._finding[session_id]
            finding.set()

    async def require(self, session_id: str, *, closing: bool = False) -> Worker:
        """Return the session's worker, as `find` does.

        :param closing: also while the Manager is closing.
        :raises SessionNotFound: there is no such session.
        :raises ManagerClosed: the Manager is closing.
        """
        if self.closing and not closing:
            raise ManagerClosed
        worker = await self.find(session_id)
        if worker is None:
            raise SessionNotFound(session_id)
        return worker

    def begin(self, session: Session) -> Worker:
        """Start the worker of a session that no store holds yet.

        :raises DuplicateSession: it lives here.
        :raises ManagerClosed: the Manager is closing or not open.
        """
        if self.closing:
            raise ManagerClosed
        if session.id in self._workers:
            raise DuplicateSession(session.id)
        return self._start(session, committed=False)

    def run_alone(self, change: Change[T]) -> Job[T]:
        """Run something in a task of its own: it happens whatever becomes of the caller."""
        job = Job(change)
        self.tasks.start_soon(job.run_alone)
        return job

    def _start(self, session: Session, *, committed: bool) -> Worker:
        worker = self._workers[session.id] = Worker(session, self.tasks, committed=committed)
        self.tasks.start_soon(worker.run, partial(self._forget, worker))
        return worker

    def _forget(self, worker: Worker) -> None:
        if self._workers.get(worker.session.id) is worker:
            del self._workers[worker.session.id]
