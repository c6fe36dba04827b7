"""CorkedTransport: what is written in one go leaves in one go."""

from __future__ import annotations

import asyncio  # noqa: TID251 -- its transports are what uvicorn writes to
import fcntl
import struct
import termios
from typing import Any

_FULL = 64 * 1024  # bytes; what a transport takes before it asks for a pause


class CorkedTransport:
    """A transport that collects what is written until the loop comes round, and then writes it at once.

    A batch of updates is one system call instead of hundreds, and the answer that follows an update leaves
    with it. All else is the transport's own.

    :param transport: what is written to; its flow control is not changed.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0
        self._written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write soon, behind everything that was written before."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _FULL:
            self._flush()

    def close(self) -> None:
        """Close, once everything was written."""
        self._flush()
        self._transport.close()

    def taken(self) -> int:
        """Return how many bytes the other side has acknowledged; where the system does not tell, left us."""
        return self._written - self._transport.get_write_buffer_size() - self._unacknowledged()

    def _unacknowledged(self) -> int:
        """Return how many bytes the system keeps for the other side: megabytes, for one that does not read."""
        connection = self._transport.get_extra_info("socket")
        try:
            # Linux answers it for sockets too (SIOCOUTQ, tcp(7)).
            (size,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError, AttributeError):  # it does not, or there is no socket any more
            return 0
        return int(size)

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            data = b"".join(self._parts)
            self._written += len(data)
            self._parts, self._size = [], 0
            self._transport.write(data)
