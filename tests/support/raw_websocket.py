"""A WebSocket client as thin as can be, so that what is measured is the server."""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

_TEXT = 0x81
_PING = 0x9
_LENGTH_16 = 126
_LENGTH_64 = 127


class RawWebSocket:
    """One connection, blocking. Frames from the server are unfragmented text (RFC 6455)."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 60.0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), timeout=timeout)
        self._received: deque[bytes] = deque()
        self._buffer = b""
        try:
            self._upgrade(url, headers or {})
        except BaseException:
            self._socket.close()
            raise

    def _upgrade(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {parts._replace(scheme='', netloc='').geturl() or '/'} HTTP/1.1",
            f"Host: {parts.hostname}:{parts.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            data = self._socket.recv(65536)
            self._buffer += data or b"\r\n\r\n"
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise ConnectionError(head.decode() + self._buffer.decode())

    def send(self, text: bytes) -> None:
        """Send one text message. The mask is zeros: the server cannot tell, and nothing is spent on it."""
        if len(text) < _LENGTH_16:
            head = struct.pack("!BB", _TEXT, 0x80 | len(text))
        else:
            head = struct.pack("!BBH", _TEXT, 0x80 | _LENGTH_16, len(text))
        self._socket.sendall(head + b"\0\0\0\0" + text)

    def receive(self) -> bytes:
        """Return the next message."""
        if not self._received:
            self._received.extend(self.receive_batch())
        return self._received.popleft()

    def receive_batch(self) -> list[bytes]:
        """Return all messages that have arrived, at least one."""
        if self._received:
            messages = list(self._received)
            self._received.clear()
            return messages
        while not (messages := list(self._messages())):
            data = self._socket.recv(262144)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._buffer += data
        return messages

    def receive_raw(self) -> bytes:
        """Return what has arrived, as it came over the wire: for who does not look at messages."""
        data = self._socket.recv(262144)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._socket.fileno()

    def _messages(self) -> Iterator[bytes]:
        buffer, at = self._buffer, 0
        try:
            while len(buffer) >= at + 2:
                length, start = buffer[at + 1], at + 2
                if length == _LENGTH_16:
                    length, start = int.from_bytes(buffer[at + 2 : at + 4]), at + 4
                elif length == _LENGTH_64:
                    length, start = int.from_bytes(buffer[at + 2 : at + 10]), at + 10
                if len(buffer) < start + length:
                    return
                opcode, at = buffer[at] & 0x0F, start + length
                if opcode != _PING:
                    yield buffer[start:at]
        finally:
            self._buffer = buffer[at:]

    def close(self) -> None:
        self._socket.close()
