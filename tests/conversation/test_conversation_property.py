"""Whatever is said, trimmed and read in whatever order: what a client got, and the gaps that it was told of, is
what was said, once and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relaykit.conversation import Conversation, Frame, MemoryJournal
from support.conversations import SESSION, Reader, frames, open_conversation
from support.journals import Hold, StagedJournal

pytestmark = pytest.mark.anyio

CLIENTS = range(3)


@dataclass(frozen=True)
class Publish:
    """Say some things of some size; `held`: they are recorded, but not delivered before something else happens."""

    count: int
    size: int
    held: bool


@dataclass(frozen=True)
class Deliver:
    """Let the append that is held return."""


@dataclass(frozen=True)
class Trim:
    """Forget a part of what the journal holds."""

    share: float


@dataclass(frozen=True)
class Restart:
    """Go on with a new conversation over the same journal: nothing is in memory. All clients have to come back."""


@dataclass(frozen=True)
class Attach:
    """Begin to follow, at some place."""

    client: int
    share: float


@dataclass(frozen=True)
class Reattach:
    """Come back behind the last entry that was got."""

    client: int


@dataclass(frozen=True)
class Read:
    """Read a batch, if there is one."""

    client: int
    limit: int


SHARES = st.floats(0, 1)
ACTS = st.one_of(
    st.builds(Publish, st.integers(1, 6), st.sampled_from([0, 10, 900]), st.booleans()),
    st.builds(Deliver),
    st.builds(Trim, SHARES),
    st.builds(Restart),
    st.builds(Attach, st.sampled_from(CLIENTS), SHARES),
    st.builds(Reattach, st.sampled_from(CLIENTS)),
    st.builds(Read, st.sampled_from(CLIENTS), st.sampled_from([1, 4, 512])),
)
Act = Publish | Deliver | Trim | Restart | Attach | Reattach | Read


@dataclass
class Client:
    """A reader, where it began, and how much had been said by then."""

    reader: Reader
    began: int
    head_then: int

    def check(self, emitted: list[Frame], trimmed: int) -> None:
        """Check that what it was told covers everything from where it began, once and in order."""
        covered = self.began
        caught_up_at = None
        for told in self.reader.told:
            if isinstance(told, str):
                assert caught_up_at is None
                caught_up_at = covered
            elif isinstance(told, int):
                assert told == covered + 1
                covered = told
            else:
                first, last = told
                assert first == covered + 1
                assert first <= last <= trimmed
                covered = last
        assert covered == self.reader.cursor.position
        assert (caught_up_at is not None) == (covered >= self.head_then and bool(self.reader.told))
        assert [entry.frame for entry in self.reader.entries] == [
            emitted[seq - 1] for seq in self.reader.seqs
        ]


@dataclass
class World:
    """A conversation, everything that was ever said in it, and its clients."""

    journal: StagedJournal
    conversation: Conversation
    tail_bytes: int
    start: Callable[..., object]
    emitted: list[Frame] = field(default_factory=list)
    trimmed: int = 0
    clients: dict[int, Client] = field(default_factory=dict)
    hold: Hold | None = None
    done: anyio.Event = field(default_factory=anyio.Event)

    async def do(self, act: Act) -> None:
        match act:
            case Publish():
                await self.publish(act)
            case Deliver():
                await self.deliver()
            case Trim():
                through = int(act.share * len(self.emitted))
                await self.journal.trim(SESSION.id, through=through)
                self.trimmed = max(self.trimmed, through)
            case Restart():
                await self.deliver()
                self.clients.clear()
                self.conversation = await open_conversation(self.journal, tail_bytes=self.tail_bytes)
            case Attach():
                self.attach(act.client, round(act.share * self.conversation.head))
            case Reattach() if act.client in self.clients:
                self.attach(act.client, self.clients[act.client].reader.cursor.position)
            case Read() if act.client in self.clients:
                await self.read(self.clients[act.client], act.limit)
            case _:
                pass

    async def publish(self, act: Publish) -> None:
        await self.deliver()
        said = frames(len(self.emitted) + 1, len(self.emitted) + act.count, size=act.size)
        self.emitted += said
        if act.held:
            self.hold = self.journal.hold_answer("append")
            self.done = anyio.Event()
            self.start(self.publish_held, said)
            await self.hold.reached.wait()
        else:
            await self.conversation.publish(said)

    async def publish_held(self, said: list[Frame]) -> None:
        await self.conversation.publish(said)
        self.done.set()

    async def deliver(self) -> None:
        if self.hold is not None:
            self.hold.released.set()
            self.hold = None
            await self.done.wait()

    def attach(self, number: int, after: int) -> None:
        if number in self.clients:
            self.clients[number].check(self.emitted, self.trimmed)
        cursor = self.conversation.attach(after=after, epoch=self.conversation.epoch)
        self.clients[number] = Client(Reader(cursor), after, self.conversation.head)

    async def read(self, client: Client, limit: int) -> None:
        reader = client.reader
        if reader.cursor.position < self.conversation.head or "caught up" not in reader.told:
            await reader.step(limit)
            assert reader.cursor.position <= self.conversation.head
            client.check(self.emitted, self.trimmed)

    async def finish(self) -> None:
        await self.deliver()
        await self.conversation.end(SESSION)
        for client in self.clients.values():
            await client.reader.read_to_the_end(limit=5)
            client.check(self.emitted, self.trimmed)
            assert client.reader.cursor.position == len(self.emitted)


@asynccontextmanager
async def open_world(tail_bytes: int) -> AsyncIterator[World]:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal, tail_bytes=tail_bytes)
    async with anyio.create_task_group() as tasks:
        world = World(journal, conversation, tail_bytes, tasks.start_soon)
        try:
            yield world
        finally:
            if world.hold is not None:
                world.hold.released.set()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(acts=st.lists(ACTS, max_size=40), tail_bytes=st.sampled_from([1, 500, 2000, 1_000_000]))
async def test_everything_comes_once_and_in_order(acts: list[Act], tail_bytes: int) -> None:
    with anyio.fail_after(10):
        async with open_world(tail_bytes) as world:
            for act in acts:
                await world.do(act)
            await world.finish()
