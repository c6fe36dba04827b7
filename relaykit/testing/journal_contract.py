"""JournalContract: the tests that every `Journal` must pass.

A plugin's test suite needs no more than this, and has pytest and anyio's pytest plugin at hand::

    pytest.register_assert_rewrite("relaykit.testing")  # in conftest.py, for readable failures


    class TestSqliteJournal(JournalContract):
        @pytest.fixture
        async def journal(self, tmp_path: Path) -> AsyncIterator[Journal]:
            async with open_sqlite_journal(tmp_path / "said.db") as journal:
                yield journal

They run on every event loop that anyio's plugin offers.
"""
# ruff: noqa: S101, PLR2004, D102 -- a test suite: it asserts, and its tests' names say what they show

from __future__ import annotations

from collections.abc import MutableSequence
from datetime import timedelta
from typing import Any

import anyio
import pytest

from relaykit.conversation import Entry, Frame, Journal, JournalState, Kind
from relaykit.errors import JournalConflict
from relaykit.testing.interruption import Interruption
from relaykit.testing.keeping_contract import KeepingContract
from relaykit.testing.store_contract import make_session
from relaykit.testing.transcripts import SAID_AT, ended_session, make_entries, opened, read_all, refused

__all__ = ["JournalContract", "ended_session", "make_entries"]


class JournalContract(KeepingContract):
    """What holds for every journal. Override `journal`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def journal(self) -> Journal:
        """Return an empty journal, open while the test runs. May be an async generator."""
        raise NotImplementedError("a subclass of JournalContract overrides the fixture `journal`")

    # ------------------------------------------------------------ open

    async def test_a_transcript_begins_empty(self, journal: Journal) -> None:
        state = await journal.open(make_session())
        assert (state.first, state.head) == (1, 0)
        assert state.epoch
        assert await read_all(journal) == []

    async def test_an_epoch_is_minted_once(self, journal: Journal) -> None:
        first = await journal.open(make_session())
        await journal.append("s1", first.epoch, make_entries(1, 3))
        assert await journal.open(make_session()) == JournalState(first.epoch, 1, 3)
        assert await journal.open(make_session(version=7)) == JournalState(first.epoch, 1, 3)

    async def test_of_concurrent_opens_one_mints_the_epoch(self, journal: Journal) -> None:
        found: set[JournalState] = set()

        async def open_it() -> None:
            found.add(await journal.open(make_session()))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(open_it)
        assert len(found) == 1

    async def test_each_transcript_has_an_epoch_of_its_own(self, journal: Journal) -> None:
        first, second = await journal.open(make_session("s1")), await journal.open(make_session("s2"))
        assert first.epoch != second.epoch

    # ------------------------------------------------------------ append

    async def test_what_was_said_is_returned_whole(self, journal: Journal) -> None:
        frames = [Frame(kind) for kind in Kind]
        frames += [
            Frame(Kind.PROMPT, '{"text": "grüße 🙂"}'.encode(), "t1", "session/prompt"),
            Frame(Kind.TURN_END, b'{"code":-32603,  "message":"no"}', "t1", "session/prompt", failed=True),
            Frame(Kind.NOTICE, b'{"x":"' + b"x" * 1_000_000 + b'"}', method="active"),
            Frame(Kind.UPDATE, b'"\\u0000 \\ud83d"', method="_vendor/thing"),
        ]
        entries = [Entry(seq, SAID_AT + timedelta(seconds=seq), said) for seq, said in enumerate(frames, 1)]
        epoch = await opened(journal)
        await journal.append("s1", epoch, entries)
        assert await read_all(journal) == entries

    async def test_batches_follow_each_other(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 1))
        await journal.append("s1", epoch, make_entries(2, 5))
        await journal.append("s1", epoch, [])
        await journal.append("s1", epoch, make_entries(6, 7))
        assert await read_all(journal) == make_entries(1, 7)
        assert (await journal.open(make_session())).head == 7

    @pytest.mark.parametrize(
        "batch",
        [make_entries(3, 3), make_entries(4, 6), make_entries(2, 2) + make_entries(4, 4)],
        ids=["behind the head", "far behind the head", "inside"],
    )
    async def test_a_hole_is_refused(self, journal: Journal, batch: list[Entry]) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 1))
        await refused(journal, epoch, batch, left=make_entries(1, 1))

    async def test_another_epoch_is_refused(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await refused(journal, f"{epoch}-not", make_entries(1, 1), left=[])
        await journal.append("s1", epoch, make_entries(1, 2))
        await refused(journal, f"{epoch}-not", make_entries(1, 2), left=make_entries(1, 2))

    async def test_what_was_never_opened_takes_nothing(self, journal: Journal) -> None:
        epoch = await opened(journal, "s2")
        await refused(journal, epoch, make_entries(1, 1), left=[])

    async def test_the_same_batch_again_succeeds_and_changes_nothing(self, journal: Journal) -> None:
        epoch = await opened(journal)
        for batch in (make_entries(1, 1), make_entries(2, 4)):
            await journal.append("s1", epoch, batch)
            await journal.append("s1", epoch, batch)
        assert await read_all(journal) == make_entries(1, 4)
        await journal.append("s1", epoch, make_entries(5, 5))

    @pytest.mark.parametrize(
        "changes",
        [
            {"kind": Kind.RESULT},
            {"body": b'"something else"'},
            {"ref": "q1"},
            {"method": "session/update"},
            {"failed": True},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    async def test_another_batch_under_the_same_numbers_is_refused(
        self, journal: Journal, changes: dict[str, Any]
    ) -> None:
        epoch = await opened(journal)
        said = make_entries(1, 3)
        await journal.append("s1", epoch, said)
        other = [*said[:2], said[2]._replace(frame=said[2].frame._replace(**changes))]
        await refused(journal, epoch, other, left=said)

    async def test_another_time_makes_another_batch(self, journal: Journal) -> None:
        epoch = await opened(journal)
        said = make_entries(1, 1)
        await journal.append("s1", epoch, said)
        later = [said[0]._replace(at=said[0].at + timedelta(microseconds=1))]
        await refused(journal, epoch, later, left=said)

    @pytest.mark.parametrize("first", [1, 2, 3])
    async def test_a_batch_that_overlaps_is_refused_whole(self, journal: Journal, first: int) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 3))
        await refused(journal, epoch, make_entries(first, 5), left=make_entries(1, 3))

    async def test_of_two_writers_one_is_fenced_off(self, journal: Journal) -> None:
        epoch = await opened(journal)
        won: list[str] = []
        lost: list[str] = []

        async def write(text: str) -> None:
            try:
                await journal.append("s1", epoch, make_entries(1, 3, text=text))
            except JournalConflict:
                lost.append(text)
            else:
                won.append(text)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(write, f"writer {number}")
        assert (len(won), len(lost)) == (1, 19)
        assert await read_all(journal) == make_entries(1, 3, text=won[0])

    async def test_sessions_are_written_side_by_side(self, journal: Journal) -> None:
        ids = [f"s{number:02}" for number in range(20)]
        epochs = {session_id: await opened(journal, session_id) for session_id in ids}

        async def write(session_id: str) -> None:
            for first in range(1, 30, 3):
                batch = make_entries(first, first + 2, text=session_id)
                await journal.append(session_id, epochs[session_id], batch)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for session_id in ids:
                    tasks.start_soon(write, session_id)
        for session_id in ids:
            assert await read_all(journal, session_id) == make_entries(1, 30, text=session_id)

    # ------------------------------------------------------------ nothing is aliased

    async def test_what_was_handed_in_can_change_no_more(self, journal: Journal) -> None:
        epoch = await opened(journal)
        batch = make_entries(1, 3)
        await journal.append("s1", epoch, batch)
        batch.clear()
        assert await read_all(journal) == make_entries(1, 3)

    async def test_a_page_that_was_handed_out_stays_as_it_was(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 3))
        page = await journal.read("s1", after=0, limit=10)
        await journal.append("s1", epoch, make_entries(4, 5))
        await journal.trim("s1", through=2)
        assert list(page) == make_entries(1, 3)
        if isinstance(page, MutableSequence):
            page.clear()
        assert await read_all(journal) == make_entries(3, 5)

    # ------------------------------------------------------------ read

    async def test_pages_follow_each_other_without_a_gap(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 25))
        assert list(await journal.read("s1", after=0, limit=10)) == make_entries(1, 10)
        assert list(await journal.read("s1", after=10, limit=10)) == make_entries(11, 20)
        assert list(await journal.read("s1", after=20, limit=10)) == make_entries(21, 25)
        assert list(await journal.read("s1", after=24, limit=1)) == make_entries(25, 25)

    async def test_what_was_said_in_one_moment_can_be_read_in_parts(self, journal: Journal) -> None:
        epoch = await opened(journal)
        at_once = [entry._replace(at=SAID_AT) for entry in make_entries(1, 10)]
        await journal.append("s1", epoch, at_once)
        for after in range(11):
            assert list(await journal.read("s1", after=after, limit=3)) == at_once[after : after + 3]
        await journal.trim("s1", through=4)
        await journal.append("s1", epoch, at_once[5:])  # again
        assert await read_all(journal) == at_once[4:]

    async def test_pages_are_bounded_in_bytes_too(self, journal: Journal) -> None:
        epoch = await opened(journal)
        sizes = [10, 100, 0, 0, 1000, 10, 100_000, 10]
        entries = [
            entry._replace(frame=entry.frame._replace(body=b"x" * size))
            for entry, size in zip(make_entries(1, len(sizes)), sizes, strict=True)
        ]
        await journal.append("s1", epoch, entries)

        async def read(after: int, max_bytes: int, limit: int = 10) -> list[int]:
            page = await journal.read("s1", after=after, limit=limit, max_bytes=max_bytes)
            assert list(page) == entries[after : after + len(page)]
            return [entry.seq for entry in page]

        assert await read(0, 1110) == [1, 2, 3, 4, 5]
        assert await read(0, 1109) == [1, 2, 3, 4]
        assert await read(0, 10, limit=1) == [1]
        assert await read(0, 5) == [1]  # at least one, however large it is
        assert await read(6, 5) == [7]
        assert await read(2, 0) == [3, 4]
        assert await read(4, 1_000_000, limit=3) == [5, 6, 7]
        assert await read(5, 1_000_000) == [6, 7, 8]
        assert await read(8, 1) == []

    async def test_there_is_nothing_behind_the_head(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 2))
        assert list(await journal.read("s1", after=2, limit=10)) == []
        assert list(await journal.read("s1", after=7, limit=10)) == []
        assert list(await journal.read("nobody", after=0, limit=10)) == []

    # ------------------------------------------------------------ cancelled

    async def test_a_cancelled_open_happened_or_did_not(self, journal: Journal) -> None:
        for at in range(1, 1000):
            session = make_session(f"s{at}")
            with anyio.CancelScope() as scope:
                call = Interruption(journal.open(session), at=at, cancel=scope.cancel)
                await call
            state = await journal.open(session)
            assert (state.first, state.head) == (1, 0)
            await journal.append(session.id, state.epoch, make_entries(1, 1))
            if not call.happened:
                return
        pytest.fail("an open is suspended a thousand times")

    async def test_a_cancelled_append_happened_or_did_not(self, journal: Journal) -> None:
        epoch = await opened(journal)
        for at in range(1, 1000):
            before, batch = make_entries(1, 3 * at - 3), make_entries(3 * at - 2, 3 * at)
            with anyio.CancelScope() as scope:
                call = Interruption(journal.append("s1", epoch, batch), at=at, cancel=scope.cancel)
                await call
            held = await read_all(journal)
            assert held in (before, before + batch) if scope.cancelled_caught else held == before + batch
            await journal.append("s1", epoch, batch)
            assert await read_all(journal) == before + batch
            if not call.happened:
                return
        pytest.fail("an append is suspended a thousand times")
