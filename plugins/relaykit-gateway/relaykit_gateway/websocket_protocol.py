"""WebSocketProtocol: uvicorn's WebSockets, made for many messages and for clients of all kinds."""

from __future__ import annotations

import asyncio  # noqa: TID251 -- its transports are what uvicorn writes to
from collections.abc import Sequence
from typing import Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

from relaykit_gateway.acp.connection import MAX_MESSAGE_BYTES
from relaykit_gateway.corked import CorkedTransport
from relaykit_gateway.stalls import PIPE

_TEXT = 0x81  # a final frame of text
_SHORT, _MEDIUM = 125, 0xFFFF  # the longest texts whose length takes no, and two, more bytes
_MEDIUM_HEAD, _LONG_HEAD = bytes((_TEXT, _SHORT + 1)), bytes((_TEXT, _SHORT + 2))
_PING_BYTES = 6
_LET_GO_SECONDS = 10.0


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own, with a short way for what is sent most, and a short end for who does not listen.

    It is the `Pipe` of its connection.
    """

    _taken_at_ping = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with a transport that writes in one go what is sent in one go."""
        self._corked = CorkedTransport(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("Any", self._corked))

    async def send(self, message: Any) -> None:
        """Send; a text goes the short way."""
        if message["type"] == "websocket.send" and "text" in message and self.conn.state is State.OPEN:
            await self.send_texts((message["text"],))
            return
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # uvicorn takes a refusal for a handshake that was forgotten, and would log an error of each.
            self.handshake_complete = True

    async def send_texts(self, texts: Sequence[str], /) -> None:
        """Send texts in one go, framed here, which takes a quarter of the time.

        A server's frame is a header of two to ten bytes before the text (RFC 6455, section 5.2).

        :raises OSError: the client has gone.
        """
        if not self.writable.is_set():
            await self.writable.wait()
        if self.disconnected or self.close_sent or self.conn.state is not State.OPEN:
            raise ClientDisconnected
        parts: list[bytes] = []
        for text in texts:
            data = text.encode()
            size = len(data)
            if size <= _SHORT:
                parts.append(bytes((_TEXT, size)))
            elif size <= _MEDIUM:
                parts.append(_MEDIUM_HEAD + size.to_bytes(2, "big"))
            else:
                parts.append(_LONG_HEAD + size.to_bytes(8, "big"))
            parts.append(data)
        self.transport.write(b"".join(parts))

    def handle_connect(self, event: Request) -> None:
        """Begin; what speaks ACP may send longer messages."""
        if event.path.partition("?")[0] == "/acp":
            self.conn.max_message_size = MAX_MESSAGE_BYTES
        super().handle_connect(event)
        scope = getattr(self, "scope", None)  # none if the upgrade was refused
        if scope is not None:
            scope["extensions"][PIPE] = self

    # ------------------------------------------------------------ clients that are slow, or gone

    def taken(self) -> int:
        """Return how many bytes the client has taken: its system, that is, if ours says so."""
        return self._corked.taken()

    def let_go(self, code: int, reason: str) -> None:
        """Close behind what was written; who has not taken it within a few seconds is dropped."""
        if self.close_sent or self.disconnected or self.conn.state is not State.OPEN:
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:  # its answer is to be heard
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(_LET_GO_SECONDS, self.transport.abort)

    def send_keepalive_ping(self) -> None:
        """Send a ping, and note how far the client has come."""
        super().send_keepalive_ping()
        self._taken_at_ping = self.taken()

    def keepalive_timeout(self) -> None:
        """Drop a client that answers no ping; an orderly close would wait until it has read everything.

        One that takes what lies before the ping is given more time; one that takes nothing of what there is will
        be sent away for that.
        """
        taken = self.taken()
        if not self.writable.is_set() or taken > self._taken_at_ping + _PING_BYTES:
            self._taken_at_ping = taken
            self.pong_timer = self.loop.call_later(self.ping_timeout or 0, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.transport.abort()
