"""Editor: the two streams of the program that started us, a message a line."""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Sequence

_CHUNK = 1 << 16  # for more, memory is fetched from the kernel, and returned, each time


class EditorGone(Exception):
    """Nobody reads any more what we write."""


class Editor:
    """Reads what the editor says and writes what it hears, neither of which waits.

    :param reads: a descriptor that we read.
    :param writes: a descriptor that we write.
    """

    def __init__(self, reads: int, writes: int) -> None:
        self.reads = reads
        self.writes = writes
        self._rest: list[bytes] = []
        self._outgoing = bytearray()
        # Pipes and sockets are the editor's and ours alone. A terminal is shared, with a shell that would be
        # surprised; it is written to as it is.
        self._private = [descriptor for descriptor in (reads, writes) if _is_private(descriptor)]
        for descriptor in self._private:
            os.set_blocking(descriptor, False)

    @property
    def unheard(self) -> int:
        """The bytes that the editor has not taken yet."""
        return len(self._outgoing)

    def read(self) -> Sequence[bytes] | None:
        """Return the lines that have come, without their ends and without empty ones; None at the end."""
        try:
            chunk = os.read(self.reads, _CHUNK)
        except BlockingIOError:
            return ()
        except OSError:  # EIO: the terminal is gone
            chunk = b""
        if not chunk:
            return None
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._rest:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest.clear()
        if rest:
            self._rest.append(rest)
        return [line for line in lines if line and not line.isspace()]

    def write(self, messages: Sequence[bytes]) -> None:
        """Write messages, as soon as the editor takes them.

        :raises EditorGone: it takes none any more.
        """
        for message in messages:
            # Between JSON's tokens, the only place where it may stand, an end of line is a space.
            self._outgoing += message.replace(b"\n", b" ") if b"\n" in message else message
            self._outgoing += b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as the editor takes it.

        :raises EditorGone: it takes none any more.
        """
        try:
            while self._outgoing:
                del self._outgoing[: os.write(self.writes, self._outgoing)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise EditorGone from error

    def drain(self, seconds: float) -> None:
        """Wait, for so long at most, until the editor has taken everything.

        :raises EditorGone: it takes nothing any more.
        """
        deadline = time.monotonic() + seconds
        writable = select.poll()
        writable.register(self.writes, select.POLLOUT)
        while self._outgoing and (left := deadline - time.monotonic()) > 0:
            writable.poll(left * 1000)
            self.flush()

    def close(self) -> None:
        """Leave the streams as they were."""
        for descriptor in self._private:
            os.set_blocking(descriptor, True)


def _is_private(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
