"""Entries that are alike are one row: nobody who reads, trims or appends again can tell."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaykit.conversation import Entry, Frame, Journal, Kind, MemoryJournal
from relaykit.errors import JournalConflict
from relaykit.testing.store_contract import make_session
from relaykit.testing.transcripts import SAID_AT
from relaykit_sqlite import schema
from relaykit_sqlite.runs import RUN_BYTES, WIDTH, entries_of, rows_of
from relaykit_sqlite.storage import open_sqlite
from relaykit_sqlite.values import microseconds

UPDATE = "session/update"

frames = st.builds(
    Frame,
    st.sampled_from([Kind.UPDATE, Kind.PROMPT]),
    st.binary(max_size=8),
    st.sampled_from(["", "t1", "\ud800"]),
    st.sampled_from([UPDATE, "ü"]),
    st.booleans(),
)
batches = st.lists(st.tuples(st.sampled_from([0, 1]), frames), max_size=12)


def updates(first: int, last: int, *, second: int = 0, size: int = 10) -> list[Entry]:
    """Return updates of one moment."""
    at = SAID_AT + timedelta(seconds=second)
    return [
        Entry(seq, at, Frame(Kind.UPDATE, b"%d" % seq + b"." * size, "", UPDATE))
        for seq in range(first, last + 1)
    ]


@given(batches, st.integers(0, 13), st.integers(0, 13))
def test_what_becomes_rows_comes_back(batch: list[tuple[int, Frame]], after: int, limit: int) -> None:
    entries = [
        Entry(seq, SAID_AT + timedelta(seconds=second), frame)
        for seq, (second, frame) in enumerate(batch, start=1)
    ]
    flat = rows_of(entries)
    rows = [flat[at : at + WIDTH] for at in range(0, len(flat), WIDTH)]
    assert entries_of(rows, 0, after=after, limit=limit) == entries[after:][:limit]
    alike = [(entry.at, entry.frame._replace(body=b"")) for entry in entries]
    assert len(rows) == sum(each != before for each, before in zip(alike, [None, *alike], strict=False))


def test_a_row_is_no_larger_than_its_bound() -> None:
    entries = [*updates(1, 1000, size=1000), *updates(1001, 1001, size=2 * RUN_BYTES), *updates(1002, 1003)]
    flat = rows_of(entries)
    bodies = flat[3::WIDTH]
    assert sum(map(len, bodies)) == sum(len(entry.frame.body) for entry in entries)
    assert sorted(map(len, bodies))[-2] <= RUN_BYTES < len(bodies[-2])
    assert len(bodies) < 13


@pytest.mark.anyio
async def test_what_is_said_at_once_is_one_row(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "relay.db") as (_, journal):
        epoch = (await journal.open(make_session())).epoch
        await journal.append("s1", epoch, updates(1, 100))
    with closing(sqlite3.connect(tmp_path / "relay.db")) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (1,)


@pytest.mark.anyio
async def test_what_is_trimmed_is_gone_from_the_middle_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with open_sqlite(path) as (_, journal):
        epoch = (await journal.open(make_session())).epoch
        await journal.append("s1", epoch, updates(1, 9))
        for through in (4, 8):
            await journal.trim("s1", through=through)
            assert list(await journal.read("s1", after=0, limit=20)) == updates(through + 1, 9)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT body, sizes FROM entries").fetchall() == [(b"9..........", None)]
    async with open_sqlite(path) as (_, journal):
        state = await journal.open(make_session())
        assert (state.first, state.head) == (9, 9)


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(6))
async def test_it_does_whatever_memory_does(tmp_path: Path, seed: int) -> None:
    """Appends, also again and wrong ones, pages, trims and reopening, in any order."""
    chance = random.Random(seed)
    memory = MemoryJournal()
    path = tmp_path / "relay.db"
    epoch = (await memory.open(make_session())).epoch
    head = 0
    last: list[Entry] = []
    for _ in range(4):
        async with open_sqlite(path) as (_, journal):
            own = await journal.open(make_session())
            state = await memory.open(make_session())
            assert (own.first, own.head) == (state.first, state.head)
            for _ in range(20):
                if chance.random() < 0.5:
                    batch = updates(head + 1, head + chance.randint(1, 20), second=chance.randint(0, 1))
                    if chance.random() < 0.3:  # of another kind amid the others
                        place = chance.randrange(len(batch))
                        batch[place] = batch[place]._replace(frame=Frame(Kind.PROMPT, b"{}", "t"))
                    last, head = batch, batch[-1].seq
                elif chance.random() < 0.3:
                    through = chance.randint(0, head)
                    await memory.trim("s1", through=through)
                    await journal.trim("s1", through=through)
                    continue
                else:  # the last again, whole or not, or changed
                    batch = last[chance.randrange(3) :]
                    if chance.random() < 0.3:
                        batch = [entry._replace(at=SAID_AT) for entry in batch]
                assert await taken(memory, epoch, batch) == await taken(journal, own.epoch, batch)
                after, limit = chance.randint(0, head + 1), chance.randint(0, 30)
                most = chance.choice([None, 0, 30, 100])
                expected = list(await memory.read("s1", after=after, limit=limit, max_bytes=most))
                assert list(await journal.read("s1", after=after, limit=limit, max_bytes=most)) == expected


async def taken(journal: Journal, epoch: str, batch: list[Entry]) -> bool:
    """Tell whether a journal takes a batch."""
    try:
        await journal.append("s1", epoch, batch)
    except JournalConflict:
        return False
    return True


@pytest.mark.anyio
async def test_entries_of_the_first_version_are_read_and_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "relay.db"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        async with open_sqlite(path) as (_, journal):
            epoch = (await journal.open(make_session())).epoch
    at = microseconds(SAID_AT)
    with closing(sqlite3.connect(path)) as connection:
        for entry in updates(1, 5):
            row = (1 << schema.SEQ_BITS | entry.seq, at, "UPDATE", entry.frame.body, "", UPDATE, 0)
            connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        connection.commit()
    async with open_sqlite(path) as (_, journal):
        assert (await journal.open(make_session())).head == 5
        await journal.append("s1", epoch, updates(6, 8))
        assert list(await journal.read("s1", after=2, limit=5)) == updates(3, 7)
