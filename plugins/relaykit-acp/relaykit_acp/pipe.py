"""Pipes between us and a child, as file descriptors: what they take or hold is moved without a turn of the loop."""

from __future__ import annotations

import contextlib
import os

import anyio

_CHUNK = 65536
_CAPACITY = 1024 * 1024
"""What a pipe holds at most, unless an administrator says otherwise (pipe(7))."""


class InputPipe:
    """A pipe that a child reads. Ours to write, so that what it takes at once is written at once.

    The loops' own streams put a turn of the loop behind every write. One writer at a time.

    :raises OSError: too many files are open.
    """

    def __init__(self) -> None:
        self.child_end, own_end = os.pipe()  # neither is inherited by other children
        os.set_blocking(own_end, False)
        self._fd: int | None = own_end

    def send_nowait(self, data: bytes) -> bool:
        """Write what is at most ``PIPE_BUF`` long if the pipe has room for it; else do nothing and return False.

        :raises OSError: nobody reads any more.
        :raises ClosedResourceError: it was closed.
        """
        if self._fd is None:
            raise anyio.ClosedResourceError
        try:
            return os.write(self._fd, data) == len(data)  # so little goes whole or not at all (pipe(7))
        except BlockingIOError:
            return False

    async def send(self, data: bytes) -> None:
        """Write everything, waiting for the reader.

        :raises OSError: nobody reads any more.
        :raises ClosedResourceError: it was closed, before or meanwhile.
        """
        rest = memoryview(data)
        while True:
            if self._fd is None:
                raise anyio.ClosedResourceError
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._fd)
            if not rest:
                return

    def close(self) -> None:
        """Close our end: the child reads EOF. Idempotent; whoever waits in `send` is woken."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            anyio.notify_closing(fd)
            os.close(fd)


class OutputPipe:
    """A pipe that a child writes. One reader at a time.

    :raises OSError: too many files are open.
    """

    def __init__(self) -> None:
        own_end, self.child_end = os.pipe()
        os.set_blocking(own_end, False)
        self._fd: int | None = own_end
        self._rest = b""

    async def receive(self) -> bytes:
        """Return the next bytes, as many as there are; nothing at the end.

        Always waits for the loop to say that there is something: a child that never pauses shall not keep
        the loop from the others.
        """
        while self._fd is not None:
            try:
                await anyio.wait_readable(self._fd)
            except anyio.ClosedResourceError:
                break
            chunk = self._read()
            if chunk is not None:
                return chunk
        rest, self._rest = self._rest, b""
        return rest

    def _read(self) -> bytes | None:
        if self._fd is None:  # closed since it was readable
            return None
        try:
            return os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Take what is in the pipe, for `receive` to return yet, and close our end. Idempotent.

        Whoever still holds the other end is not waited for, and whoever waits in `receive` is woken.
        """
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._rest = os.read(self._fd, _CAPACITY)
            fd, self._fd = self._fd, None
            anyio.notify_closing(fd)
            os.close(fd)
