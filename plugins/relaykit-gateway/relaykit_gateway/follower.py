"""Follower: one client that follows one session."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from relaykit.conversation import Batch, Cursor, Entry, Kind
from relaykit.errors import JournalError
from relaykit.relay import LiveSession
from relaykit.relay.run_session import ENDED
from relaykit.session import Cause, Session
from relaykit_gateway.codes import Code
from relaykit_gateway.wire import ClientGone, compose, compose_error, timestamp

if TYPE_CHECKING:
    from relaykit_gateway.connection import Connection
    from relaykit_gateway.render import Renderer

logger = logging.getLogger(__name__)

_SAID_BY_CLIENTS = frozenset({Kind.PROMPT, Kind.DECISION})
_BATCH = 256


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


class Follower:
    """Sends a session's messages to a client: reads the cursor, sends, and only then reads on.

    Nothing is queued for the client. One that does not read is behind, and costs nothing else.

    :param session: as it is when the client begins to follow.
    """

    def __init__(self, connection: Connection, session: Session) -> None:
        self.session_id = session.id
        self.ended = anyio.Event()
        self._session = session
        self._connection = connection
        self._scope = anyio.CancelScope()
        self._own: set[str] = set()
        self._told_end = False

    def keep_quiet_about(self, ref: str) -> None:
        """Do not send back, once, what this client is about to say under this ref."""
        self._own.add(ref)

    def speak_about(self, ref: str) -> None:
        """Take `keep_quiet_about` back: it was not said."""
        self._own.discard(ref)

    async def stop(self) -> None:
        """Follow no more, and return once nothing more will be sent."""
        self._scope.cancel()
        await self.ended.wait()

    async def run(
        self,
        after: int,
        epoch: str | None,
        announce: bool,  # noqa: FBT001 -- TaskGroup.start passes by position
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Follow the session behind the entry `after` to its end, or until `stop`.

        :param announce: say that the client is attached, and when it has caught up.
        :raises SessionNotFound: there is no such session. Nothing was sent.
        :raises CursorAhead: there is no entry `after` yet. Nothing was sent.
        """
        connection = self._connection
        try:
            with self._scope:
                live = connection.relay.live(self.session_id)
                attachment = connection.relay.attach(
                    self.session_id,
                    client_id=connection.id,
                    protocol="ws",
                    owner=connection.owner,
                    after=after,
                    epoch=epoch,
                )
                async with attachment as cursor:
                    with connection.gateway.renderer(live) as renderer:
                        if announce:
                            await self._announce(live, cursor)
                        task_status.started()
                        await self._follow_safely(live, cursor, renderer, announce=announce)
        finally:
            connection.forget(self)
            self.ended.set()

    async def _announce(self, live: LiveSession, cursor: Cursor) -> None:
        session = self._session
        attached = compose(
            "session:attached",
            sessionId=session.id,
            agentId=session.agent_id,
            state=session.state,
            epoch=cursor.epoch,
            head=live.conversation.head,
            turnRunning=bool(live.conversation.running_turn),
            timestamp=timestamp(self._connection.relay.clock.now()),
        )
        await self._connection.send_text(attached)

    async def _follow_safely(
        self, live: LiveSession, cursor: Cursor, renderer: Renderer, *, announce: bool
    ) -> None:
        """Follow; what goes wrong here ends this following, and not the client's other ones."""
        connection = self._connection
        try:
            try:
                await self._follow(live, cursor, renderer, announce=announce)
            except ClientGone:
                raise
            except Exception as error:
                if isinstance(error, JournalError):
                    logger.warning("the transcript of session %s cannot be read: %s", self.session_id, error)
                else:
                    logger.exception("following session %s broke", self.session_id)
                message = f"the transcript could not be read on: attach again, after {cursor.position}"
                await connection.send_text(compose_error(Code.INTERNAL, message, sessionId=self.session_id))
        except ClientGone:
            connection.hang_up()

    async def _follow(self, live: LiveSession, cursor: Cursor, renderer: Renderer, *, announce: bool) -> None:
        while True:
            try:
                batch = await cursor.next(_BATCH)
            except anyio.EndOfStream:
                break
            async with self._connection.sending:
                await self._send(batch, renderer, cursor, announce=announce)
            if cursor.position < live.conversation.head:
                await checkpoint()  # neither reading nor sending has waited: the others have their turn
        if not self._told_end:
            await self._connection.send_text(
                compose_terminated(self.session_id, self._connection.relay.clock.now())
            )

    async def _send(self, batch: Batch, renderer: Renderer, cursor: Cursor, *, announce: bool) -> None:
        send = self._connection.send_event
        if batch.gap:
            first, last = batch.gap
            gap = compose("session:gap", **{"sessionId": self.session_id, "from": first, "to": last})
            await send({"type": "websocket.send", "text": gap})
        for entry in batch.entries:
            if entry.frame.kind in _SAID_BY_CLIENTS and self._is_own(entry):
                continue
            messages = renderer.render_now(entry)
            if messages is None:
                messages = await renderer.render(entry)
            for message in messages:
                await send({"type": "websocket.send", "text": message})
        if batch.entries:
            last_frame = batch.entries[-1].frame
            self._told_end = last_frame.kind is Kind.NOTICE and last_frame.method == ENDED
        if batch.caught_up and announce:
            caught_up = compose("session:caught_up", sessionId=self.session_id, seq=cursor.position)
            await send({"type": "websocket.send", "text": caught_up})

    def _is_own(self, entry: Entry) -> bool:
        ref = entry.frame.ref
        if ref not in self._own:
            return False
        self._own.remove(ref)  # if the client reads this part of the past again, it hears it
        return True
