"""Tail: the newest entries of a conversation, in memory, shared by all its cursors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import anyio

from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.journal import Entry
from relaykit.conversation.pages import fitting

_OVERHEAD = 200
"""Bytes that an entry costs besides its body, roughly: so that many tiny entries are bounded too."""
_FORGOTTEN = Entry(0, datetime.min.replace(tzinfo=UTC), Frame(Kind.NOTICE))


class Tail:
    """A window over the newest entries, bounded in bytes. What falls out of it is in the journal.

    :param first: the oldest seq that the journal holds.
    :param head: the newest.
    """

    def __init__(self, *, first: int, head: int, max_bytes: int) -> None:
        self.first = first
        self.head = head
        self.closed = False
        self.nudges = 0
        self._max_bytes = max_bytes
        self._entries: list[Entry] = []
        self._dropped = 0  # entries at the front of the list that are already forgotten
        self._bytes = 0
        self._changed: anyio.Event | None = None

    def extend(self, entries: Sequence[Entry]) -> None:
        """Add the next entries, forget the oldest over the limit, and wake who waits."""
        self._entries.extend(entries)
        self.head += len(entries)
        self._bytes += sum([len(frame.body) for _, _, frame in entries]) + _OVERHEAD * len(entries)
        while self._bytes > self._max_bytes and self._dropped < len(self._entries) - 1:
            self._bytes -= len(self._entries[self._dropped].frame.body) + _OVERHEAD
            self._entries[self._dropped] = _FORGOTTEN  # not only out of reach: out of memory
            self._dropped += 1
        if self._dropped > len(self._entries) // 2:  # moving the rest is paid by what was dropped
            del self._entries[: self._dropped]
            self._dropped = 0
        self._wake()

    def drop(self) -> None:
        """Forget all entries: the journal has them."""
        self._entries.clear()
        self._dropped = self._bytes = 0

    def nudge(self) -> None:
        """Wake who waits, although nothing was added."""
        self.nudges += 1
        self._wake()

    def close(self) -> None:
        """Say that nothing will be added."""
        self.closed = True
        self._wake()

    def slice(self, after: int, limit: int, max_bytes: int | None) -> Sequence[Entry]:
        """Return entries behind `after`, as `Journal.read`; nothing if the first of them is not here any more."""
        start = len(self._entries) - (self.head - after)
        if start < self._dropped:
            return ()
        return fitting(self._entries[start : start + limit], max_bytes)

    async def changed(self) -> None:
        """Wait until something is added, or somebody nudges, or the tail is closed."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
