"""Follower: one client of the relay protocol that follows one session."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from relaykit.conversation import Batch, Cursor, Entry, Kind
from relaykit.relay import LiveSession
from relaykit.relay.access import Role
from relaykit.relay.notices import ENDED
from relaykit.session import Cause, Session
from relaykit_gateway.codes import Code
from relaykit_gateway.following import Following
from relaykit_gateway.judged import is_judged
from relaykit_gateway.queue import view_queue
from relaykit_gateway.render import Renderer
from relaykit_gateway.rendering import PerSession
from relaykit_gateway.wire import compose, compose_error, timestamp

if TYPE_CHECKING:
    from relaykit_gateway.connection import Connection

_SAID_BY_CLIENTS = frozenset({Kind.PROMPT, Kind.DECISION})


def compose_terminated(session_id: str, at: datetime) -> str:
    """Return the ``session:terminated`` of a session whose transcript does not tell how it ended."""
    reason = "it has ended; its transcript does not tell how"
    return compose(
        "session:terminated",
        sessionId=session_id,
        reason=reason,
        cause=Cause.INTERNAL,
        cleanup=[],
        timestamp=timestamp(at),
    )


class Follower(Following[Renderer]):
    """Sends a session's messages to a client of ``/ws``.

    :param session: as it is when the client begins to follow.
    :param announce: say that the client is attached, and when it has caught up.
    """

    protocol = "ws"

    def __init__(self, connection: Connection, session: Session, *, announce: bool) -> None:
        super().__init__(connection, session.id)
        self._session = session
        self._live: LiveSession | None = None
        self._began_behind = 0
        self._announce = announce
        self._observes = connection.access.role is Role.OBSERVER
        self._own: set[str] = set()
        self._told_end = False

    def keep_quiet_about(self, ref: str) -> None:
        """Do not send back, once, what this client is about to say under this ref."""
        self._own.add(ref)

    def speak_about(self, ref: str) -> None:
        """Take `keep_quiet_about` back: it was not said."""
        self._own.discard(ref)

    def _renderers(self) -> PerSession[Renderer]:
        return self._channel.gateway.renderers

    async def _begin(self, live: LiveSession, cursor: Cursor) -> None:
        self._live, self._began_behind = live, cursor.position
        if not self._announce:
            return
        session = self._session
        attached = compose(
            "session:attached",
            sessionId=session.id,
            agentId=session.agent_id,
            state=session.state,
            presence=self._channel.relay.presence(session.id),
            epoch=cursor.epoch,
            head=live.conversation.head,
            turnRunning=bool(live.conversation.running_turn),
            timestamp=timestamp(self._channel.relay.clock.now()),
        )
        await self._channel.send_text(attached)

    async def _send(self, batch: Batch, renderer: Renderer, cursor: Cursor) -> None:
        send = self._channel.send_texts
        if batch.gap:
            first, last = batch.gap
            await send([compose("session:gap", **{"sessionId": self.session_id, "from": first, "to": last})])
            self.told = last
        entries, at = batch.entries, 0
        rendered = partial(self._rendered, batch=batch, renderer=renderer)
        while (at := await self._send_together(entries, at, rendered)) < len(entries):
            await send(await renderer.render(entries[at]))
            at += 1
        if entries:
            last_entry = entries[-1]
            self.told = last_entry.seq
            ended = last_entry.frame.kind is Kind.NOTICE and last_entry.frame.method == ENDED
            self._told_end = ended and last_entry.seq > renderer.inherited
        if batch.caught_up:
            await self._ask_again(renderer)
        if batch.caught_up and self._announce:
            await send([compose("session:caught_up", sessionId=self.session_id, seq=cursor.position)])

    def _rendered(self, entry: Entry, *, batch: Batch, renderer: Renderer) -> Sequence[str] | None:
        """Return what the client is told of an entry, without waiting; None if it takes some reading."""
        kind = entry.frame.kind
        if kind in _SAID_BY_CLIENTS and self._is_own(entry):
            return ()
        if kind is Kind.REQUEST:
            if is_judged(entry, batch.entries):
                return ()  # it was answered before any person saw it
            if self._observes:
                return (renderer.unanswerable(entry),)
        return renderer.render_now(entry)

    async def _ask_again(self, renderer: Renderer) -> None:
        """Put the questions of the time before that are still open: this may be another who comes back."""
        for question in self._live.questions if self._live is not None else ():
            if 0 < question.seq <= self._began_behind:
                entry = Entry(question.seq, self._session.created_at, question.request)
                messages = (renderer.unanswerable(entry),) if self._observes else await renderer.render(entry)
                for message in messages:
                    await self._channel.send_event({"type": "websocket.send", "text": message})

    async def _send_queue(self, live: LiveSession) -> None:
        queue = compose("agent:queue", sessionId=self.session_id, **view_queue(live, self._channel.id))
        await self._channel.send_event({"type": "websocket.send", "text": queue})

    def _is_own(self, entry: Entry) -> bool:
        ref = entry.frame.ref
        if ref not in self._own:
            return False
        self._own.remove(ref)  # if the client reads this part of the past again, it hears it
        return True

    async def _end(self) -> None:
        leaves = (
            self._live is not None and self._live.leaving
        )  # then it has not ended, but goes on with the next relay
        if not self._told_end and not leaves:
            now = self._channel.relay.clock.now()
            await self._channel.send_text(compose_terminated(self.session_id, now))

    async def _break_off(self, position: int) -> None:
        message = f"the transcript could not be read on: attach again, after {position}"
        await self._channel.send_text(compose_error(Code.INTERNAL, message, sessionId=self.session_id))
