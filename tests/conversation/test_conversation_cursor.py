"""Cursors: the past from the journal, the present from the tail; what was missed is said, nothing comes twice."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from random import Random

import anyio
import anyio.lowlevel
import pytest

from relaykit.conversation import Conversation, Entry, Frame, Kind, MemoryJournal
from relaykit.errors import CursorAhead, JournalError
from relaykit.testing import Interruption
from support.conversations import SESSION, Reader, frames, open_conversation
from support.journals import StagedJournal
from support.native import interrupt_natively

pytestmark = pytest.mark.anyio

SMALL = 2000
"""A tail of nine small entries or so."""


async def conversation_of(count: int, *, tail_bytes: int = SMALL) -> tuple[Conversation, StagedJournal]:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal, tail_bytes=tail_bytes)
    for number in range(1, count + 1):
        await conversation.publish(frames(number, number))
    return conversation, journal


async def what_is_told(conversation: Conversation, *, after: int = 0, limit: int = 512) -> list[object]:
    reader = Reader(conversation.attach(after=after))
    with anyio.fail_after(10):
        await reader.read_until(lambda: "caught up" in reader.told, limit=limit)
    assert [entry.frame for entry in reader.entries] == [
        frame for seq in reader.seqs for frame in frames(seq, seq)
    ]
    return list(reader.told)


# ---------------------------------------------------------------- how much at once


class NoJournal(MemoryJournal):
    """Keeps nothing."""

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        pass


@pytest.mark.parametrize("tail_bytes", [SMALL, 100_000], ids=["journal", "tail"])
async def test_what_is_returned_at_once_is_bounded_in_bytes(tail_bytes: int) -> None:
    conversation = await open_conversation(StagedJournal(MemoryJournal()), tail_bytes=tail_bytes)
    small, large = Frame(Kind.UPDATE, b"x" * 10), Frame(Kind.UPDATE, b"x" * 20_000)
    await conversation.publish([small] * 100 + [large] * 2 + [small] * 3)
    cursor = conversation.attach()
    pages = []
    while cursor.position < conversation.head:
        pages.append(len((await cursor.next(90, 1000)).entries))
    assert pages == [90, 10, 1, 1, 3]  # of many short ones nothing follows for what comes next
    assert len(await conversation.read(after=99, limit=9, max_bytes=20_010)) == 2


async def test_what_falls_off_the_tail_leaves_memory() -> None:
    gone: list[int] = []

    class Body(bytes):
        def __del__(self) -> None:
            gone.append(len(self))

    conversation = await open_conversation(NoJournal(), tail_bytes=30_000)
    for size in (9_999, 9_998, 9_997):
        await conversation.publish([Frame(Kind.UPDATE, Body(size))])
        gc.collect()
    assert gone == [9_999]  # at once, although most are still there


# ---------------------------------------------------------------- where it begins


@pytest.mark.parametrize("limit", [1, 7, 512])
@pytest.mark.parametrize("tail_bytes", [SMALL, 1_000_000], ids=["small tail", "large tail"])
@pytest.mark.parametrize("after", [0, 1, 25, 38, 49])
async def test_it_begins_behind_the_entry_that_was_named(after: int, tail_bytes: int, limit: int) -> None:
    conversation, _ = await conversation_of(50, tail_bytes=tail_bytes)
    assert await what_is_told(conversation, after=after, limit=limit) == [*range(after + 1, 51), "caught up"]


async def test_at_the_head_it_has_caught_up_at_once() -> None:
    conversation, _ = await conversation_of(5)
    reader = Reader(conversation.attach(after=5))
    with anyio.fail_after(10):
        await reader.step()
        assert reader.told == ["caught up"]
        await conversation.publish(frames(6, 6))
        await reader.step()
    assert reader.told == ["caught up", 6]


async def test_in_an_empty_conversation_it_has_caught_up_at_once() -> None:
    assert await what_is_told(await open_conversation()) == ["caught up"]


@pytest.mark.parametrize("after", [6, 100, -1])
async def test_it_cannot_begin_behind_an_entry_that_is_not_there(after: int) -> None:
    conversation, _ = await conversation_of(5)
    with pytest.raises(CursorAhead) as caught:
        conversation.attach(after=after)
    assert (caught.value.session_id, caught.value.after, caught.value.head) == (SESSION.id, after, 5)


async def test_another_epoch_begins_at_the_beginning() -> None:
    conversation, _ = await conversation_of(5)
    reader = Reader(conversation.attach(after=300, epoch="another"))
    assert reader.cursor.epoch == conversation.epoch != "another"
    with anyio.fail_after(10):
        await reader.step()
    assert reader.told == [1, 2, 3, 4, 5, "caught up"]


async def test_the_same_epoch_begins_behind_the_entry() -> None:
    conversation, _ = await conversation_of(5)
    reader = Reader(conversation.attach(after=3, epoch=conversation.epoch))
    with anyio.fail_after(10):
        await reader.step()
    assert reader.told == [4, 5, "caught up"]


# ---------------------------------------------------------------- caught up


@pytest.mark.parametrize("tail_bytes", [SMALL, 1_000_000], ids=["small tail", "large tail"])
async def test_it_catches_up_once_though_the_stream_never_stops(tail_bytes: int) -> None:
    conversation, _ = await conversation_of(30, tail_bytes=tail_bytes)
    reader = Reader(conversation.attach())
    batch_of_thirty = []
    with anyio.fail_after(10):
        for step in range(50):
            await conversation.publish(frames(31 + 7 * step, 37 + 7 * step))  # as fast as it reads
            told_before = len(reader.told)
            await reader.step(7)
            batch = reader.told[told_before:]
            if 30 in batch:
                batch_of_thirty = batch
    assert reader.seqs == list(range(1, 351))
    assert batch_of_thirty[-1] == "caught up"
    assert reader.told.count("caught up") == 1


# ---------------------------------------------------------------- gaps


async def after_a_restart(count: int, *, trimmed: int) -> tuple[Conversation, StagedJournal]:
    """Return a conversation with nothing in memory yet, and its journal, of which the oldest are gone."""
    _, journal = await conversation_of(count)
    await journal.trim(SESSION.id, through=trimmed)
    return await open_conversation(journal, tail_bytes=SMALL), journal


@pytest.mark.parametrize("limit", [1, 3, 512])
@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (0, [(1, 4), 5, 6, 7, 8, "caught up"]),
        (2, [(3, 4), 5, 6, 7, 8, "caught up"]),
        (3, [(4, 4), 5, 6, 7, 8, "caught up"]),
        (4, [5, 6, 7, 8, "caught up"]),
        (6, [7, 8, "caught up"]),
        (8, ["caught up"]),
    ],
)
async def test_what_was_trimmed_is_told_as_a_gap(after: int, expected: list[object], limit: int) -> None:
    conversation, _ = await after_a_restart(8, trimmed=4)
    assert await what_is_told(conversation, after=after, limit=limit) == expected


@pytest.mark.parametrize(("after", "expected"), [(0, (1, 8)), (5, (6, 8))])
async def test_everything_trimmed_is_one_gap(after: int, expected: tuple[int, int]) -> None:
    conversation, _ = await after_a_restart(8, trimmed=8)
    reader = Reader(conversation.attach(after=after))
    with anyio.fail_after(10):
        await reader.step()
        await conversation.publish(frames(9, 9))
        await reader.step()
    assert reader.told == [expected, "caught up", 9]


async def test_a_gap_may_open_under_a_reader() -> None:
    conversation, journal = await after_a_restart(12, trimmed=0)
    reader = Reader(conversation.attach())
    with anyio.fail_after(10):
        await reader.step(3)
        await journal.trim(SESSION.id, through=7)
        await reader.step(3)
        await journal.trim(SESSION.id, through=12)
        await reader.step(3)
    assert reader.told == [1, 2, 3, (4, 7), 8, 9, 10, (11, 12), "caught up"]


async def test_a_gap_shows_nothing_that_is_not_delivered_yet() -> None:
    conversation, journal = await after_a_restart(10, trimmed=5)
    reader = Reader(conversation.attach())
    hold = journal.hold_answer("append")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conversation.publish, frames(11, 13))
            with hold:
                await hold.reached.wait()
                await reader.step()
                assert reader.told == [(1, 5), 6, 7, 8, 9, 10, "caught up"]
                assert [entry.seq for entry in await conversation.read(after=0, limit=100)] == [
                    6,
                    7,
                    8,
                    9,
                    10,
                ]
        await reader.step()
        await conversation.end(SESSION)
        await reader.read_to_the_end()
    assert reader.told == [(1, 5), 6, 7, 8, 9, 10, "caught up", 11, 12, 13]


async def test_everything_trimmed_shows_nothing_that_is_not_delivered_yet() -> None:
    conversation, journal = await after_a_restart(10, trimmed=10)
    reader = Reader(conversation.attach())
    hold = journal.hold_answer("append")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conversation.publish, frames(11, 13))
            with hold:
                await hold.reached.wait()
                await reader.step()
                assert reader.told == [(1, 10), "caught up"]
        await reader.step()
    assert reader.told == [(1, 10), "caught up", 11, 12, 13]


# ---------------------------------------------------------------- the tail


async def test_who_keeps_up_never_reads_the_journal() -> None:
    conversation, journal = await conversation_of(0)
    reader = Reader(conversation.attach())
    with anyio.fail_after(10):
        await reader.step()
        for number in range(1, 101):
            await conversation.publish(frames(number, number))
            await reader.step()
    assert reader.seqs == list(range(1, 101))
    assert journal.calls["read"] == 0


async def test_who_falls_off_the_tail_reads_on_from_the_journal() -> None:
    conversation, journal = await conversation_of(0)
    reader = Reader(conversation.attach())
    with anyio.fail_after(10):
        await reader.step()
        for number in range(1, 101):
            await conversation.publish(frames(number, number))
        await reader.read_until(lambda: reader.cursor.position == 100, limit=13)
    assert reader.seqs == list(range(1, 101))
    assert journal.calls["read"] > 0


@pytest.mark.parametrize("read", [0, 3, 5])
async def test_what_was_dropped_from_memory_is_read_from_the_journal(read: int) -> None:
    conversation, journal = await conversation_of(5, tail_bytes=1_000_000)
    reader = Reader(conversation.attach())
    with anyio.fail_after(10):
        if read:
            await reader.step(limit=read)
        conversation.drop_tail()
        await conversation.publish(frames(6, 7))
        await reader.read_until(lambda: 7 in reader.seqs)
    assert reader.seqs == [1, 2, 3, 4, 5, 6, 7]
    assert journal.calls["read"] == (0 if read == 5 else 1)
    assert await what_is_told(conversation, after=5) == [6, 7, "caught up"]


async def test_an_entry_larger_than_the_tail_is_delivered() -> None:
    conversation, journal = await conversation_of(3)
    reader = Reader(conversation.attach(after=3))
    with anyio.fail_after(10):
        await reader.step()
        huge = Frame(Kind.UPDATE, b"x" * 50_000)
        await conversation.publish([huge])
        await reader.step()
        assert reader.entries[-1].frame == huge
        await conversation.publish([huge, *frames(5, 6)])
        await reader.step(1)
        await reader.step(5)
    assert reader.seqs == [4, 5, 6, 7]
    assert journal.calls["read"] > 0  # the second one did not stay in memory beside others


async def test_a_hundred_cursors_at_their_own_pace() -> None:
    random = Random(2)
    journal = StagedJournal(MemoryJournal(), always=anyio.lowlevel.checkpoint)
    conversation = await open_conversation(journal, tail_bytes=SMALL)
    readers = [Reader(conversation.attach()) for _ in range(100)]

    async def read(reader: Reader, limit: int, pause: int) -> None:
        while reader.cursor.position < 300:
            await reader.step(limit)
            for _ in range(pause):
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for reader in readers:
                tasks.start_soon(read, reader, random.choice([1, 5, 50]), random.choice([0, 1, 10]))
            for number in range(1, 301, 3):
                await conversation.publish(frames(number, number + 2))
    for reader in readers:
        assert reader.told == ["caught up", *range(1, 301)]


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("after", [0, 3, 5])
async def test_it_ends_once_everything_was_read(after: int) -> None:
    conversation, _ = await conversation_of(5)
    reader, late = Reader(conversation.attach(after=after)), None
    await conversation.end(SESSION)
    with anyio.fail_after(10):
        await reader.read_to_the_end(limit=2)
        late = Reader(conversation.attach(after=after))
        await late.read_to_the_end()
        with pytest.raises(anyio.EndOfStream):
            await reader.step()
    assert reader.told == late.told == [*range(after + 1, 6), "caught up"]


async def test_who_waits_hears_of_the_end() -> None:
    conversation, _ = await conversation_of(2)
    readers = [Reader(conversation.attach(after=2)) for _ in range(3)]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for reader in readers:
                tasks.start_soon(reader.read_to_the_end)
            await anyio.wait_all_tasks_blocked()
            await conversation.aclose()
    assert [reader.told for reader in readers] == [["caught up"]] * 3


# ---------------------------------------------------------------- interrupted


async def test_a_journal_that_cannot_be_read_keeps_the_place() -> None:
    conversation, journal = await conversation_of(50)
    reader = Reader(conversation.attach())
    with anyio.fail_after(10):
        await reader.step(10)
        journal.fail("read")
        with pytest.raises(JournalError):
            await reader.step(10)
        assert reader.cursor.position == 10
        await reader.read_until(lambda: "caught up" in reader.told, limit=10)
    assert reader.told == [*range(1, 51), "caught up"]


async def slow_past() -> Reader:
    """Return a reader of fifty entries, whose journal has checkpoints."""
    conversation, journal = await conversation_of(50)
    journal = StagedJournal(journal, always=anyio.lowlevel.checkpoint)
    conversation = await open_conversation(journal, tail_bytes=SMALL)
    await conversation.end(SESSION)
    return Reader(conversation.attach())


async def test_a_cancelled_next_loses_nothing() -> None:
    reader = await slow_past()
    at = 1
    with anyio.fail_after(10):
        while len(reader.entries) < 50:
            with anyio.CancelScope() as scope:
                step = Interruption(reader.step(5), at=at, cancel=scope.cancel)
                await step
            at = at + 1 if scope.cancelled_caught else 1
        await reader.read_to_the_end()
    assert reader.told == [*range(1, 51), "caught up"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_natively_cancelled_next_loses_nothing() -> None:
    reader = await slow_past()
    at = 1
    with anyio.fail_after(10):
        while len(reader.entries) < 50:
            _, cancelled = await interrupt_natively(reader.step(5), at=at)
            at = at + 1 if cancelled else 1
        await reader.read_to_the_end()
    assert reader.told == [*range(1, 51), "caught up"]


async def test_a_cancelled_wait_loses_nothing() -> None:
    conversation, _ = await conversation_of(0)
    reader = Reader(conversation.attach())
    with anyio.fail_after(10):
        await reader.step()
        for number in range(1, 11):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reader.step)
                await anyio.wait_all_tasks_blocked()
                if number % 2:
                    await conversation.publish(frames(number, number))  # at the same moment
                tasks.cancel_scope.cancel()
            if not number % 2:
                await conversation.publish(frames(number, number))
        await conversation.end(SESSION)
        await reader.read_to_the_end()
    assert reader.told == ["caught up", *range(1, 11)]
