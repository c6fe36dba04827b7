"""Conversation: the journal's single writer, and the present that all its clients share."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from relaykit.clock import Clock
from relaykit.conversation.cursor import Cursor, OnPast, read_delivered
from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.journal import Entry, Journal
from relaykit.conversation.pages import PAGE_BYTES, PAGE_ENTRIES
from relaykit.conversation.tail import Tail
from relaykit.errors import CursorAhead, JournalConflict, JournalError
from relaykit.session.model import Session


class Conversation:
    """Numbers what is said, records it, and only then shows it.

    Frames of one `publish` get consecutive numbers; concurrent calls wait for each other. A client never
    sees an entry that the journal does not hold.

    It begins with `open`. For one event loop.

    :param tail_bytes: how much of the newest is kept in memory for clients that keep up.
    """

    def __init__(self, *, journal: Journal, clock: Clock, tail_bytes: int = 8 * 1024 * 1024) -> None:
        self.session_id = ""
        self.epoch = ""
        self.running_turn = ""
        self._journal = journal
        self._clock = clock
        self._tail_bytes = tail_bytes
        self._tail = Tail(first=1, head=0, max_bytes=tail_bytes)
        self._writing = anyio.Lock(fast_acquire=True)  # who waits gets it in turn all the same
        self._unsure: Sequence[Entry] = ()
        self._closed = False

    async def open(self, session: Session) -> None:
        """Open the session's journal and go on from its head.

        :raises JournalError: the journal cannot be opened.
        """
        state = await self._journal.open(session)
        self.session_id = session.id
        self.epoch = state.epoch
        self._tail = Tail(first=state.first, head=state.head, max_bytes=self._tail_bytes)

    @property
    def head(self) -> int:
        """The newest seq that was delivered; 0 if nothing was said yet."""
        return self._tail.head

    async def publish(self, frames: Sequence[Frame]) -> Sequence[Entry]:
        """Record frames under the next numbers, deliver them, and return them as entries.

        Once recorded they are delivered, also if the caller is cancelled meanwhile.

        :raises JournalError: they were not recorded; or, if the journal cannot even be read, nobody knows:
            then the next call finds out first, so that numbers are neither lost nor used twice.
        """
        entries: Sequence[Entry] = ()
        if not frames:
            return entries
        with anyio.CancelScope(shield=True):  # between record and deliver there is no way out
            async with self._writing:
                if self._closed:
                    raise JournalConflict(self.session_id, "the conversation is over", plugin="relay")
                await self._settle()
                now = self._clock.now()
                entries = [Entry(seq, now, frame) for seq, frame in enumerate(frames, start=self.head + 1)]
                self._unsure = entries
                try:
                    await self._journal.append(self.session_id, self.epoch, entries)
                except JournalConflict:
                    self._unsure = ()
                    raise
                except JournalError:
                    if not await self._settle():
                        raise
                else:
                    self._unsure = ()
                    self._deliver(entries)
        return entries

    async def _settle(self) -> bool:
        """Find out whether an append happened whose answer was lost; if it did, deliver its entries.

        :raises JournalError: the journal cannot be read either.
        """
        if not self._unsure:
            return False
        held = await self._journal.read(self.session_id, after=self.head, limit=len(self._unsure))
        entries, self._unsure = self._unsure, ()
        if list(held) != list(entries):
            return False
        self._deliver(entries)
        return True

    def _deliver(self, entries: Sequence[Entry]) -> None:
        prompt, turn_end = Kind.PROMPT, Kind.TURN_END
        for _, _, frame in entries:
            if frame.kind is prompt:
                self.running_turn = frame.ref
            elif frame.kind is turn_end:
                self.running_turn = ""
        self._tail.extend(entries)

    def attach(self, *, after: int = 0, epoch: str | None = None, on_past: OnPast | None = None) -> Cursor:
        """Return a place in this conversation, behind entry `after`.

        :param epoch: the epoch that `after` belongs to. If the conversation has another, the cursor begins
            at the beginning, and its `epoch` differs from the one that was asked for.
        :param on_past: see `Cursor`.
        :raises CursorAhead: there is no entry `after` yet.
        """
        if epoch is not None and epoch != self.epoch:
            after = 0
        if not 0 <= after <= self._tail.head:
            raise CursorAhead(self.session_id, after=after, head=self._tail.head)
        return Cursor(self.session_id, self.epoch, self._tail, self._journal, after=after, on_past=on_past)

    def drop_tail(self) -> None:
        """Keep nothing of it in memory, while nobody is expected to say or to read much."""
        self._tail.drop()

    def nudge(self) -> None:
        """Have every cursor that has read everything return an empty batch."""
        self._tail.nudge()

    async def read(self, *, after: int, limit: int, max_bytes: int | None = None) -> Sequence[Entry]:
        """Return delivered entries behind `after`, as `Journal.read`, from memory or from the journal."""
        return await read_delivered(
            self.session_id, self._tail, self._journal, after=after, limit=limit, max_bytes=max_bytes
        )

    async def page(self, *, after: int, through: int) -> Sequence[Entry]:
        """Return the first entries behind `after` up to `through`, no more than one holds easily in memory.

        What is not kept any more is left out. Empty once there is nothing more.

        :raises JournalError: the journal cannot be read.
        """
        limit = min(through - after, PAGE_ENTRIES)
        page = await self.read(after=after, limit=limit, max_bytes=PAGE_BYTES)
        if page and page[-1].seq > through:
            page = [entry for entry in page if entry.seq <= through]
        return page

    async def end(self, session: Session) -> None:
        """Close the journal with the session as it ended; cursors end once they have read everything."""
        await self.aclose()
        await self._journal.close(session)

    async def aclose(self) -> None:
        """Take no more frames. Idempotent."""
        with anyio.CancelScope(shield=True):
            async with self._writing:
                self._closed = True
                self._tail.close()
