"""InputPipe: the writing end of a child's standard input."""

from __future__ import annotations

import os

import anyio


class InputPipe:
    """A pipe that a child reads. Ours to write, so that what it takes at once is written at once.

    The loops' own streams put a turn of the loop behind every write. One writer at a time.
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

    def close_child_end(self) -> None:
        """Let go of the child's end, once the child has it or never will."""
        os.close(self.child_end)

    def close(self) -> None:
        """Close our end: the child reads EOF. Idempotent; whoever waits in `send` is woken."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            anyio.notify_closing(fd)
            os.close(fd)
