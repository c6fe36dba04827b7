"""A client of ``/ws`` on a real socket, which reads when it is told to, and no more than it is told."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import SocketStream

from relaykit.relay import Relay
from support.gateways import SECONDS, address_of

SMALL = 64 * 1024
CLOSE, TEXT, PING, PONG = 0x88, 0x81, 0x89, 0x8A


class Receiver:
    """A client of ``/ws`` that reads when it is told to, and as much as it is told."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.seqs: list[int] = []
        self.close: tuple[int, str] | None = None
        self._buffer = b""

    async def say(self, kind: str, **fields: Any) -> None:
        message = json.dumps({"version": "1.0", "type": kind, **fields}).encode()
        await self._send(TEXT, message)

    async def _send(self, opcode: int, payload: bytes) -> None:
        with anyio.fail_after(SECONDS):
            head = bytes((opcode, 0x80 | len(payload), 0, 0, 0, 0))  # masked with zeroes
            await self.stream.send(head + payload)

    async def read(self, size: int = SMALL) -> None:
        """Read once, and note what came; pings are answered when they are read."""
        with anyio.fail_after(SECONDS):
            self._buffer += await self.stream.receive(size)
        at = 0
        while (frame := self._frame(at)) is not None:
            opcode, start, at = frame
            payload = self._buffer[start:at]
            if opcode == CLOSE:
                self.close = struct.unpack("!H", payload[:2])[0], payload[2:].decode()
            elif opcode == PING:
                await self._send(PONG, payload)
            elif opcode == TEXT and b'"type":"agent:update"' in payload:
                self.seqs.append(json.loads(payload)["seq"])
        self._buffer = self._buffer[at:]

    async def read_to_the_end(self) -> None:
        """Read until there is no connection any more, which raises."""
        while True:
            await self.read()

    def _frame(self, at: int) -> tuple[int, int, int] | None:
        head = self._buffer[at : at + 10]
        if len(head) < 2:
            return None
        length, start = head[1], at + 2
        if length == 126:
            length, start = int.from_bytes(head[2:4]), at + 4
        elif length == 127:
            length, start = int.from_bytes(head[2:10]), at + 10
        end = start + length
        return (head[0], start, end) if len(self._buffer) >= end else None


@asynccontextmanager
async def receiver(relay: Relay, session_id: str, *, after: int = 0) -> AsyncIterator[Receiver]:
    """Attach, with a system that keeps little for who does not read; leave without a word."""
    url, token = address_of(relay)
    host, _, port = url.removeprefix("http://").partition(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    raw.connect((host, int(port)))
    async with await SocketStream.from_socket(raw) as stream:
        await stream.send(
            f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        with anyio.fail_after(SECONDS):
            assert (await stream.receive()).startswith(b"HTTP/1.1 101")
        client = Receiver(stream)
        await client.say("session:attach", sessionId=session_id, after=after)
        yield client
