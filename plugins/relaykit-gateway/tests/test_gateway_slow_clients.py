"""Clients with real sockets that read nothing, or slowly; on both of asyncio's loops."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from relaykit.relay import Relay
from support.gateways import (
    BACKENDS,
    SECONDS,
    Presence,
    address_of,
    connected,
    gateway_settings,
    open_gateway_relay,
)

pytestmark = pytest.mark.anyio

SMALL = 64 * 1024
CLOSE, TEXT = 0x88, 0x81


@pytest.fixture(params=BACKENDS, ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Receiver:
    """A client of ``/ws`` that reads when it is told to, and as much as it is told."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.seqs: list[int] = []
        self.close: tuple[int, str] | None = None
        self._buffer = b""

    async def say(self, kind: str, **fields: Any) -> None:
        message = json.dumps({"version": "1.0", "type": kind, **fields}).encode()
        await self.stream.send(bytes((TEXT, 0x80 | len(message), 0, 0, 0, 0)) + message)  # masked with zeroes

    async def read(self, size: int = SMALL) -> None:
        """Read once, and note what came."""
        with anyio.fail_after(SECONDS):
            self._buffer += await self.stream.receive(size)
        at = 0
        while (frame := self._frame(at)) is not None:
            opcode, start, at = frame
            payload = self._buffer[start:at]
            if opcode == CLOSE:
                self.close = struct.unpack("!H", payload[:2])[0], payload[2:].decode()
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
async def receiver(relay: Relay, session_id: str) -> AsyncIterator[Receiver]:
    """Attach, with a system that keeps little for who does not read."""
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
        await client.say("session:attach", sessionId=session_id)
        yield client


@asynccontextmanager
async def opened(directory: Path, presence: Presence) -> AsyncIterator[Relay]:
    settings = gateway_settings(directory, gateway="ping_interval = 1\npong_timeout = 1\nstall_timeout = 1")
    async with open_gateway_relay(settings, extra={"presence": presence}) as relay:
        yield relay


async def test_a_receiver_that_does_not_read_is_closed_with_its_place(tmp_path: Path) -> None:
    presence = Presence()
    async with opened(tmp_path, presence) as relay, connected(relay, max_size=None) as client:
        session_id = await client.create()
        async with receiver(relay, session_id) as deaf:
            await presence.until(relay, session_id, 2)
            await client.prompt(session_id, "/stream 4000 4000")  # 16 MB: no socket buffers that
            await presence.until(relay, session_id, 1)
            while deaf.close is None:  # what was sent is there, and then the close
                await deaf.read()
            assert deaf.close == (1013, f"stalled {session_id}:{deaf.seqs[-1]}")
            assert deaf.seqs == list(range(deaf.seqs[0], deaf.seqs[-1] + 1))
        assert len(deaf.seqs) < 4000
        async with connected(relay, max_size=None) as again:  # and there it goes on
            await again.say("session:attach", sessionId=session_id, after=deaf.seqs[-1])
            await again.expect("session:attached")
            rest = [(await again.expect("agent:update"))["seq"] for _ in range(4000 - len(deaf.seqs) + 1)]
            assert rest == list(range(deaf.seqs[-1] + 1, rest[-1] + 1))


async def test_a_receiver_that_does_not_even_read_the_close_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relaykit_gateway.websocket_protocol._LET_GO_SECONDS", 0.1)
    presence = Presence()
    async with opened(tmp_path, presence) as relay, connected(relay, max_size=None) as client:
        session_id = await client.create()
        async with receiver(relay, session_id) as deaf:
            await presence.until(relay, session_id, 2)
            await client.prompt(session_id, "/stream 4000 4000")
            await presence.until(relay, session_id, 1)
            await anyio.sleep(0.5)  # so long nobody tells anybody anything
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await deaf.read_to_the_end()
            assert deaf.close is None


async def test_a_receiver_that_reads_slowly_but_steadily_stays(tmp_path: Path) -> None:
    presence = Presence()
    async with opened(tmp_path, presence) as relay, connected(relay, max_size=None) as client:
        session_id = await client.create()
        async with receiver(relay, session_id) as slow:
            await presence.until(relay, session_id, 2)
            await client.prompt(session_id, "/stream 4000 4000")
            for _ in range(80):  # 4 s, in which 3 MB are read: the system's buffer alone keeps as much
                await anyio.sleep(0.05)  # that is its pace
                await slow.read(SMALL // 2)
            assert slow.close is None
            while len(slow.seqs) < 4001:  # the prompt is one too
                await slow.read()
            assert slow.seqs == list(range(slow.seqs[0], slow.seqs[0] + 4001))
            assert relay.clients(session_id) == 2
