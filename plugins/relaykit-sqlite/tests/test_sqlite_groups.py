"""Calls that are made at once share a transaction, and what one of them is refused harms no other."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from relaykit.conversation import Entry, Frame, JournalState, Kind
from relaykit.errors import (
    DuplicateRole,
    JournalConflict,
    JournalError,
    RelaykitError,
    StaleVersion,
    StoreError,
)
from relaykit.session import Activity, SessionFilter
from relaykit.testing.journal_contract import ended_session, make_entries
from relaykit.testing.store_contract import make_session, next_version
from relaykit_sqlite.database import Database
from relaykit_sqlite.journal import SqliteJournal
from relaykit_sqlite.storage import open_sqlite
from relaykit_sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

Opened = tuple[SqliteStore, SqliteJournal]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    async with open_sqlite(tmp_path / "relay.db") as parts:
        yield parts


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each group had."""
    sizes: list[int] = []
    run = Database.run

    def counted(self: Database, requests: Any) -> None:
        sizes.append(len(requests))
        run(self, requests)

    monkeypatch.setattr(Database, "run", counted)
    return sizes


async def in_one_group(store: SqliteStore, *calls: Callable[[], Awaitable[object]]) -> list[object]:
    """Make calls in this order while the thread is busy; return what each returned, or the error that it raised."""
    outcomes: list[object] = [None] * len(calls)
    thread = store._thread
    busy, go_on = threading.Event(), threading.Event()

    def keep_busy(_: Database) -> None:
        busy.set()
        assert go_on.wait(30)

    async def one(at: int, call: Callable[[], Awaitable[object]]) -> None:
        try:
            outcomes[at] = await call()
        except RelaykitError as error:
            outcomes[at] = error

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(thread.run, keep_busy, writes=False, failure=StoreError))
            try:
                while not busy.is_set():
                    await anyio.lowlevel.checkpoint()
                for at, call in enumerate(calls):
                    tasks.start_soon(one, at, call)
                    while len(thread._collected.requests) <= at:
                        await anyio.lowlevel.checkpoint()
            finally:
                go_on.set()
    return outcomes


async def test_fifty_who_write_in_step_share_their_commits(opened: Opened, groups: list[int]) -> None:
    _, journal = opened
    epochs = {name: (await journal.open(make_session(name))).epoch for name in (f"s{at}" for at in range(50))}
    groups.clear()

    async def write(name: str) -> None:
        for first in range(1, 21):
            await journal.append(name, epochs[name], make_entries(first, first))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for name in epochs:
                tasks.start_soon(write, name)
    assert sum(groups) == 50 * 20
    assert len(groups) <= 60  # 20 of them, and some to get into step
    for name in epochs:
        assert list(await journal.read(name, after=0, limit=100)) == make_entries(1, 20)


async def test_what_one_is_refused_harms_no_other(opened: Opened, groups: list[int]) -> None:
    store, journal = opened
    first = make_session("s1", agent_id="auth")
    await store.create(first)
    epochs = {name: (await journal.open(make_session(name))).epoch for name in ("s1", "s2", "s3")}
    groups.clear()
    outcomes = await in_one_group(
        store,
        lambda: journal.append("s1", epochs["s1"], make_entries(1, 3)),
        lambda: store.create(make_session("s2", agent_id="auth")),
        lambda: journal.append("s2", epochs["s2"], make_entries(2, 3)),
        lambda: store.save(next_version(first, reason="stale"), expected_version=7),
        lambda: store.create(make_session("s3")),
        lambda: journal.append("s3", epochs["s3"], make_entries(1, 300)),
        lambda: store.save(next_version(first, reason="won"), expected_version=1),
        lambda: store.touch({"s3": Activity(first.created_at, 4)}),
        lambda: store.get("s1"),
    )
    assert groups == [1, 9]
    kinds = [type(outcome) for outcome in outcomes[:8]]
    nothing = type(None)
    assert kinds == [
        nothing,
        DuplicateRole,
        JournalConflict,
        StaleVersion,
        nothing,
        nothing,
        nothing,
        nothing,
    ]
    assert [error.plugin for error in outcomes if isinstance(error, JournalConflict | StaleVersion)] == [
        "sqlite",
        "sqlite",
    ]
    assert outcomes[8] == next_version(first, reason="won")
    assert list(await journal.read("s1", after=0, limit=10)) == make_entries(1, 3)
    assert list(await journal.read("s2", after=0, limit=10)) == []
    assert list(await journal.read("s3", after=0, limit=1000)) == make_entries(1, 300)
    assert await store.get("s3") == make_session("s3", activity=Activity(first.created_at, 4))
    assert await store.count(SessionFilter()) == 2


async def test_what_one_cannot_store_takes_no_other_with_it(opened: Opened) -> None:
    """The disk has room for the small ones: they are stored, though they shared a transaction with a large one."""
    store, journal = opened
    names = [f"s{at}" for at in range(9)]
    epochs = {name: (await journal.open(make_session(name))).epoch for name in names}
    await limit_pages(store, more=60)
    large = [make_entries(1, 1)[0]._replace(frame=Frame(Kind.UPDATE, b'"' + b"x" * 500_000 + b'"'))]

    def append(name: str) -> Callable[[], Awaitable[object]]:
        batch: list[Entry] = large if name == "s4" else make_entries(1, 2)
        return lambda: journal.append(name, epochs[name], batch)

    outcomes = await in_one_group(store, *(append(name) for name in names))
    failed = {name: outcome for name, outcome in zip(names, outcomes, strict=True) if outcome is not None}
    assert list(failed) == ["s4"]
    assert isinstance(failed["s4"], JournalError)
    assert not isinstance(failed["s4"], JournalConflict)
    for name in names:
        held = list(await journal.read(name, after=0, limit=10))
        assert held == ([] if name == "s4" else make_entries(1, 2))
    await limit_pages(store, more=10_000)
    await journal.append("s4", epochs["s4"], large)
    assert list(await journal.read("s4", after=0, limit=10)) == large


async def test_who_reads_sees_what_was_written_before_in_the_same_group(
    opened: Opened, groups: list[int]
) -> None:
    store, journal = opened
    epoch = (await journal.open(make_session())).epoch
    groups.clear()
    outcomes = await in_one_group(
        store,
        lambda: journal.find("s1"),
        lambda: journal.append("s1", epoch, make_entries(1, 3)),
        lambda: journal.read("s1", after=1, limit=10),
        lambda: journal.trim("s1", through=2),
        lambda: journal.read("s1", after=0, limit=10),
        lambda: journal.append("s1", epoch, make_entries(4, 4)),
        lambda: journal.close(ended_session("s1")),
        lambda: journal.find("s1"),
        lambda: journal.delete("s1"),
        lambda: journal.read("s1", after=0, limit=10),
    )
    assert groups == [1, 10]
    assert outcomes[2] == make_entries(2, 3)
    assert outcomes[4] == make_entries(3, 3)
    assert outcomes[7] == ended_session("s1")
    assert outcomes[9] == ()
    assert [outcomes[at] for at in (1, 3, 5, 6, 8)] == [None] * 5


async def test_what_is_closed_and_opened_again_in_one_group_goes_on_behind_its_head(opened: Opened) -> None:
    store, journal = opened
    epoch = (await journal.open(make_session())).epoch
    outcomes = await in_one_group(
        store,
        lambda: journal.append("s1", epoch, make_entries(1, 3)),
        lambda: journal.close(ended_session("s1")),
        lambda: journal.open(make_session()),
        lambda: journal.append("s1", epoch, make_entries(4, 4)),
    )
    assert outcomes == [None, None, JournalState(epoch, 1, 3), None]
    assert list(await journal.read("s1", after=0, limit=10)) == make_entries(1, 4)


async def limit_pages(store: SqliteStore, *, more: int) -> None:
    """Let the database grow by so many pages and no further."""

    def limit(database: Database) -> None:
        connection = database._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + more}")

    await store._thread.run(limit, writes=False, failure=StoreError)
