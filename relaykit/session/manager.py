"""Manager: drives every session from CREATED to CLEANED.

Each live session has one worker task, and every change of the session runs to its end there, one after
the other. A caller only waits: cancelling it, by anyio or by its event loop, ends the waiting and never
the work. What the change means to others is told by a second, short-lived task per session, in version
order, so that a hook may call the Manager for its own session.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableSequence, Sequence
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from relaykit.clock import Clock
from relaykit.errors import (
    DuplicateRole,
    DuplicateSession,
    ManagerClosed,
    ReentrantCall,
    SessionError,
    SessionNotFound,
    StaleVersion,
    TransitionError,
)
from relaykit.ids import IdGenerator
from relaykit.meter import NO_METER, SESSION_TRANSITIONS, Meter
from relaykit.session.cleaner import Cleaner, CleanerResult, CleanupReport, Outcome, Phase
from relaykit.session.hooks import SessionHooks, inside_hook
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
)
from relaykit.session.state_machine import Event, Transition, next_state
from relaykit.session.store import Store

T = TypeVar("T")

logger = logging.getLogger(__name__)

_working_for: ContextVar[str | None] = ContextVar("relaykit_working_for", default=None)
"""The session whose worker runs this code: a change of that same session would wait for itself."""


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
        self._cleaners = [cleaner for phase in Phase for cleaner in cleaners if cleaner.phase is phase]
        self._hooks = hooks
        self._meter = meter
        self._node = node
        self._cleaner_timeout = cleaner_timeout
        self._live: dict[str, _Worker] = {}
        self._touched: dict[str, Activity] = {}
        self._tasks: TaskGroup | None = None
        self._closing = False

    async def __aenter__(self) -> Manager:
        if self._tasks is not None or self._closing:
            raise ManagerClosed
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = self._require_open()
        self._closing = True
        failures: list[Exception] = []
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as ending:
                for worker in list(self._live.values()):
                    ending.start_soon(self._end_at_close, worker, failures)
            for worker in list(self._live.values()):
                worker.stop()
        # The block's own error is not the task group's: it would come out wrapped in an exception group.
        await tasks.__aexit__(None, None, None)
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
        worker = _Worker(session, Handle(connection, anyio.CancelScope()))
        self._live[session.id] = worker
        tasks.start_soon(self._work, worker)
        return await self._change(worker, partial(self._create, worker, actor))

    async def begin_spawn(self, session_id: str, *, actor: str = "relay") -> Session:
        """Move CREATED → SPAWNING. Spawning the agent is the caller's own affair.

        :raises SessionNotFound: there is no such session.
        :raises TransitionError: it is not CREATED.
        :raises ManagerClosed: the Manager is closing.
        """
        worker = await self._require(session_id)
        return await self._change(worker, partial(self._commit, worker, Event.SPAWN, actor))

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
            job = self._submit(worker, partial(self._attach, worker, worktree_dir, agent, actor))
        except BaseException:
            await _close_shielded(agent)
            raise
        return await self._outcome(job)

    async def record(self, session_id: str, plugin: str, facts: Json) -> Session:
        """Save ``session.resources[plugin] = facts``: what identifies a resource, before it is acquired.

        :param facts: JSON; it replaces what the plugin had recorded before.
        :raises SessionNotFound: there is no such session.
        """
        facts = MappingProxyType(deepcopy(dict(facts)))
        worker = await self._require(session_id, closing=True)
        return await self._change(worker, partial(self._record, worker, plugin, facts))

    async def mark_terminating(
        self, session_id: str, reason: str, *, cause: Cause = Cause.REQUESTED, actor: str = "relay"
    ) -> None:
        """Move to TERMINATING and cancel the session's scope. Idempotent: the first reason stays.

        A session that is unknown has ended already, and that is no error.

        :raises TransitionError: the store still holds the session, but CLEANED.
        """
        worker = await self._find(session_id)
        if worker is not None:
            await self._change(worker, partial(self._terminate, worker, reason, cause, actor))

    async def complete_cleanup(self, session_id: str, *, actor: str = "relay") -> CleanupReport:
        """Run the cleaners, move TERMINATING → CLEANED, and remove the session from the store.

        The cleaners run exactly once, whoever calls and however often; every caller gets the same report.
        A session that is unknown has been cleaned already: its report is empty.

        :raises TransitionError: the session is not TERMINATING; no cleaner has run.
        """
        worker = await self._find(session_id)
        if worker is None:
            return CleanupReport()
        return await self._change(worker, partial(self._clean, worker, actor))

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
        activity = Activity(self._clock.now(), worker.session.activity.message_count + by)
        worker.session = worker.session.with_activity(activity)
        self._touched[session_id] = activity

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
            return worker.session
        return await self._store.get(session_id)

    async def get_by_role(self, agent_id: str, *, owner: str = "local", project: str = "default") -> Session | None:
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
        return session if worker is None else session.with_activity(worker.session.activity)

    # ------------------------------------------------------------ inside the worker

    async def _create(self, worker: _Worker, actor: str) -> Session:
        session = worker.session
        try:
            await self._store.create(session)
        except Exception as error:
            worker.ended = True
            self._count("CREATE", "illegal" if isinstance(error, (DuplicateRole, DuplicateSession)) else "failed")
            raise
        worker.committed = True
        self._announce(
            worker, Transition(before=None, after=session, event=None, actor=actor, at=session.created_at)
        )
        return session

    async def _attach(self, worker: _Worker, worktree_dir: str, agent: Closable, actor: str) -> Session:
        try:
            if worker.handle is None:
                raise SessionError(
                    f"session {worker.session.id!r} has no connection here: this Manager did not create it"
                )
            session = await self._commit(worker, Event.ACTIVATE, actor, worktree_dir=worktree_dir)
        except BaseException:
            await _close_shielded(agent)
            raise
        worker.handle.agent = agent
        return session

    async def _record(self, worker: _Worker, plugin: str, facts: Json) -> Session:
        before = worker.session
        if before.state is SessionState.CLEANED:
            raise SessionNotFound(before.id)
        resources = MappingProxyType({**before.resources, plugin: facts})
        return await self._save(worker, replace(before, version=before.version + 1, resources=resources))

    async def _terminate(self, worker: _Worker, reason: str, cause: Cause, actor: str) -> Session:
        if worker.session.state is SessionState.TERMINATING or worker.ended:
            return worker.session  # the table's idempotent pair: no save, no news
        session = await self._commit(worker, Event.TERMINATE, actor, reason=reason, cause=cause)
        if worker.handle is not None:
            worker.handle.scope.cancel()
        return session

    async def _clean(self, worker: _Worker, actor: str) -> CleanupReport:
        if not worker.ended:
            if worker.session.state is not SessionState.CLEANED:  # else only the delete is missing
                if worker.report is None:
                    self._next(worker.session, Event.CLEAN)
                    worker.report = CleanupReport(results=await self._run_cleaners(worker))
                # What follows may raise StoreError and be tried again: the cleaners do not run twice.
                await self._commit(worker, Event.CLEAN, actor)
            await self._store.delete(worker.session.id)
            worker.ended = True
        return worker.report or CleanupReport(worker.session)

    async def _run_cleaners(self, worker: _Worker) -> tuple[CleanerResult, ...]:
        results: list[CleanerResult] = []
        agent_failed = False
        for cleaner in self._cleaners:
            if agent_failed and cleaner.phase is Phase.WORKSPACE:
                detail = "the agent could not be stopped, so its workspace stays"
                results.append(CleanerResult(cleaner.name, Outcome.SKIPPED, detail))
                continue
            result = await self._run_cleaner(cleaner, worker)
            results.append(result)
            if result.outcome is Outcome.FAILED:
                agent_failed = agent_failed or cleaner.phase is Phase.AGENT
                if self._hooks.listening:
                    self._tell(worker, partial(self._hooks.cleanup_failed, worker.session, result))
        return tuple(results)

    async def _run_cleaner(self, cleaner: Cleaner, worker: _Worker) -> CleanerResult:
        session = worker.session
        try:
            with anyio.fail_after(self._cleaner_timeout):
                return await cleaner.clean(session, worker.handle)
        except Exception as error:
            overran = isinstance(error, TimeoutError)
            detail = f"took longer than {self._cleaner_timeout:g} s" if overran else f"{type(error).__name__}: {error}"
            logger.exception("cleaner %s failed for session %s", cleaner.name, session.id)
            return CleanerResult(cleaner.name, Outcome.FAILED, detail)

    async def _commit(self, worker: _Worker, event: Event, actor: str, **changes: Any) -> Session:
        before = worker.session
        state = self._next(before, event)
        try:
            after = await self._save(worker, replace(before, state=state, version=before.version + 1, **changes))
        except Exception:
            self._count(event, "failed")
            raise
        if event is Event.CLEAN and worker.report is not None:
            worker.report = replace(worker.report, session=after)
        self._announce(
            worker,
            Transition(
                before=before,
                after=after,
                event=event,
                actor=actor,
                at=self._clock.now(),
                report=worker.report,
            ),
        )
        return after

    async def _save(self, worker: _Worker, after: Session) -> Session:
        try:
            await self._store.save(after, expected_version=worker.session.version)
        except StaleVersion:
            # Somebody else wrote: their version is the truth, and the next call begins from it.
            stored = await self._store.get(after.id)
            if stored is None:
                worker.ended = True
            else:
                worker.session = stored
            raise
        if worker.session.activity is not after.activity:  # messages were counted while the store wrote
            after = after.with_activity(worker.session.activity)
        worker.session = after
        return after

    def _next(self, session: Session, event: Event) -> SessionState:
        try:
            return next_state(session.state, event)
        except TransitionError:
            self._count(event, "illegal")
            raise TransitionError(session.state, event, session_id=session.id) from None

    def _count(self, event: str, outcome: str) -> None:
        self._meter.count(SESSION_TRANSITIONS, event=str(event), outcome=outcome)

    # ------------------------------------------------------------ workers and their callers

    async def _find(self, session_id: str) -> _Worker | None:
        """Return the session's worker, starting one for a session that only the store knows."""
        tasks = self._require_open()
        worker = self._live.get(session_id)
        if worker is not None:
            return worker
        session = await self._store.get(session_id)
        worker = self._live.get(session_id)  # another caller may have been faster
        if session is None or worker is not None:
            return worker
        if self._closing:
            raise ManagerClosed
        worker = _Worker(session, None)
        worker.committed = True
        self._live[session_id] = worker
        tasks.start_soon(self._work, worker)
        return worker

    async def _require(self, session_id: str, *, closing: bool = False) -> _Worker:
        if self._closing and not closing:
            raise ManagerClosed
        worker = await self._find(session_id)
        if worker is None:
            raise SessionNotFound(session_id)
        return worker

    def _require_open(self) -> TaskGroup:
        if self._tasks is None:
            raise ManagerClosed
        return self._tasks

    async def _change(self, worker: _Worker, change: Callable[[], Awaitable[T]]) -> T:
        return await self._outcome(self._submit(worker, change))

    def _submit(self, worker: _Worker, change: Callable[[], Awaitable[T]]) -> _Job[T]:
        """Have the worker make the change, whatever becomes of the caller."""
        if _working_for.get() == worker.session.id:
            raise ReentrantCall(worker.session.id)
        job = _Job(change)
        worker.submit(job)
        return job

    async def _outcome(self, job: _Job[T]) -> T:
        """Wait for the change, and then for its hooks (but not from inside a hook, which may be one of them)."""
        result = await job.wait()
        if job.news is not None and not inside_hook.get():
            await job.news.wait()
        return result

    async def _work(self, worker: _Worker) -> None:
        inside_hook.set(False)
        _working_for.set(worker.session.id)
        try:
            with anyio.CancelScope(shield=True):  # ended by its own inbox alone, never from outside
                while (job := await worker.next_job()) is not None:
                    worker.news = None
                    await job.run()
                    job.finish(worker.news)
                    if worker.ended:  # who still waits in the inbox learns how it ended
                        self._forget(worker)
        finally:
            self._forget(worker)
            worker.abandon()

    def _forget(self, worker: _Worker) -> None:
        session_id = worker.session.id
        if self._live.get(session_id) is worker:
            del self._live[session_id]
            self._touched.pop(session_id, None)
        worker.stop()

    # ------------------------------------------------------------ news

    def _announce(self, worker: _Worker, transition: Transition) -> None:
        self._count(transition.event or "CREATE", "done")
        after = transition.after
        logger.info(
            "session %s (%s): %s -> %s%s",
            after.id,
            after.agent_id,
            transition.before.state if transition.before else "nothing",
            after.state,
            f" ({after.reason})" if after.reason else "",
        )
        if self._hooks.listening:
            self._tell(worker, partial(self._hooks.transitioned, transition))

    def _tell(self, worker: _Worker, news: Callable[[], Awaitable[None]]) -> None:
        worker.news = anyio.Event()
        worker.untold.append((news, worker.news))
        if not worker.telling:
            worker.telling = True
            self._require_open().start_soon(self._tell_all, worker)

    async def _tell_all(self, worker: _Worker) -> None:
        inside_hook.set(True)
        _working_for.set(None)
        with anyio.CancelScope(shield=True):
            while worker.untold:
                news, told = worker.untold.popleft()
                try:
                    await news()
                except Exception:
                    logger.exception("hooks of session %s failed", worker.session.id)
                finally:
                    told.set()
            worker.telling = False

    async def _end_at_close(self, worker: _Worker, failures: MutableSequence[Exception]) -> None:
        session_id = worker.session.id
        try:
            await self._change(
                worker, partial(self._terminate, worker, "the relay is shutting down", Cause.SHUTDOWN, "relay")
            )
            await self._change(worker, partial(self._clean, worker, "relay"))
        except (SessionNotFound, ManagerClosed):
            return  # it ended by itself meanwhile, or never began
        except Exception as error:
            logger.exception("session %s could not be ended", session_id)
            failures.append(error)


async def _close_shielded(agent: Closable) -> None:
    with anyio.CancelScope(shield=True):
        await agent.aclose()


class _Job(Generic[T]):
    """One change that a worker is to make, and the place where its caller waits for it."""

    __slots__ = ("_change", "_done", "_error", "_result", "news")

    def __init__(self, change: Callable[[], Awaitable[T]]) -> None:
        self._change = change
        self._done = anyio.Event()
        self._error: Exception | None = None
        self._result: T
        self.news: anyio.Event | None = None

    async def run(self) -> None:
        try:
            self._result = await self._change()
        except Exception as error:  # noqa: BLE001 -- it is the caller's, and raised there
            self._error = error

    def finish(self, news: anyio.Event | None) -> None:
        self.news = news
        self._done.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._done.set()

    async def wait(self) -> T:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class _Worker:
    """One live session: its facts, its inbox, and the news that its hooks have yet to hear."""

    __slots__ = (
        "_inbox",
        "_stopped",
        "_wakeup",
        "committed",
        "ended",
        "handle",
        "news",
        "report",
        "session",
        "telling",
        "untold",
    )

    def __init__(self, session: Session, handle: Handle | None) -> None:
        self.session = session
        self.handle = handle
        self.committed = False  # the store holds it
        self.ended = False  # it left the store, or never came into it
        self.report: CleanupReport | None = None
        self.news: anyio.Event | None = None
        self.untold: deque[tuple[Callable[[], Awaitable[None]], anyio.Event]] = deque()
        self.telling = False
        self._inbox: deque[_Job[Any]] = deque()
        self._wakeup: anyio.Event | None = None
        self._stopped = False

    def submit(self, job: _Job[Any]) -> None:
        if self._stopped:
            raise ManagerClosed
        self._inbox.append(job)
        self._wake()

    def stop(self) -> None:
        """Let the task end once its inbox is empty."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()

    async def next_job(self) -> _Job[Any] | None:
        while not self._inbox:
            if self._stopped:
                return None
            self._wakeup = anyio.Event()
            await self._wakeup.wait()
            self._wakeup = None
        return self._inbox.popleft()

    def abandon(self) -> None:
        """Answer whoever still waits, when the task was ended by force."""
        for job in self._inbox:
            job.fail(ManagerClosed())
        self._inbox.clear()
