"""Expiry: what has lasted long enough: idle sessions sleep, abandoned and old ones end, questions are answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from weakref import WeakSet

import anyio

from relaykit.clock import Clock
from relaykit.errors import RelaykitError
from relaykit.relay.live_session import LiveSession
from relaykit.relay.live_sessions import LiveSessions
from relaykit.relay.rest import AgentNotStopped
from relaykit.relay.transcripts import Transcripts
from relaykit.session.manager import Manager
from relaykit.session.model import Cause, SessionState
from relaykit.settings import RelaySettings

logger = logging.getLogger(__name__)

Act = Callable[[LiveSession], Awaitable[None]]

_LOOK = 1.0
_RETENTION_LOOK = 3600.0


class Expiry:
    """Looks now and then at what has lasted long enough, by the clock that it is given."""

    def __init__(
        self,
        manager: Manager,
        sessions: LiveSessions,
        transcripts: Transcripts,
        *,
        settings: RelaySettings,
        clock: Clock,
    ) -> None:
        self._manager = manager
        self._sessions = sessions
        self._transcripts = transcripts
        self._settings = settings
        self._clock = clock
        self._forgot = float("-inf")
        self._sleepers: WeakSet[LiveSession] = WeakSet()  # sessions whose agents can go on later

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await anyio.sleep(_LOOK)

    async def look(self) -> None:
        """Act on what is due now. What fails is logged, and is due again at the next look."""
        now = self._clock.monotonic()
        if now - self._forgot >= _RETENTION_LOOK:
            self._forgot = now
            await self._forget_transcripts()
        due = [(live, act) for live in self._sessions for act in self._due(live)]
        if due:
            async with anyio.create_task_group() as tasks:
                for live, act in due:
                    tasks.start_soon(self._do, live, act)

    async def _do(self, live: LiveSession, act: Act) -> None:
        try:
            await act(live)
        except RelaykitError as error:
            logger.warning("session %s: what was due could not be done: %s", live.id, error)

    def _due(self, live: LiveSession) -> Iterator[Act]:
        """Yield what is to be done with a session, at first sight: whoever does it looks again."""
        settings = self._settings
        if settings.permission_timeout and live.asking.has_waited(settings.permission_timeout):
            yield self._decline_expired
        if self._has_lived(live):
            yield self._end_old
        elif self._is_abandoned(live):
            yield self._end_abandoned
        elif self._is_idle(live):
            yield self._act_on_idle

    async def _decline_expired(self, live: LiveSession) -> None:
        await live.asking.decline_expired(self._settings.permission_timeout)

    # ------------------------------------------------------------ limits

    def _has_lived(self, live: LiveSession) -> bool:
        most = self._settings.max_duration
        return bool(most) and (self._clock.now() - live.since).total_seconds() >= most

    async def _end_old(self, live: LiveSession) -> None:
        live.queue.is_closed = True  # what runs goes on to its end, and nothing begins behind it
        if not live.occupied:
            reason = f"it has lived for {self._settings.max_duration:g} s, as long as it may"
            await self._end(live, reason, Cause.LIMIT, still=lambda: not live.occupied)

    def _is_abandoned(self, live: LiveSession) -> bool:
        grace = self._settings.grace_period
        if not grace or live.clients or live.busy or not live.ready or live in self._sleepers:
            return False
        return self._clock.monotonic() - live.left >= grace

    async def _end_abandoned(self, live: LiveSession) -> None:
        session = await self._manager.get(live.id)
        if session is not None and self._sessions.can_sleep(session):
            self._sleepers.add(live)  # it will be idle in its time
            return
        reason = (
            f"it had no client for {self._settings.grace_period:g} s, and its agent could not go on later"
        )
        await self._end(live, reason, Cause.GRACE, still=lambda: self._is_abandoned(live))

    async def _end(self, live: LiveSession, reason: str, cause: Cause, *, still: Callable[[], bool]) -> None:
        """End a session, if it is not ending yet and there is still reason to."""
        session = await self._manager.get(live.id)
        ends = session is None or session.state in {SessionState.TERMINATING, SessionState.CLEANED}
        if not ends and still():  # somebody may have come while we asked
            await self._manager.mark_terminating(live.id, reason, cause=cause)

    # ------------------------------------------------------------ idle

    def _is_idle(self, live: LiveSession) -> bool:
        timeout = self._settings.idle_timeout
        if not timeout or live.clients or live.busy or not live.ready:
            return False
        return self._clock.monotonic() - live.last_used >= timeout

    async def _act_on_idle(self, live: LiveSession) -> None:
        session = await self._manager.get(live.id)
        if session is None or session.state is not SessionState.ACTIVE or not self._is_idle(live):
            return  # somebody came while we asked
        reason = f"nobody used it for {self._settings.idle_timeout:g} s"
        try:
            if self._sessions.can_sleep(session):
                await live.fall_asleep(reason)
            elif self._settings.end_idle:
                await self._manager.mark_terminating(live.id, reason, cause=Cause.IDLE)
        except AgentNotStopped as error:
            await self._manager.mark_terminating(live.id, str(error), cause=Cause.IDLE)

    # ------------------------------------------------------------ transcripts

    async def _forget_transcripts(self) -> None:
        try:
            count = await self._transcripts.forget_old(days=self._settings.retention_days)
        except RelaykitError as error:
            logger.warning("old transcripts could not be forgotten: %s", error)
        else:
            if count:
                logger.info("forgot %d transcripts, older than %g days", count, self._settings.retention_days)
