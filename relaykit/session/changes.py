"""Changes: what a session's worker does. The store first, then memory, then the news."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from relaykit.clock import Clock
from relaykit.errors import (
    DuplicateRole,
    DuplicateSession,
    SessionError,
    SessionNotActive,
    SessionNotFound,
    StaleVersion,
    StoreError,
    TransitionError,
)
from relaykit.meter import (
    SESSION_DURATION,
    SESSION_MESSAGES,
    SESSION_TERMINATIONS,
    SESSION_TRANSITIONS,
    Meter,
)
from relaykit.session.cleaner import CleanerResult, CleanupReport, Outcome, Phase
from relaykit.session.cleanup import Cleanup, close_at_last
from relaykit.session.hooks import SessionHooks
from relaykit.session.logs import log_state
from relaykit.session.model import Cause, Closable, Json, Session, SessionState
from relaykit.session.state_machine import Event, Transition, next_state
from relaykit.session.store import Store
from relaykit.session.worker import Worker

logger = logging.getLogger(__name__)


BeforeDelete = Callable[[CleanupReport], Awaitable[None]]
"""What is still to be done about a session that is CLEANED, while the store holds it."""


class Changes:
    """Makes one change of one session. Each method runs in that session's worker, never concurrently."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        cleanup: Cleanup,
        hooks: SessionHooks,
        meter: Meter,
        before_delete: BeforeDelete,
    ) -> None:
        self._store = store
        self._clock = clock
        self._cleanup = cleanup
        self._hooks = hooks
        self._meter = meter
        self._before_delete = before_delete

    async def create(self, worker: Worker, actor: str) -> Session:
        """Bring the worker's new session into the store; if it is refused, the worker has ended."""
        session = worker.session
        try:
            await self._store.create(session)
        except Exception as error:
            if not (isinstance(error, StoreError) and await self._was_saved(session)):
                worker.ended = True
                refused = isinstance(error, DuplicateRole | DuplicateSession)
                self._count("CREATE", "illegal" if refused else "failed")
                raise
            logger.warning("session %s was created, though its store said: %s", session.id, error)
        worker.committed = True
        self._announce(worker, None, session, None, actor)
        return session

    async def attach(self, worker: Worker, worktree_dir: str, agent: Closable, actor: str) -> Session:
        """Make the session ACTIVE with this agent; whatever fails, the agent is closed."""
        try:
            if worker.handle is None:
                raise SessionError(
                    f"session {worker.session.id!r} has no connection here: this Manager did not create it"
                )
            session = await self.transition(worker, Event.ACTIVATE, actor, worktree_dir=worktree_dir)
        except BaseException:
            await self.close(agent)
            raise
        worker.handle.agent = agent
        return session

    async def detach(self, worker: Worker) -> Sequence[CleanerResult]:
        """Stop the agent of an ACTIVE session, or what is left of it, and go on without."""
        _require_active(worker)
        failed = partial(self._cleanup_failed, worker)
        results = await self._cleanup.run(worker.session, worker.handle, failed=failed, phases=(Phase.AGENT,))
        handle = worker.handle
        if handle is not None and handle.agent is not None:
            if any(result.outcome is Outcome.FAILED for result in results):
                return results
            await self.close(handle.agent)  # idempotent: a cleaner may have done so
            handle.agent = None
        return results

    async def reattach(self, worker: Worker, agent: Closable) -> Session:
        """Give an ACTIVE session that has none an agent; whatever fails, the agent is closed."""
        try:
            _require_active(worker)
            if worker.handle is None or worker.handle.agent is not None:
                why = "has an agent" if worker.handle else "has no connection here"
                raise SessionError(f"session {worker.session.id!r} {why}")
        except BaseException:
            await self.close(agent)
            raise
        worker.handle.agent = agent
        return worker.latest()

    async def release(self, worker: Worker) -> None:
        """Let go of an ACTIVE session without an agent, with its activity written."""
        if worker.ended:
            return
        _require_active(worker)
        if worker.handle is not None and worker.handle.agent is not None:
            raise SessionError(f"session {worker.session.id!r} still has an agent: detach it first")
        try:
            await self._store.touch({worker.session.id: worker.activity})
        finally:  # a store that fails does not keep us from letting go
            worker.ended = True

    async def record(self, worker: Worker, plugin: str, facts: Json) -> Session:
        """Save what identifies a plugin's resource, as a version without a transition."""
        before = worker.latest()
        if before.state is SessionState.CLEANED:
            raise SessionNotFound(before.id)
        resources = MappingProxyType({**before.resources, plugin: facts})
        return await self._save(worker, before.evolve(version=before.version + 1, resources=resources))

    async def terminate(self, worker: Worker, reason: str, cause: Cause, actor: str) -> None:
        """Mark the session TERMINATING, if it is not yet, and cancel its scope."""
        if worker.session.state is SessionState.TERMINATING or worker.ended:
            return  # the table's idempotent pair: no save, no news
        await self.transition(worker, Event.TERMINATE, actor, reason=reason, cause=cause)
        if worker.handle is not None:
            worker.handle.scope.cancel()

    async def end(self, worker: Worker, reason: str, cause: Cause, actor: str) -> CleanupReport:
        """Terminate and clean in one go, from whatever state."""
        if worker.session.state is not SessionState.CLEANED:
            await self.terminate(worker, reason, cause, actor)
        return await self.clean(worker, actor)

    async def clean(self, worker: Worker, actor: str) -> CleanupReport:
        """Run the cleaners once, mark the session CLEANED, and take it out of the store."""
        if not worker.ended:
            if worker.session.state is not SessionState.CLEANED:  # else only the delete is missing
                if worker.report is None:
                    self._next(worker.session, Event.CLEAN)
                    failed = partial(self._cleanup_failed, worker)
                    results = await self._cleanup.run(worker.session, worker.handle, failed=failed)
                    worker.report = CleanupReport(results=results)
                # What follows may raise StoreError and be tried again: the cleaners do not run twice.
                await self.transition(worker, Event.CLEAN, actor, ended_at=self._clock.now())
            await self._before_delete(worker.report or CleanupReport(worker.session))
            await self._store.delete(worker.session.id)
            worker.ended = True
        return worker.report or CleanupReport(worker.session)

    async def transition(self, worker: Worker, event: Event, actor: str, **changes: Any) -> Session:
        """Move the session by one event, with these fields changed."""
        before = worker.latest()
        state = self._next(before, event)
        after = before.evolve(state=state, version=before.version + 1, **changes)
        try:
            after = await self._save(worker, after)
        except Exception:
            self._count(event, "failed")
            raise
        if worker.report is not None:
            worker.report = replace(worker.report, session=after)
        self._announce(worker, before, after, event, actor)
        return after

    async def close(self, closable: Closable) -> None:
        """Close what nobody else will close, within a cleaner's time, whatever cancels the caller."""
        await close_at_last(closable, within=self._cleanup.timeout)

    async def _save(self, worker: Worker, after: Session) -> Session:
        try:
            await self._store.save(after, expected_version=worker.session.version)
        except StaleVersion:
            # Somebody else wrote: theirs is the truth, and the next call begins from it.
            await self._accept(worker, await self._store.get(after.id))
            raise
        except StoreError as error:
            if not await self._was_saved(after):
                raise
            logger.warning("session %s was saved, though its store said: %s", after.id, error)
        worker.session = after
        return worker.latest()  # messages may have been counted while the store wrote

    async def _was_saved(self, session: Session) -> bool:
        """Tell whether a save happened whose answer was lost; if the store cannot tell, it did not."""
        try:
            stored = await self._store.get(session.id)
        except StoreError:
            return False
        return stored is not None and stored.with_activity(session.activity) == session

    async def _accept(self, worker: Worker, stored: Session | None) -> None:
        """Take over what somebody else made of the session; None: they deleted it."""
        if stored is not None:
            worker.session = stored.with_activity(worker.activity)
        worker.ended = stored is None
        handle = worker.handle
        if handle is None:
            return
        gone = stored is None or stored.state is SessionState.CLEANED
        if gone or worker.session.state is SessionState.TERMINATING:
            handle.scope.cancel()
        if gone:  # no cleaner of ours will run
            for closable in (handle.agent, handle.connection):
                if closable is not None:
                    await self.close(closable)

    def _next(self, session: Session, event: Event) -> SessionState:
        try:
            return next_state(session.state, event)
        except TransitionError:
            self._count(event, "illegal")
            raise TransitionError(session.state, event, session_id=session.id) from None

    def _announce(
        self, worker: Worker, before: Session | None, after: Session, event: Event | None, actor: str
    ) -> None:
        self._count(event or "CREATE", "done")
        self._measure(after, event)
        now = self._clock.now()
        log_state(after, before=before.state if before else None, at=now)
        if self._hooks.listening:
            transition = Transition(
                before=before, after=after, event=event, actor=actor, at=now, report=worker.report
            )
            worker.tell(partial(self._hooks.transitioned, transition))

    def _cleanup_failed(self, worker: Worker, result: CleanerResult) -> None:
        if self._hooks.listening:
            worker.tell(partial(self._hooks.cleanup_failed, worker.session, result))

    def _measure(self, after: Session, event: Event | None) -> None:
        if event is Event.TERMINATE and after.cause is not None:
            self._meter.count(SESSION_TERMINATIONS, cause=after.cause)
        elif event is Event.CLEAN and after.ended_at is not None:
            seconds = (after.ended_at - after.created_at).total_seconds()
            self._meter.observe(SESSION_DURATION, max(0.0, seconds))  # the time of day may have been set back
            self._meter.observe(SESSION_MESSAGES, after.activity.message_count)

    def _count(self, event: str, outcome: str) -> None:
        self._meter.count(SESSION_TRANSITIONS, event=event, outcome=outcome)


def _require_active(worker: Worker) -> None:
    if worker.ended:
        raise SessionNotFound(worker.session.id)
    if worker.session.state is not SessionState.ACTIVE:
        raise SessionNotActive(worker.session.id, worker.session.state)


async def delete_at_once(_report: CleanupReport) -> None:
    """There is nothing else to be done."""
