"""WebSocketClient: one connection to a relay, for asyncio and trio, whatever is spoken over it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN, Event
from websockets.uri import parse_uri

from relaykit_gateway.address import Address, ClientError

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The longest message that is taken: twice what one frame of an agent may have."""

_CONNECT_SECONDS = 10.0
_SEND_SECONDS = 10.0
_CLOSE_SECONDS = 2.0


class Unreachable(ClientError):
    """Nothing that speaks WebSocket answers at the address."""


class UpgradeRefused(ClientError):
    """The relay answered, and let us not in.

    :param status: the HTTP status: 401 without the right token.
    """

    def __init__(self, address: Address, status: int) -> None:
        super().__init__(f"the relay at {address.url} refused the connection with HTTP status {status}")
        self.status = status


class Disconnected(ClientError):
    """The connection has ended.

    :param code: WebSocket's close code; 1006 without a goodbye.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the relay closed the connection: {reason or f'code {code}'}")
        self.code = code
        self.reason = reason


class WebSocketClient:
    """One connection. Made by `connect_websocket`.

    One task may receive while others send. Pings are answered while somebody waits in `receive`.
    """

    def __init__(self, stream: ByteStream, protocol: ClientProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._sending = anyio.Lock()
        self._text: bytearray | None = None  # what has come of the message that is coming
        self._messages: deque[bytearray] = deque()
        self._gone = False

    async def send(self, text: bytes) -> None:
        """Send a text message; cancelled or not, it is sent whole or the connection is over.

        :param text: UTF-8.
        :raises Disconnected: the connection has ended.
        """
        if self._gone or self._protocol.state is not OPEN:
            raise self._disconnected()
        self._protocol.send_text(text)
        await self._flush()

    async def receive(self) -> bytearray:
        """Return the next text message. Cancelled, it has taken none. Binary ones are left out.

        :raises Disconnected: there is none, and the connection has ended.
        """
        while not self._messages:
            if self._gone or self._protocol.state is not OPEN:
                raise self._disconnected()
            self._take(await self._read())
            await self._flush()
        return self._messages.popleft()

    async def handshake(self, address: Address) -> None:
        """Upgrade the connection: called by `connect_websocket`, once.

        :raises UpgradeRefused: the relay let us not in.
        :raises Unreachable: what answers does not speak WebSocket.
        """
        request = self._protocol.connect()
        request.headers.update(address.headers)
        self._protocol.send_request(request)
        await self._flush()
        while self._protocol.state is not OPEN:
            events = await self._read()
            error = self._protocol.handshake_exc
            if isinstance(error, InvalidStatus):
                raise UpgradeRefused(address, error.response.status_code) from error
            if error is not None:
                raise Unreachable(f"no relay answers at {address.url}: {error}") from error
            self._take(events)

    async def aclose(self) -> None:
        """Say goodbye and close. Idempotent; takes a few seconds at most, whatever the relay does."""
        if not self._gone and self._protocol.state is OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
            await self._flush(_CLOSE_SECONDS)
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            while not self._gone:
                await self._read()
        self._gone = True
        await anyio.aclose_forcefully(self._stream)

    async def _read(self) -> list[Event]:
        """Wait for bytes, and return what they complete."""
        try:
            self._protocol.receive_data(await self._stream.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._gone = True
            self._protocol.receive_eof()
        return self._protocol.events_received()

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.TEXT:
                self._text = bytearray(event.data)
            elif event.opcode is Opcode.CONT and self._text is not None:
                self._text += event.data
            else:
                continue
            if event.fin:
                self._messages.append(self._text)
                self._text = None

    async def _flush(self, seconds: float = _SEND_SECONDS) -> None:
        # Half a frame would make nonsense of all that follows, so that no cancellation interrupts this.
        with anyio.CancelScope(shield=True):
            try:
                with anyio.fail_after(seconds):
                    async with self._sending:
                        for data in self._protocol.data_to_send():
                            if data:  # else it is the end of what we say: closing says it too
                                await self._stream.send(data)
            except (TimeoutError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._gone = True

    def _disconnected(self) -> Disconnected:
        goodbye = self._protocol.close_rcvd
        if goodbye is None:
            return Disconnected(CloseCode.ABNORMAL_CLOSURE, "")
        return Disconnected(goodbye.code, goodbye.reason)


@asynccontextmanager
async def connect_websocket(address: Address, path: str) -> AsyncIterator[WebSocketClient]:
    """Connect to one of a relay's WebSocket endpoints for as long as the block lasts.

    :param path: as ``/ws``, with the query if there is one.
    :raises Unreachable: nobody answers within 10 seconds.
    :raises UpgradeRefused: the relay let us not in.
    """
    try:
        with anyio.fail_after(_CONNECT_SECONDS):
            stream = await anyio.connect_tcp(address.host, address.port)
    except OSError as error:  # TimeoutError, which has no text, is one
        raise Unreachable(f"nobody answers at {address.url}: {str(error) or 'it took too long'}") from error
    uri = parse_uri(f"ws{address.url.removeprefix('http')}{path}")
    client = WebSocketClient(stream, ClientProtocol(uri, max_size=MAX_MESSAGE_BYTES))
    try:
        try:
            with anyio.fail_after(_CONNECT_SECONDS):
                await client.handshake(address)
        except TimeoutError as error:
            raise Unreachable(f"nobody answers at {address.url}: it took too long") from error
        yield client
    finally:
        await client.aclose()
