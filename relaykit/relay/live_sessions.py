"""LiveSessions: the sessions that run here, from their creation or their recovery to their end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup

from relaykit.agent.launcher import AgentLauncher, AgentSpec
from relaykit.clock import Clock
from relaykit.conversation.conversation import Conversation
from relaykit.errors import DuplicateRole, JournalError, SessionLimit, SessionNotFound
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import EntriesRecorded
from relaykit.meter import Meter
from relaykit.relay.live_session import LiveSession
from relaykit.relay.quota import Quota
from relaykit.relay.rest import AgentNotStopped
from relaykit.relay.run_session import Parts, run_session
from relaykit.relay.transcripts import Transcripts
from relaykit.session.model import Cause, Session, SessionState
from relaykit.session.news import News
from relaykit.session.worker import Job
from relaykit.settings import Settings

logger = logging.getLogger(__name__)

_JOURNAL_RETRY = 1.0
"""Seconds until a journal that cannot be read is asked again."""


Create = Callable[[Conversation], Awaitable[Session]]


class RoleKey(NamedTuple):
    """What one session plays at a time."""

    owner: str
    project: str
    agent_id: str


class LiveSessions:
    """Runs each session in a task of its own. For one relay, on its loop.

    :param agents: every agent that is configured or known, by name.
    :param tasks: outlives every session.
    :param durable: the storage waits for something else, and keeps what it is given: then what is recorded for a
        client is done in a task of the relay's, which no client's end cuts off.
    """

    def __init__(
        self,
        *,
        agents: Mapping[str, AgentSpec],
        parts: Parts,
        transcripts: Transcripts,
        dispatcher: Dispatcher,
        meter: Meter,
        clock: Clock,
        tasks: TaskGroup,
        durable: bool,
        settings: Settings,
    ) -> None:
        self.durable = durable
        self._agents = agents
        self._parts = parts
        self._manager = parts.manager
        self._transcripts = transcripts
        self._dispatcher = dispatcher
        self._meter = meter
        self._clock = clock
        self._tasks = tasks
        self._settings = settings
        self._live: dict[str, LiveSession] = {}
        self._quota = Quota(
            most=settings.relay.max_sessions, most_per_owner=settings.relay.max_sessions_per_owner
        )

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(list(self._live.values()))

    def get(self, session_id: str) -> LiveSession | None:
        """Return the live half of a session that runs here, or None."""
        return self._live.get(session_id)

    def require(self, session_id: str) -> LiveSession:
        """Return the live half of a session that runs here.

        :raises SessionNotFound: there is none.
        """
        live = self._live.get(session_id)
        if live is None:
            raise SessionNotFound(session_id)
        return live

    def launcher(self, spec: AgentSpec) -> AgentLauncher:
        """Return what starts this agent."""
        return self._parts.launchers[spec.launcher]

    async def start(self, spec: AgentSpec, create: Create, *, role: RoleKey) -> Session:
        """Create a session and run it. It happens whatever becomes of the caller.

        :param create: creates it with the Manager, with this connection.
        :raises SessionLimit: there are as many as settings allow.
        """
        job = Job(partial(self._start_counted, spec, create, role))
        self._tasks.start_soon(job.run_alone)
        return await job.outcome()

    async def _start_counted(self, spec: AgentSpec, create: Create, role: RoleKey) -> Session:
        try:
            with self._quota.taken(role.owner):
                return await self._start(spec, create)
        except SessionLimit:
            # Who only wants the session that there is learns which it is.
            player = await self._manager.get_by_role(role.agent_id, owner=role.owner, project=role.project)
            if player is None:
                raise
            raise DuplicateRole(
                role.agent_id, owner=role.owner, project=role.project, session_id=player.id
            ) from None

    async def _start(self, spec: AgentSpec, create: Create) -> Session:
        conversation = self._transcripts.conversation()
        session = await create(conversation)
        if self._manager.handle(session.id) is None:  # a hook ended it as soon as it was created
            await conversation.aclose()
            return session
        try:
            await self._transcripts.open(conversation, session)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._manager.mark_terminating(session.id, str(error), cause=Cause.INTERNAL)
                await self._manager.complete_cleanup(session.id)
            raise
        self._run(session, self._make(session, spec, conversation), from_entry=0)
        return session

    async def take_over(self, session: Session, *, doomed: str = "") -> None:
        """Run a session that an earlier relay has left in the store.

        :param doomed: why it is to be ended at once; empty if it sleeps from now on.
        :raises RelaykitError: it cannot be, and is left as it is.
        """
        spec = self._agents.get(session.agent)
        if spec is None:
            spec = _stand_in(session, self._agents)
            doomed = f"its agent {session.agent!r} is not configured any more"
        conversation = self._transcripts.conversation()
        await self._transcripts.open(conversation, session)
        head = conversation.head
        live = self._make(session, spec, conversation)
        live.doomed = doomed
        await live.recall()
        session = await self._manager.adopt(session.id, conversation)
        self._run(session, live, from_entry=head)

    def can_sleep(self, session: Session) -> bool:
        """Tell whether the session can go on after its agent was stopped."""
        spec = self._agents.get(session.agent)
        return (
            session.state is SessionState.ACTIVE
            and spec is not None
            and self.launcher(spec).can_resume(session)
        )

    async def shut_down(self, live: LiveSession, *, sleep: bool) -> None:
        """Put a session to sleep for the next relay, if it can, or end it; return when that is done."""
        reason = "the relay is shutting down"
        try:
            session = await self._manager.get(live.id)
            if sleep and session is not None and self.can_sleep(session):
                await live.fall_asleep(reason)
                live.leaving = True
                self._end_now(live)
            else:
                await self._manager.mark_terminating(live.id, reason, cause=Cause.SHUTDOWN)
        except AgentNotStopped as error:
            await self._manager.mark_terminating(live.id, str(error), cause=Cause.SHUTDOWN)
        except Exception:
            logger.exception("session %s could not be marked, it is ended all the same", live.id)
            self._end_now(live)
        await live.ended.wait()

    def _end_now(self, live: LiveSession) -> None:
        """End what goes on in the session's task, wherever it is."""
        handle = self._manager.handle(live.id)
        if handle is not None:
            handle.scope.cancel()

    # ------------------------------------------------------------ one session

    def _make(self, session: Session, spec: AgentSpec, conversation: Conversation) -> LiveSession:
        return LiveSession(
            session,
            spec,
            conversation,
            launcher=self.launcher(spec),
            manager=self._manager,
            dispatcher=self._dispatcher,
            meter=self._meter,
            clock=self._clock,
            news=News(self._tasks),
            in_own_task=self._in_own_task if self.durable else None,
            settings=self._settings,
        )

    async def _in_own_task(self, do: Callable[[], Awaitable[None]]) -> None:
        job = Job(do)
        self._tasks.start_soon(job.run_alone)
        await job.outcome()

    def _run(self, session: Session, live: LiveSession, *, from_entry: int) -> None:
        self._live[session.id] = live
        self._quota.take(session.owner)
        self._tasks.start_soon(self._run_to_its_end, session, live, from_entry)

    async def _run_to_its_end(self, session: Session, live: LiveSession, from_entry: int) -> None:
        handle = self._manager.handle(session.id)
        try:
            async with anyio.create_task_group() as tasks:
                if self._dispatcher.listens_to("relaykit_on_entries"):
                    tasks.start_soon(self._feed, session, live, from_entry)
                try:
                    if handle is not None:
                        await run_session(session, handle, live, self._parts)
                    else:  # a hook ended it as soon as it was created
                        await live.conversation.aclose()
                finally:
                    live.ended.set()  # who waits for the end does not wait for a slow plugin to read it
        finally:
            self._transcripts.left(session)
            del self._live[session.id]
            self._quota.give_back(session.owner)

    async def _feed(self, session: Session, live: LiveSession, from_entry: int) -> None:
        """Give plugins what was said, through a cursor like any client's, until the conversation is over."""
        cursor = live.conversation.attach(after=from_entry)
        with anyio.CancelScope(shield=True):
            while True:
                try:
                    batch = await cursor.next()
                except anyio.EndOfStream:
                    return
                except JournalError as error:
                    if live.ended.is_set():
                        return
                    logger.warning("session %s: plugins cannot hear what is said: %s", live.id, error)
                    await anyio.sleep(_JOURNAL_RETRY)
                    continue
                if batch.entries:
                    entries = tuple(batch.entries)  # several plugins get the same
                    recorded = EntriesRecorded(session=session, epoch=cursor.epoch, entries=entries)
                    await self._dispatcher.entries(recorded)


def _stand_in(session: Session, agents: Mapping[str, AgentSpec]) -> AgentSpec:
    """Return what stands for an agent that is not configured any more: it is never started."""
    return AgentSpec(name=session.agent, command=("false",), launcher=next(iter(agents.values())).launcher)
