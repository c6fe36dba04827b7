"""Attachments: who follows which session, while it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import NamedTuple

from relaykit.clock import Clock
from relaykit.conversation.cursor import Cursor
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import ClientAttached, ClientDetached
from relaykit.meter import CLIENT_ATTACHES, ENTRIES_REPLAYED, GAPS, Meter
from relaykit.relay.access import Role
from relaykit.relay.live_session import LiveSession
from relaykit.relay.live_sessions import LiveSessions


class FollowedBy(NamedTuple):
    """A client that follows a session."""

    client_id: str
    protocol: str
    owner: str
    role: Role
    by: str


class Attachments:
    """Lets clients follow sessions, counts them, and tells plugins."""

    def __init__(self, sessions: LiveSessions, dispatcher: Dispatcher, *, meter: Meter, clock: Clock) -> None:
        self._sessions = sessions
        self._dispatcher = dispatcher
        self._meter = meter
        self._clock = clock
        self._observers: Counter[str] = Counter()

    def observers(self, session_id: str) -> int:
        """Return how many of a session's clients only watch."""
        return self._observers[session_id]  # a Counter does not keep what it is asked for

    @asynccontextmanager
    async def attach(
        self, session_id: str, client: FollowedBy, *, after: int, epoch: str | None
    ) -> AsyncIterator[Cursor]:
        """Follow a session for as long as the block lasts; see `Relay.attach`."""
        live = self._sessions.require(session_id)
        on_past = partial(self._count_past, client.protocol)
        cursor = live.conversation.attach(after=after, epoch=epoch, on_past=on_past)
        self._meter.count(CLIENT_ATTACHES, protocol=client.protocol, role=client.role)
        live.clients += 1
        if client.role is Role.OBSERVER:
            self._observers[session_id] += 1
        live.rest.want()
        try:
            if self._dispatcher.listens_to("relaykit_on_client_attached"):
                live.news.tell(partial(self._tell_attached, live, client, after, self._clock.now()))
            yield cursor
        finally:
            live.clients -= 1
            live.last_used = live.left = self._clock.monotonic()
            if client.role is Role.OBSERVER:
                self._observers[session_id] -= 1
                if not self._observers[session_id]:
                    del self._observers[session_id]
            if self._dispatcher.listens_to("relaykit_on_client_detached"):
                live.news.tell(partial(self._tell_detached, live, client, self._clock.now()))

    # The session is looked up when it is told of: a client that comes or goes waits for nothing.

    async def _tell_attached(self, live: LiveSession, client: FollowedBy, after: int, at: datetime) -> None:
        attached = ClientAttached(
            session=await live.admission.latest(),
            session_id=live.id,
            client_id=client.client_id,
            protocol=client.protocol,
            owner=client.owner,
            role=client.role,
            by=client.by,
            after=after,
            at=at,
        )
        await self._dispatcher.client_attached(attached)

    async def _tell_detached(self, live: LiveSession, client: FollowedBy, at: datetime) -> None:
        detached = ClientDetached(
            session=await live.admission.latest(),
            session_id=live.id,
            client_id=client.client_id,
            protocol=client.protocol,
            role=client.role,
            by=client.by,
            at=at,
        )
        await self._dispatcher.client_detached(detached)

    def _count_past(self, protocol: str, entries: int, gap: bool) -> None:  # noqa: FBT001 -- as `OnPast` has it
        if entries:
            self._meter.count(ENTRIES_REPLAYED, entries, protocol=protocol)
        if gap:
            self._meter.count(GAPS, protocol=protocol)
