"""Expiry: sessions that nobody uses sleep, and old transcripts are forgotten."""

from __future__ import annotations

import logging

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
        if self._settings.idle_timeout:
            due = [live for live in self._sessions if self._is_idle(live)]
            async with anyio.create_task_group() as tasks:
                for live in due:
                    tasks.start_soon(self._act_on_idle, live)

    def _is_idle(self, live: LiveSession) -> bool:
        if live.clients or live.busy or not live.ready:
            return False
        return self._clock.monotonic() - live.last_used >= self._settings.idle_timeout

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
        except RelaykitError as error:
            logger.warning("session %s is idle, and stays awake: %s", live.id, error)

    async def _forget_transcripts(self) -> None:
        try:
            count = await self._transcripts.forget_old(days=self._settings.retention_days)
        except RelaykitError as error:
            logger.warning("old transcripts could not be forgotten: %s", error)
        else:
            if count:
                logger.info("forgot %d transcripts, older than %g days", count, self._settings.retention_days)
