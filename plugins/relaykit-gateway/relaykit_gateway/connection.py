"""Connection: one client of the relay protocol, from its upgrade to its close."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup
from starlette.types import Message, Receive, Send

from relaykit.errors import RelaykitError
from relaykit.relay import Relay
from relaykit.session import Session
from relaykit_gateway.codes import Code, code_of
from relaykit_gateway.follower import Follower
from relaykit_gateway.wire import (
    VERSION,
    BadMessage,
    ClientGone,
    compose,
    compose_error,
    parse,
    raw_json,
    timestamp,
)

if TYPE_CHECKING:
    from relaykit_gateway.gateway import Gateway

logger = logging.getLogger(__name__)

GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
_GOODBYE_SECONDS = 2.0


class Connection:
    """Acts on a client's messages one after the other, and has a follower for each session it is attached to.

    A disconnect ends nothing but the following.

    :param sending: held while something is sent, so that messages of several sessions do not mix.
    """

    def __init__(self, gateway: Gateway, receive: Receive, send: Send) -> None:
        self.gateway = gateway
        self.id = gateway.relay.ids.new_id()
        self.sending = anyio.Lock(fast_acquire=True)
        self._receive = receive
        self._send = send
        self._followers: dict[str, Follower] = {}
        self._tasks: TaskGroup | None = None
        self._closed = False

    @property
    def relay(self) -> Relay:
        """The relay that it is connected to."""
        return self.gateway.relay

    @property
    def owner(self) -> str:
        """Whose sessions it may see."""
        return "local"

    # ------------------------------------------------------------ its life

    async def run(self) -> None:
        """Serve the client until it goes, or is sent away. Called once, with the upgrade still to be accepted."""
        await self._receive()  # websocket.connect
        try:
            await self.send_event({"type": "websocket.accept"})
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                with self.gateway.connected(self):
                    await self._serve()
                tasks.cancel_scope.cancel()
        except ClientGone:
            logger.debug("client %s went before it was served", self.id)

    async def _serve(self) -> None:
        try:
            established = compose(
                "connection:established",
                serverId=self.gateway.server_id,
                timestamp=timestamp(self.relay.clock.now()),
            )
            await self.send_text(established)
            while not self._closed:
                event = await self._receive()
                if event["type"] == "websocket.disconnect":
                    return
                await self._act_on(event)
        except ClientGone:
            return

    async def say_goodbye(self) -> None:
        """Let what was said reach the client, and close: the relay goes away. Ends within a few seconds."""
        with anyio.move_on_after(_GOODBYE_SECONDS):
            for follower in list(self._followers.values()):
                await follower.ended.wait()
            try:
                await self.close(GOING_AWAY, "the relay is shutting down")
            except ClientGone:
                logger.debug("client %s went by itself", self.id)
        self.hang_up()

    async def close(self, code: int, reason: str) -> None:
        """Send the client away.

        :raises ClientGone: it has gone already.
        """
        async with self.sending:
            if not self._closed:
                await self.send_event({"type": "websocket.close", "code": code, "reason": reason})
                self._closed = True

    def hang_up(self) -> None:
        """End everything here without another word."""
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    # ------------------------------------------------------------ what it hears

    async def send(self, message: Mapping[str, Any], /) -> None:
        """Send one JSON object to this client.

        :raises ClientGone: there is nobody to hear it.
        """
        await self.send_text(raw_json({"version": VERSION, **message}).decode())

    async def send_text(self, text: str) -> None:
        """Send a message that is JSON already.

        :raises ClientGone: there is nobody to hear it.
        """
        async with self.sending:
            await self.send_event({"type": "websocket.send", "text": text})

    async def send_event(self, event: Message) -> None:
        """Send an ASGI event; whoever calls it holds `sending`.

        :raises ClientGone: there is nobody to hear it.
        """
        if self._closed:
            raise ClientGone
        try:
            await self._send(event)
        except OSError as error:  # what ASGI has servers raise when the client has gone
            raise ClientGone from error

    # ------------------------------------------------------------ what it follows

    def follower(self, session_id: str) -> Follower | None:
        """Return what follows this session for the client, or None."""
        return self._followers.get(session_id)

    async def follow(
        self, session: Session, *, after: int = 0, epoch: str | None = None, announce: bool = True
    ) -> None:
        """Begin to follow a session; what followed it before ends, in any case.

        :raises SessionNotFound: there is no such session.
        :raises CursorAhead: there is no entry `after` yet.
        """
        if self._tasks is None:
            raise ClientGone
        before = self._followers.get(session.id)
        if before is not None:
            await before.stop()
        follower = Follower(self, session)
        self._followers[session.id] = follower
        await self._tasks.start(follower.run, after, epoch, announce)

    def forget(self, follower: Follower) -> None:
        """Note that a follower has ended."""
        if self._followers.get(follower.session_id) is follower:
            del self._followers[follower.session_id]

    # ------------------------------------------------------------ what it says

    async def _act_on(self, event: Message) -> None:
        about: dict[str, str] = {}
        try:
            text = event.get("text")
            if text is None:
                raise BadMessage(Code.INVALID_MESSAGE, "a message is text: binary frames are not understood")
            message = parse(text, max_bytes=self.gateway.settings.max_message_bytes)
            about = {
                key: message[key] for key in ("sessionId", "agentId") if isinstance(message.get(key), str)
            }
            await self.gateway.messages.handle(self, message)
        except ClientGone:
            raise
        except BadMessage as bad:
            await self._complain(bad.code, str(bad), about)
        except Exception as error:
            code = code_of(error)
            if code is Code.INTERNAL or not isinstance(error, RelaykitError):
                logger.exception("a message of client %s could not be acted on", self.id)
                await self._complain(Code.INTERNAL, "the relay failed; its log says how", about)
            else:
                await self._complain(code, str(error), about)

    async def _complain(self, code: Code, message: str, about: Mapping[str, str]) -> None:
        await self.send_text(compose_error(code, message, **about))
        if code is Code.VERSION_MISMATCH:
            await self.close(PROTOCOL_ERROR, "version mismatch")
