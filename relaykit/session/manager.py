"""Manager: drives every session from CREATED to CLEANED.

Each live session has one worker task, and every change of the session runs to its end there, one after
the other. A caller only waits: cancelling it, by anyio or by its event loop, ends the waiting and never
the work. What the change means to others is told by a second, short-lived task per session, in version
order, so that a hook may call the Manager for its own session.
"""

from __future__ import annotations

import logging
from collections.abc import MutableSequence, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from relaykit.clock import Clock
from relaykit.errors import DuplicateSession, ManagerClosed, SessionNotFound, StaleVersion
from relaykit.ids import IdGenerator
from relaykit.meter import NO_METER, Meter
from relaykit.session.changes import Changes
from relaykit.session.cleaner import Cleaner, CleanupReport
from relaykit.session.cleanup import Cleanup
from relaykit.session.hooks import SessionHooks
from relaykit.session.model import (
    Activity,
    Cause,
    Closable,
    Handle,
    Json,
    Session,
    SessionFilter,
    check_agent_id,
    freeze,
)
from relaykit.session.state_machine import Event
from relaykit.session.store import Store
from relaykit.session.worker import Job, Worker
from relaykit.tasks import OwnedTasks

logger = logging.getLogger(__name__)


class Manager:
    """Creates sessions, moves them through their states, and ends them.

    ::

        async with Manager(store=…, ids=…, clock=…, cleaners=…, hooks=…) as manager:
            session = await manager.create("auth", connection)
            await manager.begin_spawn(session.id)
            await manager.attach_agent(session.id, worktree_dir, agent)
            …
            await manager.mark_terminating(session.id, "asked by its user")
            await manager.complete_cleanup(session.id)

    All methods may be called concurrently from any task of the loop that entered the Manager; other
    threads use `BlockingManager`. A method that changes something returns once the hooks of that change
    have run; called from inside a hook, it returns after the commit. Any of them may raise `StoreError`;
    the session is then as it was.

    Leaving the block ends every live session in order (terminate, clean, hooks), whatever cancels the
    block; what cannot be ended is raised as an exception group.

    :param store: the only place that is asked whether an id or a role is free.
    :param cleaners: run in this order within their phase.
    :param node: this relay's name, written into its sessions.
    :param cleaner_timeout: seconds that each cleaner may take.
    """

    def __init__(
        self,
        *,
        store: Store,
        ids: IdGenerator,
        clock: Clock,
        cleaners: Sequence[Cleaner],
        hooks: SessionHooks,
        meter: Meter = NO_METER,
        node: str = "local",
        cleaner_timeout: float = 30.0,
    ) -> None:
        self._store = store
        self._ids = ids
        self._clock = clock
        self._changes = Changes(store, clock, Cleanup(cleaners, timeout=cleaner_timeout), hooks, meter)
        self._node = node
        self._live: dict[str, Worker] = {}
        self._finding: dict[str, anyio.Event] = {}
        self._touched: dict[str, Activity] = {}
        self._owned = OwnedTasks()
        self._tasks: TaskGroup | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        if self._tasks is not None or self._closing:
            raise ManagerClosed
        self._tasks = await self._owned.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The ending runs in the task group, which waits for it however often its host is cancelled.
        failures: list[Exception] = []
        self._closing = True
        self._require_open().start_soon(self._end_all, failures)
        await self._owned.__aexit__(kind, error, trace)
        self._tasks = None
        if failures and error is None:
            raise ExceptionGroup("sessions could not be ended while the Manager closed", failures)

    # ------------------------------------------------------------ changes

    async def create(
        self,
        agent_id: str,
        connection: Closable,
        *,
        agent: str = "agent",
        owner: str = "local",
        project: str = "default",
        actor: str = "relay",
    ) -> Session:
        """Create a session in CREATED and return it.

        A caller that is cancelled here may leave a session behind: `get_by_role` finds it.

        :param connection: whatever can be closed. It stays the caller's if this raises.
        :raises InvalidAgentId: the role could not name a directory and a branch.
        :raises DuplicateRole: a live session of this owner and project plays the role.
        :raises DuplicateSession: the id generator repeated itself.
        :raises ManagerClosed: the Manager is closing or not open.
        """
        tasks = self._require_open()
        if self._closing:
            raise ManagerClosed
        now = self._clock.now()
        session = Session(
            id=self._ids.new_id(),
            agent_id=check_agent_id(agent_id),
            agent=agent,
            owner=owner,
            project=project,
            node=self._node,
            created_at=now,
            activity=Activity(now),
        )
        if session.id in self._live:
            raise DuplicateSession(session.id)
        handle = Handle(connection, anyio.CancelScope())
        worker = self._start(Worker(session, handle, tasks, committed=False), tasks)
        return await worker.submit(partial(self._changes.create, worker, actor)).outcome()

    async def begin_spawn(self, session_id: str, *, actor: str = "relay") -> Session:
        """Move CREATED → SPAWNING. Spawning the agent is the caller's own affair.

        :raises SessionNotFound: there is no such session.
        :raises TransitionError: it is not CREATED.
        :raises ManagerClosed: the Manager is closing.
        """
        worker = await self._require(session_id)
        return await worker.submit(partial(self._changes.transition, worker, Event.SPAWN, actor)).outcome()

    async def attach_agent(
        self, session_id: str, worktree_dir: str, agent: Closable, *, actor: str = "relay"
    ) -> Session:
        """Move SPAWNING → ACTIVE with this agent, in this directory.

        From the call on, the agent is the Manager's: if the transition is not possible nothing is attached
        and the agent is closed.

        :raises SessionNotFound: there is no such session.
        :raises TransitionError: it is not SPAWNING.
        :raises ManagerClosed: the Manager is closing.
        """
        try:
            worker = await self._require(session_id)
            job = worker.submit(partial(self._changes.attach, worker, worktree_dir, agent, actor))
        except BaseException:
            await self._turn_away(agent)
            raise
        return await job.outcome()

    async def record(self, session_id: str, plugin: str, facts: Json) -> Session:
        """Save ``session.resources[plugin] = facts``: what identifies a resource, before it is acquired.

        :param facts: JSON; it replaces what the plugin had recorded before.
        :raises SessionNotFound: there is no such session.
        """
        facts = freeze(facts)
        worker = await self._require(session_id, closing=True)
        return await worker.submit(partial(self._changes.record, worker, plugin, facts)).outcome()

    async def mark_terminating(
        self, session_id: str, reason: str, *, cause: Cause = Cause.REQUESTED, actor: str = "relay"
    ) -> None:
        """Move to TERMINATING and cancel the session's scope. Idempotent: the first reason stays.

        A session that is unknown has ended already, and that is no error.

        :raises TransitionError: the store still holds the session, but CLEANED.
        """
        worker = await self._find(session_id)
        if worker is not None:
            await worker.submit(partial(self._changes.terminate, worker, reason, cause, actor)).outcome()

    async def complete_cleanup(self, session_id: str, *, actor: str = "relay") -> CleanupReport:
        """Run the cleaners, move TERMINATING → CLEANED, and remove the session from the store.

        The cleaners run exactly once, whoever calls and however often; every caller gets the same report.
        A session that is unknown has been cleaned already: its report is empty.

        :raises TransitionError: the session is not TERMINATING; no cleaner has run.
        """
        worker = await self._find(session_id)
        if worker is None:
            return CleanupReport()
        return await worker.submit(partial(self._changes.clean, worker, actor)).outcome()

    async def record_heartbeat(self, session_id: str) -> None:
        """Note that the session was heard of now. In memory: `flush_activity` writes it.

        :raises SessionNotFound: there is no such session.
        """
        await self.increment_message_count(session_id, by=0)

    async def increment_message_count(self, session_id: str, *, by: int = 1) -> None:
        """Count messages, and note that the session was heard of now. In memory, as a heartbeat is.

        :raises SessionNotFound: there is no such session.
        """
        worker = self._live.get(session_id) or await self._require(session_id, closing=True)
        worker.activity = Activity(self._clock.now(), worker.activity.message_count + by)
        self._touched[session_id] = worker.activity

    async def flush_activity(self) -> None:
        """Write the activity of all sessions that were heard of since the last flush, in one batch.

        If the store fails, the batch is kept for the next flush and the error is raised.
        """
        batch, self._touched = self._touched, {}
        if not batch:
            return
        try:
            await self._store.touch(batch)
        except BaseException:
            self._touched = batch | self._touched
            raise

    # ------------------------------------------------------------ lookups

    async def get(self, session_id: str) -> Session | None:
        """Return the session, or None if there is none (any more)."""
        worker = self._live.get(session_id)
        if worker is not None and worker.committed:
            return worker.latest()
        return await self._store.get(session_id)

    async def get_by_role(
        self, agent_id: str, *, owner: str = "local", project: str = "default"
    ) -> Session | None:
        """Return the session that plays this role, or None."""
        session = await self._store.get_by_role(agent_id, owner=owner, project=project)
        return None if session is None else self._with_live_activity(session)

    async def list(
        self, where: SessionFilter | None = None, *, after: str = "", limit: int = 100
    ) -> Sequence[Session]:
        """Return up to `limit` sessions that match, in order of id, those behind the id `after` only."""
        found = await self._store.list(where or SessionFilter(), after=after, limit=limit)
        return [self._with_live_activity(session) for session in found]

    async def count(self, where: SessionFilter | None = None) -> int:
        """Return how many sessions match."""
        return await self._store.count(where or SessionFilter())

    def handle(self, session_id: str) -> Handle | None:
        """Return the live half of a session that this Manager runs, or None."""
        worker = self._live.get(session_id)
        return worker.handle if worker else None

    def _with_live_activity(self, session: Session) -> Session:
        worker = self._live.get(session.id)
        return session if worker is None else session.with_activity(worker.activity)

    # ------------------------------------------------------------ workers and their callers

    async def _find(self, session_id: str) -> Worker | None:
        """Return the session's worker, starting one for a session that only the store knows."""
        tasks = self._require_open()
        while session_id not in self._live and (finding := self._finding.get(session_id)) is not None:
            await finding.wait()  # two readers could start two workers, the slower from what is long past
        if session_id in self._live:
            return self._live[session_id]
        finding = self._finding[session_id] = anyio.Event()
        try:
            session = await self._store.get(session_id)
            if session is None or session_id in self._live:  # it was created while we read
                return self._live.get(session_id)
            if self._closing:
                raise ManagerClosed
            return self._start(Worker(session, None, tasks, committed=True), tasks)
        finally:
            del self._finding[session_id]
            finding.set()

    async def _require(self, session_id: str, *, closing: bool = False) -> Worker:
        if self._closing and not closing:
            raise ManagerClosed
        worker = await self._find(session_id)
        if worker is None:
            raise SessionNotFound(session_id)
        return worker

    async def _turn_away(self, agent: Closable) -> None:
        """Close an agent that cannot be attached, to the end, however the caller is cancelled."""
        if self._tasks is None:
            await self._changes.close(agent)
            return
        closing = Job(partial(self._changes.close, agent))
        self._tasks.start_soon(closing.run_alone)
        with anyio.CancelScope(shield=True):
            await closing.outcome()

    def _require_open(self) -> TaskGroup:
        if self._tasks is None:
            raise ManagerClosed
        return self._tasks

    def _start(self, worker: Worker, tasks: TaskGroup) -> Worker:
        self._live[worker.session.id] = worker
        tasks.start_soon(worker.run, partial(self._forget, worker))
        return worker

    def _forget(self, worker: Worker) -> None:
        session_id = worker.session.id
        if self._live.get(session_id) is worker:
            del self._live[session_id]
            self._touched.pop(session_id, None)

    async def _end_all(self, failures: MutableSequence[Exception]) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as ending:
                for worker in list(self._live.values()):
                    ending.start_soon(self._end, worker, failures)
            for worker in list(self._live.values()):
                worker.stop()

    async def _end(self, worker: Worker, failures: MutableSequence[Exception]) -> None:
        change = partial(self._changes.end, worker, "the relay is shutting down", Cause.SHUTDOWN, "relay")
        try:
            try:
                await worker.submit(change).outcome()
            except StaleVersion:  # now the worker knows better
                await worker.submit(change).outcome()
        except (SessionNotFound, ManagerClosed):
            return  # it ended by itself meanwhile, or never began
        except Exception as error:
            logger.exception("session %s could not be ended", worker.session.id)
            failures.append(error)
