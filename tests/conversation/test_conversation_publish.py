"""Conversation.publish: numbers without holes, recorded before shown, and nothing lost or doubled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from random import Random

import anyio
import anyio.lowlevel
import pytest

from relaykit.conversation import Conversation, Entry, Frame, Kind, MemoryJournal
from relaykit.errors import CursorAhead, JournalConflict, JournalError
from relaykit.session import SessionFilter
from relaykit.testing import FakeClock, Interruption
from relaykit.testing.store_contract import next_version
from support.conversations import SESSION, Reader, frames, open_conversation
from support.journals import StagedJournal
from support.native import interrupt_natively

pytestmark = pytest.mark.anyio


async def held(journal: StagedJournal | MemoryJournal) -> list[Entry]:
    return list(await journal.read(SESSION.id, after=0, limit=10_000))


async def delivered(conversation: Conversation) -> list[Entry]:
    reader = Reader(conversation.attach())
    await reader.read_until(lambda: "caught up" in reader.told)
    return reader.entries


async def check_agreement(conversation: Conversation, journal: StagedJournal) -> list[Entry]:
    """Check that the journal and the clients have the same, numbered without holes; return it."""
    entries = await held(journal)
    assert [entry.seq for entry in entries] == list(range(1, conversation.head + 1))
    assert await delivered(conversation) == entries
    return entries


# ---------------------------------------------------------------- numbers


async def test_entries_are_numbered_from_one_and_dated() -> None:
    clock = FakeClock()
    conversation = Conversation(journal=MemoryJournal(), clock=clock)
    await conversation.open(SESSION)
    first = await conversation.publish(frames(1, 2))
    later = clock.advance(5)
    second = await conversation.publish(frames(3, 3))
    assert [entry.seq for entry in (*first, *second)] == [1, 2, 3]
    assert [entry.at for entry in second] == [later]
    assert [entry.frame for entry in (*first, *second)] == frames(1, 3)
    assert conversation.head == 3


async def test_nothing_said_is_no_entry() -> None:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal)
    assert list(await conversation.publish([])) == []
    assert conversation.head == 0
    assert journal.calls["append"] == 0


async def test_concurrent_publishers_leave_no_hole() -> None:
    journal = StagedJournal(MemoryJournal(), always=anyio.lowlevel.checkpoint)
    conversation = await open_conversation(journal)
    random = Random(1)
    published: dict[int, list[Entry]] = {publisher: [] for publisher in range(20)}

    async def publish(publisher: int) -> None:
        said = 0
        for _ in range(20):
            count = random.randint(1, 3)
            batch = [Frame(Kind.UPDATE, b"%d %d" % (publisher, said + n)) for n in range(count)]
            said += count
            entries = await conversation.publish(batch)
            first = entries[0].seq
            assert [entry.seq for entry in entries] == list(range(first, first + count))
            published[publisher] += entries

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for publisher in published:
                tasks.start_soon(publish, publisher)
        entries = await check_agreement(conversation, journal)
    assert sorted((entry for said in published.values() for entry in said), key=lambda e: e.seq) == entries
    for publisher, said in published.items():
        assert [entry.frame.body for entry in said] == [b"%d %d" % (publisher, n) for n in range(len(said))]


async def test_the_running_turn_is_known() -> None:
    conversation = await open_conversation()
    assert conversation.running_turn == ""
    await conversation.publish([Frame(Kind.PROMPT, ref="t1"), *frames(1, 1)])
    assert conversation.running_turn == "t1"
    await conversation.publish([Frame(Kind.TURN_END, ref="t1")])
    assert conversation.running_turn == ""


# ---------------------------------------------------------------- recorded, then shown


async def test_nobody_sees_an_entry_before_its_append_returned() -> None:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal)
    hold = journal.hold_answer("append")
    reader = Reader(conversation.attach())
    with anyio.fail_after(10):
        await reader.step()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conversation.publish, frames(1, 3))
            tasks.start_soon(reader.step)
            with hold:
                await hold.reached.wait()
                await anyio.wait_all_tasks_blocked()
                assert len(await held(journal)) == 3
                assert reader.told == ["caught up"]
                assert conversation.head == 0
                assert list(await conversation.read(after=0, limit=10)) == []
                with pytest.raises(CursorAhead):
                    conversation.attach(after=1)
    assert reader.told == ["caught up", 1, 2, 3]


async def test_a_publisher_waits_for_the_one_before() -> None:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal)
    hold = journal.hold("append")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conversation.publish, frames(1, 2))
            with hold:
                await hold.reached.wait()
                tasks.start_soon(conversation.publish, frames(3, 3))
                await anyio.wait_all_tasks_blocked()
                assert journal.calls["append"] == 1
    assert [entry.frame for entry in await check_agreement(conversation, journal)] == frames(1, 3)


# ---------------------------------------------------------------- a journal that fails


async def test_an_append_that_failed_but_happened_is_a_success() -> None:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal)
    await conversation.publish(frames(1, 1))
    for number in range(2, 10, 2):
        journal.lose_answer("append")
        entries = await conversation.publish(frames(number, number + 1))
        assert [entry.seq for entry in entries] == [number, number + 1]
        assert conversation.head == number + 1
    assert [entry.frame for entry in await check_agreement(conversation, journal)] == frames(1, 9)


@pytest.mark.parametrize("times", [1, 3])
async def test_an_append_that_failed_uses_no_number_up(times: int) -> None:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal)
    await conversation.publish(frames(1, 1))
    for _ in range(times):
        journal.fail("append")
        with pytest.raises(JournalError):
            await conversation.publish(frames(0, 0))
    await conversation.publish(frames(2, 3))
    assert [entry.frame for entry in await check_agreement(conversation, journal)] == frames(1, 3)


@pytest.mark.parametrize("happened", [False, True])
@pytest.mark.parametrize("times", [1, 3])
async def test_what_cannot_be_found_out_is_found_out_before_the_next(times: int, *, happened: bool) -> None:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal)
    await conversation.publish(frames(1, 1))
    if happened:
        journal.lose_answer("append")
    else:
        journal.fail("append")
    for _ in range(times):
        journal.fail("read")
    with pytest.raises(JournalError):
        await conversation.publish(frames(2, 3))
    assert conversation.head == 1
    for _ in range(times - 1):
        with pytest.raises(JournalError):
            await conversation.publish(frames(0, 0))
    entries = await conversation.publish(frames(4, 5))
    assert [entry.seq for entry in entries] == ([4, 5] if happened else [2, 3])
    said = frames(1, 5) if happened else frames(1, 1) + frames(4, 5)
    assert [entry.frame for entry in await check_agreement(conversation, journal)] == said


async def test_a_second_writer_is_fenced_off() -> None:
    journal = MemoryJournal()
    ours, theirs = await open_conversation(journal), await open_conversation(journal)
    await ours.publish(frames(1, 2))
    with pytest.raises(JournalConflict):
        await theirs.publish(frames(3, 3))
    assert theirs.head == 0
    await ours.publish(frames(3, 3))
    assert [entry.frame for entry in await held(journal)] == frames(1, 3)


async def test_a_conversation_goes_on_where_its_journal_ends() -> None:
    journal = MemoryJournal()
    before = await open_conversation(journal)
    await before.publish(frames(1, 3))
    after = await open_conversation(journal)
    assert (after.epoch, after.head) == (before.epoch, 3)
    await after.publish(frames(4, 4))
    assert [entry.frame for entry in await delivered(after)] == frames(1, 4)


# ---------------------------------------------------------------- the end


async def test_after_the_end_nothing_is_said() -> None:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal)
    await conversation.publish(frames(1, 1))
    ended = next_version(SESSION, reason="done")
    await conversation.end(ended)
    await conversation.aclose()
    with pytest.raises(JournalConflict):
        await conversation.publish(frames(2, 2))
    assert [entry.frame for entry in await held(journal)] == frames(1, 1)
    assert list(await journal.ended(SessionFilter(), before=FakeClock().now() + timedelta(days=1))) == [ended]


async def test_the_end_waits_for_what_is_being_said() -> None:
    journal = StagedJournal(MemoryJournal())
    conversation = await open_conversation(journal)
    hold = journal.hold("append")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conversation.publish, frames(1, 2))
            with hold:
                await hold.reached.wait()
                tasks.start_soon(conversation.end, SESSION)
                await anyio.wait_all_tasks_blocked()
                assert journal.calls["close"] == 0
    assert [entry.frame for entry in await delivered(conversation)] == frames(1, 2)


# ---------------------------------------------------------------- cancelled publishers

Publish = Callable[[Conversation, int], Awaitable[tuple[bool, bool]]]


async def publish_in_a_scope(conversation: Conversation, at: int) -> tuple[bool, bool]:
    with anyio.CancelScope() as scope:
        call = Interruption(conversation.publish(frames(10, 12)), at=at, cancel=scope.cancel)
        await call
    return call.happened, scope.cancelled_caught


async def publish_in_a_native_task(conversation: Conversation, at: int) -> tuple[bool, bool]:
    return await interrupt_natively(conversation.publish(frames(10, 12)), at=at)


async def cancel_publish_at(at: int, publish: Publish, *, crowded: bool) -> tuple[bool, bool]:
    """Cancel one publisher, let others go on, and check that all agree on what happened."""
    journal = StagedJournal(MemoryJournal(), always=anyio.lowlevel.checkpoint)
    conversation = await open_conversation(journal)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            if crowded:
                tasks.start_soon(partial(conversation.publish, frames(1, 1)))
                tasks.start_soon(partial(conversation.publish, frames(2, 2)))
                await anyio.lowlevel.checkpoint()
            reached, cancelled = await publish(conversation, at)
        if publish is publish_in_a_scope:  # what is recorded is delivered then and there
            await check_agreement(conversation, journal)
        await conversation.publish(frames(20, 20))
        entries = await check_agreement(conversation, journal)
    said = [entry.frame for entry in entries]
    ours = [frame for frame in said if frame in frames(10, 12)]
    assert ours in ([], frames(10, 12)) if cancelled else ours == frames(10, 12)
    others = [frame for frame in said if frame not in ours]
    assert sorted(others, key=lambda f: f.body) == (frames(1, 2) if crowded else []) + frames(20, 20)
    return reached, cancelled


@pytest.mark.parametrize("crowded", [False, True], ids=["alone", "crowded"])
async def test_a_publisher_cancelled_anywhere(*, crowded: bool) -> None:
    at = 1
    while (await cancel_publish_at(at, publish_in_a_scope, crowded=crowded))[0]:
        at += 1
    assert at > 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("crowded", [False, True], ids=["alone", "crowded"])
async def test_a_publisher_cancelled_natively_anywhere(*, crowded: bool) -> None:
    at, cancelled = 1, 0
    while (outcome := await cancel_publish_at(at, publish_in_a_native_task, crowded=crowded))[0]:
        cancelled += outcome[1]
        at += 1
    assert at > 2
    assert cancelled > 0
