"""Lines: what a person types, or a script, one line at a time."""

from __future__ import annotations

import os
import stat

import anyio
from anyio.lowlevel import checkpoint

_CHUNK = 65536


class Lines:
    """Reads lines from a file descriptor without holding up the loop; used by one task at a time.

    No thread waits for input, because one could not be ended: the program would not end before the next line.

    :param descriptor: a terminal, a pipe, a socket or a file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        # Files and /dev/null never let anybody wait, and cannot be waited for.
        self._waits = os.isatty(descriptor) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._rest = b""
        self._ended = False

    async def next(self) -> str:
        """Return the next line, without its end. Cancelled, it has taken none.

        :raises EndOfStream: (anyio's) there is none any more.
        """
        await checkpoint()
        while b"\n" not in self._rest and not self._ended:
            if self._waits:
                await anyio.wait_readable(self._descriptor)
            chunk = self._read()
            self._rest += chunk
            self._ended = not chunk
        if not self._rest:
            raise anyio.EndOfStream
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    def discard(self) -> None:
        """Forget what was typed ahead on a terminal: it was not meant for what is asked now."""
        if os.isatty(self._descriptor):
            import termios

            termios.tcflush(self._descriptor, termios.TCIFLUSH)
            self._rest = b""

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _CHUNK)
        except OSError:  # EIO: the terminal is gone
            return b""
