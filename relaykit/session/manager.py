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

from relaykit.clock import Clock
from relaykit.errors import ManagerClosed, SessionError, SessionNotFound, StaleVersion
from relaykit.ids import IdGenerator
from relaykit.meter import NO_METER, SESSIONS, Meter
from relaykit.session.changes import BeforeDelete, Changes, delete_at_once
from relaykit.session.cleaner import Cleaner, CleanerResult, CleanupReport
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
    SessionState,
    check_agent_id,
    freeze,
)
from relaykit.session.state_machine import Event
from relaykit.session.store import Store
from relaykit.session.worker import Worker
from relaykit.session.workers import Workers
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
    :param before_delete: awaited for each session once it is CLEANED, while the store still holds it. What it
        raises `complete_cleanup` raises, and the session stays in the store.
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
        before_delete: BeforeDelete = delete_at_once,
    ) -> None:
        self._store = store
        self._ids = ids
        self._clock = clock
        cleanup = Cleanup(cleaners, timeout=cleaner_timeout, clock=clock, meter=meter)
        self._changes = Changes(store, clock, cleanup, hooks, meter, before_delete)
        self._node = node
        self._workers = Workers(store)
        self._touched: dict[str, Activity] = {}
        self._owned = OwnedTasks()
        meter.watch(SESSIONS, partial(self._workers.by_state, node))

    async def __aenter__(self) -> Self:
        self._workers.check_unused()
        self._workers.open(await self._owned.__aenter__())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The ending runs in the task group, which waits for it however often its host is cancelled.
        failures: list[Exception] = []
        self._workers.closing = True
        self._workers.tasks.start_soon(self._end_all, failures)
        await self._owned.__aexit__(kind, error, trace)
        self._workers.close()
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
        return await self._begin(session, connection, actor)

    async def revive(self, ended: Session, connection: Closable, *, actor: str = "relay") -> Session:
        """Create a session anew that has ended: under its id, in its role, knowing what it had recorded.

        :param ended: as it ended. The store does not hold it any more.
        :param connection: as in `create`.
        :raises DuplicateRole: a live session plays the role meanwhile.
        :raises DuplicateSession: it has been revived already.
        :raises ManagerClosed: the Manager is closing or not open.
        """
        session = ended.evolve(
            state=SessionState.CREATED,
            version=1,
            node=self._node,
            cause=None,
            reason=None,
            ended_at=None,
            activity=Activity(self._clock.now(), ended.activity.message_count),
        )
        return await self._begin(session, connection, actor)

    async def _begin(self, session: Session, connection: Closable, actor: str) -> Session:
        worker = self._workers.begin(session)
        worker.handle = Handle(connection, anyio.CancelScope())
        return await worker.submit(partial(self._changes.create, worker, actor)).outcome()

    async def begin_spawn(self, session_id: str, *, actor: str = "relay") -> Session:
        """Move CREATED → SPAWNING. Spawning the agent is the caller's own affair.

        :raises SessionNotFound: there is no such session.
        :raises TransitionError: it is not CREATED.
        :raises ManagerClosed: the Manager is closing.
        """
        worker = await self._workers.require(session_id)
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
            worker = await self._workers.require(session_id)
            job = worker.submit(partial(self._changes.attach, worker, worktree_dir, agent, actor))
        except BaseException:
            await self._turn_away(agent)
            raise
        return await job.outcome()

    # ------------------------------------------------------------ asleep, and in other hands

    async def adopt(self, session_id: str, connection: Closable) -> Session:
        """Take over a session that the store holds and nobody runs: give it a handle here.

        :param connection: as in `create`.
        :raises SessionNotFound: there is no such session.
        :raises SessionError: it has a handle here already.
        :raises ManagerClosed: the Manager is closing.
        """
        worker = await self._workers.require(session_id)
        if worker.handle is not None:
            raise SessionError(f"session {session_id!r} is run here already")
        worker.handle = Handle(connection, anyio.CancelScope())
        return worker.latest()

    async def detach_agent(self, session_id: str) -> Sequence[CleanerResult]:
        """Stop the agent of an ACTIVE session, which sleeps from then on: no transition, all else is kept.

        The cleaners of phase AGENT run, as they would at the end: also where the agent is one that another
        process has left behind. If one of them failed something may still run, and no agent may be attached.

        :raises SessionNotFound: there is no such session.
        :raises SessionNotActive: it is not ACTIVE.
        """
        worker = await self._workers.require(session_id, closing=True)
        return await worker.submit(partial(self._changes.detach, worker)).outcome()

    async def reattach_agent(self, session_id: str, agent: Closable) -> Session:
        """Give an ACTIVE session that sleeps an agent again: no transition.

        From the call on, the agent is the Manager's, as in `attach_agent`.

        :raises SessionNotFound: there is no such session.
        :raises SessionNotActive: it is not ACTIVE.
        :raises SessionError: it has an agent, or no connection here.
        :raises ManagerClosed: the Manager is closing.
        """
        try:
            worker = await self._workers.require(session_id)
            job = worker.submit(partial(self._changes.reattach, worker, agent))
        except BaseException:
            await self._turn_away(agent)
            raise
        return await job.outcome()

    async def release(self, session_id: str) -> None:
        """Let go of an ACTIVE session that sleeps. It stays in the store, for who adopts it. Unknown: nothing happens.

        :raises SessionNotActive: it is not ACTIVE.
        :raises SessionError: it still has an agent.
        """
        worker = self._workers.get(session_id)
        if worker is not None:
            await worker.submit(partial(self._changes.release, worker)).outcome()

    # ------------------------------------------------------------ what is recorded, and the end

    async def record(self, session_id: str, plugin: str, facts: Json) -> Session:
        """Save ``session.resources[plugin] = facts``: what identifies a resource, before it is acquired.

        :param facts: JSON; it replaces what the plugin had recorded before.
        :raises SessionNotFound: there is no such session.
        """
        facts = freeze(facts)
        worker = await self._workers.require(session_id, closing=True)
        return await worker.submit(partial(self._changes.record, worker, plugin, facts)).outcome()

    async def mark_terminating(
        self, session_id: str, reason: str, *, cause: Cause = Cause.REQUESTED, actor: str = "relay"
    ) -> None:
        """Move to TERMINATING and cancel the session's scope. Idempotent: the first reason stays.

        A session that is unknown has ended already, and that is no error.

        :raises TransitionError: the store still holds the session, but CLEANED.
        """
        worker = await self._workers.find(session_id)
        if worker is not None:
            await worker.submit(partial(self._changes.terminate, worker, reason, cause, actor)).outcome()

    async def complete_cleanup(self, session_id: str, *, actor: str = "relay") -> CleanupReport:
        """Run the cleaners, move TERMINATING → CLEANED, and remove the session from the store.

        The cleaners run exactly once, whoever calls and however often; every caller gets the same report.
        A session that is unknown has been cleaned already: its report is empty.
        :raises TransitionError: the session is not TERMINATING; no cleaner has run.
        """
        worker = await self._workers.find(session_id)
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
        worker = self._workers.get(session_id) or await self._workers.require(session_id, closing=True)
        worker.activity = Activity(self._clock.now(), worker.activity.message_count + by)
        self._touched[session_id] = worker.activity

    async def flush_activity(self) -> None:
        """Write the activity of all sessions that were heard of since the last flush, in one batch.

        If the store fails, the batch is kept for the next flush and the error is raised.
        """
        touched, self._touched = self._touched, {}
        batch = {key: value for key, value in touched.items() if self._workers.get(key) is not None}
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
        worker = self._workers.get(session_id)
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
        worker = self._workers.get(session_id)
        return worker.handle if worker else None

    def _with_live_activity(self, session: Session) -> Session:
        worker = self._workers.get(session.id)
        return session if worker is None else session.with_activity(worker.activity)

    # ------------------------------------------------------------ its own end

    async def _turn_away(self, agent: Closable) -> None:
        """Close an agent that cannot be attached, to the end, however the caller is cancelled."""
        if not self._workers.is_open:
            await self._changes.close(agent)
            return
        with anyio.CancelScope(shield=True):
            await self._workers.run_alone(partial(self._changes.close, agent)).outcome()

    async def _end_all(self, failures: MutableSequence[Exception]) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as ending:
                for worker in self._workers:
                    ending.start_soon(self._end, worker, failures)
            for worker in self._workers:
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
