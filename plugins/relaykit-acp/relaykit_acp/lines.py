"""Lines out of a stream of bytes."""

from __future__ import annotations


class LineSplitter:
    """Cuts chunks of bytes into lines, in time linear to their length.

    :param limit: the longest line that is let through, in bytes, without its end.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.overflowed = False
        """A line is longer than the limit: it and everything after it is lost."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that this chunk completes, without their ends."""
        if self.overflowed:
            return []
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._parts:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts, self._size = [], 0
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
        for place, line in enumerate(lines):
            if len(line) > self._limit:
                self.overflowed = True
                return lines[:place]
        self.overflowed = self._size > self._limit
        return lines
