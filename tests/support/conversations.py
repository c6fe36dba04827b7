"""A conversation without a relay around it, and a client that reads it as a gateway would."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from relaykit.conversation import Conversation, Cursor, Entry, Frame, Journal, Kind, MemoryJournal
from relaykit.testing import FakeClock
from relaykit.testing.store_contract import make_session

SESSION = make_session()


async def open_conversation(
    journal: Journal | None = None, *, tail_bytes: int = 8 * 1024 * 1024
) -> Conversation:
    """Return the conversation of `SESSION`, opened."""
    conversation = Conversation(journal=journal or MemoryJournal(), clock=FakeClock(), tail_bytes=tail_bytes)
    await conversation.open(SESSION)
    return conversation


def frames(first: int, last: int, *, size: int = 0) -> list[Frame]:
    """Return frames whose bodies say the numbers `first` to `last`, padded to `size` bytes."""
    return [Frame(Kind.UPDATE, b"%d" % number + b" " * size) for number in range(first, last + 1)]


class Reader:
    """What one client has got from its cursor.

    :param told: everything in the order in which it came: numbers of entries, gaps, and ``caught up``.
    """

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.entries: list[Entry] = []
        self.told: list[int | tuple[int, int] | str] = []

    @property
    def seqs(self) -> list[int]:
        """The numbers of the entries that it got."""
        return [entry.seq for entry in self.entries]

    async def step(self, limit: int = 512) -> None:
        """Read one batch."""
        batch = await self.cursor.next(limit)
        if batch.gap is not None:
            self.told.append(batch.gap)
        self.entries += batch.entries
        self.told += [entry.seq for entry in batch.entries]
        if batch.caught_up:
            self.told.append("caught up")

    async def read_until(self, done: Callable[[], bool], *, limit: int = 512) -> None:
        """Read until something is so."""
        while not done():
            await self.step(limit)

    async def read_to_the_end(self, *, limit: int = 512) -> None:
        """Read until the conversation is over."""
        while True:
            try:
                await self.step(limit)
            except anyio.EndOfStream:
                return
