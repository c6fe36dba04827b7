"""Lines: what a person types, or a script, one line at a time, or one key."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
from anyio.lowlevel import checkpoint

_CHUNK = 65536
_END_OF_INPUT = "\x04"  # Ctrl-D, which a terminal that waits for no line hands on
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?")  # what arrows and function keys send


def utf8(text: str) -> str:
    """Return an argument or a path, with U+FFFD for what is no UTF-8 in it: nothing else can be sent."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


class Lines:
    """Reads lines from a file descriptor without holding up the loop; used by one task at a time.

    No thread waits for input, because one could not be ended: the program would not end before the next line.

    :param descriptor: a terminal, a pipe, a socket or a file.
    """

    def __init__(self, descriptor: int) -> None:
        self.on_terminal = os.isatty(descriptor)
        """Whether keys can be waited for."""
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        # Files and /dev/null never let anybody wait, and cannot be waited for.
        self._waits = self.on_terminal or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._rest = b""
        self._keys = ""
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

    @contextmanager
    def keys(self) -> Iterator[None]:
        """Have a terminal wait for no line, and show nothing that is typed, for as long as the block lasts.

        Ctrl-C is a signal still.
        """
        import termios
        import tty

        before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor, termios.TCSADRAIN)
        try:
            yield
        finally:
            self._keys = ""
            with suppress(termios.error):  # the terminal is gone: there is nothing to set right
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    async def key(self) -> str:
        """Return the next printable character that is pressed; within `keys`.

        Arrows and other keys that send several characters are left out.

        :raises EndOfStream: (anyio's) the terminal is gone, or Ctrl-D was pressed.
        """
        await checkpoint()
        while True:
            while not self._keys:
                await anyio.wait_readable(self._descriptor)
                chunk = self._read()
                if not chunk:
                    raise anyio.EndOfStream
                self._keys = _SEQUENCE.sub("", chunk.decode(errors="replace"))
            key, self._keys = self._keys[0], self._keys[1:]
            if key == _END_OF_INPUT:
                raise anyio.EndOfStream
            if key.isprintable():
                return key

    def discard(self) -> None:
        """Forget what was typed ahead on a terminal: it was not meant for what is asked now."""
        if self.on_terminal:
            import termios

            termios.tcflush(self._descriptor, termios.TCIFLUSH)
            self._rest = b""

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _CHUNK)
        except OSError:  # EIO: the terminal is gone
            return b""
