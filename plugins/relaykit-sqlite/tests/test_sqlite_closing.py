"""Cancelled callers, and the end of a storage: whatever was asked for is finished, and nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from relaykit.errors import JournalError, StoreError
from relaykit.session import SessionFilter
from relaykit.testing.journal_contract import make_entries
from relaykit.testing.store_contract import make_session, next_version
from relaykit_sqlite.database import Database
from relaykit_sqlite.storage import open_sqlite
from relaykit_sqlite.store import SqliteStore
from support.native import interrupt_natively

pytestmark = pytest.mark.anyio


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "relaykit-sqlite"]


def left(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


class Busy:
    """Keeps the database's thread busy until it is let go."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._reached, self._let_go = threading.Event(), threading.Event()

    async def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        tasks.start_soon(partial(self._store._thread.run, self._work, writes=False, failure=StoreError))
        while not self._reached.is_set():
            await anyio.lowlevel.checkpoint()

    def end(self) -> None:
        self._let_go.set()

    def _work(self, _: Database) -> None:
        self._reached.set()
        assert self._let_go.wait(30)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_nothing_is_left(tmp_path: Path) -> None:
    assert threads() == []
    async with open_sqlite(tmp_path / "relay.db") as (store, journal):
        assert threads() == ["relaykit-sqlite"]
        await store.create(make_session())
        await journal.open(make_session())
    assert threads() == []
    assert left(tmp_path) == ["relay.db", "relay.db.lock"]
    with pytest.raises(StoreError, match="sqlite: the database is closed"):
        await store.get("s1")
    with pytest.raises(JournalError, match="sqlite: the database is closed"):
        await journal.find("s1")


async def test_nothing_is_left_of_what_could_not_be_opened(tmp_path: Path) -> None:
    (tmp_path / "relay.db").write_bytes(b"hello")
    with pytest.raises(StoreError):
        async with open_sqlite(tmp_path / "relay.db"):
            pass
    assert threads() == []


async def test_a_caller_that_is_cancelled_stops_waiting_and_its_call_is_done(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "relay.db") as (store, _), anyio.create_task_group() as tasks:
        busy = Busy(store)
        with anyio.fail_after(30):
            await busy.begin(tasks)
            try:
                with anyio.move_on_after(0.01) as scope:
                    await store.create(make_session())
                assert scope.cancelled_caught  # though the thread was still busy
            finally:
                busy.end()
            assert await store.get("s1") == make_session()


async def test_what_was_asked_for_is_finished_before_it_closes(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with anyio.create_task_group() as tasks, open_sqlite(path) as (store, _):
        busy = Busy(store)
        with anyio.fail_after(30):
            await busy.begin(tasks)
        for number in range(20):
            tasks.start_soon(store.create, make_session(f"s{number}"))
        await until(lambda: len(store._thread._collected.requests) == 20)
        busy.end()
    assert threads() == []
    async with open_sqlite(path) as (store, _):
        assert await store.count(SessionFilter()) == 20


async def test_a_block_that_is_cancelled_closes_it_too(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    with anyio.CancelScope() as scope:
        async with open_sqlite(path) as (store, _):
            await store.create(make_session())
            scope.cancel()
            await store.save(next_version(make_session()), expected_version=1)
    assert scope.cancelled_caught
    assert threads() == []
    assert left(tmp_path) == ["relay.db", "relay.db.lock"]
    async with open_sqlite(path) as (store, _):
        assert await store.get("s1") in (make_session(), next_version(make_session()))


async def test_opening_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with open_sqlite(tmp_path / "relay.db"):
            pytest.fail("it was cancelled")
    assert scope.cancelled_caught
    assert threads() == []
    async with open_sqlite(tmp_path / "relay.db"):
        pass


async def test_a_loop_that_works_meanwhile_is_not_blocked(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "relay.db") as (store, _), anyio.create_task_group() as tasks:
        busy = Busy(store)
        with anyio.fail_after(30):
            await busy.begin(tasks)
            tasks.start_soon(store.create, make_session())
            for _ in range(1000):
                await anyio.lowlevel.checkpoint()
        busy.end()


async def test_if_the_thread_dies_nobody_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die(*_: object) -> None:
        raise MemoryError

    async with open_sqlite(tmp_path / "relay.db") as (store, journal):
        monkeypatch.setattr(Database, "run", die)
        with anyio.fail_after(30):
            with pytest.raises(StoreError, match="the thread of the database has ended"):
                await store.get("s1")
            with pytest.raises(JournalError, match="the database is closed"):
                await journal.find("s1")
    assert threads() == []
    assert "the thread of the database ended" in caplog.text
    monkeypatch.undo()
    async with open_sqlite(tmp_path / "relay.db"):  # it let go of the database
        pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_of_calls(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "relay.db") as (store, journal):
        session = make_session()
        await store.create(session)
        epoch = (await journal.open(session)).epoch
        for at in range(1, 100):
            batch = make_entries(2 * at - 1, 2 * at)
            reached, cancelled = await interrupt_natively(journal.append("s1", epoch, batch), at=at)
            held = list(await journal.read("s1", after=2 * at - 2, limit=10))
            assert held in ([], batch) if cancelled else held == batch
            await journal.append("s1", epoch, batch)
            later = next_version(session)
            await interrupt_natively(store.save(later, expected_version=session.version), at=at)
            assert await store.get("s1") in (session, later)
            await store.save(later, expected_version=session.version)
            session = later
            if not reached:
                return
        pytest.fail("an append is suspended a hundred times")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_of_the_block_wherever_it_waits(tmp_path: Path) -> None:
    async def block() -> None:
        async with open_sqlite(tmp_path / "relay.db") as (store, _):
            await store.get("s1")

    for at in range(1, 100):
        reached, cancelled = await interrupt_natively(block(), at=at)
        assert cancelled is reached
        assert threads() == []
        if not reached:
            return
    pytest.fail("the block is suspended a hundred times")
