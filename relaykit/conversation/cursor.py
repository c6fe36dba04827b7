"""Cursor: a client's place in a conversation. The past comes from the journal, the present from the tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from relaykit.conversation.journal import Entry, Journal
from relaykit.conversation.pages import PAGE_BYTES, PAGE_ENTRIES
from relaykit.conversation.tail import Tail

OnPast = Callable[[int, bool], None]
"""Told how many of the entries that a cursor has just returned were there before it, and whether a gap is told."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What comes next, in this order: a gap if there is one, then entries, then having caught up.

    :param gap: first and last seq that were asked for but are not kept any more.
    :param caught_up: true once: everything that had been said when the cursor was made has now been returned.
    """

    entries: Sequence[Entry] = ()
    gap: tuple[int, int] | None = None
    caught_up: bool = False


class Cursor:
    """Reads a conversation from some entry on: none twice, none out of order, none missing unsaid.

    There is no queue behind it. A cursor that nobody reads costs nothing; one that falls off the tail
    goes on from the journal. For a single reader.

    :param on_past: called for each batch with something of the past, or with a gap.
    """

    def __init__(
        self,
        session_id: str,
        epoch: str,
        tail: Tail,
        journal: Journal,
        *,
        after: int,
        on_past: OnPast | None = None,
    ) -> None:
        self.session_id = session_id
        self.epoch = epoch
        self.position = after  # the newest seq that was returned, or told as a gap
        self._caught_up_at: int | None = tail.head
        self._nudges = tail.nudges
        self._tail = tail
        self._journal = journal
        self._on_past = on_past

    async def next(self, limit: int = PAGE_ENTRIES, max_bytes: int = PAGE_BYTES) -> Batch:
        """Return what comes next, waiting until there is something. May be cancelled without loss.

        What is returned stays in memory for as long as the caller keeps it: `max_bytes` bounds it, see `Journal.read`.

        Who waits is woken by `Conversation.nudge`, and gets an empty batch: there is something to be told that is
        not in the transcript.

        :raises EndOfStream: (anyio's) the conversation is over and everything was returned.
        :raises JournalError: the journal cannot be read; the place is kept.
        """
        while self.position == self._tail.head:
            if self._caught_up_at is not None:
                self._caught_up_at = None
                return Batch(caught_up=True)
            if self._tail.closed:
                raise anyio.EndOfStream
            if self._tail.nudges != self._nudges:
                self._nudges = self._tail.nudges
                return Batch()
            await self._tail.changed()
        return await self._read(limit, max_bytes)

    async def _read(self, limit: int, max_bytes: int) -> Batch:
        after = self.position
        head = self._tail.head
        entries = await read_delivered(
            self.session_id, self._tail, self._journal, after=after, limit=limit, max_bytes=max_bytes
        )
        # What was trimmed is told, never skipped: also everything, if the journal has nothing left.
        oldest = entries[0].seq if entries else head + 1
        gap = (after + 1, oldest - 1) if oldest > after + 1 else None
        self.position = entries[-1].seq if entries else head
        if self._on_past is not None and (gap is not None or self._caught_up_at is not None):
            last = min(self.position, self._caught_up_at or 0)
            self._on_past(max(0, last - oldest + 1) if entries else 0, gap is not None)
        caught_up = self._caught_up_at is not None and self.position >= self._caught_up_at
        if caught_up:
            self._caught_up_at = None
        return Batch(entries, gap, caught_up)


async def read_delivered(
    session_id: str, tail: Tail, journal: Journal, *, after: int, limit: int, max_bytes: int | None
) -> Sequence[Entry]:
    """Return entries behind `after`, as `Journal.read`: from memory if they are there, else from the journal.

    The journal may hold entries already that were not delivered yet: nobody sees those.
    """
    head = tail.head
    limit = min(limit, head - after)
    if limit <= 0:
        return ()
    entries = tail.slice(after, limit, max_bytes)
    if not entries:
        entries = await journal.read(session_id, after=after, limit=limit, max_bytes=max_bytes)
    if entries and entries[-1].seq > head:
        entries = [entry for entry in entries if entry.seq <= head]
    return entries
